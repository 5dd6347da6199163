"""The samplers against ODEs with known solutions, and the distributions that their noise has to keep.

One dimension a row, float64: data N(MEAN, SPREAD^2), whose denoiser and ODE are known in closed form, and a mixture of
three Gaussians, whose denoiser is known and whose ODE is solved by another method.
"""

import functools
import itertools
import math

import pytest
import support
import torch

samplers = support.dev.load_pack("samplers.res")

MEAN, SPREAD = 0.7, 0.5
MIXTURE = torch.tensor(
    [[0.3, -1.0, 0.3], [0.5, 0.2, 0.2], [0.2, 1.5, 0.4]], dtype=torch.float64
)  # weight, mean, spread
START = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]


def options_as_keywords(sampler, **fixed):
    """A sampler that takes the fields of `Options` as keywords."""

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        return sampler(model, x, sigmas, extra_args, callback, disable, samplers.Options(**fixed, **options))

    return sample


res_2m, res_2s = options_as_keywords(samplers.res_2m), options_as_keywords(samplers.res_2s)
SAMPLERS = {
    "2m": res_2m,
    "2s": res_2s,
    "2s_c1": options_as_keywords(samplers.res_2s, c2=1.0),
    "2s_c03": options_as_keywords(samplers.res_2s, c2=0.3),
}
sigma_2m = options_as_keywords(samplers.res_2m, over_sigma=1)
sigma_3m = options_as_keywords(samplers.res_2m, over_sigma=2)


def alpha_of(sigma, flow):
    return 1 - sigma if flow else 1.0 + 0 * sigma


def gaussian(mean=MEAN, spread=SPREAD, flow=True):
    def model(x, sigma):
        sigma = sigma[:, None]
        alpha = alpha_of(sigma, flow)
        return mean + alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * (x - alpha * mean)

    return model


def gaussian_solution(x, start, end):
    def spread(sigma):
        return math.sqrt((1 - sigma) ** 2 * SPREAD**2 + sigma**2)

    return (1 - end) * MEAN + spread(end) / spread(start) * (x - (1 - start) * MEAN)


def mixture(x, sigma):
    weight, mean, spread = MIXTURE.T
    sigma, x = sigma[:, None, None], x[..., None]
    alpha = 1 - sigma
    variance = alpha**2 * spread**2 + sigma**2
    odds = weight.log() - variance.log() / 2 - (x - alpha * mean) ** 2 / (2 * variance)
    return (odds.softmax(-1) * (mean + alpha * spread**2 / variance * (x - alpha * mean))).sum(-1)


def even(n, end=0.0):
    return torch.linspace(1, end, n + 1, dtype=torch.float64)


def geometric(n, end=0.02):
    return end ** torch.linspace(0, 1, n + 1, dtype=torch.float64)


