"""Layers over quantised weights: the host's own mixed-precision layers, taught GGML's types and a few others.

A packed weight is one of the host's quantised tensors in a layout registered here, so that the host's offload, LoRA
and save code handle it like its own. Written for ComfyUI 0.30 and comfy-kitchen 0.2. Shapes: N outputs, K inputs, R rank.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.quant_ops
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedLayout, QuantizedTensor
from comfy_kitchen.tensor.base import BaseLayoutParams, get_layout_class, register_layout_class
from torch import Tensor

from . import gguf_types
from .packed import REWRITTEN, Change, change_between, unpack
from .storage import FP8_FORMATS, GGUF_PREFIX, PACKED_GGML, SCALED_FORMATS

LAYOUT = "ChromaPackedLayout"
FP8_LAYOUTS = ("TensorCoreFP8E4M3Layout", "TensorCoreFP8E5M2Layout")
CPU_CHUNK = 1 << 22  # weights unpacked at a time on a CPU: 16 MB in float32
ROW_STEP = 256  # a multiple of the heights of all known blocks
EIGHT_BIT = {**{name: "fp8" for name in FP8_FORMATS.values()}, "int8_tensorwise": "int8"}
ROUNDS_INPUTS = ("int8_tensorwise", "convrot_w4a4")  # layouts of the host that do so whatever the layer says
MATMULS = {
    **EIGHT_BIT,
    "nvfp4": "nvfp4",
    "mxfp8": "mxfp8",
    "convrot_w4a4": "w4a4",
}  # format -> what the device must be able to multiply in


class PackedLayout(QuantizedLayout):
    """GGML's types, and 8-bit elements with scales per row or block. Unpacked when used, straight into the input's type."""

    @dataclass(frozen=True)
    class Params(BaseLayoutParams):
        """scale: None for GGML's types. up, down, delta, delta_scale: see `packed.Change`."""

        format: str = ""
        up: Tensor | None = None
        down: Tensor | None = None
        delta: Tensor | None = None
        delta_scale: Tensor | None = None

        def _tensor_fields(self) -> list[str]:
            return [f for f in ("scale", *Change._fields) if getattr(self, f) is not None]

        def copy_from(self, src: Any, non_blocking: bool = False) -> None:
            if self.scale is not None:
                self.scale.copy_(src.scale, non_blocking=non_blocking)
            for field in ("format", "orig_dtype", "orig_shape", *Change._fields):
                object.__setattr__(self, field, getattr(src, field))

    @classmethod
    def quantize(
        cls,
        tensor: Tensor,
        format: str = "Q8_0",
        base: QuantizedTensor | None = None,
        stochastic_rounding: int | None = 0,
        **_: Any,
    ) -> tuple[Tensor, Params]:
        """tensor: (N, K). base: the packed weight that tensor is a change of; its values are kept where possible."""
        params = {"orig_dtype": tensor.dtype, "orig_shape": tuple(tensor.shape), "format": format}
        if base is None or format in REWRITTEN:
            return gguf_types.quantise(tensor, format, stochastic_rounding or None), cls.Params(None, **params)
        own = base.to(device=tensor.device)
        kept = unpack(own._qdata, own._params.scale, format, tensor.dtype)
        change = change_between(tensor, kept)
        return own._qdata, cls.Params(own._params.scale, **params, **change._asdict())

    @classmethod
    def dequantize(cls, qdata: Tensor, params: Params) -> Tensor:
        weight = unpack(qdata, params.scale, params.format, params.orig_dtype)
        if params.up is not None:
            weight = torch.addmm(weight, params.up.to(weight), params.down.to(weight))
        if params.delta is not None:
            weight = torch.addcmul(weight, params.delta.to(weight.dtype), params.delta_scale.to(weight.dtype))
        return weight

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[Tensor, ...]:
        return (qtensor._qdata,)

    @classmethod
    def state_dict_tensors(cls, qdata: Tensor, params: Params) -> dict[str, Tensor]:
        return {"": qdata, **{"_" + field: getattr(params, field) for field in params._tensor_fields()}}

    @classmethod
    def requantize_kwargs(cls, qtensor: QuantizedTensor) -> dict[str, Any]:
        return {"format": qtensor._params.format, "base": qtensor}


def _packed_linear(qt: Any, args: tuple, kwargs: dict) -> Tensor:
    """input @ weight.T + bias; a change of low rank is multiplied on its own, which is cheaper than adding it first."""
    x, weight, bias = args[0], args[1], args[2] if len(args) > 2 else None
    if isinstance(x, QuantizedTensor):
        x = x.dequantize()
    if not isinstance(weight, QuantizedTensor) or weight._layout_cls != LAYOUT:
        return torch.nn.functional.linear(x, weight, bias)
    return linear(x, weight, bias)


