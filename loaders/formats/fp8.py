"""fp8, e4m3fn and e5m2: one scale for a tensor, or none (a plain cast). The host's own layouts."""

from __future__ import annotations

import functools
from typing import Any, Sequence

import torch
from torch import Tensor

from ..tensor_info import Storage
from .base.format import (
    SAFETENSORS,
    SCALE_FLOATS,
    Export,
    Format,
    Held,
    Matmul,
    Mode,
    Roles,
    Settings,
    Weight,
    joined_rows,
    marker_text,
    scale_per_row,
)

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
NAMES = {E4M3: "float8_e4m3fn", E5M2: "float8_e5m2"}
# uint8: from writers whose table of types lacks that fp8 type.
MARKED = {"float8_e5m2": (E5M2, torch.uint8), "float8": (E4M3, torch.uint8)}
BLOCK_SCALE_DTYPES = (torch.uint8, "F8_E8M0", getattr(torch, "float8_e8m0fnu", torch.uint8))  # mxfp8's
E4M3_LAYOUT = "TensorCoreFP8E4M3Layout"  # of the inputs, for weights of either type: no device multiplies e5m2 by e5m2
SCALED = {"scale": "recalculate"}
NEEDS = "needs an NVIDIA GPU of compute capability 8.9, or a recent AMD one"
ROUNDING = 2.0**-7  # bfloat16's largest relative step


def element(weight: Weight) -> torch.dtype | None:
    """The fp8 type of a matrix, also if it is stored as bytes; None if it is something else."""
    if weight.dtype != torch.uint8:
        return weight.dtype if weight.dtype in NAMES else None
    named = (weight.named or "").removesuffix("_rowwise").removesuffix("_blockwise")
    if len(weight.shape) != 2 or "weight_scale_2" in weight.beside:  # the second scale is nvfp4's
        return None
    return next((dtype for dtype, name in NAMES.items() if name == named), None)


def is_block_scaled(weight: Weight) -> bool:
    """Whether the scales beside an e4m3 weight are the exponents of mxfp8."""
    return weight.scale is not None and weight.scale.dtype in BLOCK_SCALE_DTYPES


def precision_settings(weight: Weight) -> dict[str, Any]:
    """The setting to multiply unpacked weights, if the file's marker asks for it; 2 values in the old marker do too."""
    old = weight.old_marker is not None and weight.old_marker.numel == 2
    return {"full_precision_matrix_mult": True} if weight.marker.get("full_precision_matrix_mult") or old else {}


def recognise(dtype: torch.dtype, weight: Weight) -> Storage | None:
    if element(weight) != dtype:
        return None
    scale, name = weight.scale, NAMES[dtype]
    if len(weight.shape) != 2:  # a bias or a kernel
        return Storage(name, weight.shape, {"unscaled": scale is None}) if scale is None or scale.numel == 1 else None
    if scale is None:
        if weight.named or weight.beside:
            raise weight.lacks(marker_text(weight), "weight_scale")
        return Storage(name, weight.shape, {**precision_settings(weight), "unscaled": True})
    if scale.numel != 1 or scale.dtype not in SCALE_FLOATS:
        return None
    return Storage(name, weight.shape, precision_settings(weight))


def unpack(element: torch.dtype, data: Tensor, beside: Roles, settings: Settings, dtype: torch.dtype) -> Tensor:
    data = data.view(element).float()
    if "weight_scale" in beside:
        data.mul_(beside["weight_scale"].float().reshape(()))
    return data.to(dtype)


def hold(element: torch.dtype, data: Tensor, beside: dict[str, Tensor], storage: Storage) -> Held:
    scale = beside.get("weight_scale")
    scale = torch.ones(()) if scale is None else scale.float().reshape(())
    return Held(storage.format, data.view(element), storage.shape, {"scale": scale})


def fuse(parts: Sequence[Held]) -> Held:
    """Joins parts: with one scale if all have the same, else with one a row, in this pack's own layout."""
    if all(bool(part.fields["scale"] == parts[0].fields["scale"]) for part in parts):
        return joined_rows(parts)
    whole = joined_rows(parts, scale=scale_per_row(parts))
    return Held(f"{whole.format}_rowwise", whole.data, whole.shape, whole.fields)


def pack(rows: Tensor, peak: Tensor, seed: int | None) -> tuple[Tensor, Tensor]:
    """Packs with a scale that bfloat16 holds exactly: the host unpacks in its compute type and would round others."""
    largest = torch.finfo(E4M3).max
    scale = (peak / largest).clamp(min=torch.finfo(torch.float32).tiny)
    near = scale.bfloat16().float()
    # If it was rounded down, the next bfloat16 above, so that no number is clipped.
    scale = torch.where(near < scale, near * (1 + ROUNDING), near).bfloat16().float()
    return (rows * (1.0 / scale)).clamp_(-largest, largest).to(E4M3), scale


def marker(shape: Sequence[int], full_precision: bool) -> dict[str, Any]:
    return {"format": NAMES[E4M3], **({"full_precision_matrix_mult": True} if full_precision else {})}


def _format(dtype: torch.dtype, error: float, layout: str, limit: float, **more: Any) -> Format:
    name = "fp8" if dtype == E4M3 else "fp8 e5m2"
    return Format(
        name=NAMES[dtype],
        bits=8.0,
        error=error,
        recognise=functools.partial(recognise, dtype),
        unpack=functools.partial(unpack, dtype),
        hold=functools.partial(hold, dtype),
        fuse=fuse,
        beside=("weight_scale", "input_scale"),
        marked=MARKED,
        layout=layout,
        unpacked_here=True,
        matmul=Matmul(name, SCALED, E4M3_LAYOUT, limit, "supports_fp8_compute", NEEDS, scaled_here=True),
        **more,
    )


FORMATS = (
    _format(
        E4M3,
        0.02646,
        E4M3_LAYOUT,
        0.1,
        # Other packs' names for a plain cast get the scaled kind of the same type: a plain cast is 3 to 56 % off.
        modes=(
            Mode("fp8_scaled", 60, SCALED, encoder=True),
            Mode("float8_e4m3fn (8 bit)", 0, SCALED, alias=True),
        ),
        exports=(Export("fp8_scaled", 20, SAFETENSORS, "F8_E4M3"),),
        pack=pack,
        marker=marker,
        has_row_scales=False,
    ),
    _format(
        E5M2,
        0.0528,
        "TensorCoreFP8E5M2Layout",
        0.15,
        modes=(Mode("float8_e5m2 (also 8 bit)", 1, SCALED, alias=True),),
    ),
)
