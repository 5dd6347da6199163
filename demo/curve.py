"""Draws what training told of itself: loss by size of picture, and shares of right answers, against hours.

    python -m demo.curve [LOG.csv] [OUT.svg]

LOG is what `demo.train_things` writes; the one of the stored weights lies beside them.
"""

from __future__ import annotations

import csv
import math
import sys
from collections import defaultdict
from pathlib import Path

LOG, OUT = Path(__file__).parent / "weights" / "log.csv", Path(__file__).parent / "curve.svg"
LOSSES = {"loss64x64": "64 pixels", "loss96x96": "96 pixels", "loss128x128": "128 pixels"}
SHARES = {  # of the sheet that training paints every so often
    "known_thing": "thing",
    "held_out_thing": "thing, style held out",
    "known_style": "style",
    "pairs_thing": "two things in their places",
    "edits": "an edit, all of it",
    "sharpness": "sharpness",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's
WIDTH, HEIGHT, MARGIN, LEGEND = 760, 260, 48, 190
SMOOTH = 4  # log rows of which a loss is the mean

Points = dict[str, list[tuple[float, float]]]


def read(path: Path) -> Points:
    """Of each column its (hours, value)."""
    found: Points = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.reader(file):
            values = dict(cell.split("=", 1) for cell in row)
            hours = float(values.pop("hours"))
            for name, value in values.items():
                found[name].append((hours, float(value)))
    return found


def smooth(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    groups = [points[max(0, i + 1 - SMOOTH) : i + 1] for i in range(len(points))]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def panel(title: str, lines: Points, names: dict[str, str], hours: float, most: float, top: float) -> str:
    """One chart as SVG, from 0 to `most`."""
    right, bottom = WIDTH - LEGEND, top + HEIGHT - MARGIN

    def place(x: float, y: float) -> tuple[float, float]:
        return MARGIN + x / hours * (right - MARGIN), bottom - min(y, most) / most * (HEIGHT - 2 * MARGIN)

    parts = [f'<text x="{MARGIN}" y="{top + 28:.0f}" font-weight="bold">{title}</text>']
    step = 0.1 if most <= 0.6 else 0.2
    for value in (step * i for i in range(round(most / step) + 1)):
        _, y = place(0, value)
        parts.append(f'<line x1="{MARGIN}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2g}</text>')
    for hour in range(0, int(hours) + 1, max(1, round(hours / 8))):
        x, _ = place(hour, 0)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{hour} h</text>')
    for i, (name, words) in enumerate(names.items()):
        if name not in lines:
            continue
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in lines[name])
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[i]}" stroke-width="1.6"/>')
        parts.append(f'<text x="{right + 10}" y="{top + MARGIN + 8 + 18 * i:.0f}" fill="{COLOURS[i]}">{words}</text>')
    return "".join(parts)


def draw(found: Points) -> str:
    hours = max(points[-1][0] for points in found.values())
    losses = {name: smooth(found[name]) for name in LOSSES if name in found}
    most = max(value for points in losses.values() for _, value in points[SMOOTH:] or points)
    charts = panel("loss", losses, LOSSES, hours, min(1.0, math.ceil(most * 10) / 10), 0)
    charts += panel("share, and sharpness", found, SHARES, hours, 1.0, HEIGHT)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {2 * HEIGHT}" font-family="sans-serif" font-size="13">'
    return f'{head}<rect width="{WIDTH}" height="{2 * HEIGHT}" fill="white"/>{charts}</svg>\n'


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]]
    log, out = [*given, LOG, OUT][0], [*given[1:], OUT][0]
    out.write_text(draw(read(log)), encoding="utf-8")
