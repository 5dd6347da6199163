"""The host's split of positive and negative prompt over several devices (its node MultiGPU CFG Split), with our guidance.

`cpu` and `cpu:0` are two devices to it, so that a machine without a GPU takes the same way: a clone with weights of its own, a
thread for each device, the work shared out by prompts.
"""

import pytest
import support
import torch
from host_models import lora_on, sample

pytestmark = pytest.mark.host

STEPS = 6


@pytest.fixture(scope="module")
def cfg():
    return support.config()


@pytest.fixture
def model(comfy, inference, cfg, tmp_path):
    weights = support.published(support.random_weights(cfg))
    return support.dev.load_pack("host.model.load").load_chroma(str(support.write(tmp_path / "m.safetensors", weights)))


def guided(model, pairing="apart", **settings):
    guiders = support.dev.load_pack("host.sample.guiders")
    guidance = support.dev.load_pack("samplers.guided_run").Guidance
    return guiders.GuidancePatch(guidance(**settings), pairing, lambda told: None).on(model)


def split(model):
    """What the node makes of a MODEL on a machine with a second device, and that device's clone."""
    import comfy.multigpu

    out, other = model.clone(), model.deepclone_multigpu(torch.device("cpu", 0))
    other.is_multigpu_base_clone = True
    out.set_additional_models("multigpu", [other])
    out.match_multigpu_clones()
    comfy.multigpu.GPUOptionsGroup().register(out)
    return out


def run(comfy, model, cfg, **more):
    """The latent, and the numbers of forwards on each device."""
    networks = [p.model.diffusion_model for p in (model, *model.get_additional_models_with_key("multigpu"))]
    calls = [0] * len(networks)
    hooks = []
    for i, network in enumerate(networks):

        def count(module, args, i=i):
            calls[i] += 1

        hooks.append(network.register_forward_pre_hook(count))
    try:
        return sample(comfy, model, cfg, **{"steps": STEPS, "scale": 3.0, **more}), calls
    finally:
        for hook in hooks:
            hook.remove()


def test_the_clone_has_weights_of_its_own(model):
    (other,) = split(model).get_additional_models_with_key("multigpu")
    ours, theirs = (p.model.diffusion_model.state_dict() for p in (model, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not {t.data_ptr() for t in ours.values()} & {t.data_ptr() for t in theirs.values()}


@pytest.mark.parametrize("order", ["guidance first", "split first"])
@pytest.mark.parametrize("settings", [{}, {"form": "APG"}], ids=["plain", "APG"])
def test_each_device_computes_one_prompt_and_the_picture_is_the_same(comfy, model, cfg, order, settings):
    whole, calls = run(comfy, guided(model, **settings), cfg)
    assert calls == [2 * STEPS]
    both = split(guided(model, **settings)) if order == "guidance first" else guided(split(model), **settings)
    shared, calls = run(comfy, both, cfg)
    assert calls == [STEPS, STEPS] and torch.equal(shared, whole)


def test_steps_without_the_negative_prompt_gain_nothing(comfy, model, cfg):
    """The second device idles in them: 2 of 6 steps, and all at cfg 1."""
    whole, _ = run(comfy, guided(model, skip_first_steps=2), cfg)
    shared, calls = run(comfy, split(guided(model, skip_first_steps=2)), cfg)
    assert calls == [STEPS, STEPS - 2] and torch.equal(shared, whole)
    _, calls = run(comfy, split(guided(model)), cfg, scale=1.0)
    assert calls == [STEPS, 0]


def test_the_guider_takes_a_split_model(comfy, model, cfg):
    guiders = support.dev.load_pack("host.sample.guiders")
    generator = torch.Generator().manual_seed(2)
    texts = [[[torch.randn(1, n, cfg.context_dim, generator=generator), {}]] for n in (11, 7)]
    noise, sigmas = torch.randn(1, 16, 16, 16, generator=generator), torch.linspace(1, 0, STEPS + 1)
    euler = comfy.samplers.sampler_object("euler")
    results = [
        guiders.chroma_guider(guided(m), *texts, 3.0).sample(
            noise, torch.zeros_like(noise), euler, sigmas, disable_pbar=True, seed=1
        )
        for m in (model, split(model))
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize("pairing", ["auto", "paired"])
def test_prompts_that_would_share_a_forward_are_shared_out_too(comfy, model, cfg, pairing):
    """Sums are in another order there, in float32."""
    whole, calls = run(comfy, guided(model, pairing), cfg)
    assert calls == [STEPS]
    shared, calls = run(comfy, split(guided(model, pairing)), cfg)
    assert calls == [STEPS, STEPS] and support.relative(shared, whole) < 1e-5


def test_hook_lora_on_quantised_weights_acts_on_each_device(comfy, inference, cfg, tmp_path):
    import comfy.hooks

    weights = support.random_weights(cfg)
    path = support.write(tmp_path / "q.safetensors", support.published(weights))
    model = support.dev.load_pack("host.model.load").load_chroma(str(path), "q8_0")
    lora = lora_on(weights, "double_blocks.0.img_attn.qkv", "single_blocks.1.linear2", strength=0.4)

    def picture(model):
        generator = torch.Generator().manual_seed(2)
        positive, negative = ([[torch.randn(1, n, cfg.context_dim, generator=generator), {}]] for n in (9, 6))
        for text in (positive, negative):
            text[0][1]["hooks"] = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
        return run(comfy, model, cfg, positive=positive, negative=negative)

    expected, _ = picture(model)
    found, calls = picture(split(model))
    assert min(calls) > 0
    assert support.relative(found, expected) < 1e-4  # prompts apart or together, float32
    assert support.relative(expected, run(comfy, model, cfg)[0]) > 0.1
