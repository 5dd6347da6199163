"""Says whether a picture shows the scene that was asked for: thing and style by the classifier, ground and place by pixels.

Shapes: B batch, H rows, W columns; pictures are (B, 3, H, W) in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from . import classifier, pictures, scenes, things

FOREGROUND = 0.1  # RGB distance from the ground, of sqrt(3)
BORDER = 3  # pixels of the picture's edge, whose median is the ground
MIN_OFFSET, MAX_CENTRE = 0.05, 0.1  # of the picture, as in the judge of shapes


@dataclass(frozen=True)
class Seen:
    thing: str
    style: str
    ground: str


def ground_of(picture: np.ndarray) -> np.ndarray:
    """(3,) the ground's colour in [0, 1] of one (3, H, W)."""
    b = BORDER
    edges = (picture[:, :b], picture[:, -b:], picture[:, :, :b], picture[:, :, -b:])
    return np.median(np.concatenate([e.reshape(3, -1) for e in edges], 1), axis=1)


def ground_name(picture: np.ndarray) -> str:
    names = list(scenes.GROUNDS)
    palette = np.array([scenes.GROUNDS[n] for n in names]) / 255
    return names[int(((palette - ground_of(picture)) ** 2).sum(-1).argmin())]


def in_place(picture: np.ndarray, place: str) -> bool:
    """Whether all that is not ground lies, in the mean, where the place says."""
    mask = np.linalg.norm(picture - ground_of(picture)[:, None, None], axis=0) > FOREGROUND * np.sqrt(3)
    if not mask.any():
        return False
    rows, columns = np.nonzero(mask)
    offset = (columns.mean() + 0.5) / mask.shape[1] - 0.5, (rows.mean() + 0.5) / mask.shape[0] - 0.5
    return all(abs(o) < MAX_CENTRE if d == 0 else o * d > MIN_OFFSET for o, d in zip(offset, pictures.PLACES[place]))


@torch.inference_mode()
def verdicts(
    images: Tensor, asked: Sequence[scenes.Scene], net: nn.Module, names: Sequence[str]
) -> list[dict[str, bool]]:
    """For each picture: thing and style (of every item; of two, each where it should be), ground, place."""
    views, items = classifier.views(images, asked)
    thing_logits, style_logits = net(views)
    found = [{"thing": True, "style": True} for _ in asked]
    for (i, item), thing, style in zip(items, thing_logits.argmax(1).tolist(), style_logits.argmax(1).tolist()):
        found[i]["thing"] &= names[thing] == item.thing
        found[i]["style"] &= things.STYLES[style] == item.style
    for verdict, picture, scene in zip(found, images.cpu().numpy(), asked):
        verdict["ground"] = ground_name(picture) == scene.ground.name
        alone = len(scene.items) == 1
        verdict["place"] = in_place(picture, scene.items[0].place) if alone else verdict["thing"]
    return found


@torch.inference_mode()
def look(images: Tensor, net: nn.Module, names: Sequence[str]) -> list[Seen]:
    """What each picture shows, whatever was asked for: one thing, as large as the picture, and its ground."""
    side = (classifier.SIDE, classifier.SIDE)
    views = nn.functional.interpolate(images, side, mode="bilinear", antialias=True)
    labels = zip(*(logits.argmax(1).tolist() for logits in net(views)), images.cpu().numpy())
    return [Seen(names[thing], things.STYLES[style], ground_name(picture)) for thing, style, picture in labels]


def fine(images: Tensor) -> Tensor:
    """What is above half of the finest frequency: what a 2x2 mean takes away; shape as given."""
    return images - nn.functional.interpolate(nn.functional.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")


def detail(images: Tensor) -> Tensor:
    """Energy of each picture's `fine` part."""
    return fine(images).square().mean((1, 2, 3))


def sharpness(images: Tensor, real: Tensor) -> float:
    """Share of fine detail in all that varies, against that share in real pictures of the same scenes; 1 is as sharp."""

    def share(x: Tensor) -> float:
        return (detail(x).sum() / (x - x.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)).sum()).item()

    return share(images) / share(real)
