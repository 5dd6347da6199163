"""From stored tensors to the model's state: unpacked, quantised anew, or kept packed, weight by weight."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from typing import Any, Mapping

import comfy.model_management
import comfy.utils
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from comfy_kitchen.tensor.base import get_layout_class
from torch import Tensor

from ...loaders.checkpoint.detect import Detection
from ...loaders.formats.ggml import GGML_TYPES
from ...loaders.formats.modes import FLOAT32_PARTS, QuantMode, is_quantised, rotation_group
from ...loaders.formats.packed import Change
from ...loaders.formats.recognise import HOST_FORMATS, round_up
from ...loaders.formats.unpack import FP8_DTYPES, TILE_COLUMNS, TILE_ROWS, dense, joined
from ...loaders.tensor_info import Part
from .packed_layout import LAYOUT, PackedLayout, format_name

QUANTISE_WORKSPACE = 6  # bytes that quantising takes on the device, in float32 copies of the largest weight


class StateBuilder:
    """Makes the entries of a model's state dict from the stored parts of each tensor.

    detection: of the file; tensors: its tensors by their names in the file, given up as they are used.
    mode:    what the blocks' linears become.
    storage: type of all plain weights; None leaves each as it is (the host casts at use).
    compute: type that packed weights are unpacked in.
    device:  where quantising happens.
    full_precision: never multiply in 8 or 4 bits.
    """

    def __init__(
        self,
        detection: Detection,
        tensors: dict[str, Tensor],
        mode: QuantMode,
        storage: torch.dtype | None,
        compute: torch.dtype | None,
        device: torch.device,
        full_precision: bool = False,
    ):
        self.detection = detection
        self.tensors = tensors
        self.mode = mode
        self.storage = storage
        self.compute = compute or torch.bfloat16
        self.device = device if device.type in ("cuda", "xpu") else torch.device("cpu")
        self.full_precision = full_precision
        self.skipped = Counter[int]()  # inputs of layers that the format does not fit -> how many

    def build(self) -> dict[str, Tensor]:
        """The whole state dict; quantised weights come as the host's quantised tensors with their marker beside them."""
        progress = comfy.utils.ProgressBar(len(self.detection.tensors))
        if self.mode.format is not None and self.device.type != "cpu":
            largest = max(math.prod(part.storage.shape) for part in self._parts()) * torch.float32.itemsize
            comfy.model_management.free_memory(QUANTISE_WORKSPACE * largest, self.device)
        state: dict[str, Tensor] = {}
        for name, parts in self.detection.tensors.items():
            comfy.model_management.throw_exception_if_processing_interrupted()
            state.update(self.entries(name, parts))
            progress.update(1)
        if self.device.type != "cpu":
            comfy.model_management.soft_empty_cache()
        for width, count in self.skipped.items():
            logging.warning(
                "%d layers of input width %d stay unquantised: no block of this format fits that width", count, width
            )
        return state

    def is_quantised(self, name: str, ndim: int) -> bool:
        """Whether a mode with a format applies to this tensor."""
        return is_quantised(name, ndim, self.detection.variant)

    def entries(self, name: str, parts: tuple[Part, ...]) -> dict[str, Tensor]:
        """The state dict's entries of one tensor."""
        in_block = self.is_quantised(name, len(parts[0].storage.shape))
        packed = any(part.storage.format is not None for part in parts)
        if self.mode.format is not None and in_block:
            if len(parts) == 1 and self._is_target(parts[0]):
                return self._keep(name, parts, in_block)
            return self._quantise(name, self._dense(parts, torch.float32))
        linear = len(parts[0].storage.shape) == 2 and name.endswith(".weight")
        if packed and linear and self.mode.keeps:
            return self._keep(name, parts, in_block)
        if packed:
            dtype = torch.float32 if name.startswith(FLOAT32_PARTS) else self.mode.dtype
            return {name: self._dense(parts, dtype or self.storage or self._plain_dtype()).cpu()}
        weight = joined([dense(part, self._take(part)) for part in parts])
        storage = torch.float32 if name.startswith(FLOAT32_PARTS) else self.storage
        return {name: weight if storage is None else weight.to(storage)}

    def _parts(self) -> list[Part]:
        return [part for parts in self.detection.tensors.values() for part in parts]

    def _plain_dtype(self) -> torch.dtype:
        return self.detection.dtype if self.detection.dtype != torch.float32 else torch.bfloat16

    def _take(self, part: Part, device: torch.device | None = None) -> dict[str, Tensor]:
        """What is stored of one part, given up by the file's tensors."""
        stored = {name: self.tensors.pop(name) for name in (part.file_name, *part.scales.values())}
        return stored if device is None else {name: t.to(device) for name, t in stored.items()}

    def _dense(self, parts: tuple[Part, ...], dtype: torch.dtype) -> Tensor:
        """The unpacked weight in dtype; where it is to be quantised, on the device that does it."""
        device = self.device if self.mode.format is not None else None
        return joined([dense(part, self._take(part, device)).to(dtype) for part in parts])

    def _is_target(self, part: Part) -> bool:
        rotated = bool(part.storage.settings.get("convrot")) == bool(self.mode.quantise.get("convrot"))
        return part.storage.format == self.mode.format and rotated

    def _quantise(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        made = pack(weight, self.mode)
        if made is None:
            self.skipped[weight.shape[1]] += 1
            return {name: weight.to(self.storage or self._plain_dtype()).cpu()}
        packed, settings = made
        # One after the other: asked for both at once in inference mode, a quantised tensor comes back unpacked.
        packed = packed.to(device="cpu").to(dtype=self.compute)
        return self._entry(name, packed, self.mode.format, settings, {}, in_block=True)

    def _keep(self, name: str, parts: tuple[Part, ...], in_block: bool) -> dict[str, Tensor]:
        if len(parts) == 1:
            weight, inputs = self._packed(parts[0], self.compute)
            return self._entry(name, weight, parts[0].storage.format, parts[0].storage.settings, inputs, in_block)
        smoothed = any("pre_quant_scale" in part.scales for part in parts)
        if smoothed or any(part.storage.format is None for part in parts):
            return {name: self._dense(parts, torch.float32).cpu().to(self.storage or self._plain_dtype())}
        pieces = [self._packed(part, self.compute) for part in parts]
        fused = fuse([weight for weight, _ in pieces], [part.storage.format for part in parts])
        if fused is None:
            whole = torch.cat([weight.to(dtype=torch.float32).dequantize() for weight, _ in pieces])
            return {name: whole.to(self.storage or self._plain_dtype())}
        # Each part was calibrated on the same inputs; one scale must hold them all.
        scales = [inputs["input_scale"] for _, inputs in pieces if "input_scale" in inputs]
        inputs = {"input_scale": torch.stack(scales).amax(0)} if len(scales) == len(parts) else {}
        return self._entry(name, *fused, parts[0].storage.settings, inputs, in_block)

    def _entry(
        self,
        name: str,
        weight: QuantizedTensor,
        format: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Tensor],
        in_block: bool,
    ) -> dict[str, Tensor]:
        marker = {k: v for k, v in settings.items() if k != "unscaled"}
        # Outside of the blocks nothing is rounded twice: those layers cost next to nothing and matter most.
        if self.full_precision or not in_block:
            marker["full_precision_matrix_mult"] = True
        text = json.dumps({"format": format_name(format), **marker}).encode()
        stem = name.removesuffix(".weight")
        return {
            name: weight,
            f"{stem}.comfy_quant": torch.tensor(list(text), dtype=torch.uint8),
            **{f"{stem}.{role}": value for role, value in inputs.items()},
        }

    def _packed(self, part: Part, dtype: torch.dtype) -> tuple[QuantizedTensor, dict[str, Tensor]]:
        """The stored weight as a quantised tensor that unpacks in dtype, and what concerns its inputs."""
        storage = part.storage
        format = storage.format
        data = self.tensors.pop(part.file_name)
        scales = {role: self.tensors.pop(file_name) for role, file_name in part.scales.items()}
        inputs = {role: scales.pop(role).float() for role in ("input_scale", "pre_quant_scale") if role in scales}
        if "input_scale" in inputs and bool((inputs["input_scale"] == 1).all()):
            del inputs["input_scale"]  # a placeholder
        if format not in HOST_FORMATS:
            if data.dtype == torch.uint8 and format.startswith("float8"):
                data = data.view(FP8_DTYPES[format.rpartition("_")[0]])
            scale = scales.pop("weight_scale").float() if format not in GGML_TYPES else None
            change = {f: scales.pop("weight_" + f, None) for f in Change._fields}
            params = PackedLayout.Params(scale, dtype, storage.shape, format, **change)
            return QuantizedTensor(data, LAYOUT, params), {}
        if format not in QUANT_ALGOS:
            raise ValueError(
                f"{part.file_name} is stored as {format}, which this ComfyUI's comfy-kitchen does not know. Update ComfyUI"
            )
        layout = QUANT_ALGOS[format]["comfy_tensor_layout"]
        rows, columns = storage.shape
        extra: dict[str, Any] = {}
        if format == "nvfp4":
            blocks = scales["weight_scale"].view(torch.float8_e4m3fn)
            extra["block_scale"] = blocks.view(_tiled(rows, columns, 16))
            extra["scale"] = scales["weight_scale_2"].float().reshape(())
        elif format == "mxfp8":
            data = data.view(torch.float8_e4m3fn)
            extra["scale"] = scales["weight_scale"].view(torch.float8_e8m0fnu).view(_tiled(rows, columns, 32))
        elif format in FP8_DTYPES:
            data = data.view(FP8_DTYPES[format])
            scale = scales.get("weight_scale")
            extra["scale"] = torch.ones(()) if scale is None else scale.float().reshape(())
        else:
            scale = scales["weight_scale"].float()
            if format == "convrot_w4a4":
                extra["quant_group_size"] = 64
            else:
                scale = scale.reshape(()) if scale.numel() == 1 else scale.reshape(rows, 1)
            extra["scale"] = scale
            extra.update(storage.settings)
        params = get_layout_class(layout).Params(orig_dtype=dtype, orig_shape=storage.shape, **extra)
        return QuantizedTensor(data, layout, params), inputs


