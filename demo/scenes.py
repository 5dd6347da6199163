"""Scenes of named things on coloured grounds: what stands where, the sentence that says so, and the picture.

A scene holds every number that its picture depends on, so that a changed copy (another style, place or ground) is the
same picture but for the change. Everything is a function of the random generator that is handed in.
Shapes: B batch, H rows, W columns.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch
from torch import Tensor

from . import pictures, things

GROUNDS: dict[str, tuple[int, int, int]] = {
    **pictures.COLOURS,
    "pink": (250, 175, 205),
    "grey": (150, 152, 156),
    "brown": (130, 84, 52),
    "light blue": (165, 212, 248),
    "light green": (178, 228, 160),
}
COLOUR_JITTER = 8  # of 255, uniform, per channel
GRADIENT_SHARE, MAX_GRADIENT = 0.4, 0.06  # brightness at the ends of a gradient, plus and minus
MAX_TURN = 20.0  # degrees
LIGHT, TINT = 0.1, 0.04  # brightness and contrast, and every channel, by up to this much
CENTRE_SIZES, PLACED_SIZES, PAIR_SIZES = (0.4, 0.95), (0.4, 0.6), (0.34, 0.48)  # of the picture's shorter side
PLAIN_SIZE = 0.85  # of a thing in the centre, where scenes do not vary
SMALL, LARGE = 0.5, 0.8  # sizes of a thing in the centre below and above which it may be called so
PLACE_JITTER = 0.05  # of the picture, in the direction that the place leaves open
PAIR_OFFSET, PAIR_JITTER = 0.25, 0.02
CENTRE_SHARE = 0.5  # of scenes with one thing
WITHOUT_STYLE, WITH_SIZE = 0.1, 0.5  # shares of captions
FORMS, FORM_SHARES = ("sentence", "short", "tags"), (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class Item:
    thing: str
    style: str
    place: str  # a key of pictures.PLACES
    column: float  # of the centre, as a share of the picture's width
    row: float
    size: float  # longest side, as a share of the picture's shorter side
    turn: float  # degrees
    mirror: bool
    light: tuple[float, float, float, float]  # contrast, then gains of red, green, blue


@dataclass(frozen=True)
class Ground:
    name: str  # a key of GROUNDS
    colour: tuple[float, float, float]
    gradient: float  # brightness added at one end, taken away at the other
    angle: float  # of the gradient, radians


@dataclass(frozen=True)
class Scene:
    items: tuple[Item, ...]
    ground: Ground

    def is_held_out(self) -> bool:
        return any(things.is_held_out(item.thing, item.style) for item in self.items)


def random_ground(rng: np.random.Generator, name: str | None = None) -> Ground:
    name = name or list(GROUNDS)[rng.integers(len(GROUNDS))]
    colour = (np.array(GROUNDS[name]) + rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, 3)).clip(0, 255) / 255
    gradient = rng.uniform(0, MAX_GRADIENT) * (rng.random() < GRADIENT_SHARE)
    return Ground(name, tuple(colour.tolist()), float(gradient), float(rng.uniform(0, 2 * math.pi)))


def random_item(
    rng: np.random.Generator,
    thing: str,
    style: str,
    place: str = "",
    sizes: tuple[float, float] | None = None,
    variety: float = 1.0,
) -> Item:
    """One thing alone in the picture; `sizes` as in CENTRE_SIZES, `variety` as in `random_single`."""
    size = rng.uniform(*(sizes or (PLACED_SIZES if place else CENTRE_SIZES)))
    size = size if place else PLAIN_SIZE + (size - PLAIN_SIZE) * variety
    reach = 0.48 - size / 2
    centre = [
        0.5 + (direction * rng.uniform(0.8, 1.0) * reach if direction else rng.uniform(-PLACE_JITTER, PLACE_JITTER))
        for direction in pictures.PLACES[place]
    ]
    item = _item(rng, thing, style, place, centre, size)
    light = tuple(1 + (gain - 1) * variety for gain in item.light)
    return dataclasses.replace(item, turn=item.turn * variety, mirror=item.mirror and variety == 1, light=light)


def _item(rng: np.random.Generator, thing: str, style: str, place: str, centre: Sequence[float], size: float) -> Item:
    gains = (1 + rng.uniform(-LIGHT, LIGHT)) * (1 + rng.uniform(-TINT, TINT, 3))
    return Item(
        thing,
        style,
        place,
        float(centre[0]),
        float(centre[1]),
        float(size),
        float(rng.uniform(-MAX_TURN, MAX_TURN)),
        bool(rng.random() < 0.5),
        (float(1 + rng.uniform(-LIGHT, LIGHT)), *gains.tolist()),
    )


def random_kind(rng: np.random.Generator, names: Sequence[str], held_out: bool | None = False) -> tuple[str, str]:
    """A (thing, style) that is held out of training, or one that is not, or (None) any."""
    while True:
        thing, style = names[rng.integers(len(names))], things.STYLES[rng.integers(len(things.STYLES))]
        if held_out is None or things.is_held_out(thing, style) == held_out:
            return thing, style


def random_single(
    rng: np.random.Generator, names: Sequence[str], held_out: bool | None = False, variety: float = 1.0
) -> Scene:
    """One thing. Its place, size, turn and light vary by this share of what they may: at 0 it is always the same."""
    places = [p for p in pictures.PLACES if p]
    place = "" if rng.random() < 1 - (1 - CENTRE_SHARE) * variety else places[rng.integers(len(places))]
    kind = random_kind(rng, names, held_out)
    return Scene((random_item(rng, *kind, place, variety=variety),), random_ground(rng))


def random_pair(rng: np.random.Generator, names: Sequence[str], held_out: bool | None = False) -> Scene:
    """Two different things beside each other."""
    first = second = random_kind(rng, names, held_out)
    while first[0] == second[0]:
        second = random_kind(rng, names, held_out)
    places = pictures.PAIR_PLACES[rng.integers(len(pictures.PAIR_PLACES))]
    items = []
    for kind, place in zip((first, second), places):
        centre = [
            0.5
            + (
                direction * PAIR_OFFSET + rng.uniform(-PAIR_JITTER, PAIR_JITTER)
                if direction
                else rng.uniform(-PLACE_JITTER, PLACE_JITTER)
            )
            for direction in pictures.PLACES[place]
        ]
        items.append(_item(rng, *kind, place, centre, rng.uniform(*PAIR_SIZES)))
    return Scene(tuple(items), random_ground(rng))


def article(words: str) -> str:
    return ("an " if words[0].lower() in "aeiou" else "a ") + words


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """A sentence or a list of tags that describes the scene; without rng the plainest sentence."""
    form = FORMS[0] if rng is None else FORMS[int(rng.choice(len(FORMS), p=FORM_SHARES))]
    phrases = []
    for item in scene.items:
        size = ""
        if rng is not None and not item.place and rng.random() < WITH_SIZE:
            size = "small" if item.size < SMALL else "large" if item.size > LARGE else ""
        style = "" if rng is not None and rng.random() < WITHOUT_STYLE else item.style
        phrases.append((" ".join(w for w in (size, style, item.thing) if w), item.place))
    if form == "tags":
        return ", ".join([*(w for phrase in phrases for w in phrase if w), f"{scene.ground.name} background"])
    sentence = " and ".join(" ".join(w for w in (article(phrase), place) if w) for phrase, place in phrases)
    ground = article(scene.ground.name + " background") if form == "sentence" else scene.ground.name
    return f"{sentence} on {ground}"


def draw(scenes: Sequence[Scene], sprites: things.Sprites, height: int, width: int) -> Tensor:
    """(B, H, W, 3) float32 in [0, 1]."""
    picture = torch.stack([draw_ground(scene.ground, height, width) for scene in scenes])
    for depth in range(max(len(scene.items) for scene in scenes)):
        rows = [i for i, scene in enumerate(scenes) if len(scene.items) > depth]
        layer = draw_items([scenes[i].items[depth] for i in rows], sprites, height, width)
        picture[rows] = picture[rows] * (1 - layer[..., 3:]) + layer[..., :3]
    return picture


def draw_ground(ground: Ground, height: int, width: int) -> Tensor:
    """(H, W, 3)"""
    colour = torch.tensor(ground.colour).expand(height, width, 3)
    if not ground.gradient:
        return colour
    row, column = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    slope = math.cos(ground.angle) * column + math.sin(ground.angle) * row
    return (colour + ground.gradient * slope[..., None]).clamp(0, 1)


def draw_items(items: Sequence[Item], sprites: things.Sprites, height: int, width: int) -> Tensor:
    """(B, H, W, 4), colours multiplied by alpha."""
    layer = torch.empty(len(items), height, width, 4)
    sizes = [item.size * min(height, width) for item in items]
    level_of = [next((level for level in sorted(sprites.levels) if level >= s), max(sprites.levels)) for s in sizes]
    for level in sorted(set(level_of)):
        rows = [i for i, found in enumerate(level_of) if found == level]
        theta = torch.tensor([_to_sprite(items[i], sizes[i], height, width) for i in rows])
        grid = torch.nn.functional.affine_grid(theta, [len(rows), 4, height, width], align_corners=False)
        sprite = sprites.take([(items[i].thing, items[i].style) for i in rows], level)
        drawn = torch.nn.functional.grid_sample(sprite, grid, align_corners=False).permute(0, 2, 3, 1)
        light = torch.tensor([items[i].light for i in rows])[:, None, None]
        colour, alpha = drawn[..., :3], drawn[..., 3:]
        colour = ((colour - alpha / 2) * light[..., :1] + alpha / 2) * light[..., 1:]
        layer[rows] = torch.cat([torch.minimum(colour.clamp(min=0), alpha), alpha], -1)
    return layer


def _to_sprite(item: Item, size: float, height: int, width: int) -> list[list[float]]:
    """The affine map from the picture's coordinates in [-1, 1] to the sprite's."""
    half = size / 2 * things.SPRITE / (things.SPRITE - 2 * things.MARGIN)
    cos, sin = math.cos(math.radians(item.turn)) / half, math.sin(math.radians(item.turn)) / half
    sign = -1.0 if item.mirror else 1.0
    x, y = (2 * item.column - 1) * width / 2, (2 * item.row - 1) * height / 2  # of the centre, pixels
    return [
        [sign * cos * width / 2, sign * sin * height / 2, -sign * (cos * x + sin * y)],
        [-sin * width / 2, cos * height / 2, sin * x - cos * y],
    ]
