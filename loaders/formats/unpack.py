"""Stored weights as dense tensors, in plain torch: every storage that `storage.storage_of` recognises, on any device.

Source: the layouts of comfy-kitchen 0.2.26 (Apache-2.0), against which the tests hold each of them, and the format study, 1.5.
Shapes: N output rows, K inputs.
"""

from __future__ import annotations

from typing import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..tensor_info import Part
from . import ggml
from .packed import unpack
from .recognise import FP8_FORMATS, GGML_TYPES, SCALED_FORMATS, round_up

CHUNK = 1 << 20  # weights at a time, so that what is in between stays small
TILE_ROWS, TILE_COLUMNS = 128, 4  # of the block scales of nvfp4 and mxfp8
NVFP4_BLOCK, MXFP8_BLOCK = 16, 32
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # an nvfp4 code without its sign
FP8_DTYPES = {format: dtype for dtype, format in FP8_FORMATS.items()}


def dense(part: Part, tensors: Mapping[str, Tensor]) -> Tensor:
    """One stored tensor, unpacked; a plain one as it is stored, all else in float32.

    tensors: the file's tensors by their names in it; only read.
    raises:  ValueError for a plain weight with a scale beside it that is not 1.
    """
    data = tensors[part.file_name]
    scales = {role: tensors[name] for role, name in part.scales.items()}
    format = part.storage.format
    if format is None:
        for role, scale in scales.items():
            if not bool((scale.float() == 1).all()):
                raise ValueError(
                    f"{part.file_name} is stored in 16 or 32 bits, but {part.scales[role]} beside it is "
                    f"{scale.flatten()[0].item():g}, expected 1. The file is damaged; take another version"
                )
        return data
    if format in GGML_TYPES:
        return _changed(ggml.dequantise(data, format, torch.float32).view(part.storage.shape), scales)
    if data.ndim != 2:  # a bias or a kernel in fp8
        data = data.view(FP8_DTYPES[format]).float()
        return data * scales["weight_scale"].float() if "weight_scale" in scales else data
    if format in SCALED_FORMATS:
        if format.startswith("float8"):
            data = data.view(FP8_DTYPES[format.rpartition("_")[0]])
        return _changed(unpack(data, scales["weight_scale"].float(), format, torch.float32), scales)
    return UNPACKERS[format](data, scales, part.storage.settings)


