"""What do the choices of quality paint and cost beside the preset that they come from? Chroma1-HD's, on the demo model."""

from __future__ import annotations

import statistics

import torch

from demo import exam

from . import likeness, two_seeds
from .measure import Kept, alternate
from .painter import Painter, Painting, Setting

ROW, CFG = "Chroma1-HD", 3.0  # cfg of the demo model
NUM_QUESTIONS, TIMED_QUESTIONS = 50, 4
EXACT = Setting(100, CFG, "chroma_res_2m", "beta", {"alpha": 0.6, "beta": 0.6})
COLUMNS = {
    "prompts": ".0f",
    "distance": ".4f",
    **likeness.COLUMNS,
    **dict.fromkeys(exam.VERDICTS, ".1%"),
}
PRESET = "the preset"


def settings() -> dict[str, Setting]:
    """The preset, and each choice that is for every checkpoint."""
    import dev

    presets = dev.load_pack("advice.presets")
    names = {PRESET: None, **{name: name for name, how in presets.CHOICES.items() if not how.only_few}}
    found = {name: presets.of_choice(ROW, choice) for name, choice in names.items()}
    return {name: Setting(p.steps, CFG, p.sampler, p.curve, p.params) for name, p in found.items()}


def figures(found: Painting, first: Painting, exact: Painting) -> dict[str, float]:
    answers = two_seeds.Answers(found.pictures, found.verdicts)
    shares = {name: answers.share(name) for name in exam.VERDICTS}
    likes = {} if found is first else likeness.figures(found.pictures, first.pictures)
    return {"prompts": found.forwards, "distance": found.distance(exact), **likes, **shares}


@torch.inference_mode()
def main(rounds: int) -> None:
    from demo import evaluate

    painter = Painter(evaluate.Studio("fp32"), exam.mixed(NUM_QUESTIONS))  # Studio finds the host
    painter.warm_up()
    kept = Kept("choices", [painter.asked, EXACT])
    asked = settings()
    exact, first = (painter.paint_once(kept, s) for s in (EXACT, asked[PRESET]))
    rows: dict[str, two_seeds.Row] = {}
    for name, s in asked.items():
        painted = first if name == PRESET else painter.paint_once(kept, s)
        rows[name] = [figures(*three) for three in zip(painted, first, exact)]
        print(name, two_seeds.cells(rows[name], COLUMNS), flush=True)
    few = painter.asked[0][:TIMED_QUESTIONS]
    seconds = alternate({name: lambda s=s: painter.paint_one(s, few) for name, s in asked.items()}, rounds)
    times = {
        name: statistics.median(base / one for one, base in zip(values, seconds[PRESET]))
        for name, values in seconds.items()
    }
    lines = [
        f"The demo model in float32, {NUM_QUESTIONS} prompts {two_seeds.ASKED}, with two unseen seeds each, cfg {CFG:g}; steps, "
        f"sampler and schedule as {ROW}'s preset has them, and as each choice of quality makes them. `prompts`: computed for a "
        f"picture; `distance`: of the latent to that of {EXACT.steps} steps of {EXACT.sampler}, relative, mean; "
        f"{likeness.TOLD}; `place`: where it was asked for; {two_seeds.TOLD}. `times as fast`: than the preset, "
        f"median of {rounds} alternating rounds of {TIMED_QUESTIONS} pictures with decoding. {two_seeds.CAVEAT}.",
        "",
        f"| | steps | sampler | times as fast | {' | '.join(COLUMNS)} |",
        "|---|---|---|---|" + "---|" * len(COLUMNS),
        *(
            f"| {name} | {s.steps} | {s.sampler} | {times[name]:.2f} | {' | '.join(two_seeds.cells(rows[name], COLUMNS))} |"
            for name, s in asked.items()
        ),
        "",
        two_seeds.noise_line([rows[name] for name in asked if name != PRESET], COLUMNS),
    ]
    kept.write("Choices of quality beside the preset", lines)
