"""Our samplers in the host: in its lists, through its KSampler on a tiny model, and against its own samplers."""

import logging
import math
from types import SimpleNamespace

import pytest
import support
import torch
from host_models import sample

pytestmark = pytest.mark.host

NAMES = [
    *("chroma_res_2m", "chroma_res_2s", "chroma_res_2m_sde", "chroma_res_2s_sde"),
    *("chroma_sigma_2m", "chroma_sigma_3m", "chroma_sigma_2m_sde"),
]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    cfg = support.config()
    weights = support.random_weights(cfg)
    return cfg, support.write(tmp_path_factory.mktemp("m") / "tiny.safetensors", support.published(weights))


@pytest.fixture
def model(comfy, inference, case):
    return support.dev.load_pack("host.model.load").load_chroma(str(case[1]), "auto")


@pytest.fixture
def ours(comfy):
    """The module; the host's lists and functions are put back after."""
    module = support.dev.load_pack("host.sample.samplers")
    host, lists = comfy.k_diffusion.sampling, (comfy.samplers.KSAMPLER_NAMES, comfy.samplers.SAMPLER_NAMES)
    before = [list(names) for names in lists]
    held = {name: getattr(host, f"sample_{name}", None) for name in NAMES}
    yield module
    for names, old in zip(lists, before):
        names[:] = old
    for name, function in held.items():
        if function is not None:
            setattr(host, f"sample_{name}", function)
        elif hasattr(host, f"sample_{name}"):
            delattr(host, f"sample_{name}")


@pytest.fixture
def listed(ours):
    assert ours.register() == NAMES
    return ours


def test_traits_of_every_sampler_are_those_of_its_run(comfy, model, case, listed):
    """Of the host's samplers and ours: calls of a trivial model, and whether a run's seed changes what comes after its noise."""
    traits, steps, calls = support.dev.load_pack("samplers.traits"), 8, []
    trivial = model.clone()

    def denoise(apply, a):
        calls.append(0 in a["cond_or_uncond"])
        return 0.5 * a["input"]

    trivial.set_model_unet_function_wrapper(denoise)
    noise = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(3))
    wrong = {}
    for name in comfy.samplers.SAMPLER_NAMES:
        calls.clear()
        more = {"steps": steps, "scale": 1.0, "sampler": name, "noise": noise, "latent": torch.zeros_like(noise)}
        one, other = (sample(comfy, trivial, case[0], seed=seed, **more) for seed in (1, 2))
        found = not torch.equal(one, other), sum(calls) / 2 > 1.5 * steps
        told = traits.adds_noise(name), traits.is_two_stage(name)
        if found[0] != told[0] or (found[1] != told[1] and name not in traits.OFF_SCHEDULE):
            wrong[name] = found, told, sum(calls) / 2
    assert wrong == {}


def wrapped(comfy, model, wrapper, kind):
    clone = model.clone()
    clone.add_wrapper_with_key(kind, "test", wrapper)
    return clone


# --- the host's lists ------------------------------------------------------------------------------------------------


def test_names_are_in_the_hosts_lists_once(comfy, ours):
    import asyncio

    import nodes

    foreign = [n for n in comfy.samplers.SAMPLER_NAMES if n not in NAMES]
    assert ours.register() == NAMES
    assert ours.register() == NAMES
    for names in (comfy.samplers.KSAMPLER_NAMES, comfy.samplers.SAMPLER_NAMES, comfy.samplers.KSampler.SAMPLERS):
        assert [names.count(name) for name in NAMES] == [1] * len(NAMES)
    assert [n for n in comfy.samplers.SAMPLER_NAMES if n not in NAMES] == foreign  # nothing lost, nothing reordered
    assert set(NAMES) <= set(nodes.KSampler.INPUT_TYPES()["required"]["sampler_name"][0])
    assert set(NAMES) <= set(nodes.KSamplerAdvanced.INPUT_TYPES()["required"]["sampler_name"][0])
    from comfy_extras.nodes_custom_sampler import KSamplerSelect, comfy_entrypoint

    assert KSamplerSelect in asyncio.run(asyncio.run(comfy_entrypoint()).get_node_list())
    assert set(NAMES) <= set(KSamplerSelect.INPUT_TYPES()["required"]["sampler_name"][1]["options"])
    chosen = KSamplerSelect.execute("chroma_res_2s_sde").args[0]
    assert chosen.sampler_function is ours.FUNCTIONS["chroma_res_2s_sde"]


