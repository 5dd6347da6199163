"""Guidance over any predictions and settings: with its savings off it is plain CFG, and no saving goes past its bounds."""

import math

import pytest
import support
import torch

pytest.importorskip("hypothesis")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

guidance, guided_run = (support.dev.load_pack(f"samplers.{n}") for n in ("guidance", "guided_run"))
Guidance, GuidedRun = guided_run.Guidance, guided_run.GuidedRun
scales = st.floats(0, 30)


@st.composite
def falling(draw):
    """Sigmas from at most 1 to 0."""
    steps = draw(st.lists(st.floats(1e-3, 1), min_size=1, max_size=30, unique_by=lambda s: round(s, 4)))
    return [*sorted(steps, reverse=True), 0.0]


@st.composite
def pairs(draw):
    """cond, uncond and x of a few pictures, of any size of their numbers."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (draw(st.integers(1, 3)), 4, draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    size = 10.0 ** draw(st.integers(-2, 2))
    return [size * torch.randn(shape, generator=generator) for _ in range(3)]


@st.composite
def without_savings(draw, start):
    """Settings that name a saving or a curve and ask for nothing of it."""
    return draw(
        st.sampled_from(
            [
                {},
                {"percent": (0.0, 1.0)},
                {"sigmas": (math.inf, 0.0)},
                {"stop_above": 1.0},  # no cosine is above it but by rounding
                {"curve": "linear", "end": start},
                {"curve": "cosine", "end": start},
                {"curve": "list", "values": (start,) * 3},
                {"form": "APG", "eta": 1.0},
                {"form": "plain", "rescale": 0.0, "normalise": False},
            ]
        )
    )


@given(pairs(), falling(), st.data())
def test_with_its_savings_off_it_is_plain_cfg(pair, sigmas, data):
    cond, uncond, x = pair
    start = data.draw(scales)
    settings = Guidance(**data.draw(without_savings(start)))
    run = GuidedRun(settings, sigmas, start, settings.sigmas or (settings.percent and (math.inf, 0.0)))
    wanted = guidance.cfg(cond, uncond, start)
    for i, sigma in enumerate(sigmas[:-1]):
        now = run.begin(sigma)
        assert (now.step, now.zero, now.uncond) == (i, False, guided_run.COMPUTE)
        assert now.scale == pytest.approx(start, abs=1e-9)
        run.learn(now, cond, uncond, x, sigma)
        size = wanted.abs().max().item() + x.abs().max().item() / sigma
        torch.testing.assert_close(run.combine(cond, uncond, now.scale, x, sigma), wanted, rtol=0, atol=1e-5 * size)


@given(pairs(), st.sampled_from(["cfg", "cfg_zero_star", "apg"]))
def test_scale_1_gives_cond(pair, form):
    cond, uncond, _ = pair
    found = getattr(guidance, form)(cond, uncond, 1.0)
    torch.testing.assert_close(
        found[0] if form == "apg" else found, cond, rtol=1e-4, atol=1e-5 * float(cond.abs().max())
    )


@given(pairs(), scales, st.floats(0, 1), st.floats(0, 20))
def test_pictures_at_once_are_guided_as_each_alone(pair, scale, amount, limit):
    cond, uncond, _ = pair
    forms = {
        "cfg": lambda c, u: guidance.cfg(c, u, scale),
        "cfg_zero_star": lambda c, u: guidance.cfg_zero_star(c, u, scale),
        "apg": lambda c, u: guidance.apg(c, u, scale, eta=amount, norm_threshold=limit)[0],
        "rescale": lambda c, u: guidance.rescale(guidance.cfg(c, u, scale), c, amount),
        "normalise": lambda c, u: guidance.normalise(guidance.cfg(c, u, scale), c),
    }
    for name, form in forms.items():
        together = form(cond, uncond)
        apart = torch.cat([form(c[None], u[None]) for c, u in zip(cond, uncond)])
        size = float(together.abs().max())
        torch.testing.assert_close(together, apart, rtol=0, atol=1e-5 * size, msg=name)  # another order of sums


@given(pairs(), scales, st.integers(-3, 3))
def test_a_prediction_twice_as_large_is_guided_to_twice_as_much(pair, scale, power):
    """No form has a size of its own: powers of two change no rounding, so this is exact but for EPS."""
    cond, uncond, _ = (tensor.clamp_min(1e-2) for tensor in pair)
    for form in (guidance.cfg, guidance.cfg_zero_star, lambda *a: guidance.apg(*a)[0]):
        torch.testing.assert_close(
            form(cond * 2.0**power, uncond * 2.0**power, scale),
            form(cond, uncond, scale) * 2.0**power,
            rtol=1e-3,
            atol=1e-4,
        )


@given(
    falling(),
    scales,
    st.builds(
        Guidance,
        curve=st.sampled_from(["constant", "linear", "cosine", "list"]),
        end=scales,
        values=st.lists(scales, min_size=1, max_size=5).map(tuple),
        skip_first_steps=st.integers(-1, 40),
        zero_init_steps=st.integers(0, 40),
        alternate=st.booleans(),
        sigmas=st.none()
        | st.lists(st.floats(0, 1), min_size=2, max_size=2).map(lambda s: tuple(sorted(s, reverse=True))),
    ),
)
def test_every_step_is_evaluated_in_its_order_at_a_scale_within_the_curve(sigmas, start, settings):
    run = GuidedRun(settings, sigmas, start, settings.sigmas)
    x = torch.ones(1, 2, 2, 2)
    ends = {"constant": [start], "list": settings.values}.get(settings.curve, (start, settings.end))
    computed = []
    for i, sigma in enumerate(sigmas[:-1]):
        now = run.begin(sigma)
        assert now.step == i and min(ends) - 1e-9 <= now.scale <= max(ends) + 1e-9
        assert now.zero == (i < settings.zero_init_steps)
        if settings.skip_first_steps == -1 or i < settings.skip_first_steps:
            assert now.alone
        if now.uncond == guided_run.COMPUTE and not now.zero:
            run.learn(now, x + i, x - i, x, sigma)
            computed.append(i)
        if now.uncond == guided_run.EXTRAPOLATE:
            assert computed[-1:] == [i - 1]  # never two in a row
            assert bool(run.expected(x, sigma).isfinite().all())
    run.end()
    assert run.record.evaluations == len(sigmas) - 1 and not run.known
