"""Each form of guidance against its paper's formula, in float64 and by another route; and what a run computes when."""

import math

import numpy as np
import pytest
import support
import torch

guidance = support.dev.load_pack("samplers.guidance")
guided_run = support.dev.load_pack("samplers.guided_run")
Guidance, GuidedRun = guided_run.Guidance, guided_run.GuidedRun

SHAPE = (3, 4, 6, 5)
CLOSE = {"rtol": 0, "atol": 2e-5}  # float32 against float64, values of order 1 times a scale of 4
SCALE = 4.0


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    cond = torch.randn(SHAPE, generator=generator)
    return cond, 0.7 * cond + 0.5 * torch.randn(SHAPE, generator=generator)


def each(a):
    """Pictures as rows, float64."""
    return a.double().numpy().reshape(SHAPE[0], -1)


def same(result, rows):
    np.testing.assert_allclose(each(result), rows, **CLOSE)


def test_cfg_follows_ho_and_salimans(pair):
    c, u = map(each, pair)
    same(guidance.cfg(*pair, SCALE), (1 + (SCALE - 1)) * c - (SCALE - 1) * u)  # (1 + w) cond - w uncond


def test_cfg_zero_star_follows_its_paper(pair):
    """arXiv:2503.18886: s* = <v_c, v_u> / |v_u|^2; v = (1 - w) s* v_u + w v_c."""
    c, u = map(each, pair)
    s = np.array([[np.dot(a, b) / np.dot(b, b)] for a, b in zip(c, u)])
    same(guidance.cfg_zero_star(*pair, SCALE), (1 - SCALE) * s * u + SCALE * c)


@pytest.mark.parametrize(
    "eta, threshold, momentum", [(0, 0, 0), (0.3, 0, 0), (0, 2.5, 0), (0, 0, -0.5), (0.2, 3, -0.75)]
)
def test_apg_follows_its_paper_over_several_steps(pair, eta, threshold, momentum):
    """arXiv:2410.02416, algorithm 1: momentum, norm, projection on the conditional prediction."""
    average, wanted_average = None, np.zeros((SHAPE[0], math.prod(SHAPE[1:])))
    for i in range(3):
        cond, uncond = pair[0] + i, pair[1] * (1 + i)
        result, average = guidance.apg(cond, uncond, SCALE, average, eta, threshold, momentum)
        c, u = each(cond), each(uncond)
        wanted_average = c - u + momentum * wanted_average
        wanted = []
        for difference, row in zip(wanted_average, c):
            if threshold:
                difference = difference * min(1, threshold / np.linalg.norm(difference))
            unit = row / np.linalg.norm(row)
            parallel = np.dot(difference, unit) * unit
            wanted.append(row + (SCALE - 1) * ((difference - parallel) + eta * parallel))
        same(result, np.array(wanted))


def test_apg_with_everything_kept_is_cfg(pair):
    result, _ = guidance.apg(*pair, SCALE, eta=1.0)
    torch.testing.assert_close(result, guidance.cfg(*pair, SCALE), **CLOSE)


@pytest.mark.parametrize("amount", [0.0, 0.7, 1.0])
def test_rescale_follows_lin(pair, amount):
    """arXiv:2305.08891, equations 15 and 16."""
    guided = guidance.cfg(*pair, SCALE)
    g, c = each(guided), each(pair[0])
    rescaled = g * (c.std(axis=1, ddof=1) / g.std(axis=1, ddof=1))[:, None]
    same(guidance.rescale(guided, pair[0], amount), amount * rescaled + (1 - amount) * g)


def test_normalise_shortens_channels_to_those_of_cond(pair):
    guided = guidance.cfg(*pair, SCALE)
    result = guidance.normalise(guided, pair[0])
    for b, y, x in np.ndindex(SHAPE[0], *SHAPE[2:]):
        g, c = guided[b, :, y, x].double(), pair[0][b, :, y, x].double()
        wanted = g * min(1.0, float(c.norm() / g.norm()))
        torch.testing.assert_close(result[b, :, y, x].double(), wanted, **CLOSE)


