"""Packs numbers into GGML's blocks: bit-equal to gguf-py, or rounded at random without bias. Plain torch, any device.

Source: ggml and gguf-py (both MIT). Letters: n blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _round(x: Tensor) -> Tensor:
    """To nearest, halves away from zero."""
    size = x.abs()
    whole = size.floor()  # torch's trunc is ten times slower on a CPU
    return whole.add_(size.sub_(whole).mul_(2).floor_()).copysign_(x)


def _inverse(d: Tensor) -> Tensor:
    return torch.where(d == 0, 0.0, 1 / d)


def _over(x: Tensor, divisor: int) -> Tensor:
    """x / divisor as IEEE defines it: if the divisor were a Python number, a GPU would multiply by its reciprocal."""
    return x / torch.full((), float(divisor), device=x.device)


def _fp16_below(x: Tensor) -> Tensor:
    """An fp16 number at most x and at most two steps from it, as float32."""
    near = x.half().float()
    return torch.where(near > x, (near - near.abs() * 2.0**-10 - 2.0**-24).half().float(), near)


def _randomly(x: Tensor, generator: torch.Generator, low: int, high: int) -> Tensor:
    """Rounds down or up at random, so that the mean is x. The clamp is for an x that is one fp32 step out of range."""
    noise = torch.rand(x.shape, generator=generator, device=x.device)
    return (x + noise).floor_().clamp_(low, high)


def _bytes_of(x: Tensor) -> Tensor:
    return x.half().view(torch.uint8)


def _signed_codes(x: Tensor, bits: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """d (n, 1) and codes of Q4_0 and Q5_0: the number of largest magnitude gets code 0, which is -2^(bits-1) d.

    With random rounding d is large enough for the numbers of the other sign too: clipping them would be a bias.
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


def pack_nibbles(codes: Tensor) -> Tensor:
    return (codes[:, :16] & 15) | (codes[:, 16:] << 4)


def pack_fifth_bits(codes: Tensor) -> Tensor:
    bits = (codes >> 4).view(-1, 4, 8) << torch.arange(8, dtype=torch.uint8, device=codes.device)
    return bits.sum(dim=-1, dtype=torch.uint8)


def pack_q8_0(x: Tensor, generator: torch.Generator | None) -> Tensor:
    d = _over(x.abs().amax(dim=1, keepdim=True), 127)
    if generator is None:
        codes = _round(x * _inverse(d))
    else:
        d = -_fp16_below(-d)
        codes = _randomly(x * _inverse(d), generator, -127, 127)
    return torch.cat((_bytes_of(d), codes.to(torch.int8).view(torch.uint8)), dim=1)


def pack_q4_0(x: Tensor, generator: torch.Generator | None) -> Tensor:
    d, codes = _signed_codes(x, 4, generator)
    return torch.cat((_bytes_of(d), pack_nibbles(codes)), dim=1)


def pack_q5_0(x: Tensor, generator: torch.Generator | None) -> Tensor:
    d, codes = _signed_codes(x, 5, generator)
    return torch.cat((_bytes_of(d), pack_fifth_bits(codes), pack_nibbles(codes)), dim=1)


def pack_q4_1(x: Tensor, generator: torch.Generator | None) -> Tensor:
    d, low, codes = _offset_codes(x, 4, generator)
    return torch.cat((_bytes_of(d), _bytes_of(low), pack_nibbles(codes)), dim=1)


def pack_q5_1(x: Tensor, generator: torch.Generator | None) -> Tensor:
    d, low, codes = _offset_codes(x, 5, generator)
    return torch.cat((_bytes_of(d), _bytes_of(low), pack_fifth_bits(codes), pack_nibbles(codes)), dim=1)
