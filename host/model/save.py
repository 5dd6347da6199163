"""Writes the host's MODEL to a file, with its LoRAs and merges, one tensor at a time. Written for ComfyUI 0.30."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping

import comfy.lora
import comfy.model_management
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from ...chroma_model.block_lists import blocks_text
from ...loaders.checkpoint.check_shapes import check
from ...loaders.checkpoint.detect_variant import Detection, detect
from ...loaders.checkpoint.keys import APPROXIMATOR, VARIANT, is_flag
from ...loaders.checkpoint.mixed import workspace
from ...loaders.checkpoint.prune import pruned
from ...loaders.checkpoint.write_quantised import Written, write_model
from ...loaders.files.error_text import encodable
from ...loaders.files.read import Header, read_header
from ...loaders.formats.base.format import FLOAT_DTYPES
from ...loaders.tensor_info import TensorInfo
from ..run.late_lora import KEY as LATE_LORA
from ..run.skip_blocks import skipped_on
from .file_stamp import check_unchanged
from .lora import PREFIX, parameter_shapes

WORKSPACE = 4  # memory for quantising on the device, in float32 copies of the largest weight


class PatchedWeights:
    """The weights that a MODEL computes with, each made when it is asked for. The MODEL stays as it is."""

    def __init__(self, patcher: Any):
        """raises: ValueError if the model is not Chroma or a file of it has changed. `dense` raises it for a weight in a type of another pack."""
        check_unchanged(patcher)
        self.patcher = patcher
        network = patcher.model.diffusion_model
        shapes = parameter_shapes(network, patcher.patches)
        if not any(name.startswith(APPROXIMATOR) for name in shapes):
            raise ValueError(
                "the model is not Chroma: it has no distilled_guidance_layer. Connect Load Chroma Model, or use "
                "ComfyUI's own Save Model node"
            )
        self.path = _source_path(patcher)
        loaded = getattr(patcher.model.model_config, "loaded", None)
        self.name = loaded.file if loaded is not None else encodable(Path(self.path).name) if self.path else "model"
        self.metadata: Mapping[str, Any] = read_header(self.path).metadata if self.path else {}
        said = {key: self.metadata[key] for key in (VARIANT,) if key in self.metadata}
        header = Header(self.name, _infos(network, shapes), said)
        self.detection: Detection = detect(header)
        check(header, self.detection)
        if loaded is not None:  # the metadata do not say that an Approximator is from another file
            self.detection = replace(self.detection, variant=loaded.detection.variant)
        skipped, self.skipped_in_part = skipped_on(patcher)
        self.detection = pruned(self.detection, skipped - self.detection.config.left_out)
        device = comfy.model_management.get_torch_device()
        self.device = device if device.type in ("cuda", "xpu") else torch.device("cpu")
        if self.device.type != "cpu":
            largest = max(math.prod(shape) for shape in shapes.values()) * torch.float32.itemsize
            comfy.model_management.free_memory(WORKSPACE * largest, self.device)

    def dense(self, name: str) -> Tensor:
        key = PREFIX + self.detection.tensors[name][0].file_name
        weight = _unpatched(self.patcher, key)
        if isinstance(weight, QuantizedTensor):
            weight = weight.to(device=self.device).to(dtype=torch.float32).dequantize()
        elif weight.dtype not in (*FLOAT_DTYPES, torch.float64):
            raise ValueError(
                f"{self.name}: {name} is held as {weight.dtype}, a type of another pack. Load the file with Load "
                "Chroma Model"
            )
        patches = self.patcher.patches.get(key)
        if patches:
            weight = weight.to(device=self.device, dtype=torch.float32, copy=True)
            weight = comfy.lora.calculate_weight(patches, weight, key)
        inputs = _input_scale(self.patcher.model, key)
        weight = weight.to(self.device)
        return weight if inputs is None else weight * inputs.to(weight)


def export_model(
    patcher: Any,
    path: Path,
    format_name: str,
    full_precision: bool = True,
    metadata: Mapping[str, str] | None = None,
    max_error: float = 0.0,
) -> tuple[Written, str]:
    """Writes a MODEL with its patches; see `write_quantised.write_model`.

    It moves the host's progress bar, and stops if the host is interrupted.
    returns: what was written, and a text about it for people.
    """
    source = PatchedWeights(patcher)
    if max_error and source.device.type != "cpu":
        comfy.model_management.free_memory(workspace(source.detection), source.device)
    bar = comfy.utils.ProgressBar(source.detection.num_parameters)

    def progress(done: int, total: int, name: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    written = write_model(
        source,
        path,
        format_name,
        full_precision=full_precision,
        metadata=metadata,
        max_error=max_error,
        progress=progress,
    )
    bar.update_absolute(source.detection.num_parameters)
    lines = [written.text()]
    if patcher.patches:
        lines.append(f"with the LoRAs and merges on {len(patcher.patches)} of its weights")
    if patcher.injections:
        lines.append("without LoRAs in bypass mode, which are no part of the weights")
    if patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, LATE_LORA):
        lines.append("without the LoRA that begins within a run, which is no part of the weights")
    if source.skipped_in_part:
        lines.append(
            f"with the blocks {blocks_text(source.skipped_in_part)}, which are left out for a part of the run only"
        )
    return written, "\n".join(lines)


def _source_path(patcher: Any) -> str | None:
    """The file that the host would load the model from again; None if there is none."""
    _, arguments = patcher.cached_patcher_init or (None, ())
    path = arguments[0] if arguments else None
    return path if isinstance(path, str) and Path(path).is_file() else None


def _infos(network: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    """A header of the network's tensors, as if all of them were plain numbers."""
    stored = dict(network.named_parameters())
    plain = Counter(p.dtype for p in stored.values() if p.dtype in FLOAT_DTYPES and not isinstance(p, QuantizedTensor))
    usual = plain.most_common(1)[0][0] if plain else torch.bfloat16
    infos = {
        name: TensorInfo(usual if isinstance(stored[name], QuantizedTensor) else _float(stored[name].dtype), shape)
        for name, shape in shapes.items()
        if not name.endswith((".input_scale", ".pre_quant_scale"))
    }
    infos.update({name: TensorInfo(torch.float32, (0,)) for name, _ in network.named_buffers() if is_flag(name)})
    return infos


def _float(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in FLOAT_DTYPES else torch.bfloat16


def _unpatched(patcher: Any, key: str) -> Tensor:
    """A weight as loaded, even while the host has a patched one in its place."""
    if key in patcher.backup:
        return patcher.backup[key].weight
    if key in patcher.hook_backup:
        return patcher.hook_backup[key][0]
    return comfy.utils.get_attr(patcher.model, key)


def _input_scale(model: Any, key: str) -> Tensor | None:
    """The factors that a layer multiplies its inputs by; the written weight has them in its columns."""
    stem, _, kind = key.rpartition(".")
    return getattr(comfy.utils.get_attr(model, stem), "pre_quant_scale", None) if kind == "weight" else None
