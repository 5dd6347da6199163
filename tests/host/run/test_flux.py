"""FLUX under an Approximator (FluxMod): whole runs of the host's sampler, ours against the host's own Flux."""

import flux_models
import pytest
import support
import torch
from flux_models import GUIDANCE, RUN_LIMIT, STEPS, native_patcher, prompts, sigmas_of
from host_models import our_net, sample

pytestmark = pytest.mark.host


def modulator(net, cfg, native, path):
    """A file of an Approximator alone, without a prefix, as FluxMod's are."""
    points = [(t.item(), GUIDANCE) for t in (*sigmas_of(native)[:-1], torch.tensor(0.0))]
    solved = flux_models.approximator(net, cfg, points)
    names = {name.removeprefix(flux_models.keys.APPROXIMATOR): t for name, t in support.published(solved).items()}
    return str(support.write(path, names))


def load(*args, **kwargs):
    return support.dev.load_pack("host.model.load").load_chroma(*args, **kwargs)


@pytest.fixture(scope="module")
def case(comfy, tmp_path_factory):
    """(config, the host's MODEL, ours): a FLUX file with its own modulation, and a file of an Approximator alone."""
    cfg, folder = flux_models.config(), tmp_path_factory.mktemp("flux")
    net = flux_models.flux_net(comfy, cfg)
    native = native_patcher(net, cfg)
    blocks = support.write(folder / "flux.safetensors", support.published(net.state_dict()))
    return cfg, native, load(str(blocks), approximator=modulator(net, cfg, native, folder / "modulator.safetensors"))


def runs(comfy, case, positive):
    return (sample(comfy, p, case[0], steps=STEPS, scale=1.0, positive=positive, negative=positive) for p in case[1:])


def test_a_run_with_embedded_guidance_equals_the_hosts(comfy, inference, case):
    cfg, native, ours = case
    assert torch.equal(sigmas_of(ours), sigmas_of(native))
    assert ours.model.model_config.loaded.detection.variant == "FLUX"
    theirs, mine = runs(comfy, case, prompts(cfg))
    assert support.relative(mine, theirs) <= RUN_LIMIT


def test_a_prompt_that_sets_no_guidance_runs_at_fluxs_own(comfy, inference, case):
    """As those of Chroma Text Encode."""
    unset, own, zero = ([[prompts(case[0])[0][0], values]] for values in ({}, {"guidance": 3.5}, {"guidance": 0.0}))
    runs = [sample(comfy, case[2], case[0], steps=1, scale=1.0, positive=p, negative=p) for p in (unset, own, zero)]
    assert torch.equal(runs[0], runs[1]) and support.relative(runs[0], runs[2]) > 1e-3


def test_schnell_runs_at_the_shift_of_the_hosts(comfy, inference, tmp_path):
    """It has no embedding of guidance, and was trained without a shift."""
    cfg = flux_models.config()
    net = flux_models.flux_net(comfy, cfg, guidance_embed=False)
    native = native_patcher(net, cfg, schnell=True)
    blocks = support.write(tmp_path / "flux.safetensors", support.published(net.state_dict()))
    ours = load(str(blocks), approximator=modulator(net, cfg, native, tmp_path / "modulator.safetensors"))
    assert ours.model.model_config.loaded.detection.variant == "FLUX schnell"
    assert sigmas_of(ours).tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0], rel=1e-6)
    theirs, mine = runs(comfy, (cfg, native, ours), prompts(cfg))
    assert support.relative(mine, theirs) <= RUN_LIMIT
    save = support.dev.load_pack("host.model.save").export_model
    save(ours, tmp_path / "again.safetensors", "bf16")
    again = load(str(tmp_path / "again.safetensors"))
    assert torch.equal(sigmas_of(again), sigmas_of(ours)) and again.model.default_guidance == 3.5


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
    from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod as Method
    from comfy_extras.nodes_flux import FluxKVCache

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


