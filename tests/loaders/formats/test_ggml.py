import mmap
import warnings

import gguf
import kquants
import numpy as np
import pytest
import support
import torch

types = support.dev.load_pack("loaders.formats.ggml")

BLOCKED = [name for name, t in types.GGML_TYPES.items() if t.block_size > 1]
WRITTEN = [name for name, t in types.GGML_TYPES.items() if t.quantise is not None]
# Where the fp16 numbers of a block are: all other bytes may be anything.
HALVES = {"Q6_K": (208,), "Q3_K": (108,), "Q2_K": (80, 82)} | {n: (0, 2) for n in ("Q5_K", "Q4_K", "Q5_1", "Q4_1")}
# Relative error on Gaussian weights, %: the format study, 5.1, made with ggml's own quantisers.
GGML_ERRORS = {"Q8_0": 0.535, "Q5_1": 3.79, "Q5_0": 4.27, "Q4_1": 7.83, "Q4_0": 8.59}
GGML_K_ERRORS = {"Q6_K": 1.78, "Q5_K": 3.61, "Q4_K": 7.13, "Q3_K": 15.1, "Q2_K": 29.6, "IQ4_XS": 7.67}


def random_blocks(name, rows=16, count=5, seed=0):
    """(rows, count * type_size) random bytes with finite scales, as numpy."""
    rng = np.random.default_rng(seed)
    packed = rng.integers(0, 256, (rows, count, types.GGML_TYPES[name].type_size), dtype=np.uint8)
    for at in HALVES.get(name, (0,)):
        packed[..., at : at + 2] = rng.normal(0, 1, (rows, count, 1)).astype(np.float16).view(np.uint8)
    return packed.reshape(rows, -1)


def by_gguf(packed, name):
    return torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[name]))


def gaussian(rows=64, width=1024, seed=0):
    return 0.02 * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def test_table_of_types_equals_ggufs():
    found = {q.value: (q.name, *gguf.GGML_QUANT_SIZES[q]) for q in gguf.GGMLQuantizationType}
    assert {code: found[code] for code in types.GGML_CODES if code in found} == types.GGML_CODES
    for name, t in types.GGML_TYPES.items():
        assert types.GGML_CODES[t.code] == (name, t.block_size, t.type_size) and t.name == name


@pytest.mark.parametrize("name", BLOCKED)
def test_dequantise_equals_gguf_and_is_rounded_once(name):
    packed = random_blocks(name)
    reference = by_gguf(packed, name)
    for dtype in types.DTYPES:  # every product is exact in float32, so half a step of the target is the only error
        dense = types.dequantise(torch.from_numpy(packed), name, dtype)
        assert dense.dtype == dtype and torch.equal(dense, reference.to(dtype))


@pytest.mark.parametrize("name", BLOCKED)
def test_largest_scales_and_subnormal_scales_are_exact(name):
    packed = random_blocks(name).reshape(-1, types.GGML_TYPES[name].type_size)
    for at in HALVES.get(name, (0,)):
        packed[:, at : at + 2] = (
            np.float16(65504).view((np.uint8, 2)) if at % 4 else np.float16(6e-8).view((np.uint8, 2))
        )
    packed[::2] = random_blocks(name, seed=1).reshape(packed.shape)[::2]
    packed = packed.reshape(16, -1)
    dense = types.dequantise(torch.from_numpy(packed), name)
    assert torch.equal(dense, by_gguf(packed, name).bfloat16())


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_types_are_read_as_they_are(name):
    dense = gaussian(3, 5)
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[name]
    packed = dense.to(dtype).view(torch.uint8)
    assert tuple(packed.shape) == types.packed_shape(dense.shape, name)
    for target in types.DTYPES:
        assert torch.equal(types.dequantise(packed, name, target), dense.to(dtype).to(target))


