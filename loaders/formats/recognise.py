"""DATA and rules: in which of the known ways a file stores a weight. Pure: names, types, shapes and markers only.

Formats of the host keep the host's names; `_rowwise`, `_blockwise` and GGML's types are this pack's own layouts.
Shapes: N output rows, K inputs.
"""

from __future__ import annotations

from typing import Any, Mapping

import torch

from ..files.quoting import short
from ..tensor_info import Storage, TensorInfo
from .ggml import GGML_TYPES

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FP8_FORMATS = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}
PACKED_GGML = tuple(name for name, kind in GGML_TYPES.items() if kind.block_size > 1)

# Formats that the host's own quantised tensors hold -> what may stand beside the weight.
HOST_FORMATS = {
    "float8_e4m3fn": ("weight_scale", "input_scale"),
    "float8_e5m2": ("weight_scale", "input_scale"),
    "int8_tensorwise": ("weight_scale",),
    "mxfp8": ("weight_scale", "input_scale"),
    "nvfp4": ("weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale"),
    "convrot_w4a4": ("weight_scale",),
}
# Formats that the host refuses: an element type and one float32 scale per row or per block.
SCALED_FORMATS = (
    "float8_e4m3fn_rowwise",
    "float8_e4m3fn_blockwise",
    "float8_e5m2_rowwise",
    "float8_e5m2_blockwise",
    "int8_blockwise",
)
GGUF_PREFIX = "gguf_"  # of GGML's types in a marker, where the host has saved such a model
PACKED_4BIT = ("nvfp4", "convrot_w4a4")  # two values a byte
# Beginning of a marker's format -> what the weights may be stored as. uint8 holds what a writer's table lacked.
MARKED_DTYPES = {
    "float8_e5m2": (torch.float8_e5m2, torch.uint8),
    "float8": (torch.float8_e4m3fn, torch.uint8),
    "mxfp8": (torch.float8_e4m3fn, torch.uint8),
    "nvfp4": (torch.uint8,),
    "int8": (torch.int8,),
    "convrot_w4a4": (torch.int8,),
}
SCALE_BITS = (torch.uint8, torch.float8_e4m3fn, getattr(torch, "float8_e8m0fnu", torch.uint8))  # of mxfp8 and nvfp4
BESIDE_GGML = ("weight_up", "weight_down", "weight_delta", "weight_delta_scale")  # a merged LoRA
BESIDE_SCALED = ("weight_scale", "input_scale", *BESIDE_GGML)
SCALE_DTYPES = {
    "weight_scale": (*FLOAT_DTYPES, *SCALE_BITS, "F8_E8M0"),
    "weight_delta": (torch.int8,),
    **dict.fromkeys(
        ("weight_scale_2", "input_scale", "pre_quant_scale", "weight_up", "weight_down", "weight_delta_scale"),
        FLOAT_DTYPES,
    ),
}
LINEAR_DTYPES = ("int4", "int8")  # what convrot_w4a4 multiplies in


def storage_of(
    label: str,
    weight: TensorInfo,
    scales: Mapping[str, TensorInfo],
    marker: Mapping[str, Any] | None,
    old_marker: TensorInfo | None = None,
) -> Storage:
    """Recognises the storage of one weight.

    label:  file and tensor, for messages.
    scales: today's name of a scale (`weight_scale` ...) -> what the header says of it.
    marker: the layer's `comfy_quant` entry, or None.
    old_marker: the file's `scaled_fp8` tensor, if any: 2 values mean full-precision matrix multiplication.
    raises: ValueError for a type that no rule knows, or scales that do not fit the weight.
    """
    marker = dict(marker or {})
    named = marker.get("format")
    if named is not None and not isinstance(named, str):
        raise ValueError(f"{label} is marked as {short(named)}, expected the name of a format. Download the file again")
    storage = _recognised(label, weight, scales, marker, old_marker)
    known = BESIDE_GGML if storage.format in GGML_TYPES else HOST_FORMATS.get(storage.format, BESIDE_SCALED)
    for role, scale in scales.items():
        if storage.format is not None and (role not in known or scale.dtype not in SCALE_DTYPES[role]):
            raise _misfit(label, weight, scale)
        if role == "input_scale" and scale.numel != 1:
            raise _misfit(label, weight, scale)
    return storage


