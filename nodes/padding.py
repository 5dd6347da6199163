"""Chroma Padding: the text tokens as in training."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..chroma_model.padding import HIDDEN, VALID, padding_mask, trim_padding
from ..constants import STYLE_MASK, counted
from .shared.checked_node import CheckedNode
from .shared.report import report


def trim_conditioning(conditioning: list[Any], num_pads: int) -> tuple[list[Any], list[str]]:
    """Every entry with its valid tokens, num_pads pads and guidance 0; and a line about each. The input is not changed.

    Areas, masks, ranges of steps, hooks and whatever else an entry has stay as they are.
    raises: ValueError if an entry's text is not (B, L, D) or its mask does not fit.
    """
    out, lines = [], []
    for tokens, options in conditioning:
        options = {**options, "guidance": 0.0}
        if tokens is None:
            lines.append("an entry without text: unchanged")
        elif tokens.ndim != 3:
            raise ValueError(
                f"the conditioning has text of the shape {tuple(tokens.shape)} instead of (prompts, tokens, width); "
                "encode the prompt again"
            )
        elif STYLE_MASK in options:
            lines.append(f"{tokens.shape[1]} rows: unchanged. Connect this node before the style model")
        else:
            tokens, line = _trim(tokens, options, num_pads)
            lines.append(line)
        out.append([tokens, options])
    return out, lines


def _trim(tokens: Any, options: dict[str, Any], num_pads: int) -> tuple[Any, str]:
    """The tokens that stay, and what was done; sets or removes attention_mask in options."""
    before, mask = tokens.shape[1], options.pop("attention_mask", None)
    kinds = padding_mask(tokens, mask)
    if kinds is None:
        zeroed = before > 0 and not bool(tokens.any())
        return tokens, f"{before} rows, {'all zeroed' if zeroed else 'none marked as padding'}: unchanged"
    tokens, kinds = trim_padding(tokens, kinds, num_pads)
    num_tokens = (kinds == VALID).sum(dim=1).max()
    line = f"{before} rows -> {tokens.shape[1]}, for {counted(int(num_tokens), 'token')}"
    counts = (kinds != HIDDEN).sum(dim=1)
    if int(counts.min()) < tokens.shape[1]:
        options["attention_mask"] = kinds  # int64, since the host casts all but int32 and int64 to float
        line += f" (prompts of {int(counts.min())} to {int(counts.max())} rows in one batch)"
    if mask is not None and mask.shape[-1] != before:
        beyond = "only its start counts" if mask.shape[-1] > before else "text beyond it counts unless it is zero"
        line += f" (the mask is for {mask.shape[-1]}: {beyond})"
    return tokens, line


class ChromaPadMask(CheckedNode):
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
                io.Conditioning.Input("conditioning", tooltip="From a text encode node; padded or not."),
                io.Int.Input(
                    "pad_tokens",
                    default=1,
                    min=0,
                    max=512,
                    display_name="pad tokens",
                    advanced=True,
                    tooltip="Number of pad tokens that stay. Chroma was trained with 1.",
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
