"""What files and formats both speak of: one stored tensor, the safetensors types, the sizes of GGML's blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

import torch

QUANT_MARKER = "comfy_quant"  # last part of the name of a tensor that says in JSON how a layer is quantised
METADATA_MARKERS = "_quantization_metadata"  # of a safetensors header: the same of all its layers
# What may stand beside a weight in this pack's own layout: a LoRA that was saved with it, see `lora_change.Change`.
MERGED_LORA = ("weight_up", "weight_down", "weight_delta", "weight_delta_scale")
# safetensors' name -> torch's. What torch lacks is left as text, so that an error can name it.
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    **({"F8_E8M0": torch.float8_e8m0fnu} if hasattr(torch, "float8_e8m0fnu") else {}),
}
# Every number a GGUF file may hold for a tensor's type: name, weights of a block, bytes of a block.
GGML_CODES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
# Those whose numbers stand as they are.
GGML_PLAIN: dict[str, torch.dtype] = {name: DTYPES[name] for name, _, _ in GGML_CODES.values() if name in DTYPES}
GGML_BLOCKS = {name: (block_size, type_size) for name, block_size, type_size in GGML_CODES.values()}


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor."""

    dtype: torch.dtype | str  # text for GGML's packed types and for what torch lacks
    shape: tuple[int, ...]  # the weight's own, also where values are packed by GGML

    @property
    def numel(self) -> int:
        count = 1
        for n in self.shape:
            count *= n
        return count


@dataclass(frozen=True)
class Storage:
    """How one weight is stored.

    format:   one of `formats`; None for plain floats.
    shape:    the weight's own, unpacked.
    settings: what unpacking needs to know beside the scales, under the host's names.
    """

    format: str | None
    shape: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One stored tensor: its name in the file, how it is stored, and the names of its scales by role."""

    file_name: str
    storage: Storage
    scales: Mapping[str, str]


def packed_shape(shape: Sequence[int], type_name: str) -> tuple[int, ...]:
    """(..., K) weights -> (..., K // block_size * type_size) bytes.

    raises: ValueError for an unknown type, or a K that is no multiple of its block size.
    """
    if type_name not in GGML_BLOCKS:
        raise ValueError(f"tensor type {type_name} is not supported ({', '.join(GGML_BLOCKS)} are known)")
    block_size, type_size = GGML_BLOCKS[type_name]
    if not shape or shape[-1] % block_size:
        raise ValueError(
            f"shape {list(shape)} cannot be stored as {type_name}: its last size must be a multiple of {block_size}. "
            "Keep this tensor in F16 or F32"
        )
    return (*shape[:-1], shape[-1] // block_size * type_size)