def _recognised(
    label: str,
    weight: TensorInfo,
    scales: Mapping[str, TensorInfo],
    marker: Mapping[str, Any],
    old_marker: TensorInfo | None,
) -> Storage:
    named = marker.get("format")
    if isinstance(weight.dtype, str):
        if weight.dtype in PACKED_GGML:
            return Storage(weight.dtype, weight.shape)
        known = ", ".join(GGML_TYPES)
        raise ValueError(
            f"{label} is stored as {weight.dtype}, which is not supported ({known} are). Take a file in one of those"
        )
    if weight.dtype in FLOAT_DTYPES:  # scales beside it are dummies of a hybrid file
        return Storage(None, weight.shape)
    if len(weight.shape) != 2:
        scale = scales.get("weight_scale")
        if weight.dtype in FP8_FORMATS and (scale is None or scale.numel == 1):
            return Storage(FP8_FORMATS[weight.dtype], weight.shape, {"unscaled": scale is None})
        raise _unknown(label, weight)
    if named is not None and named.startswith(GGUF_PREFIX):
        return _gguf_saved(label, weight, named.removeprefix(GGUF_PREFIX).upper())
    if named is not None and named not in HOST_FORMATS and named not in SCALED_FORMATS:
        if not (named.startswith("float8") or named.startswith("int8")):
            known = ", ".join((*HOST_FORMATS, *SCALED_FORMATS))
            raise ValueError(f"{label} is marked as {short(named)}, which is not supported ({known} are)")
    held = next((dtypes for start, dtypes in MARKED_DTYPES.items() if named and named.startswith(start)), None)
    if held is not None and weight.dtype not in held:
        raise ValueError(
            f"{label} is marked as {short(named)} but stored as {_text(weight.dtype)}. The file is damaged; download it again"
        )
    dtype = weight.dtype
    if dtype == torch.uint8:
        if "weight_scale_2" in scales or named == "nvfp4":
            return _nvfp4(label, weight, scales)
        if named == "mxfp8":
            dtype = torch.float8_e4m3fn
        elif named in FP8_FORMATS.values() or named in SCALED_FORMATS:
            dtype = torch.float8_e5m2 if "e5m2" in named else torch.float8_e4m3fn
    if dtype in FP8_FORMATS:
        return _fp8(label, weight, dtype, scales, marker, old_marker)
    if dtype == torch.int8:
        return _int8(label, weight, scales, marker)
    raise _unknown(label, weight)


