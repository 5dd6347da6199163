"""Schedules: (steps, parameters) -> sigmas, (steps + 1,) float32, strictly falling, the last 0.

Flow matching's time: sigma 1 is noise, 0 the picture. n steps, u = i / n for i in 0 .. n-1. A curve with `from_table`
gives places in the model's table of sigmas, so its shift acts on them; the others give sigmas and ignore the model.

`CURVES` lists all of them with their parameters; `schedule` makes one by its curve's name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

MAX_STEPS = 10_000  # as in the host's nodes
MAX_TOTAL_STEPS = 1_000_000  # of the whole schedule, for denoise below 1
PIXELS_PER_TOKEN = 16 * 16  # Chroma: 8 x 8 of the VAE, 2 x 2 of the patch; Radiance: its patch
FLUX_TOKENS = (256, 4096)  # where FLUX's shift is base_shift and max_shift
MAX_MU = 16.0  # from here on float32 can not tell half of all sigmas from 1
BONG_STEPS = 40  # steps that bong_tangent's slopes are for

Table = Tensor | Sequence[float] | None


def flow_table() -> Tensor:
    """The sigmas of a flow model with shift 1, (1000,) rising."""
    return torch.arange(1, 1001) / 1000


# --- curves ----------------------------------------------------------------------------------------------------------


def beta(steps: int, table: Table = None, *, alpha: float = 0.6, beta: float = 0.6, keep_steps: bool = False) -> Tensor:
    """Quantiles of a Beta distribution: small alpha and beta put the steps at both ends.

    Drops repeats, as the original does: long schedules lose steps at their ends, unless keep_steps.
    returns:   (n + 1,) with n <= steps.
    source:    arXiv 2407.12173; the host's beta_scheduler, equal to it.
    """
    _check("beta", steps, alpha=alpha, beta=beta)
    from scipy.stats import beta as distribution  # here, since it takes a second

    return _look_up(distribution.ppf(1 - _times(steps), alpha, beta), table, keep_steps)


def sigmoid_offset(
    steps: int, table: Table = None, *, square_k: float = 1.0, base_c: float = 0.5, keep_steps: bool = False
) -> Tensor:
    """A falling logistic curve of slope square_k; base_c moves its middle: larger gives MORE steps at low sigma.

    Its first sigma is below the model's maximum (0.982 with the defaults at shift 1); see pin_first of `schedule`.
    Drops repeats, as the original does, unless keep_steps.
    returns:   (n + 1,) with n <= steps.
    source:    place = 1 - 1 / (1 + exp(-k x)), x = 8u - 4 + 8 (c - 0.5); other packs' sigmoid_offset.
    """
    _check("sigmoid_offset", steps, square_k=square_k, base_c=base_c)
    x = 8 * _times(steps) - 4 + 8 * (base_c - 0.5)
    return _look_up(1 - 1 / (1 + np.exp(-square_k * x)), table, keep_steps)


def power_shift(
    steps: int, table: Table = None, *, power: float = 2.0, midpoint_shift: float = 1.0, keep_steps: bool = False
) -> Tensor:
    """(1 - (u^m)^p)^p: slow at the start, slow at the end.

    Drops repeats, as the original does, unless keep_steps.
    returns:   (n + 1,) with n <= steps.
    source:    other packs' power_shift.
    """
    _check("power_shift", steps, power=power, midpoint_shift=midpoint_shift)
    x = _times(steps) ** midpoint_shift
    return _look_up((1 - x**power) ** power, table, keep_steps)


def bong_tangent(
    steps: int, *, slope_1: float = 0.2, slope_2: float = 0.2, pivot_1: float = 0.6, pivot_2: float = 0.6
) -> Tensor:
    """Two arctangents over N = steps + 2 points, one from 1 to 0.5, the other from 0.5 to 0.

    At point x each is f(x) = 1/2 + atan(-slope (x - pivot)) / pi, scaled to its half. The upper one ends at the 0.5
    where the lower one begins; that 0.5 and the 0 are the two extra points.

    slope_1, slope_2: steepness of each at 40 steps.
    pivot_1, pivot_2: where each is steepest, as a part of the steps; their mean is where 0.5 lies.
    Each half has at least one step; without it the original fails or loses its start. steps 1 gives (1, 0).
    source:    RES4LYF's published formula; equal to it where both halves have steps.
    """
    _check("bong_tangent", steps, slope_1=slope_1, slope_2=slope_2, pivot_1=pivot_1, pivot_2=pivot_2)
    if steps == 1:
        return _falling("bong_tangent", [1.0])
    num_points = steps + 2
    stretch = num_points / BONG_STEPS
    x = np.arange(num_points)
    join = int(np.clip(int((num_points * pivot_1 + num_points * pivot_2) / 2), 2, num_points - 2))
    halves = []
    for part, top, slope, pivot in ((x[:join], 1.0, slope_1, pivot_1), (x[join:], 0.5, slope_2, pivot_2)):
        f = np.arctan(slope / stretch * (int(num_points * pivot) - part))  # the 1/2 and the 1/pi go with the stretching
        halves.append(top - 0.5 * (f[0] - f) / (f[0] - f[-1]))
    return _falling("bong_tangent", [*halves[0][:-1], *halves[1][:-1]])


def linear(steps: int) -> Tensor:
    """1 to 0 in equal steps: how Chroma was trained, and what diffusers samples with."""
    _check("linear", steps)
    return _falling("linear", 1 - _times(steps))


def fixed_shift(steps: int, *, shift: float = 3.0) -> Tensor:
    """The linear schedule with a shift: sigma = s t / (1 + (s - 1) t). Larger gives more steps at high sigma."""
    _check("fixed_shift", steps, shift=shift)
    return _falling("fixed_shift", _shifted(1 - _times(steps), shift))


def flux_shift(
    steps: int, *, width: int = 1024, height: int = 1024, base_shift: float = 0.5, max_shift: float = 1.15
) -> Tensor:
    """The linear schedule with FLUX's shift for the picture's size in pixels: sigma = e^mu / (e^mu + 1/t - 1).

    raises:    ValueError also where the size asks for a shift so large that sigmas repeat.
    source:    flux's get_schedule; mu as in the host's ModelSamplingFlux. The trainer's previews and mlx-chroma sample with it.
    """
    _check("flux_shift", steps, width=width, height=height, base_shift=base_shift, max_shift=max_shift)
    mu = flux_mu(width * height / PIXELS_PER_TOKEN, base_shift, max_shift)
    return _falling("flux_shift", _shifted(1 - _times(steps), math.exp(mu)))


def karras(steps: int, *, rho: float = 7.0, sigma_min: float = 0.0) -> Tensor:
    """Karras' curve between 1 and sigma_min, then 0. rho 1 is linear, a large rho the exponential curve.

    sigma_min: the last sigma before 0; 0 stands for 1 / steps, where the linear schedule ends.
    source:    arXiv 2206.00364, eq. 5; between these ends as in diffusers' flow matching scheduler.
    """
    _check("karras", steps, rho=rho, sigma_min=sigma_min)
    ramp = np.linspace(0, 1, steps)
    return _falling("karras", (1 + ramp * ((sigma_min or 1 / steps) ** (1 / rho) - 1)) ** rho)


def exponential(steps: int, *, sigma_min: float = 0.0) -> Tensor:
    """Equal ratios between 1 and sigma_min, then 0.

    sigma_min: as for karras.
    source:    k-diffusion's get_sigmas_exponential; between these ends as in diffusers' flow matching scheduler.
    """
    _check("exponential", steps, sigma_min=sigma_min)
    return _falling("exponential", (sigma_min or 1 / steps) ** np.linspace(0, 1, steps))


# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """A number that a curve takes; low and high are the least and greatest allowed, step is for a widget."""

    name: str
    default: float
    low: float
    high: float
    step: float
    meaning: str

    @property
    def is_integer(self) -> bool:
        return isinstance(self.default, int)


@dataclass(frozen=True)
class Curve:
    function: Callable[..., Tensor]
    meaning: str
    parameters: tuple[Parameter, ...] = ()
    from_table: bool = False  # takes the model's table and keep_steps; follows the model's shift

    @property
    def defaults(self) -> dict[str, float]:
        return {p.name: p.default for p in self.parameters}


_SIGMA_MIN = Parameter(
    "sigma_min", 0.0, 0.0, 0.9, 0.001, "Last sigma before 0. 0 means 1/steps, where the linear schedule ends."
)
_SIZE = "Used for the number of image tokens, one for 16 x 16 pixels."

CURVES: dict[str, Curve] = {
    "beta": Curve(
        beta,
        "Quantiles of a Beta distribution; steps gather at both ends. 0.6/0.6 is the usual, 0.4/0.4 better at shift 1.",
        (
            Parameter("alpha", 0.6, 0.01, 50.0, 0.01, "Smaller: more steps at low sigma, the details."),
            Parameter("beta", 0.6, 0.01, 50.0, 0.01, "Smaller: more steps at high sigma, the composition."),
        ),
        from_table=True,
    ),
    "sigmoid_offset": Curve(
        sigmoid_offset,
        "A logistic curve: steps gather at both ends. Starts at 0.982 instead of 1 unless the first sigma is pinned.",
        (
            Parameter("square_k", 1.0, 0.01, 10.0, 0.01, "Slope in the middle. Larger: more steps at both ends."),
            Parameter(
                "base_c",
                0.5,
                0.0,
                1.0,
                0.01,
                "Where the middle lies. Raising it gives MORE steps at low sigma, the details, and a lower start; "
                "lowering it gives more at high sigma. (Other nodes' tooltips have it the wrong way round.)",
            ),
        ),
        from_table=True,
    ),
    "bong_tangent": Curve(
        bong_tangent,
        "Two arctangents, from 1 to 0.5 and from 0.5 to 0. The model's shift has no effect on it.",
        (
            Parameter("slope_1", 0.2, 0.001, 10.0, 0.001, "Steepness of the part above 0.5, for 40 steps."),
            Parameter("slope_2", 0.2, 0.001, 10.0, 0.001, "Steepness of the part below 0.5, for 40 steps."),
            Parameter("pivot_1", 0.6, 0.0, 1.0, 0.01, "Where the upper part is steepest, as a part of the steps."),
            Parameter("pivot_2", 0.6, 0.0, 1.0, 0.01, "The same for the lower part. The two's mean is where 0.5 lies."),
        ),
    ),
    "power_shift": Curve(
        power_shift,
        "(1 - u^power)^power: slow at the start and at the end.",
        (
            Parameter("power", 2.0, 0.05, 10.0, 0.01, "1: linear. Larger: more steps at both ends."),
            Parameter(
                "midpoint_shift",
                1.0,
                0.05,
                10.0,
                0.01,
                "Above 1: more steps at high sigma. Below 1: more at low sigma.",
            ),
        ),
        from_table=True,
    ),
    "linear": Curve(linear, "1 to 0 in equal steps, as diffusers samples. Ignores the model's shift."),
    "flux_shift": Curve(
        flux_shift,
        "Linear with FLUX's shift, larger for larger pictures, in place of the model's own. The trainer's previews and mlx-chroma "
        "sample with it; Chroma was trained without.",
        (
            Parameter("width", 1024, 16, 16384, 16, f"Width of the picture in pixels. {_SIZE}"),
            Parameter("height", 1024, 16, 16384, 16, f"Height of the picture in pixels. {_SIZE}"),
            Parameter("base_shift", 0.5, 0.0, 10.0, 0.01, "The exponent mu at 256 image tokens (256 x 256 pixels)."),
            Parameter("max_shift", 1.15, 0.0, 10.0, 0.01, "The exponent mu at 4096 image tokens (1024 x 1024 pixels)."),
        ),
    ),
    "fixed_shift": Curve(
        fixed_shift,
        "Linear with a shift, in place of the model's own.",
        (
            Parameter(
                "shift",
                3.0,
                0.01,
                100.0,
                0.01,
                "1: none, as Chroma was trained. Larger: more steps at high sigma. ComfyUI gives Chroma 3.16 by default.",
            ),
        ),
    ),
    "karras": Curve(
        karras,
        "Karras' curve fitted to [0, 1]: many steps at low sigma. Ignores the model's shift.",
        (Parameter("rho", 7.0, 1.0, 100.0, 0.1, "1: linear. Larger: more steps at low sigma."), _SIGMA_MIN),
    ),
    "exponential": Curve(
        exponential,
        "Equal ratios, fitted to [0, 1]: still more steps at low sigma. Ignores the model's shift.",
        (_SIGMA_MIN,),
    ),
}


# --- the way in ------------------------------------------------------------------------------------------------------


def schedule(
    name: str,
    steps: int,
    params: Mapping[str, float] | None = None,
    table: Table = None,
    *,
    denoise: float = 1.0,
    pin_first: bool = False,
    keep_steps: bool = False,
) -> Tensor:
    """A curve of `CURVES` by its name.

    params:    its parameters; those left out have their defaults.
    table:     the model's sigmas, rising; `flow_table()` if None.
    denoise:   below 1, the last steps of a schedule of int(steps / denoise), as the host's BasicScheduler; 0 gives ().
    pin_first: the first sigma, before denoise, is at least the table's last.
    keep_steps: replaces repeats by neighbouring sigmas, see `distinct`. Curves without repeats never lose steps.
    returns:   (steps + 1,) or less where repeats were dropped.
    raises:    ValueError naming the input, what was found and what is allowed.
    """
    curve = _curve(name)
    values = {**curve.defaults, **(params or {})}
    if unknown := sorted(set(values) - set(curve.defaults)):
        known = ", ".join(curve.defaults) or "none"
        raise ValueError(f"{name}: {unknown[0]} is not one of its parameters ({known})")
    _check_steps(name, steps)
    if not (isinstance(denoise, Real) and 0 <= denoise <= 1):
        raise ValueError(f"{name}: denoise is {denoise!r}; allowed is a number from 0 to 1")
    if denoise == 0:
        return torch.empty(0)
    if steps / denoise > MAX_TOTAL_STEPS:
        raise ValueError(
            f"{name}: denoise is {denoise!r}, which makes a schedule of {steps / denoise:.0f} steps; "
            f"allowed are {MAX_TOTAL_STEPS}, so set it to {steps / MAX_TOTAL_STEPS:g} or more"
        )
    total = steps if denoise == 1 else int(steps / denoise)
    if curve.from_table:
        sigmas = curve.function(total, table, keep_steps=keep_steps, **values)
    else:
        sigmas = curve.function(total, **values)
    if pin_first:
        sigmas[0] = max(sigmas[0], _checked_table(table)[-1])
    return sigmas[-(steps + 1) :]


def curve_points(
    name: str,
    steps: int,
    params: Mapping[str, float] | None = None,
    model_sigmas: Table = None,
    **options: Any,
) -> list[float]:
    """`schedule` as a list for JSON; for a model of shift 1 unless its sigmas are given. options: as there.

    raises:    ValueError as there, and for more than MAX_STEPS steps.
    """
    _check_steps(name, steps, MAX_STEPS)
    return schedule(name, steps, params, model_sigmas, **options).tolist()


def flux_mu(tokens: float, base_shift: float = 0.5, max_shift: float = 1.15) -> float:
    """FLUX's shift exponent, linear in the number of image tokens, also beyond both ends. The shift is e^mu.

    raises:    ValueError beyond MAX_MU.
    """
    low, high = FLUX_TOKENS
    slope = (max_shift - base_shift) / (high - low)
    mu = tokens * slope + (base_shift - slope * low)
    if not abs(mu) <= MAX_MU:
        raise ValueError(
            f"base_shift {base_shift:g} and max_shift {max_shift:g} make a shift of e^{mu:.1f} for {tokens:g} image tokens "
            f"(width x height / {PIXELS_PER_TOKEN}); allowed is e^{MAX_MU:g}. Use smaller shifts, or a smaller size"
        )
    return mu


def check_parameters(name: str, values: Mapping[str, Any]) -> None:
    """raises ValueError for a curve's parameter that is no number or out of its range, with its name and the range."""
    for p in CURVES[name].parameters:
        value, kind = values[p.name], Integral if p.is_integer else Real
        if isinstance(value, bool) or not isinstance(value, kind) or not p.low <= value <= p.high:
            number = "a whole number" if p.is_integer else "a number"
            raise ValueError(f"{name}: {p.name} is {value!r}; allowed is {number} from {p.low} to {p.high}")


