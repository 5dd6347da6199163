"""Draws the registry's icon and banner: the demo model's shapes, coming out of noise. No model is needed.

python -m demo.emblem
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parent.parent / ".github"
ICON, BANNER = (400, 400), (1680, 720)  # pixels; the registry takes icons up to 400 x 400, and banners of 21:9
GROUND, PAPER = (24, 25, 30), (244, 244, 242)
RED, YELLOW, BLUE, GREEN = (218, 41, 44), (252, 221, 60), (40, 92, 204), (54, 164, 74)
SMOOTH = 4  # drawn so many times larger


def noise(seed: int, rows: int, columns: int) -> np.ndarray:
    """(rows, columns, 3) colours of the palette, by chance."""
    palette = np.array([RED, YELLOW, BLUE, GREEN, PAPER, GROUND])
    return palette[np.random.default_rng(seed).integers(len(palette), size=(rows, columns))]


def emerging(picture: Image.Image, rows: int, columns: int, start: float, end: float, seed: int) -> Image.Image:
    """The picture as tiles, which are noise left of `start` and the picture itself right of `end`, shares of its width."""
    width, height = picture.size
    chance, colours = np.random.default_rng(seed + 1), noise(seed, rows, columns)
    drawn = picture.copy()
    draw = ImageDraw.Draw(drawn)
    for row in range(rows):
        for column in range(columns):
            done = ((column + 0.5) / columns - start) / (end - start)
            if chance.random() >= done:
                box = [column * width // columns, row * height // rows]
                box += [(column + 1) * width // columns - 1, (row + 1) * height // rows - 1]
                draw.rectangle(box, fill=tuple(int(c) for c in colours[row, column]))
    return drawn


def disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def icon() -> Image.Image:
    side = ICON[0] * SMOOTH
    picture = Image.new("RGB", (side, side), YELLOW)
    disc(ImageDraw.Draw(picture), side * 0.56, side * 0.5, side * 0.33, RED)
    picture = emerging(picture, 10, 10, -0.02, 0.5, seed=5)
    corners = Image.new("L", (side, side), 0)
    ImageDraw.Draw(corners).rounded_rectangle([0, 0, side - 1, side - 1], radius=side // 8, fill=255)
    picture.putalpha(corners)
    return picture.resize(ICON, Image.LANCZOS)


def banner() -> Image.Image:
    width, height = (n * SMOOTH for n in BANNER)
    picture = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(picture)
    size, middle = height * 0.2, height * 0.37
    disc(draw, width * 0.47, middle, size, RED)
    x = width * 0.67
    draw.polygon([(x, middle - size), (x - size * 1.1, middle + size), (x + size * 1.1, middle + size)], fill=YELLOW)
    x = width * 0.87
    draw.rectangle([x - size * 0.95, middle - size * 0.95, x + size * 0.95, middle + size * 0.95], fill=BLUE)
    picture = emerging(picture, 18, 42, 0.06, 0.5, seed=3)
    draw = ImageDraw.Draw(picture)
    draw.rectangle([0, height * 0.72, width, height], fill=GROUND)
    for text, y, share, colour in (
        ("Chroma Pack", 0.745, 0.12, PAPER),
        ("for ComfyUI: any file, prompts as trained, less memory", 0.885, 0.055, (170, 172, 180)),
    ):
        draw.text((width * 0.04, height * y), text, fill=colour, font=ImageFont.load_default(height * share))
    return picture.resize(BANNER, Image.LANCZOS)


def main() -> None:
    icon().save(FOLDER / "icon.png", optimize=True)
    banner().quantize(256, dither=Image.Dither.NONE).save(FOLDER / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
