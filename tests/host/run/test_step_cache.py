"""Forecast steps in runs of the host: what is left out, what is put in its place, and that nothing stays behind."""

import functools

import controlnets
import pytest
import support
import torch
from host_models import lora_on, native_net, native_patcher, our_net, sample

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack
STEPS = 20


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    cfg = support.config(double=2, single=3)
    weights = support.random_weights(cfg)
    return cfg, weights, support.write(tmp_path_factory.mktemp("m") / "tiny.safetensors", support.published(weights))


@pytest.fixture
def model(comfy, inference, case):
    return load_pack("host.model.load").load_chroma(str(case[2]))


def cached(model, told=None, **settings):
    settings = load_pack("samplers.step_cache").CacheSettings(**settings)
    return load_pack("host.run.step_cache").StepCache(settings, None if told is None else told.append).on(model)


def run(comfy, case, model, **more):
    return sample(comfy, model, case[0], steps=STEPS, **more)


class Known:
    """A run that computes, remembers what the later blocks added, and then forecasts exactly that."""

    def __init__(self):
        self.is_known, self.residual = False, None

    def sampled(self, img):
        return None

    def decide(self, sigma, keys, before, after, acts):
        return 0, self.is_known

    def learn(self, step, sigma, keys, residual):
        self.is_known, self.residual = True, residual

    def forecast(self, sigma, keys):
        return self.residual


CALLS = {
    "plain": {},
    "control": {
        "control": {
            "input": [torch.full((1, 80, 128), 0.3), None],
            "output": [torch.full((1, 80, 128), 0.2), torch.full((1, 40, 128), -0.3), torch.full((1, 80, 128), 0.5)],
        }
    },
    "control of the host's network": {
        "control": {"input": [torch.full((1, 80, 128), 0.3)] * 2, "output": [torch.full((1, 80, 128), -0.2)] * 3}
    },
    "references": {"ref_latents": [torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(4))]},
    "mask": {"context_mask": torch.tensor([[1] * 5 + [0] * 4])},
}


@pytest.mark.parametrize("name", CALLS)
def test_with_the_true_residual_a_forecast_is_the_computed_result(comfy, inference, case, name):
    cfg, weights, _ = case
    network = native_net if name == "control of the host's network" else our_net
    module, net = load_pack("host.run.step_cache"), network(comfy, cfg, weights)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 16, 16, 20, generator=generator)
    call = x, torch.tensor([0.5]), torch.randn(1, 9, cfg.context_dim, generator=generator), torch.zeros(1)
    ran = []

    def count(args, extra):
        ran.append(1)
        return extra["original_block"](args)

    blocks = [("double_block", i) for i in range(2)] + [("single_block", i) for i in range(3)]
    patches = {b: module.CachedBlock(b == blocks[-1], count) for b in blocks}
    known = Known()
    options = {"patches_replace": {"dit": patches}, module.CACHE: known, "sigmas": torch.tensor([0.5])}
    plain = net(*call, **CALLS[name])
    computed = net(*call, transformer_options=options, **CALLS[name])
    assert torch.equal(computed, plain) and len(ran) == 5
    forecast = net(*call, transformer_options=options, **CALLS[name])
    assert len(ran) == 6 and support.relative(forecast, plain) < 1e-6
    known.residual = known.residual * 1.5
    assert support.relative(net(*call, transformer_options=options, **CALLS[name]), plain) > 1e-2


def test_a_forecast_beyond_float16s_range_is_cut_and_noted(comfy, inference, case):
    module, overflow = load_pack("host.run.step_cache"), load_pack("host.run.overflow")
    cfg, weights, _ = case
    generator, flags, known = torch.Generator().manual_seed(2), overflow.Flags(), Known()
    x, text = (torch.randn(shape, generator=generator).half() for shape in ((1, 16, 16, 20), (1, 9, cfg.context_dim)))
    blocks = [("double_block", i) for i in range(2)] + [("single_block", i) for i in range(3)]
    patches = {b: module.CachedBlock(b == blocks[-1], None) for b in blocks}
    options = {"patches_replace": {"dit": patches}, module.CACHE: known, "sigmas": torch.tensor([0.5])}
    net = our_net(comfy, cfg, weights, torch.float16)
    call = x, torch.tensor([0.5]).half(), text, torch.zeros(1)
    net(*call, transformer_options=options)
    known.residual = known.residual.float()
    known.residual[0, 3, 5] = 1e5
    out = net(*call, transformer_options={**options, overflow.OPTION: flags})
    assert out.isfinite().all() and [place for place, cut in flags.found.items() if bool(cut)] == [("single", 2)]


