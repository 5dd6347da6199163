"""For each tensor of a model to write: its name, its format and its packed values.

Shapes: N output rows, K inputs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Mapping

import torch
from torch import Tensor

from ...chroma_model import ChromaConfig
from ...chroma_model.block_lists import Block
from ..files.write import Stored
from ..formats.base.format import GGUF, SAFETENSORS
from ..formats.base.kept_layers import FLOAT32_PARTS, is_quantised
from ..formats.base.registry import BY_TYPE, ExportFormat
from ..formats.base.scale_tiles import CHUNK
from ..tensor_info import QUANT_MARKER
from .check_shapes import expected_shapes
from .detect_variant import Detection
from .keys import NORMS, PRUNED_PREFIX, block_of


@dataclass(frozen=True)
class Item:
    """One tensor of the model, and how it is written.

    type: see `Stored`. marker: the host's description of a quantised layer.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    in_block: bool
    marker: Mapping[str, Any] | None
    prefix: str = ""

    @property
    def marker_bytes(self) -> Tensor:
        return torch.tensor(list(json.dumps(self.marker).encode()), dtype=torch.uint8)

    @property
    def stored(self) -> dict[str, Stored]:
        """Role -> tensor of the file: the weight, and in safetensors what stands beside a quantised one."""
        stem = self.prefix + self.name.removesuffix(".weight")
        weight = Stored(self.prefix + file_name(self.name), self.type, self.shape)
        if self.marker is None:
            return {"weight": weight}
        scale = (self.shape[0], 1) if BY_TYPE[self.type].has_row_scales else ()
        return {
            "weight": weight,
            "weight_scale": Stored(f"{stem}.weight_scale", "F32", scale),
            QUANT_MARKER: Stored(f"{stem}.{QUANT_MARKER}", "U8", tuple(self.marker_bytes.shape)),
        }


def items_of(
    detection: Detection,
    choice: ExportFormat,
    full_precision: bool = True,
    more_bits: tuple[frozenset[Block], ExportFormat] | None = None,
) -> list[Item]:
    """What each tensor becomes, in the source's order.

    Linears of the blocks take the format, other matrices 16 bits (fp16 if the source's are). `FLOAT32_PARTS` and, in a
    GGUF, vectors and kernels take 32: other readers get the sizes of 4-D tensors from bytes unless F32 or F16.

    more_bits: blocks whose linears take another format.
    """
    half = "F16" if detection.dtype == torch.float16 else "BF16"
    half = choice.type if choice.type in ("F16", "BF16") else half
    items = []
    shapes = expected_shapes(detection.config)
    for name in detection.tensors:
        shape = shapes[name]
        in_block = is_quantised(name, len(shape), detection.variant)
        if name.startswith(FLOAT32_PARTS) or (choice.container == GGUF and len(shape) != 2):
            kind = "F32"
        else:
            wanted = more_bits[1].type if more_bits and block_of(name) in more_bits[0] else choice.type
            wanted = half if wanted in ("F16", "BF16") else wanted
            kind = wanted if in_block and BY_TYPE[wanted].fits(shape[1]) else half
        marker = BY_TYPE[kind].marker(shape, full_precision) if choice.container == SAFETENSORS else None
        items.append(Item(name, shape, kind, in_block, marker, prefix_of(detection.config)))
    return items


def coded(label: str, weight: Tensor, item: Item) -> tuple[dict[str, Tensor], Tensor]:
    """A tensor's values as they are stored, on the CPU, by role, and the sums of squares (2,) of error and weight.

    label:  for messages. weight: of any floating dtype, on any device.
    raises: ValueError if it holds NaN or infinity, or more than fp16 holds where that is its type.
    """
    if tuple(weight.shape) != item.shape:
        raise ValueError(
            f"{label} has become {tuple(weight.shape)}, expected {item.shape}. Take off what changed its size"
        )
    low, high = weight.aminmax()
    peak = torch.maximum(-low, high).float()
    if not bool(torch.isfinite(peak)):
        raise ValueError(f"{label} holds NaN or infinite weights. Download the file again, or take off the last LoRA")
    if item.type == "F16" and peak > torch.finfo(torch.float16).max:
        raise ValueError(f"{label} holds {float(peak):g}, more than fp16 can. Choose a format in bf16")
    format, settings = BY_TYPE[item.type], item.marker or {}
    rows = weight.reshape(-1, item.shape[-1])
    roles: dict[str, Tensor] = {QUANT_MARKER: item.marker_bytes} if item.marker is not None else {}
    squares = torch.zeros(2, dtype=torch.float64)
    height = max(1, CHUNK // item.shape[-1])
    for start in range(0, len(rows), height):
        part = rows[start : start + height].float()
        codes, scale = format.pack(part, peak, None)
        beside = {} if scale is None else {"weight_scale": scale}
        error = format.unpack(codes, beside, settings, torch.float32).sub(part)
        squares += torch.stack([x.square().sum() for x in (error, part)]).cpu()  # chunks are short enough for float32
        for role, values in {"weight": codes, **beside}.items():
            if not values.ndim:  # one scale for all rows
                roles[role] = values.cpu()
                continue
            if role not in roles:
                roles[role] = torch.empty(len(rows), values.shape[1], dtype=values.dtype)
            roles[role][start : start + height] = values.cpu()
    return roles, squares


def prefix_of(config: ChromaConfig) -> str:
    """What stands before every name in a file of a model of these sizes."""
    return PRUNED_PREFIX if config.left_out else ""


def file_name(name: str) -> str:
    """The published name of one of the model's tensors: norms end in `.scale`."""
    published = name.removesuffix(".weight") + ".scale"
    return published if name.endswith(".weight") and NORMS.search(published) else name