def test_names_clash_with_none_of_the_hosts(comfy, ours):
    assert all(name.startswith("chroma_") for name in ours.SAMPLERS)
    assert list(ours.SAMPLERS) == NAMES


def test_name_that_another_has_taken_is_left_alone(comfy, ours, caplog):
    def other():
        raise AssertionError

    comfy.k_diffusion.sampling.sample_chroma_res_2m = other
    with caplog.at_level(logging.WARNING):
        assert ours.register() == NAMES[1:]
    assert comfy.k_diffusion.sampling.sample_chroma_res_2m is other
    assert "another extension has a sampler named chroma_res_2m" in caplog.text


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["simple", "beta"])
@pytest.mark.parametrize("name", NAMES)
def test_runs_in_the_core_sampler_with_the_counted_evaluations(comfy, listed, model, case, name, scheduler):
    from comfy.patcher_extension import WrappersMP

    levels = []

    def count(executor, x, timestep, *args, **kwargs):
        levels.append((timestep[0].item(), timestep.dtype))
        return executor(x, timestep, *args, **kwargs)

    patched = wrapped(comfy, model, count, WrappersMP.PREDICT_NOISE)
    out = sample(comfy, patched, case[0], steps=5, sampler=name, scheduler=scheduler, batch=2)
    assert out.shape == (2, 16, 16, 20) and out.isfinite().all()
    assert support.relative(out[1:], out[:1]) > 0.1
    assert len(levels) == (9 if "2s" in name else 5)  # two a step but one in the last, or one a step
    assert {dtype for _, dtype in levels} == {torch.float32}
    assert levels[0][0] == pytest.approx(1.0, abs=1e-3)
    assert sorted(levels, reverse=True) == levels
    again = sample(comfy, model, case[0], steps=5, sampler=name, scheduler=scheduler, batch=2)
    assert torch.equal(again, out)


def test_unknown_name_would_have_run_euler(comfy, listed, model, case):
    """The host falls back to its first sampler in silence; ours must not be taken for it."""
    euler = sample(comfy, model, case[0], sampler="euler", steps=8)
    runs = {name: sample(comfy, model, case[0], sampler=name, steps=8) for name in NAMES}
    same = [name for name in NAMES if support.relative(runs[name], euler) < 1e-4]
    assert same == []
    for name in NAMES:
        if name.endswith("_sde"):
            assert support.relative(runs[name], runs[name.removesuffix("_sde")]) > 1e-2
    for one, other in (("chroma_sigma_2m", "chroma_res_2m"), ("chroma_sigma_3m", "chroma_sigma_2m")):
        assert support.relative(runs[one], runs[other]) > 1e-4


def test_seed_changes_the_fresh_noise(comfy, listed, model, case):
    """host_models.sample draws the first noise from the seed too, so that is held here."""
    import comfy.sample

    noise = torch.randn(1, 16, 16, 20)
    text = [[torch.randn(1, 7, 64), {}]]

    def run(name, seed):
        args = (noise, 3, 1.0, name, "simple", text, text, torch.zeros(1, 16, 16, 20))
        return comfy.sample.sample(model, *args, disable_pbar=True, seed=seed)

    for name in NAMES:
        assert torch.equal(run(name, 1), run(name, 1))
        assert torch.equal(run(name, 1), run(name, 2)) == (not name.endswith("sde"))


@pytest.mark.parametrize("name", NAMES)
def test_inpaint_mask_keeps_what_is_outside(comfy, listed, model, case, name):
    latent = torch.randn(1, 16, 16, 20)
    mask = torch.zeros(1, 1, 16, 20)
    mask[..., 10:] = 1
    out = sample(comfy, model, case[0], latent=latent, noise_mask=mask, sampler=name)
    assert support.relative(out[..., :8], latent[..., :8]) < 1e-5
    assert support.relative(out[..., 12:], latent[..., 12:]) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_image_to_image_starts_from_the_latent(comfy, listed, model, case, name):
    latent = torch.full((1, 16, 16, 20), 2.0)
    low = sample(comfy, model, case[0], latent=latent, denoise=0.2, sampler=name)
    high = sample(comfy, model, case[0], latent=latent, denoise=0.9, sampler=name)
    assert support.relative(low, latent) < support.relative(high, latent)


