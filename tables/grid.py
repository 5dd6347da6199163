"""Pictures with labels on one sheet: a contact sheet in the order of the rows, and an XY plot of two columns."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from .fonts import face_for

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_SIDE, MAX_SIDE = 128, 256  # pixels of a cell on sheets of a batch: as large as its largest picture, within these
GAP, LINE = 8, 16  # pixels, at cells of at most 256; larger ones have larger text
LINES_PER_CELL = 26  # of text, in the height of a larger cell
FILLED = 0.92  # of a line's width, by the average character of its text: some lines have wider ones
PER_SHEET, ACROSS = 48, 6
PAPER, INK = "white", "black"
LABEL_LINES = 3
MAX_SHEET = 16_384  # pixels a side; browsers and graphics cards show no more

Cell = tuple["Path | Image", str]  # a picture and the label below it


def contact_sheets(folder: Path, entries: Sequence[tuple[str, str]]) -> list[Path]:
    """Writes sheet-1.jpg and so on; gives their paths. entries: (file in the folder, label)."""
    out = []
    for number, start in enumerate(range(0, len(entries), PER_SHEET), 1):
        part = entries[start : start + PER_SHEET]
        cells = in_rows([(folder / file, label) for file, label in part], ACROSS)
        out.append(folder / f"sheet-{number}.jpg")
        draw(cells, MAX_SIDE).save(out[-1], quality=90)
    return out


def plot(folder: Path, x: str, y: str, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> Path:
    """Writes plot.jpg: a column of the sheet for each value of x, a row for each of y; of several pictures the first.

    raises: ValueError if no picture has a value of x and y, or there are too many values.
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
    draw(cells, MAX_SIDE, [f"{x}: {a}" for a in xs], [f"{y}: {b}" for b in ys]).save(path, quality=90)
    return path


def in_rows(cells: Sequence[Cell], across: int) -> list[Sequence[Cell]]:
    return [cells[i : i + across] for i in range(0, len(cells), across)]


def across_of(count: int) -> int:
    """Columns of a sheet that is about as wide as high."""
    return max(math.ceil(math.sqrt(count)), 1)


def draw(
    cells: Sequence[Sequence[Cell | None]], largest: int, heads: Sequence[str] = (), sides: Sequence[str] = ()
) -> "Image":
    """A table of pictures with labels below, heads above the columns and beside the rows.

    largest: longer side of a picture on the sheet, in pixels; larger ones are made smaller.
    raises:  ValueError for a sheet that is too large to be shown.
    """
    from PIL import Image, ImageDraw

    sizes = [scaled(size_of(cell[0]), largest) for row in cells for cell in row if cell]
    wide, high = (max([MIN_SIDE, *(size[i] for size in sizes)]) for i in (0, 1))
    line = max(LINE, max(wide, high) // LINES_PER_CELL)
    gap, above, beside = GAP * line // LINE, (LABEL_LINES + 1) * line, max(wide // 2, 10 * line)
    left, top = beside if any(sides) else gap, above if any(heads) else gap
    label = above if any(cell and cell[1] for row in cells for cell in row) else 0
    step_x, step_y = wide + gap, high + label + gap
    size = (left + step_x * max(map(len, cells)), top + step_y * len(cells))
    if max(size) > MAX_SHEET:
        raise ValueError(
            f"the sheet would have {size[0]} x {size[1]} pixels, expected at most {MAX_SHEET} a side. Make the pictures on it "
            "smaller, or lay out fewer"
        )
    sheet = Image.new("RGB", size, PAPER)
    labels = [cell[1] for row in cells for cell in row if cell]
    face = face_for(*heads, *sides, *labels)
    pen, font = ImageDraw.Draw(sheet), face.font(line - 3)

    def write(x: int, y: int, text: str, width: int = wide) -> None:
        text = face.shown(text)
        chars = int(FILLED * width * len(text) / max(font.getlength(text), 1))
        lines = textwrap.wrap(text, max(chars, 8), max_lines=LABEL_LINES, placeholder=" ...")
        pen.multiline_text((x, y), "\n".join(lines), fill=INK, font=font, spacing=2)

    for i, head in enumerate(heads[: max(map(len, cells))]):
        write(left + i * step_x, gap, head)
    for j, row in enumerate(cells):
        if j < len(sides):
            write(gap, top + j * step_y, sides[j], beside - 2 * gap)
        for i, cell in enumerate(row):
            if cell is None:
                continue
            small = opened(cell[0]).convert("RGB")
            if small.size != scaled(small.size, largest):
                small = small.resize(scaled(small.size, largest), Image.Resampling.LANCZOS, reducing_gap=3)
            sheet.paste(small, (left + i * step_x + (wide - small.width) // 2, top + j * step_y))
            if cell[1]:
                write(left + i * step_x, top + j * step_y + high, cell[1])
    return sheet


def opened(picture: "Path | Image") -> "Image":
    from PIL import Image

    if not isinstance(picture, Path):
        return picture
    with Image.open(picture) as file:
        file.load()
        return file


def size_of(picture: "Path | Image") -> tuple[int, int]:
    """Of a file, without reading its pixels."""
    from PIL import Image

    if not isinstance(picture, Path):
        return picture.size
    with Image.open(picture) as file:
        return file.size


def scaled(size: tuple[int, int], largest: int) -> tuple[int, int]:
    """A size whose longer side is at most `largest`, of the same shape."""
    share = min(largest / max(size), 1)
    return max(round(size[0] * share), 1), max(round(size[1] * share), 1)
