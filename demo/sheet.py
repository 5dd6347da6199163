"""Paints the README's sheet (docs/demo.png) and the workflows' thumbnails with the demo model in the real host; draws the icon.

python dev.py sheet
"""

from __future__ import annotations

import textwrap

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import dev

from . import emblem, evaluate

SCALE, COLUMNS, CAPTION, CFG = 2, 4, 44, 3.0
FIRST = "chroma_text_to_image"  # the workflow that shows the first of THUMBNAILS; the others go on from there, by their names
THUMBNAILS = (1, 6, 8, 2, 7, 9, 10, 0, 3, 4, 5)  # numbers of prompts, and their seeds
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


def painted(studio: evaluate.Studio, number: int) -> Image.Image:
    """The prompt of this number."""
    picture = studio.paint([PROMPTS[number]], [number], CFG)[0]
    return Image.fromarray((picture * 255).round().astype(np.uint8))


def sheet(studio: evaluate.Studio) -> Image.Image:
    tiles = []
    for seed, prompt in enumerate(PROMPTS):  # its number is its seed
        picture = painted(studio, seed)
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
    radiance = evaluate.Studio(file=evaluate.RADIANCE)
    workflows = (dev.ROOT / "example_workflows").glob("*.json")
    for i, workflow in enumerate(sorted(workflows, key=lambda path: (path.stem != FIRST, path.stem))):
        number = THUMBNAILS[i % len(THUMBNAILS)]
        picture = painted(radiance if "radiance" in workflow.stem else studio, number)
        picture.resize((512, 512), Image.LANCZOS).save(workflow.with_suffix(".jpg"), quality=88)


if __name__ == "__main__":
    main()