def linear(x: Tensor, weight: QuantizedTensor, bias: Tensor | None) -> Tensor:
    """x (..., K) @ weight (N, K).T + bias, the weight unpacked straight into the type of x.

    On a CPU a few rows of it at a time, which stay in the cache and keep the whole weight's copy out of memory.
    """
    params = weight._params
    low_rank = getattr(params, "up", None) is not None
    plain = dataclasses.replace(params, orig_dtype=x.dtype, **({"up": None, "down": None} if low_rank else {}))
    rows = weight.shape[0]
    step = CPU_CHUNK // weight.shape[1] // ROW_STEP * ROW_STEP
    if x.device.type != "cpu" or not 0 < step < rows or not _has_rows(weight):
        y = torch.nn.functional.linear(x, weight.layout_cls.dequantize(weight._qdata, plain), bias)
    else:
        y = x.new_empty(*x.shape[:-1], rows)
        for start in range(0, rows, step):
            piece = slice(start, min(start + step, rows))
            dense = weight.layout_cls.dequantize(weight._qdata[piece], _rows_of(plain, piece, rows))
            y[..., piece] = torch.nn.functional.linear(x, dense, None if bias is None else bias[piece])
    if not low_rank:
        return y
    low = torch.nn.functional.linear(x, params.down.to(x))
    return y.add_(torch.nn.functional.linear(low, params.up.to(x)))


