"""DATA: how the weights of a model are stored: scales beside fp8, int8 and 4-bit weights, and the types in a GGUF.

Source: the format study, 1.5, 1.6 and 3; the shapes of the host's formats agree with what comfy_kitchen 0.2.26 makes.
Names of formats in "expect" are the host's (`float8_e4m3fn`, `int8_tensorwise`, ...) whatever the keys are called, or
ggml's (`Q8_0`, ...). int8 per tensor, per row and rotated are all `int8_tensorwise`, as in the host; the markers tell
them apart. A plain cast to fp8 has "unscaled" in the expectation.
"""

from __future__ import annotations

import json
from collections import Counter
from math import prod
from typing import Any, Callable, Mapping

from headers import expand
from headers.models import Shapes

Stored = dict[str, tuple[str, tuple[int, ...]]]  # name pattern -> dtype, shape
Parts = Callable[[int, int], Mapping[str, tuple[str, tuple[int, ...]]]]


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


# What a weight of (out, in) = (n, k) becomes: ending of the name -> dtype, shape.
PARTS: dict[str, Parts] = {
    "raw float8_e4m3fn": lambda n, k: {".weight": ("F8_E4M3", (n, k))},
    "raw float8_e5m2": lambda n, k: {".weight": ("F8_E5M2", (n, k))},
    "old float8_e4m3fn": lambda n, k: {".weight": ("F8_E4M3", (n, k)), ".scale_weight": ("F32", (1,))},
    "old float8_e5m2": lambda n, k: {".weight": ("F8_E5M2", (n, k)), ".scale_weight": ("F32", (1,))},
    "old float8_e4m3fn float64": lambda n, k: {".weight": ("F8_E4M3", (n, k)), ".scale_weight": ("F64", ())},
    "float8_e4m3fn": lambda n, k: {".weight": ("F8_E4M3", (n, k)), ".weight_scale": ("F32", ())},
    "float8_e4m3fn mixed": lambda n, k: {".weight": ("F8_E4M3", (n, k)), ".weight_scale": ("F32", (1,))},
    "float8_e4m3fn_rowwise": lambda n, k: {".weight": ("F8_E4M3", (n, k)), ".weight_scale": ("F32", (n,))},
    "float8_e4m3fn_blockwise": lambda n, k: {
        ".weight": ("F8_E4M3", (n, k)),
        ".weight_scale": ("F32", (n // 64, k // 64)),
    },
    "int8_tensorwise": lambda n, k: {".weight": ("I8", (n, k)), ".weight_scale": ("F32", ())},
    "int8_tensorwise per row": lambda n, k: {".weight": ("I8", (n, k)), ".weight_scale": ("F32", (n, 1))},
    "int8_blockwise": lambda n, k: {".weight": ("I8", (n, k)), ".weight_scale": ("F32", (n // 128, k // 128))},
    "nvfp4": lambda n, k: {
        ".weight": ("U8", (n, k // 2)),
        ".weight_scale": ("F8_E4M3", (_up(n, 128), _up(k // 16, 4))),
        ".weight_scale_2": ("F32", ()),
    },
    "mxfp8": lambda n, k: {
        ".weight": ("F8_E4M3", (n, k)),
        ".weight_scale": ("U8", (_up(n, 128), _up(k // 32, 4))),
    },
    "mxfp8 e8m0": lambda n, k: {
        ".weight": ("F8_E4M3", (n, k)),
        ".weight_scale": ("F8_E8M0", (_up(n, 128), _up(k // 32, 4))),
    },
    "mxfp8 hybrid": lambda n, k: {
        ".weight": ("F8_E4M3", (n, k)),
        ".weight_scale": ("U8", (_up(n, 128), _up(k // 32, 4))),
        ".weight_scalar": ("F32", ()),
    },
    "convrot_w4a4": lambda n, k: {".weight": ("I8", (n, k // 2)), ".weight_scale": ("F32", (n,))},
    "nf4": lambda n, k: {
        ".weight": ("U8", (n * k // 2, 1)),
        ".weight.absmax": ("U8", (n * k // 64,)),
        ".weight.nested_absmax": ("F32", (n * k // 64 // 256,)),
        ".weight.nested_quant_map": ("F32", (256,)),
        ".weight.quant_map": ("F32", (16,)),
        ".weight.quant_state.bitsandbytes__nf4": ("U8", (150,)),
    },
}
FORMAT_NAMES = {  # where the row above is one of several forms of a format
    "raw float8_e4m3fn": "float8_e4m3fn",
    "raw float8_e5m2": "float8_e5m2",
    "old float8_e4m3fn": "float8_e4m3fn",
    "old float8_e5m2": "float8_e5m2",
    "old float8_e4m3fn float64": "float8_e4m3fn",
    "float8_e4m3fn mixed": "float8_e4m3fn",
    "int8_tensorwise per row": "int8_tensorwise",
    "mxfp8 e8m0": "mxfp8",
    "mxfp8 hybrid": "mxfp8",
}

# Parts of names of the layers that converters leave in 16 bits.
KEEP_SMALL = ("distilled_guidance_layer",)
KEEP_LARGE = ("distilled_guidance_layer", "final_layer", "img_in", "txt_in")  # leaves the blocks
KEEP_RADIANCE_SMALL = (
    "distilled_guidance_layer",
    "img_in_patch",
    "nerf_blocks",
    "nerf_final_layer_conv",
    "nerf_image_embedder",
)
KEEP_RADIANCE_LARGE = (*KEEP_RADIANCE_SMALL, "txt_in", "_attn.proj")


def plain(shapes: Shapes, dtype: str) -> Stored:
    return {name: (dtype, shape) for name, shape in shapes.items()}


def quantised(
    shapes: Shapes,
    parts: str,
    keep: tuple[str, ...] = (),
    dtype: str = "BF16",
    marker: Mapping[str, Any] | None = None,
    more: Mapping[str, tuple[int, ...]] | None = None,
    dummy: bool = False,
) -> tuple[Stored, dict[str, int]]:
    """All 2-D weights but those that `keep` names, stored as a row of PARTS; the rest as dtype.

    marker: adds the *.comfy_quant tensor that holds this object's JSON.
    more:   further F32 tensors beside each quantised weight: ending -> shape, such as ".scale_input": (1,).
    dummy:  a `scale_weight` beside the kept weights too.
    returns: the tensors, and how many weights are stored in which format.
    """
    stored: Stored = {}
    count: Counter[str] = Counter()
    for name, shape in shapes.items():
        layer = name.removesuffix(".weight")
        kept = any(part in name for part in keep)
        if layer == name or len(shape) != 2 or kept:
            stored[name] = (dtype, shape)
            if layer != name and kept and dummy:
                stored[layer + ".scale_weight"] = ("F32", (1,))
            continue
        count[FORMAT_NAMES.get(parts, parts)] += len(expand(name))
        stored |= {layer + end: info for end, info in PARTS[parts](*shape).items()}
        stored |= {layer + end: ("F32", size) for end, size in (more or {}).items()}
        if marker is not None:
            stored[layer + ".comfy_quant"] = ("U8", (len(json.dumps(marker)),))
    return stored, dict(count)


# --- GGUF

BLOCK_32 = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL")  # the other quantised types have blocks of 256
FLOATS = ("F32", "F16", "BF16")
FILE_TYPES = {  # what a file is called: general.file_type, type of its weights, type of the fused qkv
    "F16": (1, "F16", "F16"),
    "Q4_0": (2, "Q4_0", "Q4_0"),
    "Q4_1": (3, "Q4_1", "Q4_1"),
    "Q8_0": (7, "Q8_0", "Q8_0"),
    "Q5_0": (8, "Q5_0", "Q5_0"),
    "Q5_1": (9, "Q5_1", "Q5_1"),
    "Q2_K": (10, "Q2_K", "Q2_K"),
    "Q3_K_S": (11, "Q3_K", "Q3_K"),
    "Q3_K_M": (12, "Q3_K", "Q4_K"),
    "Q4_K_S": (14, "Q4_K", "Q4_K"),
    "Q4_K_M": (15, "Q4_K", "Q5_K"),
    "Q5_K_S": (16, "Q5_K", "Q5_K"),
    "Q5_K_M": (17, "Q5_K", "Q6_K"),
    "Q6_K": (18, "Q6_K", "Q6_K"),
    "IQ4_NL": (25, "IQ4_NL", "IQ4_NL"),
    "IQ2_S": (28, "IQ2_S", "IQ2_S"),
    "IQ4_XS": (30, "IQ4_XS", "IQ4_XS"),
    "BF16": (32, "BF16", "BF16"),
}
KEEP_CITY96 = ("txt_in.", "img_in.", "final_layer.")
# An earlier patch of the same tools wrote these types instead: first match.
KEEP_LCPP_CHROMA = {
    "distilled_guidance_layer.in_proj.": "F32",
    "img_in.": "F32",
    "final_layer.linear.": "F32",
    "distilled_guidance_layer.": "F16",
    "txt_in.": "F16",
}


def gguf(
    shapes: Shapes, file_type: str, keep: Mapping[str, str] | None = None, vectors: str = "F32"
) -> tuple[Stored, dict[str, int]]:
    """Tensors as city96's convert.py and patched llama-quantize store them.

    keep:    part of a name -> type of the 2-D weights that are not quantised; default: KEEP_CITY96 in 16 bits.
    vectors: type of 1-D tensors and of those with up to 1024 elements.
    """
    _, weights, qkv = FILE_TYPES[file_type]
    source = "F16" if file_type == "F16" else "BF16"
    keep = dict.fromkeys(KEEP_CITY96, source) if keep is None else keep
    stored: Stored = {}
    count: Counter[str] = Counter()
    for name, shape in shapes.items():
        kept = next((t for part, t in keep.items() if part in name), None)
        if len(shape) == 1 or prod(shape) <= 1024:
            kind = vectors
        elif kept or len(shape) != 2:
            kind = kept or source
        else:
            kind = qkv if "attn.qkv." in name else weights
            if kind not in FLOATS and shape[1] % (32 if kind in BLOCK_32 else 256):
                kind = source if kind in BLOCK_32 else "F16"
        stored[name] = (kind, shape)
        if kind not in FLOATS:
            count[kind] += len(expand(name))
    return stored, dict(count)


def gguf_metadata(file_type: str, arch: str = "flux") -> dict[str, Any]:
    return {
        "general.architecture": arch,
        "general.quantization_version": 2,
        "general.file_type": FILE_TYPES[file_type][0],
    }
