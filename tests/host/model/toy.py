"""A toy format, "toy7": seven-bit codes in bytes, a scale a row. Copied into a pack by test_toy_format.py."""

from __future__ import annotations

from typing import Any, Sequence

import torch
from torch import Tensor

from ..tensor_info import Storage
from .base.format import SAFETENSORS, Export, Format, Mode, Roles, Settings, Weight, hold_own

NAME, MAX, MIDDLE = "toy7", 63, 64


def recognise(weight: Weight) -> Storage | None:
    return Storage(NAME, weight.shape) if weight.named == NAME else None


def unpack(data: Tensor, beside: Roles, settings: Settings, dtype: torch.dtype) -> Tensor:
    return ((data.float() - MIDDLE) * beside["weight_scale"].float().reshape(-1, 1)).to(dtype)


def pack(rows: Tensor, peak: Tensor, seed: int | None) -> tuple[Tensor, Tensor]:
    scale = rows.abs().amax(dim=1, keepdim=True) / MAX
    return ((rows / scale).round() + MIDDLE).to(torch.uint8), scale


def marker(shape: Sequence[int], full_precision: bool) -> dict[str, Any]:
    return {"format": NAME}


FORMATS = (
    Format(
        name=NAME,
        bits=8 + 32 / 3072,  # a float32 scale for each row
        error=0.0187,
        recognise=recognise,
        unpack=unpack,
        hold=hold_own,
        marked={NAME: (torch.uint8,)},
        modes=(Mode(NAME, 1000),),
        exports=(Export(NAME, 1000, SAFETENSORS, "U8"),),
        pack=pack,
        marker=marker,
    ),
)
