"""Chroma Skip Blocks: double and single blocks left out of the run."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..chroma_model.block_lists import blocks_text, parse_blocks
from ..host.run.skip_blocks import WHOLE_RUN, SkippedBlocks, num_blocks
from .shared.checked_node import CheckedNode
from .shared.inputs import CATEGORY, model_input, number
from .shared.report import report


def percent(name: str, default: float, tooltip: str) -> io.Input:
    return number(name, default, 0.0, 1.0, 0.001, tooltip, optional=True, advanced=True)


class ChromaSkipBlocks(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaSkipBlocks",
            display_name="Chroma Skip Blocks",
            category=CATEGORY,
            description="Leaves chosen blocks of the model out, which makes each step faster and the picture a little different. "
            "Save Chroma Quantized then writes a file without them.",
            search_aliases=["SkipLayerForward", "prune", "pruning", "skip layers", "layer skip", "block skip"],
            inputs=[
                model_input("A Chroma or FLUX model. It is not changed; the output is a clone."),
                io.String.Input(
                    "double_blocks",
                    default="",
                    display_name="double blocks",
                    tooltip="Numbers of the double blocks to leave out, such as 3, 4 or 0-5. Empty: none. Chroma has 0 to 18.",
                ),
                io.String.Input(
                    "single_blocks",
                    default="",
                    display_name="single blocks",
                    tooltip="The same of the single blocks. Chroma has 0 to 37. Chroma Measure Blocks finds those that matter "
                    "least.",
                ),
                percent("start_percent", 0.0, "From which share of the run on they are left out, 0 to 1."),
                percent("end_percent", 1.0, "Up to which share of the run, 0 to 1."),
            ],
            outputs=[io.Model.Output(tooltip="The same model without these blocks.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        double_blocks: str = "",
        single_blocks: str = "",
        start_percent: float = 0.0,
        end_percent: float = 1.0,
    ) -> io.NodeOutput:
        if start_percent > end_percent:
            raise ValueError(
                f"start_percent is {start_percent:g} and end_percent is {end_percent:g}; start must not lie behind end"
            )
        counts = num_blocks(model)
        blocks = parse_blocks(double_blocks, counts, "double") | parse_blocks(single_blocks, counts, "single")
        if not blocks:
            report(cls, "no block is left out: the model is unchanged")
            return io.NodeOutput(model)
        text = f"{len(blocks)} of {sum(counts.values())} blocks left out: {blocks_text(blocks)}"
        if (start_percent, end_percent) != WHOLE_RUN:
            text += f"\nfrom {start_percent:.1%} to {end_percent:.1%} of the run"
        report(cls, text)
        return io.NodeOutput(SkippedBlocks(blocks, (start_percent, end_percent)).on(model))
