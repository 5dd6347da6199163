"""Every packed format by its definition, written out here: recognised by its header, unpacked, held, joined, measured."""

import math
from typing import NamedTuple

import gguf
import kquants
import numpy as np
import pytest
import support
import torch

registry, base, kept = (
    support.dev.load_pack(f"loaders.formats.base.{n}") for n in ("registry", "format", "kept_layers")
)
info = support.dev.load_pack("loaders.tensor_info")

E4M3, E5M2, INT8 = torch.float8_e4m3fn, torch.float8_e5m2, torch.int8
TOPS = {E4M3: 448.0, E5M2: 57344.0, INT8: 127.0}
FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


class Case(NamedTuple):
    """A matrix as one format stores it. dense: what it means; error is taken from the matrix before."""

    data: torch.Tensor
    beside: dict
    marker: dict | None
    dense: torch.Tensor
    error: float


def gaussian(rows, columns, seed=0):
    return 0.02 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def cast(values, dtype):
    top = TOPS[dtype]
    values = values.clamp(-top, top)
    return values.round().to(dtype) if dtype == INT8 else values.to(dtype)


def case(weight, data, beside, marker, dense):
    return Case(data, beside, marker, dense, support.relative(dense, weight))


def by_tensor(dtype):
    def made(weight):
        scale = weight.abs().amax() / TOPS[dtype]
        data = cast(weight / scale, dtype)
        marker = {"format": "int8_tensorwise"} if dtype == INT8 else None
        return case(weight, data, {"weight_scale": scale}, marker, data.float() * scale)

    return made


def by_row(dtype):
    def made(weight):
        scale = weight.abs().amax(1, keepdim=True) / TOPS[dtype]
        data = cast(weight / scale, dtype)
        marker = {"format": "int8_tensorwise"} if dtype == INT8 else None
        return case(weight, data, {"weight_scale": scale}, marker, data.float() * scale)

    return made


