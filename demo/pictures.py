"""The demo model's world: coloured shapes on coloured grounds, and the sentences that describe them.

A scene is drawn from signed distances, so edges are smooth at any size. Everything is a function of the random
generator that is handed in.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Callable

import numpy as np

PICTURE_SIZE = 128  # pixels a side
EDGE = 1.0  # width of the smoothed edge in pixels
COLOUR_JITTER = 6  # of 255, uniform, per channel
PLACE_JITTER, RADIUS_JITTER = 0.015, 0.03  # of the picture, of the radius

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "orange": (245, 140, 25),
    "yellow": (250, 222, 60),
    "green": (50, 160, 70),
    "blue": (40, 90, 205),
    "purple": (135, 60, 175),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
SIZES: dict[str, float] = {"small": 0.17, "": 0.23, "large": 0.30}  # radius as a share of the picture
PLACES: dict[str, tuple[int, int]] = {  # direction (column, row) from the centre
    "": (0, 0),
    "on the left": (-1, 0),
    "on the right": (1, 0),
    "at the top": (0, -1),
    "at the bottom": (0, 1),
}
PAIR_RADIUS = 0.19
PAIR_PLACES = (("on the left", "on the right"), ("at the top", "at the bottom"))
HELD_OUT_SHARE = 0.1  # of all (colour, shape, background), never shown in training


def circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1.0


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.88


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    sides = np.abs(x) * np.sqrt(0.75) - (y + 1.0) * 0.5  # y grows downwards, apex at (0, -1)
    return np.maximum(sides, y - 0.75)


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(u - 0.98, v - 0.34), np.maximum(u - 0.34, v - 0.98))


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "cross": cross,
}  # signed distance in units of the radius, negative inside


@dataclass(frozen=True)
class Thing:
    size: str
    colour: str
    shape: str
    place: str

    def phrase(self) -> str:
        return " ".join(w for w in (self.size, self.colour, self.shape) if w)


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    background: str

    def combinations(self) -> list[tuple[str, str, str]]:
        return [(t.colour, t.shape, self.background) for t in self.things]


def is_held_out(combination: tuple[str, str, str]) -> bool:
    """Whether this (colour, shape, background) is kept out of training; fixed for ever by a checksum."""
    return zlib.crc32("/".join(combination).encode()) % 1000 < 1000 * HELD_OUT_SHARE


def all_scenes() -> list[Scene]:
    """Every scene with one thing in it, in a fixed order."""
    return [
        Scene((Thing(size, colour, shape, place),), background)
        for size in SIZES
        for colour in COLOURS
        for shape in SHAPES
        for place in PLACES
        for background in COLOURS
        if background != colour
    ]


def random_pair(rng: np.random.Generator) -> Scene:
    """A scene with two things of different colours."""
    background, first, second = (str(c) for c in rng.choice(list(COLOURS), size=3, replace=False))
    shapes = [str(s) for s in rng.choice(list(SHAPES), size=2)]
    places = PAIR_PLACES[int(rng.integers(2))]
    return Scene((Thing("", first, shapes[0], places[0]), Thing("", second, shapes[1], places[1])), background)


def prompts(scene: Scene) -> tuple[str, str]:
    """The sentence and the list of tags that describe a scene."""
    sentence = " and ".join(" ".join(w for w in ("a", t.phrase(), t.place) if w) for t in scene.things)
    tags = ", ".join(w for t in scene.things for w in (t.phrase(), t.place) if w)
    return f"{sentence} on a {scene.background} background", f"{tags}, {scene.background} background"


def draw(scene: Scene, rng: np.random.Generator, size: int = PICTURE_SIZE) -> np.ndarray:
    """A picture of the scene, (size, size, 3) float32 in [0, 1]; colour, place and radius vary a little."""
    picture = np.broadcast_to(_shade(scene.background, rng), (size, size, 3)).copy()
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32) + 0.5
    for thing in scene.things:
        pair = len(scene.things) > 1
        radius = size * (PAIR_RADIUS if pair else SIZES[thing.size]) * rng.uniform(1 - RADIUS_JITTER, 1 + RADIUS_JITTER)
        reach = 0.24 * size if pair else 0.45 * size - radius
        offset = np.array(PLACES[thing.place]) * reach + rng.uniform(-PLACE_JITTER, PLACE_JITTER, size=2) * size
        x, y = (columns - size / 2 - offset[0]) / radius, (rows - size / 2 - offset[1]) / radius
        cover = np.clip(0.5 - SHAPES[thing.shape](x, y) * radius / EDGE, 0.0, 1.0)[..., None]
        picture += cover * (_shade(thing.colour, rng) - picture)
    return picture.astype(np.float32)


def _shade(colour: str, rng: np.random.Generator) -> np.ndarray:
    shade = np.array(COLOURS[colour]) + rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, size=3)
    return np.clip(shade, 0, 255).astype(np.float32) / 255