def _has_rows(weight: QuantizedTensor) -> bool:
    """Whether ROW_STEP rows of the weight can be unpacked on their own."""
    scale = weight._params.scale
    if scale is not None and scale.numel() > 1 and ROW_STEP % (weight.shape[0] // scale.shape[0]):
        return False
    return weight._layout_cls == LAYOUT or weight._layout_cls in FP8_LAYOUTS


def _rows_of(params: Any, piece: slice, rows: int) -> Any:
    """What unpacks these rows of a weight; ROW_STEP is a multiple of every block's height."""
    changed: dict[str, Any] = {"orig_shape": (piece.stop - piece.start, params.orig_shape[1])}
    for field in ("scale", "delta", "delta_scale"):
        value = getattr(params, field, None)
        if value is not None and value.numel() > 1:
            height = rows // value.shape[0]
            changed[field] = value[piece.start // height : -(-piece.stop // height)]
    return dataclasses.replace(params, **changed)


def format_name(format: str) -> str:
    """A format under the name that the host knows it by."""
    return GGUF_PREFIX + format.lower() if format in PACKED_GGML else format


register_layout_class(LAYOUT, PackedLayout)
comfy.quant_ops.register_layout_op(torch.ops.aten.linear.default, PackedLayout)(_packed_linear)
for _format in (*PACKED_GGML, *SCALED_FORMATS):
    QUANT_ALGOS[format_name(_format)] = {
        "storage_t": torch.uint8,
        "parameters": set(),
        "comfy_tensor_layout": LAYOUT,
        "quantize_input": False,
    }


def operations(compute_dtype: torch.dtype | None, device: torch.device) -> Any:
    """Layer classes for a model with quantised weights, made anew for each model.

    compute_dtype: what unpacked weights come in; None means bfloat16.
    device: where it will run; formats that it has no fast multiplication for are unpacked at use.
    """
    compute_dtype = compute_dtype or torch.bfloat16
    unsupported = {format for format, kind in MATMULS.items() if fast_matmul(kind, device) is not None}
    host = comfy.ops.mixed_precision_ops({}, compute_dtype, disabled=unsupported)

    class Layers(host):
        takes_float32 = True  # whatever the weights are stored in

        class Linear(host.Linear):
            """Takes a ready quantised tensor as `weight` in the state dict, and plain weights of any float type."""

            def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
                weight = state_dict.pop(prefix + "weight", None)
                if weight is None:
                    missing.append(prefix + "weight")
                    return
                marker = state_dict.pop(prefix + "comfy_quant", None)
                target = self.factory_kwargs["device"] or weight.device
                if isinstance(weight, QuantizedTensor):
                    settings = json.loads(marker.numpy().tobytes())
                    self.quant_format = settings["format"]
                    self.layout_type = QUANT_ALGOS[self.quant_format]["comfy_tensor_layout"]
                    self._full_precision_mm_config = bool(settings.get("full_precision_matrix_mult"))
                    self._full_precision_mm = self._full_precision_mm_config or self.quant_format in unsupported
                    for name in ("input_scale", "pre_quant_scale"):
                        value = state_dict.pop(prefix + name, None)
                        if value is not None:
                            self.register_parameter(name, torch.nn.Parameter(value.to(target), requires_grad=False))
                self.weight = torch.nn.Parameter(weight.to(device=target), requires_grad=False)
                torch.nn.Module._load_from_state_dict(
                    self, state_dict, prefix, metadata, strict, missing, unexpected, errors
                )
                for name in ("weight", "input_scale", "pre_quant_scale"):
                    if prefix + name in missing:
                        missing.remove(prefix + name)

            def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                format = getattr(self, "quant_format", None)
                if self._full_precision_mm and (format in ROUNDS_INPUTS or format in FP8_FORMATS.values()):
                    return self._unpacked(input)
                kind = EIGHT_BIT.get(format)
                plain = getattr(self, "comfy_force_cast_weights", False) or self.weight_function or self.bias_function
                if kind != "fp8" or self._full_precision_mm or plain or getattr(self, "input_scale", None) is not None:
                    return super().forward(input, *args, **kwargs)
                if input.requires_grad:
                    return super().forward(input, *args, **kwargs)
                comfy.ops.run_every_op()
                rows = input.reshape(-1, input.shape[-1])
                # From the values at hand: the host's own default is a bare 1, which loses small and large inputs.
                largest = rows.abs().amax().float().clamp_min(torch.finfo(torch.float32).tiny)
                scale = largest / torch.finfo(get_layout_class(self.layout_type).FP8_DTYPE).max
                rows = QuantizedTensor.from_float(rows, self.layout_type, scale=scale)
                y = self.forward_comfy_cast_weights(rows, input.dtype, want_requant=True)
                return y.reshape(*input.shape[:-1], y.shape[-1])

            def _unpacked(self, input: Tensor) -> Tensor:
                comfy.ops.run_every_op()
                weight, bias, stream = comfy.ops.cast_bias_weight(
                    self, input, offloadable=True, compute_dtype=input.dtype
                )
                if isinstance(weight, QuantizedTensor):
                    y = linear(input, weight, bias)
                else:
                    y = torch.nn.functional.linear(input, weight, bias)
                comfy.ops.uncast_bias_weight(self, weight, bias, stream)
                return y

    return Layers


@functools.lru_cache
def fast_matmul(kind: str, device: torch.device) -> str | None:
    """Why a device can not multiply in a format, or None where it can; found by trying.

    kind: "int8", "fp8", "nvfp4", "mxfp8" or "w4a4".
    """
    if kind == "nvfp4" and not comfy.model_management.supports_nvfp4_compute(device):
        return "needs an NVIDIA GPU of compute capability 10"
    if kind == "mxfp8" and not comfy.model_management.supports_mxfp8_compute(device):
        return "needs an NVIDIA GPU of compute capability 10 and torch 2.10"
    if kind == "fp8" and not comfy.model_management.supports_fp8_compute(device):
        return "needs an NVIDIA GPU of compute capability 8.9, or a recent AMD one"
    layout, options = {
        "int8": ("TensorWiseINT8Layout", {"per_channel": True, "convrot": True, "convrot_groupsize": 64}),
        "fp8": ("TensorCoreFP8E4M3Layout", {"scale": "recalculate"}),
        "nvfp4": ("TensorCoreNVFP4Layout", {"scale": "recalculate"}),
        "mxfp8": ("TensorCoreMXFP8Layout", {}),
        "w4a4": ("TensorCoreConvRotW4A4Layout", {"convrot_groupsize": 64}),
    }[kind]
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    x, w = (torch.randn(64, 128, generator=generator).to(device, dtype) for _ in range(2))
    try:
        weight = QuantizedTensor.from_float(w, layout, **options)
        rows = x if kind in ("int8", "w4a4") else QuantizedTensor.from_float(x, layout, scale="recalculate")
        found = torch.nn.functional.linear(rows, weight)
        wanted = torch.nn.functional.linear(x, w)
        error = float((found.float() - wanted.float()).norm() / wanted.float().norm())
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError) as problem:
        logging.debug("no %s multiplication on %s", kind, device, exc_info=True)
        return f"this device and PyTorch have no such operation ({str(problem).splitlines()[0][:80]})"
    limit = {"int8": 0.05, "fp8": 0.1, "mxfp8": 0.1, "nvfp4": 0.3, "w4a4": 0.4}[kind]  # usual: 1.4, 3.8, 3.8, 13, 24 %
    return None if error < limit else f"its {kind} operation is wrong by {error:.0%}"
