"""int8 with one scale for a tensor or for each row, as it is or rotated (ConvRot). The host's layout."""

from __future__ import annotations

from typing import Any, Sequence

import torch
from torch import Tensor

from ..files.error_text import short
from ..tensor_info import Storage
from .base.format import (
    SAFETENSORS,
    SCALE_FLOATS,
    Export,
    Format,
    Held,
    Matmul,
    Mode,
    Roles,
    Settings,
    Weight,
    joined_rows,
    scale_per_row,
)
from .base.hadamard import rotate, rotates, rotation_group
from .base.scale_tiles import by_rows

NAME = "int8_tensorwise"
MAX = 127
USUAL_GROUP = 256
CONVROT = "convrot"
QUAROT = "quarot"  # in markers of ComfyUI-INT8-Fast, which name no format; scales are one a row
TRIED = {"per_channel": True, "convrot": True, "convrot_groupsize": USUAL_GROUP}


def recognise(weight: Weight) -> Storage | None:
    if weight.dtype != torch.int8 or len(weight.shape) != 2 or weight.named == "convrot_w4a4":
        return None
    scale, (rows, columns) = weight.scale, weight.shape
    if scale is None:
        raise ValueError(f"{weight.label} is stored as int8 but has no weight_scale beside it. Download the file again")
    word = rotation_word(weight)
    rotated, group = weight.setting(word, False), weight.setting(f"{word}_groupsize", USUAL_GROUP)
    if type(rotated) is not bool:
        raise ValueError(f"{weight.label} has {word} {short(rotated)} in its marker, expected true or false")
    fitting = (rows,) if rotated and word == QUAROT else (1, rows)
    if scale.dtype not in SCALE_FLOATS or (rotated and scale.numel not in fitting):
        raise weight.misfit(scale)
    if not is_scaled_by_row(weight):
        return None  # scales of blocks
    # With one scale it is not rotated: who rotates without a marker (convert_to_quant) gives each row one.
    if scale.numel != 1 and not weight.named and weight.setting(word) is None:
        raise ValueError(
            f"{weight.label} is stored as int8, and no comfy_quant marker says whether its rows are rotated. Take a "
            "file with such markers"
        )
    if not rotated:
        return Storage(NAME, weight.shape)
    if not rotates(columns, group):
        raise ValueError(
            f"{weight.label} has {columns} inputs, which its rotation in groups of {short(group)} does not fit: "
            "expected a power of 4 that divides them. Download the file again"
        )
    return Storage(NAME, weight.shape, {"convrot": True, "convrot_groupsize": group})


def is_scaled_by_row(weight: Weight) -> bool:
    """One scale, or one a row. A grid of blocks may have as many numbers as the weight has rows, but not in that shape."""
    scale, rows = weight.scale, weight.shape[0]
    return scale.numel == 1 or (scale.numel == rows and scale.shape[0] in (1, rows))


def rotation_word(weight: Weight) -> str:
    """The marker's word for the rotation; both words mean the same."""
    return QUAROT if weight.setting(QUAROT) is not None else CONVROT


def unpack(data: Tensor, beside: Roles, settings: Settings, dtype: torch.dtype) -> Tensor:
    scale = beside["weight_scale"].float().reshape(-1, 1).expand(len(data), 1)
    group = settings["convrot_groupsize"] if settings.get("convrot") else None

    def rows(codes: Tensor, scale: Tensor) -> Tensor:
        return codes * scale if group is None else rotate(codes * scale, group)

    return by_rows(rows, data.shape[1], dtype, data, scale)


def hold(data: Tensor, beside: dict[str, Tensor], storage: Storage) -> Held:
    scale = beside["weight_scale"].float()
    scale = scale.reshape(()) if scale.numel() == 1 else scale.reshape(-1, 1)
    return Held(NAME, data, storage.shape, {"scale": scale, **storage.settings})


def fuse(parts: Sequence[Held]) -> Held | None:
    """Joins parts that are rotated alike."""
    if len({(p.fields.get("convrot", False), p.fields.get("convrot_groupsize")) for p in parts}) > 1:
        return None
    return joined_rows(parts, scale=scale_per_row(parts))


def pack(rows: Tensor, peak: Tensor, seed: int | None) -> tuple[Tensor, Tensor]:
    """As the host does it: rotates the rows, then gives each a scale."""
    rotated = rotate(rows, rotation_group(rows.shape[1]))
    scale = (rotated.abs().amax(dim=1, keepdim=True) / MAX).clamp_(min=torch.finfo(torch.float32).tiny)
    return (rotated / scale).round_().to(torch.int8), scale


def marker(shape: Sequence[int], full_precision: bool) -> dict[str, Any]:
    return {"format": NAME, "convrot": True, "convrot_groupsize": rotation_group(shape[1])}


FORMATS = (
    Format(
        name=NAME,
        bits=8 + 32 / 3072,
        error=0.00927,
        recognise=recognise,
        unpack=unpack,
        hold=hold,
        fuse=fuse,
        beside=("weight_scale",),
        marked={"int8": (torch.int8,)},
        layout="TensorWiseINT8Layout",
        unpacked_here=True,
        matmul=Matmul("int8", TRIED, limit=0.05),
        modes=(Mode("int8_convrot", 50, {"per_channel": True, "convrot": True}),),
        exports=(Export("int8_convrot", 10, SAFETENSORS, "I8"),),
        pack=pack,
        fits=lambda columns: rotation_group(columns) is not None,
        marker=marker,
    ),
)
