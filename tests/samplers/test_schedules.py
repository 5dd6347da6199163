"""Every schedule against numbers reckoned here in another way, in Python's own float64."""

import inspect
import itertools
import json
import math
from fractions import Fraction

import pytest
import support
import torch

sigmas = support.dev.load_pack("samplers.schedules")
schedule, CURVES = sigmas.schedule, sigmas.CURVES
NEEDS_SCIPY = {"beta"}
STEPS = range(1, 101)
DROPPING = [name for name, curve in CURVES.items() if curve.from_table]
WHOLE = [name for name in CURVES if name not in DROPPING]
FLUX_TABLE = torch.tensor(
    [1 / (1 + math.exp(-1.15) * (10000 / i - 1)) for i in range(1, 10001)]
)  # the host's for Chroma
TABLES = {"shift 1": sigmas.flow_table(), "mu 1.15": FLUX_TABLE}


@pytest.fixture(autouse=True)
def needs_scipy(request):
    """Plain pytest may lack scipy, which ComfyUI brings."""
    params = getattr(request.node, "callspec", None)
    if params is not None and NEEDS_SCIPY & {str(p) for p in params.params.values()}:
        pytest.importorskip("scipy")


# --- the same curves, written otherwise ------------------------------------------------------------------------------


def looked_up(places, table):
    """Sigmas at places in [0, 1], each once, and 0; and how near the nearest place is to half-way between two."""
    out, near = [], 1.0
    for place in places:
        near = min(near, abs(place * (len(table) - 1) % 1 - 0.5))
        sigma = float(table[round(place * (len(table) - 1))])
        if sigma not in out:
            out.append(sigma)
    return [*out, 0.0], near


def logistic(n, square_k=1.0, base_c=0.5):
    return [(1 + math.tanh(square_k * (4 - 8 * i / n - 8 * base_c + 4) / 2)) / 2 for i in range(n)]


def power(n, power=2.0, midpoint_shift=1.0):
    return [math.pow(1 - math.pow(i / n, power * midpoint_shift), power) for i in range(n)]


def beta_places(n, alpha=0.6, beta=0.6):
    from scipy.special import betainc

    out = []
    for i in range(n):  # the quantile by halving
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if betainc(alpha, beta, middle) < (n - i) / n else (low, middle)
        out.append(high)
    return out


def tangent(n, slope_1=0.2, slope_2=0.2, pivot_1=0.6, pivot_2=0.6):
    """The original in two loops, for at least two steps and pivots that leave two halves."""
    num = n + 2
    middle = int((num * pivot_1 + num * pivot_2) / 2)

    def half(length, slope, pivot, start, end):
        values = [0.5 - math.atan2(slope * 40 / num * (x - pivot), 1) / math.pi for x in range(length)]
        return [end + (v - values[-1]) * (start - end) / (values[0] - values[-1]) for v in values]

    first = half(middle, slope_1, int(num * pivot_1), 1.0, 0.5)
    return first[:-1] + half(num - middle, slope_2, int(num * pivot_2) - middle, 0.5, 0.0)


def by_time(f):
    return lambda n, **params: [f(Fraction(n - i, n), **params) for i in range(n)] + [0.0]


def from_odds(t, shift):
    return float(shift / (shift + float(1 / t - 1)))


def flux_time(t, width=1024, height=1024, base_shift=0.5, max_shift=1.15):
    part = (width / 16 * height / 16 - 256) / 3840
    return from_odds(t, math.exp(base_shift * (1 - part) + max_shift * part))


def karras_ramp(n, rho=7.0, sigma_min=0.0):
    ends = 1.0, math.exp(math.log(sigma_min or 1 / n) / rho)
    parts = [i / max(n - 1, 1) for i in range(n)]
    return [math.pow(ends[0] * (1 - p) + ends[1] * p, rho) for p in parts] + [0.0]


def ratios(n, sigma_min=0.0):
    return [math.exp(math.log(sigma_min or 1 / n) * i / max(n - 1, 1)) for i in range(n)] + [0.0]