def pack(weight: Tensor, mode: QuantMode) -> tuple[QuantizedTensor, dict[str, Any]] | None:
    """A float32 weight (N, K) in a mode's format, and what its marker must say; None where no block fits K."""
    extra, settings = dict(mode.quantise), {}
    if extra.get("convrot"):
        group = rotation_group(weight.shape[1])
        if group is None:
            return None
        extra["convrot_groupsize"] = group
        settings = {"convrot": True, "convrot_groupsize": group}
    elif mode.format in GGML_TYPES:
        if weight.shape[1] % GGML_TYPES[mode.format].block_size:
            return None
        extra["format"] = mode.format
    if "scale" in extra and not bool(weight.any()):
        extra["scale"] = torch.ones((), device=weight.device)  # of nothing the scale would be 0, and 0 / 0 is NaN
    layout = QUANT_ALGOS[format_name(mode.format)]["comfy_tensor_layout"]
    return QuantizedTensor.from_float(weight, layout, **extra), settings


def fuse(weights: list[QuantizedTensor], formats: list[str]) -> tuple[QuantizedTensor, str] | None:
    """Quantised weights joined by rows without unpacking them, and their format; None where their formats forbid it."""
    first, format = weights[0], formats[0]
    if any(f != format for f in formats):
        return None
    params = [weight._params for weight in weights]
    data = torch.cat([weight._qdata for weight in weights])
    rows = [weight.shape[0] for weight in weights]
    shape = (sum(rows), first.shape[1])

    def made(layout: str, **changed: Any) -> QuantizedTensor:
        kwargs = {k: getattr(params[0], k) for k in params[0].__dataclass_fields__}
        return QuantizedTensor(
            data, layout, get_layout_class(layout).Params(**{**kwargs, "orig_shape": shape, **changed})
        )

    if format in GGML_TYPES:
        return (made(LAYOUT), format) if all(p.up is None and p.delta is None for p in params) else None
    if format in FP8_DTYPES:
        if all(bool(p.scale == params[0].scale) for p in params):
            return made(first._layout_cls), format
        scale = torch.cat([p.scale.expand(n, 1) for p, n in zip(params, rows)])
        new = f"{format}_rowwise"
        return QuantizedTensor(data, LAYOUT, PackedLayout.Params(scale, params[0].orig_dtype, shape, new)), new
    if format.endswith("_rowwise"):
        return made(LAYOUT, scale=torch.cat([p.scale.reshape(-1, 1) for p in params])), format
    if format.endswith("_blockwise"):
        heights = {n // p.scale.shape[0] for p, n in zip(params, rows)}
        return (made(LAYOUT, scale=torch.cat([p.scale for p in params])), format) if len(heights) == 1 else None
    if format == "int8_tensorwise":
        if len({(p.convrot, p.convrot_groupsize if p.convrot else 0) for p in params}) > 1:
            return None
        return made(first._layout_cls, scale=torch.cat([p.scale.expand(n, 1) for p, n in zip(params, rows)])), format
    if format == "mxfp8" and all(n % TILE_ROWS == 0 for n in rows):
        bits = torch.cat([p.scale.view(torch.uint8) for p in params])
        return made(first._layout_cls, scale=bits.view(torch.float8_e8m0fnu)), format
    if format == "nvfp4" and all(n % TILE_ROWS == 0 and bool(p.scale == params[0].scale) for p, n in zip(params, rows)):
        bits = torch.cat([p.block_scale.view(torch.uint8) for p in params])
        return made(first._layout_cls, block_scale=bits.view(torch.float8_e4m3fn)), format
    return None


def _tiled(rows: int, columns: int, block: int) -> tuple[int, int]:
    return round_up(rows, TILE_ROWS), round_up(math.ceil(columns / block), TILE_COLUMNS)
