"""Every curve, with parameters from the whole of their ranges."""

import math

import pytest
import support

pytest.importorskip("hypothesis")
from hypothesis import example, given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

schedules = support.dev.load_pack("samplers.schedules")
TOLD = ("keep_steps: ", "allowed is", "make neighbouring sigmas equal")  # in the sentence of what cannot be made


@st.composite
def curves(draw):
    """(name, parameters) of any curve; a parameter that is not drawn keeps its default."""
    name = draw(st.sampled_from(list(schedules.CURVES)))
    values = {}
    for p in schedules.CURVES[name].parameters:
        if draw(st.booleans()):
            kind = st.integers if p.is_integer else st.floats
            values[p.name] = draw(kind(p.low, p.high))
    return name, values


def table_of(shift):
    """The sigmas of a flow model of this shift, as the host makes them; None for shift 1."""
    t = schedules.flow_table()
    return None if shift is None else shift * t / (1 + (shift - 1) * t)


steps_of = st.integers(1, 60) | st.integers(1, 10_000)


@given(curves(), steps_of, st.none() | st.floats(0.1, 100), st.booleans(), st.booleans())
@example(("karras", {"rho": 100.0, "sigma_min": 0.9}), 10_000, None, False, False)
@example(("beta", {"alpha": 50.0, "beta": 0.01}), 1, None, True, True)
def test_sigmas_fall_from_at_most_1_to_0_in_as_many_steps(curve, steps, shift, pin, keep):
    name, values = curve
    table = table_of(shift)
    try:
        sigmas = schedules.schedule(name, steps, values, table, pin_first=pin, keep_steps=keep)
    except ValueError as error:
        assert any(words in str(error) for words in TOLD), error
        return
    whole = keep or not schedules.CURVES[name].from_table
    assert len(sigmas) == steps + 1 if whole else 2 <= len(sigmas) <= steps + 1
    assert bool(sigmas.isfinite().all()) and bool((sigmas[1:] < sigmas[:-1]).all())
    assert sigmas[-1] == 0 and 0 < sigmas[0] <= 1 + 1e-6  # float32, also of the model's own sigmas
    if pin or not schedules.CURVES[name].from_table:
        assert sigmas[0] == pytest.approx(1, abs=1e-6)


@given(curves(), st.integers(1, 100), st.floats(0.01, 1))
def test_less_denoise_is_the_end_of_a_longer_schedule(curve, steps, denoise):
    name, values = curve
    try:
        short = schedules.schedule(name, steps, values, denoise=denoise)
        whole = schedules.schedule(name, int(steps / denoise), values)
    except ValueError as error:
        assert any(words in str(error) for words in TOLD), error
        return
    assert short.tolist() == whole[-(steps + 1) :].tolist()


@given(st.lists(st.integers(0, 200), min_size=1, max_size=60), st.integers(200, 400))
def test_moved_places_are_apart_and_as_near_as_can_be(places, last):
    places = schedules.np.array(sorted(places, reverse=True))
    moved = schedules.distinct(places, last)
    assert (moved[1:] < moved[:-1]).all() and 0 <= moved.min() and moved.max() <= last
    if (places[1:] < places[:-1]).all():
        assert (moved == places).all()
    # A run of n equal places cannot lie nearer than half its length.
    longest = max(int((places == p).sum()) for p in places)
    assert abs(moved - places).max() >= math.ceil((longest - 1) / 2)


@given(
    st.sampled_from(list(schedules.CURVES)),
    st.data(),
    st.sampled_from([math.nan, math.inf, -math.inf, -1e9, 1e9, None, "x", [], True]),
)
def test_parameter_out_of_its_range_is_named(name, data, wrong):
    if not schedules.CURVES[name].parameters:
        return
    p = data.draw(st.sampled_from(schedules.CURVES[name].parameters))
    with pytest.raises(ValueError, match=rf"{name}: {p.name} is .*; allowed is"):
        schedules.schedule(name, 10, {p.name: wrong})
