"""What do the presets' settings do on the demo model, and what does a curve do to 8 steps? Pictures and the judge."""

from __future__ import annotations

import math
from typing import Any, Mapping, Sequence

import numpy as np
import torch

from . import two_seeds
from .likeness import SHARPNESS, psnr
from .measure import RESULTS, Kept
from .painter import Painter, Painting, Setting

CFG = 3.0  # of the demo model
NUM_QUESTIONS = 24
FEW = 8
HOST_SHIFT = math.exp(1.15)  # what ComfyUI gives Chroma
EXACT = Setting(100, CFG, "chroma_res_2m", "linear")  # of the pictures that the others are compared with
SHOWN = 8  # pictures of each row of the sheet
SHEET = "presets_8_steps.png"
ANOTHER_MODEL = ("FLUX.1 dev", "FLUX.1 schnell")
COST = {"evaluations of the model a picture": ".0f", **two_seeds.SHARES}
LIKENESS = {"PSNR, dB": ".1f", "sharpness": ".2f", **two_seeds.SHARES}
BY_CURVE = (
    *(Setting(FEW, CFG, "euler", name, shift=HOST_SHIFT) for name in ("simple", "sgm_uniform", "normal", "beta")),
    *(Setting(FEW, CFG, "euler", name) for name in ("simple", "normal", "beta", "sigmoid_offset", "bong_tangent")),
    *(Setting(FEW, CFG, "euler", "beta", {"alpha": n, "beta": n}) for n in (0.4, 0.45)),
    Setting(FEW, CFG, "res_multistep", "beta"),
    Setting(FEW, CFG, "chroma_res_2m", "beta"),
    Setting(FEW, CFG, "chroma_sigma_2m", "beta"),
    Setting(FEW // 2, CFG, "heun", "beta"),
)


def settings_of(presets: Mapping[str, Any]) -> list[tuple[str, Setting]]:
    """(name, setting) of the presets, and of what their pages name beside."""
    hd = presets["Chroma1-HD"]
    return [
        *(
            (name, Setting(p.steps, p.cfg, p.sampler, p.curve, p.params))
            for name, p in presets.items()
            if name not in ANOTHER_MODEL
        ),
        ("Chroma1-HD, also", Setting(hd.steps, hd.cfg, "res_multistep", hd.curve, hd.params)),
        ("Chroma1-HD, quality, also", Setting(35, hd.cfg, "chroma_res_2m", "bong_tangent")),
        ("Chroma1-HD, quality, also", Setting(35, hd.cfg, "chroma_res_2m", "sigmoid_offset")),
        ("Chroma1-Flash, also", Setting(16, 1.0, "res_multistep", "beta", {"alpha": 0.6, "beta": 0.6})),
    ]


def costs(found: Painting) -> dict[str, float]:
    return {"evaluations of the model a picture": found.forwards, **found.shares()}


def likes(found: Painting, exact: Painting) -> dict[str, float]:
    ratio = float(np.median([psnr(a, b) for a, b in zip(found.pictures, exact.pictures)]))
    return {"PSNR, dB": ratio, "sharpness": found.sharpness(exact), **found.shares()}


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate, exam

    painter = Painter(evaluate.Studio("fp32"), exam.mixed(NUM_QUESTIONS))  # Studio finds the host
    painter.warm_up()
    kept = Kept("presets", [painter.asked, EXACT])
    lines = [
        f"The demo model in float32 at its own 128 x 128 pixels, {NUM_QUESTIONS} prompts {two_seeds.ASKED}, with two unseen "
        f"seeds each. {two_seeds.TOLD}. {two_seeds.CAVEAT}; the settings of Flash are run here on a model that has no Flash in it.",
        "",
        "## The presets' settings",
        "",
        f"| preset | steps | cfg | sampler | schedule | shift | {' | '.join(COST)} |",
        "|---|---|---|---|---|---|" + "---|" * len(COST),
    ]
    rows: dict[str, two_seeds.Row] = {}
    for name, s in settings_of(dev.load_pack("advice.presets").PRESETS):
        row = rows[str(s)] = kept.row(["cost", s], lambda s=s: [costs(one) for one in painter.paint_all(s)])
        cells = " | ".join(two_seeds.cells(row, COST))
        lines.append(f"| {name} | {s.steps} | {s.cfg:g} | {s.sampler} | {s.text()} | {cells} |")
        print(lines[-1], flush=True)
    lines += ["", two_seeds.noise_line(list(rows.values()), COST), "", *few_steps(painter, kept)]
    kept.write("Presets on the demo model, and 8 steps by curve", lines)


def few_steps(painter: Painter, kept: Kept) -> list[str]:
    """8 Euler steps of each schedule against the exact solution from the same noise; writes the sheet of pictures."""
    exact = painter.paint_once(kept, EXACT)
    right = np.mean([one.shares()["right"] for one in exact])
    lines = [
        f"## {FEW} Euler steps at cfg {CFG:g}, by schedule and shift",
        "",
        f"`last`: the noise level from which the last step goes to 0. `PSNR`: median against {EXACT.steps} steps of "
        f"{EXACT.sampler} from the same noise, which are {right:.1%} right. `sharpness`: {SHARPNESS}, relative to those.",
        "",
        f"| schedule | shift | last | {' | '.join(LIKENESS)} |",
        "|---|---|---|" + "---|" * len(LIKENESS),
    ]
    rows: list[two_seeds.Row] = []
    sheet = [exact[0].pictures[:SHOWN]]
    for s in BY_CURVE:
        painted = painter.paint_once(kept, s)
        sheet.append(painted[0].pictures[:SHOWN])
        rows.append([likes(*pair) for pair in zip(painted, exact)])
        other = "" if (s.sampler, s.steps) == ("euler", FEW) else f", {s.steps} steps of {s.sampler}"
        cells = " | ".join(two_seeds.cells(rows[-1], LIKENESS))
        lines.append(f"| {s.text().replace(' |', other + ' |', 1)} | {float(painter.sigmas(s)[-2]):.3f} | {cells} |")
        print(lines[-1], flush=True)
    save(sheet)
    lines += ["", two_seeds.noise_line(rows, LIKENESS)]
    return [*lines, "", f"Pictures, the exact ones first and then row by row: [{SHEET}]({SHEET})."]


def save(rows: Sequence[np.ndarray]) -> None:
    from PIL import Image

    RESULTS.mkdir(exist_ok=True)
    image = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    Image.fromarray((image * 255).round().astype(np.uint8)).save(RESULTS / SHEET, optimize=True)
