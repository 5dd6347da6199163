"""What does a prompt lose that leaves out the style, the place and ground, or all of them? Known things, the demo model and its judge."""

from __future__ import annotations

from dataclasses import replace

import torch

from demo import exam, scenes

from . import two_seeds
from .likeness import SHARPNESS, sharpness
from .measure import Kept

SCALE, NUM_QUESTIONS = 3.0, 24
COLUMNS = {"thing": ".1%", "sharpness": ".2f"}
WHOLE = "whole: a 3D fox on a light green background"
FORMS = (WHOLE, "no place, no ground: a 3D fox", "no style: a fox on a light green background", "terse: a fox")


def prompt(scene: scenes.Scene, form: str) -> str:
    """A scene of one thing, described as far as the form does."""
    (item,) = scene.items
    thing = item.thing if form.startswith(("no style", "terse")) else f"{item.style} {item.thing}"
    if form.startswith(("no place", "terse")):
        return scenes.article(thing)
    place = f"{item.place} " if item.place else ""
    return f"{scenes.article(thing)} {place}on {scenes.article(scene.ground.name + ' background')}"


@torch.inference_mode()
def main(rounds: int) -> None:
    from demo import evaluate

    studio = evaluate.Studio("fp32")
    asked = two_seeds.both(exam.single_things()[:NUM_QUESTIONS])
    kept = Kept("terse", [asked, evaluate.SAMPLER, evaluate.SCHEDULE, evaluate.STEPS])

    def painted(form: str) -> list[two_seeds.Answers]:
        forms = [[replace(q, prompt=prompt(q.scene, form)) for q in part] for part in asked]
        return [two_seeds.answers(studio, part, SCALE) for part in forms]

    whole = painted(WHOLE)
    rows: dict[str, two_seeds.Row] = {}
    for form in FORMS:
        found = whole if form == WHOLE else painted(form)
        rows[form] = [
            {"thing": one.share("thing"), "sharpness": sharpness(one.pictures, first.pictures)}
            for one, first in zip(found, whole)
        ]
        print(form, two_seeds.cells(rows[form], COLUMNS), flush=True)
    lines = [
        f"The demo model in float32, {NUM_QUESTIONS} scenes of one known thing with two unseen seeds each, {evaluate.STEPS} "
        f"{evaluate.SAMPLER} steps, cfg {SCALE:g}. `thing`: the thing that was asked for, in any style; `sharpness`: {SHARPNESS}, "
        "relative to the first row's. The model learnt from captions that all name a ground, and of which a tenth name no style, "
        "as Chroma learnt from long ones. What a text leaves out, a model chooses: this says whether the thing suffers from it.",
        "",
        f"| prompt | {' | '.join(COLUMNS)} |",
        "|---|" + "---|" * len(COLUMNS),
        *(f"| {form} | {' | '.join(two_seeds.cells(row, COLUMNS))} |" for form, row in rows.items()),
        "",
        two_seeds.noise_line(list(rows.values()), COLUMNS),
    ]
    kept.write("Terse prompts", lines)