def test_a_run_with_nothing_forecast_is_the_plain_one(comfy, case, model):
    assert torch.equal(run(comfy, case, cached(model, compute=1.0)), run(comfy, case, model))


@pytest.mark.parametrize("settings", [{"compute": 0.65}, {"compute": None, "threshold": 10.0}], ids=["plan", "gate"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_run_computes_fewer_steps_and_says_how_far_off_they_were(comfy, case, model, settings, batch):
    told, plain = [], run(comfy, case, model, batch=batch)
    found = run(comfy, case, cached(model, told, **settings), batch=batch)
    (record,) = told
    assert len(record.computed) == load_pack("samplers.step_cache").least(STEPS) and len(record.forecast) == 7
    assert 1e-6 < support.relative(found, plain) < 0.5
    assert all(0 < error < 2 for _, error in record.errors) and len(record.errors) >= 10
    assert torch.equal(run(comfy, case, model, batch=batch), plain)  # the model itself stays as it was


@pytest.mark.parametrize("settings", [{"compute": 0.65}, {"compute": None, "threshold": 10.0}], ids=["plan", "gate"])
def test_prompts_in_one_forward_and_apart_are_forecast_alike(comfy, case, model, settings):
    guidance = load_pack("samplers.guided_run").Guidance()
    guided = load_pack("host.sample.guiders").GuidancePatch
    both, apart = (
        run(comfy, case, guided(guidance, pairing).on(cached(model, **settings))) for pairing in ("paired", "apart")
    )
    assert support.relative(both, apart) < 1e-4


def test_alternate_beside_it_forecasts_no_prompt_twice_in_a_row(comfy, case, model):
    told, guidance = [], load_pack("samplers.guided_run").Guidance(alternate=True)
    both = load_pack("host.sample.guiders").GuidancePatch(guidance).on(cached(model, told, compute=0.65))
    plain = run(comfy, case, model)
    assert support.relative(run(comfy, case, both), plain) < 0.5
    (record,) = told
    assert len(record.computed) + len(record.forecast) == STEPS and record.conditionings == 2
    asked = {step for step in range(STEPS) if step < 2 or step % 2 == 0}  # of the negative prompt
    assert {step for step, _ in record.errors} & asked


def prompts(case):
    generator = torch.Generator().manual_seed(5)
    return [[[torch.randn(1, n, case[0].context_dim, generator=generator), {}]] for n in (11, 7)]


def nag(model, case, percent=(0.2, 0.6)):
    module = load_pack("host.run.nag")
    negative = [[torch.randn(1, 5, case[0].context_dim, generator=torch.Generator().manual_seed(8)), {}]]
    options = {"scale": 4.0, "tau": 2.5, "alpha": 0.5, "percent": percent, "blocks": None}
    return module.AttentionGuided(module.negative_text(negative), **options).on(model)


def references(model, case):
    return model


def areas(model, case):
    return model


BESIDE = {"NAG": nag, "references": references, "areas": areas}


@pytest.mark.parametrize("beside", BESIDE)
def test_what_stands_beside_it_acts_in_a_run(comfy, case, model, beside):
    """With everything computed the run is that without the cache; with forecasts it stays near."""
    more = {}
    if beside == "references":
        from comfy_extras.nodes_edit_model import ReferenceLatent

        generator = torch.Generator().manual_seed(5)
        latent = {"samples": torch.randn(1, 16, 8, 12, generator=generator)}
        texts = ([[torch.randn(1, n, case[0].context_dim, generator=generator), {}]] for n in (11, 7))
        more["positive"], more["negative"] = (ReferenceLatent.execute(text, latent).args[0] for text in texts)
    if beside == "areas":  # which the host gives to the negative prompt too
        generator = torch.Generator().manual_seed(5)
        texts = [torch.randn(1, n, case[0].context_dim, generator=generator) for n in (11, 9, 7)]
        area = {"area": (8, 8, 0, 4), "strength": 1.0}
        more = {"positive": [[texts[0], {}], [texts[1], area]], "negative": [[texts[2], {}]]}
    other, told = BESIDE[beside](model, case), []
    plain = run(comfy, case, other, **more)
    assert torch.equal(run(comfy, case, cached(other, compute=1.0), **more), plain)
    found = run(comfy, case, cached(other, told, compute=0.65), **more)
    forecasts = 5 if beside == "NAG" else 7  # which ends within the run
    assert 1e-6 < support.relative(found, plain) < 0.5 and len(told[0].forecast) == forecasts
    assert support.relative(plain, run(comfy, case, model)) > 1e-3  # which is no plain run


def control_until(model, case, percent):
    import nodes

    picture = torch.rand(1, 128, 160, 3, generator=torch.Generator().manual_seed(1))
    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    texts = apply(*prompts(case), controlnets.load("xlabs"), picture, 0.8, 0.0, percent)
    return model, dict(zip(("positive", "negative"), texts))


def nag_until(model, case, percent):
    return nag(model, case, (0.0, percent)), {}


def blocks_skipped_until(model, case, percent):
    module = load_pack("host.run.skip_blocks")
    return module.SkippedBlocks(frozenset({("single", 1)}), (0.0, percent)).on(model), {}


def lora_from(model, case, percent):
    module = load_pack("host.run.late_lora")
    down, up = torch.randn(2, 4, case[0].hidden_size, generator=torch.Generator().manual_seed(6))
    sides = module.Sides({"double_blocks.1.img_attn.proj": [module.Side(down, 0.1 * up.T)]})
    return module.LateLora(sides, round(percent * STEPS)).on(model), {}


def scheduled_lora_until(model, case, percent):
    """Of the host's hooks."""
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(lora_on(case[1], "double_blocks.1.img_attn.proj"), 1.0, 0.0)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((1.0, 0.0), (0.0, percent)):
        keyframes.add(comfy.hooks.HookKeyframe(strength, start))
    hooks.set_keyframes_on_hooks(keyframes)
    texts = (comfy.hooks.set_hooks_for_conditioning(text, hooks) for text in prompts(case))
    return model, dict(zip(("positive", "negative"), texts))


# Whether the change is at or before step i. The host compares to the last bit; a ControlNet acts at its end, a keyframe at its start.
BEGINS = {
    control_until: lambda i, sigma, ends, _: sigma < ends,
    scheduled_lora_until: lambda i, sigma, ends, _: sigma <= ends,
    nag_until: lambda i, sigma, ends, _: sigma < ends * (1 - 1e-6),
    blocks_skipped_until: lambda i, sigma, ends, _: sigma < ends * (1 - 1e-6),
    lora_from: lambda i, sigma, ends, percent: i == round(percent * STEPS),
}


@pytest.mark.parametrize("settings", [{"compute": 0.65}, {"compute": None, "threshold": 10.0}], ids=["plan", "gate"])
@pytest.mark.parametrize("other", BEGINS)
def test_nothing_is_forecast_across_a_change_of_what_acts(comfy, case, model, other, settings):
    """Two steps are computed from there on; a forecast along the line would take the ControlNet's part further, for one."""
    for percent in (0.4, 0.47, 0.5):  # even steps and odd ones
        told, (patched, more) = [], other(model, case, percent)
        run(comfy, case, cached(patched, told, **settings), **more)
        sampling = model.get_model_object("model_sampling")
        levels = comfy.samplers.calculate_sigmas(sampling, "simple", STEPS)
        ends = sampling.percent_to_sigma(percent)
        first = next(i for i, sigma in enumerate(levels) if BEGINS[other](i, sigma, ends, percent))
        assert {first, first + 1} <= told[0].computed and 4 <= len(told[0].forecast) < 7


def test_a_model_of_the_hosts_loader_is_taken(comfy, inference, case):
    told, native = [], native_patcher(comfy, *case[:2])
    run(comfy, case, cached(native, told, compute=0.65))
    assert len(told[0].forecast) == 7


def test_the_gate_sees_the_change_in_the_hosts_network_which_writes_into_its_input(comfy, inference, case):
    native, counts = native_patcher(comfy, *case[:2]), []
    for threshold in (1e-9, 0.5, 10.0):
        told = []
        run(comfy, case, cached(native, told, compute=None, threshold=threshold))
        counts.append(len(told[0].forecast))
    assert counts[0] == 0 < counts[1] < counts[2] == 7


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde", "heun", "dpmpp_2s_ancestral", "chroma_res_2s"])
def test_other_samplers_pass_through_unharmed(comfy, case, model, sampler):
    load_pack("host.sample.samplers").register()
    told, plain = [], run(comfy, case, model, sampler=sampler)
    assert torch.equal(run(comfy, case, cached(model, told, compute=0.65), sampler=sampler), plain)
    assert len(told[0].notes) == 1 and not told[0].forecast


@pytest.mark.parametrize("sampler", ["res_multistep", "dpmpp_2m", "chroma_sigma_2m", "uni_pc", "ipndm"])
def test_multistep_samplers_are_forecast(comfy, case, model, sampler):
    load_pack("host.sample.samplers").register()
    told = []
    assert run(comfy, case, cached(model, told, compute=0.65), sampler=sampler).isfinite().all()
    assert len(told[0].forecast) == 7 and not told[0].notes


def test_a_stopped_run_is_told_and_leaves_nothing(comfy, case, model):
    module, told = load_pack("host.run.step_cache"), []
    other = cached(model, told, compute=0.65)
    stop = comfy.model_management.InterruptProcessingException

    def callback(step, *_):
        if step == 12:
            raise stop

    with pytest.raises(stop):
        run(comfy, case, other, callback=callback)
    assert len(told) == 1 and told[0].computed
    assert module.CACHE not in other.model_options.get("transformer_options", {})
    again = run(comfy, case, other)
    assert torch.equal(run(comfy, case, other), again) and len(told[-1].forecast) == 7


def test_the_last_cache_counts_and_other_replacements_stay(comfy, case, model):
    seen, told, first = [], [], []
    patched = model.clone()

    def replacement(args, extra):
        seen.append(1)
        return extra["original_block"](args)

    patched.set_model_patch_replace(replacement, "dit", "single_block", 1)
    twice = cached(cached(patched, first, compute=0.65), told, compute=1.0)
    run(comfy, case, twice)
    assert first == [] and told[0].forecast == set() and len(seen) >= STEPS


def skipped(model, *blocks, percent=(0.0, 1.0)):
    return load_pack("host.run.skip_blocks").SkippedBlocks(frozenset(blocks), percent).on(model)


ORDERS = {
    "before it": lambda model, make, blocks: make(skipped(model, *blocks)),
    "after it": lambda model, make, blocks: skipped(make(model), *blocks),
}
FIRST = ("double", 0), ("double", 1), ("single", 0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("num", [1, 2, 3])
def test_the_gate_looks_at_the_first_block_that_is_there(comfy, case, model, order, num):
    """Left out, a block adds nothing, and its change would be 0 in every step."""
    for threshold, expected in ((1e-9, 0), (10.0, 7)):
        told = []
        make = functools.partial(cached, told=told, compute=None, threshold=threshold)
        run(comfy, case, ORDERS[order](model, make, FIRST[:num]))
        assert len(told[0].forecast) == expected


def test_the_gate_looks_at_the_first_block_of_a_pruned_file(comfy, inference, case, tmp_path):
    cfg, weights, _ = case
    kept = {name: t for name, t in weights.items() if not name.startswith("double_blocks.0.")}
    kept["double_blocks.0.left_out"] = torch.empty(0)
    model = load_pack("host.model.load").load_chroma(
        str(support.write(tmp_path / "pruned.safetensors", support.published(kept)))
    )
    told = []
    run(comfy, case, cached(model, told, compute=None, threshold=1e-9))
    assert told[0].forecast == set() and len(told[0].computed) == STEPS


@pytest.mark.parametrize("order", ORDERS)
def test_with_first_blocks_left_out_everything_computed_is_the_plain_run(comfy, case, model, order):
    plain = run(comfy, case, skipped(model, *FIRST))
    assert torch.equal(run(comfy, case, ORDERS[order](model, functools.partial(cached, compute=1.0), FIRST)), plain)


def test_the_last_cache_counts_around_skipped_blocks_too(comfy, case, model):
    first, told = [], []
    inner = cached(model, first, compute=1.0)
    twice = cached(skipped(inner, ("double", 0), ("single", 1)), told, compute=0.65)
    found = run(comfy, case, twice)
    assert first == [] and len(told[0].forecast) == 7 and told[0].notes == []
    once = cached(skipped(model, ("double", 0), ("single", 1)), compute=0.65)
    assert torch.equal(found, run(comfy, case, once))
    run(comfy, case, inner)
    assert len(first) == 1 and first[0].forecast == set()  # which itself is as it was
