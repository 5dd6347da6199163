"""Attention in the host: its kernel and patches, and rows with text of different lengths.

Written for ComfyUI 0.30. Shapes: B batch, H heads, L tokens, D width, K head size.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.quant_ops
import torch
from torch import Tensor

from ...chroma_model.embeddings import apply_rope
from ...chroma_model.nag import normalized_attention_guidance
from .joined_texts import Segments
from .nag import AttentionGuidance

TEXT_ROWS = "chroma_text_rows"  # in transformer_options, for one forward
OF_EACH_PROMPT = ("cond_or_uncond", "uuids")  # lists in transformer_options; an entry stands for B / len rows


@torch.compiler.disable  # patches and lengths are as they come; its kernels are compiled already
def host_attention(
    q: Tensor, k: Tensor, v: Tensor, pe: Tensor, mask: Tensor | None, options: Mapping[str, Any]
) -> Tensor:
    """The host's attention with its attn1 patches; shapes as in `chroma_model.ops.torch_attention`."""
    rows = options.get(TEXT_ROWS)
    by_rows = rows is not None and rows.mask is mask
    patches = options.get("patches", {})
    if mask is not None and mask.dtype == torch.bool and (patches.get("attn1_patch") or not by_rows):
        # Not all of the host's kernels take a boolean mask.
        mask = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -torch.finfo(q.dtype).max)
    for patch in patches.get("attn1_patch", ()):
        given = mask
        out = patch(q, k, v, pe=pe, attn_mask=mask, extra_options=options)
        q, k, v = out.get("q", q), out.get("k", k), out.get("v", v)
        pe, mask = out.get("pe", pe), out.get("attn_mask", mask)
        by_rows = by_rows and mask is given
    # The fused kernel has no backward pass and no CPU version.
    if comfy.model_management.in_training or q.device.type == "cpu":
        q, k = apply_rope(q, pe), apply_rope(k, pe)
    elif q.shape[2] != k.shape[2]:  # a patch has put kept keys behind (FluxKVCache)
        q, k = (comfy.quant_ops.ck.apply_rope1(x, pe[:, :, : x.shape[2]]) for x in (q, k))
    else:
        q, k = comfy.quant_ops.ck.apply_rope(q, k, pe)
    if by_rows:
        x = attention_by_rows(optimized_attention, q, k, v, rows, options)
    else:
        x = optimized_attention(q, k, v, options, mask)
    for patch in patches.get("attn1_output_patch", ()):
        x = patch(x, options)
    return x


def optimized_attention(
    q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any], mask: Tensor | None = None
) -> Tensor:
    """The kernel that the user chose at the host's start, or the one that a patch put in its place."""
    return comfy.ldm.modules.attention.optimized_attention(
        q, k, v, q.shape[1], skip_reshape=True, mask=mask, transformer_options=options
    )


@dataclass(frozen=True)
class TextRows:
    """How much text each row of a batch has, so that attention leaves the padding out instead of masking it.

    mask:      an equal key mask; if a patch replaces it, the new one counts.
    lengths:   of each row's text. Tokens [length, num_txt) of the joint sequence are padding, except the segments.
    segments:  (start, length) of each row's negative texts, seen by themselves and the image only: `attention_by_rows`.
    """

    mask: Tensor
    lengths: tuple[int, ...]
    num_txt: int
    segments: Segments | None = None
    guidance: AttentionGuidance | None = None
    bias: Tensor | None = None  # (B, ..., L, L) of a style model, over each row's own text and the image

    def groups(self) -> Iterator[tuple[slice, int, tuple[tuple[int, int], ...]]]:
        """(rows, length, segments) of neighbouring rows that share length and segments."""
        start = 0
        for (length, segments), rows in itertools.groupby(
            zip(self.lengths, self.segments or ((),) * len(self.lengths))
        ):
            stop = start + len(list(rows))
            yield slice(start, stop), length, segments
            start = stop


def attention_by_rows(
    attention: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, rows: TextRows, options: Mapping[str, Any]
) -> Tensor:
    """Attention for each length on its own tokens: kernels that take no mask can be used, and no pad is computed.

    A negative text of normalized attention guidance follows the prompt in the same sequence. Its own queries and, in a
    second attention, the image's see it, so the linear layers compute the image once.

    attention: (q, k, v, options, mask=None) -> (B, L, H*K); called as if those rows ran alone.
    q, k, v:   (B, H, L, K), rotary embedding applied.
    returns:   (B, L, H*K); zeros at padding.
    """
    out = q.new_zeros(q.shape[0], q.shape[2], q.shape[1] * v.shape[3])
    guided = rows.guidance is not None and rows.guidance.acts_in(options)
    for group, length, segments in rows.groups():
        alone = GroupAttention(
            attention, q[group], k[group], v[group], rows.num_txt, options_of(options, group, len(rows.lengths))
        )
        bias = rows.bias if rows.bias is None or rows.bias.shape[0] != q.shape[0] else rows.bias[group]
        x = alone(slice(0, length), True, bias)
        out[group, :length], image = x[:, :length], x[:, length:]
        negatives = []
        for start, n in segments:
            x = alone(slice(start, start + n), guided)
            out[group, start : start + n] = x[:, :n]
            negatives.append(x[:, n:])
        if guided and negatives:
            image = normalized_attention_guidance(
                image, sum(negatives) / len(negatives), rows.guidance.scale, rows.guidance.tau, rows.guidance.alpha
            )
        out[group, rows.num_txt :] = image
    return out


@dataclass(frozen=True)
class GroupAttention:
    """Attention in some rows of a batch that have text of one length.

    q, k, v: (B, H, L, K) of these rows. num_txt: columns of text in front of the image's.
    """

    attention: Callable[..., Tensor]
    q: Tensor
    k: Tensor
    v: Tensor
    num_txt: int
    options: Mapping[str, Any]

    def __call__(self, text: slice, image_too: bool, bias: Tensor | None = None) -> Tensor:
        """Attention among these text tokens and the image's, (B, L', H*K): for the queries of both, or of the text alone.

        bias: added to the logits, over these tokens.
        """
        mask = {} if bias is None else {"mask": bias}
        if text.start == 0 and text.stop == self.num_txt:
            return self.attention(self.q, self.k, self.v, self.options, **mask)
        queries = self._with_image(self.q, text) if image_too else self.q[:, :, text]
        return self.attention(
            queries, self._with_image(self.k, text), self._with_image(self.v, text), self.options, **mask
        )

    def _with_image(self, x: Tensor, text: slice) -> Tensor:
        return torch.cat((x[:, :, text], x[:, :, self.num_txt :]), dim=2)


def options_of(options: Mapping[str, Any], group: slice, batch: int) -> dict[str, Any]:
    """transformer_options as the host would make them for these rows of the batch alone."""
    out = dict(options)
    for name in OF_EACH_PROMPT:
        if options.get(name):
            rows = batch // len(options[name])
            out[name] = options[name][group.start // rows : math.ceil(group.stop / rows)]
    return out
