"""Sizes of a picture: by its ratio, within what a checkpoint is good for; those of FLUX.1 Kontext; by area. Pure."""

from __future__ import annotations

import itertools
import math

from ..constants import WARNING, Line, Lines
from .presets import HD, PRESETS, Preset
from .queued_graph import Graph

# Menu texts, saved in workflows: never renamed.
BY_RATIO, KONTEXT = "by ratio", "Kontext's sizes"
RATIOS = ("1:1", "5:4", "4:3", "3:2", "16:9", "21:9", "4:5", "3:4", "2:3", "9:16", "9:21")
STANDARD, SMALL, LARGE = AREAS = ("standard", "small", "large")
# (width, height) in pixels that FLUX.1 Kontext was trained at.
_TALL = ((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104))
KONTEXT_SIZES = (*_TALL, (1024, 1024), *((width, height) for height, width in reversed(_TALL)))
MEGAPIXEL = 1024 * 1024
STEP = 16  # pixels: an image token
NEAR = 2  # steps around the exact side that are looked at


def size_of(preset: Preset, ratio: str, area: str) -> tuple[int, int]:
    """Width and height in pixels, whole tokens, of an area that the checkpoint is good for.

    ratio: one of RATIOS. area: one of AREAS: the preset's own, or an end of its range.
    """
    wide, high = map(int, ratio.split(":"))
    if wide < high:
        return size_of(preset, f"{high}:{wide}", area)[::-1]
    least, most = preset.sizes
    side = {STANDARD: preset.size, SMALL: least, LARGE: most}[area]
    exact = side * math.sqrt(wide / high), side * math.sqrt(high / wide)
    widths, heights = (
        [max(STEP, (round(n / STEP) + i) * STEP) for i in range(-NEAR, NEAR + 1)] for n in exact
    )  # those near to it

    def error(size: tuple[int, int]) -> float:
        """Of the shape and of the area, as logarithms."""
        w, h = size
        return abs(math.log(w * high / (h * wide))) + abs(math.log(w * h / side**2))

    near = list(itertools.product(widths, heights))
    return min([(w, h) for w, h in near if least**2 <= w * h <= most**2] or near, key=error)


def size_of_kontext(width: int, height: int) -> tuple[int, int]:
    """The one of KONTEXT_SIZES whose width / height is nearest."""
    return min(KONTEXT_SIZES, key=lambda size: (abs(width / height - size[0] / size[1]), size))


def size_of_area(width: int, height: int, megapixels: float, multiple: int) -> tuple[int, int]:
    """(width, height) of about that shape and area, in whole multiples; a megapixel is 1024 x 1024 pixels."""
    scale = (megapixels * MEGAPIXEL / (width * height)) ** 0.5
    return max(multiple, round(width * scale / multiple) * multiple), max(
        multiple, round(height * scale / multiple) * multiple
    )


def size_of_text(text: str) -> tuple[int, int]:
    """Of a menu's text, such as "1248 x 832".

    raises: ValueError for another text.
    """
    width, height = map(int, text.split(" x "))
    return width, height


def of_node(graph: Graph, node: str, preset: Preset) -> tuple[int, int] | None:
    """What Chroma Size will give; None where a value comes by a link. preset: of the model that is connected to it."""
    preset = preset if graph.link(node, "model") else PRESETS[HD]
    mode, ratio, area, pixels = (graph.value(node, name) for name in ("size", "size.ratio", "size.area", "size.pixels"))
    try:
        return size_of_text(pixels) if mode == KONTEXT else size_of(preset, ratio, area)
    except (AttributeError, KeyError, TypeError, ValueError):  # a link, or another text
        return None


def tell(name: str, size: tuple[int, int]) -> Lines:
    """For the node. name: of the preset."""
    low, high = PRESETS[name].sizes
    side = math.sqrt(size[0] * size[1])
    line = f"{size[0]} x {size[1]} pixels, as many as {side:.0f} x {side:.0f}"
    if low <= side <= high:
        return Lines([line, f"{name} is good for {low} to {high} a side"])
    return Lines([line, Line(f"{name} is good for {low} to {high} a side only", WARNING)])