def test_similarity_is_the_cosine_of_each_picture(pair):
    c, u = map(each, pair)
    wanted = [np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(c, u)]
    np.testing.assert_allclose(guidance.similarity(*pair), wanted, atol=1e-6)  # float32 sums of 120 terms


def test_extrapolation_is_exact_on_a_line(pair):
    known = [(sigma, pair[0] + sigma * pair[1]) for sigma in (0.9, 0.7)]
    for earlier in ([], [(1.0, pair[1])]):
        torch.testing.assert_close(guidance.extrapolate(earlier + known, 0.4), pair[0] + 0.4 * pair[1], **CLOSE)


@pytest.mark.parametrize("trust", [0.0, 0.25, 1.0])
def test_trust_is_the_share_of_the_slope_that_is_taken(pair, trust, monkeypatch):
    known = [(sigma, pair[0] + sigma * pair[1]) for sigma in (0.9, 0.7)]
    wanted = pair[0] + (0.7 - 0.3 * trust) * pair[1]
    torch.testing.assert_close(guidance.extrapolate(known, 0.4, trust), wanted, **CLOSE)
    monkeypatch.setattr(guided_run, "TRUST", trust)
    run = GuidedRun(Guidance(alternate=True), sigmas_of(10), 3.0, known=known)
    torch.testing.assert_close(run.expected(pair[0], 0.4), pair[0] + 0.4 * wanted, **CLOSE)


@pytest.mark.parametrize("form", ["cfg", "cfg_zero_star"])
def test_scale_one_gives_cond(pair, form):
    torch.testing.assert_close(getattr(guidance, form)(*pair, 1.0), pair[0], **CLOSE)


def test_apg_shortens_only_what_is_longer_and_has_no_momentum_unless_asked(pair):
    cond, uncond = pair
    plain, _ = guidance.apg(cond, uncond, SCALE)
    longest = float((cond - uncond).flatten(1).norm(dim=1).max())
    assert torch.equal(guidance.apg(cond, uncond, SCALE, norm_threshold=1.5 * longest)[0], plain)
    assert torch.equal(guidance.apg(cond, uncond, SCALE, average=cond)[0], plain)
    shortened, _ = guidance.apg(cond, uncond, SCALE, eta=1.0, norm_threshold=0.5)
    norms = (shortened - cond).flatten(1).norm(dim=1) / (SCALE - 1)
    torch.testing.assert_close(norms, torch.full_like(norms, 0.5), rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [0.0, 1e-3])
def test_eps_keeps_zero_predictions_finite_and_changes_no_small_ones(pair, size):
    """A prediction of zero leaves what the other one gives; one of a thousandth has a norm of which EPS is no part."""
    cond, uncond = pair
    small = size * uncond
    factor = (cond * uncond).flatten(1).sum(1) / (uncond * uncond).flatten(1).sum(1) if size else torch.zeros(len(cond))
    wanted = guidance.cfg(cond, factor.view(-1, 1, 1, 1) * uncond, SCALE)
    torch.testing.assert_close(guidance.cfg_zero_star(cond, small, SCALE), wanted, rtol=1e-4, atol=1e-4)
    for form in (guidance.rescale, guidance.normalise):
        args = (1.0,) if form is guidance.rescale else ()
        torch.testing.assert_close(
            form(small, size * cond, *args), size * form(uncond, cond, *args), rtol=1e-4, atol=1e-9
        )
    guided, _ = guidance.apg(size * cond, small, SCALE)
    torch.testing.assert_close(guided, size * guidance.apg(cond, uncond, SCALE)[0], rtol=1e-3, atol=1e-9)


# --- what a run computes


def sigmas_of(steps):
    return [1 - i / steps for i in range(steps + 1)]


