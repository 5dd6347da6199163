"""The plan of computed and forecast steps, the line of a forecast, and what turns forecasts off."""

import pytest
import support
import torch

cache = support.dev.load_pack("samplers.step_cache")
Settings, Run = cache.CacheSettings, cache.CachedRun


@pytest.mark.parametrize("steps", [*range(1, 12), 20, 26, 40, 101])
def test_a_plan_computes_as_many_as_asked_and_never_leaves_out_two_in_a_row(steps):
    for compute in range(cache.least(steps), steps + 1):
        found = cache.plan(steps, compute)
        assert len(found) == steps and sum(found) == compute
        assert all(a or b for a, b in zip(found, found[1:]))
        assert all(found[: cache.num_first(steps)]) and all(found[-cache.LAST :])


def test_forecasts_are_spread():
    assert [i for i, real in enumerate(cache.plan(26, 17)) if not real] == [6, 8, 10, 12, 14, 16, 18, 20, 22]
    assert [i for i, real in enumerate(cache.plan(26, 22)) if not real] == [6, 11, 16, 22]
    assert [i for i, real in enumerate(cache.plan(26, 25)) if not real] == [14]


@pytest.mark.parametrize("steps, compute", [(26, 16), (26, 27), (8, 5), (4, 3)])
def test_what_cannot_be_computed_is_refused(steps, compute):
    with pytest.raises(
        ValueError, match=f"{compute} of {steps} steps cannot be computed.*must be {cache.least(steps)} to"
    ):
        cache.plan(steps, compute)


@pytest.mark.parametrize(
    "steps, share, expected", [(26, 0.65, 17), (26, 0.1, 17), (26, 1.0, 26), (20, 0.8, 16), (4, 0.5, 4)]
)
def test_a_share_becomes_steps_that_can_be(steps, share, expected):
    assert Settings(compute=share).steps_to_compute(steps) == expected


LEVELS = torch.linspace(1, 0, 27).tolist()
KEYS = ("cond", "uncond")


def residual(sigma, slope=2.0):
    """(2, 3, 4): of two conditionings."""
    return torch.arange(1.0, 25.0).view(2, 3, 4) * (1 + slope * sigma)


def go(run, residual_of=residual, first_of=lambda s: torch.ones(2, 3, 4) * s, levels=LEVELS[:-1], keys=KEYS):
    """The run's calls; step -> what was forecast, None where it was computed."""
    out = []
    for sigma in levels:
        step, forecast = run.decide(sigma, keys, run.sampled(torch.zeros_like(first_of(sigma))), first_of(sigma))
        out.append(run.forecast(sigma, keys) if forecast else None)
        if not forecast:
            run.learn(step, sigma, keys, residual_of(sigma))
    return out


def test_a_line_is_forecast_exactly_and_its_error_is_told():
    run = Run(Settings(compute=0.65), LEVELS, "sample_euler")
    found = go(run)
    assert [i for i, value in enumerate(found) if value is not None] == [6, 8, 10, 12, 14, 16, 18, 20, 22]
    for sigma, value in zip(LEVELS, found):
        assert value is None or torch.allclose(value, residual(sigma), rtol=1e-5)
    run.end()
    record = run.record
    assert (len(record.computed), len(record.forecast), record.notes) == (17, 9, [])
    assert [step for step, _ in record.errors[::2]] == [7, 9, 11, 13, 15, 17, 19, 21]  # those that might have been
    assert max(error for _, error in record.errors) < 1e-5
    assert record.text().startswith("17 of 26 steps computed, 0 kB kept for 2 prompts\nforecasts off by 0.0%")
    assert record.num_bytes == 2 * residual(1.0).nbytes  # two of each conditioning's


def test_each_conditioning_has_its_own_residuals():
    """The same conditionings in one call, apart, and in the other order."""
    orders = [KEYS, KEYS[::-1]]
    run = Run(Settings(compute=0.65), LEVELS)
    for i, sigma in enumerate(LEVELS[:-1]):
        value = residual(sigma)
        order = orders[i % 2]
        rows = value if order == KEYS else value.flip(0)
        calls = [(order, rows)] if i % 3 else [((order[0],), rows[:1]), ((order[1],), rows[1:])]
        for keys, now in calls:
            step, forecast = run.decide(sigma, keys, run.sampled(torch.zeros_like(now)), now)
            if forecast:
                assert torch.allclose(run.forecast(sigma, keys), now, rtol=1e-5)
            else:
                run.learn(step, sigma, keys, now)
    assert len(run.record.forecast) == 9