def uneven(n):
    """1 to 0.02, every second step twice as long as the one before: of first order if the ratio were ignored."""
    lengths = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(n // 2)
    return torch.cat([torch.ones(1), 0.02 ** (lengths.cumsum(0) / lengths.sum())])


def shifted(n):
    t = even(n)
    return 3 * t / (1 + 2 * t)


def cosine(n):
    return (1 - torch.cos(math.pi * even(n))) / 2


# How far the slope of log2(error) may be off 2 over 128 -> 256 -> 512 steps. Steps of one length in sigma down to 0
# give n^-2 log(n), hence slopes of 1.8 or a little less: the last few are long in log(sigma) however many there are.
SCHEDULES = {
    "even_to_0.02": (lambda n: even(n, 0.02), 0.08),
    "geometric_to_0.02": (geometric, 0.03),
    "uneven_to_0.02": (uneven, 0.05),
    "cosine": (cosine, 0.08),
    "even": (even, 0.30),
    "shifted": (shifted, 0.60),
}
LUCKY = {("2s_c03", "even"), ("2s_c03", "shifted")}  # errors of 5e-5 and less that cancel: their ratio is no order
SIZES = (128, 256, 512)


def counted(model, calls):
    def count(x, sigma, **more):
        calls.append(sigma[0].item())
        return model(x, sigma, **more)

    return count


def errors(sample, model, schedule, reference):
    found = [(sample(model, START, schedule(n)) - reference).norm() / reference.norm() for n in SIZES]
    return [error.item() for error in found]


# --- coefficients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [-5.0, -1.0, -2e-3, -1e-3, -5e-4, -1e-9, 0.0, 1e-9, 5e-4, 1e-3, 2e-3, 1.0, 5.0])
def test_phi_functions_equal_their_series(z):
    for k, phi in ((1, samplers.phi_1), (2, samplers.phi_2)):
        series = math.fsum(z**j / math.factorial(j + k) for j in range(60))
        assert phi(z) == pytest.approx(series, rel=2e-12)  # phi_2 by its formula at 1e-3 loses 3 of 16 digits


@pytest.mark.parametrize("name", SAMPLERS)
def test_denoised_linear_in_log_sigma_is_integrated_exactly(name):
    """D = a + b t, t = -log(sigma): x(t) = a + b (t - 1) + C exp(-t). 2m has no slope yet in its first step."""
    a, b = 0.4, -0.3

    def solution(x, sigma, to):
        particular = [a + b * (-math.log(s) - 1) for s in (sigma, to)]
        return particular[1] + to / sigma * (x - particular[0])

    sigmas = torch.tensor([1.0, 0.9, 0.5, 0.45, 0.03], dtype=torch.float64)
    seen = []
    SAMPLERS[name](
        lambda x, s: (a - b * s.log())[:, None] + 0 * x, START, sigmas, callback=lambda c: seen.append(c["x"])
    )
    first = name == "2m"
    last = SAMPLERS[name](lambda x, s: (a - b * s.log())[:, None] + 0 * x, START, sigmas)
    levels = sigmas.tolist()
    for x, expected in zip(
        [*seen[1:], last][first:],
        [solution(x, s, t) for x, s, t in zip(seen, levels, levels[1:])][first:],
    ):
        assert torch.allclose(x, expected, rtol=0, atol=1e-13)  # float64


def test_constant_denoised_is_reached_exactly():
    for sample in SAMPLERS.values():
        out = sample(lambda x, s: torch.full_like(x, 0.25), START, even(7))
        assert torch.equal(out, torch.full_like(START, 0.25))


# --- order of the ODE samplers ---------------------------------------------------------------------------------------


@functools.cache
def mixture_solution(end):
    """START carried from sigma 1 to `end` by Runge and Kutta's fourth order in log sigma, where dx = x - denoised."""

    def slope(x, log):
        return x - mixture(x, log.exp().expand(len(x)))

    x, logs = START, torch.linspace(0, math.log(max(end, 1e-7)), 513, dtype=torch.float64)
    for a, b in zip(logs, logs[1:]):
        h, middle = b - a, (a + b) / 2
        k1 = slope(x, a)
        k2 = slope(x + h / 2 * k1, middle)
        k3 = slope(x + h / 2 * k2, middle)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(x + h * k3, b))
    return x if end else x - slope(x, logs[-1])


@pytest.mark.parametrize(
    "name, schedule", [pair for pair in itertools.product(SAMPLERS, SCHEDULES) if pair not in LUCKY]
)
@pytest.mark.parametrize("problem", ["gaussian", "mixture"])
def test_halving_the_step_divides_the_error_by_four(name, problem, schedule):
    make, tolerance = SCHEDULES[schedule]
    if problem == "gaussian":
        model, reference = gaussian(), gaussian_solution(START, 1.0, make(8)[-1].item())
    else:
        model, reference = mixture, mixture_solution(make(8)[-1].item())
    found = errors(SAMPLERS[name], model, make, reference)
    slopes = [math.log2(a / b) for a, b in zip(found, found[1:])]
    assert all(abs(slope - 2) < tolerance for slope in slopes), (found, slopes)
    assert found[-1] < 5e-4


