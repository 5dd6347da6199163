"""Whole runs of the host's sampler: ours against the host's own Chroma class, same weights, narrow full depth."""

import pytest
import support
import torch
from host_models import lora_on, native_patcher, sample

pytestmark = [pytest.mark.host, pytest.mark.slow]

# Eight steps carry the 2e-6 of one forward on; measured 1.4e-6 to 1.9e-6.
RUN_LIMIT = 1e-5


@pytest.fixture(scope="module")
def case(comfy, tmp_path_factory):
    cfg = support.config(**support.FULL_DEPTH)
    weights = support.random_weights(cfg)
    path = support.write(tmp_path_factory.mktemp("m") / "deep.safetensors", support.published(weights))
    return cfg, weights, path


LAYERS = ("double_blocks.3.img_attn.qkv", "single_blocks.20.linear1")


@pytest.mark.parametrize("with_lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("sampler", ["euler", "res_multistep"])
def test_run_equals_the_hosts_own(comfy, inference, case, sampler, with_lora):
    cfg, weights, path = case
    ours = support.dev.load_pack("host.model.load").load_chroma(str(path))
    native = native_patcher(comfy, cfg, weights)
    plain = sample(comfy, ours, cfg, steps=8, sampler=sampler)
    if with_lora:
        ours, native = (
            comfy.sd.load_lora_for_models(p, None, lora_on(weights, *LAYERS), 1.0, 0.0)[0] for p in (ours, native)
        )
    mine = sample(comfy, ours, cfg, steps=8, sampler=sampler)
    theirs = sample(comfy, native, cfg, steps=8, sampler=sampler)
    print(f"relative L2 of the final latents {support.relative(mine, theirs):.2e}")
    assert support.relative(mine, theirs) <= RUN_LIMIT
    assert (support.relative(mine, plain) > 1e-2) == with_lora


@pytest.mark.parametrize("mode", ["fp32", "int8_convrot"])
def test_pictures_at_once_are_the_pictures_alone(comfy, inference, case, mode):
    cfg, _, path = case
    model = support.dev.load_pack("host.model.load").load_chroma(str(path), mode)
    noise = torch.randn(3, 16, 16, 20, generator=torch.Generator().manual_seed(6))

    def painted(noise):
        return sample(comfy, model, cfg, steps=2, sampler="res_multistep", noise=noise, latent=torch.zeros_like(noise))

    alone = torch.cat([painted(one) for one in noise.split(1)])
    assert support.relative(painted(noise), alone) <= RUN_LIMIT


def test_position_embedder_of_another_pack_acts_as_on_the_hosts(comfy, inference, case):
    """DyPE and its kind put a module of FLUX's kind into `pe_embedder`, made from theta and axes_dim of the old one."""
    from comfy.ldm.flux.layers import EmbedND

    class Nearer(EmbedND):
        def forward(self, ids):
            return super().forward(0.5 * ids)

    cfg, weights, path = case
    ours = support.dev.load_pack("host.model.load").load_chroma(str(path))
    plain = sample(comfy, ours, cfg, steps=4)
    latents = []
    for patcher in (ours.clone(), native_patcher(comfy, cfg, weights)):
        old = patcher.get_model_object("diffusion_model.pe_embedder")
        patcher.add_object_patch("diffusion_model.pe_embedder", Nearer(sum(old.axes_dim), old.theta, old.axes_dim))
        latents.append(sample(comfy, patcher, cfg, steps=4))
    assert support.relative(*latents) <= RUN_LIMIT
    assert support.relative(latents[0], plain) > 1e-3
    assert support.relative(sample(comfy, ours, cfg, steps=4), plain) == 0