def plan(settings, steps=10, start=3.0, interval=None):
    """The steps of a run whose predictions are never alike."""
    run = GuidedRun(settings, sigmas_of(steps), start, interval)
    x = torch.zeros(1, 2, 2, 2)
    steps = []
    for i, sigma in enumerate(run.sigmas[:-1]):
        step = run.evaluation(sigma)
        steps.append(step)
        if step.uncond == "compute" and not step.zero:
            run.learn(step, x + 1 + i, x - 1 - i, x, sigma)
    return steps


def uncond(settings, **more):
    return "".join(step.uncond[0] for step in plan(settings, **more))  # compute, extrapolate or skip


def test_every_step_is_found_by_its_sigma():
    assert [step.step for step in plan(Guidance())] == list(range(10))


def test_inner_stages_belong_to_the_step_they_have_reached():
    run = GuidedRun(Guidance(), sigmas_of(4), 3.0)
    assert [run.evaluation(s).step for s in (1.1, 1.0, 0.99, 0.76, 0.75, 0.7500001, 0.3, 0.1)] == [
        0,
        0,
        0,
        0,
        1,
        1,
        2,
        3,
    ]


def test_steps_of_a_rising_schedule_are_found_too():
    run = GuidedRun(Guidance(), [0.0001, 0.2, 0.5, 0.8], 3.0)
    assert [run.evaluation(s).step for s in (0.0001, 0.2, 0.5, 0.79)] == [0, 1, 2, 2]


def test_stages_of_one_step_make_no_line():
    """Samplers compute a stage's sigma anew, so that two of one step differ by rounding: no slope can be had from them."""
    run = GuidedRun(Guidance(alternate=True), sigmas_of(4), 3.0)
    x = torch.zeros(1, 2, 2, 2)
    for sigma, value in ((1.0, 1.0), (0.75 * (1 + 7e-8), 2.0), (0.75, 3.0)):
        run.learn(run.evaluation(sigma), x - sigma * value, x, x, sigma)
    assert [round(s, 3) for s, _ in run.known] == [1.0, 0.75]
    torch.testing.assert_close(guidance.extrapolate(run.known, 0.5), torch.full_like(x, 5.0))


def test_the_first_alike_step_is_told_where_the_sampler_goes_on_to_use_uncond():
    run, x = GuidedRun(Guidance(stop_above=0.9), sigmas_of(10), 3.0), torch.zeros(1, 1, 1, 2)
    cond = torch.tensor([1.0, 0.0]).view_as(x)
    for sigma in run.sigmas[2:6]:
        run.learn(run.begin(sigma, uses_uncond=True), cond, cond, x, sigma)
    assert run.record.stopped == 2 and run.now.uncond == "show"


def test_where_another_prompt_acts_the_line_begins_anew():
    run, found, x = GuidedRun(Guidance(alternate=True), sigmas_of(10), 3.0), "", torch.zeros(1, 1, 1, 2)
    for step, sigma in enumerate(run.sigmas[:-1]):
        prompt, value = ("B", 50.0) if step >= 5 else ("A", 1.0)
        now = run.begin(sigma, acts=prompt)
        found += now.uncond[0]
        if now.uncond == "extrapolate":
            torch.testing.assert_close(run.expected(x, sigma), torch.full_like(x, sigma * value))
        else:
            run.learn(now, x, x + sigma * value, x, sigma)
    assert found == "cccecccece"


def test_an_interval_reaches_a_millionth_further_and_no_more():
    for reach, inside in ((0.5e-6, True), (1e-6, True), (1.5e-6, False)):
        assert guided_run.within(0.5 * (1 + reach), (0.5, 0.1)) is inside
        assert guided_run.within(0.5 * (1 - reach), (0.9, 0.5)) is inside