@pytest.mark.parametrize("name", SAMPLERS)
def test_rising_schedule_inverts_the_falling_one(name):
    """Image to noise and back; the errors of both ways are of second order."""
    x = gaussian_solution(START, 1.0, 0.02)
    gaps = []
    for n in (64, 128):
        noise = SAMPLERS[name](mixture, x, geometric(n).flip(0))
        gaps.append((SAMPLERS[name](mixture, noise, geometric(n)) - x).norm().item())
    assert 1.8 < math.log2(gaps[0] / gaps[1]) < 3.3  # 3 where the errors of the two ways cancel
    assert gaps[1] < 1e-2


# --- denoised linear in sigma -----------------------------------------------------------------------------------------


def test_denoised_linear_in_sigma_is_integrated_exactly_from_the_third_step_on():
    """D = a + b sigma: x(sigma) = a + C sigma - b sigma log(sigma)."""
    a, b = 0.4, -0.3

    def solution(x, sigma, to):
        constant = (x - a) / sigma + b * math.log(sigma)
        return a + constant * to - b * to * math.log(to)

    sigmas = torch.tensor([1.0, 0.9, 0.5, 0.45, 0.2, 0.03], dtype=torch.float64)
    model, seen = lambda x, s: (a + b * s)[:, None] + 0 * x, []
    last = sigma_2m(model, START, sigmas, callback=lambda c: seen.append(c["x"]))
    after, levels = [*seen[1:], last], sigmas.tolist()
    for i, (x, found, sigma, to) in enumerate(zip(seen, after, levels, levels[1:])):
        if i < 2:  # of first order
            assert torch.equal(found, samplers.integrate(x, model(x, sigmas[i : i + 1]), None, sigma, to))
        else:
            assert torch.allclose(found, solution(x, sigma, to), rtol=0, atol=1e-13)


