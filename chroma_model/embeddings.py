"""Sinusoidal embeddings, position ids and rotary matrices. All are computed in float32 or better.

Shapes: B batch, L tokens, D width, H heads, K head size.
"""

from __future__ import annotations

import math
from typing import Sequence

import torch
from torch import Tensor, nn

TIME_FACTOR = 1000.0
MAX_PERIOD = 10_000.0


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of `1000 * t`: cosines first, then sines.

    t:       (N,) any real values; made float32, since bf16 is off by up to 3 after the factor of 1000.
    dim:     even.
    returns: (N, dim) float32.
    source:  FLUX. The float32 formula itself is part of the trained model: indices reach 343,000 rad, where another
             precision gives another answer.
    """
    half = dim // 2
    freqs = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    args = (TIME_FACTOR * t.float())[:, None] * freqs[None]
    return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)


def position_ids(
    num_txt: int,
    rows: int,
    columns: int,
    device: torch.device | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
    shift: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Ids of all tokens: text all zero, then image patches row by row as (0, row, column).

    scale, shift: of (row, column) ids; the identity unless a user stretches the grid.
    returns:      (num_txt + rows*columns, 3) float32; bf16 would make ids collide above 256.
    """
    ids = torch.zeros(num_txt + rows * columns, 3, dtype=torch.float32, device=device)
    row = torch.arange(rows, dtype=torch.float32, device=device) * scale[0] + shift[0]
    column = torch.arange(columns, dtype=torch.float32, device=device) * scale[1] + shift[1]
    ids[num_txt:, 1] = row.repeat_interleave(columns)
    ids[num_txt:, 2] = column.repeat(rows)
    return ids


def rotary_matrices(ids: Tensor, axes_dim: Sequence[int], theta: int) -> Tensor:
    """One 2x2 rotation for every token and every pair of channels.

    ids:     (L, A) float32, one column for each of the A axes.
    returns: (1, 1, L, sum(axes_dim)/2, 2, 2) float32, [[cos, -sin], [sin, cos]].
    source:  FLUX; angles are computed in float64, on the CPU if the device lacks it.
    """
    device = float64_device(ids)
    return rotations(ids, [rotary_frequencies(dim, theta, device) for dim in axes_dim])


def float64_device(ids: Tensor) -> torch.device:
    """Where angles are computed: MPS and some others have no float64."""
    return ids.device if ids.device.type in ("cpu", "cuda") else torch.device("cpu")


def rotary_frequencies(dim: int, theta: int, device: torch.device) -> Tensor:
    """theta^(-2i / dim) of the pairs i of an axis, (dim/2,) float64."""
    exponent = torch.linspace(0, (dim - 2) / dim, steps=dim // 2, dtype=torch.float64, device=device)
    return theta**-exponent


def rotations(ids: Tensor, frequencies: Sequence[Tensor]) -> Tensor:
    """The rotary matrices of ids (L, A) for these frequencies of each axis, as `rotary_matrices` gives them."""
    # moved first: MPS has no float64, even on the way
    angles = [ids[:, axis].to(f.device).double()[:, None] * f for axis, f in enumerate(frequencies)]
    angle = torch.cat(angles, dim=-1)  # (L, K/2)
    cos, sin = torch.cos(angle), torch.sin(angle)
    pe = torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))
    return pe[None, None].to(ids.device, torch.float32)


class PositionEmbedder(nn.Module):
    """`rotary_matrices` as a module, so that a host can put another in its place: (B, L, A) ids -> (B, 1, L, K/2, 2, 2).

    theta, axes_dim: what it works with, for those who put another there; the names are those of FLUX's own.
    """

    def __init__(self, axes_dim: Sequence[int], theta: int):
        super().__init__()
        self.axes_dim, self.theta = axes_dim, theta

    def forward(self, ids: Tensor) -> Tensor:
        return torch.cat([rotary_matrices(row, self.axes_dim, self.theta) for row in ids])


def apply_rope(x: Tensor, pe: Tensor) -> Tensor:
    """Rotates neighbouring channel pairs of x.

    x:       (B, H, L, K).
    pe:      (1, 1, L, K/2, 2, 2) from `rotary_matrices`; rows behind the last of x are not used.
    returns: (B, H, L, K) in the dtype of x; computed in float32, as a product of complex numbers: one pass, several
             times faster on a CPU than two products of real ones.
    """
    turn = torch.view_as_complex(pe[:, :, : x.shape[2], :, :, 0].contiguous())  # cos + i sin
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (B, H, L, K/2)
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)
