"""Rotary frequencies for pictures larger than those of training, fixed or falling back to the trained ones as noise goes.

Shapes: B batch, L tokens, K head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .embeddings import PositionEmbedder, float64_device, rotary_frequencies, rotations

REFERENCE_AXIS = 0  # of position ids: which picture; it has no size
YARN_ALPHA, YARN_BETA = 1.0, 32.0  # turns; YaRN's for LLaMA
YARN_TEMPERATURE = 0.1
DYPE_SCALE, DYPE_EXPONENT = 2.0, 2.0  # DyPE's lambda_s and lambda_t


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies follow the size of a picture.

    method:      a key of METHODS.
    base_tokens: tokens along the side of a square picture of training's area.
    dype:        (lambda_s, lambda_t) of a scale that falls with the noise, see `scale_at`; None for a fixed one.
    turns:       YaRN's alpha and beta: pairs with fewer turns than alpha over the base are interpolated, those with more
                 than beta are kept.
    temperature: YaRN's, on the logits of all tokens, text too.
    """

    method: str = "yarn"
    base_tokens: float = 64.0
    dype: tuple[float, float] | None = (DYPE_SCALE, DYPE_EXPONENT)
    turns: tuple[float, float] = (YARN_ALPHA, YARN_BETA)
    temperature: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; it must be one of {', '.join(METHODS)}")
        if self.base_tokens <= 0:
            raise ValueError(f"base_tokens is {self.base_tokens:g}, expected a number above 0")
        if not self.turns[0] < self.turns[1]:
            raise ValueError(
                f"YaRN's alpha is {self.turns[0]:g} and beta is {self.turns[1]:g}; alpha must be the smaller one"
            )

    def scale_of(self, grid: tuple[int, int]) -> float:
        """How many times larger than in training a picture of (rows, columns) of tokens is along a side, by its area; at
        least 1. So a long picture of the trained area is none that is too large."""
        return max(1.0, math.sqrt(grid[0] * grid[1]) / self.base_tokens)


def scale_at(scale: float, time: Tensor, dype: tuple[float, float]) -> Tensor:
    """s^kappa(t) with kappa(t) = lambda_s t^lambda_t: 1, which is plain RoPE, where the noise ends.

    time:   (B,) in [0, 1], 1 = noise.
    source: DyPE, arXiv 2510.20766.
    """
    strength, exponent = dype
    return scale ** (strength * time.double() ** exponent)


def linear(frequencies: Tensor, scale: Tensor, scaling: RopeScaling) -> Tensor:
    """Positions divided by the scale. source: position interpolation, arXiv 2306.15595."""
    return frequencies / scale


def ntk(frequencies: Tensor, scale: Tensor, scaling: RopeScaling) -> Tensor:
    """theta becomes theta s^(d / (d - 2)): the fastest pair stays, the slowest is divided by s.

    source: bloc97, NTK-aware scaled RoPE, 2023; arXiv 2309.00071, definition 1.
    """
    dim = 2 * frequencies.shape[-1]
    if dim == 2:
        return frequencies  # one pair: the fastest
    exponent = torch.arange(0, dim, 2, dtype=torch.float64, device=frequencies.device) / dim
    return frequencies * scale ** (-exponent * dim / (dim - 2))


def yarn(frequencies: Tensor, scale: Tensor, scaling: RopeScaling) -> Tensor:
    """(1 - g) f / s + g f, where g rises from 0 to 1 with the turns that a pair makes over the base (NTK by parts).

    source: YaRN, arXiv 2309.00071, section 3.2.
    """
    alpha, beta = scaling.turns
    turns = scaling.base_tokens * frequencies / (2 * math.pi)
    kept = ((turns - alpha) / (beta - alpha)).clamp(0, 1)
    return (1 - kept) * frequencies / scale + kept * frequencies


Method = Callable[[Tensor, Tensor, RopeScaling], Tensor]
METHODS: Mapping[str, Method] = {"yarn": yarn, "ntk": ntk, "linear": linear}


class ScaledPositionEmbedder(PositionEmbedder):
    """A PositionEmbedder for large pictures; up to the base size it is the plain one."""

    def __init__(self, axes_dim: Sequence[int], theta: int, scaling: RopeScaling):
        super().__init__(axes_dim, theta)
        self.scaling = scaling

    def forward(self, ids: Tensor, timesteps: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """(1, L, A) ids -> (1, 1, L, K/2, 2, 2); (B, ...) where the scale follows the noise of B rows.

        timesteps: (B,) in [0, 1], 1 = noise. grid: rows and columns of the picture's tokens.
        """
        scale = 1.0 if grid is None else self.scaling.scale_of(grid)
        if scale == 1:
            return super().forward(ids)
        device = float64_device(ids)
        if self.scaling.dype is None or timesteps is None:
            scales = torch.full((1, 1), scale, dtype=torch.float64, device=device)
        else:
            scales = scale_at(scale, timesteps.to(device), self.scaling.dype)[:, None]
        method = METHODS[self.scaling.method]
        frequencies = []
        for axis, dim in enumerate(self.axes_dim):
            plain = rotary_frequencies(dim, self.theta, device).expand(len(scales), -1)
            frequencies.append(plain if axis == REFERENCE_AXIS else method(plain, scales, self.scaling))
        rows = ids.expand(len(scales), -1, -1) if len(ids) == 1 else ids
        frequencies = [f.expand(len(rows), -1) for f in frequencies]
        pe = torch.cat([rotations(row, [f[i] for f in frequencies]) for i, row in enumerate(rows)])
        if self.scaling.temperature:
            factor = 1 + YARN_TEMPERATURE * scales.log()
            pe = pe * factor.to(pe)[:, :, None, None, None, None]
        return pe
