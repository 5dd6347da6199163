"""4-bit integers, two a byte, with a scale for each row of rotated inputs (ConvRot). The host's layout."""

from __future__ import annotations

import torch
from torch import Tensor

from ..files.error_text import short
from ..tensor_info import Storage
from .base.format import SCALE_FLOATS, Format, Held, Matmul, Roles, Settings, Weight
from .base.hadamard import rotate, rotates
from .base.scale_tiles import by_rows

NAME = "convrot_w4a4"
LINEAR_DTYPES = ("int4", "int8")  # types that it may be multiplied in
USUAL_GROUP = 256
INPUT_GROUP = 64  # inputs of a layer that share a scale when they are rounded


def recognise(weight: Weight) -> Storage | None:
    if weight.dtype != torch.int8 or len(weight.shape) != 2 or weight.named != NAME:
        return None
    scale, (rows, columns) = weight.scale, weight.shape
    group, kind = weight.setting("convrot_groupsize", USUAL_GROUP), weight.setting("linear_dtype", LINEAR_DTYPES[0])
    if scale is None:
        raise ValueError(f"{weight.label} is stored as int8 but has no weight_scale beside it. Download the file again")
    if scale.numel != rows or scale.dtype not in SCALE_FLOATS or not rotates(2 * columns, group):
        raise weight.misfit(scale)
    if kind not in LINEAR_DTYPES:
        raise ValueError(f"{weight.label} is marked for {short(kind)}, expected {' or '.join(LINEAR_DTYPES)}")
    return Storage(NAME, (rows, 2 * columns), {"convrot_groupsize": group, "linear_dtype": kind})


def unpack(data: Tensor, beside: Roles, settings: Settings, dtype: torch.dtype) -> Tensor:
    """Two signed nibbles a byte, the low one first."""

    def rows(packed: Tensor, scale: Tensor) -> Tensor:
        codes = torch.stack(((packed << 4) >> 4, packed >> 4), dim=-1).flatten(-2)  # int8's shifts keep the sign
        return rotate(codes * scale, settings["convrot_groupsize"])

    return by_rows(rows, 2 * data.shape[1], dtype, data, beside["weight_scale"].float().reshape(-1, 1))


def hold(data: Tensor, beside: dict[str, Tensor], storage: Storage) -> Held:
    fields = {"scale": beside["weight_scale"].float(), "quant_group_size": INPUT_GROUP, **storage.settings}
    return Held(NAME, data, storage.shape, fields)


FORMATS = (
    Format(
        name=NAME,
        bits=4 + 32 / 3072,
        error=0.168,
        recognise=recognise,
        unpack=unpack,
        hold=hold,
        beside=("weight_scale",),
        marked={NAME: (torch.int8,)},
        layout="TensorCoreConvRotW4A4Layout",
        has_rows=False,
        unpacked_here=True,
        matmul=Matmul("w4a4", {"convrot_groupsize": 64}, limit=0.4),
    ),
)
