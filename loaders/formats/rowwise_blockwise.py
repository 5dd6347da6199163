"""fp8 with a scale for each row or block of rows and columns, int8 with one for each block; the host has no layout."""

from __future__ import annotations

import functools
from typing import Sequence

import torch
from torch import Tensor

from ..tensor_info import Storage
from . import fp8, int8
from .base.format import (
    SCALE_FLOATS,
    Format,
    Held,
    Roles,
    Settings,
    Weight,
    hold_own,
    is_changed,
    joined_rows,
    scale_per_row,
)

FUSES = ("cpu", "cuda", "xpu")  # devices whose kernels take operands of several types and round once into a third
BITS = 8 + 32 / 3072  # a float32 scale a row
INT8 = "int8"


def recognise(element: torch.dtype, suffix: str, weight: Weight) -> Storage | None:
    """Scales are per row, (N,) or (N, 1), or per block of n x k, (N/n, K/k); n and k divide the weight's sizes."""
    if len(weight.shape) != 2 or _element(weight) != element:
        return None
    scale, (rows, columns) = weight.scale, weight.shape
    if scale.dtype not in SCALE_FLOATS:
        raise weight.misfit(scale)
    is_rowwise = scale.shape in ((rows,), (rows, 1)) and element != torch.int8
    if is_rowwise != (suffix == "_rowwise"):
        return None
    shape = scale.shape[:-1] if len(scale.shape) == 3 and scale.shape[-1] == 1 else scale.shape
    if not is_rowwise and (len(shape) != 2 or 0 in shape or rows % shape[0] or columns % shape[1]):
        raise weight.misfit(scale)
    return Storage(_name(element) + suffix, weight.shape)


def _element(weight: Weight) -> torch.dtype | None:
    """The type of the values, if the scales beside them are of rows or blocks; else None."""
    scale = weight.scale
    if scale is None:
        return None
    if weight.dtype == torch.int8:  # with one scale, with one a row, and where rows are rotated it is the host's kind
        other = int8.is_scaled_by_row(weight) or weight.named == "convrot_w4a4" or weight.setting("convrot", False)
        return None if other or scale.dtype not in SCALE_FLOATS else torch.int8
    element = fp8.element(weight)
    if scale.numel == 1 and scale.dtype in SCALE_FLOATS:
        return None
    return None if element == fp8.E4M3 and fp8.is_block_scaled(weight) else element


def unpack(element: torch.dtype, data: Tensor, beside: Roles, settings: Settings, dtype: torch.dtype) -> Tensor:
    data, scale = data.view(element), beside["weight_scale"]
    rows, columns = data.shape
    by_row = scale.ndim == 1 or scale.shape == (rows, 1)
    n, k = (rows, 1) if by_row else scale.shape[:2]
    values = data.to(dtype).view(n, rows // n, k, columns // k)  # 8 bits are exact in every type
    scale = scale.float().view(n, 1, k, 1)
    if data.device.type in FUSES:  # in float32 inside, rounded once
        return torch.mul(values, scale, out=torch.empty_like(values)).view(rows, columns)
    return (values * scale).to(dtype).view(rows, columns)


def hold(element: torch.dtype, data: Tensor, beside: dict[str, Tensor], storage: Storage) -> Held:
    return hold_own(data.view(element), beside, storage)


def fuse_rows(parts: Sequence[Held]) -> Held | None:
    return None if any(map(is_changed, parts)) else joined_rows(parts, scale=scale_per_row(parts))


def fuse_blocks(parts: Sequence[Held]) -> Held | None:
    """Joins parts whose blocks have the same height."""
    heights = {part.shape[0] // part.fields["scale"].shape[0] for part in parts}
    if len(heights) > 1 or any(map(is_changed, parts)):
        return None
    return joined_rows(parts, scale=torch.cat([part.fields["scale"] for part in parts]))


def _name(element: torch.dtype) -> str:
    return fp8.NAMES.get(element, INT8)


def _format(element: torch.dtype, suffix: str, error: float) -> Format:
    return Format(
        name=_name(element) + suffix,
        bits=BITS,
        error=error,
        recognise=functools.partial(recognise, element, suffix),
        unpack=functools.partial(unpack, element),
        hold=functools.partial(hold, element),
        fuse=fuse_rows if suffix == "_rowwise" else fuse_blocks,
    )


FORMATS = (
    _format(fp8.E4M3, "_rowwise", 0.02646),
    _format(fp8.E4M3, "_blockwise", 0.02646),
    _format(fp8.E5M2, "_rowwise", 0.0528),
    _format(fp8.E5M2, "_blockwise", 0.0528),
    _format(torch.int8, "_blockwise", 0.00927),
)
