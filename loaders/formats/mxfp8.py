"""mxfp8: e4m3 with a power of two as scale for every 32 inputs. The host's layout."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

from ..tensor_info import Storage
from . import fp8
from .base.format import Format, Held, Matmul, Mode, Roles, Settings, Weight, joined_rows, marker_text
from .base.scale_tiles import TILE_ROWS, by_rows, tiled_shape, unpadded, untiled

NAME = "mxfp8"
HYBRID = "hybrid_mxfp8"  # of convert_to_quant: mxfp8, and a `weight_scalar` for devices that multiply fp8 only
LAYOUT = "TensorCoreMXFP8Layout"
BLOCK = 32
BIAS = 127  # of a stored exponent


def recognise(weight: Weight) -> Storage | None:
    is_bytes = weight.dtype == torch.uint8 and weight.named in (NAME, HYBRID) and "weight_scale_2" not in weight.beside
    if len(weight.shape) != 2 or not (is_bytes or weight.dtype == fp8.E4M3):
        return None
    if is_bytes and weight.scale is None:
        raise weight.lacks(marker_text(weight), "weight_scale")
    if not fp8.is_block_scaled(weight):
        return None
    if weight.scale.numel != _numel(*weight.shape):
        raise weight.misfit(weight.scale)
    shape = weight.unpadded(*weight.shape, BLOCK)
    padded = {"orig_shape": list(shape)} if shape != weight.shape else {}
    return Storage(NAME, shape, {**fp8.precision_settings(weight), **padded})


def _numel(rows: int, columns: int) -> int:
    tiles = tiled_shape(rows, columns, BLOCK)
    return tiles[0] * tiles[1]


def unpack(data: Tensor, beside: Roles, settings: Settings, dtype: torch.dtype) -> Tensor:
    columns = data.shape[1]
    exponents = untiled(beside["weight_scale"].view(torch.uint8), len(data), -(-columns // BLOCK))

    def rows(codes: Tensor, exponents: Tensor) -> Tensor:
        return codes.float() * torch.exp2(exponents.float() - BIAS).repeat_interleave(BLOCK, 1)[:, :columns]

    return unpadded(by_rows(rows, columns, dtype, data.view(fp8.E4M3), exponents), settings)


def hold(data: Tensor, beside: dict[str, Tensor], storage: Storage) -> Held:
    scale = beside["weight_scale"].view(torch.float8_e8m0fnu).view(tiled_shape(*storage.shape, BLOCK))
    return Held(NAME, data.view(fp8.E4M3), storage.shape, {"scale": scale})


def fuse(parts: Sequence[Held]) -> Held | None:
    """Joins parts of whole tiles."""
    if any(part.shape[0] % TILE_ROWS for part in parts):
        return None
    bits = torch.cat([part.fields["scale"].view(torch.uint8) for part in parts])
    return joined_rows(parts, scale=bits.view(torch.float8_e8m0fnu))


FORMATS = (
    Format(
        name=NAME,
        bits=8.25,
        error=0.02653,
        recognise=recognise,
        unpack=unpack,
        hold=hold,
        fuse=fuse,
        beside=("weight_scale", "weight_scalar", "input_scale"),
        marked={name: (fp8.E4M3, torch.uint8) for name in (NAME, HYBRID)},
        layout=LAYOUT,
        has_rows=False,
        matmul=Matmul(
            NAME,
            inputs=LAYOUT,
            supported="supports_mxfp8_compute",
            needs="needs an NVIDIA GPU of compute capability 10 and torch 2.10",
        ),
        modes=(Mode(NAME, 70),),
    ),
)
