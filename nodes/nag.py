"""Chroma NAG: a negative prompt inside attention, which also acts at cfg 1."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.run.nag import ALL, AttentionGuided, negative_text, parse_blocks
from ..host.run.network import network_of
from .shared.checked_node import CheckedNode
from .shared.inputs import CATEGORY, model_input, number, share
from .shared.report import report


class ChromaNAG(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaNAG",
            display_name="Chroma NAG",
            category=CATEGORY,
            description="Normalized attention guidance: moves attention away from a negative prompt. Works at cfg 1, "
            "where a sampler's own negative prompt does nothing, and together with cfg. For models from Load Chroma "
            "Model.",
            search_aliases=["NAG", "normalized attention guidance", "negative prompt", "NAGuidance"],
            inputs=[
                model_input("From Load Chroma Model."),
                io.Conditioning.Input("negative", tooltip="What the picture should not show."),
                number(
                    "scale",
                    2.0,
                    1.0,
                    50.0,
                    0.1,
                    "How far attention is moved away from the negative prompt; 1: not at all.",
                ),
                number(
                    "tau",
                    2.5,
                    1.0,
                    10.0,
                    0.01,
                    "How long attention's output may become, as a multiple of its length before.",
                    optional=True,
                ),
                share(
                    "alpha",
                    0.25,
                    "How much of the moved output replaces the original one; 0: none, 1: all of it.",
                    optional=True,
                ),
                share("start", 0.0, "Starts at this share of the run, 0 to 1.", optional=True, advanced=True),
                share(
                    "end",
                    1.0,
                    "Ends at this share of the run, 0 to 1. After it the negative prompt costs nothing.",
                    optional=True,
                ),
                io.String.Input(
                    "blocks",
                    default=ALL,
                    optional=True,
                    advanced=True,
                    tooltip="The blocks whose attention is guided: all, or a list such as double, single 0-9.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The same model with attention guidance.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        negative: list[Any],
        scale: float,
        tau: float = 2.5,
        alpha: float = 0.25,
        start: float = 0.0,
        end: float = 1.0,
        blocks: str = ALL,
    ) -> io.NodeOutput:
        if start > end:
            raise ValueError(f"start is {start:g} and end is {end:g}; start must not be above end. Change one of them")
        text, config = negative_text(negative), network_of(model).config
        counts = config.num_double_blocks, config.num_single_blocks
        chosen = parse_blocks(blocks, *counts)
        out = AttentionGuided(text, scale, tau, alpha, (start, end), chosen).on(model)
        num_blocks = sum(counts) if chosen is None else len(chosen)
        idle = scale == 1 or alpha == 0
        report(
            cls,
            lambda: (
                f"away from {int(text.segments[..., 1].sum(dim=1).max())} tokens, in {num_blocks} of {sum(counts)} "
                "blocks" + ("; with this scale or alpha it has no effect" if idle else "")
            ),
        )
        return io.NodeOutput(out)
