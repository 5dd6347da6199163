"""Simple quantisers for the GGUF types that neither gguf-py nor the pack writes, so that tests can make such files.

Each group's scale (and minimum) is the best of a few shrunk ranges after one least-squares fit; the scales are then
rounded as the type stores them, and the codes taken once more. Errors come near ggml's own; the layouts are ggml's.
Letters: n blocks of 256 (IQ4_NL: 32) weights.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
IQ4 = torch.tensor([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.0])
PACKED: dict[tuple[str, bytes], Tensor] = {}


def quantise(dense: Tensor, type_name: str) -> Tensor:
    """(..., K) -> (..., bytes) uint8. type_name: Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL or IQ4_XS; K fills blocks."""
    size, pack = PACKERS[type_name]
    rows = dense.float().reshape(-1, size)
    known = type_name, hashlib.sha256(rows.numpy()).digest()  # tests write the same weights in several layouts
    if known not in PACKED:
        PACKED[known] = pack(rows)
    return PACKED[known].view(*dense.shape[:-1], -1)


def _keep_better(best, error, *values):
    """Per group the values with the smaller error; best is (error, *values) or None."""
    if best is None:
        return (error, *values)
    better = error < best[0]
    return tuple(torch.where(better, new, old) for new, old in zip((error, *values), best))


def _over(x: Tensor, scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 0.0, x / scale)


def _fit_affine(x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """(n, groups, s) -> scale >= 0 and minimum <= 0 of each group, (n, groups, 1): x is near scale * code + minimum."""
    best = None
    bottom, top = x.amin(-1, True).clamp(max=0), x.amax(-1, True)
    for shrink in SHRINKS:
        low, scale = bottom * shrink, (top - bottom).clamp(min=0) * shrink / levels
        codes = _over(x - low, scale).round().clamp(0, levels)
        centred = codes - codes.mean(-1, True)
        scale = _over((centred * x).sum(-1, True), centred.square().sum(-1, True)).clamp(min=0)
        low = (x.mean(-1, True) - scale * codes.mean(-1, True)).clamp(max=0)
        codes = _over(x - low, scale).round().clamp(0, levels)
        best = _keep_better(best, (scale * codes + low - x).square().sum(-1, True), scale, low)
    return best[1], best[2]


def _fit_scale(x: Tensor, nearest, lowest: float) -> Tensor:
    """(n, groups, s) -> scale of each group, either sign, (n, groups, 1). nearest: x / scale -> what a code stands for."""
    best = None
    extreme = x.gather(-1, x.abs().argmax(-1, True))
    for shrink in (*SHRINKS, *(-s for s in SHRINKS)):
        values = nearest(_over(x, extreme * shrink / lowest))
        scale = _over((values * x).sum(-1, True), values.square().sum(-1, True))
        best = _keep_better(best, (scale * nearest(_over(x, scale)) - x).square().sum(-1, True), scale)
    return best[1]


def _half(x: Tensor) -> Tensor:
    return x.half().float()


def _bytes(x: Tensor) -> Tensor:
    return x.half().view(torch.uint8)


def _merge(codes: Tensor, bits: int) -> Tensor:
    """(n, a, planes, width) -> (n, a * width): plane i at bit i * bits of each byte."""
    codes = codes.to(torch.int32)
    return sum(codes[:, :, i] << (i * bits) for i in range(codes.shape[2])).to(torch.uint8).flatten(1)


def _super_affine(x: Tensor, group: int, levels: int, most: int) -> tuple[Tensor, ...]:
    """d, dmin (n, 1), scales, mins (n, groups) up to `most`, codes (n, 256)."""
    x = x.unflatten(1, (-1, group))
    scale, low = (v.squeeze(-1) for v in _fit_affine(x, levels))
    d, dmin = _half(scale.amax(1, True) / most), _half((-low).amax(1, True) / most)
    scales, mins = _over(scale, d).round().clamp(0, most), _over(-low, dmin).round().clamp(0, most)
    codes = _over(x + (dmin * mins).unsqueeze(-1), (d * scales).unsqueeze(-1)).round().clamp(0, levels)
    return d, dmin, scales.to(torch.int32), mins.to(torch.int32), codes.flatten(1).to(torch.int32)


def _super_scale(x: Tensor, group: int, nearest, lowest: float, most: int) -> tuple[Tensor, ...]:
    """d (n, 1), scales (n, groups) from -most - 1 to most, values (n, 256)."""
    x = x.unflatten(1, (-1, group))
    scale = _fit_scale(x, nearest, lowest).squeeze(-1)
    d = _half(scale.gather(1, scale.abs().argmax(1, True)) / -(most + 1))
    scales = _over(scale, d).round().clamp(-most - 1, most)
    values = nearest(_over(x, (d * scales).unsqueeze(-1)))
    return d, scales.to(torch.int32), values.flatten(1)


def _grid(low: int, high: int):
    return lambda x: x.round().clamp(low, high)


def _iq4(x: Tensor) -> Tensor:
    return IQ4[_iq4_codes(x)]


def _iq4_codes(x: Tensor) -> Tensor:
    return torch.bucketize(x, (IQ4[1:] + IQ4[:-1]) / 2)


def _six_bits(scales: Tensor, mins: Tensor) -> Tensor:
    first, second = (v[:, :4] | (v[:, 4:] >> 4 << 6) for v in (scales, mins))
    low = (scales[:, 4:] & 15) | ((mins[:, 4:] & 15) << 4)
    return torch.cat((first, second, low), 1).to(torch.uint8)


def _pack_q2_k(x: Tensor) -> Tensor:
    d, dmin, scales, mins, codes = _super_affine(x, 16, 3, 15)
    both = (scales | (mins << 4)).to(torch.uint8)
    return torch.cat((both, _merge(codes.view(-1, 2, 4, 32), 2), _bytes(d), _bytes(dmin)), 1)


def _pack_q3_k(x: Tensor) -> Tensor:
    d, scales, values = _super_scale(x, 16, _grid(-4, 3), -4, 31)
    codes, scales = values.to(torch.int32) + 4, scales + 32
    low = scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4
    high = _merge((scales >> 4).view(-1, 1, 4, 4), 2)
    third = _merge((codes >> 2).view(-1, 1, 8, 32), 1)
    return torch.cat((third, _merge((codes & 3).view(-1, 2, 4, 32), 2), low.to(torch.uint8), high, _bytes(d)), 1)


def _pack_q4_k(x: Tensor) -> Tensor:
    d, dmin, scales, mins, codes = _super_affine(x, 32, 15, 63)
    return torch.cat((_bytes(d), _bytes(dmin), _six_bits(scales, mins), _merge(codes.view(-1, 4, 2, 32), 4)), 1)


def _pack_q5_k(x: Tensor) -> Tensor:
    d, dmin, scales, mins, codes = _super_affine(x, 32, 31, 63)
    fifth, low = _merge((codes >> 4).view(-1, 1, 8, 32), 1), _merge((codes & 15).view(-1, 4, 2, 32), 4)
    return torch.cat((_bytes(d), _bytes(dmin), _six_bits(scales, mins), fifth, low), 1)


def _pack_q6_k(x: Tensor) -> Tensor:
    d, scales, values = _super_scale(x, 16, _grid(-32, 31), -32, 127)
    codes = values.to(torch.int32) + 32
    low, top = _merge((codes & 15).view(-1, 2, 2, 64), 4), _merge((codes >> 4).view(-1, 2, 4, 32), 2)
    return torch.cat((low, top, scales.to(torch.int8).view(torch.uint8), _bytes(d)), 1)


def _pack_iq4_nl(x: Tensor) -> Tensor:
    d = _half(_fit_scale(x.unsqueeze(1), _iq4, IQ4[0].item())).squeeze(1)
    return torch.cat((_bytes(d), _merge(_iq4_codes(_over(x, d)).view(-1, 1, 2, 16), 4)), 1)


def _pack_iq4_xs(x: Tensor) -> Tensor:
    d, scales, values = _super_scale(x, 32, _iq4, IQ4[0].item(), 31)
    codes, scales = _iq4_codes(values), scales + 32
    high = _merge((scales >> 4).view(-1, 2, 4, 1), 2)
    low = _merge((scales & 15).view(-1, 4, 2, 1), 4)
    return torch.cat((_bytes(d), high, low, _merge(codes.view(-1, 8, 2, 16), 4)), 1)


PACKERS = {
    "Q2_K": (256, _pack_q2_k),
    "Q3_K": (256, _pack_q3_k),
    "Q4_K": (256, _pack_q4_k),
    "Q5_K": (256, _pack_q5_k),
    "Q6_K": (256, _pack_q6_k),
    "IQ4_NL": (32, _pack_iq4_nl),
    "IQ4_XS": (256, _pack_iq4_xs),
}
