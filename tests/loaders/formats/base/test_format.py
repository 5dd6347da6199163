"""What each record says of its format in figures, measured: bits of a weight and error of Gaussian weights."""

import pytest
import support
import torch

registry = support.dev.load_pack("loaders.formats.base.registry")
base = support.dev.load_pack("loaders.formats.base.format")
tensor_info = support.dev.load_pack("loaders.tensor_info")

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


@pytest.mark.parametrize("has_scale", [False, True])
def test_an_own_weight_is_held_with_its_scale_and_the_lora_that_was_saved_with_it(has_scale):
    storage = tensor_info.Storage("Q8_0", (4, 32))
    data, up = torch.zeros(4, 34, dtype=torch.uint8), torch.ones(4, 2)
    beside = {
        "weight_up": up,
        "input_scale": torch.ones(()),
        **({"weight_scale": torch.ones(4, 1).half()} if has_scale else {}),
    }
    held = base.hold_own(data, beside, storage)
    assert (held.format, held.shape, held.data is data) == ("Q8_0", (4, 32), True)
    assert held.fields.keys() == {"scale", "up"} and held.fields["up"] is up
    scale = held.fields["scale"]
    assert (scale is not None) == has_scale and (scale is None or scale.dtype == torch.float32)
    assert base.is_changed(held)
    assert not base.is_changed(base.hold_own(data, {}, storage))


def test_rows_of_one_part_are_that_part_and_others_are_joined_in_their_type():
    half, whole = torch.ones(2, 3).half(), torch.zeros(1, 3)
    assert registry.joined([half]) is half
    assert registry.joined([half, half]).dtype == torch.float16 and registry.joined([half, half]).shape == (4, 3)
    assert registry.joined([half, whole]).dtype == torch.float32
    torch.testing.assert_close(registry.joined([half, whole]), torch.tensor([[1.0] * 3, [1.0] * 3, [0.0] * 3]))


def test_scales_of_parts_become_one_a_row():
    one, rows = (
        base.Held("f", torch.zeros(2, 4), (2, 4), {"scale": s})
        for s in (torch.tensor(3.0), torch.tensor([[1.0], [2.0]]))
    )
    assert base.scale_per_row([one, rows]).tolist() == [[3.0], [3.0], [1.0], [2.0]]
    joined = base.joined_rows([one, rows], scale=None)
    assert joined.shape == (4, 4) and joined.data.shape == (4, 4) and joined.fields == {"scale": None}
