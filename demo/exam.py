"""What a demo model is asked, and whether a picture answers: shapes by their pixels, things and styles by the classifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import classifier, edits, judge, judge_things, pictures, scenes, things

FIRST_SEED = 1_000_000  # training draws its noise elsewhere
JUDGE = Path(__file__).parent / "weights" / "chroma-demo-judge.safetensors"
NUM_HELD_OUT, NUM_OTHERS, NUM_PAIRS, NUM_EDITS = 100, 100, 40, 40


@dataclass(frozen=True)
class Question:
    """before: for an edit, the scene that is painted first and shown as reference; `prompt` is then the instruction."""

    prompt: str
    seed: int
    scene: pictures.Scene | scenes.Scene
    before: scenes.Scene | None = None

    @property
    def is_held_out(self) -> bool:
        """Whether training never showed this combination of colour, shape and ground, or this thing in this style."""
        if isinstance(self.scene, scenes.Scene):
            return self.scene.is_held_out()
        return any(pictures.is_held_out(c) for c in self.scene.combinations())

    def verdict(self, picture: np.ndarray) -> dict[str, bool]:
        """What of the scene the picture, (H, W, 3) in [0, 1], shows; `right`: all that the bar asks for.

        Of shapes: colour, background, shape, place; right without the place. Of things: thing, style, ground, place.
        """
        if isinstance(self.scene, pictures.Scene):
            return judge.score(picture, self.scene)
        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
        (found,) = judge_things.verdicts(image, [self.scene], *judge_of_things())
        return {**found, "right": found["thing"] and found["style"] and found["ground"]}


@lru_cache(maxsize=1)
def judge_of_things() -> tuple[Any, list[str]]:
    return classifier.load(JUDGE)


def shapes() -> list[Question]:
    """One coloured shape: NUM_HELD_OUT combinations held out of training, then NUM_OTHERS others."""
    rng = np.random.default_rng(99)
    everything = pictures.all_scenes()
    held_out = [s for s in everything if pictures.is_held_out(s.combinations()[0])]
    others = [s for s in everything if not pictures.is_held_out(s.combinations()[0])]
    found = [held_out[i] for i in rng.permutation(len(held_out))[:NUM_HELD_OUT]]
    found += [others[i] for i in rng.permutation(len(others))[:NUM_OTHERS]]
    return _about_shapes(found)


def shape_pairs() -> list[Question]:
    """Two shapes in their places."""
    rng = np.random.default_rng(99)
    return _about_shapes([pictures.random_pair(rng) for _ in range(NUM_PAIRS)])


def _about_shapes(found: list[pictures.Scene]) -> list[Question]:
    """Half of them as a sentence and half as tags, whichever of them are taken."""
    forms = np.random.default_rng(96).integers(2, size=len(found))
    return [Question(pictures.prompts(s)[forms[i]], FIRST_SEED + i, s) for i, s in enumerate(found)]


def single_things() -> list[Question]:
    """One thing: NUM_OTHERS of (thing, style) that training showed, then NUM_HELD_OUT of those held out."""
    rng, names = np.random.default_rng(98), things.names()[: things.NUM_FIRST]
    found = [scenes.random_single(rng, names) for _ in range(NUM_OTHERS)]
    found += [scenes.random_single(rng, names, held_out=True) for _ in range(NUM_HELD_OUT)]
    return [Question(scenes.caption(s), FIRST_SEED + i, s) for i, s in enumerate(found)]


def thing_pairs() -> list[Question]:
    """Two things in their places."""
    rng, names = np.random.default_rng(97), things.names()[: things.NUM_FIRST]
    return [
        Question(scenes.caption(s), FIRST_SEED + i, s)
        for i, s in enumerate(scenes.random_pair(rng, names) for _ in range(NUM_PAIRS))
    ]


def thing_edits() -> list[Question]:
    """Of things: in another style, on another ground, moved, or with a second thing beside; each kind as often."""
    rng, names = np.random.default_rng(95), things.names()[: things.NUM_FIRST]
    kinds = list(edits.KINDS.values())
    made = [kinds[i % len(kinds)](rng, names) for i in range(NUM_EDITS)]
    return [Question(e.instruction, FIRST_SEED + i, e.after, e.before) for i, e in enumerate(made)]