PLACES = {"beta": beta_places, "sigmoid_offset": logistic, "power_shift": power}
VALUES = {
    "linear": by_time(float),
    "fixed_shift": by_time(lambda t, shift=3.0: from_odds(t, shift)),
    "flux_shift": by_time(flux_time),
    "bong_tangent": tangent,
    "karras": karras_ramp,
    "exponential": ratios,
}
# Parameters beside the defaults.
OTHERS = {
    "beta": [{"alpha": 0.4, "beta": 0.4}, {"alpha": 0.5, "beta": 0.7}, {"alpha": 2.0, "beta": 3.0}],
    "sigmoid_offset": [{"square_k": 2.5}, {"base_c": 0.3}, {"base_c": 0.8, "square_k": 0.5}],
    "power_shift": [{"power": 2.4, "midpoint_shift": 0.98}, {"power": 1.0}, {"midpoint_shift": 2.0}],
    "bong_tangent": [{"slope_1": 0.5, "slope_2": 0.05}, {"pivot_1": 0.5, "pivot_2": 0.7}],
    "linear": [],
    "fixed_shift": [{"shift": 1.0}, {"shift": 0.3}, {"shift": 10}],
    "flux_shift": [{"width": 512, "height": 256}, {"width": 2048, "height": 1536, "base_shift": 0.3, "max_shift": 0.9}],
    "karras": [{"rho": 1.0}, {"rho": 3.5, "sigma_min": 0.02}],
    "exponential": [{"sigma_min": 0.03}],
}
CASES = [(name, params) for name in CURVES for params in ({}, *OTHERS.get(name, ()))]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name, params", [c for c in CASES if c[0] in PLACES], ids=str)
def test_curve_from_the_table_has_the_places_of_its_formula(name, params, table):
    for n in STEPS:
        expected, near = looked_up(PLACES[name](n, **params), TABLES[table])
        found = schedule(name, n, params, TABLES[table])
        if near > 1e-9:  # else the two ways may round one place to different neighbours
            assert found.tolist() == expected, n
        else:
            assert len(found) == len(expected) and (found - torch.tensor(expected)).abs().max() < 2e-3, n


@pytest.mark.parametrize("name, params", [c for c in CASES if c[0] in VALUES], ids=str)
def test_curve_has_the_values_of_its_formula(name, params):
    for n in STEPS if name != "bong_tangent" else range(2, 101):
        expected = torch.tensor(VALUES[name](n, **params), dtype=torch.float64)
        found = schedule(name, n, params).double()
        assert found.shape == expected.shape
        # float64 rounded once to float32: half a unit in the last place, 6e-8 at 1
        assert (found - expected).abs().max() < 6.1e-8, n


def test_beta_of_a_half_is_the_arcsine_law():
    pytest.importorskip("scipy")
    for n in STEPS:
        places = [math.sin(math.pi * (n - i) / n / 2) ** 2 for i in range(n)]
        expected, near = looked_up(places, TABLES["shift 1"])
        found = schedule("beta", n, {"alpha": 0.5, "beta": 0.5}).tolist()
        # 0.5 is half-way between two places: either neighbour is right
        assert found == (expected if near > 1e-9 else pytest.approx(expected, abs=1.1e-3))


# --- what holds for all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_steps", [False, True], ids=["as given", "keep_steps"])
@pytest.mark.parametrize("name, params", CASES, ids=str)
def test_sigmas_fall_from_the_first_to_zero(name, params, keep_steps):
    for n in STEPS:
        found = schedule(name, n, params, keep_steps=keep_steps)
        assert found.dtype == torch.float32 and found.device.type == "cpu"
        assert (found[1:] < found[:-1]).all() and found[-1] == 0 and found[0] <= 1, n
        if name in WHOLE or keep_steps:
            assert len(found) == n + 1
        if name != "sigmoid_offset":
            assert found[0] == 1, n


@pytest.mark.parametrize("name", CURVES)
def test_ten_thousand_steps_still_fall(name):
    found = schedule(name, 10_000)
    assert (found[1:] < found[:-1]).all() and found[-1] == 0


def test_linear_is_exact_in_float32():
    for n in STEPS:
        assert torch.equal(schedule("linear", n), torch.tensor([float(Fraction(n - i, n)) for i in range(n + 1)]))


def test_eight_steps_of_flux_shift_end_in_a_huge_jump():
    assert [round(s, 3) for s in schedule("flux_shift", 8)[-3:].tolist()] == [0.513, 0.311, 0.0]


def test_flux_shift_counts_tokens_of_the_picture():
    assert sigmas.flux_mu(256) == pytest.approx(0.5, abs=1e-12)
    assert sigmas.flux_mu(4096) == pytest.approx(1.15, abs=1e-12)
    small = schedule("flux_shift", 10, {"width": 256, "height": 256})
    assert torch.allclose(small, schedule("fixed_shift", 10, {"shift": math.exp(0.5)}), atol=1e-7)  # float32
    assert torch.allclose(schedule("fixed_shift", 10, {"shift": 1}), schedule("linear", 10), atol=0)


def test_the_greatest_shift_is_one_that_may_be_asked_for():
    assert sigmas.flux_mu(256, sigmas.MAX_MU, sigmas.MAX_MU) == sigmas.MAX_MU
    with pytest.raises(ValueError, match="Use smaller shifts"):
        sigmas.flux_mu(256, sigmas.MAX_MU + 0.01, sigmas.MAX_MU)


