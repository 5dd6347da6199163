"""Our forward against the host's own Chroma and diffusers' class: seeded weights, real depth, narrow width."""

import pytest
import support
import torch
from host_models import diffusers_net, native_net, our_net

pytestmark = [pytest.mark.host, pytest.mark.slow]

FLOAT32_LIMIT = 2e-6  # relative L2 of one forward; the five reference implementations agree to 4e-7 .. 1.8e-6


@pytest.fixture(scope="module")
def case(comfy):
    cfg = support.config(**support.FULL_DEPTH)
    weights = support.random_weights(cfg)
    return cfg, weights, our_net(comfy, cfg, weights), native_net(comfy, cfg, weights)


def measured(a, b):
    """The relative distance, printed for `pytest -rP`."""
    value = support.relative(a, b)
    print(f"relative L2 {value:.2e}")
    return value


def both(case, data, **options):
    _, _, ours, native = case
    call = dict(guidance=torch.zeros(len(data["x"])), **options)
    args = (data["x"], data["timesteps"], data["context"])
    with torch.inference_mode():
        return ours(*(a.clone() for a in args), **call), native(*(a.clone() for a in args), **call)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch": 2},
        {"height": 15, "width": 19},
        {"height": 16, "width": 7},
        {"tokens": 1},
    ],
    ids=str,
)
def test_forward_equals_the_hosts(case, options):
    ours, native = both(case, support.inputs(case[0], **options))
    assert ours.shape == native.shape
    assert measured(ours, native) <= FLOAT32_LIMIT


def test_forward_with_padding_removed_equals_the_hosts_with_a_mask(case):
    data = support.inputs(case[0])
    mask = torch.zeros(1, 1, 1, 24 + 80)
    mask[..., 10:24] = -torch.finfo(torch.float32).max  # the host's CPU attention adds its mask
    with torch.inference_mode():
        native = case[3](data["x"].clone(), data["timesteps"], data["context"], torch.zeros(1), attention_mask=mask)
        short = case[2](data["x"].clone(), data["timesteps"], data["context"][:, :10], torch.zeros(1))
    assert measured(short, native) <= FLOAT32_LIMIT


@pytest.mark.parametrize("name", [("double_block", 7), ("single_block", 11)], ids=str)
def test_forward_with_a_replaced_block_equals_the_hosts(case, name):
    def replacement(args, extra):
        out = extra["original_block"](args)
        return {k: v * 0.5 for k, v in out.items()}

    options = {"patches_replace": {"dit": {name: replacement}}}
    ours, native = both(case, support.inputs(case[0]), transformer_options=options)
    plain, _ = both(case, support.inputs(case[0]))
    assert measured(ours, native) <= FLOAT32_LIMIT
    assert support.relative(ours, plain) > 1e-2


def test_forward_equals_diffusers(case):
    pytest.importorskip("diffusers")
    cfg, weights, ours, _ = case
    net = diffusers_net(cfg, weights)
    data = support.inputs(cfg, batch=2)
    latents = support.dev.load_pack("chroma_model.latents")
    embeddings = support.dev.load_pack("chroma_model.embeddings")
    with torch.inference_mode():
        out = net(
            hidden_states=latents.patchify(data["x"], 2),
            encoder_hidden_states=data["context"],
            timestep=data["timesteps"],
            txt_ids=torch.zeros(24, 3),
            img_ids=embeddings.position_ids(0, 8, 10),
        ).sample
        mine = ours(data["x"], data["timesteps"], data["context"], torch.zeros(2))
    assert measured(mine, latents.unpatchify(out, 16, 20, 2)) <= FLOAT32_LIMIT


def test_bfloat16_is_at_least_as_close_to_float32_as_the_hosts(comfy):
    """Ten timesteps and inputs, so that no single draw decides; the Approximator in float32 is what makes ours closer."""
    cfg = support.config(**support.FULL_DEPTH)
    weights = {k: v.bfloat16() for k, v in support.random_weights(cfg, seed=3).items()}
    exact = our_net(comfy, cfg, {k: v.float() for k, v in weights.items()})
    ours, native = our_net(comfy, cfg, weights, torch.bfloat16), native_net(comfy, cfg, weights, torch.bfloat16)
    errors = []
    with torch.inference_mode():
        for seed in range(10):
            data = support.inputs(cfg, height=8, width=8, tokens=8, seed=seed)
            data = {
                "x": data["x"].bfloat16(),
                "timesteps": torch.tensor([0.05 + 0.09 * seed]),
                "context": data["context"].bfloat16(),
            }
            args = (data["x"], data["timesteps"], data["context"], torch.zeros(1))
            reference = exact(*(a.float() for a in args))
            errors.append([support.relative(net(*args), reference) for net in (ours, native)])
    mean_ours, mean_native = torch.tensor(errors).mean(0).tolist()
    print(f"relative L2 to float32: ours {mean_ours:.2e}, the host's {mean_native:.2e}")
    assert mean_ours <= mean_native
    assert mean_ours < 3e-2
