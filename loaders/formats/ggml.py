"""GGML's tensor types: dense tensors from their blocks, and blocks from dense tensors. Plain torch, any device.

Source: the block layouts of ggml and gguf-py (both MIT). A block's bytes become small integer codes and float32
scales by bit operations on whole 16-bit words, then one multiplication (or multiply-add) writes the target's dtype.
Letters: n blocks, K weights of a row, W 16-bit words.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..tensor_info import GGML_CODES, MERGED_LORA, Storage, packed_shape
from . import ggml_pack
from . import ggml_unpack as read
from .base.format import (
    GGUF,
    Export,
    Format,
    Held,
    Mode,
    Roles,
    Settings,
    Weight,
    dtype_text,
    hold_own,
    is_changed,
    joined_rows,
)
from .ggml_unpack import Scales

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CPU_CHUNK = 1 << 18  # weights at a time on a CPU, so that the float32 values in between stay in its cache


@dataclass(frozen=True)
class GGMLType:
    """One storage type.

    code:       its number in a GGUF file.
    block_size: weights of a block; type_size: the block's bytes.
    codes, scales: of blocks (n, type_size) uint8; see `ggml_unpack`.
    quantise:   blocks (n, block_size) float32, generator or None -> (n, type_size) uint8; None if it is only read.
    """

    name: str
    code: int
    block_size: int
    type_size: int
    codes: Callable[[Tensor], Tensor]
    scales: Callable[[Tensor], Scales]
    quantise: Callable[[Tensor, torch.Generator | None], Tensor] | None = None

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.type_size / self.block_size


def dequantise(packed: Tensor, type_name: str, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor's weights from its blocks. The input may be read-only and is never written to.

    packed:  (..., K // block_size * type_size) uint8.
    dtype:   bfloat16, float16 or float32. float32 equals gguf-py (zeros may differ in sign); the others are that,
             rounded once.
    returns: (..., K) of dtype, on the same device.
    raises:  ValueError for an unknown type, a last size that is not a whole number of blocks, or another dtype.
    """
    kind = ggml_type(type_name)
    if dtype not in DTYPES:
        raise ValueError(f"{type_name} cannot be dequantised to {dtype} ({', '.join(map(str, DTYPES))} are known)")
    if packed.dtype != torch.uint8 or packed.ndim == 0 or packed.shape[-1] % kind.type_size:
        raise ValueError(
            f"{list(packed.shape)} of {packed.dtype} are not {type_name} blocks: expected uint8 with a last size that "
            f"is a multiple of {kind.type_size}"
        )
    shape = (*packed.shape[:-1], packed.shape[-1] // kind.type_size * kind.block_size)
    blocks = packed.reshape(-1, kind.type_size)
    if torch.compiler.is_compiling():  # the compiler fuses the plain expression by itself
        codes, (scale, offset) = kind.codes(blocks), kind.scales(blocks)
        dense = codes if scale is None else codes * scale
        return (dense if offset is None else dense + offset).to(dtype).reshape(shape)
    out = torch.empty(len(blocks), kind.block_size, dtype=dtype, device=packed.device)
    scales = (itertools.repeat(None) if each is None else _chunks(each, kind) for each in kind.scales(blocks))
    for part, result, scale, offset in zip(_chunks(blocks, kind), _chunks(out, kind), *scales):
        _evaluate(kind.codes(part), scale, offset, result)
    return out.view(shape)


def quantise(dense: Tensor, type_name: str, seed: int | None = None) -> Tensor:
    """A tensor's blocks, in Q8_0, Q5_0, Q5_1, Q4_0 or Q4_1.

    dense:   (..., K) finite, any floating dtype; taken as float32.
    seed:    None rounds to nearest, bit-equal to gguf-py. A number rounds the codes at random so that the mean over
             seeds is the weight itself; small changes (a LoRA's) then survive, at 1.4 times the error.
    returns: (..., K // block_size * type_size) uint8, on the same device.
    raises:  ValueError for a type without a quantiser, or a K that is not a multiple of the block size.
    """
    kind = ggml_type(type_name)
    if kind.quantise is None:
        known = ", ".join(name for name, t in GGML_TYPES.items() if t.quantise is not None)
        raise ValueError(f"{type_name} can be read but not written ({known} can be). Choose one of those")
    shape = packed_shape(dense.shape, type_name)
    blocks = dense.detach().reshape(-1, kind.block_size)
    out = torch.empty(len(blocks), kind.type_size, dtype=torch.uint8, device=dense.device)
    generator = None if seed is None else torch.Generator(dense.device).manual_seed(seed)
    for part, result in zip(_chunks(blocks, kind), _chunks(out, kind)):
        result.copy_(kind.quantise(part.float(), generator))
    return out.view(shape)


def ggml_type(type_name: str) -> GGMLType:
    """raises: ValueError for a type that is not read, listing those that are."""
    if type_name not in GGML_TYPES:
        raise ValueError(
            f"tensor type {type_name} is not supported ({', '.join(GGML_TYPES)} are). Take a file in one of those"
        )
    return GGML_TYPES[type_name]


def _chunks(rows: Tensor, kind: GGMLType) -> Sequence[Tensor]:
    return rows.split(CPU_CHUNK // kind.block_size) if rows.device.type == "cpu" else (rows,)


def _evaluate(codes: Tensor, scale: Tensor | None, offset: Tensor | None, out: Tensor) -> None:
    """codes * scale + offset into out, in float32 inside.

    Codes times scales have at most 8 + 11 bits (Q8_0, an fp16 scale), 6 + 18 (Q6_K) or 7 + 17 (IQ4_XS), which float32's
    24 hold: only the last step rounds. On a CPU float32 in chunks that stay in its cache is also the fastest. On a GPU
    `out` makes it one kernel, which converts inputs and result.
    """
    out = out.view(codes.shape)
    if scale is None:
        out.copy_(codes)
    elif out.device.type not in ("cuda", "xpu"):  # not all other devices take operands of several types
        exact = (out.copy_(codes) if out.dtype == torch.float32 else codes.float()).mul_(scale)
        exact = exact if offset is None else exact.add_(offset)
        if exact is not out:
            out.copy_(exact)
    elif offset is None:
        torch.mul(codes, scale, out=out)
    else:
        torch.addcmul(offset, codes, scale, out=out)


FUNCTIONS = {  # type -> from blocks to codes and to scales, from numbers to blocks
    "F32": (read.numbers(torch.float32), read.no_scales, None),
    "F16": (read.numbers(torch.float16), read.no_scales, None),
    "BF16": (read.numbers(torch.bfloat16), read.no_scales, None),
    "Q8_0": (read.codes_q8_0, read.scale_alone, ggml_pack.pack_q8_0),
    "Q6_K": (read.codes_q6_k, read.scales_q6_k, None),
    "Q5_K": (read.codes_q5_k, read.scales_q4_k, None),
    "Q5_1": (read.codes_q5_1, read.scale_and_least, ggml_pack.pack_q5_1),
    "Q5_0": (read.codes_q5_0, read.scale_around(16), ggml_pack.pack_q5_0),
    "Q4_K": (read.codes_q4_k, read.scales_q4_k, None),
    "Q4_1": (read.codes_q4_1, read.scale_and_least, ggml_pack.pack_q4_1),
    "Q4_0": (read.codes_q4_0, read.scale_around(8), ggml_pack.pack_q4_0),
    "IQ4_XS": (read.codes_iq4_xs, read.scales_iq4_xs, None),
    "IQ4_NL": (read.codes_iq4_nl, read.scale_alone, None),
    "Q3_K": (read.codes_q3_k, read.scales_q3_k, None),
    "Q2_K": (read.codes_q2_k, read.scales_q2_k, None),
}
GGML_TYPES: Mapping[str, GGMLType] = {
    name: GGMLType(name, code, block_size, type_size, *FUNCTIONS[name])
    for name in FUNCTIONS
    for code, (known, block_size, type_size) in GGML_CODES.items()
    if known == name
}

# --- records ---------------------------------------------------------------------------------------------------------

MARKED = "gguf_"  # before a type in the marker of a model that the host has saved
PACKED = tuple(name for name, kind in GGML_TYPES.items() if kind.block_size > 1)
# Type -> error of Gaussian weights. Types that this pack does not write were measured with llama.cpp's C code.
ERRORS = {
    "Q8_0": 0.00535,
    "Q6_K": 0.0178,
    "Q5_K": 0.0361,
    "Q5_1": 0.0379,
    "Q5_0": 0.0427,
    "Q4_K": 0.0713,
    "IQ4_XS": 0.0767,
    "Q4_1": 0.0783,
    "Q4_0": 0.0859,
    "Q3_K": 0.151,
    "Q2_K": 0.296,
}


def recognise(name: str, weight: Weight) -> Storage | None:
    if weight.dtype == name:
        return Storage(name, weight.shape)
    if len(weight.shape) != 2 or isinstance(weight.dtype, str) or weight.named != MARKED + name.lower():
        return None
    kind, (rows, size) = GGML_TYPES[name], weight.shape
    if weight.dtype != torch.uint8 or size % kind.type_size:
        raise ValueError(
            f"{weight.label} is marked as GGUF {name} but has shape {weight.shape} of {dtype_text(weight.dtype)}"
        )
    return Storage(name, (rows, size // kind.type_size * kind.block_size))


def _format(name: str, **more: Any) -> Format:
    kind = GGML_TYPES[name]

    def unpack(data: Tensor, beside: Roles, settings: Settings, dtype: torch.dtype) -> Tensor:
        return dequantise(data, name, dtype)

    def fuse(parts: Sequence[Held]) -> Held | None:
        return None if any(map(is_changed, parts)) else joined_rows(parts)

    def pack(rows: Tensor, peak: Tensor, seed: int | None) -> tuple[Tensor, None]:
        return quantise(rows, name, seed), None

    return Format(
        name=name,
        bits=kind.bits_per_weight,
        error=ERRORS.get(name),
        recognise=functools.partial(recognise, name),
        unpack=unpack,
        hold=hold_own,
        fuse=fuse,
        beside=MERGED_LORA,
        host_name=MARKED + name.lower(),
        pack=None if kind.quantise is None else pack,
        fits=lambda columns: columns % kind.block_size == 0,
        **more,
    )


WRITTEN = {  # type -> its choices in menus
    "Q8_0": dict(
        modes=(Mode("q8_0", 40, encoder=True),), exports=(Export("q8_0", 50, GGUF, "Q8_0", 7),), rewritten=True
    ),
    "Q5_1": dict(modes=(Mode("q5_1", 90),), exports=(Export("q5_1", 60, GGUF, "Q5_1", 9),)),
    "Q5_0": dict(exports=(Export("q5_0", 70, GGUF, "Q5_0", 8),)),
    "Q4_1": dict(modes=(Mode("q4_1", 100),), exports=(Export("q4_1", 80, GGUF, "Q4_1", 3),)),
    "Q4_0": dict(exports=(Export("q4_0", 90, GGUF, "Q4_0", 2),)),
}
FORMATS = tuple(_format(name, **WRITTEN.get(name, {})) for name in PACKED)
