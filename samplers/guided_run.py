"""One run under guidance: what each evaluation of the model computes, and at what scale.

Plain torch; `host/sample/guiders.py` puts it into the host's sampling.
"""

from __future__ import annotations

import bisect
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from .guidance import apg, cfg, cfg_zero_star, extrapolate, normalise, rescale, similarity
from .run_record import RunRecord
from .traits import ROUGH_SAMPLERS

FORMS = ("plain", "CFG-Zero*", "APG")
CONSTANT = "constant"
CURVES = (CONSTANT, "linear", "cosine", "list")
COMPUTE, EXTRAPOLATE, SKIP, SHOW = "compute", "extrapolate", "skip", "show"  # what becomes of uncond
TRUST = 1.0  # share of the slope that EXTRAPOLATE takes; benchmarks/alternate.py compares others
SLACK = 1e-6  # relative; sigmas are float32
FIRST_SIGMA_SLACK = 1e-3  # relative; some samplers begin just below sigma 1, since its logit is infinite
USES_UNCOND = "the sampler uses the negative prompt itself, so it is computed in every step"
OFF_SCHEDULE = "the sampler does not keep to the schedule's sigmas, so nothing is extrapolated between steps"
ROUGH = "alternate is off: with extrapolated steps this sampler's picture is far from that of plain CFG"


def within(sigma: float, interval: tuple[float, float]) -> bool:
    """Whether a sigma in float32 lies between an upper and a lower one, both included."""
    return interval[1] * (1 - SLACK) <= sigma <= interval[0] * (1 + SLACK)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise ValueError(f"{name} is {value}; it must be from {low:g} to {high:g}")


@dataclass(frozen=True)
class Guidance:
    """How a run is guided; the defaults are plain CFG.

    curve:            of the scale over the run: constant; linear or cosine from cfg to `end`; list through `values`.
    skip_first_steps: cond only for the first n steps, -1 for all of them.
    guided_steps:     cond only from this step on, counted from 0; or None.
    zero_init_steps:  the first n steps do nothing at all, as in CFG-Zero*.
    percent, sigmas:  where the scale acts: (start, end) from 0 to 1, or (upper, lower) sigma; at most one.
    stop_above:       cosine of cond and uncond above which uncond is no longer computed; or None.
    alternate:        computes uncond in every second step only, and between them extrapolates cond - uncond.
    """

    form: str = "plain"
    eta: float = 0.0
    norm_threshold: float = 0.0
    momentum: float = 0.0
    rescale: float = 0.0
    normalise: bool = False
    curve: str = CONSTANT
    end: float = 1.0
    values: tuple[float, ...] = ()
    skip_first_steps: int = 0
    guided_steps: int | None = None
    zero_init_steps: int = 0
    percent: tuple[float, float] | None = None
    sigmas: tuple[float, float] | None = None
    stop_above: float | None = None
    alternate: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("form", self.form, FORMS), ("curve", self.curve, CURVES)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        _check("rescale", self.rescale, 0, 1)
        _check("the end of the curve", self.end, 0, 100)
        _check("eta", self.eta, -10, 10)
        _check("norm_threshold", self.norm_threshold, 0, math.inf)
        _check("momentum", self.momentum, -1, 1)
        _check("skip_first_steps", self.skip_first_steps, -1, math.inf)
        _check("zero_init_steps", self.zero_init_steps, 0, math.inf)
        if self.guided_steps is not None:
            _check("guided_steps", self.guided_steps, 0, math.inf)
        if self.curve == "list" and not self.values:
            raise ValueError("the list of cfg values is empty; write numbers with commas, such as 5, 4, 3")
        for value in self.values:
            _check("a value of the list of cfg values", value, 0, 100)
        if self.stop_above is not None:
            _check("the threshold of the cosine", self.stop_above, -1, 1)
        if self.percent is not None:
            start, end = self.percent
            _check("the interval's start", start, 0, 1)
            _check("the interval's end", end, start, 1)
        if self.sigmas is not None:
            high, low = self.sigmas
            _check("the interval's upper sigma", high, 0, math.inf)
            _check("the interval's lower sigma", low, 0, high)

    @property
    def changes(self) -> str:
        """What replaces or follows plain CFG, in words; empty for plain CFG."""
        names = [self.form if self.form != "plain" else "", "rescale" if self.rescale else ""]
        return ", ".join(filter(None, [*names, "normalise" if self.normalise else ""]))

    def scale(self, start: float, step: int, num_steps: int) -> float:
        """The scale of a step, the first being 0."""
        progress = step / max(num_steps - 1, 1)
        if self.curve == "linear":
            return start + (self.end - start) * progress
        if self.curve == "cosine":
            return self.end + (start - self.end) * (1 + math.cos(math.pi * progress)) / 2
        if self.curve == "list":  # one value a step, else interpolated
            place = progress * (len(self.values) - 1)
            low, high = int(place), min(int(place) + 1, len(self.values) - 1)
            return self.values[low] + (self.values[high] - self.values[low]) * (place - low)
        return start