def by_rows(function: Callable[..., Tensor], columns: int, *tensors: Tensor) -> Tensor:
    """function of tensors' rows, a few at a time -> (N, columns) float32."""
    out = torch.empty(len(tensors[0]), columns, device=tensors[0].device)
    rows = max(1, CHUNK // columns)
    for start in range(0, len(out), rows):
        out[start : start + rows] = function(*(t[start : start + rows] for t in tensors))
    return out


def rotate(weight: Tensor, group: int) -> Tensor:
    """(N, K) times a Hadamard matrix on every `group` of columns. Twice gives the weight back.

    group: 4, 16, 64 or 256. The matrix is the regular one, the product of 4 by 4 ones, so that a column's largest
           number goes to all columns alike. Source: ConvRot.
    """
    h4 = torch.tensor(
        [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=weight.dtype, device=weight.device
    )
    h = h4
    while len(h) < group:
        h = torch.kron(h, h4)
    return (weight.unflatten(-1, (-1, group)) @ (h / group**0.5)).flatten(-2)


def untiled(scales: Tensor, rows: int, columns: int) -> Tensor:
    """Block scales in the order that tensor cores read -> (rows, columns)."""
    across = round_up(columns, TILE_COLUMNS) // TILE_COLUMNS
    tiles = scales.reshape(-1, across, TILE_ROWS // 4, 4, TILE_COLUMNS)  # (row tile, column tile, row, quarter, column)
    return tiles.permute(0, 3, 2, 1, 4).reshape(-1, across * TILE_COLUMNS)[:rows, :columns]


def _changed(weight: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
    """With the LoRA that was saved beside a packed weight; see `packed.Change`."""
    if "weight_up" in scales:
        weight = torch.addmm(weight, scales["weight_up"].float(), scales["weight_down"].float())
    if "weight_delta" in scales:
        weight = torch.addcmul(weight, scales["weight_delta"].float(), scales["weight_delta_scale"].float())
    return weight


def _fp8(data: Tensor, scales: Mapping[str, Tensor], settings: Mapping) -> Tensor:
    dtype = data.dtype if data.dtype in FP8_FORMATS else torch.float8_e4m3fn
    data = data.view(dtype).float()
    return data.mul_(scales["weight_scale"].float().reshape(())) if "weight_scale" in scales else data


def _fp8_e5m2(data: Tensor, scales: Mapping[str, Tensor], settings: Mapping) -> Tensor:
    return _fp8(data.view(torch.float8_e5m2), scales, settings)


def _int8(data: Tensor, scales: Mapping[str, Tensor], settings: Mapping) -> Tensor:
    scale = scales["weight_scale"].float().reshape(-1, 1).expand(len(data), 1)
    group = settings["convrot_groupsize"] if settings.get("convrot") else None

    def rows(codes: Tensor, scale: Tensor) -> Tensor:
        return codes * scale if group is None else rotate(codes * scale, group)

    return by_rows(rows, data.shape[1], data, scale)


def _w4a4(data: Tensor, scales: Mapping[str, Tensor], settings: Mapping) -> Tensor:
    """Two signed nibbles a byte, the low one first."""

    def rows(packed: Tensor, scale: Tensor) -> Tensor:
        codes = torch.stack(((packed << 4) >> 4, packed >> 4), dim=-1).flatten(-2)  # int8's shifts keep the sign
        return rotate(codes * scale, settings["convrot_groupsize"])

    return by_rows(rows, 2 * data.shape[1], data, scales["weight_scale"].float().reshape(-1, 1))


def _mxfp8(data: Tensor, scales: Mapping[str, Tensor], settings: Mapping) -> Tensor:
    columns = data.shape[1]
    exponents = untiled(scales["weight_scale"].view(torch.uint8), len(data), -(-columns // MXFP8_BLOCK))

    def rows(codes: Tensor, exponents: Tensor) -> Tensor:
        return codes.float() * torch.exp2(exponents.float() - 127).repeat_interleave(MXFP8_BLOCK, 1)[:, :columns]

    return by_rows(rows, columns, data.view(torch.float8_e4m3fn), exponents)


def _nvfp4(data: Tensor, scales: Mapping[str, Tensor], settings: Mapping) -> Tensor:
    """Two codes a byte, the high nibble first; a scale for 16, another for all, and one of the inputs' columns."""
    columns = 2 * data.shape[1]
    values = torch.tensor([*E2M1, *(-value for value in E2M1)], device=data.device)
    blocks = untiled(
        scales["weight_scale"].view(torch.float8_e4m3fn).float(), len(data), -(-columns // NVFP4_BLOCK)
    ) * scales["weight_scale_2"].float().reshape(())
    inputs = scales.get("pre_quant_scale", torch.ones((), device=data.device)).float()

    def rows(packed: Tensor, blocks: Tensor) -> Tensor:
        codes = torch.stack((packed >> 4, packed & 15), dim=-1).flatten(-2).int()
        return values[codes] * blocks.repeat_interleave(NVFP4_BLOCK, 1)[:, :columns] * inputs

    return by_rows(rows, columns, data.view(torch.uint8), blocks)


UNPACKERS: Mapping[str, Callable[[Tensor, Mapping[str, Tensor], Mapping], Tensor]] = {
    "float8_e4m3fn": _fp8,
    "float8_e5m2": _fp8_e5m2,
    "int8_tensorwise": _int8,
    "convrot_w4a4": _w4a4,
    "mxfp8": _mxfp8,
    "nvfp4": _nvfp4,
}


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Rows of a layer that a file stores in parts."""
    if len(parts) == 1:
        return parts[0]
    same = len({part.dtype for part in parts}) == 1
    return torch.cat(list(parts) if same else [part.float() for part in parts])
