"""Second-order exponential integrators for the sampling ODE, with and without fresh noise.

The ODE dx/dsigma = (x - D(x, sigma)) / sigma holds for flow models (x = (1 - sigma) x0 + sigma noise) and for
variance-exploding ones (x = x0 + sigma noise). In t = -log(sigma) it is dx/dt = D - x, whose linear part is solved
exactly. Over a step of length h on which D changes linearly in t, by `slope` in all,

    x_next = exp(-h) x + h phi_1(-h) D + h phi_2(-h) slope.

sigma = 1 needs no special case. For a step to sigma = 0 (h infinite) the limit is x_next = D, of first order.

The last steps are long in t, and D settles there: a line over t runs past it. Over sigma D is nearly a line down to 0, so
the `over_sigma` forms take its change to be linear in sigma, which needs another weight, see `of_slope`.

Sources: Hochbruck and Ostermann, Explicit exponential Runge-Kutta methods for semilinear parabolic problems (2005) and
Exponential integrators (Acta Numerica 2010) for phi_k and their order conditions; Zhang et al., Improved Order Analysis
and Design of Exponential Integrator for Diffusion Models Sampling (arXiv:2308.02157) for the two schemes.
Shapes: B batch; x is (B, ...).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Iterable

import torch
from torch import Tensor

Model = Callable[..., Tensor]
Callback = Callable[[dict[str, Any]], None]
NoiseSampler = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[..., Iterable[Any]]

NUM_SEEDS = 2**64
# First steps, from 0, of `over_sigma` that use a slope and a bend, since D does not go on as it began.
FIRST_SLOPE, FIRST_CURVE = 2, 5
TAYLOR_BELOW = 1e-3  # where phi_2's own formula has lost three digits and four terms of its series err by z^4 / 720


def phi_1(z: float) -> float:
    """(exp(z) - 1) / z, 1 at 0."""
    return math.expm1(z) / z if z else 1.0


def phi_2(z: float) -> float:
    """(phi_1(z) - 1) / z, 1/2 at 0."""
    return 1 / 2 + z / 6 + z**2 / 24 + z**3 / 120 if abs(z) < TAYLOR_BELOW else (phi_1(z) - 1) / z


# --- plan of a run ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step from noise level `sigma` to `to`: the ODE down to `down`, then x = keep * x + noise * randn.

    index: its place in the schedule. Without fresh noise down is `to`, keep 1 and noise 0.
    """

    index: int
    sigma: float
    to: float
    down: float
    keep: float
    noise: float


def ancestral(sigma: float, to: float, eta: float, flow: bool) -> tuple[float, float, float]:
    """(down, keep, noise) of a step that goes below `to` and adds the noise that is then missing.

    eta:    0: the ODE. 1: down is to^2 / sigma. More goes lower, down to 0.
    flow:   x = (1 - sigma) x0 + sigma noise, so adding noise scales x by (1 - to) / (1 - down); else x0 + sigma noise.
    source: follows from keep * alpha(down) = alpha(to) and (keep * down)^2 + noise^2 = to^2; eta as in the ancestral
            steps of Karras et al. (2022), and for flow as the host's own samplers count it.
    """
    if eta == 0 or to == 0:
        return to, 1.0, 0.0
    if flow:
        down = max(to * (1 + eta * (to / sigma - 1)), 0.0)
        keep = (1 - to) / (1 - down)
        return down, keep, math.sqrt(max(to**2 - (keep * down) ** 2, 0.0))
    noise = min(to, eta * to * math.sqrt(1 - (to / sigma) ** 2))
    return math.sqrt(to**2 - noise**2), 1.0, noise


def plan(sigmas: Tensor, eta: float = 0.0, flow: bool = True) -> list[Step]:
    """The steps of a schedule. Two equal levels make no step.

    sigmas: (n + 1,), above 0 but for the last, in any order for eta = 0 (rising ones turn an image into noise).
    raises: ValueError if they are not numbers, reach 0 before the end, or, for eta > 0, rise or (flow) step to 1.
    """
    if not eta >= 0:
        raise ValueError(f"eta is {eta}; it has to be 0 (no fresh noise) or more, 1 is usual")
    levels = sigmas.tolist()  # of float64, whatever the device has
    steps = []
    for i, (sigma, to) in enumerate(zip(levels, levels[1:])):
        if not (0 < sigma < math.inf and 0 <= to < math.inf):
            found = f"{sigma:g}, {to:g} at {i} and {i + 1} of {len(levels)}"
            raise ValueError(f"sigmas: found {found}; they have to be numbers above 0, only the last may be 0")
        if sigma == to:
            continue
        if eta and to > sigma:
            raise ValueError(
                f"sigmas: {sigma:g} is followed by {to:g}; with fresh noise (eta {eta:g}) they have to fall. "
                "Set eta to 0 to follow a rising schedule"
            )
        if eta and flow and to >= 1:
            raise ValueError(f"sigmas: a step to {to:g}; a flow model's noise levels lie between 0 and 1. Set eta to 0")
        steps.append(Step(i, sigma, to, *ancestral(sigma, to, eta, flow)))
    return steps


