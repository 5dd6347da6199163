"""Chroma Inpaint Crop and Chroma Inpaint Stitch: what is under a mask, cut out, painted at full size, and put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..advice.sizes import size_of_area
from .shared.checked_node import CheckedNode
from .shared.inputs import number
from .shared.report import report

CATEGORY = "image/chroma"
MULTIPLE = 16  # pixels: 8 of the VAE, 2 of the patch
MIN_SIDE = 64  # pixels of the cut; fewer would show the model nothing
Cutout = io.Custom("CHROMA_CUTOUT")
Box = tuple[int, int, int, int]  # left, top, width, height in pixels


@dataclass(frozen=True)
class Place:
    """Where a cutout comes from. picture: (B, H, W, 3); mask: (B or 1, H, W), 1 where it is painted anew."""

    picture: Tensor
    mask: Tensor
    box: Box


def box_around(mask: Tensor, context: float) -> Box:
    """The masks' common box, `context` times as wide and high, inside of the picture.

    mask: (B, H, W), nonzero where something is painted anew.
    raises: ValueError for an empty mask.
    """
    seen = mask.amax(dim=0) > 0
    rows, columns = seen.any(dim=1).nonzero().flatten(), seen.any(dim=0).nonzero().flatten()
    if not len(rows):
        raise ValueError("the mask is empty. Paint over what shall be made anew (right-click the picture, MaskEditor)")
    top, height = _grown(int(rows[0]), int(rows[-1]) + 1, context, mask.shape[1])
    left, width = _grown(int(columns[0]), int(columns[-1]) + 1, context, mask.shape[2])
    return left, top, width, height


def _grown(first: int, end: int, context: float, limit: int) -> tuple[int, int]:
    """(start, length) of [first, end), made longer about its middle and moved to lie inside of [0, limit)."""
    length = min(limit, max(round((end - first) * context), MIN_SIDE))
    start = round((first + end - length) / 2)
    return min(max(start, 0), limit - length), length


def softened(mask: Tensor, feather: int) -> Tensor:
    """(B, H, W) that falls from 1 to 0 over about `feather` pixels outside of the mask."""
    if not feather:
        return mask
    reach = max(1, round(feather / 4))
    out = mask[:, None]
    for along_rows in (True, False):  # a box is its rows, then its columns, at far less cost
        out = F.max_pool2d(out, sides(4 * reach + 1, 1, along_rows), 1, sides(2 * reach, 0, along_rows))
    for _ in range(2):  # two boxes eat up just what was added, and reach as far beyond
        out = F.pad(out, (reach,) * 4, mode="replicate")
        for along_rows in (True, False):
            out = F.avg_pool2d(out, sides(2 * reach + 1, 1, along_rows), 1)
    return torch.maximum(out[:, 0], mask)


def sides(length: int, other: int, along_rows: bool) -> tuple[int, int]:
    """(height, width) of a box of this length along rows, or along columns."""
    return (other, length) if along_rows else (length, other)


def scaled(image: Tensor, width: int, height: int, method: str) -> Tensor:
    """(B, H, W, C) at another size."""
    if image.shape[1:3] == (height, width):
        return image
    return comfy.utils.common_upscale(image.movedim(-1, 1), width, height, method, "disabled").movedim(1, -1)


class ChromaInpaintCrop(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaInpaintCrop",
            display_name="Chroma Inpaint Crop",
            category=CATEGORY,
            description="Cuts out what lies around a mask, at a size that the model paints well. Chroma Inpaint Stitch puts "
            "what was painted back into the picture.",
            search_aliases=["crop and stitch", "inpaint crop", "detailer", "only masked", "inpaint at full resolution"],
            inputs=[
                io.Image.Input("image", tooltip="The whole picture."),
                io.Mask.Input("mask", tooltip="1 where the picture is made anew."),
                number(
                    "context",
                    1.5,
                    1.0,
                    10.0,
                    0.05,
                    "How much the model sees around the mask: width and height of the cut, as a multiple of the mask's. "
                    "Above 1 there is room for a soft edge.",
                ),
                number(
                    "megapixels",
                    1.0,
                    0.01,
                    16.0,
                    0.01,
                    "Area at which the cut is painted, whatever its size in the picture: 1 is that of 1024 x 1024 pixels.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The cut. Its sides are multiples of 16."),
                io.Mask.Output(tooltip="The mask in the cut."),
                Cutout.Output(display_name="cutout", tooltip="Where it came from, for Chroma Inpaint Stitch."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image: Tensor, mask: Tensor, context: float, megapixels: float) -> io.NodeOutput:
        height, width = image.shape[1:3]
        mask = mask.reshape(-1, *mask.shape[-2:]).float()
        if len(mask) not in (1, len(image)):
            raise ValueError(f"there are {len(mask)} masks for {len(image)} pictures. Take one, or as many as pictures")
        mask = scaled(mask[..., None], width, height, "bilinear")[..., 0].clamp(0, 1)
        box = left, top, across, down = box_around(mask, context)
        size = size_of_area(across, down, megapixels, MULTIPLE)
        cut, cut_mask = (
            image[:, top : top + down, left : left + across],
            mask[:, top : top + down, left : left + across],
        )
        report(
            cls,
            f"{across} x {down} of {width} x {height} pixels, from {left}, {top}; painted at {size[0]} x {size[1]} "
            f"(x {(size[0] * size[1] / (across * down)) ** 0.5:.2f})",
        )
        return io.NodeOutput(
            scaled(cut, *size, "lanczos"),
            scaled(cut_mask[..., None], *size, "bilinear")[..., 0],
            Place(image, mask, box),
        )


class ChromaInpaintStitch(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaInpaintStitch",
            display_name="Chroma Inpaint Stitch",
            category=CATEGORY,
            description="Puts what was painted in a cut of Chroma Inpaint Crop back into its picture. Outside of the mask "
            "and its soft edge every pixel stays as it was.",
            search_aliases=["crop and stitch", "inpaint stitch", "uncrop", "paste back"],
            inputs=[
                io.Image.Input("image", tooltip="The painted cut."),
                Cutout.Input("cutout", tooltip="From Chroma Inpaint Crop."),
                number(
                    "feather",
                    16,
                    0,
                    512,
                    1,
                    "Pixels of the whole picture over which the new fades into the old, outside of the mask.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The whole picture.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image: Tensor, cutout: Any, feather: int) -> io.NodeOutput:
        if not isinstance(cutout, Place):
            raise ValueError("cutout does not come from Chroma Inpaint Crop. Connect that node's last output")
        left, top, across, down = cutout.box
        painted = scaled(image[..., :3], across, down, "lanczos").clamp(0, 1)
        batch = max(len(painted), len(cutout.picture))
        if batch % len(painted) or batch % len(cutout.picture):
            raise ValueError(
                f"there are {len(painted)} painted cuts for {len(cutout.picture)} pictures. Paint one for each, or several "
                "of one picture"
            )
        whole = repeated(cutout.picture, batch).clone()
        part = whole[:, top : top + down, left : left + across, :3]
        weight = repeated(softened(cutout.mask, feather), batch)[:, top : top + down, left : left + across, None]
        part.copy_(torch.lerp(part, repeated(painted, batch).to(part), weight.to(part)))
        return io.NodeOutput(whole)


def repeated(rows: Tensor, batch: int) -> Tensor:
    """(B, ...) -> (batch, ...): all rows, then all of them again, as the host repeats a batch."""
    return comfy.utils.repeat_to_batch_size(rows, batch)
