"""Schedules as a picture: sigma over steps, with a legend."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...tables.fonts import face_for

OVERSAMPLING = 2  # drawn larger by this factor and then reduced, for smooth lines
MAX_DOTS = 80  # steps; a longer curve has no dot at each sigma
STEP_GAPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # steps between marks of the horizontal axis
MAX_MARKS = 12  # of the horizontal axis


@dataclass(frozen=True)
class Theme:
    ground: str
    text: str
    grid: str
    half: str  # the line at 0.5
    lines: tuple[str, ...]  # after Okabe and Ito's colours, which colour-blind people can tell apart


THEMES = {
    "light": Theme("#ffffff", "#222222", "#dddddd", "#999999", ("#0072b2", "#d55e00", "#009e73", "#b0579a")),
    "dark": Theme("#1e1e1e", "#e6e6e6", "#3a3a3a", "#808080", ("#56b4e9", "#e69f00", "#00c896", "#e28bc0")),
}


def legend_line(label: str, sigmas: list[float]) -> str:
    """A schedule's line in the legend: number of steps, first and last sigmas, number of steps that start above 0.5."""
    if len(sigmas) < 2:
        return f"{label}: no steps"
    steps = len(sigmas) - 1
    above = sum(s > 0.5 for s in sigmas[:-1])
    start = f"{sigmas[0]:.4g} to {sigmas[-2]:.4g}" if steps > 1 else f"{sigmas[0]:.4g}"
    return f"{label}: {steps} step{'s' * (steps > 1)}, {start}, then {sigmas[-1]:.4g}; {above} above 0.5"


def plot(schedules: list[tuple[str, Tensor]], width: int = 1024, height: int = 640, theme: str = "light") -> Tensor:
    """Draws schedules: sigma upwards, steps to the right, and above them a legend with their figures.

    schedules: label and (n,) sigmas each, at most four.
    width, height: of the picture in pixels.
    theme:     a name of THEMES.
    returns:   (1, height, width, 3) float32 in [0, 1].
    raises:    ValueError naming a schedule that is not a list of finite numbers, or an unknown theme.
    """
    if theme not in THEMES:
        raise ValueError(f"theme {theme!r} is not known. Choose one of: {', '.join(THEMES)}")
    curves = []
    for label, sigmas in schedules:
        if sigmas.ndim != 1 or not bool(sigmas.isfinite().all()):
            raise ValueError(
                f"{label}: sigmas of the shape {tuple(sigmas.shape)} are not a list of finite numbers; connect a "
                "scheduler's SIGMAS"
            )
        curves.append((label, sigmas.float().cpu().tolist()))
    image = Canvas(width, height, THEMES[theme]).draw(curves)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


