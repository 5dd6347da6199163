"""float16 gives no NaN where bfloat16 gives none: at full depth, with residual streams as large as FLUX's, which leave its range."""

import functools

import pytest
import support
import torch

ops = support.dev.load_pack("chroma_model.ops")
radiance = support.dev.load_pack("chroma_model.radiance")
CONFIG = support.config(**support.FULL_DEPTH)
CHANNELS = [3, 77]  # a few channels carry what is large, in every row
INTO_STREAM = ("attn.proj.", "mlp.2.", "linear2.")
# What each layer writes into those channels is so many times as large -> the streams' largest number, in float32. FLUX's own
# weights leave float16's range in two places (huggingface/diffusers#9097).
PEAKS = {1: 25, 6000: 6.1e4, 8000: 8.1e4, 100_000: 1e6}


@functools.cache
def weights():
    return support.random_weights(CONFIG)


@functools.cache
def net(dtype):
    """(network, what each block computes, as counts of NaN and infinity, and the largest number that its clamp leaves)."""
    seen = []

    def clamp(x, options=None):
        clamped = ops.clamp_fp16(x, options)
        seen.append((x.isnan().sum().item(), x.isinf().sum().item(), clamped.abs().max().item()))
        return clamped

    built = support.model.ChromaTransformer(CONFIG, ops.Ops(clamp=clamp), dtype=dtype)
    support.dev.load_pack("loaders.checkpoint.approximator").fill_approximator(built, CONFIG)
    return built, seen


def run(factor, dtype, into=INTO_STREAM):
    """(output, the streams' largest number, NaN in what blocks compute, numbers beyond the range) of one forward."""
    built, seen = net(dtype)
    seen.clear()
    state = dict(weights())
    for name in state:
        if any(layer in name for layer in into):
            state[name] = state[name].clone()
            state[name][CHANNELS] *= factor
    built.load_state_dict(state)
    data = support.inputs(CONFIG, height=8, width=8, tokens=12)
    with torch.inference_mode():
        out = built(data["x"].to(dtype), data["timesteps"], data["context"].to(dtype))
    nan, infinite, largest = zip(*seen)
    return out, max(largest), sum(nan), sum(infinite)


@pytest.mark.parametrize("factor", PEAKS)
def test_full_depth_gives_no_nan_in_either_16_bit_type(factor):
    exact, peak, *_ = run(factor, torch.float32)
    assert peak == pytest.approx(PEAKS[factor], rel=0.05)
    errors, cut = {}, {}
    for dtype in (torch.bfloat16, torch.float16):
        out, found, nan, cut[dtype] = run(factor, dtype)
        assert bool(out.isfinite().all()) and nan == 0
        assert found == pytest.approx(min(peak, torch.finfo(dtype).max), rel=0.02)
        errors[dtype] = support.relative(out, exact)
    assert cut[torch.bfloat16] == 0 and (cut[torch.float16] > 0) == (peak > ops.FP16_MAX)
    assert errors[torch.bfloat16] < 0.03  # 57 blocks of random weights
    if peak < ops.FP16_MAX:
        assert errors[torch.float16] < errors[torch.bfloat16] / 4  # three more bits
    elif peak < 1.5 * ops.FP16_MAX:
        assert errors[torch.float16] < 0.1  # what is cut becomes smaller, and each row keeps its other channels


@pytest.mark.parametrize("layer", ["img_attn.proj.", "txt_attn.proj.", "img_mlp.2.", "txt_mlp.2.", "linear2."])
def test_each_layer_alone_may_leave_the_range(layer):
    out, peak, nan, infinite = run(100_000, torch.float16, (layer,))
    assert bool(out.isfinite().all()) and nan == 0 and infinite > 0 and peak <= ops.FP16_MAX


@pytest.mark.parametrize("layer", ["img_attn.proj.", "txt_attn.proj."])
def test_row_that_leaves_the_range_within_a_block_keeps_its_other_channels(layer):
    exact, peak, *_ = run(30_000, torch.float32, (layer,))
    assert ops.FP16_MAX < peak < 2 * ops.FP16_MAX
    found = run(30_000, torch.float16, (layer,))[0]
    assert support.relative(found, exact) < 0.05  # 0.020; with the whole rows lost 0.96 and 0.40


def test_overflow_is_clamped_and_other_types_are_not():
    x = torch.tensor([float("inf"), float("-inf"), float("nan"), 1.0])
    assert ops.clamp_fp16(x.half()).tolist() == [65504, -65504, 0, 1]
    assert torch.equal(ops.clamp_fp16(x[:2]), x[:2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_head_on_pixels_gives_no_nan_for_tokens_of_zeros(dtype):
    """Their matrices are zeros, whose columns have no norm."""
    cfg = support.config(**support.RADIANCE)
    block = radiance.NerfBlock(cfg, torch.nn, dtype=dtype)
    torch.nn.init.zeros_(block.param_generator.bias)
    x = torch.ones(2, 64, cfg.nerf.hidden_size, dtype=dtype)
    assert torch.equal(block(x, torch.zeros(2, cfg.hidden_size, dtype=dtype)), x)
    columns = torch.tensor([[[3.0, 0.0, 6e-8], [4.0, 0.0, 0.0]]], dtype=dtype)
    wanted = torch.tensor([[[0.6, 0, 1], [0.8, 0, 0]]])
    torch.testing.assert_close(radiance.unit_columns(columns).float(), wanted, rtol=0, atol=4e-3)  # bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_velocity_from_data_is_finite_at_the_end_of_a_run(dtype):
    x = torch.full((1, 3, 2, 2), 20.0, dtype=dtype)
    assert bool(radiance.velocity_from_data(-x, x, torch.zeros(1)).isfinite().all())
