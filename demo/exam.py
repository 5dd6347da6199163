"""What a demo model is asked, and whether a picture answers: shapes by their pixels, things and styles by the classifier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from . import classifier, edits, judge, judge_things, pictures, scenes, things

FIRST_SEED = 1_000_000  # training draws its noise elsewhere
JUDGE = Path(__file__).parent / "weights" / "chroma-demo-judge.safetensors"
NUM_HELD_OUT, NUM_OTHERS, NUM_PAIRS, NUM_EDITS = 100, 100, 40, 40
MIXED = (12, 5, 5, 2)  # of 24: known things, (thing, style) held out, pairs of things, coloured shapes
VERDICTS = ("thing", "style", "ground", "place", "right")


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
        """Under VERDICTS what of the scene the picture, (H, W, 3) in [0, 1], shows; `right`: thing, style and ground.

        A coloured shape is the thing, and its colour the style.
        """
        if isinstance(self.scene, pictures.Scene):
            found = judge.score(picture, self.scene)
            names = dict(zip(VERDICTS, ("shape", "colour", "background", "place", "right")))
            return {ours: found[name] for ours, name in names.items()}
        image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
        (found,) = judge_things.verdicts(image, [self.scene], *judge_of_things())
        return {**found, "right": found["thing"] and found["style"] and found["ground"]}

    def real(self, sprites: things.Sprites | None) -> np.ndarray:
        """The picture of the scene as training would draw it, (H, W, 3) in [0, 1]; shapes need no sprites."""
        if isinstance(self.scene, pictures.Scene):
            return pictures.draw(self.scene, np.random.default_rng(self.seed))
        return scenes.draw([self.scene], sprites, pictures.PICTURE_SIZE, pictures.PICTURE_SIZE)[0].numpy()


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


def edits_of(kind: str) -> list[Question]:
    """Those of `thing_edits` of one of edits.KINDS."""
    kinds = list(edits.KINDS)
    return thing_edits()[kinds.index(kind) :: len(kinds)]


def mixed(count: int) -> list[Question]:
    """What tables of pictures ask: known things, held-out ones, pairs and shapes in the shares of MIXED; no edits.

    Styles take turns, and among shapes those that training showed and those that are held out.
    """
    singles = single_things()
    kinds = [
        *(
            _in_turns(asked, lambda q: q.scene.items[0].style)
            for asked in (singles[:NUM_OTHERS], singles[NUM_OTHERS:], thing_pairs())
        ),
        _in_turns(shapes(), lambda q: q.is_held_out),
    ]
    exact = [count * share / sum(MIXED) for share in MIXED]
    counts = [int(n) for n in exact]
    for i in sorted(range(len(counts)), key=lambda i: counts[i] - exact[i])[
        : count - sum(counts)
    ]:  # largest rest first
        counts[i] += 1
    found = [question for asked, n in zip(kinds, counts) for question in asked[:n]]
    return [replace(question, seed=FIRST_SEED + i) for i, question in enumerate(found)]


def _in_turns(asked: list[Question], key: Callable[[Question], Any]) -> list[Question]:
    """One of each kind, then another of each, as long as all have one."""
    groups: dict[Any, list[Question]] = {}
    for question in asked:
        groups.setdefault(key(question), []).append(question)
    return [question for turn in zip(*(groups[k] for k in sorted(groups))) for question in turn]
