"""What a LoRA adds to a packed weight, kept beside the weight if that is not packed again.

Shapes: N output rows, K inputs, R rank.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RANKS = (32, 64, 128, 256)  # tried in turn; two usual LoRAs fit the first
OVERSAMPLING = 8
LOW_RANK_TOLERANCE = 0.01  # of the change itself
INT8_MAX = 127


class Change(NamedTuple):
    """What is added to a packed weight: up (N, R) @ down (R, K), or delta (N, K) int8 times delta_scale (N, 1)."""

    up: Tensor | None = None
    down: Tensor | None = None
    delta: Tensor | None = None
    delta_scale: Tensor | None = None


def change_between(wanted: Tensor, kept: Tensor, dtype: torch.dtype | None = None) -> Change:
    """What must be added to `kept` to get `wanted`, both (N, K) in the same type. dtype: of the factors, if given.

    A LoRA's change has low rank and comes back as two factors; any other as int8 with a scale per row, whose own error
    is 1 % of the change.
    """
    difference = wanted.float() - kept.float()
    size = difference.norm()
    # `wanted` was rounded to its type: by 0.21 eps of a weight in the mean (0.17 % for bfloat16).
    noise = 0.25 * torch.finfo(wanted.dtype).eps * wanted.float().norm()
    allowed = torch.maximum(LOW_RANK_TOLERANCE * size, noise)
    generator = torch.Generator(device="cpu").manual_seed(0)
    for rank in RANKS:
        if rank + OVERSAMPLING >= min(difference.shape):
            break
        # Randomised range finder: Halko, Martinsson and Tropp, 2011, algorithm 4.1.
        probe = torch.randn(difference.shape[1], rank + OVERSAMPLING, generator=generator).to(difference)
        basis = torch.linalg.qr(difference @ probe).Q
        down = basis.T @ difference
        if (size.square() - down.norm().square()).clamp_min(0).sqrt() <= allowed:  # the basis is orthonormal
            u, s, v = torch.linalg.svd(down, full_matrices=False)
            # Rounding noise gets no rank.
            needed = int((s > s[0] * torch.finfo(torch.float32).eps * down.shape[1]).sum())
            root = s[:needed].sqrt()
            up, down = basis @ u[:, :needed] * root, root[:, None] * v[:needed]
            return Change(up=up.to(dtype or wanted.dtype), down=down.to(dtype or wanted.dtype))
    scale = difference.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / INT8_MAX
    return Change(delta=(difference / scale).round().to(torch.int8), delta_scale=scale)
