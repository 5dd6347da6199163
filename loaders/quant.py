"""DATA: what quant_mode means, and which layers it touches. Host-free; the quantising itself is the host's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

import torch

QUANTISED_PARTS = ("double_blocks.", "single_blocks.")  # all else is 3 % of the weights and the most sensitive
CONVROT_GROUPS = (256, 64, 16)  # sizes of the host's Hadamard rotations; 256 fits every linear of the 8.9B model


@dataclass(frozen=True)
class QuantMode:
    """One choice of the loader's quant_mode.

    dtype:  storage type of all weights, or None to keep the file's.
    format: the host's name of the quantised storage of the blocks' linears, or None.
    quantise: arguments of the host layout's quantiser.
    settings: what goes into the layer's `comfy_quant` entry beside the format.
    """

    dtype: torch.dtype | None = None
    format: str | None = None
    quantise: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    rotated: bool = False


# fp8 weights are multiplied in full precision: the host casts activations to fp8 with a bare scale of 1 otherwise.
FULL_PRECISION = {"full_precision_matrix_mult": True}

QUANT_MODES: dict[str, QuantMode] = {
    "auto": QuantMode(),
    "bf16": QuantMode(dtype=torch.bfloat16),
    "fp16": QuantMode(dtype=torch.float16),
    "fp32": QuantMode(dtype=torch.float32),
    "fp8_scaled": QuantMode(format="float8_e4m3fn", quantise={"scale": "recalculate"}, settings=FULL_PRECISION),
    "int8_convrot": QuantMode(format="int8_tensorwise", quantise={"per_channel": True, "convrot": True}, rotated=True),
}

# Texts of other packs' workflows; each runs as the scaled kind of the same type, since a plain cast is 3 to 56 % off.
ALIASES: dict[str, QuantMode] = {
    "float8_e4m3fn (8 bit)": QUANT_MODES["fp8_scaled"],
    "float8_e5m2 (also 8 bit)": QuantMode(
        format="float8_e5m2", quantise={"scale": "recalculate"}, settings=FULL_PRECISION
    ),
}


def quant_mode(name: str) -> QuantMode:
    """raises: ValueError for an unknown name, listing the known ones."""
    mode = QUANT_MODES.get(name) or ALIASES.get(name)
    if mode is None:
        raise ValueError(f"quant_mode {name!r} is not known (known: {', '.join([*QUANT_MODES, *ALIASES])})")
    return mode


def is_quantised(name: str, ndim: int) -> bool:
    """Whether a mode with a format applies to this tensor: weights of linears inside the blocks."""
    return ndim == 2 and name.startswith(QUANTISED_PARTS) and name.endswith(".weight")


def rotation_group(in_features: int) -> int | None:
    """The largest Hadamard group that divides a layer's inputs, or None if there is none (the layer stays as it is)."""
    return next((g for g in CONVROT_GROUPS if in_features % g == 0), None)