@pytest.mark.parametrize("h", [-2.0, -1e-2, -1e-4, 1e-9, 1e-4, 1e-2, 0.5, 3.0, 12.0])
def test_the_weight_of_a_slope_is_the_integral_over_its_step(h):
    """By Simpson's rule over 2,000 parts."""
    n = 2000
    tau = torch.linspace(0, h, n + 1, dtype=torch.float64)
    rule = torch.tensor([1.0, *([4.0, 2.0] * (n // 2))][:-1] + [1.0], dtype=torch.float64) * h / n / 3
    for over_sigma, share in ((False, tau / h), (True, torch.expm1(-tau) / math.expm1(-h))):
        expected = float(rule @ (torch.exp(tau - h) * share))
        assert samplers.of_slope(h, over_sigma) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("problem", ["gaussian", "mixture"])
@pytest.mark.parametrize("schedule", ["even_to_0.02", "geometric_to_0.02", "uneven_to_0.02", "cosine"])
@pytest.mark.parametrize("sample", [sigma_2m, sigma_3m])
def test_over_sigma_it_is_of_second_order_too(sample, problem, schedule):
    """With a parabola as well: its first steps are of first order."""
    make, _ = SCHEDULES[schedule]
    end = make(8)[-1].item()
    if problem == "gaussian":
        model, reference = gaussian(), gaussian_solution(START, 1.0, end)
    else:
        model, reference = mixture, mixture_solution(end)
    found = errors(sample, model, make, reference)
    slopes = [math.log2(a / b) for a, b in zip(found, found[1:])]
    assert all(1.8 < slope < 3.2 for slope in slopes), (found, slopes)


def test_a_parabola_over_sigma_is_integrated_exactly_from_the_sixth_step_on():
    """D = a + b sigma + c sigma^2: x = a + C sigma - b sigma log(sigma) - c sigma^2."""
    a, b, c = 0.4, -0.3, 0.6

    def solution(x, sigma, to):
        constant = (x - a + c * sigma**2) / sigma + b * math.log(sigma)
        return a + constant * to - b * to * math.log(to) - c * to**2

    sigmas = torch.tensor([1.0, 0.95, 0.9, 0.7, 0.5, 0.45, 0.2, 0.03], dtype=torch.float64)
    model, seen = lambda x, s: (a + b * s + c * s**2)[:, None] + 0 * x, []
    last = sigma_3m(model, START, sigmas, callback=lambda c: seen.append(c["x"]))
    levels = sigmas.tolist()
    for x, found, sigma, to in list(zip(seen, [*seen[1:], last], levels, levels[1:]))[5:]:
        assert torch.allclose(found, solution(x, sigma, to), rtol=0, atol=1e-13)


def test_where_levels_turn_there_is_no_parabola():
    """A schedule that goes back up meets the same level again."""
    sigmas = torch.tensor([1.0, 0.8, 0.6, 0.5, 0.4, 0.5, 0.4, 0.5, 0.3, 0.2], dtype=torch.float64)
    seen = []
    last = sigma_3m(mixture, START, sigmas, callback=lambda c: seen.append(c["x"]))
    assert last.isfinite().all() and all(x.isfinite().all() for x in seen)
    line = sigma_2m(mixture, START, sigmas[:9])
    assert torch.equal(seen[8], line)  # of the steps before, each ended in a turn or began less than five steps in


@pytest.mark.parametrize("n", [6, 8, 11, 14, 20, 26, 40])
def test_with_few_steps_it_is_nearer_than_a_line_over_log_sigma_and_than_euler(n):
    reference = mixture_solution(0.0)

    def off(sample, **options):
        return float((sample(mixture, START, even(n), **options) - reference).norm() / reference.norm())

    euler = options_as_keywords(lambda m, x, s, *a: euler_of(m, x, s))
    assert off(sigma_2m) < min(off(res_2m), off(euler))


def euler_of(model, x, sigmas):
    for sigma, to in zip(sigmas, sigmas[1:]):
        x = samplers.integrate(x, model(x, sigma.expand(len(x))), None, float(sigma), float(to))
    return x


# --- noise: exact variances ------------------------------------------------------------------------------------------


def variance(sample, n, *, flow=True, spread=1.0, end=0.0, **options):
    """Variance of the result on Gaussian data of mean 0, exact: every draw is a dimension of its own.

    The sampler is linear here, so x is its coefficients on the start and on each draw.
    """
    top = 1.0 if flow else 40.0
    sigmas = even(n, end) if flow else top * geometric(n, end / top)
    x = torch.zeros(1, n + 2, dtype=torch.float64)
    x[0, 0] = math.sqrt(alpha_of(top, flow) ** 2 * spread**2 + top**2)
    draws = iter(range(1, n + 2))

    def draw(sigma, to):
        return torch.nn.functional.one_hot(torch.tensor([next(draws)]), n + 2).double()

    out = sample(gaussian(0.0, spread, flow), x, sigmas, noise_sampler=draw, flow=flow, **options)
    return out.square().sum().item()


@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("flow", [True, False], ids=["flow", "ve"])
@pytest.mark.parametrize("name", ["2m", "2s"])
def test_variance_is_kept_to_second_order(name, flow, eta):
    end = 0.0 if flow else 0.01
    found = [abs(variance(SAMPLERS[name], n, flow=flow, eta=eta, end=end) - (1 + end**2)) for n in (64, 128, 256)]
    slopes = [math.log2(a / b) for a, b in zip(found, found[1:])]
    assert all(1.7 < slope < 2.3 for slope in slopes), (found, slopes)
    assert found[-1] < 3e-3


@pytest.mark.parametrize("end", [0.6, 0.2])
@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("name", ["2m", "2s"])
def test_partial_run_ends_at_the_variance_of_its_level(name, spread, end):
    expected = (1 - end) ** 2 * spread**2 + end**2
    assert variance(SAMPLERS[name], 200, spread=spread, end=end, eta=1.0) == pytest.approx(expected, rel=3e-3)


def test_noise_of_the_other_family_does_not_keep_the_variance():
    """Why `flow` matters: x0 + sigma noise on a flow model ends with a variance that is a third too small or worse."""
    right = [(1 - s) ** 2 + s**2 for s in (0.5, 0.0)]
    for end, expected in zip((0.5, 0.0), right):
        sigmas = even(200, end)
        n = len(sigmas) + 1
        x = torch.zeros(1, n, dtype=torch.float64)
        x[0, 0] = 1
        draws = iter(range(1, n))
        out = res_2s(
            gaussian(0.0, 1.0),
            x,
            sigmas,
            eta=1.0,
            flow=False,
            noise_sampler=lambda *_: torch.nn.functional.one_hot(torch.tensor([next(draws)]), n).double(),
        )
        assert abs(out.square().sum().item() / expected - 1) > 0.2


@pytest.mark.parametrize("flow", [True, False], ids=["flow", "ve"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5, 50.0])
def test_ancestral_step_adds_up_to_the_level(flow, eta):
    """Signal keep * alpha(down) = alpha(to), noise (keep * down)^2 + noise^2 = to^2."""
    for sigma, to in ((1.0, 0.99), (1.0, 0.5), (0.8, 0.3), (0.02, 0.01)):
        down, keep, noise = samplers.ancestral(sigma, to, eta, flow)
        assert 0 <= down <= to and noise >= 0
        assert keep * alpha_of(down, flow) == pytest.approx(alpha_of(to, flow), rel=1e-12)
        assert (keep * down) ** 2 + noise**2 == pytest.approx(to**2, rel=1e-12)
        if eta == 1:
            assert down == pytest.approx(to**2 / sigma, rel=1e-12)
    assert (samplers.ancestral(2.0, 1.0, eta, False)[2] > 0) is (eta > 0)  # 1 is a level like any other there
    assert samplers.ancestral(0.5, 0.3, 0.0, flow) == (0.3, 1.0, 0.0)
    assert samplers.ancestral(0.5, 0.0, eta, flow) == (0.0, 1.0, 0.0)


# --- noise: draws ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("name", ["2m", "2s"])
def test_draws_have_the_mean_and_variance_of_the_data(name, eta):
    count = 40000
    x = torch.randn(1, count, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    out = SAMPLERS[name](lambda x, s, seed: gaussian()(x, s), x, even(96), {"seed": 11}, eta=eta)
    assert out.mean().item() == pytest.approx(MEAN, abs=4 * SPREAD / math.sqrt(count) + 3e-3)  # 4 deviations + bias
    assert out.var().item() / SPREAD**2 == pytest.approx(1, abs=4 * math.sqrt(2 / count) + 2e-2)


@pytest.mark.parametrize("name", ["2m", "2s"])
def test_seed_repeats_a_run_and_another_one_does_not(name):
    def run(seed):
        return SAMPLERS[name](lambda x, s, **_: gaussian()(x, s), START, even(6), {"seed": seed}, eta=1.0)

    state = torch.get_rng_state()
    assert torch.equal(run(5), run(5))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    assert not torch.allclose(run(5), run(6))


def test_noise_is_that_of_the_next_seed_on_the_cpu():
    x = torch.zeros(2, 3)
    expected = torch.randn(2, 3, generator=torch.Generator().manual_seed(8))
    assert torch.equal(samplers.seeded_noise(x, 7)(None, None), expected)
    torch.manual_seed(1)
    expected = torch.randn(2, 3)
    torch.manual_seed(1)
    assert torch.equal(samplers.seeded_noise(x, None)(None, None), expected)


def test_greatest_seed_is_followed_by_0():
    expected = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(samplers.seeded_noise(torch.zeros(2, 3), 2**64 - 1)(None, None), expected)


@pytest.mark.parametrize("name", ["2m", "2s"])
def test_eta_0_is_the_ode_bit_for_bit_and_draws_nothing(name):
    def refuse(sigma, to):
        raise AssertionError("eta 0 drew noise")

    state = torch.get_rng_state()
    plain = SAMPLERS[name](mixture, START, even(9))
    for flow in (True, False):
        out = SAMPLERS[name](mixture, START, even(9), eta=0.0, s_noise=3.0, noise_sampler=refuse, flow=flow)
        assert torch.equal(out, plain)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["2m", "2s"])
def test_s_noise_scales_the_draws(name):
    """On a denoiser that always says 0 the result of one step to 0.5 is keep * 0.5^2 * x + s_noise * noise * draw."""
    x = torch.full((1, 2), 2.0, dtype=torch.float64)
    down, keep, noise = samplers.ancestral(1.0, 0.5, 1.0, True)
    for s_noise in (0.0, 1.0, 1.5):
        out = SAMPLERS[name](
            lambda x, s: 0 * x,
            x,
            even(1, 0.5),
            eta=1.0,
            s_noise=s_noise,
            noise_sampler=lambda sigma, to: (10 * sigma + to).expand(1, 2),
        )
        assert torch.allclose(out, keep * down * x + s_noise * noise * 10.5, rtol=0, atol=1e-12)


# --- borders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["2m", "2s"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_device_without_float64_never_sees_it(name, eta):
    model, x, sigmas = gaussian(), START.float(), even(4).float()
    found = []
    for kind in (support.WithoutFloat64, torch.Tensor):
        torch.manual_seed(3)
        found.append(SAMPLERS[name](model, x.as_subclass(kind), sigmas.as_subclass(kind), eta=eta))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_number_of_evaluations_is_as_arithmetic_says(name, steps, end):
    calls = []
    SAMPLERS[name](counted(mixture, calls), START, even(steps, end))
    assert len(calls) == (steps if name == "2m" else 2 * steps - (end == 0))
    assert all(level > 0 for level in calls)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_from_pure_noise_gives_the_denoised(name, eta):
    sigmas = torch.tensor([1.0, 0.0])
    out = SAMPLERS[name](mixture, START, sigmas, eta=eta)
    assert torch.equal(out, mixture(START, torch.ones(41, dtype=torch.float64)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_two_steps_from_1_to_0_are_finite(name):
    for eta in (0.0, 1.0):
        assert SAMPLERS[name](mixture, START, even(2), eta=eta).isfinite().all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_schedule_without_a_step_gives_x_back(name):
    for sigmas in ([], [1.0], [0.0], [0.5, 0.5]):
        calls = []
        assert torch.equal(SAMPLERS[name](counted(mixture, calls), START, torch.tensor(sigmas)), START)
        assert calls == []


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_repeated_level_changes_nothing(name, eta):
    levels = even(6).tolist()
    repeated = [levels[0], *levels[:3], levels[2], *levels[2:]]

    def run(levels):
        sigmas = torch.tensor(levels, dtype=torch.float64)
        return SAMPLERS[name](lambda x, s, **_: mixture(x, s), START, sigmas, {"seed": 2}, eta=eta)

    assert torch.equal(run(repeated), run(levels))


@pytest.mark.parametrize(
    "sigmas, options, message",
    [
        ([1.0, 0.0, 0.5], {}, "found 0, 0.5 at 1 and 2 of 3"),
        ([1.0, 0.5, 0.2, 0.0, 0.5], {}, "found 0, 0.5 at 3 and 4 of 5"),
        ([0.0, 0.5], {}, "numbers above 0"),
        ([1.0, -0.5], {}, "numbers above 0"),
        ([1.0, float("nan"), 0.0], {}, "numbers above 0"),
        ([float("inf"), 1.0], {}, "numbers above 0"),
        ([0.5, 0.8, 0.0], {"eta": 1.0}, "0.5 is followed by 0.8"),
        ([14.6, 3.0, 0.0], {"eta": 1.0}, "a step to 3"),
        ([1.0, 0.0], {"eta": -0.1}, "eta is -0.1"),
        ([1.0, 0.0], {"eta": float("nan")}, "eta is nan"),
    ],
)
@pytest.mark.parametrize("name", ["2m", "2s"])
def test_schedule_that_can_not_be_followed_is_refused_before_the_model_runs(name, sigmas, options, message):
    calls = []
    with pytest.raises(ValueError, match=message):
        SAMPLERS[name](counted(mixture, calls), START, torch.tensor(sigmas), **options)
    assert calls == []


@pytest.mark.parametrize("c2", [0.0, -0.5, 1.01, float("nan")])
def test_second_stage_outside_the_step_is_refused(c2):
    with pytest.raises(ValueError, match="c2 is"):
        res_2s(mixture, START, even(2), c2=c2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_of_a_batch_do_not_meet(name):
    whole = SAMPLERS[name](mixture, START, even(5))
    for row in (0, 17):
        alone = SAMPLERS[name](mixture, START[row : row + 1], even(5))
        assert torch.allclose(whole[row : row + 1], alone, rtol=0, atol=1e-14)  # float64, vector code or not


@pytest.mark.parametrize("name", SAMPLERS)
def test_input_is_not_changed(name):
    x, sigmas = START.clone(), even(5)
    SAMPLERS[name](mixture, x, sigmas, eta=1.0)
    assert torch.equal(x, START) and torch.equal(sigmas, even(5))


@pytest.mark.parametrize("name", SAMPLERS)
def test_callback_gets_each_step(name):
    seen = []
    sigmas = even(4)
    SAMPLERS[name](mixture, START, sigmas, callback=seen.append)
    assert [set(step) for step in seen] == [{"x", "i", "sigma", "sigma_hat", "denoised"}] * 4
    assert [step["i"] for step in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[0]["x"], START)
    for step in seen:
        assert step["sigma"] == step["sigma_hat"] == sigmas[step["i"]]
        level = step["sigma"].expand(len(START))
        assert torch.allclose(step["denoised"], mixture(step["x"], level), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("where", ["model", "callback"])
def test_interrupt_passes_through(name, where):
    class Stop(BaseException):
        pass

    def stop(*_, **__):
        raise Stop

    with pytest.raises(Stop):
        if where == "model":
            SAMPLERS[name](stop, START, even(4))
        else:
            SAMPLERS[name](mixture, START, even(4), callback=stop)


@pytest.mark.parametrize("dtype, limit", [(torch.float16, 4e-3), (torch.bfloat16, 3e-2), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", ["2m", "2s"])
def test_dtype_is_kept_and_levels_are_float32_at_least(name, dtype, limit):
    """limit: a few roundings of x for the model, 2^-11 and 2^-8, though the steps are worked out in float32."""
    kinds = set()

    def model(x, sigma, **_):
        kinds.add((x.dtype, sigma.dtype))
        return mixture(x.double(), sigma.double()).to(x.dtype)

    seen = []
    out = SAMPLERS[name](model, START.to(dtype), even(20).float(), callback=seen.append)
    assert out.dtype == dtype and {(s["x"].dtype, s["denoised"].dtype) for s in seen} == {(dtype, dtype)}
    assert kinds == {(dtype, torch.float32)}
    exact = SAMPLERS[name](mixture, START.to(dtype).double(), even(20).float())
    assert ((out.double() - exact).norm() / exact.norm()).item() < limit
    noisy = SAMPLERS[name](model, START.to(dtype), even(4).float(), {"seed": 1}, eta=1.0)
    assert noisy.dtype == dtype and noisy.isfinite().all()


def test_progress_is_told_the_steps_and_whether_to_hide():
    told = []

    def bar(steps, disable=None):
        told.append(([step.index for step in steps], disable))
        return steps

    for sample in (res_2m, res_2s):
        sample(mixture, START, even(3), disable=True, progress=bar)
    assert told == [([0, 1, 2], True)] * 2
