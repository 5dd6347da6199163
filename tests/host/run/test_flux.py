"""FLUX under an Approximator (FluxMod): whole runs of the host's sampler, ours against the host's own Flux."""

import flux_models
import pytest
import support
import torch
from flux_models import GUIDANCE, RUN_LIMIT, STEPS, native_patcher, prompts, sigmas_of
from host_models import sample

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def case(comfy, tmp_path_factory):
    """(config, the host's MODEL, ours): a FLUX file with its own modulation, and a file of an Approximator alone."""
    cfg, folder = flux_models.config(), tmp_path_factory.mktemp("flux")
    net = flux_models.flux_net(comfy, cfg)
    native = native_patcher(net, cfg)
    points = [(t.item(), GUIDANCE) for t in (*sigmas_of(native)[:-1], torch.tensor(0.0))]
    solved = flux_models.approximator(net, cfg, points)
    blocks = support.write(folder / "flux.safetensors", support.published(net.state_dict()))
    modulator = support.write(folder / "modulator.safetensors", support.published(solved))
    load = support.dev.load_pack("host.model.load").load_chroma
    return cfg, native, load(str(blocks), approximator=str(modulator))


def runs(comfy, case, positive):
    return (sample(comfy, p, case[0], steps=STEPS, scale=1.0, positive=positive, negative=positive) for p in case[1:])


def test_a_run_with_embedded_guidance_equals_the_hosts(comfy, inference, case):
    cfg, native, ours = case
    assert torch.equal(sigmas_of(ours), sigmas_of(native))
    assert ours.model.model_config.loaded.detection.variant == "FLUX"
    theirs, mine = runs(comfy, case, prompts(cfg))
    assert support.relative(mine, theirs) <= RUN_LIMIT


def test_a_run_with_references_by_the_hosts_nodes_equals_the_hosts(comfy, inference, case):
    from comfy_extras.nodes_edit_model import ReferenceLatent
    from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod as Method

    cfg, generator = case[0], torch.Generator().manual_seed(4)
    positive = prompts(cfg)
    for size in ((16, 20), (12, 24)):
        latent = {"samples": torch.randn(1, cfg.channels, *size, generator=generator)}
        positive = ReferenceLatent.execute(positive, latent).args[0]
    plain = next(iter(runs(comfy, case, prompts(cfg))))
    for method in ("offset", "index", "uxo/uno"):
        theirs, mine = runs(comfy, case, Method.execute(positive, method).args[0])
        assert support.relative(mine, theirs) <= RUN_LIMIT
        assert support.relative(mine, plain) > 1e-2


def test_kept_keys_of_references_act_on_our_model(comfy, inference, case):
    """FluxKVCache: the first step is exact, later ones take the references' keys and values from it. The host's own
    FLUX.1 fails under it, so that its error is measured against ours without it."""
    from comfy_extras.nodes_edit_model import ReferenceLatent
    from comfy_extras.nodes_flux import FluxKVCache
    from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod as Method

    cfg, _, ours = case
    latent = {"samples": torch.randn(1, cfg.channels, 12, 24, generator=torch.Generator().manual_seed(4))}
    positive = ReferenceLatent.execute(prompts(cfg), latent).args[0]
    at_zero = Method.execute(positive, "index_timestep_zero").args[0]
    kept = FluxKVCache.execute(ours).args[0]

    def run(patcher, given, steps):
        return sample(comfy, patcher, cfg, steps=steps, scale=1.0, positive=given, negative=given)

    assert support.relative(run(kept, positive, 1), run(ours, at_zero, 1)) <= RUN_LIMIT
    distance = support.relative(run(kept, positive, STEPS), run(ours, at_zero, STEPS))
    assert 0 < distance < 0.3
    assert ours.model.diffusion_model.default_ref_method == "offset"