@pytest.mark.parametrize("sigma", [0.6, 0.8, 0.1])
def test_an_interval_that_ends_on_a_step_includes_it(sigma):
    rounded = float(torch.tensor(sigma))  # as the sampler has it
    assert guided_run.within(rounded, (sigma, 0.05)) and guided_run.within(rounded, (0.9, sigma))


@pytest.mark.parametrize(
    "settings, wanted",
    [
        (Guidance(), "cccccccccc"),
        (Guidance(skip_first_steps=4), "sssscccccc"),
        (Guidance(skip_first_steps=-1), "ssssssssss"),
        (Guidance(skip_first_steps=100), "ssssssssss"),
        (Guidance(guided_steps=3), "cccsssssss"),
        (Guidance(guided_steps=0), "ssssssssss"),
        (Guidance(guided_steps=6, skip_first_steps=2), "ssccccssss"),
        (Guidance(alternate=True), "cccecececc"[:3] + "ecececece"[:7]),
        (Guidance(alternate=True, skip_first_steps=2), "sscccecece"),
        (Guidance(alternate=True, skip_first_steps=3), "ssscccecec"),  # first, line's second point, then every second
        (Guidance(alternate=True, zero_init_steps=1), "scccececec"),
        (Guidance(alternate=True, zero_init_steps=3, skip_first_steps=2), "ssscccecec"),
    ],
    ids=str,
)
def test_uncond_is_computed_where_the_settings_say(settings, wanted):
    assert uncond(settings) == wanted


def test_uncond_is_computed_inside_the_interval_only():
    # sigmas are 1.0, 0.9 ... 0.1; both ends of the interval count
    assert uncond(Guidance(sigmas=(0.8, 0.4)), interval=(0.8, 0.4)) == "sscccccsss"


def test_uncond_is_no_more_computed_once_alike():
    run = GuidedRun(Guidance(stop_above=0.9), sigmas_of(10), 3.0)
    x = torch.zeros(2, 1, 1, 2)
    cond = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view_as(x)
    angles = torch.tensor([0.0, math.acos(0.8)])
    for i, angle in enumerate((angles, torch.zeros(2))):  # one picture of two alike does not suffice
        assert run.evaluation(run.sigmas[i]).uncond == "compute"
        other = torch.stack((angle.cos(), angle.sin()), dim=-1).view_as(x)
        run.learn(run.evaluation(run.sigmas[i]), cond, other, x, run.sigmas[i])
    assert run.record.stopped == 1
    assert [round(float(c), 4) for _, c in run.record.cosines] == [0.8, 1.0]
    assert run.evaluation(run.sigmas[2]).uncond == "skip"


def test_zero_init_steps_compute_nothing():
    assert [step.zero for step in plan(Guidance(zero_init_steps=2))] == [True] * 2 + [False] * 8


@pytest.mark.parametrize(
    "settings, wanted",
    [
        (Guidance(), [3, 3, 3, 3, 3]),
        (Guidance(curve="linear", end=1), [3, 2.5, 2, 1.5, 1]),
        (Guidance(curve="cosine", end=1), [3, 2 + math.sqrt(0.5), 2, 2 - math.sqrt(0.5), 1]),
        (Guidance(curve="list", values=(5, 4, 3, 2, 1)), [5, 4, 3, 2, 1]),
        (Guidance(curve="list", values=(5, 1)), [5, 4, 3, 2, 1]),
        (Guidance(curve="list", values=(9, 5, 1, 0)), [9, 6, 3, 0.75, 0]),
        (Guidance(curve="list", values=(2,)), [2] * 5),
    ],
    ids=str,
)
def test_the_scale_follows_its_curve(settings, wanted):
    np.testing.assert_allclose([step.scale for step in plan(settings, steps=5)], wanted, atol=1e-9)


def test_a_run_of_one_step_has_the_first_scale_and_one_of_two_has_both():
    assert plan(Guidance(curve="linear", end=1), steps=1)[0].scale == 3.0
    assert [step.scale for step in plan(Guidance(curve="linear", end=1), steps=2)] == [3.0, 1.0]