@pytest.mark.parametrize("name", BLOCKED)
def test_leading_shape_slices_and_read_only_memory_make_no_difference(name, tmp_path):
    kept = random_blocks(name, rows=24)
    path = tmp_path / "blocks"
    kept.tofile(path)
    with open(path, "rb") as f, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of read-only memory; a write would end the process
        memory = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        tensor = torch.frombuffer(memory, dtype=torch.uint8).view(kept.shape)
    flat = types.dequantise(tensor, name)
    assert torch.equal(types.dequantise(tensor.view(2, 3, 4, -1), name), flat.view(2, 3, 4, -1))
    assert torch.equal(types.dequantise(tensor[5:9], name), flat[5:9])
    assert torch.equal(types.dequantise(tensor[::2], name), flat[::2])
    assert types.dequantise(tensor[:0], name).shape == (0, flat.shape[1])
    assert np.array_equal(tensor.numpy(), kept)


@pytest.mark.parametrize("name", BLOCKED)
def test_chunks_of_the_cpu_leave_no_seam(name, monkeypatch):
    packed = torch.from_numpy(random_blocks(name))
    whole = types.dequantise(packed, name)
    monkeypatch.setattr(types, "CPU_CHUNK", 768)  # the last chunk is a part
    assert torch.equal(types.dequantise(packed, name), whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "Q5_0", "Q4_K", "Q3_K", "IQ4_XS"])
def test_dequantise_is_one_graph_when_compiled(name):
    packed = torch.from_numpy(random_blocks(name))
    compiled = torch.compile(types.dequantise, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(packed, name, torch.float32), types.dequantise(packed, name, torch.float32))


@pytest.mark.gpu
@pytest.mark.parametrize("name", BLOCKED)
def test_gpu_equals_cpu(name, card):
    packed = torch.from_numpy(random_blocks(name))
    for dtype in types.DTYPES:
        assert torch.equal(types.dequantise(packed.to(card), name, dtype).cpu(), types.dequantise(packed, name, dtype))
    if name in WRITTEN:
        dense = gaussian()
        assert torch.equal(types.quantise(dense.to(card), name).cpu(), types.quantise(dense, name))


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantise_is_bit_equal_to_gguf(name, dtype):
    dense = gaussian()
    dense[3, :64], dense[3, 64:] = 0, -0.0
    dense[4, ::2], dense[4, 1::2] = 1, -1  # ties of the largest size
    dense[5] *= 1e-6  # scales below fp16's normal numbers
    dense[6], dense[7] = dense[6].abs() + 1, -dense[7].abs() - 1
    dense = dense.to(dtype)
    reference = gguf.quants.quantize(dense.float().numpy(), gguf.GGMLQuantizationType[name])
    packed = types.quantise(dense.view(8, 8, -1), name)
    assert np.array_equal(packed.view(64, -1).numpy(), reference)
    assert tuple(packed.shape) == types.packed_shape((8, 8, 1024), name)


@pytest.mark.parametrize("name", WRITTEN)
def test_error_on_gaussian_weights_is_ggmls(name):
    dense = gaussian(64, 3072)
    nearest = support.relative(types.dequantise(types.quantise(dense, name), name, torch.float32), dense)
    assert 100 * nearest == pytest.approx(GGML_ERRORS[name], rel=0.01)  # 200,000 weights
    random = support.relative(types.dequantise(types.quantise(dense, name, seed=1), name, torch.float32), dense)
    # Rounding at random has twice the variance, 1/6 of a step squared for 1/12; Q4_0's range is a little wider too.
    assert 1.40 < random / nearest < 1.46