def distinct(places: np.ndarray, last: int) -> np.ndarray:
    """Strictly falling integers in [0, last], as near to `places` as can be.

    places:    (n,) integers in [0, last], none above the one before.
    returns:   (n,); the greatest distance from places is minimal. Without repeats: places.
    raises:    ValueError if n is above last + 1.
    """
    n = len(places)
    if n > last + 1:
        raise ValueError(
            f"keep_steps: a schedule of {n} steps needs as many sigmas, and the model has {last + 1}. Use fewer steps, "
            "more denoise, or switch keep_steps off"
        )
    # q falls strictly where q + i falls. The nearest falling numbers lie half-way between the minimum up to each place
    # and the maximum from it on.
    ahead = np.arange(n)
    raised = places + ahead
    after = np.maximum.accumulate(raised[::-1])[::-1]
    before = np.minimum.accumulate(raised)
    return np.clip((after + before) // 2, n - 1, last) - ahead


# --- shared ----------------------------------------------------------------------------------------------------------


def _times(steps: int) -> np.ndarray:
    """u: 0 to 1 without 1."""
    return np.linspace(0, 1, steps, endpoint=False)


def _shifted(t: np.ndarray, shift: float) -> np.ndarray:
    return shift * t / (1 + (shift - 1) * t)


def _look_up(places: np.ndarray, table: Table, keep_steps: bool) -> Tensor:
    """The table's sigmas at falling places in [0, 1], then 0; repeats are dropped, or moved apart for keep_steps."""
    table = _checked_table(table)
    last = len(table) - 1
    indices = np.rint(places * last).astype(int)
    if keep_steps:
        indices = distinct(indices, last)
    sigmas = table[torch.from_numpy(indices)]
    new = torch.ones(len(sigmas), dtype=torch.bool)
    new[1:] = sigmas[1:] < sigmas[:-1]
    if keep_steps and not bool(new.all()):
        raise ValueError(
            "keep_steps: the model's own sigmas repeat, since its shift is very large. Use a smaller shift"
        )
    return torch.cat((sigmas[new], torch.zeros(1)))


def _falling(name: str, sigmas: Any) -> Tensor:
    """Sigmas above 0 as float32, then a 0."""
    out = torch.tensor([*sigmas, 0.0], dtype=torch.float32)
    if not bool((out[1:] < out[:-1]).all()):
        raise ValueError(
            f"{name}: these parameters make neighbouring sigmas equal with {len(out) - 1} steps. Use fewer steps, or "
            "values nearer to the defaults"
        )
    return out


def _checked_table(table: Table) -> Tensor:
    if table is None:
        return flow_table()
    table = torch.as_tensor(table, dtype=torch.float32).detach().cpu()
    fits = table.ndim == 1 and len(table) > 1 and bool(table.isfinite().all()) and float(table[0]) > 0
    if not fits or bool((table[1:] < table[:-1]).any()):
        found = ", ".join(f"{s:g}" for s in table.flatten()[:3].tolist())
        raise ValueError(
            f"model_sigmas are {found} ... of the shape {tuple(table.shape)}; allowed are two or more numbers above 0 "
            "that rise. Check the shift that the model was given"
        )
    return table


def _curve(name: str) -> Curve:
    if not isinstance(name, str) or name not in CURVES:
        raise ValueError(f"curve {name!r} is not known. Choose one of: {', '.join(CURVES)}")
    return CURVES[name]


def _check_steps(name: str, steps: Any, most: int | None = None) -> None:
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 1 or (most and steps > most):
        allowed = f"a whole number from 1 to {most}" if most else "a whole number of at least 1"
        raise ValueError(f"{name}: steps is {steps!r}; allowed is {allowed}")


def _check(name: str, steps: Any, **values: Any) -> None:
    _check_steps(name, steps)
    check_parameters(name, values)
