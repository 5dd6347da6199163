"""Builds a model's state dict from stored tensors: each weight is unpacked, quantised anew, or kept packed."""

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

from ...loaders.checkpoint.detect_variant import Detection
from ...loaders.formats.base.format import OWN_LAYOUT, Held
from ...loaders.formats.base.hadamard import rotation_group
from ...loaders.formats.base.kept_layers import FLOAT32_PARTS, is_quantised
from ...loaders.formats.base.registry import FORMATS, QuantMode, dense, joined
from ...loaders.tensor_info import Part
from . import packed_layout

QUANTISE_WORKSPACE = 6  # memory for quantising on the device, in float32 copies of the largest weight


class StateBuilder:
    """Makes the entries of a model's state dict from the stored parts of each tensor.

    detection: of the file; tensors: its tensors by their names in the file, each removed when it is used.
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
        self.skipped = Counter[int]()  # input width of layers that the format does not fit -> number of layers

    def build(self) -> dict[str, Tensor]:
        """The whole state dict. Quantised weights are the host's quantised tensors, with their markers beside them."""
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
        # The host writes a weight that was filled up to whole blocks without saying so, and reads it back as a larger one.
        unpacks = any(p.storage.format in packed_layout.TAKEN or "orig_shape" in p.storage.settings for p in parts)
        if packed and linear and self.mode.keeps and not unpacks:
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
        """The stored tensors of one part, removed from `tensors`."""
        stored = {name: self.tensors.pop(name) for name in (part.file_name, *part.scales.values())}
        return stored if device is None else {name: t.to(device) for name, t in stored.items()}

    def _dense(self, parts: tuple[Part, ...], dtype: torch.dtype) -> Tensor:
        """The unpacked weight in dtype; if it is to be quantised, on the device that quantises."""
        device = self.device if self.mode.format is not None else None
        return joined([dense(part, self._take(part, device)).to(dtype) for part in parts])

    def _is_target(self, part: Part) -> bool:
        settings = part.storage.settings
        rotated = bool(settings.get("convrot")) == bool(self.mode.quantise.get("convrot"))
        return part.storage.format == self.mode.format and rotated and "orig_shape" not in settings

    def _quantise(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        made = pack(weight, self.mode)
        if made is None:
            self.skipped[weight.shape[1]] += 1
            return {name: weight.to(self.storage or self._plain_dtype()).cpu()}
        packed, settings = made
        # Two calls: one for both, in inference mode, would unpack the quantised tensor.
        packed = packed.to(device="cpu").to(dtype=self.compute)
        return self._entry(name, packed, self.mode.format, settings, {}, in_block=True)

    def _keep(self, name: str, parts: tuple[Part, ...], in_block: bool) -> dict[str, Tensor]:
        if len(parts) == 1:
            held, inputs = self._held(parts[0])
            return self._entry(
                name, tensor_of(held, self.compute), held.format, parts[0].storage.settings, inputs, in_block
            )
        smoothed = any("pre_quant_scale" in part.scales for part in parts)
        if smoothed or any(part.storage.format is None for part in parts):
            return {name: self._dense(parts, torch.float32).cpu().to(self.storage or self._plain_dtype())}
        pieces = [self._held(part) for part in parts]
        fused = fuse([held for held, _ in pieces])
        if fused is None:
            whole = torch.cat([tensor_of(held, torch.float32).dequantize() for held, _ in pieces])
            return {name: whole.to(self.storage or self._plain_dtype())}
        # Each part was calibrated on the same inputs; one scale must hold them all.
        scales = [inputs["input_scale"] for _, inputs in pieces if "input_scale" in inputs]
        inputs = {"input_scale": torch.stack(scales).amax(0)} if len(scales) == len(parts) else {}
        weight = tensor_of(fused, self.compute)
        return self._entry(name, weight, fused.format, parts[0].storage.settings, inputs, in_block)

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
        # Outside the blocks inputs are not rounded too: those layers take little time and matter most.
        if self.full_precision or not in_block:
            marker["full_precision_matrix_mult"] = True
        text = json.dumps({"format": FORMATS[format].host_name, **marker}).encode()
        stem = name.removesuffix(".weight")
        return {
            name: weight,
            f"{stem}.comfy_quant": torch.tensor(list(text), dtype=torch.uint8),
            **{f"{stem}.{role}": value for role, value in inputs.items()},
        }

    def _held(self, part: Part) -> tuple[Held, dict[str, Tensor]]:
        """The parts of a quantised tensor of the stored weight, and the scales of the layer's inputs."""
        format = FORMATS[part.storage.format]
        if format.host_name not in QUANT_ALGOS:
            raise ValueError(
                f"{part.file_name} is stored as {format.name}, which this ComfyUI's comfy-kitchen does not know. "
                "Update ComfyUI"
            )
        data = self.tensors.pop(part.file_name)
        beside = {role: self.tensors.pop(file_name) for role, file_name in part.scales.items()}
        inputs = {role: beside.pop(role).float() for role in ("input_scale", "pre_quant_scale") if role in beside}
        if "input_scale" in inputs:
            # Placeholders: 1, or the weight's own scale, which convert_to_quant writes there in text encoders.
            found, own = float(inputs["input_scale"]), beside.get("weight_scale")
            if found == 1 or (own is not None and own.numel() == 1 and found == float(own)):
                del inputs["input_scale"]
        # This pack's layout unpacks for multiplication, so it does not need the inputs' scales.
        return format.hold(data, beside, part.storage), {} if format.layout == OWN_LAYOUT else inputs


def tensor_of(held: Held, dtype: torch.dtype) -> QuantizedTensor:
    """The host's quantised tensor, which unpacks to dtype."""
    layout = FORMATS[held.format].layout
    fields = {**held.fields, **({"format": held.format} if layout == OWN_LAYOUT else {})}
    params = get_layout_class(layout).Params(orig_dtype=dtype, orig_shape=held.shape, **fields)
    return QuantizedTensor(held.data, layout, params)


def pack(weight: Tensor, mode: QuantMode) -> tuple[QuantizedTensor, dict[str, Any]] | None:
    """A float32 weight (N, K) in a mode's format, and its marker's settings; None if no block fits K."""
    extra, settings = dict(mode.quantise), {}
    if extra.get("convrot"):
        group = rotation_group(weight.shape[1])
        if group is None:
            return None
        extra["convrot_groupsize"] = group
        settings = {"convrot": True, "convrot_groupsize": group}
    elif not FORMATS[mode.format].fits(weight.shape[1]):
        return None
    if FORMATS[mode.format].layout == OWN_LAYOUT:
        extra["format"] = mode.format
    if "scale" in extra and not bool(weight.any()):
        extra["scale"] = torch.ones((), device=weight.device)  # all zeros would give a scale of 0, and 0 / 0 is NaN
    return QuantizedTensor.from_float(weight, FORMATS[mode.format].layout, **extra), settings


def fuse(parts: list[Held]) -> Held | None:
    """Quantised weights joined by rows without unpacking them; None if their formats do not allow it."""
    return FORMATS[parts[0].format].fuse(parts) if len({part.format for part in parts}) == 1 else None
