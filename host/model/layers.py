"""Layers for quantised weights: the host's mixed-precision layers, extended by the layout of `packed_layout`.

Written for ComfyUI 0.30.
"""

from __future__ import annotations

import json
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from torch import Tensor

from ...loaders.formats.base.format import OWN_LAYOUT, Format
from ...loaders.formats.base.registry import BY_HOST_NAME, FORMATS
from .matmul import fast_matmul
from .packed_layout import linear

FAST_INPUTS = (torch.bfloat16, torch.float16)  # types that fp8 multiplication can give its results in
INPUT_PARAMETERS = ("input_scale", "pre_quant_scale")


class PackedLinear:
    """What this pack changes in the host's linear layer, `host_linear`.

    The state dict may have a ready quantised tensor as `weight`, or a plain weight of any float type.
    runs_on: the device; a format that it cannot multiply fast is unpacked at use.
    """

    host_linear: Any
    runs_on: torch.device

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        weight = state_dict.pop(prefix + "weight", None)
        if weight is None:
            missing.append(prefix + "weight")
            return
        settings = take_marker(self, state_dict, prefix, weight)
        target = self.factory_kwargs["device"] or weight.device
        if settings is not None:
            self._full_precision_mm_config = bool(settings.get("full_precision_matrix_mult"))
            format = BY_HOST_NAME[self.quant_format]
            slow = format.matmul is not None and fast_matmul(format, self.runs_on) is not None
            self._full_precision_mm = self._full_precision_mm_config or slow
            for name in INPUT_PARAMETERS:
                value = state_dict.pop(prefix + name, None)
                if value is not None:
                    self.register_parameter(name, torch.nn.Parameter(value.to(target), requires_grad=False))
        self.weight = torch.nn.Parameter(weight.to(device=target), requires_grad=False)
        torch.nn.Module._load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors)
        for name in ("weight", *INPUT_PARAMETERS):
            if prefix + name in missing:
                missing.remove(prefix + name)

    @property
    def unpacks(self) -> bool:
        """Whether the weight is unpacked at each use, which prompts that share a forward then pay once."""
        format = format_of(self)
        return format is not None and (format.layout == OWN_LAYOUT or bool(self._full_precision_mm))

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        path = self._path(input)
        if path == "host":
            return super().forward(input, *args, **kwargs)
        comfy.ops.run_every_op()
        return self._scaled(input) if path == "scaled" else self._unpacked(input)

    def _path(self, input: Tensor) -> str:
        """Which code multiplies: the host's; ours with inputs that it scales; or ours with the weight unpacked."""
        format = format_of(self)
        if format is None or isinstance(input, QuantizedTensor):
            return "host"
        if format.layout == OWN_LAYOUT:
            return "unpacked"
        if self._full_precision_mm:
            return "unpacked" if format.unpacked_here else "host"
        if not format.matmul.scaled_here or input.requires_grad:
            return "host"
        if getattr(self, "comfy_force_cast_weights", False) or self.weight_function or self.bias_function:
            return "unpacked"
        return "scaled" if input.dtype in FAST_INPUTS else "unpacked"

    def _scaled(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        scale = getattr(self, "input_scale", None)
        if scale is None:
            # Computed from these inputs: the host's default is a scale of 1, which loses small and large inputs.
            scale = fp8_scale(rows)
        else:
            scale = comfy.model_management.cast_to_device(scale, input.device, None)
        rows = QuantizedTensor.from_float(rows, format_of(self).matmul.inputs, scale=scale)
        y = self.forward_comfy_cast_weights(rows, input.dtype, want_requant=True)
        return y.reshape(*input.shape[:-1], y.shape[-1])

    def _unpacked(self, input: Tensor) -> Tensor:
        packed = getattr(self, "layout_type", None) == OWN_LAYOUT
        weight, bias, stream = comfy.ops.cast_bias_weight(
            self,
            None if packed else input,
            dtype=self.weight.dtype if packed else None,
            device=input.device,
            bias_dtype=input.dtype,
            offloadable=True,
            # The layout finds a LoRA's change by subtraction; if it were added in 16 bits, rounding would lose it.
            compute_dtype=torch.float32 if packed else input.dtype,
        )
        if isinstance(weight, QuantizedTensor):
            y = linear(input, weight, bias)
        else:
            y = torch.nn.functional.linear(input, weight.to(input.dtype), bias)
        comfy.ops.uncast_bias_weight(self, weight, bias, stream)
        return y

    def set_weight(self, weight, inplace_update=False, seed=None, return_weight=False, **kwargs):
        if return_weight and getattr(self, "layout_type", None) == OWN_LAYOUT:
            format = FORMATS[self.weight._params.format]
            if not format.rewritten:
                raise ValueError(
                    f"weights stored as {format.name} can not be saved with a LoRA while they are streamed. Use Save "
                    "Chroma Quantized"
                )
        return self.host_linear.set_weight(
            self, weight, inplace_update=inplace_update, seed=seed, return_weight=return_weight, **kwargs
        )


def operations(compute_dtype: torch.dtype | None, device: torch.device) -> Any:
    """Layer classes for a model with quantised weights, made anew for each model.

    compute_dtype: type of unpacked weights; None means bfloat16.
    device: where the model will run.
    """
    host = comfy.ops.mixed_precision_ops({}, compute_dtype or torch.bfloat16)
    ours = type("Linear", (PackedLinear, host.Linear), {"host_linear": host.Linear, "runs_on": device})
    return type("Layers", (host,), {"takes_float32": True, "Linear": ours})  # float32 inputs to weights of any type


def take_marker(layer: Any, state_dict: dict[str, Tensor], prefix: str, weight: Tensor) -> dict[str, Any] | None:
    """Takes the marker beside a quantised weight out of the state dict and notes its format on the layer.

    returns: the marker's settings; None for a plain weight.
    """
    marker = state_dict.pop(prefix + "comfy_quant", None)
    if not isinstance(weight, QuantizedTensor):
        return None
    settings = json.loads(marker.numpy().tobytes())
    layer.quant_format = settings["format"]
    layer.layout_type = QUANT_ALGOS[layer.quant_format]["comfy_tensor_layout"]
    return settings


def format_of(layer: Any) -> Format | None:
    """The format of a layer's weight; None for plain numbers, and for formats that only the host knows."""
    return BY_HOST_NAME.get(getattr(layer, "quant_format", None))


def fp8_scale(rows: Tensor) -> Tensor:
    """The least power of two that scales all inputs into e4m3's range; no type rounds its inverse.

    rows: (M, K). returns: a float32 scalar, large enough that its inverse does not overflow the type of rows.
    """
    info = torch.finfo(rows.dtype)
    least = max(1 / info.max, torch.finfo(torch.float32).tiny)
    wanted = (rows.abs().amax().float() / torch.finfo(torch.float8_e4m3fn).max).clamp_min(2 * least)
    return torch.exp2(torch.ceil(torch.log2(wanted)))
