"""Normalized attention guidance: moves attention's image rows away from those of a negative text."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6  # keeps the quotient of norms finite


def normalized_attention_guidance(positive: Tensor, negative: Tensor, scale: float, tau: float, alpha: float) -> Tensor:
    """Attention's output for the image rows, guided.

    positive: (B, L, D), attention over the prompt and the image.
    negative: (B, L, D), the same queries over the negative text and the image.
    scale:    strength; 1 changes nothing.
    tau:      largest ratio of the guided row's L1 norm to the positive row's.
    alpha:    how much of the guided row replaces the positive one, in [0, 1].
    returns:  (B, L, D).
    source:   Chen et al. 2025, arXiv:2505.21179, section 4; scale = 1 + their phi, as in their code.
    """
    guided = positive + (scale - 1) * (positive - negative)
    # In float32: the sum over thousands of values overflows float16.
    norms = [x.norm(p=1, dim=-1, keepdim=True, dtype=torch.float32) for x in (positive, guided)]
    guided = guided * (tau * norms[0] / norms[1].clamp_min(EPS)).clamp_max(1).to(guided.dtype)
    return positive + alpha * (guided - positive)