@pytest.mark.parametrize("options", [{}, {"area": (16, 20, 0, 0), "strength": 1.0}], ids=["", "area"])
@pytest.mark.parametrize("pairing", ["paired", "apart"])
def test_each_prompt_keeps_the_keys_of_its_own_references(comfy, inference, case, pairing, options):
    """At cfg 3 with prompts of different lengths, and references of their own: the first step is exact.

    options: of the positive one; the host gives an area to the negative one too.
    """
    from comfy_extras.nodes_edit_model import ReferenceLatent
    from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod as Method
    from comfy_extras.nodes_flux import FluxKVCache

    cfg, _, ours = case
    generator = torch.Generator().manual_seed(6)
    given = []
    for length in (11, 7):
        text = prompts(cfg)
        text[0][0] = torch.randn(1, length, cfg.context_dim, generator=generator)
        latent = {"samples": torch.randn(1, cfg.channels, 12, 24, generator=generator)}
        given.append(Method.execute(ReferenceLatent.execute(text, latent).args[0], "index_timestep_zero").args[0])
    given[0][0][1].update(options)
    guiders, guidance = (support.dev.load_pack(n) for n in ("host.sample.guiders", "samplers.guided_run"))

    def run(patcher, steps):
        patcher = guiders.GuidancePatch(guidance.Guidance(), pairing).on(patcher)
        return sample(comfy, patcher, cfg, steps=steps, scale=3.0, positive=given[0], negative=given[1])

    kept = FluxKVCache.execute(ours).args[0]
    assert support.relative(run(kept, 1), run(ours, 1)) <= RUN_LIMIT
    exact = run(ours, STEPS)
    assert 0 < support.relative(run(kept, STEPS), exact) < 0.3
    assert support.relative(run(kept, 1), run(ours, 1)) <= RUN_LIMIT  # nothing is left from the run before


def as_whole(state):
    """FLUX of nineteen double blocks, of which the lite one is made: blocks 5 to 15, and the old 4, are others."""
    out = {}
    for name, tensor in state.items():
        number = int(name.split(".")[1]) if name.startswith("double_blocks.") else None
        if number is not None and number > 4:
            name = name.replace(f"double_blocks.{number}.", f"double_blocks.{number + 11}.", 1)
        out[name] = tensor
    block = {
        name.removeprefix("double_blocks.4."): t for name, t in state.items() if name.startswith("double_blocks.4.")
    }
    for number in range(4, 16):
        out.update({f"double_blocks.{number}.{name}": torch.randn_like(t) for name, t in block.items()})
    return out, block


@pytest.mark.parametrize("double, in_dim, count", [(19, 64, 344), (8, 32, 212)], ids=["FLUX.1", "lite"])
def test_a_forward_of_the_published_numbers_of_blocks_equals_the_hosts(comfy, inference, double, in_dim, count):
    """All blocks of FLUX.1 and of its lite model, at narrow width, by one Approximator for all their modulations."""
    cfg = flux_models.config(in_dim, hidden=2048, double=double, single=38)
    assert cfg.num_modulations == count
    net = flux_models.flux_net(comfy, cfg)
    solved = flux_models.approximator(net, cfg, [(0.7, GUIDANCE)])
    ours = our_net(comfy, cfg, {**flux_models.blocks_of(net), **solved})
    data, guidance = support.inputs(cfg, batch=1, height=15, width=18), torch.full((1,), GUIDANCE)
    theirs = net(*data.values(), torch.zeros(1, flux_models.VECTOR), guidance)
    assert support.relative(ours(*data.values(), guidance), theirs) < 2e-6


@pytest.mark.slow
def test_flux_with_a_lite_patch_equals_the_hosts_flux_of_eight_blocks(comfy, inference, tmp_path):
    cfg = flux_models.config(in_dim=32, double=8, single=2)
    net = flux_models.flux_net(comfy, cfg)
    native = native_patcher(net, cfg)
    whole, block = as_whole(net.state_dict())
    path = str(support.write(tmp_path / "flux.safetensors", support.published(whole)))
    patch = str(support.write(tmp_path / "lite.safetensors", support.published(block)))
    ours = load(path, approximator=modulator(net, cfg, native, tmp_path / "m.safetensors"), lite_patch=patch)
    loaded = ours.model.model_config.loaded
    assert (
        loaded.detection.config.num_double_blocks == 8
        and loaded.file == "flux.safetensors with lite.safetensors with m.safetensors"
    )
    theirs, mine = runs(comfy, (cfg, native, ours), prompts(cfg))
    assert support.relative(mine, theirs) <= RUN_LIMIT
    init, given = ours.cached_patcher_init
    again = init(*given, disable_dynamic=True)
    assert support.relative(sample_of(comfy, again, cfg), sample_of(comfy, ours, cfg)) == 0


def sample_of(comfy, patcher, cfg):
    return sample(comfy, patcher, cfg, steps=2, scale=1.0, positive=prompts(cfg), negative=prompts(cfg))