def by_block(dtype, size=16):
    def made(weight):
        tiles = weight.view(weight.shape[0] // size, size, weight.shape[1] // size, size)
        scale = tiles.abs().amax((1, 3)) / TOPS[dtype]
        wide = scale.repeat_interleave(size, 0).repeat_interleave(size, 1)
        data = cast(weight / wide, dtype)
        return case(weight, data, {"weight_scale": scale}, None, data.float() * wide)

    return made


def turned(weight, group):
    """Times the regular Hadamard matrix on every group of columns. It is symmetric and its own inverse."""
    h4 = torch.ones(4, 4) - 2 * torch.eye(4).flip(0)
    h = h4
    while len(h) < group:
        h = torch.kron(h, h4)
    return (weight.unflatten(1, (-1, group)) @ h / math.sqrt(group)).flatten(1)


def rotated_int8(weight, group=16):
    values = turned(weight, group)
    scale = values.abs().amax(1, keepdim=True) / 127
    data = cast(values / scale, INT8)
    marker = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": group}
    return case(weight, data, {"weight_scale": scale}, marker, turned(data.float() * scale, group))


def rotated_int4(weight, group=16):
    values = turned(weight, group)
    scale = values.abs().amax(1, keepdim=True) / 7
    codes = (values / scale).round().clamp(-7, 7)
    low, high = codes[:, 0::2].to(torch.int16), codes[:, 1::2].to(torch.int16)
    data = ((low & 15) | ((high & 15) << 4)).to(torch.uint8).view(INT8)
    marker = {"format": "convrot_w4a4", "convrot_groupsize": group, "linear_dtype": "int8"}
    return case(weight, data, {"weight_scale": scale.flatten()}, marker, turned(codes * scale, group))


def in_tiles(scales):
    """Block scales (rows, n) as cuBLAS reads them: row r, column c lies in tile (r // 128, c // 4), there at byte
    (r % 32) * 16 + (r % 128 // 32) * 4 + c % 4."""
    rows, columns = scales.shape
    tall, wide = -(-rows // 128), -(-columns // 4)
    out = torch.zeros(tall * wide * 512, dtype=torch.uint8)
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    out[(r // 128 * wide + c // 4) * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4] = scales.view(torch.uint8)
    return out.view(tall * 128, wide * 4)


def mxfp8(weight):
    blocks = weight.unflatten(1, (-1, 32))
    exponents = (blocks.abs().amax(2) / 448).log2().ceil()
    data = cast((blocks / exponents.exp2()[..., None]).flatten(1), E4M3)
    dense = (data.float().unflatten(1, (-1, 32)) * exponents.exp2()[..., None]).flatten(1)
    stored = in_tiles((exponents + 127).to(torch.uint8))
    return case(weight, data, {"weight_scale": stored}, {"format": "mxfp8"}, dense)


def nvfp4(weight):
    whole = weight.abs().amax() / (6 * 448)
    blocks = weight.unflatten(1, (-1, 16))
    scale = (blocks.abs().amax(2) / 6 / whole).clamp(max=448).to(E4M3)
    step = (scale.float() * whole)[..., None]
    codes = ((blocks / step)[..., None] - FP4).abs().argmin(-1).flatten(1)
    data = (codes[:, 0::2] << 4 | codes[:, 1::2]).to(torch.uint8)
    dense = (FP4[codes].unflatten(1, (-1, 16)) * step).flatten(1)
    return case(weight, data, {"weight_scale": in_tiles(scale).view(E4M3), "weight_scale_2": whole}, None, dense)


def by_ggml(name):
    def made(weight):
        kind = gguf.GGMLQuantizationType[name]
        if name in kquants.PACKERS:
            data = kquants.quantise(weight, name)
        else:
            data = torch.from_numpy(gguf.quants.quantize(weight.numpy(), kind))
        dense = torch.from_numpy(gguf.quants.dequantize(np.ascontiguousarray(data.numpy()), kind))
        return case(weight, data, {}, {"format": f"gguf_{name.lower()}"}, dense)

    return made


MADE = {
    "float8_e4m3fn": by_tensor(E4M3),
    "float8_e5m2": by_tensor(E5M2),
    "float8_e4m3fn_rowwise": by_row(E4M3),
    "float8_e5m2_rowwise": by_row(E5M2),
    "float8_e4m3fn_blockwise": by_block(E4M3),
    "float8_e5m2_blockwise": by_block(E5M2),
    "int8_blockwise": by_block(INT8),
    "int8_tensorwise": by_row(INT8),
    "convrot_w4a4": rotated_int4,
    "mxfp8": mxfp8,
    "nvfp4": nvfp4,
    **{name: by_ggml(name) for name, f in registry.FORMATS.items() if name.isupper()},
}
OTHERS = {"int8_tensorwise": (by_tensor(INT8), rotated_int8)}  # more of one record
CASES = [(name, made) for name in MADE for made in (MADE[name], *OTHERS.get(name, ()))]
NAMES = [f"{name} {made.__name__ if made is not MADE[name] else ''}".strip() for name, made in CASES]
every = pytest.mark.parametrize("name, made", CASES, ids=NAMES)


def recognised(name, found):
    header = {role: info.TensorInfo(t.dtype, tuple(t.shape)) for role, t in found.beside.items()}
    stored = info.TensorInfo(found.data.dtype, tuple(found.data.shape))
    return registry.storage_of("w", stored, header, found.marker)


def unpacked_again(held):
    """What a held weight means, by the record of its own format."""
    roles = {"scale": "weight_scale", "block_scale": "weight_scale"}
    beside = {roles[k]: v for k, v in held.fields.items() if k in roles and v is not None}
    if "block_scale" in held.fields:
        beside |= {"weight_scale": held.fields["block_scale"], "weight_scale_2": held.fields["scale"]}
    return registry.FORMATS[held.format].unpack(held.data, beside, held.fields, torch.float32)


def test_every_packed_format_has_its_definition_here():
    assert MADE.keys() == registry.FORMATS.keys()


@every
@pytest.mark.parametrize("shape", [(32, 256), (160, 512)])  # less than one tile of scales; some tiles, the last in part
def test_header_is_recognised_and_values_are_those_of_the_definition(name, made, shape):
    found = made(gaussian(*shape))
    storage = recognised(name, found)
    assert (storage.format, storage.shape) == (name, shape)
    unpack = registry.FORMATS[name].unpack
    stored = found.data.clone()
    exact = unpack(found.data, found.beside, storage.settings, torch.float32)
    torch.testing.assert_close(exact, found.dense, rtol=1e-5, atol=1e-7)
    rounded = unpack(found.data, found.beside, storage.settings, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16 and support.relative(rounded.float(), found.dense) < 2**-8
    assert torch.equal(found.data.view(torch.uint8), stored.view(torch.uint8))  # it may be a mapped file


@every
def test_float64_scales_are_rounded_to_float32(name, made):
    format, found = registry.FORMATS[name], made(gaussian(128, 256))
    beside = {r: t.double() if t.dtype == torch.float32 else t for r, t in found.beside.items()}
    wide = found._replace(beside=beside)
    storage = recognised(name, wide)
    exact = format.unpack(found.data, found.beside, storage.settings, torch.float32)
    assert torch.equal(format.unpack(found.data, beside, storage.settings, torch.float32), exact)
    held = format.hold(found.data, dict(beside), storage)
    assert not any(isinstance(v, torch.Tensor) and v.dtype == torch.float64 for v in held.fields.values())
    torch.testing.assert_close(unpacked_again(held), exact, rtol=0, atol=0)


@every
def test_held_weight_means_the_same_and_parts_are_joined_by_rows(name, made):
    format = registry.FORMATS[name]
    found = [made(gaussian(128, 256, seed)) for seed in (0, 1)]
    if name == "nvfp4":  # joined under one scale for all only
        found[1] = found[1]._replace(beside={**found[1].beside, "weight_scale_2": found[0].beside["weight_scale_2"]})
        ratio = found[0].beside["weight_scale_2"] / made(gaussian(128, 256, 1)).beside["weight_scale_2"]
        found[1] = found[1]._replace(dense=found[1].dense * ratio)
    held = [format.hold(f.data, dict(f.beside), recognised(name, f)) for f in found]
    for one, f in zip(held, found):
        assert (one.format, tuple(one.shape)) == (name, (128, 256)) and one.data.data_ptr() == f.data.data_ptr()
        torch.testing.assert_close(unpacked_again(one), f.dense, rtol=1e-5, atol=1e-7)
    joined = format.fuse(held)
    if name == "convrot_w4a4":
        assert joined is None  # it has no such way
        return
    assert tuple(joined.shape) == (256, 256)
    torch.testing.assert_close(unpacked_again(joined), torch.cat([f.dense for f in found]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype, name", [(E4M3, "float8_e4m3fn"), (E5M2, "float8_e5m2")])
def test_fp8_parts_of_one_scale_keep_it_and_others_get_one_a_row(dtype, name):
    format = registry.FORMATS[name]
    first, second = (by_tensor(dtype)(gaussian(8, 32, seed)) for seed in (0, 1))
    alike = second._replace(beside=first.beside)
    held = [format.hold(f.data, dict(f.beside), recognised(name, f)) for f in (first, alike, second)]
    assert format.fuse(held[:2]).format == name and format.fuse(held[:2]).fields["scale"].shape == ()
    rows = format.fuse(held[1:])
    assert rows.format == f"{name}_rowwise" and rows.fields["scale"].shape == (16, 1)


@pytest.mark.parametrize("name, columns", [("mxfp8", 96), ("nvfp4", 80)])
def test_inputs_that_fill_the_last_block_are_left_out_where_the_marker_says_so(name, columns):
    """convert_to_quant writes Radiance's embedder of 67 inputs so, where nothing is kept out of the format."""
    found = MADE[name](torch.nn.functional.pad(gaussian(64, 67), (0, columns - 67)))
    found = found._replace(marker={"format": name, "orig_shape": [64, 67]})
    storage = recognised(name, found)
    assert storage.shape == (64, 67)
    dense = registry.FORMATS[name].unpack(found.data, found.beside, storage.settings, torch.float32)
    torch.testing.assert_close(dense, found.dense[:, :67], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [[64, 64], [64, 97], [64, 96, 1], "64, 67", [64.0, 67.0], [0, 67]])
def test_shape_in_a_marker_that_does_not_round_up_to_what_is_stored_is_ignored(shape):
    found = mxfp8(gaussian(64, 96))
    found = found._replace(marker={"format": "mxfp8", "orig_shape": shape})
    storage = recognised("mxfp8", found)
    assert (storage.shape, dict(storage.settings)) == ((64, 96), {})


@pytest.mark.parametrize("name", ["mxfp8", "nvfp4"])
def test_parts_whose_scales_do_not_fill_their_tiles_are_not_joined(name):
    format = registry.FORMATS[name]
    found = MADE[name](gaussian(96, 128))
    whole = MADE[name](gaussian(128, 128))
    parts = [format.hold(f.data, dict(f.beside), recognised(name, f)) for f in (whole, found)]
    assert format.fuse(parts) is None and format.fuse(parts[:1] * 2) is not None


def test_nvfp4_parts_of_two_scales_and_int8_parts_of_two_rotations_are_not_joined():
    for name, makers in (("nvfp4", (nvfp4, nvfp4)), ("int8_tensorwise", (rotated_int8, by_row(INT8)))):
        format = registry.FORMATS[name]
        found = [made(gaussian(128, 256, seed)) for seed, made in enumerate(makers)]
        for order in (found, found[::-1]):
            assert format.fuse([format.hold(f.data, dict(f.beside), recognised(name, f)) for f in order]) is None


def test_blocks_of_two_heights_are_not_joined():
    format = registry.FORMATS["int8_blockwise"]
    found = [by_block(INT8, size)(gaussian(32, 128)) for size in (8, 16)]  # grids of 4 x 16 and 2 x 8
    held = [format.hold(f.data, dict(f.beside), recognised("int8_blockwise", f)) for f in found]
    assert format.fuse(held) is None and format.fuse(held[:1] * 2) is not None
    taller = by_block(INT8, 16)(gaussian(64, 128))  # of the same heights, whatever its rows
    held[0] = format.hold(taller.data, dict(taller.beside), recognised("int8_blockwise", taller))
    assert format.fuse(held) is not None


@pytest.mark.parametrize("name", [n for n, f in registry.FORMATS.items() if f.layout == base.OWN_LAYOUT])
def test_parts_with_a_lora_beside_them_are_not_joined(name):
    format = registry.FORMATS[name]
    found = MADE[name](gaussian(32, 256))
    storage, lora = recognised(name, found), {"weight_up": torch.zeros(32, 2), "weight_down": torch.zeros(2, 256)}
    changed = format.hold(found.data, {**found.beside, **lora}, storage)
    assert format.fuse([changed, changed]) is None


def test_a_plain_fp8_cast_is_held_under_a_scale_of_one():
    weight = gaussian(8, 32)
    for dtype, name in ((E4M3, "float8_e4m3fn"), (E5M2, "float8_e5m2")):
        found = Case(weight.to(dtype), {}, None, weight.to(dtype).float(), 0.0)
        storage = recognised(name, found)
        held = registry.FORMATS[name].hold(found.data, {}, storage)
        assert storage.settings["unscaled"] and held.fields["scale"].item() == 1
        assert torch.equal(registry.FORMATS[name].unpack(found.data, {}, {}, torch.float32), found.dense)


def test_nvfp4_inputs_that_were_scaled_before_are_part_of_the_weight():
    found = nvfp4(gaussian(32, 64))
    inputs = torch.linspace(0.5, 2, 64)
    beside = {**found.beside, "pre_quant_scale": inputs}
    dense = registry.FORMATS["nvfp4"].unpack(found.data, beside, {}, torch.float32)
    torch.testing.assert_close(dense, found.dense * inputs, rtol=1e-5, atol=1e-7)


PUBLISHED = {"int8_blockwise": by_block(INT8, 128)}  # whose error depends on the blocks' size


@pytest.mark.parametrize("name", [n for n, f in registry.FORMATS.items() if f.pack is None and f.error is not None])
def test_error_of_what_is_only_read_is_what_the_record_says(name):
    if name in kquants.PACKERS:
        tolerance = 0.1  # ggml's own quantisers weigh the large ones more: tests/kquants.py
    else:
        tolerance = 0.03
    weight = gaussian(128, 12_288)
    assert PUBLISHED.get(name, MADE[name])(weight).error == pytest.approx(registry.FORMATS[name].error, rel=tolerance)


@pytest.mark.parametrize("name", MADE)
def test_bits_are_those_of_codes_and_scales(name):
    rows, columns = 256, 3072
    found = MADE[name](gaussian(rows, columns))
    scales = [t for t in found.beside.values() if t.numel() > 1]  # one for all weighs nothing
    bits = 8 * (found.data.nbytes + sum(t.nbytes for t in scales)) / (rows * columns)
    tolerance = 2e-2 if name.endswith("_blockwise") else 1e-6  # files' blocks are larger than those here
    assert registry.FORMATS[name].bits == pytest.approx(bits, rel=tolerance)


@pytest.mark.parametrize("format", [f for f in registry.ALL if f.matmul is not None], ids=lambda f: f.name)
def test_limit_of_a_devices_trial_lies_above_what_rounding_both_sides_costs(format):
    inputs = registry.BY_HOST_NAME["float8_e4m3fn"].error if format.name == "float8_e5m2" else format.error
    assert 1.5 < format.matmul.limit / math.hypot(format.error, inputs) < 4


def test_menus_are_in_their_order():
    assert list(registry.QUANT_MODES) == [
        "auto", "keep", "bf16", "fp16", "fp32", "q8_0", "int8_convrot", "fp8_scaled", "mxfp8", "nvfp4", "q5_1", "q4_1",
    ]  # fmt: skip
    assert list(registry.ENCODER_MODES) == ["auto", "keep", "bf16", "fp16", "fp32", "q8_0", "fp8_scaled"]
    assert list(registry.ALIASES) == ["float8_e4m3fn (8 bit)", "float8_e5m2 (also 8 bit)"]
    assert list(registry.EXPORTS) == [
        "int8_convrot", "fp8_scaled", "bf16", "fp16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "gguf_bf16", "gguf_f16",
    ]  # fmt: skip


def test_file_types_are_ggufs():
    for name, choice in registry.EXPORTS.items():
        if choice.container == base.GGUF:
            assert choice.file_type == gguf.LlamaFileType[f"MOSTLY_{choice.type}"], name
        else:
            assert choice.file_type == 0


@pytest.mark.parametrize("columns, group, fits", [(256, 256, True), (256, 64, True), (256, 128, False), (256, 8, False),
    (8, 4, True), (8, 2, False), (8, 1, False), (64, "16", False), (64, 16.0, False), (96, 64, False), (64, True, False)])  # fmt: skip
def test_a_rotation_fits_where_a_power_of_four_divides(columns, group, fits):
    rotates = support.dev.load_pack("loaders.formats.base.hadamard").rotates
    assert rotates(columns, group) is fits


def test_int4_marker_is_checked():
    found = rotated_int4(gaussian(8, 256))
    plain = found._replace(marker={"format": "convrot_w4a4"})
    assert dict(recognised("", plain).settings) == {"convrot_groupsize": 256, "linear_dtype": "int4"}
    for change, told in (
        ({"beside": {}}, "has no weight_scale beside it"),
        ({"beside": {"weight_scale": torch.ones(7)}}, "fit no known format"),
        ({"beside": {"weight_scale": torch.ones(16)}}, "fit no known format"),
        ({"beside": {"weight_scale": torch.ones(8, dtype=torch.uint8)}}, "fit no known format"),
        ({"marker": {"format": "convrot_w4a4", "convrot_groupsize": 128}}, "fit no known format"),
        ({"marker": {"format": "convrot_w4a4", "convrot_groupsize": 1024}}, "fit no known format"),
        ({"marker": {"format": "convrot_w4a4", "linear_dtype": "int2"}}, "'?int2'?, expected int4 or int8"),
    ):
        with pytest.raises(ValueError, match=told):
            recognised("", found._replace(**change))


@pytest.mark.parametrize(
    "found, told",
    [
        (mxfp8(gaussian(8, 64))._replace(beside={}), "marked as .?mxfp8.? but has no weight_scale"),
        (nvfp4(gaussian(8, 64))._replace(marker={"format": "nvfp4"}, beside={}), "nvfp4 but has no weight_scale beside"),
        (nvfp4(gaussian(8, 64))._replace(beside={"weight_scale_2": torch.ones(())}), "nvfp4 but has no weight_scale be"),
        (
            nvfp4(gaussian(8, 64))._replace(
                beside={"weight_scale": torch.zeros(128, 4, dtype=torch.uint8), "weight_scale_2": torch.ones(2)}
            ),
            "scales of shape .2,., float32, which fit no",
        ),
        (
            nvfp4(gaussian(8, 64))._replace(
                beside={"weight_scale": torch.zeros(128, 8, dtype=torch.uint8), "weight_scale_2": torch.ones(())}
            ),
            "scales of shape .128, 8., uint8, which fit no",
        ),
        (by_row(INT8)(gaussian(8, 64))._replace(beside={"weight_scale": torch.ones(8, 1, dtype=torch.uint8)}), "fit no"),
        (
            by_row(INT8)(gaussian(8, 256))._replace(marker={"format": "int8_tensorwise", "convrot": 1}),
            "convrot 1 in its marker, expected true or false",
        ),
        (by_block(E4M3)(gaussian(32, 64))._replace(beside={"weight_scale": torch.ones(2, 3)}), "fit no known format"),
        (by_block(E4M3)(gaussian(32, 64))._replace(beside={"weight_scale": torch.ones(3, 2)}), "fit no known format"),
        (by_block(INT8)(gaussian(32, 64))._replace(beside={"weight_scale": torch.ones(0, 2)}), "fit no known format"),
        (
            by_tensor(E4M3)(gaussian(8, 32))._replace(marker={"format": 3}),
            "marked as 3, expected the name of a format",
        ),
        (
            by_tensor(E4M3)(gaussian(8, 32))._replace(marker={"format": "int8_tensorwise"}),
            "marked as .?int8_tensorwise.? but stored as float8_e4m3fn",
        ),
        (
            by_tensor(E4M3)(gaussian(8, 32))._replace(
                beside={"weight_scale": torch.ones(()), "weight_scale_2": torch.ones(())}
            ),
            "fit no known format",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_what_was_found(found, told):
    with pytest.raises(ValueError, match=f"^w .*{told}"):
        recognised("", found)


def test_a_scale_of_the_inputs_is_passed_over_where_it_is_of_no_use():
    found = by_row(INT8)(gaussian(8, 64))
    assert recognised("", found._replace(beside={**found.beside, "input_scale": torch.ones(8, 1)})).format
    one, many = (info.TensorInfo(torch.float32, shape) for shape in ((1,), (8, 1)))
    fp8, int8 = info.Storage("float8_e4m3fn", (8, 64)), info.Storage("int8_tensorwise", (8, 64))
    assert registry.is_needed("input_scale", one, fp8) and not registry.is_needed("input_scale", many, fp8)
    assert not registry.is_needed("input_scale", one, int8) and registry.is_needed("weight_scale", many, int8)
    assert not registry.is_needed("input_scale", one, info.Storage(None, (8, 64)))


def test_a_lora_that_was_saved_beside_a_weight_is_part_of_it():
    found = by_row(E4M3)(gaussian(8, 32))
    up, down, delta, scale = gaussian(8, 2, 1), gaussian(2, 32, 2), torch.randint(-127, 128, (8, 32)), gaussian(8, 1, 3)
    storage = recognised("", found)
    tensors = {"w": found.data, "s": found.beside["weight_scale"], "u": up, "d": down, "i": delta.to(INT8), "t": scale}
    roles = {"weight_scale": "s", "weight_up": "u", "weight_down": "d", "weight_delta": "i", "weight_delta_scale": "t"}
    for kept, change in (
        (("weight_scale",), 0),
        (("weight_scale", "weight_up", "weight_down"), up @ down),
        (("weight_scale", "weight_delta", "weight_delta_scale"), delta * scale),
    ):
        part = info.Part("w", storage, {role: roles[role] for role in kept})
        torch.testing.assert_close(registry.dense(part, tensors), found.dense + change)


def test_a_plain_weight_with_a_scale_that_is_not_one_is_refused():
    part = info.Part("w", info.Storage(None, (2, 2)), {"weight_scale": "s"})
    weight = torch.ones(2, 2).half()
    assert registry.dense(part, {"w": weight, "s": torch.ones(1)}) is weight
    with pytest.raises(ValueError, match="^w is stored in 16 or 32 bits, but s beside it is 0.5, expected 1"):
        registry.dense(part, {"w": weight, "s": torch.tensor([0.5])})


@pytest.mark.parametrize("dtype, name", [(E4M3, "float8_e4m3fn"), (E5M2, "float8_e5m2")])
@pytest.mark.parametrize("shape", [(8,), (2, 3, 4)])
def test_biases_and_kernels_in_fp8_are_a_cast_or_have_one_scale(dtype, name, shape):
    data = torch.ones(shape).to(dtype)
    for beside, unscaled in (({}, True), ({"weight_scale": torch.ones(1)}, False)):
        storage = recognised("", Case(data, beside, None, data.float(), 0.0))
        assert (storage.format, storage.shape, dict(storage.settings)) == (name, shape, {"unscaled": unscaled})
    with pytest.raises(ValueError, match="which no known format"):
        recognised("", Case(data, {"weight_scale": torch.ones(2)}, None, data.float(), 0.0))


def test_int4_inputs_are_rounded_in_groups_of_64():
    """ConvRot's; the host's layout takes it as a field."""
    found = rotated_int4(gaussian(8, 256))
    fields = registry.FORMATS["convrot_w4a4"].hold(found.data, dict(found.beside), recognised("", found)).fields
    assert {k: v for k, v in fields.items() if k != "scale"} == {
        "quant_group_size": 64,
        "convrot_groupsize": 16,
        "linear_dtype": "int8",
    }


def test_an_unknown_marker_lists_the_hosts_own_formats_only():
    found = by_tensor(E4M3)(gaussian(8, 32))._replace(marker={"format": "svdq"})
    with pytest.raises(ValueError, match="not supported") as refusal:
        recognised("", found)
    listed = str(refusal.value).rpartition("(")[2].partition(" are)")[0].split(", ")
    host = {"convrot_w4a4", "float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "mxfp8", "nvfp4"}
    own = {f"{n}_rowwise" for n in ("float8_e4m3fn", "float8_e5m2")}
    own |= {f"{n}_blockwise" for n in ("float8_e4m3fn", "float8_e5m2", "int8")}
    assert set(listed) == host | own


@pytest.mark.parametrize("format", registry.ALL, ids=lambda f: f.name)
def test_records_do_not_change(format):
    with pytest.raises(AttributeError):
        format.bits = 1.0
    with pytest.raises(AttributeError):
        base.Weight("w", info.TensorInfo(INT8, (1,)), {}, {}).label = "x"


@pytest.mark.parametrize("dtype, shape", [(torch.uint8, (64,)), (torch.uint8, (2, 3, 4)), (torch.int16, (8, 32))])
def test_what_is_no_matrix_of_bytes_is_no_nvfp4(dtype, shape):
    beside = {"weight_scale": torch.ones(128, 4).to(E4M3), "weight_scale_2": torch.ones(())}
    with pytest.raises(ValueError, match="which no known format|but stored as int16"):
        recognised("", Case(torch.zeros(shape, dtype=dtype), beside, {"format": "nvfp4"}, torch.zeros(1), 0.0))


@pytest.mark.parametrize(
    "rows, shape, name",
    [
        (2, (2,), "rowwise"),
        (2, (2, 1), "rowwise"),
        (8, (2, 1), "blockwise"),
        (8, (1, 2), "blockwise"),
        (1, (1, 2), "blockwise"),
    ],
)
def test_two_scales_are_of_rows_or_blocks(rows, shape, name):
    data = cast(gaussian(rows, 64), torch.float8_e4m3fn)
    found = Case(data, {"weight_scale": torch.full(shape, 0.5)}, None, data.float() / 2, 0.0)
    storage = recognised("", found)
    assert storage.format == f"float8_e4m3fn_{name}"
    unpack = registry.FORMATS[storage.format].unpack
    assert torch.equal(unpack(found.data, dict(found.beside), storage.settings, torch.float32), found.dense)
