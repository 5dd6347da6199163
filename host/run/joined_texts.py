"""The texts of one forward: prompts of differing lengths, and the negative text of attention guidance behind them.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Segments = tuple[tuple[tuple[int, int], ...], ...]  # of each row: (start, length) of each of its negative texts


@dataclass(frozen=True)
class Texts:
    """All text tokens of a forward, and who may see which.

    context:  (B, L, D), the prompts first.
    mask:     (B, L) integers or bool, nonzero where a token may be seen; None where all may.
    lengths:  of each row's prompt, where they differ or a negative text follows; `mask` says the same.
    segments: of the negative texts, in columns of `context`.
    starts:   the columns at which a text begins.
    """

    context: Tensor
    mask: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    segments: Segments | None = None
    starts: tuple[int, ...] = (0,)


def joined_texts(
    context: Tensor,
    mask: Tensor | None = None,
    lengths: tuple[int, ...] | None = None,
    negative: Tensor | None = None,
    segments: Segments | None = None,
) -> Texts:
    """Prompts (B, L, D), and behind them a negative text (B, N, D) whose segments are given in its own columns."""
    starts, num_prompt = (0,), context.shape[1]
    if negative is not None:
        context = torch.cat((context, negative), dim=1)
        segments = tuple(tuple((num_prompt + start, n) for start, n in row) for row in segments)
        starts += tuple(sorted({start for row in segments for start, _ in row}))
        lengths = lengths or (num_prompt,) * context.shape[0]
    if lengths is not None:
        columns = torch.arange(context.shape[1], device=context.device)
        mask = torch.stack([columns < n for n in lengths])  # no tensor of lengths, whose copy would wait for a GPU
    return Texts(context, mask, lengths, segments, starts)
