"""Whole runs of the host's sampler: ours against the host's own Chroma class, same weights, narrow full depth."""

import pytest
import support
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
