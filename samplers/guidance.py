"""Guidance: how the predictions for the prompt and the negative prompt become one. Stateless maths.

`cond` and `uncond` are the model's predictions of the data (denoised) unless a function asks for velocities:
velocity = (x - denoised) / sigma. CFG gives the same in both; forms that compare norms or angles do not.

Shapes: B batch; all other dimensions are one picture's.
"""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

EPS = 1e-8  # keeps a quotient of norms finite where a prediction is zero


def cfg(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance; the same for denoised and velocities.

    source: Ho and Salimans 2022, arXiv:2207.12598, with scale = 1 + their w.
    """
    return uncond + (cond - uncond) * scale


def cfg_zero_star(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """CFG-Zero*: CFG with the uncond velocity scaled to lie nearest to the cond one.

    cond, uncond: velocities. returns: a velocity.
    source:       Fan et al. 2025, arXiv:2503.18886, algorithm 1. ComfyUI's node puts the same factor on denoised
                  predictions, which is another formula.
    """
    factor = _dot(cond, uncond) / _dot(uncond, uncond).clamp_min(EPS)
    return cfg(cond, uncond * factor, scale)


def apg(
    cond: Tensor,
    uncond: Tensor,
    scale: float,
    average: Tensor | None = None,
    eta: float = 0.0,
    norm_threshold: float = 0.0,
    momentum: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Adaptive projected guidance: weakens the part of cond - uncond along cond, which oversaturates.

    cond, uncond:   denoised.
    average:        the second result of the previous evaluation, or None.
    eta:            share of the parallel part that stays; 1 is plain CFG.
    norm_threshold: largest L2 norm of one picture's difference, which grows with its size; 0 for no limit.
    momentum:       of the running average of differences; negative in the paper, 0 for none.
    returns:        denoised, and the average to hand to the next evaluation.
    source:         Sadat et al. 2024, arXiv:2410.02416, algorithm 1.
    """
    average = cond - uncond + (0 if average is None else momentum * average)
    difference = average
    if norm_threshold > 0:
        norm = _dot(difference, difference).sqrt()
        difference = difference * (norm_threshold / norm.clamp_min(EPS)).clamp_max(1)
    parallel = _dot(difference, cond) / _dot(cond, cond).clamp_min(EPS) * cond
    return cond + (scale - 1) * (difference - parallel + eta * parallel), average


def rescale(guided: Tensor, cond: Tensor, amount: float) -> Tensor:
    """Moves a guided velocity's standard deviation towards cond's.

    amount: 0 changes nothing, 1 gives exactly cond's value.
    source: Lin et al. 2023, arXiv:2305.08891, section 3.4; they use 0.7.
    """
    factor = _std(cond) / _std(guided).clamp_min(EPS)
    return guided * (amount * factor + 1 - amount)


def normalise(guided: Tensor, cond: Tensor) -> Tensor:
    """Limits a guided velocity's norm over channels to cond's norm, at each position.

    source: the "channel" renormalisation of BAGEL, Deng et al. 2025, arXiv:2505.14683.
    """
    lengths = cond.norm(dim=1, keepdim=True), guided.norm(dim=1, keepdim=True)
    return guided * (lengths[0] / lengths[1].clamp_min(EPS)).clamp_max(1)


def similarity(cond: Tensor, uncond: Tensor) -> Tensor:
    """Cosine of the angle between two velocities, (B,).

    source: adaptive guidance, Castillo et al. 2023, arXiv:2312.12487, which stops computing uncond above a threshold.
    """
    return torch.cosine_similarity(cond.flatten(1), uncond.flatten(1), dim=1)


def extrapolate(known: Sequence[tuple[float, Tensor]], sigma: float, trust: float = 1.0) -> Tensor:
    """The value at sigma on the line through the last two known (sigma, value); they must differ in sigma.

    trust: share of the line's slope that is taken; 0 repeats the last value.
    """
    (first, a), (second, b) = known[-2:]
    return b + (b - a) * (trust * (sigma - second) / (second - first))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Of each picture, (B, 1, ...)."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def _std(a: Tensor) -> Tensor:
    return a.std(dim=tuple(range(1, a.ndim)), keepdim=True)
