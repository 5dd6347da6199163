"""Whether a device multiplies weights as stored, in 8 or 4 bits, and faster than floats: tried and timed once."""

from __future__ import annotations

import functools
import logging
import time
from typing import Callable

import comfy.model_management
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from torch import Tensor

from ...loaders.formats.base.format import Format, dtype_text
from ...loaders.formats.base.registry import FORMATS

ROWS, OUT, IN = 64, 64, 256  # sizes of the product whose error is measured
WIDTHS = (256, 512, 1024, 3072)  # of the timed product, which has four times as many rows; up to a real run's size
LONG_ENOUGH = 1e-3  # seconds; beside a float product of this time the fixed cost of a call does not count


def fast_matmul(format: Format, device: torch.device) -> str | None:
    """Why a device does not multiply weights of this format as they are stored, or None where it does."""
    return lacking(format, device) or slowness(format, device)


def lacking(format: Format, device: torch.device) -> str | None:
    """Why a device cannot multiply weights of this format as they are stored, or None where it can."""
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
    return _remembered(_error, format.name, device)


def slowness(format: Format, device: torch.device) -> str | None:
    """How much slower than floats a device multiplies this format, in words; None if it is not slower, or cannot."""
    return None if lacking(format, device) else _remembered(_time, format.name, device)


def _remembered(trial: Callable[[Format, torch.device], str | None], name: str, device: torch.device) -> str | None:
    try:
        return _tried(trial, name, device)
    except torch.OutOfMemoryError:  # may pass, so it is not remembered
        return "could not be tried, the device is out of memory"


@functools.lru_cache
def _tried(trial: Callable[[Format, torch.device], str | None], name: str, device: torch.device) -> str | None:
    format = FORMATS[name]
    try:
        return trial(format, device)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as problem:  # raised by a device or kernel that cannot
        logging.debug("no %s multiplication on %s", format.matmul.name, device, exc_info=True)
        text = str(problem).splitlines() or [type(problem).__name__]
        return f"this device and PyTorch have no such operation ({text[0][:80]})"
    except Exception as problem:  # the host's fault and not the device's, so it is logged with its traceback
        logging.warning("%s multiplication does not work with this ComfyUI", format.matmul.name, exc_info=True)
        return f"does not work with this ComfyUI ({type(problem).__name__}); update it and this pack"


def _error(format: Format, device: torch.device) -> str | None:
    """What is wrong with a product as stored, compared with the same in floats; None if its error is small."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    packed, plain = _products(format, ROWS, OUT, IN, device, dtype)
    wanted = plain().float()
    error = float((packed().float() - wanted).norm() / wanted.norm())
    return None if error < format.matmul.limit else f"its {format.matmul.name} operation is wrong by {error:.0%}"


def _time(format: Format, device: torch.device) -> str | None:
    """How many times as long as in floats a product as stored takes; None if it takes no longer."""
    dtype = comfy.model_management.unet_manual_cast(None, device, [torch.bfloat16, torch.float16, torch.float32])
    for width in WIDTHS:
        packed, plain = _products(format, 4 * width, width, width, device, dtype)
        if width == WIDTHS[0]:
            seconds(packed)  # the first call may compile kernels
        float_time = seconds(plain)
        if float_time >= LONG_ENOUGH:
            break
    ratio = seconds(packed) / float_time
    return f"takes {ratio:.3g} times as long on this device as {dtype_text(dtype)}" if ratio > 1 else None


def _products(
    format: Format, rows: int, out: int, columns: int, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """One product of random matrices as two functions: with the weight as stored, and in floats."""
    way, generator = format.matmul, torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, columns, generator=generator).to(device, dtype) for n in (rows, out))
    bias = torch.zeros(out, dtype=dtype, device=device)
    weight = QuantizedTensor.from_float(w, format.layout, **way.options)

    def packed() -> Tensor:
        given = x if way.inputs is None else QuantizedTensor.from_float(x, way.inputs, scale="recalculate")
        return torch.nn.functional.linear(given, weight, bias)

    return packed, lambda: torch.nn.functional.linear(x, w, bias)


def seconds(product: Callable[[], Tensor], repeats: int = 2) -> float:
    """The least time of a product in seconds, measured until the device has finished."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product().flatten()[0].item()
        times.append(time.perf_counter() - start)
    return min(times)
