"""What each step of training shows: which pictures at which size, with which captions. All of it follows from the step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Sequence

import numpy as np
import torch
from torch import Tensor

from . import edits, pictures, scenes, things

DROP_PROMPT = 0.1
SHAPES_SHARE, PAIR_SHARE = 0.15, 0.3  # of all batches; the rest shows one thing
NUM_EARLIER = 287  # things; of so many a processor shows each too seldom, so that later phases have fewer

Size = tuple[int, int]  # height, width in pixels


@dataclass(frozen=True)
class Phase:
    """From `first_step` on: sizes with their shares, how many things are shown, how much scenes vary, and the shares of
    batches that show coloured shapes, and edits of a picture that is shown as reference."""

    first_step: int
    sizes: dict[Size, float]
    num_things: int = NUM_EARLIER
    variety: float = 1.0
    shapes: float = SHAPES_SHARE
    edits: float = 0.0


KNOWN = things.NUM_FIRST
MOSTLY_128: dict[Size, float] = {(64, 64): 0.04, (96, 96): 0.1, (128, 128): 0.66, (96, 128): 0.1, (128, 96): 0.1}
# What words mean is learnt on small pictures, which is several times cheaper, and of things that stand still; then they
# move, and larger pictures and edits join. Where things stand has to be learnt anew at each size: a size that is shown in a
# fifth of the batches is still no good after 500 steps. Four thousand steps of 287 things at full variety left them blurred,
# so fewer things then vary less.
PHASES = (
    Phase(0, {(64, 64): 1.0}, variety=0.1),
    Phase(2000, {(64, 64): 1.0}, variety=0.5),
    Phase(3000, {(64, 64): 0.4, (96, 96): 0.3, (128, 128): 0.2, (96, 128): 0.05, (128, 96): 0.05}, edits=0.15),
    Phase(3500, {(64, 64): 0.1, (96, 96): 0.1, (128, 128): 0.5, (96, 128): 0.15, (128, 96): 0.15}, edits=0.15),
    Phase(
        7469,
        MOSTLY_128,
        KNOWN,
        variety=0.5,
        shapes=0.1,
        edits=0.15,
    ),
    Phase(
        8200,
        MOSTLY_128,
        KNOWN,
        variety=0.4,
        shapes=0.08,
        edits=0.2,
    ),
    Phase(
        20_000,
        {(64, 64): 0.1, (96, 96): 0.1, (128, 128): 0.4, (96, 128): 0.1, (128, 96): 0.1, (192, 192): 0.1}
        | {(128, 192): 0.04, (192, 128): 0.04, (256, 256): 0.02},
        KNOWN,
        edits=0.2,
    ),
)
PIXEL_PHASES = (  # of the model that works on pixels, which begins with the blocks of the other
    Phase(0, {(64, 64): 0.1, (96, 96): 0.1, (128, 128): 0.8}, KNOWN, variety=0.4, shapes=0.1),
)
PIXELS = 64 * 96 * 96  # in a batch at most; 64 pictures where that is fewer
MAX_BATCH = 64


@dataclass(frozen=True)
class Lesson:
    """images, sources: (B, H, W, 3) in [0, 1]; sources are the pictures that edits begin with, None where nothing is edited."""

    images: Tensor
    captions: list[str]
    sources: Tensor | None = None


def phase_of(step: int, phases: Sequence[Phase] = PHASES) -> Phase:
    return [phase for phase in phases if phase.first_step <= step][-1]


@lru_cache(maxsize=1)
def shape_scenes() -> list[pictures.Scene]:
    return [s for s in pictures.all_scenes() if not pictures.is_held_out(s.combinations()[0])]


def random_shapes(rng: np.random.Generator) -> pictures.Scene:
    """Coloured shapes, never a combination that is held out; a third of them in pairs."""
    if rng.random() < PAIR_SHARE:
        while True:
            scene = pictures.random_pair(rng)
            if not any(pictures.is_held_out(c) for c in scene.combinations()):
                return scene
    return shape_scenes()[rng.integers(len(shape_scenes()))]


def size_of(step: int, phases: Sequence[Phase] = PHASES) -> Size:
    """The size of this step's pictures."""
    sizes = phase_of(step, phases).sizes
    shares = np.array(list(sizes.values()))
    return list(sizes)[np.random.default_rng([4, step]).choice(len(shares), p=shares / shares.sum())]


def common_size(step: int, phases: Sequence[Phase] = PHASES) -> Size:
    """The largest square that is not rare in this phase; what a contact sheet shows."""
    return max(size for size, share in phase_of(step, phases).sizes.items() if size[0] == size[1] and share > 0.15)


def lesson(step: int, sprites: things.Sprites, phases: Sequence[Phase] = PHASES) -> Lesson:
    """The batch of this step: one size and one kind of scene, since captions of one kind are about as long."""
    rng = np.random.default_rng([2, step])
    height, width = size_of(step, phases)
    batch = min(MAX_BATCH, PIXELS // (height * width))
    kind, phase, sources = rng.random(), phase_of(step, phases), None
    if kind < phase.shapes and height == width:  # shapes are drawn in squares
        found = [random_shapes(rng) for _ in range(batch)]
        images = torch.from_numpy(np.stack([pictures.draw(scene, rng, height) for scene in found]))
        captions = [pictures.prompts(scene)[int(rng.integers(2))] for scene in found]
    else:
        names = sprites.names[: phase.num_things]
        if kind >= 1 - phase.edits:
            asked = [edits.random_edit(rng, names) for _ in range(batch)]
            sources = scenes.draw([edit.before for edit in asked], sprites, height, width)
            found, captions = [edit.after for edit in asked], [edit.instruction for edit in asked]
        elif kind < phase.shapes + PAIR_SHARE * phase.variety:
            found = [scenes.random_pair(rng, names) for _ in range(batch)]
            captions = [scenes.caption(scene, rng) for scene in found]
        else:
            found = [scenes.random_single(rng, names, variety=phase.variety) for _ in range(batch)]
            captions = [scenes.caption(scene, rng) for scene in found]
        images = scenes.draw(found, sprites, height, width)
    return Lesson(images, ["" if rng.random() < DROP_PROMPT else caption for caption in captions], sources)
