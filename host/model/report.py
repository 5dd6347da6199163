"""What the loaders say of a model: what its file is, how its weights are kept, what they compute in and why."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from ...chroma_model.block_lists import blocks_text
from ...loaders.checkpoint.detect_variant import Detection
from ...loaders.formats.base.format import Format
from .layers import format_of
from .matmul import fast_matmul

# Marker in the file -> its meaning, for people.
FLAG_TEXTS = (
    ("__x0__", "predicts the picture (x0)"),
    ("__32x32__", "patches of 32 seen at half size"),
    ("__sequential__", "numbered text positions"),
)


def model_report(patcher: Any) -> str:
    """What was loaded, for people: what the file is, how the weights are kept, what they compute in and why."""
    model = patcher.model
    loaded = model.model_config.loaded
    detection, config = loaded.detection, model.model_config.chroma_config
    extras = [text for flag, text in FLAG_TEXTS if flag in config.markers]
    ends = ", ".join([f"{detection.layout} names", *extras])
    lines = [
        f"{detection.variant}, {count_text(detection.num_parameters)} parameters, {config.num_double_blocks} + "
        f"{config.num_single_blocks} blocks of width {config.hidden_size}",
        f"file: {stored_text(detection)}, {ends}",
    ]
    if config.left_out:
        lines.append(f"pruned: without the blocks {blocks_text(config.left_out)}")
    if detection.dropped:
        lines.append(f"{len(detection.dropped)} modulation tensors of FLUX left out, the Approximator replaces them")
    lines.append(kept_text(model.diffusion_model, detection.num_parameters))
    if loaded.reason:
        lines.append(f"auto: {loaded.reason}")
    lines.append(_compute(model, patcher.load_device))
    return "\n".join(lines)


def stored_text(detection: Detection) -> str:
    plain = str(detection.dtype).removeprefix("torch.")
    if not detection.formats:
        return plain
    formats = sorted(detection.formats.items(), key=lambda item: -item[1])
    return ", ".join(f"{format} ({n} tensors)" for format, n in formats) + f", rest {plain}"


def kept_text(network: torch.nn.Module, num_parameters: int) -> str:
    """How a network's weights are kept, and the memory that they take."""
    modules = [m for m in network.modules() if getattr(m, "weight", None) is not None]
    packed = packed_formats(network)
    plain = Counter[str]()
    for m in modules:
        if format_of(m) is None:
            plain[str(m.weight.dtype).removeprefix("torch.")] += m.weight.numel()
    kept = [f"{_shown(format, modules)} ({n} layers)" for format, n in packed.most_common()]
    if plain:
        kept.append(f"{'rest ' if kept else ''}{plain.most_common(1)[0][0]}")
    size = sum(num_bytes(p) for m in modules for p in m.parameters(recurse=False))
    return f"kept as {', '.join(kept)}: {size / 1e6:,.0f} MB, {8 * size / num_parameters:.2f} bits a weight"


def packed_formats(network: torch.nn.Module) -> Counter[Format]:
    """Format -> number of layers whose weights are packed so."""
    return Counter(format for m in network.modules() if (format := format_of(m)) is not None)


def _shown(format: Format, modules: list[Any]) -> str:
    rotated = any(format_of(m) is format and getattr(m.weight._params, "convrot", False) for m in modules)
    return "int8_convrot" if rotated else format.shown


def _compute(model: Any, device: torch.device) -> str:
    """The type that the model computes in, and for each packed format why it is not multiplied as stored."""
    dtype = str(model.get_dtype_inference()).removeprefix("torch.")
    parts = []
    for format in packed_formats(model.diffusion_model):
        layers = [m for m in model.diffusion_model.modules() if format_of(m) is format]
        problem = fast_matmul(format, device)
        if format.matmul is None:
            parts.append(f"{format.shown} is unpacked at use, {problem}")
        elif problem is not None:
            parts.append(f"{format.shown} is unpacked at use: {format.matmul.name} {problem}")
        elif all(m._full_precision_mm for m in layers):
            parts.append(
                f"{format.shown} is unpacked at use, since full precision was asked for by the file or the node"
            )
        else:
            parts.append(f"{format.matmul.name} matrix multiplication")
    return f"computes in {dtype}" + "".join(f"; {part}" for part in parts)


def num_bytes(weight: Tensor) -> int:
    if not isinstance(weight, QuantizedTensor):
        return weight.nbytes
    names, _ = weight.__tensor_flatten__()
    return sum(getattr(weight, name).nbytes for name in names)


def count_text(n: int) -> str:
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.1f} M"
