"""GGML's block layouts: a block's bytes -> small integer codes, and scale and offset. Plain torch, any device.

A weight is code * scale + offset. `codes_*` gives (n, groups.., size) of 8 bits, `scales_*` what broadcasts to them: two
functions, since the codes are many and are best made in pieces that stay in a cache, and the scales are few and are best
made at once. Source: the layouts of ggml and gguf-py (both MIT). Letters: n blocks, W 16-bit words.
"""

from __future__ import annotations

import math
import struct
from typing import Callable

import torch
from torch import Tensor

Scales = tuple[Tensor | None, Tensor | None]  # scale and offset; None: 1 and 0


def _half(blocks: Tensor, at: int) -> Tensor:
    """The fp16 number at byte `at` of each block, (n, 1) float32."""
    return blocks[:, at : at + 2].view(torch.float16).float()


def _words(blocks: Tensor, start: int, stop: int, *shape: int) -> Tensor:
    """Bytes of each block as 16-bit words, (n, *shape, W): half as many numbers for every bit operation."""
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


def numbers(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda blocks: blocks.view(dtype)


def no_scales(blocks: Tensor) -> Scales:
    return None, None


def scale_alone(blocks: Tensor) -> Scales:
    """d."""
    return _half(blocks, 0), None


def scale_around(zero: int) -> Callable[[Tensor], Scales]:
    """d, where the code `zero` stands for 0."""

    def scales(blocks: Tensor) -> Scales:
        d = _half(blocks, 0)
        return d, -zero * d

    return scales


def scale_and_least(blocks: Tensor) -> Scales:
    """d, min."""
    return _half(blocks, 0), _half(blocks, 2)


def codes_q8_0(blocks: Tensor) -> Tensor:
    """d, 32 codes."""
    return blocks[:, 2:].view(torch.int8)


def _nibbles(blocks: Tensor, start: int) -> Tensor:
    """16 bytes from `start` on: the first 16 codes low, the others high."""
    return _codes(_planes(_words(blocks, start, start + 16), 4), 32)


def codes_q4_0(blocks: Tensor) -> Tensor:
    """d, 16 bytes of nibbles."""
    return _nibbles(blocks, 2)


def codes_q4_1(blocks: Tensor) -> Tensor:
    """d, min, 16 bytes of nibbles."""
    return _nibbles(blocks, 4)


def _fifth_bits(bits: Tensor) -> Tensor:
    """(n, 4) bytes, one bit a weight -> (n, 32) bytes, 16 where the bit is set.

    The product has four copies of a nibble, 7 bits apart, so that its bit j is at bit 4 of byte j.
    """
    nibbles = torch.stack((bits & 15, bits >> 4), dim=-1).int()  # (n, 4, 2)
    return _codes((nibbles * 0x02040810).bitwise_and_(0x10101010), 32)


def codes_q5_0(blocks: Tensor) -> Tensor:
    """d, 32 fifth bits, 16 bytes of nibbles."""
    return _nibbles(blocks, 6).bitwise_or_(_fifth_bits(blocks[:, 2:6]))


def codes_q5_1(blocks: Tensor) -> Tensor:
    """d, min, 32 fifth bits, 16 bytes of nibbles."""
    return _nibbles(blocks, 8).bitwise_or_(_fifth_bits(blocks[:, 4:8]))


def scales_q4_k(blocks: Tensor) -> Scales:
    """d, dmin, 12 bytes with the scales and mins of 8 groups; of Q4_K and Q5_K.

    Bytes 0 to 3 have the first four scales, and bytes 4 to 7 the first four mins, in their low 6 bits; their top 2 bits
    are those of the last four, whose low nibbles are in bytes 8 to 11.
    """
    first, second, low = blocks[:, 4:16].unflatten(1, (3, 4)).unbind(1)
    scales = torch.cat((first & 63, (low & 15) | ((first >> 2) & 48)), dim=1)
    mins = torch.cat((second & 63, (low >> 4) | ((second >> 2) & 48)), dim=1)
    return (_half(blocks, 0) * scales).unsqueeze(-1), (_half(blocks, 2) * mins).neg_().unsqueeze(-1)


def codes_q4_k(blocks: Tensor) -> Tensor:
    """16 bytes of scales, 4 times 32 bytes: a group of 32 low, the next one high."""
    return _codes(_planes(_words(blocks, 16, 144, 4), 4), 8, 32)


def codes_q5_k(blocks: Tensor) -> Tensor:
    """16 bytes of scales, 32 bytes whose bit g is group g's fifth, 128 bytes as Q4_K."""
    fifth = _planes(_words(blocks, 16, 48), 1).mul_(16)
    return _codes(_planes(_words(blocks, 48, 176, 4), 4), 8, 32).bitwise_or_(_codes(fifth, 8, 32))


def scales_q6_k(blocks: Tensor) -> Scales:
    """192 bytes of codes, 16 int8 scales, d."""
    scales = (_half(blocks, 208) * blocks[:, 192:208].view(torch.int8)).unsqueeze(-1)
    return scales, -32 * scales


def codes_q6_k(blocks: Tensor) -> Tensor:
    """Twice 64 bytes: 64 codes low, 64 high; twice 32 bytes with the top two bits of 4 groups."""
    top = _planes(_words(blocks, 128, 192, 2), 2).mul_(16)  # (n, 2, 4, W)
    return _codes(_planes(_words(blocks, 0, 128, 2), 4), 16, 16).bitwise_or_(_codes(top, 16, 16))


def scales_q2_k(blocks: Tensor) -> Scales:
    """16 bytes: scale low, min high; 64 bytes of codes; d, dmin."""
    scales = blocks[:, :16]
    return (
        (_half(blocks, 80) * (scales & 15)).unsqueeze(-1),
        (_half(blocks, 82) * (scales >> 4)).neg_().unsqueeze(-1),
    )


def codes_q2_k(blocks: Tensor) -> Tensor:
    """16 bytes of scales, twice 32 bytes with 4 groups' codes."""
    return _codes(_planes(_words(blocks, 16, 80, 2), 2), 16, 16)


def scales_q3_k(blocks: Tensor) -> Scales:
    """96 bytes of codes, 12 bytes of scales, d.

    Scales: nibbles of 8 bytes, all low ones first; bits 4 and 5 from the last 4 bytes, two bits of each in turn.
    """
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    low = torch.cat((low & 15, low >> 4), dim=1)
    high = torch.cat([(high >> at) & 3 for at in range(0, 8, 2)], dim=1)
    scales = (_half(blocks, 108) * ((low | (high << 4)).view(torch.int8) - 32)).unsqueeze(-1)
    return scales, -4 * scales


def codes_q3_k(blocks: Tensor) -> Tensor:
    """32 bytes whose bit g is group g's third; twice 32 bytes with 4 groups' lower two."""
    third = _planes(_words(blocks, 0, 32), 1).mul_(4)
    return _codes(_planes(_words(blocks, 32, 96, 2), 2), 16, 16).bitwise_or_(_codes(third, 16, 16))


IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
# The same as bytes of two int64: a GPU computes the table from them, and need not wait for a copy.
IQ4_LOW, IQ4_HIGH = struct.unpack("<2q", struct.pack("<16b", *IQ4_VALUES))


def _iq4_values(packed: Tensor) -> Tensor:
    """(n, groups, 16) bytes of two codes -> (n, groups, 32) int8: the low ones' values, then the high ones'.

    Two lookups, by whole bytes: half as many as by single codes.
    """
    code = torch.arange(16, device=packed.device)
    halves = torch.where(code < 8, IQ4_LOW, IQ4_HIGH)
    values = (halves >> (code % 8 * 8)).to(torch.uint8).view(torch.int8)
    index = packed.long().flatten()
    low, high = values.repeat(16).index_select(0, index), values.repeat_interleave(16).index_select(0, index)
    return torch.stack((low.view(packed.shape), high.view(packed.shape)), dim=-2).flatten(-2)


def codes_iq4_nl(blocks: Tensor) -> Tensor:
    """d, 16 bytes of nibbles, each of which stands for one of 16 values."""
    return _iq4_values(blocks[:, 2:])


def scales_iq4_xs(blocks: Tensor) -> Scales:
    """d, 8 times two bits of scales in 2 bytes, their 8 low nibbles in 4."""
    low = torch.stack((blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4), dim=-1).flatten(1)
    high = torch.stack([(blocks[:, 2:4] >> at) & 3 for at in range(0, 8, 2)], dim=-1).flatten(1)
    scales = _half(blocks, 0) * ((low | (high << 4)).view(torch.int8) - 32)
    return scales.unsqueeze(-1), None


def codes_iq4_xs(blocks: Tensor) -> Tensor:
    """8 bytes of scales, 8 groups of 16 bytes as IQ4_NL."""
    return _iq4_values(blocks[:, 8:].unflatten(1, (8, 16)))
