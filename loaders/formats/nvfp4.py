"""nvfp4: 4-bit floats, two a byte, an e4m3 scale for every 16 inputs, one scale for all. The host's layout."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

from ..tensor_info import Storage
from .base.format import Format, Held, Matmul, Mode, Roles, Settings, Weight, joined_rows
from .base.scale_tiles import TILE_ROWS, by_rows, tiled_shape, unpadded, untiled

NAME = "nvfp4"
LAYOUT = "TensorCoreNVFP4Layout"
BLOCK = 16
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # value of a code without its sign
SCALE_DTYPES = (torch.uint8, torch.float8_e4m3fn)
SCALED = {"scale": "recalculate"}


def recognise(weight: Weight) -> Storage | None:
    if weight.dtype != torch.uint8 or len(weight.shape) != 2:
        return None
    if "weight_scale_2" not in weight.beside and weight.named != NAME:
        return None
    for role in ("weight_scale", "weight_scale_2"):
        if role not in weight.beside:
            raise ValueError(f"{weight.label} is stored as nvfp4 but has no {role} beside it. Download the file again")
    rows, columns = weight.shape[0], 2 * weight.shape[1]
    scale, whole = weight.scale, weight.beside["weight_scale_2"]
    tiles = tiled_shape(rows, columns, BLOCK)
    if scale.numel != tiles[0] * tiles[1] or scale.dtype not in SCALE_DTYPES:
        raise weight.misfit(scale)
    if whole.numel != 1:
        raise weight.misfit(whole)
    shape = weight.unpadded(rows, columns, BLOCK)
    return Storage(NAME, shape, {"orig_shape": list(shape)} if shape != (rows, columns) else {})


def unpack(data: Tensor, beside: Roles, settings: Settings, dtype: torch.dtype) -> Tensor:
    """Two codes a byte, the high nibble first; a scale for 16 inputs, one for all, and perhaps one for each input."""
    columns = 2 * data.shape[1]
    values = torch.tensor([*E2M1, *(-value for value in E2M1)], device=data.device)
    blocks = untiled(beside["weight_scale"].view(torch.float8_e4m3fn).float(), len(data), -(-columns // BLOCK))
    blocks = blocks * beside["weight_scale_2"].float().reshape(())
    inputs = beside.get("pre_quant_scale", torch.ones((), device=data.device)).float()

    def rows(packed: Tensor, blocks: Tensor) -> Tensor:
        codes = torch.stack((packed >> 4, packed & 15), dim=-1).flatten(-2).int()
        return values[codes] * blocks.repeat_interleave(BLOCK, 1)[:, :columns] * inputs

    return unpadded(by_rows(rows, columns, dtype, data.view(torch.uint8), blocks), settings)


def hold(data: Tensor, beside: dict[str, Tensor], storage: Storage) -> Held:
    blocks = beside["weight_scale"].view(torch.float8_e4m3fn).view(tiled_shape(*storage.shape, BLOCK))
    scale = beside["weight_scale_2"].float().reshape(())
    return Held(NAME, data, storage.shape, {"scale": scale, "block_scale": blocks})


def fuse(parts: Sequence[Held]) -> Held | None:
    """Joins parts of whole tiles that have the same scale for all."""
    first = parts[0].fields["scale"]
    if any(part.shape[0] % TILE_ROWS or not bool(part.fields["scale"] == first) for part in parts):
        return None
    bits = torch.cat([part.fields["block_scale"].view(torch.uint8) for part in parts])
    return joined_rows(parts, block_scale=bits.view(torch.float8_e4m3fn))


FORMATS = (
    Format(
        name=NAME,
        bits=4.5,
        error=0.0951,
        recognise=recognise,
        unpack=unpack,
        hold=hold,
        fuse=fuse,
        beside=("weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale"),
        marked={NAME: (torch.uint8,)},
        layout=LAYOUT,
        has_rows=False,
        matmul=Matmul(
            NAME,
            SCALED,
            LAYOUT,
            0.3,
            "supports_nvfp4_compute",
            "needs an NVIDIA GPU of compute capability 10",
        ),
        modes=(Mode(NAME, 80, SCALED),),
    ),
)