@pytest.mark.parametrize("form", ["plain", "CFG-Zero*", "APG"])
def test_forms_can_be_rescaled_and_normalised(pair, form):
    """Composed by hand on velocities, at sigma 0.5."""
    x, sigma = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)), 0.5
    run = GuidedRun(Guidance(form=form, rescale=0.5, normalise=True), sigmas_of(4), SCALE)
    result = run.combine(*pair, SCALE, x, sigma)
    velocity, other = ((x - a) / sigma for a in pair)
    guided = {
        "plain": lambda: guidance.cfg(velocity, other, SCALE),
        "CFG-Zero*": lambda: guidance.cfg_zero_star(velocity, other, SCALE),
        "APG": lambda: (x - guidance.apg(*pair, SCALE)[0]) / sigma,
    }[form]()
    wanted = guidance.normalise(guidance.rescale(guided, velocity, 0.5), velocity)
    torch.testing.assert_close(result, x - sigma * wanted, **CLOSE)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"form": "APGG"}, "form is 'APGG'.*plain, CFG-Zero"),
        ({"curve": "bent"}, "curve is 'bent'"),
        ({"rescale": 1.5}, "rescale is 1.5.*0 to 1"),
        ({"rescale": math.nan}, "rescale is nan"),
        ({"skip_first_steps": -2}, "skip_first_steps is -2"),
        ({"guided_steps": -1}, "guided_steps is -1"),
        ({"zero_init_steps": -1}, "zero_init_steps is -1"),
        ({"curve": "list"}, "list of cfg values is empty"),
        ({"curve": "list", "values": (3, -1)}, "list of cfg values is -1"),
        ({"percent": (0.5, 0.2)}, "interval's end is 0.2.*0.5 to 1"),
        ({"sigmas": (0.2, 0.5)}, "interval's lower sigma is 0.5.*0 to 0.2"),
        ({"stop_above": 2.0}, "threshold of the cosine is 2"),
        ({"norm_threshold": -1}, "norm_threshold is -1"),
        ({"momentum": 2}, "momentum is 2"),
    ],
    ids=str,
)
def test_bad_settings_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        Guidance(**wrong)


@pytest.mark.parametrize(
    "name, low, high",
    [
        ("rescale", 0, 1),
        ("end", 0, 100),
        ("eta", -10, 10),
        ("norm_threshold", 0, None),
        ("momentum", -1, 1),
        ("skip_first_steps", -1, None),
        ("zero_init_steps", 0, None),
        ("stop_above", -1, 1),
    ],
)
def test_settings_have_bounds_that_belong_to_them(name, low, high):
    for value in [low, *([] if high is None else [high])]:
        assert getattr(Guidance(**{name: value}), name) == value
    for value in [low - 1e-6, *([] if high is None else [high + 1e-6])]:
        with pytest.raises(ValueError, match="must be from"):
            Guidance(**{name: value})


@pytest.mark.parametrize("name", ["percent", "sigmas"])
def test_intervals_may_be_empty_or_whole_but_not_beyond(name):
    whole = (0, 1) if name == "percent" else (math.inf, 0)
    for interval in (whole, (0, 0), (1, 1)):
        assert getattr(Guidance(**{name: interval}), name) == interval
    beyond = ((-1e-6, 1), (0, 1 + 1e-6)) if name == "percent" else ((-1e-6, -1e-6), (1, -1e-6))
    for interval in beyond:
        with pytest.raises(ValueError, match="interval's"):
            Guidance(**{name: interval})
    with pytest.raises(ValueError, match="interval's start"):
        Guidance(percent=(1.5, 1.5))