# --- parts of a step -------------------------------------------------------------------------------------------------


def seeded_noise(x: Tensor, seed: int | None) -> NoiseSampler:
    """Standard noise like x, (sigma, sigma_next) -> (B, ...), from a generator of its own.

    seed: None draws from torch's global generator. On the CPU seed + 1 is used, because the run's first noise was
    drawn there from seed; the host's samplers do the same and get the same numbers. After the greatest comes 0.
    """
    generator = None
    if seed is not None:
        generator = torch.Generator(device=x.device).manual_seed((seed + (x.device.type == "cpu")) % NUM_SEEDS)
    return lambda sigma, sigma_next: torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)


def of_slope(h: float, over_sigma: bool) -> float:
    """Weight of the change of D over a step of length h > 0, or below 0 in a rising schedule.

    over_sigma: D is linear in sigma. With u = (sigma - sigma') / (sigma - to) for D = D_0 + u slope, the integral of
                exp(-(h - tau)) u over the step is (1 - (1 + h) exp(-h)) / (1 - exp(-h)), which is phi_2(h) h exp(-h) / phi_1(-h).
    """
    return h * phi_2(h) * math.exp(-h) / phi_1(-h) if over_sigma else h * phi_2(-h)


def integrate(
    x: Tensor, denoised: Tensor, slope: Tensor | None, sigma: float, to: float, over_sigma: bool = False
) -> Tensor:
    """x at noise level `to` (see the formula on top). slope: change of D over the whole step; None is 0."""
    if to == 0:
        return denoised
    h = math.log(sigma / to)
    x = math.exp(-h) * x + h * phi_1(-h) * denoised
    return x if slope is None else x + of_slope(h, over_sigma) * slope


def curve(past: list[tuple[float, Tensor]], to: float) -> Tensor:
    """What D's second divided difference over sigma adds to x at noise level `to`. past: (sigma, D), the newest first, three.

    source: the integral of to / u^2 (u - s_0) (u - s_1) from to to s_0, Newton's form of the parabola through all three.
    """
    (s0, d0), (s1, d1), (s2, d2) = past
    bend = ((d0 - d1) / (s0 - s1) - (d1 - d2) / (s1 - s2)) / (s0 - s2)
    return bend * (to * (s0 - to) - to * (s0 + s1) * math.log(s0 / to) + s1 * (s0 - to))


def go_one_way(past: list[tuple[float, Tensor]]) -> bool:
    newest, middle, oldest = (sigma for sigma, _ in past)
    return newest < middle < oldest or newest > middle > oldest


def silent(steps: list[Step], disable: bool | None = None) -> Iterable[Step]:
    """A progress bar that shows nothing."""
    return steps


@dataclass(frozen=True)
class Options:
    """What a sampler can be told beside the schedule. The defaults follow the ODE without noise.

    eta:           above 0 each step is an `ancestral` one.
    s_noise:       strength of the fresh noise.
    noise_sampler: (sigma, sigma_next) -> like x; without it noise is seeded by extra_args["seed"].
    flow:          whether it is a flow model; matters for eta > 0 only.
    c2:            of `res_2s`: place of the second stage, as a part of the step in log(sigma), in (0, 1].
    over_sigma:    of `res_2m`: the degree of the polynomial in sigma that D follows. 0: D is linear in log(sigma); 1: a line from
                   FIRST_SLOPE on; 2: a parabola through the last three D from FIRST_CURVE on, where their levels go one way.
    progress:      a bar: called with the steps and `disable`, gives the steps.
    """

    eta: float = 0.0
    s_noise: float = 1.0
    noise_sampler: NoiseSampler | None = None
    flow: bool = True
    c2: float = 0.5
    over_sigma: int = 0
    progress: Progress = silent


DEFAULTS = Options()


