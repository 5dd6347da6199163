"""Which devices multiply weights as they are stored, in 8 or 4 bits. Found by trying it once, never assumed."""

from __future__ import annotations

import functools
import logging

import comfy.model_management
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

from ...loaders.formats.base.format import Format
from ...loaders.formats.base.registry import FORMATS


def fast_matmul(format: Format, device: torch.device) -> str | None:
    """Why a device can not multiply weights of this format as they are stored, or None where it can."""
    way = format.matmul
    if way is None:
        return "no device multiplies it as it is"
    if format.host_name not in QUANT_ALGOS:
        return "is not known to this ComfyUI's comfy-kitchen; update ComfyUI"
    if way.supported:
        check = getattr(comfy.model_management, way.supported, None)
        if check is None:
            return f"cannot be asked for, since this ComfyUI lacks {way.supported}; update it and this pack"
        if not check(device):
            return way.needs
    try:
        return _tried(format.name, device)
    except torch.OutOfMemoryError:  # of the moment; not remembered
        return "could not be tried, the device is out of memory"


@functools.lru_cache
def _tried(name: str, device: torch.device) -> str | None:
    layout, way = FORMATS[name].layout, FORMATS[name].matmul
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    try:
        x, w = (torch.randn(64, 128, generator=generator).to(device, dtype) for _ in range(2))
        bias = torch.zeros(64, dtype=dtype, device=device)
        weight = QuantizedTensor.from_float(w, layout, **way.options)
        rows = x if way.inputs is None else QuantizedTensor.from_float(x, way.inputs, scale="recalculate")
        found = torch.nn.functional.linear(rows, weight, bias)
        wanted = torch.nn.functional.linear(x, w)
        error = float((found.float() - wanted.float()).norm() / wanted.float().norm())
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as problem:  # what devices and their kernels refuse with
        logging.debug("no %s multiplication on %s", way.name, device, exc_info=True)
        text = str(problem).splitlines() or [type(problem).__name__]
        return f"this device and PyTorch have no such operation ({text[0][:80]})"
    except Exception as problem:  # of the host: not what a device lacks, so it is told with its traceback
        logging.warning("%s multiplication does not work with this ComfyUI", way.name, exc_info=True)
        return f"does not work with this ComfyUI ({type(problem).__name__}); update it and this pack"
    return None if error < way.limit else f"its {way.name} operation is wrong by {error:.0%}"
