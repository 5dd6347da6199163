"""Chroma Compare Pictures: two pictures on one place, with a slider between them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from .shared.checked_node import CheckedNode
from .shared.report import only_tell, title

SHOWN = "chroma_compare"  # key in what the node gives to the page: the files of A and B


class ChromaComparePictures(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaComparePictures",
            display_name="Chroma Compare Pictures",
            category="image/chroma",
            description="Shows two pictures on one place, with a slider between them: drag it, or move it with the arrow "
            "keys. On the canvas and in Nodes 2.0.",
            search_aliases=["image compare", "slider", "before after", "A/B", "difference", "compare images"],
            inputs=[
                io.Image.Input(
                    "image_a", display_name="A", tooltip="The picture left of the slider; of a batch its first."
                ),
                io.Image.Input(
                    "image_b", display_name="B", tooltip="The picture right of the slider; of a batch its first."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="A, B", is_output_list=True, tooltip="Both, one after the other, for Save Image."
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image_a: Tensor, image_b: Tensor) -> io.NodeOutput:
        shown = only_tell(title(cls), lambda: {SHOWN: [*previews(cls, image_a), *previews(cls, image_b)]}, "")
        return io.NodeOutput([image_a, image_b], ui=shown or None)


def previews(node: type[io.ComfyNode], images: Tensor) -> list[Any]:
    """The first picture of a batch as a file of the host's folder for passing things."""
    return ui.PreviewImage(images[:1], cls=node).as_dict()["images"]
