"""Says what a picture shows, from its pixels alone: background colour, and colour, shape and place of each thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from . import pictures

MIN_AREA = 0.015  # of the picture; smaller specks are not things
FOREGROUND = 0.16  # RGB distance from the background, of sqrt(3)


@dataclass(frozen=True)
class Seen:
    colour: str
    shape: str
    column: float  # centre, in [0, 1]
    row: float


@dataclass(frozen=True)
class Verdict:
    background: str
    things: tuple[Seen, ...]  # largest first


def nearest_colour(rgb: np.ndarray) -> str:
    names = list(pictures.COLOURS)
    palette = np.array([pictures.COLOURS[n] for n in names]) / 255
    return names[int(((palette - rgb) ** 2).sum(-1).argmin())]


def look(picture: np.ndarray) -> Verdict:
    """picture: (H, W, 3) in [0, 1]."""
    height, width, _ = picture.shape
    border = np.concatenate(
        [
            picture[:3].reshape(-1, 3),
            picture[-3:].reshape(-1, 3),
            picture[:, :3].reshape(-1, 3),
            picture[:, -3:].reshape(-1, 3),
        ]
    )
    ground = np.median(border, axis=0)
    mask = np.linalg.norm(picture - ground, axis=-1) > FOREGROUND * np.sqrt(3)
    labels, count = ndimage.label(mask)
    areas = ndimage.sum_labels(mask, labels, range(1, count + 1)) if count else np.array([])
    things = []
    for index in np.argsort(-areas):
        if areas[index] < MIN_AREA * height * width:
            break
        part = labels == index + 1
        core = ndimage.binary_erosion(part, iterations=2)
        colour = nearest_colour(np.median(picture[core if core.any() else part], axis=0))
        rows, columns = np.nonzero(part)
        things.append(Seen(colour, shape_of(part), (columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height))
    return Verdict(nearest_colour(ground), tuple(things))


def shape_of(part: np.ndarray) -> str:
    """The shape whose outline, stretched to the same bounding box, overlaps best."""
    rows, columns = np.nonzero(part)
    box = part[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scores = {}
    for name in pictures.SHAPES:
        template = _template(name, box.shape)
        scores[name] = (box & template).sum() / (box | template).sum()
    return max(scores, key=scores.get)


def _template(name: str, shape: tuple[int, int]) -> np.ndarray:
    fine = np.linspace(-1.2, 1.2, 481)
    x, y = np.meshgrid(fine, fine)
    inside = pictures.SHAPES[name](x, y) <= 0
    rows, columns = np.nonzero(inside)
    inside = inside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    pick = [np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1) for n, m in zip(shape, inside.shape)]
    return inside[np.ix_(*pick)]


def score(picture: np.ndarray, scene: pictures.Scene) -> dict[str, bool]:
    """Which parts of the scene the picture shows. `right` is the bar: shape colour, background and shape.

    A picture with more or fewer things than asked for is wrong in all but its background.
    """
    verdict = look(picture)
    wanted = sorted(scene.things, key=lambda t: t.place)
    seen = list(verdict.things)
    if len(wanted) == 2:  # sorting puts "at the bottom" before "at the top" and left before right
        vertical = wanted[0].place.startswith("at")
        seen.sort(key=lambda s: -s.row if vertical else s.column)
    complete = len(seen) == len(wanted)
    colour = complete and all(s.colour == t.colour for s, t in zip(seen, wanted))
    shape = complete and all(s.shape == t.shape for s, t in zip(seen, wanted))
    place = complete and all(_in_place(s, pictures.PLACES[t.place]) for s, t in zip(seen, wanted))
    background = verdict.background == scene.background
    return {
        "colour": colour,
        "background": background,
        "shape": shape,
        "place": place,
        "right": colour and background and shape,
    }


def _in_place(seen: Seen, direction: tuple[int, int]) -> bool:
    offset = (seen.column - 0.5, seen.row - 0.5)
    return all(abs(o) < 0.1 if d == 0 else o * d > 0.05 for o, d in zip(offset, direction))