def test_karras_with_rho_1_is_linear_and_with_a_large_one_exponential():
    assert torch.allclose(schedule("karras", 20, {"rho": 1.0}), schedule("linear", 20), atol=1e-7)  # float32
    # To first order in 1/rho they differ by s^p p (1 - p) ln(s)^2 / (2 rho), s = 1/20: at most 3.9e-3 at p = 0.3.
    gap = schedule("karras", 20, {"rho": 100.0}) - schedule("exponential", 20)
    assert gap.abs().max() < 4e-3


def test_raising_base_c_gives_more_steps_at_low_sigma():
    below = [int((schedule("sigmoid_offset", 26, {"base_c": c}) < 0.5).sum()) for c in (0.3, 0.4, 0.5, 0.6, 0.7)]
    assert below == sorted(set(below))


def test_one_and_two_steps_of_bong_tangent_are_sane():
    assert schedule("bong_tangent", 1).tolist() == [1, 0]
    assert schedule("bong_tangent", 2).tolist() == [1, 0.5, 0]


@pytest.mark.parametrize("pivots", [*itertools.product((0.0, 0.03, 0.5, 0.97, 1.0), repeat=2)], ids=str)
def test_bong_tangent_starts_at_1_wherever_its_pivots_are(pivots):
    for n in STEPS:
        found = schedule("bong_tangent", n, dict(zip(("pivot_1", "pivot_2"), pivots)))
        assert len(found) == n + 1 and found[0] == 1 and found[-1] == 0
        assert (found[1:] < found[:-1]).all()


# --- switches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denoise", [0.99, 0.9, 0.75, 0.5, 0.33, 0.1])
@pytest.mark.parametrize("name", CURVES)
def test_denoise_gives_the_end_of_a_longer_schedule(name, denoise):
    for steps in (1, 7, 20):
        longer = schedule(name, int(steps / denoise))
        assert torch.equal(schedule(name, steps, denoise=denoise), longer[-(steps + 1) :])


def test_denoise_0_gives_no_sigmas():
    assert schedule("linear", 20, denoise=0).shape == (0,)


def test_pinned_first_sigma_is_the_models_greatest():
    free, pinned = schedule("sigmoid_offset", 26), schedule("sigmoid_offset", 26, pin_first=True)
    assert free[0].item() == pytest.approx(0.982) and pinned[0] == 1
    assert torch.equal(free[1:], pinned[1:])
    assert schedule("sigmoid_offset", 26, table=FLUX_TABLE, pin_first=True)[0] == FLUX_TABLE[-1]
    end = schedule("sigmoid_offset", 20, denoise=0.5, pin_first=True)
    assert torch.equal(end, schedule("sigmoid_offset", 20, denoise=0.5))  # the longer schedule's start is cut off


@pytest.mark.parametrize("name", DROPPING)
def test_repeats_are_dropped_unless_steps_are_to_be_kept(name):
    assert len(schedule(name, 1000)) == len(CURVES[name].function(1000)) < 1001
    kept = schedule(name, 1000, keep_steps=True)
    assert torch.equal(kept[:-1], sigmas.flow_table().flip(0))  # all there are
    assert "Drops repeats" in CURVES[name].function.__doc__


@pytest.mark.parametrize("name", DROPPING)
def test_kept_steps_change_nothing_where_none_repeat(name):
    for n in STEPS:
        given = schedule(name, n)
        if len(given) == n + 1:
            assert torch.equal(schedule(name, n, keep_steps=True), given)


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5])
def test_moved_places_are_as_near_as_can_be(num):
    import numpy as np

    last = 5
    falling = [p for p in itertools.product(range(last, -1, -1), repeat=num) if list(p) == sorted(p, reverse=True)]
    strict = [p for p in falling if len(set(p)) == num]
    for places in falling:
        found = sigmas.distinct(np.array(places), last)
        assert tuple(found) in strict
        distance = min(max(abs(a - b) for a, b in zip(places, p)) for p in strict)
        assert abs(found - np.array(places)).max() == distance, places


def test_more_kept_steps_than_the_model_has_sigmas_are_refused():
    pytest.importorskip("scipy")
    with pytest.raises(ValueError, match="keep_steps.*1001 steps.*has 1000"):
        schedule("beta", 1001, keep_steps=True)


def test_a_table_given_is_not_changed():
    table = sigmas.flow_table()
    schedule("sigmoid_offset", 20, table=table, pin_first=True, keep_steps=True)[0] = 7
    assert torch.equal(table, sigmas.flow_table())


# --- the table of curves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CURVES)
def test_table_agrees_with_the_functions_signature(name):
    curve = CURVES[name]
    signature = inspect.signature(curve.function).parameters
    assert {p.name: p.default for p in curve.parameters} == {
        n: p.default for n, p in signature.items() if n not in ("steps", "table", "keep_steps")
    }
    assert curve.from_table == ("keep_steps" in signature) == ("table" in signature)
    assert curve.meaning.endswith(".")
    for p in curve.parameters:
        assert p.low <= p.default <= p.high and p.step > 0 and p.meaning.endswith((".", ")"))


