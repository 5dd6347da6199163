"""Which devices multiply weights as they are stored, in 8 or 4 bits. Found by trying it once, never assumed."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping

import comfy.model_management
import torch
from comfy.quant_ops import QuantizedTensor

FP8_INPUTS = "TensorCoreFP8E4M3Layout"  # for weights of either fp8 type: no device multiplies e5m2 with e5m2
NEEDS_FP8 = "needs an NVIDIA GPU of compute capability 8.9, or a recent AMD one"


@dataclass(frozen=True)
class Matmul:
    """A way to multiply.

    layout:   the host's, of the weights; options: of its quantiser.
    inputs:   the layout that inputs are given in; None where the operation rounds them itself.
    limit:    of the relative error of a product of Gaussian matrices, above which the operation is taken for broken.
    supported: the host's own check, if it has one; needs: what is said where that fails.
    """

    layout: str
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: str | None = None
    limit: float = 0.1
    supported: Callable[[torch.device], bool] | None = None
    needs: str = ""


ROTATED = {"per_channel": True, "convrot": True, "convrot_groupsize": 64}
SCALED = {"scale": "recalculate"}
# Usual errors: int8 1.4 %, fp8 3.8 %, with e5m2 weights 6 %, mxfp8 3.8 %, nvfp4 13 %, w4a4 24 %.
MATMULS: dict[str, Matmul] = {
    "int8": Matmul("TensorWiseINT8Layout", ROTATED, limit=0.05),
    "fp8": Matmul(
        "TensorCoreFP8E4M3Layout",
        SCALED,
        FP8_INPUTS,
        supported=comfy.model_management.supports_fp8_compute,
        needs=NEEDS_FP8,
    ),
    "fp8 e5m2": Matmul(
        "TensorCoreFP8E5M2Layout",
        SCALED,
        FP8_INPUTS,
        0.15,
        comfy.model_management.supports_fp8_compute,
        NEEDS_FP8,
    ),
    "mxfp8": Matmul(
        "TensorCoreMXFP8Layout",
        inputs="TensorCoreMXFP8Layout",
        supported=comfy.model_management.supports_mxfp8_compute,
        needs="needs an NVIDIA GPU of compute capability 10 and torch 2.10",
    ),
    "nvfp4": Matmul(
        "TensorCoreNVFP4Layout",
        SCALED,
        "TensorCoreNVFP4Layout",
        0.3,
        comfy.model_management.supports_nvfp4_compute,
        "needs an NVIDIA GPU of compute capability 10",
    ),
    "w4a4": Matmul("TensorCoreConvRotW4A4Layout", {"convrot_groupsize": 64}, limit=0.4),
}
KINDS = {  # format of weights -> key of MATMULS
    "int8_tensorwise": "int8",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8 e5m2",
    "mxfp8": "mxfp8",
    "nvfp4": "nvfp4",
    "convrot_w4a4": "w4a4",
}


def fast_matmul(kind: str, device: torch.device) -> str | None:
    """Why a device can not multiply in this way, or None where it can.

    kind: a key of MATMULS.
    """
    way = MATMULS[kind]
    if way.supported is not None and not way.supported(device):
        return way.needs
    try:
        return _tried(kind, device)
    except torch.OutOfMemoryError:  # of the moment; not remembered
        return "could not be tried, the device is out of memory"


@functools.lru_cache
def _tried(kind: str, device: torch.device) -> str | None:
    way = MATMULS[kind]
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    try:
        x, w = (torch.randn(64, 128, generator=generator).to(device, dtype) for _ in range(2))
        bias = torch.zeros(64, dtype=dtype, device=device)
        weight = QuantizedTensor.from_float(w, way.layout, **way.options)
        rows = x if way.inputs is None else QuantizedTensor.from_float(x, way.inputs, scale="recalculate")
        found = torch.nn.functional.linear(rows, weight, bias)
        wanted = torch.nn.functional.linear(x, w)
        error = float((found.float() - wanted.float()).norm() / wanted.float().norm())
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError, KeyError) as problem:
        logging.debug("no %s multiplication on %s", kind, device, exc_info=True)
        text = str(problem).splitlines() or [type(problem).__name__]
        return f"this device and PyTorch have no such operation ({text[0][:80]})"
    return None if error < way.limit else f"its {kind} operation is wrong by {error:.0%}"