def parse_values(text: str) -> tuple[float, ...]:
    """Numbers from "5, 4, 3".

    raises: ValueError naming what is no number.
    """
    values = []
    for part in re.split(r"[,;\n，、；]", text):
        if part.strip():
            try:
                values.append(float(part))
            except ValueError:
                raise ValueError(
                    f"{part.strip()!r} in the list of cfg values is no number; write e.g. 5, 4, 3"
                ) from None
    return tuple(values)


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of the model is to do.

    step:   the sampler's step that it belongs to, the first being 0.
    zero:   nothing is computed: the velocity is 0.
    uncond: COMPUTE, EXTRAPOLATE, SKIP (cond alone guides) or SHOW (the same, but the sampler sees uncond).
    scale:  of the guidance.
    """

    step: int
    zero: bool
    uncond: str
    scale: float

    @property
    def alone(self) -> bool:
        """Whether the guidance takes cond alone."""
        return self.uncond in (SKIP, SHOW)


@dataclass
class GuidedRun:
    """The state of one sampling run under a Guidance. It ends with the run; `record` stays.

    sigmas:   of the run: falling, or rising from a picture to noise.
    start:    the scale of the first step.
    interval: upper and lower sigma of the Guidance's interval, or None.
    sampler:  its name in ComfyUI; empty if it has none.
    guides:   whether there is an uncond to leave out.
    now:      what the current evaluation is to do; `sigma` is its noise level.
    known:    the last two (sigma, difference of velocities), from two steps; `known_step` is the later.
    acts:     the conditionings and patches that `known` was computed with.
    """

    guidance: Guidance
    sigmas: list[float]
    start: float
    interval: tuple[float, float] | None = None
    sampler: str = ""
    guides: bool = True
    now: Evaluation | None = None
    sigma: float = 0.0
    average: Tensor | None = None
    known: list[tuple[float, Tensor]] = field(default_factory=list)
    known_step: int | None = None
    acts: Any = None
    last_step: int = -1
    keeps_to_schedule: bool = True
    record: RunRecord = field(init=False)

    def __post_init__(self) -> None:
        self.record = RunRecord(self.start, self.num_steps)

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1

    def begin(self, sigma: float, uses_uncond: bool = False, acts: Any = None) -> Evaluation:
        """Starts an evaluation at sigma, and says what it is to do.

        uses_uncond: the sampler looks at uncond itself.
        acts:        which conditionings and patches act: nothing is extrapolated across a change of it.
        """
        if acts != self.acts:
            self.acts, self.known = acts, []
        self.sigma, self.now = sigma, self.evaluation(sigma)
        self.watch_schedule(sigma, self.now.step)
        if uses_uncond and self.now.uncond != COMPUTE:
            self.now = replace(self.now, uncond=SHOW if self.now.alone else COMPUTE)
            self.note(USES_UNCOND)
        if self.now.uncond == EXTRAPOLATE and (not self.keeps_to_schedule or self.sampler in ROUGH_SAMPLERS):
            self.now = replace(self.now, uncond=COMPUTE)
            self.note(ROUGH if self.keeps_to_schedule else OFF_SCHEDULE)
        self.record.evaluations += 1
        self.record.zeroed += self.now.zero
        if self.record.plain is not None:
            self.record.plain += 2
        return self.now

    def watch_schedule(self, sigma: float, step: int) -> None:
        """A sampler keeps to the schedule if it begins each step at that step's sigma and leaves none out."""
        if step > self.last_step:
            begins = math.isclose(sigma, self.sigmas[step], rel_tol=FIRST_SIGMA_SLACK)
            self.keeps_to_schedule &= begins and step == self.last_step + 1
            self.last_step = step

    def note(self, text: str) -> None:
        """For the report, once."""
        if text not in self.record.notes:
            self.record.notes.append(text)

    def evaluation(self, sigma: float) -> Evaluation:
        """What to do at sigma. A sampler's inner stages belong to the step whose sigma they have reached."""
        rising = self.sigmas[-1] > self.sigmas[0]  # from a picture to noise
        reached = [s if rising else -s for s in self.sigmas]
        step = bisect.bisect_right(reached, sigma * (1 + SLACK) if rising else -sigma * (1 - SLACK)) - 1
        step = min(max(step, 0), max(self.num_steps - 1, 0))
        guidance = self.guidance
        first = max(guidance.skip_first_steps, guidance.zero_init_steps)  # first step with uncond
        alone = (
            guidance.skip_first_steps == -1
            or step < first
            or (guidance.guided_steps is not None and step >= guidance.guided_steps)
            or self.record.stopped is not None
            or (self.interval is not None and not within(sigma, self.interval))
        )
        uncond = SKIP if alone else COMPUTE
        if not alone and guidance.alternate and (step - first) % 2 and len(self.known) == 2:
            uncond = EXTRAPOLATE
        return Evaluation(
            step, step < guidance.zero_init_steps, uncond, guidance.scale(self.start, step, self.num_steps)
        )

    def end(self) -> None:
        """No tensor outlives the run."""
        self.record.close()
        self.known, self.average = [], None

    def expected(self, cond: Tensor, sigma: float) -> Tensor:
        """The uncond to expect: denoised, extrapolated from earlier steps."""
        return cond + sigma * extrapolate(self.known, sigma, TRUST).to(cond)

    def learn(self, evaluation: Evaluation, cond: Tensor, uncond: Tensor, x: Tensor, sigma: float) -> None:
        """Takes note of a computed pair of denoised predictions."""
        velocities = (x - cond) / sigma, (x - uncond) / sigma
        cosine = similarity(*velocities)
        self.record.cosines.append((evaluation.step, cosine.min()))
        threshold = self.guidance.stop_above
        looks = threshold is not None and self.record.stopped is None  # a sampler may use uncond after that step too
        if looks and float(cosine.min()) > threshold:  # waits for the device; only where asked for
            self.record.stopped = evaluation.step
        if self.guidance.alternate:
            if self.known and self.known_step == evaluation.step:  # one step's stages are too close for a line
                self.known.pop()
            self.known_step = evaluation.step
            self.known = [*self.known[-1:], (sigma, velocities[0] - velocities[1])]

    def combine(self, cond: Tensor, uncond: Tensor, scale: float, x: Tensor, sigma: float) -> Tensor:
        """Joins two denoised predictions in the Guidance's form."""
        guidance = self.guidance
        if not guidance.changes:
            return cfg(cond, uncond, scale)
        velocity = (x - cond) / sigma
        if guidance.form == "APG":
            guided, self.average = apg(
                cond, uncond, scale, self.average, guidance.eta, guidance.norm_threshold, guidance.momentum
            )
            guided = (x - guided) / sigma
        else:
            combined = cfg_zero_star if guidance.form == "CFG-Zero*" else cfg
            guided = combined(velocity, (x - uncond) / sigma, scale)
        if guidance.rescale:
            guided = rescale(guided, velocity, guidance.rescale)
        if guidance.normalise:
            guided = normalise(guided, velocity)
        return x - sigma * guided
