"""Chroma Size: width and height by a ratio, within what the checkpoint is good for, or one of FLUX.1 Kontext's."""

from __future__ import annotations

from typing import Any, Mapping

from comfy_api.latest import io

from ..advice.presets import HD, PRESETS
from ..advice.sizes import AREAS, BY_RATIO, KONTEXT, KONTEXT_SIZES, RATIOS, STANDARD, size_of, size_of_text, tell
from .preset import recognised
from .shared.checked_node import CheckedNode
from .shared.inputs import CATEGORY, choice
from .shared.report import report

PIXELS = [f"{width} x {height}" for width, height in KONTEXT_SIZES]


class ChromaSize(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        ratio = io.Combo.Input("ratio", options=list(RATIOS), default="1:1", tooltip="Width to height.")
        area = io.Combo.Input(
            "area",
            options=list(AREAS),
            default=STANDARD,
            tooltip="standard: what the checkpoint's preset has. small, large: the ends of what it is good for.",
        )
        pixels = io.Combo.Input(
            "pixels",
            options=PIXELS,
            default="1024 x 1024",
            tooltip="The seventeen that FLUX.1 Kontext was trained at.",
        )
        return io.Schema(
            node_id="ChromaSize",
            display_name="Chroma Size",
            category=CATEGORY,
            description="Gives width and height for an empty latent, by a ratio and within what the checkpoint is good for.",
            search_aliases=[
                "resolution",
                "aspect ratio",
                "width height",
                "portrait",
                "landscape",
                "empty latent",
                "Kontext",
            ],
            inputs=[
                choice(
                    "size",
                    "by ratio: in whole tokens of 16 pixels, of an area that the checkpoint paints well. Kontext's sizes: about "
                    "a megapixel each.",
                    {BY_RATIO: [ratio, area], KONTEXT: [pixels]},
                ),
                io.Model.Input(
                    "model", optional=True, tooltip=f"The model that paints, whose range counts. Without it {HD}'s."
                ),
            ],
            outputs=[
                io.Int.Output(display_name="width", tooltip="In pixels, for an empty latent."),
                io.Int.Output(display_name="height", tooltip="In pixels, for an empty latent."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, size: Mapping[str, Any] | str | None = None, model: Any = None) -> io.NodeOutput:
        values = dict(size) if isinstance(size, Mapping) else {"size": size}
        name = HD if model is None else recognised(model, cls.hidden.unique_id).name
        if values["size"] == KONTEXT:
            found = size_of_text(values["pixels"])
        else:
            found = size_of(PRESETS[name], values["ratio"], values["area"])
        report(cls, lambda: tell(name, found))
        return io.NodeOutput(*found)
