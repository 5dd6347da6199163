"""Pictures that the model is shown beside the one it paints (FLUX.1 Kontext): their tokens, and where these stand.

Their tokens follow the image's through every block and are left out at the end. Source: FLUX.1 Kontext; the methods are
those of ComfyUI's Flux class.

Shapes: B batch, C channels, H rows, W columns, L tokens, D width, M modulations.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import torch
from torch import Tensor

from .embeddings import position_ids
from .latents import grid_size
from .modulation import Modulation, ModulationTable

OFFSET, INDEX, TIMESTEP_ZERO, UXO = METHODS = ("offset", "index", "index_timestep_zero", "uxo")


class References(NamedTuple):
    """latents:     each (B, C, H, W), of any size.
    method:      offset (Kontext's), index, index_timestep_zero or uxo: see `places`.
    modulations: (1 or B, M, D) of timestep 0, for index_timestep_zero; made where they are None.
    """

    latents: Sequence[Tensor] = ()
    method: str = OFFSET
    modulations: Tensor | None = None

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [(latent.shape[2], latent.shape[3]) for latent in self.latents]


NO_REFERENCES = References()


def places(sizes: Sequence[tuple[int, int]], method: str, size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(index, row, column) where each reference's ids begin; rows and columns are those of latents.

    sizes, size: (H, W) of the references and of the image, the latter in whole patches.

    offset: all at index 1, each below or beside those before it, so that the whole stays near a square.
    index:  at 1, 2, 3 ..., all from row and column 0; index_timestep_zero is the same, with modulations of timestep 0.
    uxo:    at index 0, along the diagonal behind the image.
    raises: ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"the references' method is {method!r}; it must be one of {', '.join(METHODS)}")
    if method in (INDEX, TIMESTEP_ZERO):
        return [(i + 1, 0, 0) for i in range(len(sizes))]
    found, taken = [], (0, 0)
    for height, width in sizes:
        if method == UXO:
            found.append((0, size[0] + taken[0], size[1] + taken[1]))
            taken = taken[0] + height, taken[1] + width
        else:
            beside = taken[0] + height > taken[1] + width
            row, column = (0, taken[1]) if beside else (taken[0], 0)
            found.append((1, row, column))
            taken = max(taken[0], row + height), max(taken[1], column + width)
    return found


def reference_ids(
    sizes: Sequence[tuple[int, int]],
    method: str,
    grid: tuple[int, int],
    patch_size: int,
    device: torch.device | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
    shift: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Position ids of all references' tokens.

    sizes:   (H, W) of each latent. grid: rows and columns of the image's patches.
    scale, shift: as in `position_ids`.
    returns: (L, 3) float32.
    """
    size = grid[0] * patch_size, grid[1] * patch_size
    out = [torch.empty(0, 3, device=device)]
    for (height, width), (index, row, column) in zip(sizes, places(sizes, method, size)):
        start = [(n + patch_size // 2) // patch_size + moved for n, moved in zip((row, column), shift)]
        ids = position_ids(0, *grid_size(height, width, patch_size), device, scale, (start[0], start[1]))
        ids[:, 0] = index
        out.append(ids)
    return torch.cat(out)


class TimestepZeroTable:
    """A `ModulationTable` that gives the rows of references the vectors of timestep 0; each vector is then (B, L, D)."""

    def __init__(self, table: ModulationTable, at_zero: Tensor, num_txt: int, num_img: int, num_ref: int):
        """at_zero: (1 or B, M, D)."""
        self.table, self.at_zero = table, at_zero
        self.num_txt, self.num_img, self.num_ref = num_txt, num_img, num_ref
        self.final = table.final

    def double(self, modulations: Tensor, index: int) -> tuple[tuple[Modulation, Modulation], ...]:
        (first, second), txt = self.table.double(modulations, index)
        (zero_first, zero_second), _ = self.table.double(self.at_zero, index)
        return (self._joined(first, zero_first, self.num_img), self._joined(second, zero_second, self.num_img)), txt

    def single(self, modulations: Tensor, index: int) -> Modulation:
        zero = self.table.single(self.at_zero, index)
        return self._joined(self.table.single(modulations, index), zero, self.num_txt + self.num_img)

    def _joined(self, first: Modulation, last: Modulation, num_first: int) -> Modulation:
        batch = max(len(first.shift), len(last.shift))
        pairs = ((a.expand(batch, num_first, -1), b.expand(batch, self.num_ref, -1)) for a, b in zip(first, last))
        return Modulation(*(torch.cat(pair, dim=1) for pair in pairs))
