"""Chroma Measure Blocks: which blocks of a model matter least."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..chroma_model.block_lists import blocks_text, numbers_text
from ..host.run.probe import least_of, measure_blocks
from .shared.canvas import chart
from .shared.checked_node import CheckedNode
from .shared.inputs import CATEGORY, model_input, number, positive_input, seed_input
from .shared.report import only_tell, report, title

MAX_COUNT = 56


class ChromaMeasureBlocks(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaMeasureBlocks",
            display_name="Chroma Measure Blocks",
            category=CATEGORY,
            description="Leaves out one block after the other and measures how much the network's output changes. Draws it, and "
            "names the blocks that matter least for Chroma Skip Blocks.",
            search_aliases=["block importance", "prune", "pruning", "skip layers", "layer importance"],
            inputs=[
                model_input("A Chroma or FLUX model, with its LoRAs. It is not changed."),
                positive_input(),
                io.Latent.Input(
                    "latent", tooltip="Its size is the picture's; 512 x 512 has a quarter of the tokens of 1024 x 1024."
                ),
                number(
                    "count", 4, 1, MAX_COUNT, None, "How many of the blocks that matter least are named in the outputs."
                ),
                seed_input("Chooses the noise."),
                number(
                    "steps",
                    3,
                    1,
                    50,
                    None,
                    "At how many noise levels to measure: those of a run of so many steps. Each takes a forward per block.",
                    optional=True,
                ),
            ],
            outputs=[
                io.String.Output(display_name="double blocks", tooltip="For Chroma Skip Blocks."),
                io.String.Output(display_name="single blocks", tooltip="For Chroma Skip Blocks."),
                io.Image.Output(tooltip="A bar for each block."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model: Any, positive: list[Any], latent: Any, count: int, seed: int = 0, steps: int = 3
    ) -> io.NodeOutput:
        changes, together = measure_blocks(model, positive, latent, steps, seed, count)
        least = least_of(changes, count)
        summary = f"the {len(least)} that matter least: {blocks_text(least)}"
        names = [f"{kind} {index}" for kind, index in changes]
        lines = ["Change of the output when a block is left out", summary, f"all of these left out: {together:.1%}"]
        image = chart(lines, names, [("change", list(changes.values()))], "relative change", bars=True)
        most = sorted(changes, key=changes.get, reverse=True)[:3]
        told = ", ".join(f"{kind} {index} ({changes[kind, index]:.1%})" for kind, index in most)
        report(cls, f"{summary}\nall of these left out change the output by {together:.1%}\nmost matter: {told}")
        numbers = [numbers_text(index for of, index in least if of == kind) for kind in ("double", "single")]
        shown = only_tell(title(cls), lambda: ui.PreviewImage(image, cls=cls), "")
        return io.NodeOutput(*numbers, image, ui=shown or None)