class Solve:
    """What both samplers share: the steps of the schedule, and a model that gets x in its dtype and float32 levels."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None,
        callback: Callback | None,
        options: Options,
    ):
        self.model, self.sigmas, self.callback = model, sigmas, callback
        self.extra_args = extra_args or {}
        self.steps = plan(sigmas, options.eta, options.flow)
        self.s_noise = options.s_noise
        self.dtype = x.dtype
        self.work = torch.promote_types(x.dtype, torch.float32)
        self.noise_sampler = options.noise_sampler or seeded_noise(x, self.extra_args.get("seed"))
        self.over_sigma = options.over_sigma

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        levels = x.new_full((x.shape[0],), sigma, dtype=self.work)
        return self.model(x.to(self.dtype), levels, **self.extra_args).to(self.work)

    def length(self, sigma: float, to: float) -> float:
        """Of a step, in what D is taken to be linear in."""
        return sigma - to if self.over_sigma else math.log(sigma / to)

    def report(self, step: Step, x: Tensor, denoised: Tensor) -> None:
        if self.callback is not None:
            sigma = self.sigmas[step.index]
            x, denoised = x.to(self.dtype), denoised.to(self.dtype)
            self.callback({"x": x, "i": step.index, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})

    def renoise(self, step: Step, x: Tensor) -> Tensor:
        if not step.noise:
            return x
        noise = self.noise_sampler(self.sigmas[step.index], self.sigmas[step.index + 1])
        return step.keep * x + step.noise * self.s_noise * noise


# --- samplers --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def res_2m(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    options: Options = DEFAULTS,
) -> Tensor:
    """Multistep of second order: one model evaluation a step, the change of D taken from the step before.

    The first step, and the one to sigma = 0, are of first order. `over_sigma` takes the change otherwise.
    model:   (x, sigma (B,), **extra_args) -> denoised like x.
    x:       (B, ...) at noise level sigmas[0]; worked on in float32 at least, returned in its dtype.
    sigmas:  (n + 1,), see `plan`.
    disable: hides the bar of `options.progress`.
    raises:  ValueError on a schedule it can not follow.
    source:  arXiv:2308.02157, multistep; with noise, the change is taken over the schedule's levels, not down to
             `down`; this keeps the variance to second order.
    """
    solve = Solve(model, x, sigmas, extra_args, callback, options)
    x = x.to(solve.work)
    past: list[tuple[float, Tensor]] = []  # (sigma, D) of the last steps, the newest first
    for i, step in enumerate(options.progress(solve.steps, disable=disable)):
        denoised = solve.denoise(x, step.sigma)
        solve.report(step, x, denoised)
        slope = None
        if past and step.to > 0 and not (solve.over_sigma and i < FIRST_SLOPE):
            sigma, before = past[0]
            slope = (denoised - before) * (solve.length(step.sigma, step.to) / solve.length(sigma, step.sigma))
        following = integrate(x, denoised, slope, step.sigma, step.down, solve.over_sigma)
        past = [(step.sigma, denoised), *past][: solve.over_sigma + 1]
        if solve.over_sigma == 2 and i >= FIRST_CURVE and step.down > 0 and go_one_way(past):
            following = following + curve(past, step.down)
        x = solve.renoise(step, following)
    return x.to(solve.dtype)


@torch.no_grad()
def res_2s(
    model: Model,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    options: Options = DEFAULTS,
) -> Tensor:
    """Single step of two stages and second order: two model evaluations a step, one in the step to sigma = 0.

    raises: ValueError on a c2 that is not within the step, or a schedule it can not follow.
    source: arXiv:2308.02157, single step: b_2 = phi_2 / c2, b_1 = phi_1 - b_2. Everything else is as in `res_2m`.
    """
    c2 = options.c2
    if not 0 < c2 <= 1:
        raise ValueError(f"c2 is {c2}; the second stage has to lie within the step, above 0 and at most 1")
    solve = Solve(model, x, sigmas, extra_args, callback, options)
    x = x.to(solve.work)
    for step in options.progress(solve.steps, disable=disable):
        denoised = solve.denoise(x, step.sigma)
        solve.report(step, x, denoised)
        slope = None
        if step.down > 0:
            middle = step.sigma * (step.down / step.sigma) ** c2
            stage = integrate(x, denoised, None, step.sigma, middle)
            slope = (solve.denoise(stage, middle) - denoised) / c2
        x = solve.renoise(step, integrate(x, denoised, slope, step.sigma, step.down))
    return x.to(solve.dtype)
