"""The Approximator, and the table of which of its output rows belong to which block.

Shapes: B batch, M modulations, D width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .config import (
    VECTORS_FINAL,
    VECTORS_PER_SINGLE,
    VECTORS_PER_STREAM,
    ApproximatorConfig,
    ChromaConfig,
)
from .embeddings import timestep_embedding

RMS_NORM_EPS = 1e-6  # the trainer's; torch's default would be the dtype's epsilon, 1.2e-7


class Modulation(NamedTuple):
    """Shift, scale and gate of one sublayer, each (B, 1, D)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class MLPEmbedder(nn.Module):
    """Linear, SiLU, Linear; the residual branch of the Approximator."""

    def __init__(self, dim: int, layers: Any, **factory: Any):
        super().__init__()
        self.in_layer = layers.Linear(dim, dim, bias=True, **factory)
        self.out_layer = layers.Linear(dim, dim, bias=True, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(nn.functional.silu(self.in_layer(x)))


class Approximator(nn.Module):
    """One MLP that stands in for all of FLUX's modulation weights. Lives at `distilled_guidance_layer`."""

    def __init__(self, config: ApproximatorConfig, layers: Any = nn, **factory: Any):
        super().__init__()
        self.in_proj = layers.Linear(config.in_dim, config.hidden_dim, bias=True, **factory)
        self.layers = nn.ModuleList(MLPEmbedder(config.hidden_dim, layers, **factory) for _ in range(config.num_layers))
        self.norms = nn.ModuleList(
            layers.RMSNorm(config.hidden_dim, eps=RMS_NORM_EPS, **factory) for _ in range(config.num_layers)
        )
        self.out_proj = layers.Linear(config.hidden_dim, config.out_dim, bias=True, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, M, in_dim) float32 -> (B, M, out_dim) float32."""
        x = self.in_proj(x)
        for layer, norm in zip(self.layers, self.norms):
            x = x + layer(norm(x))
        return self.out_proj(x)


def approximator_input(timesteps: Tensor, guidance: Tensor, num_modulations: int, in_dim: int) -> Tensor:
    """What the Approximator sees: for each row, the timestep, the guidance and the row's own index.

    timesteps, guidance: (B,).
    returns: (B, M, in_dim) float32, widths in_dim/4 (timestep), in_dim/4 (guidance), in_dim/2 (index).
    """
    t = timestep_embedding(timesteps, in_dim // 4)
    g = timestep_embedding(guidance, in_dim // 4)
    index = torch.arange(num_modulations, dtype=torch.float32, device=timesteps.device)
    i = timestep_embedding(index, in_dim // 2)
    tg = torch.cat([t, g], dim=-1)[:, None].expand(-1, num_modulations, -1)
    return torch.cat([tg, i[None].expand(tg.shape[0], -1, -1)], dim=-1)


class ModulationTable:
    """Block -> rows of the Approximator's result, in the trained order: single, img, txt, final."""

    def __init__(self, config: ChromaConfig):
        singles = VECTORS_PER_SINGLE * config.num_single_blocks
        stream = VECTORS_PER_STREAM * config.num_double_blocks
        self.rows: dict[tuple[str, int], tuple[int, int]] = {}  # (part, block index) -> (offset, count)
        for i in range(config.num_single_blocks):
            self.rows["single", i] = VECTORS_PER_SINGLE * i, VECTORS_PER_SINGLE
        for i in range(config.num_double_blocks):
            self.rows["img", i] = singles + VECTORS_PER_STREAM * i, VECTORS_PER_STREAM
            self.rows["txt", i] = singles + stream + VECTORS_PER_STREAM * i, VECTORS_PER_STREAM
        if config.nerf is None:  # on pixels there is no final layer
            self.rows["final", 0] = singles + 2 * stream, VECTORS_FINAL

    def take(self, modulations: Tensor, part: str, index: int = 0) -> tuple[Tensor, ...]:
        """The vectors of one block, each (B, 1, D), from modulations (B, M, D)."""
        offset, count = self.rows[part, index]
        return modulations[:, offset : offset + count].split(1, dim=1)

    def single(self, modulations: Tensor, index: int) -> Modulation:
        return Modulation(*self.take(modulations, "single", index))

    def double(self, modulations: Tensor, index: int) -> tuple[tuple[Modulation, Modulation], ...]:
        """((img attention, img MLP), (txt attention, txt MLP))."""
        img, txt = self.take(modulations, "img", index), self.take(modulations, "txt", index)
        return tuple((Modulation(*v[:3]), Modulation(*v[3:])) for v in (img, txt))

    def final(self, modulations: Tensor) -> tuple[Tensor, Tensor]:
        """(shift, scale) of the final layer."""
        shift, scale = self.take(modulations, "final")
        return shift, scale