@pytest.mark.parametrize("name", NAMES)
def test_run_in_two_parts_goes_on_where_the_first_stopped(comfy, listed, model, case, name):
    """KSampler (Advanced) with leftover noise. 2s, which keeps nothing between steps, gives the same as one run."""
    import comfy.sample

    text = [[torch.randn(1, 7, 64), {}]]
    noise = torch.randn(1, 16, 16, 20)
    settings = {"disable_pbar": True, "seed": 3}

    def run(noise, latent, **more):
        return comfy.sample.sample(model, noise, 6, 1.0, name, "simple", text, text, latent, **settings, **more)

    whole = run(noise, torch.zeros_like(noise))
    part = run(noise, torch.zeros_like(noise), last_step=3)
    both = run(torch.zeros_like(noise), part, start_step=3, disable_noise=True)
    assert part.isfinite().all() and both.isfinite().all()
    if name == "chroma_res_2s":
        assert support.relative(both, whole) < 1e-5
    assert support.relative(both, whole) < 1.0


def test_interrupt_of_the_host_passes_through(comfy, listed, model, case):
    stop = comfy.model_management.InterruptProcessingException

    def callback(step, *_):
        if step == 1:
            raise stop

    for name in NAMES:
        with pytest.raises(stop):
            sample(comfy, model, case[0], sampler=name, callback=callback)


def test_callback_gets_step_total_and_latents(comfy, listed, model, case):
    for name in NAMES:
        seen = []
        sample(comfy, model, case[0], sampler=name, steps=3, callback=lambda *a: seen.append(a))
        assert [(step, total) for step, _, _, total in seen] == [(0, 3), (1, 3), (2, 3)]
        assert all(x0.shape == x.shape == (1, 16, 16, 20) for _, x0, x, _ in seen)


def test_bar_counts_steps_and_can_be_hidden(comfy, ours, capsys):
    for disable in (False, True):
        ours.FUNCTIONS["chroma_res_2s"](toy(comfy), torch.ones(1, 1), torch.tensor([1.0, 0.5, 0.0]), disable=disable)
        assert ("2/2" in capsys.readouterr().err) == (not disable)


# --- SAMPLER for nodes -----------------------------------------------------------------------------------------------


def test_sampler_object_carries_its_options(comfy, ours, model):
    import comfy.sample

    noise = torch.randn(1, 16, 16, 20)
    text = [[torch.randn(1, 7, 64), {}]]
    sigmas = torch.tensor([1.0, 0.7, 0.3, 0.0])

    def run(name, **options):
        chosen = ours.sampler(name, **options)
        return comfy.sample.sample_custom(
            model, noise, 1.0, chosen, sigmas, text, text, torch.zeros_like(noise), disable_pbar=True, seed=3
        )

    assert torch.equal(run("chroma_res_2s_sde", eta=0.0), run("chroma_res_2s"))
    assert torch.equal(run("chroma_res_2m_sde", eta=0.0), run("chroma_res_2m"))
    assert torch.equal(run("chroma_res_2s", eta=1.0), run("chroma_res_2s_sde"))
    assert torch.equal(run("chroma_res_2s", c2=0.5), run("chroma_res_2s"))
    assert support.relative(run("chroma_res_2s", c2=1.0), run("chroma_res_2s")) > 1e-5
    assert support.relative(run("chroma_res_2m_sde", s_noise=0.5), run("chroma_res_2m_sde")) > 1e-2


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("chroma_res_3m", {}, "chroma_res_3m: not known; choose one of chroma_res_2m"),
        ("euler", {}, "euler: not known"),
        ("chroma_res_2m", {"c2": 0.5}, "unknown option c2; it has eta, s_noise"),
    ],
)
def test_unknown_name_or_option_is_refused(ours, name, options, message):
    with pytest.raises(ValueError, match=message):
        ours.sampler(name, **options)


# --- against the host's own, on an ODE with a known solution ---------------------------------------------------------

MEAN, SPREAD = 0.7, 0.5
START = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]


def toy(comfy, flow=True, noise_scale=None):
    """Denoiser of data N(MEAN, SPREAD^2), wrapped as the host's samplers expect a model."""
    import comfy.model_sampling

    sampling = comfy.model_sampling.CONST() if flow else comfy.model_sampling.EPS()
    if noise_scale is not None:
        sampling.noise_scale = noise_scale

    def denoise(x, sigma, **_):
        sigma = sigma[:, None]
        alpha = 1 - sigma if flow else 1
        return MEAN + alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * (x - alpha * MEAN)

    denoise.inner_model = SimpleNamespace(
        inner_model=SimpleNamespace(model_sampling=sampling),
        model_patcher=SimpleNamespace(get_model_object=lambda name: sampling),
    )
    return denoise


def solution(end):
    spread = math.sqrt((1 - end) ** 2 * SPREAD**2 + end**2)
    return (1 - end) * MEAN + spread * START


