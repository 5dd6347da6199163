"""Paints the README's sheet (docs/demo.png) and the workflows' thumbnails with the demo model in the real host; draws the icon.

python dev.py sheet
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import dev

from . import emblem, evaluate

SCALE, COLUMNS, CAPTION, CFG = 2, 4, 44, 3.0
THUMBNAIL = 1  # number of the prompt that the workflows show, and its seed
PROMPTS = (
    "a 3D fox on a light green background",
    "a flat rocket on a blue background",
    "a drawn watermelon on a yellow background",
    "a 3D penguin on a light blue background",
    "a flat jack-o-lantern on a black background",
    "a drawn sunflower on a blue background",
    "a 3D face with sunglasses on a purple background",
    "a drawn hamburger on a yellow background",
    "a drawn rainbow on a white background",
    "a 3D doughnut on a light blue background",
    "a drawn sun at the top and a flat house at the bottom on a light blue background",
    "a flat castle on a purple background",
)


def sheet(studio: evaluate.Studio) -> Image.Image:
    tiles = []
    for seed, prompt in enumerate(PROMPTS):
        picture = Image.fromarray((studio.paint([prompt], [seed], CFG)[0] * 255).round().astype(np.uint8))
        side = picture.width * SCALE
        tile = Image.new("RGB", (side + 12, side + CAPTION), "white")
        tile.paste(picture.resize((side, side), Image.LANCZOS), (6, 6))
        lines = textwrap.wrap(prompt, 46)
        ImageDraw.Draw(tile).multiline_text(
            (8, side + 9), "\n".join(lines), fill="#333", font=ImageFont.load_default(11)
        )
        tiles.append(tile)
    width, height = tiles[0].size
    out = Image.new("RGB", (width * COLUMNS, height * (len(tiles) // COLUMNS)), "white")
    for i, tile in enumerate(tiles):
        out.paste(tile, (i % COLUMNS * width, i // COLUMNS * height))
    return out


@torch.inference_mode()
def main() -> None:
    emblem.main()
    studio = evaluate.Studio()
    docs = dev.ROOT / "docs"
    docs.mkdir(exist_ok=True)
    sheet(studio).save(docs / "demo.png", optimize=True)
    picture = Image.fromarray((studio.paint([PROMPTS[THUMBNAIL]], [THUMBNAIL], CFG)[0] * 255).round().astype(np.uint8))
    for workflow in (dev.ROOT / "example_workflows").glob("*.json"):
        picture.resize((512, 512), Image.LANCZOS).save(Path(workflow).with_suffix(".jpg"), quality=88)


if __name__ == "__main__":
    main()
