"""What each record says of its format in figures, measured: bits of a weight and error of Gaussian weights."""

import pytest
import support
import torch

registry = support.dev.load_pack("loaders.formats.base.registry")
base = support.dev.load_pack("loaders.formats.base.format")

ROWS = 64
WIDEST = 12_288  # inputs, as in benchmarks/precision.py: one scale a row must reach the largest of them
USUAL = 3072  # inputs, of which the bits are told
PACKED = [f for f in registry.ALL if f.pack is not None]


def packed(format, columns):
    """(weight, stored, scale, what unpacks them) of a seeded Gaussian matrix."""
    weight = 0.02 * torch.randn(ROWS, columns, generator=torch.Generator().manual_seed(0))
    codes, scale = format.pack(weight, weight.abs().amax(), None)
    marker = format.marker(weight.shape, True) or {}
    beside = {} if scale is None else {"weight_scale": scale}
    return weight, codes, scale, format.unpack(codes, beside, marker, torch.float32)


def test_every_written_format_is_measured():
    names = {f.name for f in PACKED}
    assert {e.format.name for e in registry.EXPORTS.values()} <= names
    assert names >= {"float32", "bfloat16", "float16", "float8_e4m3fn", "int8_tensorwise"}
    assert names >= {"Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"}


@pytest.mark.parametrize("format", PACKED, ids=lambda f: f.name)
def test_error_of_gaussian_weights_is_what_the_record_says(format):
    weight, _, _, unpacked = packed(format, WIDEST)
    # 3 %: the records have three digits, and 786,432 weights give a mean square to 0.2 %
    assert support.relative(unpacked, weight) == pytest.approx(format.error, rel=0.03)


@pytest.mark.parametrize("format", PACKED, ids=lambda f: f.name)
def test_bits_are_what_is_stored_with_a_scale_a_row(format):
    weight, codes, scale, _ = packed(format, USUAL)
    num_bytes = codes.nbytes + (scale.nbytes if format.has_row_scales and scale is not None else 0)
    assert 8 * num_bytes / weight.numel() == pytest.approx(format.bits, rel=1e-6)