@pytest.mark.parametrize("name", WRITTEN)
def test_random_rounding_has_the_weight_as_its_mean(name):
    dense = gaussian(16, 256)
    dense[1, 0], dense[2] = 0.5, dense[2] + 1  # an outlier; one sign
    num_seeds = 400
    draws = [types.dequantise(types.quantise(dense, name, seed=s), name, torch.float32) for s in range(num_seeds)]
    deviations = torch.stack(draws).double() - dense.double()
    bias, spread = deviations.mean(0), deviations.pow(2).mean(0).sqrt()
    step = deviations.abs().amax(0).unflatten(1, (-1, 32)).amax(-1, True).expand(-1, -1, 32).flatten(1)
    # Six deviations of the mean, and six draws: a weight that is nearly on the grid may never have gone the other way.
    assert (bias.abs() <= 6 * (spread / num_seeds**0.5 + step / num_seeds) + 1e-7).all()
    assert (bias / step.clamp(min=1e-7)).mean().abs() < 6 * 0.41 / (num_seeds * dense.numel()) ** 0.5 + 1e-5


@pytest.mark.parametrize("name", WRITTEN)
def test_seed_decides_the_random_rounding(name):
    dense = gaussian()
    assert torch.equal(types.quantise(dense, name, seed=3), types.quantise(dense, name, seed=3))
    assert not torch.equal(types.quantise(dense, name, seed=3), types.quantise(dense, name, seed=4))


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("seed", [None, 0])
def test_zeros_and_constant_blocks_survive(name, seed):
    dense = torch.zeros(2, 64)
    dense[1] = 0.25
    back = types.dequantise(types.quantise(dense, name, seed), name, torch.float32)
    assert torch.equal(back[0], dense[0])
    assert (back[1] - 0.25).abs().max() <= 0.25 / (1 << (int(name[1]) - 1))


@pytest.mark.parametrize("name", kquants.PACKERS)
def test_simple_quantisers_of_the_tests_come_near_ggmls_errors(name):
    dense = gaussian(64, 3072)
    back = types.dequantise(kquants.quantise(dense, name), name, torch.float32)
    error = 100 * support.relative(back, dense)
    expected = GGML_K_ERRORS.get(name, 7.5)  # IQ4_NL: close to IQ4_XS, whose scales are coarser
    assert 0.9 < error / expected < 1.06  # Q2_K is better here: ggml's is weighted


def test_bits_per_weight_are_the_published_ones():
    found = {name: t.bits_per_weight for name, t in types.GGML_TYPES.items()}
    assert found == {
        "F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q5_1": 6, "Q5_0": 5.5,
        "Q4_K": 4.5, "Q4_1": 5, "Q4_0": 4.5, "IQ4_XS": 4.25, "IQ4_NL": 4.5, "Q3_K": 3.4375, "Q2_K": 2.625,
    }  # fmt: skip


def test_packed_shape_counts_bytes_of_the_last_size():
    assert types.packed_shape((3072, 12288), "Q8_0") == (3072, 13056)
    assert types.packed_shape([2, 3, 256], "Q6_K") == (2, 3, 210)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: types.packed_shape((4, 100), "Q8_0"), "multiple of 32"),
        (lambda: types.packed_shape((), "Q8_0"), r"shape \[\] cannot be stored"),
        (lambda: types.packed_shape((4, 256), "Q9_9"), "Q9_9 is not supported .*Q8_0"),
        (lambda: types.dequantise(torch.zeros(2, 34, dtype=torch.uint8), "IQ2_S"), "IQ2_S is not supported"),
        (lambda: types.dequantise(torch.zeros(2, 35, dtype=torch.uint8), "Q8_0"), "multiple of 34"),
        (lambda: types.dequantise(torch.zeros(2, 34), "Q8_0"), "torch.float32 are not Q8_0 blocks"),
        (lambda: types.dequantise(torch.zeros(34, dtype=torch.uint8), "Q8_0", torch.int8), "to torch.int8"),
        (lambda: types.quantise(torch.zeros(2, 100), "Q4_0"), "multiple of 32"),
        (lambda: types.quantise(torch.zeros(2, 256), "Q6_K"), "can be read but not written .Q8_0, Q5_1"),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", BLOCKED)
def test_the_expression_that_a_compiler_is_given_is_the_same(name, monkeypatch):
    packed = random_blocks(name)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(types.dequantise(torch.from_numpy(packed), name, torch.float32), by_gguf(packed, name))