def _fp8(
    label: str,
    weight: TensorInfo,
    dtype: torch.dtype,
    scales: Mapping[str, TensorInfo],
    marker: Mapping[str, Any],
    old_marker: TensorInfo | None,
) -> Storage:
    settings: dict[str, Any] = {}
    if marker.get("full_precision_matrix_mult") or (old_marker is not None and old_marker.numel == 2):
        settings["full_precision_matrix_mult"] = True
    scale = scales.get("weight_scale")
    if scale is None:
        if marker.get("format") or scales:
            said = f"is marked as {short(marker['format'])}" if marker.get("format") else f"has {', '.join(scales)}"
            raise ValueError(f"{label} {said} but has no weight_scale. Download the file again")
        return Storage(FP8_FORMATS[dtype], weight.shape, {**settings, "unscaled": True})
    rows, columns = weight.shape
    if scale.numel == 1 and scale.dtype in FLOAT_DTYPES:
        return Storage(FP8_FORMATS[dtype], weight.shape, settings)
    if dtype == torch.float8_e4m3fn and scale.dtype in (torch.uint8, "F8_E8M0", *SCALE_BITS[2:]):
        if scale.numel != round_up(rows, 128) * round_up(-(-columns // 32), 4):
            raise _misfit(label, weight, scale)
        return Storage("mxfp8", weight.shape, settings)
    return _scaled(label, FP8_FORMATS[dtype], weight, scale)


def _int8(label: str, weight: TensorInfo, scales: Mapping[str, TensorInfo], marker: Mapping[str, Any]) -> Storage:
    scale = scales.get("weight_scale")
    if scale is None:
        raise ValueError(f"{label} is stored as int8 but has no weight_scale beside it. Download the file again")
    params = marker.get("params") if isinstance(marker.get("params"), Mapping) else {}
    rotated = marker.get("convrot", params.get("convrot", False))
    group = marker.get("convrot_groupsize", params.get("convrot_groupsize", 256))
    rows, columns = weight.shape
    if marker.get("format") == "convrot_w4a4":
        if scale.numel != rows or scale.dtype not in FLOAT_DTYPES or not _rotates(2 * columns, group):
            raise _misfit(label, weight, scale)
        kind = marker.get("linear_dtype", params.get("linear_dtype", "int4"))
        if kind not in LINEAR_DTYPES:
            raise ValueError(f"{label} is marked for {short(kind)}, expected {' or '.join(LINEAR_DTYPES)}")
        return Storage("convrot_w4a4", (rows, 2 * columns), {"convrot_groupsize": group, "linear_dtype": kind})
    if type(rotated) is not bool:
        raise ValueError(f"{label} has convrot {short(rotated)} in its marker, expected true or false")
    if scale.dtype not in FLOAT_DTYPES or (rotated and scale.numel not in (1, rows)):
        raise _misfit(label, weight, scale)
    if scale.numel not in (1, rows):
        return _scaled(label, "int8", weight, scale)
    if not marker.get("format"):
        raise ValueError(
            f"{label} is stored as int8 without a comfy_quant marker, which would say whether its rows are rotated. "
            "Take a file with markers"
        )
    if not rotated:
        return Storage("int8_tensorwise", weight.shape)
    if not _rotates(columns, group):
        raise ValueError(
            f"{label} has {columns} inputs, which its rotation in groups of {short(group)} does not fit: expected a "
            "power of 4 that divides them. Download the file again"
        )
    return Storage("int8_tensorwise", weight.shape, {"convrot": True, "convrot_groupsize": group})


def _rotates(columns: int, group: Any) -> bool:
    """Whether a regular Hadamard matrix of this size, a power of 4, turns rows of so many inputs."""
    return (
        type(group) is int
        and group >= 4
        and group.bit_count() == 1
        and group.bit_length() % 2 == 1
        and columns % group == 0
    )


def _scaled(label: str, element: str, weight: TensorInfo, scale: TensorInfo) -> Storage:
    """Scales per row, (N,) or (N, 1), or per block, (N/n, K/k), of any sizes that divide the weight's."""
    if scale.dtype not in FLOAT_DTYPES:
        raise _misfit(label, weight, scale)
    rows, columns = weight.shape
    if scale.shape in ((rows,), (rows, 1)) and element != "int8":
        return Storage(f"{element}_rowwise", weight.shape)
    shape = scale.shape[:-1] if len(scale.shape) == 3 and scale.shape[-1] == 1 else scale.shape
    if len(shape) != 2 or 0 in shape or rows % shape[0] or columns % shape[1]:
        raise _misfit(label, weight, scale)
    return Storage(f"{element}_blockwise", weight.shape)


def _nvfp4(label: str, weight: TensorInfo, scales: Mapping[str, TensorInfo]) -> Storage:
    for role in ("weight_scale", "weight_scale_2"):
        if role not in scales:
            raise ValueError(f"{label} is stored as nvfp4 but has no {role} beside it. Download the file again")
    rows, columns = weight.shape[0], 2 * weight.shape[1]
    scale = scales["weight_scale"]
    whole = scales["weight_scale_2"]
    if scale.numel != round_up(rows, 128) * round_up(-(-columns // 16), 4) or scale.dtype not in SCALE_BITS[:2]:
        raise _misfit(label, weight, scale)
    if whole.numel != 1:
        raise _misfit(label, weight, whole)
    return Storage("nvfp4", (rows, columns))


def _gguf_saved(label: str, weight: TensorInfo, name: str) -> Storage:
    kind = GGML_TYPES.get(name)
    rows, size = weight.shape
    if kind is None or weight.dtype != torch.uint8 or size % kind.type_size:
        raise ValueError(f"{label} is marked as GGUF {name} but has shape {weight.shape} of {_text(weight.dtype)}")
    return Storage(name, (rows, size // kind.type_size * kind.block_size))


def _unknown(label: str, weight: TensorInfo) -> ValueError:
    return ValueError(
        f"{label} is stored as {_text(weight.dtype)} of shape {weight.shape}, which no known format of Chroma uses. "
        "Take another version of the file"
    )


def _misfit(label: str, weight: TensorInfo, scale: TensorInfo) -> ValueError:
    return ValueError(
        f"{label} of shape {weight.shape}, {_text(weight.dtype)}, has scales of shape {scale.shape}, "
        f"{_text(scale.dtype)}, which fit no known format. Take another version of the file"
    )


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _text(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")
