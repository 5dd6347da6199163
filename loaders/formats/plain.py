"""Plain numbers of 32 and 16 bits."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..tensor_info import Storage
from .base.format import GGUF, SAFETENSORS, Export, Format, Mode, Roles, Settings, Weight


def recognise(dtype: torch.dtype, weight: Weight) -> Storage | None:
    """Scales beside it are placeholders of a hybrid file; `registry.dense` checks that they are 1."""
    return Storage(None, weight.shape) if weight.dtype == dtype else None


def unpack(data: Tensor, beside: Roles, settings: Settings, dtype: torch.dtype) -> Tensor:
    return data.to(dtype)


def _format(dtype: torch.dtype, error: float, **more: Any) -> Format:
    return Format(
        name=str(dtype).removeprefix("torch."),
        bits=8 * dtype.itemsize,
        error=error,
        recognise=functools.partial(recognise, dtype),
        unpack=unpack,
        pack=lambda rows, peak, seed: (rows.to(dtype), None),
        dtype=dtype,
        **more,
    )


_MOSTLY_F16, _MOSTLY_BF16 = 1, 32  # GGUF's numbers for such files
FLOAT32 = _format(torch.float32, 0.0, modes=(Mode("fp32", 30, encoder=True),))
BFLOAT16 = _format(
    torch.bfloat16,
    0.00166,
    modes=(Mode("bf16", 10, encoder=True),),
    exports=(Export("bf16", 30, SAFETENSORS, "BF16"), Export("gguf_bf16", 100, GGUF, "BF16", _MOSTLY_BF16)),
)
FLOAT16 = _format(
    torch.float16,
    0.00021,
    modes=(Mode("fp16", 20, encoder=True),),
    exports=(Export("fp16", 40, SAFETENSORS, "F16"), Export("gguf_f16", 110, GGUF, "F16", _MOSTLY_F16)),
)
FORMATS = (FLOAT32, BFLOAT16, FLOAT16)
