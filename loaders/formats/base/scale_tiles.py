"""Block scales in the tiles that tensor cores read; and unpacking a few rows at a time."""

from __future__ import annotations

import math
from typing import Callable

import torch
from torch import Tensor

from .format import Settings, round_up

TILE_ROWS, TILE_COLUMNS = 128, 4
CHUNK = 1 << 20  # weights at a time, to keep intermediate tensors small


def tiled_shape(rows: int, columns: int, block: int) -> tuple[int, int]:
    """Shape of the scales of (rows, columns) weights in blocks of `block` columns, in whole tiles."""
    return round_up(rows, TILE_ROWS), round_up(math.ceil(columns / block), TILE_COLUMNS)


def untiled(scales: Tensor, rows: int, columns: int) -> Tensor:
    """Block scales in the order that tensor cores read -> (rows, columns)."""
    across = round_up(columns, TILE_COLUMNS) // TILE_COLUMNS
    tiles = scales.reshape(-1, across, TILE_ROWS // 4, 4, TILE_COLUMNS)  # (row tile, column tile, row, quarter, column)
    return tiles.permute(0, 3, 2, 1, 4).reshape(-1, across * TILE_COLUMNS)[:rows, :columns]


def unpadded(weight: Tensor, settings: Settings) -> Tensor:
    """Without the rows and columns that only fill blocks, see `Weight.unpadded`."""
    rows, columns = settings.get("orig_shape", weight.shape)
    return weight[:rows, :columns]


def by_rows(function: Callable[..., Tensor], columns: int, dtype: torch.dtype, *tensors: Tensor) -> Tensor:
    """Applies function to the tensors' rows, a few at a time -> (N, columns)."""
    out = torch.empty(len(tensors[0]), columns, dtype=dtype, device=tensors[0].device)
    rows = max(1, CHUNK // columns)
    for start in range(0, len(out), rows):
        out[start : start + rows] = function(*(t[start : start + rows] for t in tensors))
    return out