@pytest.mark.parametrize("name", CURVES)
def test_points_for_the_front_end_are_json_of_the_schedule(name):
    points = sigmas.curve_points(name, 20)
    assert json.loads(json.dumps(points)) == schedule(name, 20).tolist()
    points = sigmas.curve_points(name, 20, CURVES[name].defaults, FLUX_TABLE.tolist(), denoise=0.5, keep_steps=True)
    assert points == schedule(name, 20, table=FLUX_TABLE, denoise=0.5, keep_steps=True).tolist()


# --- what is refused -------------------------------------------------------------------------------------------------

BAD_STEPS = [0, -1, 2.0, float("nan"), "20", True, None]


@pytest.mark.parametrize("steps", BAD_STEPS, ids=repr)
@pytest.mark.parametrize("name", CURVES)
def test_bad_steps_are_refused(name, steps):
    for call in (schedule, sigmas.curve_points, lambda name, steps: CURVES[name].function(steps)):
        with pytest.raises(ValueError, match=f"{name}: steps is .*; allowed is a whole number"):
            call(name, steps)


@pytest.mark.parametrize("value", ["below", "above", float("nan"), float("inf"), "1", None, True], ids=repr)
@pytest.mark.parametrize("name", CURVES)
def test_bad_parameters_are_refused_with_their_name_and_range(name, value):
    for p in CURVES[name].parameters:
        bad = {"below": p.low - p.step, "above": p.high + p.step}.get(value, value)
        for call in (schedule, lambda name, n, params: CURVES[name].function(n, **params)):
            with pytest.raises(ValueError, match=f"{name}: {p.name} is .*; allowed is .* from {p.low} to {p.high}"):
                call(name, 20, {p.name: bad})


@pytest.mark.parametrize(
    "match, call",
    {
        "curve 'bta' is not known.*beta, sigmoid_offset": lambda: schedule("bta", 20),
        r"curve \['beta'\] is not known": lambda: schedule(["beta"], 20),
        "beta: alpah is not one of its parameters .alpha, beta.": lambda: schedule("beta", 20, {"alpah": 1}),
        "linear: rho is not one of its parameters .none.": lambda: schedule("linear", 20, {"rho": 1}),
        "denoise is nan; allowed is a number from 0 to 1": lambda: schedule("linear", 20, denoise=float("nan")),
        "denoise is -0.1; allowed": lambda: schedule("linear", 20, denoise=-0.1),
        "denoise is 1.5; allowed": lambda: schedule("linear", 20, denoise=1.5),
        "denoise is 1e-09.*set it to 2e-05 or more": lambda: schedule("linear", 20, denoise=1e-9),
        "steps is 10001; allowed is a whole number from 1 to 10000": lambda: sigmas.curve_points("linear", 10001),
        "model_sigmas are 0, 0.5, 1 ...": lambda: schedule("power_shift", 20, table=[0, 0.5, 1]),
        "model_sigmas are nan": lambda: schedule("power_shift", 20, table=[math.nan, 1]),
        "model_sigmas are 1, 0.5": lambda: schedule("power_shift", 20, table=[1, 0.5]),
        "model_sigmas are 1 ... of the shape .1,.": lambda: schedule("power_shift", 20, table=[1]),
        "flux_shift: .* neighbouring sigmas equal with 200 steps": lambda: schedule(
            "flux_shift", 200, {"width": 4096, "height": 4096, "max_shift": 1.25}
        ),
        "base_shift 0.5 and max_shift 10 make a shift of .* 1.04858e.06 image tokens": lambda: schedule(
            "flux_shift", 20, {"width": 16384, "height": 16384, "max_shift": 10.0}
        ),
        "keep_steps: the model's own sigmas repeat": lambda: schedule(
            "power_shift", 3, table=[0.5, 0.5, 1], keep_steps=True
        ),
    }.items(),
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_refused_is_named(match, call):
    with pytest.raises(ValueError, match=match):
        call()


def test_ranges_of_parameters_are_those_of_the_nodes_record():
    """What saved workflows rely on: `tests/nodes/nodes.json` holds the inputs of all nodes."""
    record = json.loads((support.ROOT / "tests" / "nodes" / "nodes.json").read_text(encoding="utf-8"))
    inputs = record["ChromaScheduler"]["inputs"]
    assert next(entry["choices"] for entry in inputs if entry["name"] == "curve") == list(CURVES)
    shown = {
        e["name"]: (e["default"], e["min"], e["max"], e["step"]) for e in inputs if "." in e["name"] and "min" in e
    }
    ours = {f"curve.{p.name}": (p.default, p.low, p.high, p.step) for c in CURVES.values() for p in c.parameters}
    assert ours == shown