def test_a_gate_forecasts_while_the_first_block_hardly_changes():
    changes = [0.0 if 8 <= i <= 14 else 1.0 for i in range(26)]
    levels = torch.tensor([sum(changes[: i + 1]) for i in range(26)])
    first = {s: torch.ones(2, 3, 4) * float(v) for s, v in zip(LEVELS, levels + 1)}
    run = Run(Settings(compute=None, threshold=0.05), LEVELS)
    found = go(run, first_of=lambda s: first[s])
    assert [i for i, value in enumerate(found) if value is not None] == [9, 11, 13]  # once a step has changed little


def test_a_conditioning_that_is_computed_in_every_second_step_is_not_forecast_in_all_of_them():
    """As under `alternate`: a plan may forecast just those."""
    run = Run(Settings(compute=0.65), LEVELS)
    ways = {key: [] for key in KEYS}
    for i, sigma in enumerate(LEVELS[:-1]):
        for key, rows in zip(KEYS, residual(sigma).chunk(2)):
            if key == "uncond" and i % 2:
                continue
            step, forecast = run.decide(sigma, (key,), run.sampled(torch.zeros_like(rows)), rows)
            ways[key].append(forecast)
            if not forecast:
                run.learn(step, sigma, (key,), rows)
    assert ways["cond"] == [not real for real in cache.plan(26, 17)]
    assert sum(ways["uncond"]) >= 3 and not any(a and b for a, b in zip(ways["uncond"], ways["uncond"][1:]))
    run.end()
    assert len(run.record.computed) + len(run.record.forecast) == 26
    assert {step for step, _ in run.record.errors} & {8, 12, 16}  # the read-out sees the negative prompt too


def test_fewer_than_can_be_computed_is_told():
    run = Run(Settings(compute=0.5), LEVELS)
    go(run)
    assert run.record.notes == ["17 of 26 steps is the least that can be computed"]
    assert Run(Settings(compute=0.8), LEVELS).record.notes == []


def test_a_gate_decides_alike_for_prompts_in_one_call_and_apart():
    def first(sigma):
        return torch.stack(
            [torch.full((3, 4), 1.02 ** (26 * (1 - sigma))), torch.full((3, 4), 1.05 ** (26 * (1 - sigma)))]
        )

    settings = Settings(compute=None, threshold=0.12)
    paired = [value is not None for value in go(Run(settings, LEVELS), first_of=first)]
    run, apart = Run(settings, LEVELS), []
    for sigma in LEVELS[:-1]:
        ways = []
        for key, rows, now in zip(KEYS, first(sigma).chunk(2), residual(sigma).chunk(2)):
            step, forecast = run.decide(sigma, (key,), run.sampled(torch.zeros_like(rows)), rows)
            ways.append(forecast)
            if not forecast:
                run.learn(step, sigma, (key,), now)
        apart.append(ways)
    assert apart == [[way, way] for way in paired] and any(paired)


def test_changes_add_up_until_a_step_is_computed():
    run = Run(Settings(compute=None, threshold=0.1), LEVELS)
    found = go(run, first_of=lambda s: torch.full((2, 3, 4), 1.04 ** (26 * (1 - s))))
    assert [i for i, value in enumerate(found) if value is not None] == list(range(6, 23, 2))
    strict = Run(Settings(compute=None, threshold=0.03), LEVELS)
    assert all(v is None for v in go(strict, first_of=lambda s: torch.full((2, 3, 4), 1.04 ** (26 * (1 - s)))))


def test_beyond_the_limit_of_error_everything_is_computed():
    run = Run(Settings(compute=0.65, max_error=0.05), LEVELS)
    found = go(run, residual_of=lambda s: residual(s) * (3 if s < 0.62 else 1))
    assert [i for i, value in enumerate(found) if value is not None] == [6, 8, 10]
    (note,) = run.record.notes
    assert note.startswith("a forecast was off by ") and "at step 12" in note


@pytest.mark.parametrize(
    "name", ["sample_euler_ancestral", "sample_dpmpp_2m_sde", "sample_lcm", "sample_chroma_res_2m_sde"]
)
def test_samplers_that_add_noise_compute_every_step(name):
    run = Run(Settings(), LEVELS, name)
    assert all(value is None for value in go(run)) and run.record.notes == [cache.NOISY]
    assert run.record.text() == f"26 of 26 steps computed\n{cache.NOISY}"


