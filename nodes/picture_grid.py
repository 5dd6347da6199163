"""Chroma Picture Grid: the pictures of a list in one, with labels."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

from ..tables.grid import across_of, draw, in_rows
from .shared.checked_node import CheckedNode
from .shared.inputs import number
from .shared.report import only_tell, title

MAX_SIDE = 4096  # pixels of a picture in the grid


def words(given: Sequence[str] | None) -> list[str]:
    """Labels that come as a list, or as one text with a label a line."""
    found = list(given or ())
    return found[0].strip().splitlines() if len(found) == 1 else found


class ChromaPictureGrid(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def label(name: str, shown: str, tooltip: str) -> io.Input:
            return io.String.Input(
                name,
                default="",
                multiline=True,
                optional=True,
                display_name=shown,
                tooltip=tooltip,
                dynamic_prompts=False,
            )

        return io.Schema(
            node_id="ChromaPictureGrid",
            display_name="Chroma Picture Grid",
            category="image/chroma",
            description="Lays the pictures of a list out in one picture, with labels: a contact sheet, or an XY plot.",
            search_aliases=["contact sheet", "XY plot", "image grid", "labels", "compare", "collage"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images", tooltip="A list, as it comes out of VAE Decode after Chroma Prompt List; or a batch."
                ),
                number(
                    "columns",
                    0,
                    0,
                    1000,
                    None,
                    "Pictures side by side. 0: as many as column labels, else about a square.",
                ),
                number(
                    "largest",
                    512,
                    16,
                    MAX_SIDE,
                    16,
                    "Longer side of each in the grid, in pixels; larger ones are made smaller.",
                ),
                label("labels", "labels", "Below the pictures: Chroma Prompt List's, or one a line."),
                label("column_labels", "column labels", "Above the columns, one a line."),
                label("row_labels", "row labels", "Beside the rows, one a line."),
            ],
            outputs=[io.Image.Output(tooltip="The grid, for Save Image.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: Sequence[Tensor],
        columns: Sequence[int] = (0,),
        largest: Sequence[int] = (512,),
        labels: Sequence[str] | None = None,
        column_labels: Sequence[str] | None = None,
        row_labels: Sequence[str] | None = None,
    ) -> io.NodeOutput:
        below, heads, sides = words(labels), words(column_labels), words(row_labels)
        of_batch = len(images) > 1 and len(below) == len(images)  # a label for each entry, which may be a batch
        cells = []
        for number_of_entry, batch in enumerate(images):
            for image in batch:
                at = number_of_entry if of_batch else len(cells)
                pixels = (255 * image[..., :3]).clamp(0, 255).byte()  # as the host's Save Image rounds
                picture = Image.fromarray(pixels.cpu().numpy())
                cells.append((picture, below[at] if at < len(below) else ""))
        across = columns[0] or len(heads) or across_of(len(cells))
        sheet = draw(in_rows(cells, across), largest[0], heads, sides)
        out = torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]
        shown = only_tell(title(cls), lambda: ui.PreviewImage(out, cls=cls), "")
        return io.NodeOutput(out, ui=shown or None)