def geometric(n, end=0.02):
    return end ** torch.linspace(0, 1, n + 1, dtype=torch.float64)


def uneven(n):
    lengths = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(n // 2)
    return torch.cat([torch.ones(1), 0.02 ** (lengths.cumsum(0) / lengths.sum())])


def orders(run, schedule):
    gaps = [(run(schedule(n)) - solution(0.02)).norm().item() for n in (64, 128, 256)]
    return gaps, [math.log2(a / b) for a, b in zip(gaps, gaps[1:])]


@pytest.mark.parametrize("schedule", [geometric, uneven])
def test_order_is_two_where_the_hosts_euler_has_one(comfy, ours, schedule):
    host, model = comfy.k_diffusion.sampling, toy(comfy)
    euler, slopes = orders(lambda s: host.sample_euler(model, START, s, disable=True), schedule)
    assert all(abs(slope - 1) < 0.05 for slope in slopes)
    for name in NAMES[:2]:
        gaps, slopes = orders(lambda s: ours.FUNCTIONS[name](model, START, s, disable=True), schedule)
        assert all(abs(slope - 2) < 0.05 for slope in slopes), (name, slopes)
        assert gaps[-1] < euler[-1] / 50


@pytest.mark.parametrize("schedule", [geometric, uneven, lambda n: torch.linspace(1, 0, n + 1, dtype=torch.float64)])
def test_res_2m_equals_the_hosts_res_multistep(comfy, ours, schedule):
    host, model = comfy.k_diffusion.sampling, toy(comfy)
    for n in (2, 6, 30):
        mine = ours.FUNCTIONS["chroma_res_2m"](model, START, schedule(n), disable=True)
        theirs = host.sample_res_multistep(model, START, schedule(n), disable=True)
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)  # one formula, float64


def test_run_of_res_2m_equals_the_hosts_res_multistep(comfy, listed, model, case):
    mine = sample(comfy, model, case[0], sampler="chroma_res_2m", scheduler="beta", steps=6)
    theirs = sample(comfy, model, case[0], sampler="res_multistep", scheduler="beta", steps=6)
    assert support.relative(mine, theirs) < 1e-5  # float32; coefficients here are made in float64


def test_noisy_res_2m_equals_the_hosts_only_without_flow(comfy, ours):
    """Theirs noises up as x0 + sigma noise on every model, so on a flow model the spread of its result is wrong."""
    host = comfy.k_diffusion.sampling
    x = torch.randn(1, 20000, dtype=torch.float64)
    levels = torch.linspace(1, 0, 65, dtype=torch.float64)

    def runs(model, x, sigmas):
        name = "chroma_res_2m_sde"
        return [
            f(model, x, sigmas, {"seed": 4}, disable=True)
            for f in (ours.FUNCTIONS[name], host.sample_res_multistep_ancestral)
        ]

    mine, theirs = runs(toy(comfy, flow=False), 10 * x, 10 * levels)
    assert torch.allclose(mine, theirs, rtol=0, atol=1e-9)  # the same draws, float64
    mine, theirs = runs(toy(comfy), x, levels)
    assert mine.std().item() == pytest.approx(SPREAD, rel=4 * math.sqrt(0.5 / 20000) + 2e-2)  # 4 deviations, and bias
    assert abs(theirs.std().item() / SPREAD - 1) > 0.05


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("_sde")])
def test_family_and_scale_of_the_noise_are_read_from_the_model(comfy, ours, name):
    pure = support.dev.load_pack("samplers.res")
    function = pure.res_2s if "2s" in name else pure.res_2m
    sigmas = geometric(4)
    for flow in (True, False):
        for scale in (None, 2.0):
            model = toy(comfy, flow, scale)
            mine = ours.FUNCTIONS[name](model, START, sigmas, {"seed": 4}, disable=True)
            options = pure.Options(eta=1.0, s_noise=scale or 1.0, flow=flow, over_sigma=ours.OVER_SIGMA.get(name, 0))
            expected = function(model, START, sigmas, {"seed": 4}, options=options)
            assert torch.equal(mine, expected)


def test_draws_are_those_of_the_hosts_default(comfy):
    pure = support.dev.load_pack("samplers.res")
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.zeros(2, 3, 4, dtype=dtype)
        mine = pure.seeded_noise(x, 9)
        theirs = comfy.k_diffusion.sampling.default_noise_sampler(x, seed=9)
        assert all(torch.equal(mine(None, None), theirs(None, None)) for _ in range(3))
