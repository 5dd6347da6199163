"""Pictures with labels on one sheet: a contact sheet in the order of the rows, and an XY plot of two columns."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, Mapping, Sequence

MIN_SIDE, MAX_SIDE, GAP, LINE = 128, 256, 8, 16  # pixels; a cell is as large as the largest picture, within these
BESIDE, CHAR = 160, 7  # width of the labels beside the rows, and of a character
PER_SHEET, ACROSS = 48, 6
PAPER, INK = "white", "black"
LABEL_LINES = 3


def contact_sheets(folder: Path, entries: Sequence[tuple[str, str]]) -> list[Path]:
    """Writes sheet-1.jpg and so on; gives their paths. entries: (file in the folder, label)."""
    out = []
    for number, start in enumerate(range(0, len(entries), PER_SHEET), 1):
        part = entries[start : start + PER_SHEET]
        rows = [part[i : i + ACROSS] for i in range(0, len(part), ACROSS)]
        cells = [[(folder / file, label) for file, label in row] for row in rows]
        out.append(folder / f"sheet-{number}.jpg")
        draw(cells, [], []).save(out[-1], quality=90)
    return out


def plot(folder: Path, x: str, y: str, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> Path:
    """Writes plot.jpg: a column of the sheet for each value of x, a row for each of y; of several pictures the first.

    raises: ValueError if no picture has a value of x and y.
    """
    placed: dict[tuple[str, str], str] = {}
    for file, values in entries:
        if x in values and y in values:
            placed.setdefault((str(values[x]), str(values[y])), file)
    if not placed:
        raise ValueError(f"--plot {x},{y}: no picture has both. Name two columns, or axes of --cross")
    xs, ys = (list(dict.fromkeys(key[i] for key in placed)) for i in (0, 1))
    cells = [[(folder / placed[a, b], "") if (a, b) in placed else None for a in xs] for b in ys]
    path = folder / "plot.jpg"
    draw(cells, [f"{x}: {a}" for a in xs], [f"{y}: {b}" for b in ys]).save(path, quality=90)
    return path


def draw(cells: Sequence[Sequence[tuple[Path, str] | None]], heads: Sequence[str], sides: Sequence[str]) -> Any:
    """A table of pictures, each scaled into a square, with labels below, heads above the columns and beside the rows."""
    from PIL import Image, ImageDraw, ImageFont

    files = [cell[0] for row in cells for cell in row if cell]
    side = min(max([MIN_SIDE, *(max(Image.open(file).size) for file in files)]), MAX_SIDE)
    font = ImageFont.load_default(LINE - 3)
    left = BESIDE if sides else GAP
    top = (LABEL_LINES + 1) * LINE if heads else GAP
    label = (LABEL_LINES + 1) * LINE if any(cell and cell[1] for row in cells for cell in row) else 0
    wide, high = side + GAP, side + label + GAP
    sheet = Image.new("RGB", (left + wide * max(map(len, cells)), top + high * len(cells)), PAPER)
    pen = ImageDraw.Draw(sheet)

    def write(x: int, y: int, text: str, width: int = side) -> None:
        lines = textwrap.wrap(text, width // CHAR, max_lines=LABEL_LINES, placeholder=" ...")
        pen.multiline_text((x, y), "\n".join(lines), fill=INK, font=font, spacing=2)

    for i, head in enumerate(heads):
        write(left + i * wide, GAP, head)
    for j, row in enumerate(cells):
        if sides:
            write(GAP, top + j * high, sides[j], BESIDE - 2 * GAP)
        for i, cell in enumerate(row):
            if cell is None:
                continue
            with Image.open(cell[0]) as picture:
                small = picture.convert("RGB")
            small.thumbnail((side, side))
            sheet.paste(small, (left + i * wide + (side - small.width) // 2, top + j * high))
            if cell[1]:
                write(left + i * wide, top + j * high + side, cell[1])
    return sheet
