"""Apply Style Model (Chroma): appends the tokens of a Redux-type style model to those of the text."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..chroma_model.padding import padding_mask
from ..constants import STYLE_MASK
from .shared.checked_node import CheckedNode
from .shared.report import report


def style_tokens(style_model: Any, clip_vision_output: Any, strength: float, part: float) -> Tensor:
    """The style model's tokens for the picture, (1, n, D); a batch's pictures follow one another.

    strength: factor on the tokens.
    part:     share of the tokens that is used, in [-1, 1]: the first ones, or the last ones below 0. They are scaled up
              to the norm of all tokens.
    source:   the host's StyleModelApply (multiply); the part is FluxMod's. Differs from FluxMod: a negative part too
              small for one token took all tokens there (Python's tokens[-0:]); here it takes none, as a positive one
              does. So the style does not jump from nearly nothing to everything as the part nears 0.
    """
    tokens = style_model.get_cond(clip_vision_output).flatten(0, 1)  # (pictures * n, D)
    kept = int(tokens.shape[0] * abs(part))
    chosen = tokens[:kept] if part >= 0 else tokens[tokens.shape[0] - kept :]
    if 0 < kept < tokens.shape[0]:
        norm, all_norm = chosen.float().norm(), tokens.float().norm()
        chosen = chosen * torch.where(norm > 0, all_norm / norm, 1.0).to(chosen.dtype)
    return (chosen * strength)[None]


def append_style(conditioning: list[Any], style: Tensor) -> list[Any]:
    """Every entry with the style's tokens (1, n, D) after its text; no mask hides them. The input is not changed.

    raises: ValueError if style and text differ in width.
    """
    out = []
    for text, options in conditioning:
        if text is None:
            out.append([text, options])
            continue
        if text.shape[-1] != style.shape[-1]:
            raise ValueError(
                f"the style model gives tokens of width {style.shape[-1]}, the text has {text.shape[-1]}. Load a style "
                "model for FLUX.1 (flux1-redux-dev), and the T5 encoder that belongs to Chroma"
            )
        options = dict(options)
        mask = options.get("attention_mask")
        if mask is not None:
            options["attention_mask"] = extended_mask(mask, text, style.shape[1], STYLE_MASK in options)
        out.append([torch.cat((text, style.expand(text.shape[0], -1, -1).to(text)), dim=1), options])
    return out


def extended_mask(mask: Tensor, text: Tensor, num_style: int, over_image: bool) -> Tensor:
    """The mask with room for num_style tokens after the text; it hides none of them, and nothing from them.

    mask: with over_image another style model's mask, (B, L_txt + L_img, L_txt + L_img), bool or added to attention's
          logits; otherwise a mask of text tokens, see `padding_mask`.
    """
    if not over_image:
        kinds = padding_mask(text, mask)
        return torch.cat((kinds, kinds.new_ones(kinds.shape[0], num_style)), dim=1)
    num_txt = text.shape[1]
    seen = mask.dtype == torch.bool  # True in a bool mask; 0 in one that is added
    size = mask.shape[-1] + num_style
    out = mask.new_full((*mask.shape[:-2], size, size), seen)
    old = torch.cat((torch.arange(num_txt), torch.arange(num_txt + num_style, size))).to(mask.device)
    out[..., old[:, None], old] = mask
    return out


class ChromaStyleModelApply(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaStyleModelApply",
            display_name="Apply Style Model (Chroma)",
            category="conditioning/chroma",
            description="Appends a picture's style to the prompt, through a style model of FLUX.1 Redux type.",
            search_aliases=["StyleModelApply", "redux", "style transfer", "image prompt"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The prompt. If you use Chroma Padding, connect it before this node."
                ),
                io.StyleModel.Input("style_model", display_name="style model", tooltip="From Load Style Model."),
                io.ClipVisionOutput.Input(
                    "clip_vision_output", display_name="CLIP vision output", tooltip="From CLIP Vision Encode."
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.001,
                    tooltip="Factor on the style's tokens: 1 keeps them as the style model gives them, 0 leaves them "
                    "out.",
                ),
                io.Float.Input(
                    "truncate_percent",
                    default=1.0,
                    min=-1.0,
                    max=1.0,
                    step=0.001,
                    display_name="part of the tokens",
                    tooltip="The share of the style's tokens that is used: 0.5 the first half, -0.5 the last half, 1 "
                    "or -1 all. The tokens used are scaled up to the strength of all. With fewer tokens the prompt "
                    "counts more.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt and the style. The input stays as it was.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        conditioning: list[Any],
        style_model: Any,
        clip_vision_output: Any,
        strength: float,
        truncate_percent: float = 1.0,
    ) -> io.NodeOutput:
        if strength == 0 or truncate_percent == 0:
            report(cls, "no style tokens: the conditioning is unchanged")
            return io.NodeOutput(conditioning)
        style = style_tokens(style_model, clip_vision_output, strength, truncate_percent)
        if not style.shape[1]:
            report(cls, "no style tokens: the part is smaller than one token. Take a larger one; 1 and -1 are all")
            return io.NodeOutput(conditioning)
        out = append_style(conditioning, style)

        def text() -> str:
            lengths = ", ".join(str(text.shape[1]) for text, _ in conditioning if text is not None)
            return f"{style.shape[1]} style tokens after {lengths} text tokens"

        report(cls, text)
        return io.NodeOutput(out)
