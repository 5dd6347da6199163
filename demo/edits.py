"""Pairs of pictures and the instruction that leads from one to the other: style, ground, place, or a second thing.

Both scenes share every number that the instruction does not speak of.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Callable, Sequence

import numpy as np

from . import pictures, scenes, things


@dataclass(frozen=True)
class Edit:
    before: scenes.Scene
    after: scenes.Scene
    instruction: str


def restyle(rng: np.random.Generator, names: Sequence[str]) -> Edit:
    """The same thing in another style; only pairs of styles that training may show."""
    while True:
        before = scenes.random_single(rng, names)
        (item,) = before.items
        style = things.STYLES[rng.integers(len(things.STYLES))]
        if style != item.style and not things.is_held_out(item.thing, style):
            after = dataclasses.replace(before, items=(dataclasses.replace(item, style=style),))
            words = ("make it {}", "change the style to {}")[rng.integers(2)]
            return Edit(before, after, words.format(style))


def recolour(rng: np.random.Generator, names: Sequence[str]) -> Edit:
    """Another ground."""
    before = scenes.random_pair(rng, names) if rng.random() < 0.3 else scenes.random_single(rng, names)
    ground = before.ground
    while ground.name == before.ground.name:
        ground = scenes.random_ground(rng)
    words = ("change the background to {}", "make the background {}")[rng.integers(2)]
    return Edit(before, dataclasses.replace(before, ground=ground), words.format(ground.name))


def move(rng: np.random.Generator, names: Sequence[str]) -> Edit:
    """A thing alone goes somewhere else; its size stays."""
    places = list(pictures.PLACES)
    first, second = (places[i] for i in rng.permutation(len(places))[:2])
    kind, ground = scenes.random_kind(rng, names), scenes.random_ground(rng)
    item = scenes.random_item(rng, *kind, first, scenes.PLACED_SIZES)
    there = scenes.random_item(rng, *kind, second, (item.size, item.size))
    moved = dataclasses.replace(item, place=second, column=there.column, row=there.row)
    where = {"": "to the centre", "on the left": "to the left", "on the right": "to the right"}
    where |= {"at the top": "to the top", "at the bottom": "to the bottom"}
    return Edit(scenes.Scene((item,), ground), scenes.Scene((moved,), ground), f"move it {where[second]}")


def add(rng: np.random.Generator, names: Sequence[str]) -> Edit:
    """A second thing beside the first, which stands where one of two does."""
    after = scenes.random_pair(rng, names)
    new = int(rng.integers(2))
    item = after.items[new]
    before = dataclasses.replace(after, items=(after.items[1 - new],))
    return Edit(before, after, f"add {scenes.article(f'{item.style} {item.thing}')} {item.place}")


KINDS: dict[str, Callable[[np.random.Generator, Sequence[str]], Edit]] = {
    "style": restyle,
    "ground": recolour,
    "place": move,
    "thing": add,
}


def random_edit(rng: np.random.Generator, names: Sequence[str]) -> Edit:
    return KINDS[list(KINDS)[rng.integers(len(KINDS))]](rng, names)
