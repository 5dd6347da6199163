"""DATA: what quant_mode means, and which layers it touches. Host-free; the quantising itself is in comfy_quant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

import torch

# What stays in 16 bits whatever the mode: 3 % of the weights and the most sensitive. Radiance's NeRF layers make the
# weights of a network for each patch, so that an error there is multiplied.
KEPT_PARTS = {
    "Chroma": ("img_in.", "txt_in.", "final_layer.", "distilled_guidance_layer."),
    "Radiance": ("img_in_patch.", "txt_in.", "nerf_", "distilled_guidance_layer.", "__"),
}
KEPT_PARTS["Chroma lite"] = KEPT_PARTS["FLUX"] = KEPT_PARTS["Chroma"]
FLOAT32_PARTS = ("nerf_image_embedder.",)  # so trained, stored and computed
CONVROT_GROUPS = (256, 64, 16)  # sizes of the host's Hadamard rotations; 256 fits every linear of the 8.9B model


@dataclass(frozen=True)
class QuantMode:
    """One choice of the loader's quant_mode.

    dtype:  storage type of all weights, or None to keep the file's.
    format: storage of the blocks' linears (a name of `storage.HOST_FORMATS` or `gguf_types.GGML_TYPES`), or None.
    quantise: arguments of the layout's quantiser.
    """

    dtype: torch.dtype | None = None
    format: str | None = None
    quantise: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keeps(self) -> bool:
        return self.dtype is None and self.format is None


QUANT_MODES: dict[str, QuantMode] = {
    "auto": QuantMode(),
    "keep": QuantMode(),
    "bf16": QuantMode(dtype=torch.bfloat16),
    "fp16": QuantMode(dtype=torch.float16),
    "fp32": QuantMode(dtype=torch.float32),
    "q8_0": QuantMode(format="Q8_0"),
    "int8_convrot": QuantMode(format="int8_tensorwise", quantise={"per_channel": True, "convrot": True}),
    "fp8_scaled": QuantMode(format="float8_e4m3fn", quantise={"scale": "recalculate"}),
    "mxfp8": QuantMode(format="mxfp8"),
    "nvfp4": QuantMode(format="nvfp4", quantise={"scale": "recalculate"}),
    "q5_1": QuantMode(format="Q5_1"),
    "q4_1": QuantMode(format="Q4_1"),
}

# Texts of other packs' workflows; each runs as the scaled kind of the same type, since a plain cast is 3 to 56 % off.
ALIASES: dict[str, QuantMode] = {
    "float8_e4m3fn (8 bit)": QUANT_MODES["fp8_scaled"],
    "float8_e5m2 (also 8 bit)": QuantMode(format="float8_e5m2", quantise={"scale": "recalculate"}),
}


def quant_mode(name: str) -> QuantMode:
    """raises: ValueError for an unknown name, listing the known ones."""
    mode = QUANT_MODES.get(name) or ALIASES.get(name)
    if mode is None:
        raise ValueError(f"quant_mode {name!r} is not known (known: {', '.join([*QUANT_MODES, *ALIASES])})")
    return mode


def is_quantised(name: str, ndim: int, variant: str = "Chroma") -> bool:
    """Whether a mode with a format applies to this tensor: weights of linears inside the blocks."""
    return ndim == 2 and name.endswith(".weight") and not name.startswith(KEPT_PARTS[variant])


def rotation_group(in_features: int) -> int | None:
    """The largest Hadamard group that divides a layer's inputs, or None if there is none (the layer stays as it is)."""
    return next((g for g in CONVROT_GROUPS if in_features % g == 0), None)