class Canvas:
    """Draws one picture. Lengths are in pixels of the drawing, which is OVERSAMPLING times as large as the picture."""

    def __init__(self, width: int, height: int, theme: Theme):
        self.theme, self.face = theme, face_for()
        self.unit = OVERSAMPLING * min(max(min(width / 1024, height / 640), 0.6), 2.5)  # one pixel of 1024 x 640
        self.image = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), theme.ground)
        self.pen = ImageDraw.Draw(self.image)

    def draw(self, curves: list[tuple[str, list[float]]]) -> Image.Image:
        u = self.unit
        (lines,) = self._written([legend_line(label, sigmas) for label, sigmas in curves])
        room = self.image.width - 80 * u
        size = 19 * u
        while size > 8 * OVERSAMPLING and max(self._font(size).getlength(line) for line in lines) > room:
            size -= u
        top = 20 * u
        for i, line in enumerate(lines):
            self._legend(line, i, 30 * u, top + size / 2, size)
            top += 1.4 * size
        self.box = (70 * u, top + 14 * u, self.image.width - 30 * u, self.image.height - 58 * u)
        self.steps = max([len(sigmas) - 1 for _, sigmas in curves] + [1])
        self.highest = math.ceil(max([s for _, sigmas in curves for s in sigmas] + [1.0]))
        self._axes()
        for i, (_, sigmas) in enumerate(curves):
            self._curve(sigmas, i)
        return self.image.reduce(OVERSAMPLING)

    def _written(self, *groups: list[str]) -> list[list[str]]:
        """Texts as they are drawn, in a font that has them."""
        self.face = face_for(*(text for group in groups for text in group))
        return [[self.face.shown(text) for text in group] for group in groups]

    def _font(self, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return self.face.font(max(size, 8))

    def _at(self, step: float, sigma: float) -> tuple[float, float]:
        left, top, right, bottom = self.box
        return left + (right - left) * step / self.steps, bottom - (bottom - top) * sigma / self.highest

    def _legend(self, line: str, i: int, x: float, y: float, size: float) -> None:
        self.pen.line([(x, y), (x + 28 * self.unit, y)], fill=self.theme.lines[i], width=round(3.5 * self.unit))
        self._marker(x + 14 * self.unit, y, i)
        self.pen.text((x + 38 * self.unit, y), line, fill=self.theme.text, font=self._font(size), anchor="lm")

    def _axes(self) -> None:
        u, font, theme = self.unit, self._font(16 * self.unit), self.theme
        thin = max(round(u), 1)
        for i in range(11):
            sigma = self.highest * i / 10
            (left, y), (right, _) = self._at(0, sigma), self._at(self.steps, sigma)
            self.pen.line([(left, y), (right, y)], fill=theme.grid, width=thin)
            if i % 2 == 0:
                self.pen.text((left - 8 * u, y), f"{sigma:.3g}", fill=theme.text, font=font, anchor="rm")
        gap = next((g for g in STEP_GAPS if self.steps / g <= MAX_MARKS), STEP_GAPS[-1])
        for step in range(0, self.steps + 1, gap):
            x, bottom = self._at(step, 0)
            self.pen.line([(x, bottom), (x, self.box[1])], fill=theme.grid, width=thin)
            self.pen.text((x, bottom + 8 * u), str(step), fill=theme.text, font=font, anchor="ma")
        self.pen.line([self._at(0, 0.5), self._at(self.steps, 0.5)], fill=theme.half, width=round(2 * u))
        self.pen.line([self._at(0, 0), self._at(self.steps, 0)], fill=theme.text, width=round(1.5 * u))
        self.pen.line([self._at(0, 0), self._at(0, self.highest)], fill=theme.text, width=round(1.5 * u))
        middle = (self.box[0] + self.box[2]) / 2
        self.pen.text((middle, self.image.height - 8 * u), "step", fill=theme.text, font=font, anchor="md")
        self._upright("sigma", font)

    def _upright(self, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> None:
        left, top, right, bottom = (round(n) for n in font.getbbox(text))
        stamp = Image.new("RGB", (right + 2, bottom + 2), self.theme.ground)
        ImageDraw.Draw(stamp).text((0, 0), text, fill=self.theme.text, font=font)
        stamp = stamp.rotate(90, expand=True)
        middle = (self.box[1] + self.box[3]) / 2
        self.image.paste(stamp, (round(6 * self.unit), round(middle - stamp.height / 2)))

    def _curve(self, sigmas: list[float], i: int) -> None:
        points = [self._at(step, sigma) for step, sigma in enumerate(sigmas)]
        if len(points) > 1:
            self.pen.line(points, fill=self.theme.lines[i], width=round(3 * self.unit), joint="curve")
        if len(points) <= MAX_DOTS + 1:
            for x, y in points:
                self._marker(x, y, i)

    def _marker(self, x: float, y: float, i: int) -> None:
        """A disc, square, diamond or triangle, so that curves can be told apart without colours."""
        r, colour = 5 * self.unit, self.theme.lines[i]
        if i == 0:
            self.pen.ellipse([x - r, y - r, x + r, y + r], fill=colour)
            return
        corners = {
            1: [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
            2: [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
            3: [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        }[i]
        self.pen.polygon([(x + a * r, y + b * r) for a, b in corners], fill=colour)


def chart(
    lines: list[str], names: list[str], series: list[tuple[str, list[float | None]]], what: str, bars: bool = False
) -> Tensor:
    """Values by block, on a logarithmic scale: curves, or a bar each.

    lines:   text above, the first in the place of a title.
    names:   of the blocks, in their order.
    series:  label, and a value for each name; None or 0 where there is none. At most four.
    what:    the values are, beside the axis.
    returns: (1, 640, 1024, 3) float32 in [0, 1].
    """
    image = Chart(1024, 640, THEMES["dark"]).draw_values(lines, names, series, what, bars)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


class Chart(Canvas):
    """Values by block instead of sigmas by step."""

    def draw_values(
        self,
        lines: list[str],
        names: list[str],
        series: list[tuple[str, list[float | None]]],
        what: str,
        bars: bool,
    ) -> Image.Image:
        u, size = self.unit, 17 * self.unit
        lines, labels, (what,) = self._written(lines, [label for label, _ in series], [what])
        there = [v for _, values in series for v in values if v and math.isfinite(v)] or [1.0]
        self.low, self.high = math.floor(math.log10(min(there))), math.ceil(math.log10(max(there)))
        self.high = max(self.high, self.low + 1)
        self.steps = max(len(names) - 1, 1) + 1
        while size > 8 * OVERSAMPLING and max(map(self._font(size).getlength, lines)) > self.image.width - 60 * u:
            size -= u
        top = 16 * u
        for line in lines:
            self.pen.text((30 * u, top), line, fill=self.theme.text, font=self._font(size))
            top += 1.35 * size
        if not bars:
            for i, label in enumerate(labels):
                self._legend(label, i, (30 + 240 * i) * u, top + size / 2, size)
            top += 1.35 * size
        self.box = (84 * u, top + 14 * u, self.image.width - 30 * u, self.image.height - 58 * u)
        self._frame(names, what)
        for i, (_, values) in enumerate(series):
            points = [(n, v) for n, v in enumerate(values) if v and math.isfinite(v)]
            if bars:
                for n, v in points:
                    (left, y), (right, bottom) = self._at(n + 0.12, v), self._at(n + 0.88, 10**self.low)
                    colour = self.theme.lines[names[n].startswith("single")]
                    self.pen.rectangle([left, min(y, bottom - u), right, bottom], fill=colour)
                continue
            places = [self._at(n + 0.5, v) for n, v in points]
            if len(places) > 1:
                self.pen.line(places, fill=self.theme.lines[i], width=round(3 * u), joint="curve")
            for x, y in places:
                self._marker(x, y, i)
        return self.image.reduce(OVERSAMPLING)

    def _at(self, step: float, value: float) -> tuple[float, float]:
        left, top, right, bottom = self.box
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return left + (right - left) * step / self.steps, bottom - (bottom - top) * share

    def _frame(self, names: list[str], what: str) -> None:
        u, font, theme = self.unit, self._font(15 * self.unit), self.theme
        for power in range(self.low, self.high + 1):
            (left, y), (right, _) = self._at(0, 10.0**power), self._at(self.steps, 10.0**power)
            self.pen.line([(left, y), (right, y)], fill=theme.grid, width=max(round(u), 1))
            self.pen.text((left - 8 * u, y), f"{10.0**power:.0e}" if power < -3 else f"{10.0**power:g}", fill=theme.text, font=font, anchor="rm")  # fmt: skip
        gap = next((g for g in STEP_GAPS if len(names) / g <= 2 * MAX_MARKS), STEP_GAPS[-1])
        for n, name in enumerate(names):
            kind, _, number = name.partition(" ")
            if (number.isdecimal() and int(number) % gap == 0) or not number:
                x, bottom = self._at(n + 0.5, 10.0**self.low)
                self.pen.text((x, bottom + 6 * u), number or kind, fill=theme.text, font=font, anchor="ma")
            if n and kind != names[n - 1].partition(" ")[0]:
                x, bottom = self._at(n, 10.0**self.low)
                self.pen.line([(x, bottom), (x, self.box[1])], fill=theme.half, width=round(1.5 * u))
        for kind in ("double", "single"):
            of_kind = [n for n, name in enumerate(names) if name.startswith(kind)]
            if of_kind:
                x, _ = self._at((of_kind[0] + of_kind[-1] + 1) / 2, 10.0**self.low)
                self.pen.text((x, self.image.height - 8 * u), f"{kind} blocks", fill=theme.text, font=font, anchor="md")
        self._upright(what, font)
