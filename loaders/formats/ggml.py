"""GGML's tensor types: what their blocks hold, to and from dense tensors. Plain torch, any device.

Source: the block layouts of ggml and gguf-py (both MIT). A block's bytes become small integer codes and float32
scales by bit operations on whole 16-bit words, then one multiplication (or multiply-add) writes the target's dtype.
Letters: n blocks, K weights of a row, W 16-bit words.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..tensor_info import GGML_CODES, packed_shape

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CPU_CHUNK = 1 << 18  # weights at a time on a CPU, so that the float32 values in between stay in its cache

Codes = tuple[Tensor, Tensor | None, Tensor | None]  # value = codes * scale + offset; None is 1 or 0


@dataclass(frozen=True)
class GGMLType:
    """One storage type.

    code:       its number in a GGUF file.
    block_size: weights of a block; type_size: the block's bytes.
    dequantise: blocks (n, type_size) uint8 -> codes (n, groups.., size), scale and offset that broadcast to it.
    quantise:   blocks (n, block_size) float32, generator or None -> (n, type_size) uint8; None where there is no way.
    """

    name: str
    code: int
    block_size: int
    type_size: int
    dequantise: Callable[[Tensor], Codes]
    quantise: Callable[[Tensor, torch.Generator | None], Tensor] | None = None

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.type_size / self.block_size


def dequantise(packed: Tensor, type_name: str, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor's weights from its blocks. The input may be read-only and is never written to.

    packed:  (..., K // block_size * type_size) uint8.
    dtype:   bfloat16, float16 or float32. float32 is bit-equal to gguf-py; the others are that, rounded once.
    returns: (..., K) of dtype, on the same device.
    raises:  ValueError for an unknown type, a last size that is no whole number of blocks, or another dtype.
    """
    kind = ggml_type(type_name)
    if dtype not in DTYPES:
        raise ValueError(f"{type_name} cannot be dequantised to {dtype} ({', '.join(map(str, DTYPES))} are known)")
    if packed.dtype != torch.uint8 or packed.ndim == 0 or packed.shape[-1] % kind.type_size:
        raise ValueError(
            f"{list(packed.shape)} of {packed.dtype} are no {type_name} blocks: expected uint8 with a last size that "
            f"is a multiple of {kind.type_size}"
        )
    shape = (*packed.shape[:-1], packed.shape[-1] // kind.type_size * kind.block_size)
    blocks = packed.reshape(-1, kind.type_size)
    if torch.compiler.is_compiling():  # the compiler fuses the plain expression by itself
        codes, scale, offset = kind.dequantise(blocks)
        dense = codes if scale is None else codes * scale
        return (dense if offset is None else dense + offset).to(dtype).reshape(shape)
    out = torch.empty(len(blocks), kind.block_size, dtype=dtype, device=packed.device)
    for part, result in zip(_chunks(blocks, kind), _chunks(out, kind)):
        _evaluate(*kind.dequantise(part), out=result)
    return out.view(shape)


def quantise(dense: Tensor, type_name: str, seed: int | None = None) -> Tensor:
    """A tensor's blocks: Q8_0, Q5_0, Q5_1, Q4_0, Q4_1.

    dense:   (..., K) finite, any floating dtype; taken as float32.
    seed:    None rounds to nearest, bit-equal to gguf-py. A number rounds the codes at random so that the mean over
             seeds is the weight itself; small changes (a LoRA's) then survive, at 1.4 times the error.
    returns: (..., K // block_size * type_size) uint8, on the same device.
    raises:  ValueError for a type without a quantiser, or a K that is no multiple of the block size.
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
    24 hold: only the last step rounds. On a CPU float32 is the fastest way too, in chunks that stay in its cache: 0.22
    ns a weight of Q8_0, 0.30 in bfloat16. On a GPU `out` makes one kernel of it, which converts both ends on the fly.
    """
    out = out.view(codes.shape)
    if scale is None:
        out.copy_(codes)
    elif out.device.type not in ("cuda", "xpu"):  # others do not all take operands of several types
        exact = codes.float().mul_(scale)
        out.copy_(exact if offset is None else exact.add_(offset))
    elif offset is None:
        torch.mul(codes, scale, out=out)
    else:
        torch.addcmul(offset, codes, scale, out=out)


# Unpacking: the block layouts, as slices and bits.


def _half(blocks: Tensor, at: int) -> Tensor:
    """The fp16 number at a byte of each block, (n, 1) float32."""
    return blocks[:, at : at + 2].view(torch.float16).float()


def _words(blocks: Tensor, start: int, stop: int, *shape: int) -> Tensor:
    """(n, *shape, W): bytes in pairs, which halves the work of every bit operation."""
    return (
        blocks[:, start:stop].contiguous().view(torch.int16).view(-1, *shape, (stop - start) // 2 // math.prod(shape))
    )


def _planes(words: Tensor, bits: int) -> Tensor:
    """(..., W) -> (..., 8 // bits, W): every byte's lowest `bits` bits, then the next ones."""
    mask = 0x0101 * ((1 << bits) - 1)
    return torch.stack([(words >> at) & mask for at in range(0, 8, bits)], dim=-2)


def _codes(words: Tensor, *shape: int) -> Tensor:
    """The words' bytes, (n, *shape)."""
    return words.view(torch.uint8).view(-1, *shape)


def _plain(dtype: torch.dtype) -> Callable[[Tensor], Codes]:
    return lambda blocks: (blocks.view(dtype), None, None)


def _unpack_q8_0(blocks: Tensor) -> Codes:
    """d, 32 codes."""
    return blocks[:, 2:].view(torch.int8), _half(blocks, 0), None


def _unpack_q4_0(blocks: Tensor) -> Codes:
    """d, 16 bytes: the first 16 codes low, the others high; code 8 is zero."""
    d = _half(blocks, 0)
    return _codes(_planes(_words(blocks, 2, 18), 4), 32), d, -8 * d


def _unpack_q4_1(blocks: Tensor) -> Codes:
    """d, min, 16 bytes as Q4_0."""
    return _codes(_planes(_words(blocks, 4, 20), 4), 32), _half(blocks, 0), _half(blocks, 2)


def _fifth_bits(bits: Tensor) -> Tensor:
    """(n, 4) bytes, one bit a weight -> (n, 32) bytes, 16 where the bit is set.

    The product puts four copies of a nibble 7 bits apart: its bit j comes to lie at bit 4 of byte j.
    """
    nibbles = torch.stack((bits & 15, bits >> 4), dim=-1).int()  # (n, 4, 2)
    return _codes((nibbles * 0x02040810).bitwise_and_(0x10101010), 32)


def _unpack_q5_0(blocks: Tensor) -> Codes:
    """d, 32 fifth bits, 16 bytes as Q4_0; code 16 is zero."""
    d = _half(blocks, 0)
    codes = _codes(_planes(_words(blocks, 6, 22), 4), 32).bitwise_or_(_fifth_bits(blocks[:, 2:6]))
    return codes, d, -16 * d


def _unpack_q5_1(blocks: Tensor) -> Codes:
    """d, min, 32 fifth bits, 16 bytes as Q4_0."""
    codes = _codes(_planes(_words(blocks, 8, 24), 4), 32).bitwise_or_(_fifth_bits(blocks[:, 4:8]))
    return codes, _half(blocks, 0), _half(blocks, 2)


def _six_bit_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and mins of Q4_K and Q5_K's 8 groups, (n, 8) each, from 12 bytes.

    Bytes 0 to 3 and 4 to 7 have the first four whole; their two top bits belong to the last four, whose low nibbles
    are in bytes 8 to 11.
    """
    first, second, low = packed.unflatten(1, (3, 4)).unbind(1)
    scales = torch.cat((first & 63, (low & 15) | ((first >> 2) & 48)), dim=1)
    mins = torch.cat((second & 63, (low >> 4) | ((second >> 2) & 48)), dim=1)
    return scales, mins


def _unpack_q4_k(blocks: Tensor) -> Codes:
    """d, dmin, 12 bytes of scales, 4 times 32 bytes: a group of 32 low, the next one high."""
    scales, mins = _six_bit_scales(blocks[:, 4:16])
    codes = _codes(_planes(_words(blocks, 16, 144, 4), 4), 8, 32)
    return codes, (_half(blocks, 0) * scales).unsqueeze(-1), (_half(blocks, 2) * mins).neg_().unsqueeze(-1)


def _unpack_q5_k(blocks: Tensor) -> Codes:
    """d, dmin, 12 bytes of scales, 32 bytes whose bit g is group g's fifth, 128 bytes as Q4_K."""
    scales, mins = _six_bit_scales(blocks[:, 4:16])
    fifth = _planes(_words(blocks, 16, 48), 1).mul_(16)
    codes = _codes(_planes(_words(blocks, 48, 176, 4), 4), 8, 32).bitwise_or_(_codes(fifth, 8, 32))
    return codes, (_half(blocks, 0) * scales).unsqueeze(-1), (_half(blocks, 2) * mins).neg_().unsqueeze(-1)


def _unpack_q6_k(blocks: Tensor) -> Codes:
    """Twice 64 bytes: 64 codes low, 64 high; twice 32 bytes with the top two bits of 4 groups; 16 int8 scales; d."""
    top = _planes(_words(blocks, 128, 192, 2), 2).mul_(16)  # (n, 2, 4, W)
    codes = _codes(_planes(_words(blocks, 0, 128, 2), 4), 16, 16).bitwise_or_(_codes(top, 16, 16))
    scales = (_half(blocks, 208) * blocks[:, 192:208].view(torch.int8)).unsqueeze(-1)
    return codes, scales, -32 * scales


def _unpack_q2_k(blocks: Tensor) -> Codes:
    """16 bytes: scale low, min high; twice 32 bytes with 4 groups' codes; d, dmin."""
    scales = blocks[:, :16]
    codes = _codes(_planes(_words(blocks, 16, 80, 2), 2), 16, 16)
    return (
        codes,
        (_half(blocks, 80) * (scales & 15)).unsqueeze(-1),
        (_half(blocks, 82) * (scales >> 4)).neg_().unsqueeze(-1),
    )


def _unpack_q3_k(blocks: Tensor) -> Codes:
    """32 bytes whose bit g is group g's third; twice 32 bytes with 4 groups' lower two; 12 bytes of scales; d.

    Scales: nibbles of 8 bytes, all low ones first; bits 4 and 5 from the last 4 bytes, two bits of each in turn.
    """
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    low = torch.cat((low & 15, low >> 4), dim=1)
    high = torch.cat([(high >> at) & 3 for at in range(0, 8, 2)], dim=1)
    scales = _half(blocks, 108) * ((low | (high << 4)).view(torch.int8) - 32)
    third = _planes(_words(blocks, 0, 32), 1).mul_(4)
    codes = _codes(_planes(_words(blocks, 32, 96, 2), 2), 16, 16).bitwise_or_(_codes(third, 16, 16))
    return codes, scales.unsqueeze(-1), (-4 * scales).unsqueeze(-1)


IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# The same as bytes of two int64: a table that is computed is on a GPU at once, a copied one would be waited for.
IQ4_LOW, IQ4_HIGH = struct.unpack("<2q", struct.pack("<16b", *IQ4_VALUES))


def _iq4_values(packed: Tensor) -> Tensor:
    """(n, groups, 16) bytes of two codes -> (n, groups, 32) int8: the low ones' values, then the high ones'.

    Two lookups of whole bytes: half as many as of single codes.
    """
    code = torch.arange(16, device=packed.device)
    halves = torch.where(code < 8, IQ4_LOW, IQ4_HIGH)
    values = (halves >> (code % 8 * 8)).to(torch.uint8).view(torch.int8)
    index = packed.long().flatten()
    low, high = values.repeat(16).index_select(0, index), values.repeat_interleave(16).index_select(0, index)
    return torch.stack((low.view(packed.shape), high.view(packed.shape)), dim=-2).flatten(-2)


def _unpack_iq4_nl(blocks: Tensor) -> Codes:
    """d, 16 bytes as Q4_0; a code stands for one of 16 values."""
    return _iq4_values(blocks[:, 2:]), _half(blocks, 0), None


def _unpack_iq4_xs(blocks: Tensor) -> Codes:
    """d, 8 times two bits of scales in 2 bytes, their 8 low nibbles in 4, then 8 groups of 16 bytes as IQ4_NL."""
    low = torch.stack((blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4), dim=-1).flatten(1)
    high = torch.stack([(blocks[:, 2:4] >> at) & 3 for at in range(0, 8, 2)], dim=-1).flatten(1)
    scales = _half(blocks, 0) * ((low | (high << 4)).view(torch.int8) - 32)
    return _iq4_values(blocks[:, 8:].unflatten(1, (8, 16))), scales.unsqueeze(-1), None


# Packing: gguf-py's rounding, or a random one without bias.


def _round(x: Tensor) -> Tensor:
    """To nearest, halves away from zero."""
    size = x.abs()
    whole = size.floor()  # torch's trunc is ten times slower on a CPU
    return whole.add_(size.sub_(whole).mul_(2).floor_()).copysign_(x)


def _inverse(d: Tensor) -> Tensor:
    return torch.where(d == 0, 0.0, 1 / d)


def _over(x: Tensor, divisor: int) -> Tensor:
    """x / divisor as IEEE has it: by a number, a GPU would multiply with the reciprocal."""
    return x / torch.full((), float(divisor), device=x.device)


def _fp16_below(x: Tensor) -> Tensor:
    """An fp16 number at most x and at most two steps from it, as float32."""
    near = x.half().float()
    return torch.where(near > x, (near - near.abs() * 2.0**-10 - 2.0**-24).half().float(), near)


def _randomly(x: Tensor, generator: torch.Generator, low: int, high: int) -> Tensor:
    """Down or up, with the odds that make the mean x. The clamp is for x an fp32 step outside."""
    noise = torch.rand(x.shape, generator=generator, device=x.device)
    return (x + noise).floor_().clamp_(low, high)


def _bytes_of(x: Tensor) -> Tensor:
    return x.half().view(torch.uint8)


def _signed_codes(x: Tensor, bits: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """d (n, 1) and codes of Q4_0 and Q5_0: the number of largest size gets code 0, which is -2^(bits-1) d.

    At random, d is large enough that the other side's numbers fit too: clipping them would be a bias.
    """
    middle = 1 << (bits - 1)
    extreme = x.gather(1, x.abs().argmax(dim=1, keepdim=True))
    d = _over(extreme, -middle)
    if generator is None:
        return d, (x * _inverse(d) + (middle + 0.5)).to(torch.uint8).clamp_(max=2 * middle - 1)
    sign = torch.where(d < 0, -1.0, 1.0)
    other = (x * sign).amax(dim=1, keepdim=True)
    d = -_fp16_below(-torch.maximum(d.abs(), _over(other, middle - 1))) * sign
    return d, _randomly(x * _inverse(d) + middle, generator, 0, 2 * middle - 1).to(torch.uint8)


def _offset_codes(x: Tensor, bits: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """d, min (n, 1) and codes of Q4_1 and Q5_1."""
    low, high = x.amin(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)  # aminmax takes five times as long on a CPU
    if generator is None:
        d = _over(high - low, (1 << bits) - 1)
        return d, low, ((x - low) * _inverse(d) + 0.5).to(torch.uint8).clamp_(max=(1 << bits) - 1)
    low = _fp16_below(low)
    d = -_fp16_below(-_over(high - low, (1 << bits) - 1))
    return d, low, _randomly((x - low) * _inverse(d), generator, 0, (1 << bits) - 1).to(torch.uint8)


def _pack_nibbles(codes: Tensor) -> Tensor:
    return (codes[:, :16] & 15) | (codes[:, 16:] << 4)


def _pack_fifth_bits(codes: Tensor) -> Tensor:
    bits = (codes >> 4).view(-1, 4, 8) << torch.arange(8, dtype=torch.uint8, device=codes.device)
    return bits.sum(dim=-1, dtype=torch.uint8)


def _pack_q8_0(x: Tensor, generator: torch.Generator | None) -> Tensor:
    d = _over(x.abs().amax(dim=1, keepdim=True), 127)
    if generator is None:
        codes = _round(x * _inverse(d))
    else:
        d = -_fp16_below(-d)
        codes = _randomly(x * _inverse(d), generator, -127, 127)
    return torch.cat((_bytes_of(d), codes.to(torch.int8).view(torch.uint8)), dim=1)


def _pack_q4_0(x: Tensor, generator: torch.Generator | None) -> Tensor:
    d, codes = _signed_codes(x, 4, generator)
    return torch.cat((_bytes_of(d), _pack_nibbles(codes)), dim=1)


def _pack_q5_0(x: Tensor, generator: torch.Generator | None) -> Tensor:
    d, codes = _signed_codes(x, 5, generator)
    return torch.cat((_bytes_of(d), _pack_fifth_bits(codes), _pack_nibbles(codes)), dim=1)


def _pack_q4_1(x: Tensor, generator: torch.Generator | None) -> Tensor:
    d, low, codes = _offset_codes(x, 4, generator)
    return torch.cat((_bytes_of(d), _bytes_of(low), _pack_nibbles(codes)), dim=1)


def _pack_q5_1(x: Tensor, generator: torch.Generator | None) -> Tensor:
    d, low, codes = _offset_codes(x, 5, generator)
    return torch.cat((_bytes_of(d), _bytes_of(low), _pack_fifth_bits(codes), _pack_nibbles(codes)), dim=1)


CODECS = {
    "F32": (_plain(torch.float32), None),
    "F16": (_plain(torch.float16), None),
    "BF16": (_plain(torch.bfloat16), None),
    "Q8_0": (_unpack_q8_0, _pack_q8_0),
    "Q6_K": (_unpack_q6_k, None),
    "Q5_K": (_unpack_q5_k, None),
    "Q5_1": (_unpack_q5_1, _pack_q5_1),
    "Q5_0": (_unpack_q5_0, _pack_q5_0),
    "Q4_K": (_unpack_q4_k, None),
    "Q4_1": (_unpack_q4_1, _pack_q4_1),
    "Q4_0": (_unpack_q4_0, _pack_q4_0),
    "IQ4_XS": (_unpack_iq4_xs, None),
    "IQ4_NL": (_unpack_iq4_nl, None),
    "Q3_K": (_unpack_q3_k, None),
    "Q2_K": (_unpack_q2_k, None),
}
GGML_TYPES: Mapping[str, GGMLType] = {
    name: GGMLType(name, code, block_size, type_size, *CODECS[name])
    for name in CODECS
    for code, (known, block_size, type_size) in GGML_CODES.items()
    if known == name
}