def test_samplers_of_two_stages_compute_every_step():
    run = Run(Settings(), LEVELS, "sample_heun")
    levels = [level for s, t in zip(LEVELS, LEVELS[1:]) for level in (s, t) if level > 0]
    assert all(value is None for value in go(run, levels=levels)) and run.record.notes == [cache.TWICE]
    run = Run(Settings(), LEVELS, "sample_chroma_res_2s")
    levels = [level for s, t in zip(LEVELS, LEVELS[1:]) for level in (s, (s * t) ** 0.5) if level > 0]
    assert all(value is None for value in go(run, levels=levels)) and run.record.notes == [cache.OFF_SCHEDULE]


def test_another_size_begins_anew():
    """As two pictures of one run, or an area's conditionings."""
    run = Run(Settings(compute=0.65), LEVELS)
    go(run, levels=LEVELS[:6])
    step, forecast = run.decide(LEVELS[6], KEYS, None, torch.zeros(2, 9, 4))
    assert not forecast and step == 6


def test_the_end_lets_go():
    run = Run(Settings(), LEVELS)
    go(run)
    run.end()
    assert run.streams == {}


def test_where_something_else_acts_two_steps_are_computed():
    run, ways = Run(Settings(compute=0.65), LEVELS), []
    for i, sigma in enumerate(LEVELS[:-1]):
        now = residual(sigma) * (5 if i >= 12 else 1)
        step, forecast = run.decide(sigma, KEYS, None, now, acts="ControlNet" if i >= 12 else None)
        ways.append(forecast)
        if not forecast:
            run.learn(step, sigma, KEYS, now)
    run.end()
    assert [i for i, forecast in enumerate(ways) if forecast] == [6, 8, 10, 14, 16, 18, 20, 22]
    assert max(error for _, error in run.record.errors) < 1e-5 and run.record.conditionings == 2


def test_float16_is_judged_as_float32():
    """Its norms are beyond its range, and its smallest divisor would be 0."""

    def residual_of(sigma):
        return torch.full((2, 400, 64), 2000.0 * (1 + sigma**2))  # whose norm is 3e5 to 6e5

    found = {}
    for dtype in (torch.float32, torch.float16):
        run = Run(Settings(compute=None, threshold=0.1), LEVELS)
        go(run, lambda s: residual_of(s).to(dtype), lambda s: torch.zeros(2, 400, 64, dtype=dtype))  # noqa: B023
        run.end()
        found[dtype] = run.record
    plain, half = found.values()
    assert half.forecast == plain.forecast and len(half.forecast) == 9
    assert [error for _, error in half.errors] == pytest.approx([error for _, error in plain.errors], abs=2e-3)
    assert max(error for _, error in plain.errors) > 1e-3


def test_a_conditioning_that_has_ended_does_not_keep_the_gate_shut():
    """It ends where the first block changes much; the other one goes on with little change."""
    settings = Settings(compute=None, threshold=0.05)

    def ways(keys_at):
        run, out = Run(settings, LEVELS), []
        for i, sigma in enumerate(LEVELS[:-1]):
            now = torch.full((1, 3, 4), 1.5**i), torch.full((1, 3, 4), 1.01**i)  # uncond changes much, cond little
            keys = keys_at(i)
            rows = torch.cat([now[KEYS[::-1].index(key)] for key in keys])
            step, forecast = run.decide(sigma, keys, run.sampled(torch.zeros_like(rows)), rows)
            out.append(forecast)
            if not forecast:
                run.learn(step, sigma, keys, rows)
        return [i for i, way in enumerate(out) if way]

    assert ways(lambda i: KEYS if i <= 8 else KEYS[:1]) == [11, 13, 15, 17, 19, 21]  # two steps later
    assert ways(lambda i: KEYS[:1]) == list(range(6, 23, 2))
    assert ways(lambda i: KEYS if i % 2 == 0 else KEYS[:1]) == []  # called in every second step, it still counts


def test_errors_of_steps_that_are_never_forecast_stop_nothing():
    """In the first fifth the picture is laid out, and lines through residuals are far off."""
    run = Run(Settings(compute=0.65, max_error=0.05), LEVELS)
    found = go(run, residual_of=lambda s: residual(s) * (1 if s < 0.85 else 1 / s**8))
    assert run.record.notes == [] and sum(value is not None for value in found) == 9
    assert all(6 <= step < 23 for step, _ in run.record.errors)


def test_another_devices_first_call_may_come_while_streams_are_looked_through():
    class Interrupted(cache.Stream):
        """Another device's thread has its turn where this stream is asked for its size."""

        @property
        def num_bytes(self):
            run.streams.setdefault("of another device", cache.Stream())
            return 0

    run = Run(Settings(), LEVELS)
    run.streams = {key: Interrupted() for key in KEYS}
    go(run, levels=LEVELS[:2])
    assert set(run.streams) == {*KEYS, "of another device"}
