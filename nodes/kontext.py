"""Chroma Kontext Size: a picture to be edited, at a size that edit models know."""

from __future__ import annotations

from typing import Any, Mapping

import comfy.utils
from comfy_api.latest import io
from torch import Tensor

from ..advice.sizes import size_of_area, size_of_kontext
from .shared.checked_node import CheckedNode
from .shared.inputs import CATEGORY, choice, number
from .shared.report import report

PREFERRED, BY_AREA = "Kontext's sizes", "by area"


class ChromaKontextSize(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        area = [
            number("megapixels", 1.0, 0.01, 16.0, 0.01, "Area of the picture: 1 is that of 1024 x 1024 pixels."),
            number("multiple", 16, 16, 256, 16, "Width and height become multiples of this many pixels."),
        ]
        return io.Schema(
            node_id="ChromaKontextSize",
            display_name="Chroma Kontext Size",
            category=CATEGORY,
            description="Scales a picture to a size that edit models know, and gives the size for the empty latent.",
            search_aliases=["FluxKontextImageScale", "edit image size", "Kontext resolution", "scale to megapixels"],
            inputs=[
                io.Image.Input("image", tooltip="The picture to be edited, or a reference."),
                choice(
                    "mode",
                    "Kontext's sizes: the nearest in shape of the seventeen that FLUX.1 Kontext was trained at. by area: "
                    "the picture's own shape, at any area.",
                    {PREFERRED: [], BY_AREA: area},
                ),
            ],
            outputs=[
                io.Image.Output(
                    tooltip="The picture at that size, cut at the sides or above and below where it must be."
                ),
                io.Int.Output(display_name="width", tooltip="In pixels, for the empty latent."),
                io.Int.Output(display_name="height", tooltip="In pixels, for the empty latent."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image: Tensor, mode: Mapping[str, Any] | str | None = None) -> io.NodeOutput:
        values = dict(mode) if isinstance(mode, Mapping) else {"mode": mode}
        height, width = image.shape[1:3]
        if values["mode"] == BY_AREA:
            size = size_of_area(width, height, values["megapixels"], values["multiple"])
        else:
            size = size_of_kontext(width, height)
        scaled = comfy.utils.common_upscale(image.movedim(-1, 1), *size, "lanczos", "center").movedim(1, -1)
        shape, wanted = width / height, size[0] / size[1]
        cut = 1 - min(shape, wanted) / max(shape, wanted)
        report(
            cls, f"{width} x {height} -> {size[0]} x {size[1]} pixels" + (f", {cut:.1%} cut off" if cut > 5e-4 else "")
        )
        return io.NodeOutput(scaled, *size)
