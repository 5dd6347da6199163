"""What does the demo paint in 6 steps at cfg 1, without and with the LoRA that `demo.distil_flash` makes?"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

import dev

from . import two_seeds
from .likeness import SHARPNESS
from .measure import Kept
from .painter import Painter, Painting, Setting

NUM_QUESTIONS, CFG = 24, 3.0
FIGURES = {"forwards": ".0f", "CPU seconds": ".2f"}
COLUMNS = {**FIGURES, "sharpness": ".2f", **dict.fromkeys(("thing", "style", "ground", "right"), ".1%")}


def lora_file() -> Path | None:
    """Among the demo's weights, else where `demo.distil_flash` leaves it."""
    from demo import distil_flash, things

    places = dev.ROOT / "demo" / "weights", things.folder() / "flash"
    return next((path for folder in places if (path := folder / distil_flash.FILE).is_file()), None)


def figures(found: Painting, first: Painting | None) -> dict[str, float]:
    """What COLUMNS tell of one seed. first: that of the first row, for the others."""
    answers = two_seeds.Answers(found.pictures, found.verdicts)
    shares = {name: answers.share(name) for name in COLUMNS if name in ("thing", "style", "ground", "right")}
    sharp = {} if first is None else {"sharpness": found.sharpness(first)}
    return dict(zip(FIGURES, (found.forwards, found.seconds))) | sharp | shares


@torch.inference_mode()
def main(rounds: int) -> None:
    from demo import distil_flash, evaluate, exam

    path = lora_file()
    if path is None:
        print(f"flash: there is no {distil_flash.FILE}. `python -m demo.distil_flash` makes it; no table is written")
        return
    painter = Painter(evaluate.Studio("fp32"), exam.mixed(NUM_QUESTIONS))
    painter.warm_up()
    plain = painter.base
    with_lora, _ = dev.load_pack("host.model.lora").apply_lora(plain, path, 1.0)
    long = Setting(evaluate.STEPS, CFG, "euler", "beta", {"alpha": 0.6, "beta": 0.6})
    short = Setting(distil_flash.STEPS, 1.0, "euler", distil_flash.SCHEDULE, distil_flash.BETA)
    kept = Kept("flash", [painter.asked, hashlib.sha256(path.read_bytes()).hexdigest()])
    first = painter.paint_once(kept, long)

    def measured(model: object) -> list[dict[str, float]]:
        painter.base = model
        return [figures(*pair) for pair in zip(painter.paint_all(short), first)]

    rows = {f"{long.steps} steps, cfg {long.cfg:g}": [figures(one, None) for one in first]}
    for name, model in (("without LoRA", plain), ("with it", with_lora)):
        rows[f"{short.steps} steps, cfg {short.cfg:g}, {name}"] = kept.row([name, short], lambda m=model: measured(m))
    lines = [
        f"The demo model in float32, {NUM_QUESTIONS} prompts {two_seeds.ASKED}, with two unseen seeds each; euler, {long.steps} steps of "
        f"{long.schedule_text()}, {short.steps} of {short.schedule_text()}. The LoRA is `{path.name}`. "
        "`forwards`: prompts computed for a picture; `CPU seconds`: for a picture, with decoding; "
        f"`sharpness`: {SHARPNESS}, relative to the first row's; {two_seeds.TOLD}. {two_seeds.CAVEAT}.",
        "",
        f"| | {' | '.join(COLUMNS)} |",
        "|---|" + "---|" * len(COLUMNS),
        *(f"| {name} | {' | '.join(two_seeds.cells(row, COLUMNS))} |" for name, row in rows.items()),
        "",
        two_seeds.noise_line(list(rows.values()), COLUMNS),
    ]
    kept.write("Few steps without guidance, by a LoRA", lines)
