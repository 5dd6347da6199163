"""Samplers and the cache of steps over any schedule: n pictures at once are n alone, and with nothing left out a run is plain."""

import dataclasses
import math

import pytest
import support
import torch

pytest.importorskip("hypothesis")
from hypothesis import example, given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

res, step_cache = (support.dev.load_pack(f"samplers.{n}") for n in ("res", "step_cache"))
SAMPLERS = (res.res_2m, res.res_2s)


@st.composite
def falling(draw):
    """Sigmas from at most 1 to 0, none within a thousandth of another."""
    steps = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=20, unique=True))
    return torch.tensor([*sorted(steps, reverse=True), 0], dtype=torch.float64) / 1000


@st.composite
def options(draw):
    eta = draw(st.sampled_from([0.0, 0.3, 1.0]))
    return res.Options(eta=eta, c2=draw(st.floats(0.05, 1)), over_sigma=draw(st.integers(0, 2)))


def curved(x, sigma, **_):
    """A model whose prediction turns with noise level and picture, each picture by itself."""
    level = sigma.reshape(-1, *(1 for _ in x.shape[1:]))
    return torch.sin(3 * x + 2 * level) + level * x.mean(dim=tuple(range(1, x.ndim)), keepdim=True)


def pictures(batch, seed):
    return torch.randn(batch, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(sigmas=falling(), chosen=options(), batch=st.integers(1, 4), seed=st.integers(0, 99))
def test_pictures_at_once_are_the_pictures_alone(sampler, sigmas, chosen, batch, seed):
    x = pictures(batch, seed)
    fresh = {}

    def noise(row):
        return lambda sigma, to: fresh.setdefault((float(sigma), float(to)), pictures(4, int(1e6 * sigma)))[row]

    def run(rows):
        given_ = dataclasses.replace(chosen, noise_sampler=noise(rows))
        return sampler(curved, x[rows], sigmas, options=given_)

    if chosen.eta and sigmas[0] >= 1:
        sigmas = sigmas * 0.999
    together = run(slice(0, batch))
    assert bool(together.isfinite().all())
    for row in range(batch):
        torch.testing.assert_close(run(slice(row, row + 1))[0], together[row], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS)
@given(sigmas=falling(), over_sigma=st.integers(0, 2), seed=st.integers(0, 99))
def test_a_prediction_that_never_changes_is_reached_from_anywhere(sampler, sigmas, over_sigma, seed):
    target, seen = pictures(2, seed + 1), []

    def still(x, sigma):
        seen.append(float(sigma[0]))
        return target

    out = sampler(still, pictures(2, seed), sigmas, options=res.Options(over_sigma=over_sigma))
    assert torch.equal(out, target)
    assert seen[0] == sigmas[0] and min(seen) >= sigmas[-2] * (1 - 1e-9)
    # Short of 0 the path is the straight line from the noise to the prediction.
    x = pictures(2, seed)
    part = sampler(still, x, sigmas[:-1], options=res.Options(over_sigma=over_sigma))
    torch.testing.assert_close(part, target + (x - target) * (sigmas[-2] / sigmas[0]), rtol=1e-9, atol=1e-9)


@given(sigmas=falling(), eta=st.floats(0, 3), flow=st.booleans())
def test_fresh_noise_keeps_the_level_that_the_schedule_asks_for(sigmas, eta, flow):
    for step in res.plan(sigmas * 0.999, eta, flow):
        assert 0 <= step.down <= step.to <= step.sigma and step.noise >= 0
        assert math.hypot(step.keep * step.down, step.noise) == pytest.approx(step.to, abs=1e-9)
        if flow:
            assert step.keep * (1 - step.down) == pytest.approx(1 - step.to, abs=1e-9)


# --- the cache of steps ----------------------------------------------------------------------------------------------


def cached(run, sigmas, prompts):
    """(what each call gives, what it would give uncached) of a run over a network of two blocks, all prompts in each call."""
    found, plain = [], []
    keys = list(range(prompts))
    for sigma in sigmas[:-1].tolist():
        before = torch.stack([torch.full((8, 2), 1.0 + key) for key in keys])
        after = before + math.sin(5 * sigma)
        rest = after * math.cos(3 * sigma)
        step, is_forecast = run.decide(sigma, keys, run.sampled(before), after)
        if not is_forecast:
            run.learn(step, sigma, keys, rest)
        found.append(after + (run.forecast(sigma, keys) if is_forecast else rest))
        plain.append(after + rest)
    return found, plain


@given(falling(), st.integers(1, 3), st.sampled_from([(1.0, 0.1), (None, 0.0)]))
def test_with_nothing_to_save_every_step_is_the_plain_one(sigmas, prompts, settings_of):
    compute, threshold = settings_of
    run = step_cache.CachedRun(step_cache.CacheSettings(compute, threshold), sigmas.tolist())
    found, plain = cached(run, sigmas, prompts)
    assert support.equal(found, plain)
    assert not run.record.forecast and run.record.computed == set(range(len(sigmas) - 1))


@given(falling(), st.integers(1, 3), st.none() | st.floats(0, 1), st.floats(0, 10))
@example(torch.linspace(1, 0, 21, dtype=torch.float64), 2, 0.5, 0.0)
def test_steps_are_forecast_within_the_bounds_alone(sigmas, prompts, compute, threshold):
    steps = len(sigmas) - 1
    settings = step_cache.CacheSettings(compute, threshold)
    run = step_cache.CachedRun(settings, sigmas.tolist())
    found, plain = cached(run, sigmas, prompts)
    forecast = run.record.forecast
    assert forecast | run.record.computed == set(range(steps)) and not forecast & run.record.computed
    assert all(step_cache.num_first(steps) <= i < steps - step_cache.LAST and i - 1 not in forecast for i in forecast)
    assert len(run.record.computed) >= step_cache.least(steps)
    if compute is not None:
        assert len(run.record.computed) == settings.steps_to_compute(steps)
    assert all(torch.equal(a, b) for i, (a, b) in enumerate(zip(found, plain)) if i not in forecast)
    assert all(bool(rows.isfinite().all()) for rows in found)
