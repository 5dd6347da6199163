"""Chroma Padding: the text tokens as in training."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..chroma_model.padding import padding_mask, trim_padding
from .report import report


def trim_conditioning(conditioning: list[Any], num_pads: int) -> tuple[list[Any], list[str]]:
    """Every entry with its valid tokens and num_pads pads, guidance 0; and a line on each. The input is not changed."""
    out, lines = [], []
    for tokens, options in conditioning:
        options = {**options, "guidance": 0.0}
        before = tokens.shape[1]
        if "attention_mask_img_shape" in options:  # a style model's mask, over these very text and image tokens
            lines.append(f"{before} tokens: unchanged. Connect this node before the style model")
            out.append([tokens, options])
            continue
        valid = padding_mask(tokens, options.get("attention_mask"))
        if valid is None:
            lines.append(f"{before} tokens, none marked as padding: unchanged")
        else:
            tokens, keep = trim_padding(tokens, valid, num_pads)
            options.pop("attention_mask", None)
            lines.append(f"{before} tokens -> {tokens.shape[1]}")
            if not bool(keep.all()):
                options["attention_mask"] = keep.long()  # integers, since the host makes floats of everything else
                lines[-1] += f" (prompts of {int(keep.sum(1).min())} to {int(keep.sum(1).max())} tokens in one batch)"
        out.append([tokens, options])
    return out, lines


class ChromaPadMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaPadMask",
            display_name="Chroma Padding",
            category="conditioning/chroma",
            description="Keeps a prompt's real tokens and one pad token, as Chroma was trained, and removes the rest. "
            "Same picture as masking them, at less cost. Also sets guidance to 0.",
            search_aliases=["ChromaPaddingRemoval", "padding", "attention mask"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="From a text encoder's node; padded or not."),
                io.Int.Input(
                    "pad_tokens",
                    default=1,
                    min=0,
                    max=512,
                    display_name="pad tokens",
                    advanced=True,
                    tooltip="How many pad tokens stay, in tokens. Chroma was trained with 1.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="The same conditioning without superfluous pad tokens.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, conditioning: list[Any], pad_tokens: int = 1) -> io.NodeOutput:
        out, lines = trim_conditioning(conditioning, pad_tokens)
        report(cls, "\n".join(lines))
        return io.NodeOutput(out)
