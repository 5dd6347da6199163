"""Does the demo model paint what the prompt says, and does CFG help? Judged in the real host: shapes by their pixels, things by
the classifier."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from . import two_seeds
from .measure import Kept

SCALES, EDIT_SCALES = (1.0, 2.0, 3.0, 5.0), (3.0,)
PIXEL_SCALES = (1.0, 3.0)  # of the Radiance, which learnt no edits
OF_LISTS = {"shapes": 4, "things": 2, "pairs": 2}  # of the exam's questions one of so many is asked
COLUMNS = {
    **dict.fromkeys(("right", "thing", "style", "ground", "place", "right of right sources"), ".1%"),
    "sharpness": ".2f",
}
NO_SPRITES = " Here the sprites are not in the cache, so that `sharpness` of things is left empty; `python -m demo.things` fetches them."


def kinds() -> dict[str, tuple[list[Any], tuple[float, ...]]]:
    """Name of the row -> its questions, and the scales of CFG that they are asked at."""
    from demo import edits, exam

    singles = exam.single_things()
    known, held_out = singles[: exam.NUM_OTHERS], singles[exam.NUM_OTHERS :]
    return {
        "one shape": (exam.shapes()[:: OF_LISTS["shapes"]], SCALES),
        "two shapes": (exam.shape_pairs()[:: OF_LISTS["pairs"]], SCALES),
        "one thing": (known[:: OF_LISTS["things"]], SCALES),
        "one thing, style held out": (held_out[:: OF_LISTS["things"]], SCALES),
        "two things": (exam.thing_pairs()[:: OF_LISTS["pairs"]], SCALES),
        **{f"edit of {kind}": (exam.edits_of(kind), EDIT_SCALES) for kind in edits.KINDS},
    }


def asked_of_pixels() -> dict[str, tuple[list[Any], tuple[float, ...]]]:
    """The same for the Radiance."""
    return {f"Radiance: {name}": (asked, PIXEL_SCALES) for name, (asked, scales) in kinds().items() if scales == SCALES}


def figures(scores: dict[str, Any]) -> dict[str, float]:
    return {name: scores["right_of_right" if name == "right of right sources" else name] for name in COLUMNS}


@torch.inference_mode()  # a quantised model is loaded in it too
def main(rounds: int) -> None:
    from demo import evaluate, exam, things

    sprites = things.kept()
    lines = [
        f"{evaluate.STEPS} {evaluate.SAMPLER} steps, schedule {evaluate.SCHEDULE}, shift {evaluate.SHIFT:g}, 128 x 128 pixels; so many "
        "prompts with two unseen seeds each. Half of the shapes are combinations of colour, shape and ground that training never "
        "showed. `right`: thing, style and ground, of two things each where it should be; a shape is the thing, and its colour the "
        f"style. Edits begin with a picture that the model has painted at CFG {evaluate.SOURCE_CFG:g}; `right of right sources`: of "
        "those whose source is itself right. `sharpness`: share of fine detail in all that varies, relative to that in real "
        f"pictures of the same scenes.{'' if sprites else NO_SPRITES} Below, the demo's Radiance (`{evaluate.RADIANCE}`), whose "
        "picture is its latent.",
        "",
        f"| prompts | CFG | {' | '.join(COLUMNS)} |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    common = [evaluate.STEPS, evaluate.SAMPLER, evaluate.SCHEDULE, evaluate.SHIFT, evaluate.SOURCE_CFG, bool(sprites)]
    kept, rows = Kept("judge", common), []
    pixels = hashlib.sha256(exam.JUDGE.with_name(evaluate.RADIANCE).read_bytes()).hexdigest()
    for file, questions, more in ((evaluate.MODEL, kinds(), []), (evaluate.RADIANCE, asked_of_pixels(), [pixels])):
        studio = evaluate.Studio(file=file)
        for name, (asked, scales) in questions.items():
            parts = two_seeds.both(asked)
            for scale in scales:
                row = kept.row(
                    [parts, scale, *more],
                    lambda studio=studio, parts=parts, scale=scale: [
                        figures(evaluate.scores(studio, part, scale, sprites=sprites)) for part in parts
                    ],
                )
                rows.append(row)
                lines.append(f"| {name} ({len(asked)}) | {scale:g} | {' | '.join(two_seeds.cells(row, COLUMNS))} |")
                print(lines[-1], flush=True)
    lines += ["", two_seeds.noise_line(rows, COLUMNS)]
    kept.write("What the demo model paints", lines)