def test_guidance_is_plain_cfg_unless_told():
    g = Guidance()
    assert g.changes == "" and (g.curve, g.form) == ("constant", "plain")
    assert (g.eta, g.norm_threshold, g.momentum, g.rescale, g.normalise, g.alternate) == (0, 0, 0, 0, False, False)
    assert (g.skip_first_steps, g.zero_init_steps, g.values, g.end) == (0, 0, (), 1.0)
    assert g.percent is g.sigmas is g.stop_above is None
    with pytest.raises(AttributeError):
        g.eta = 1.0


def test_what_changes_the_combination_is_told_in_words():
    assert Guidance(form="APG", rescale=0.5, normalise=True).changes == "APG, rescale, normalise"
    assert Guidance(form="CFG-Zero*").changes == "CFG-Zero*"
    assert Guidance(normalise=True).changes == "normalise" and Guidance(rescale=0.1).changes == "rescale"


def test_a_run_counts_its_evaluations():
    run = GuidedRun(Guidance(zero_init_steps=1), sigmas_of(4), 3.0)
    assert run.guides and run.now is None
    for sigma in run.sigmas[:3]:
        assert run.begin(sigma) is run.now and run.sigma == sigma
    assert (run.record.evaluations, run.record.zeroed, run.record.plain) == (3, 1, None)
    run.record.plain = 0
    run.begin(run.sigmas[3])
    assert run.record.plain == 2


@pytest.mark.parametrize("rising", [False, True])
def test_each_sigma_belongs_to_the_step_that_has_reached_it(rising):
    """Falling from noise to a picture, or rising from a picture to noise; beyond the ends it is the nearest step."""
    falling = [1.0, 0.75, 0.5, 0.25, 0.0]
    run = GuidedRun(Guidance(), falling[::-1] if rising else falling, 3.0)
    sigmas = [-0.1, 0.0, 0.1, 0.25, 0.6, 1.0, 2.0]
    steps = [0, 0, 0, 1, 2, 3, 3] if rising else [3, 3, 3, 3, 1, 0, 0]
    assert [run.evaluation(sigma).step for sigma in sigmas] == steps
    one = GuidedRun(Guidance(), [0.0, 1.0] if rising else [1.0, 0.0], 3.0)
    assert [one.evaluation(sigma).step for sigma in (0.0, 0.5, 1.0)] == [0, 0, 0]


def test_uncond_is_expected_on_the_line_through_the_last_two():
    """The difference of velocities is linear in sigma: 1 at 0.9, 2 at 0.8, so 3 at 0.7; uncond = cond + sigma * it."""
    run = GuidedRun(Guidance(alternate=True), sigmas_of(10), 3.0)
    x = torch.zeros(1, 1, 1, 1)
    for sigma, difference in ((0.9, 1.0), (0.8, 2.0)):
        cond = torch.full_like(x, 0.5)
        run.learn(run.evaluation(sigma), cond, cond + sigma * difference, x, sigma)
    expected = run.expected(torch.full_like(x, 0.5), 0.7)
    torch.testing.assert_close(expected, torch.full_like(x, 0.5 + 0.7 * 3.0))
    run.end()
    assert run.known == [] and run.average is None


def test_values_are_read_from_text():
    assert guided_run.parse_values(" 5, 4.5;3\n2，1 ") == (5.0, 4.5, 3.0, 2.0, 1.0)  # also with a Chinese comma
    with pytest.raises(ValueError, match="'four'.*no number"):
        guided_run.parse_values("5, four")


def test_rough_samplers_are_those_that_the_table_shows():
    """`benchmarks/savings`: mean difference to plain CFG of 255, and a star where the run keeps uncond by itself."""
    text = (support.ROOT / "benchmarks" / "results" / "savings.md").read_text()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:2] == "| "]
    found = {row[0]: row[rows[0].index("alternate")].split()[0] for row in rows[1:]}
    assert len(found) > 40
    assert {name for name, off in found.items() if "*" not in off and float(off) > 4} == guided_run.ROUGH_SAMPLERS
    assert all(float(off.strip("*")) == 0 for off in found.values() if "*" in off)
