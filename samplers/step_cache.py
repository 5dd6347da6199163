"""Which steps of a run compute the whole network, and which forecast what its later blocks would add.

A forecast step runs the first block only. What the other blocks added in the last computed steps (the residual) is
carried on along a line over sigma, for each conditioning by itself. Plain torch; `host/run/step_cache.py` puts it into the
host's runs.

Sources: first-block gating: ParaAttention's First Block Cache; forecasts of features: TaylorSeer (arXiv:2503.06923).
Shapes: B rows of one conditioning, L tokens, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Sequence

import torch
from torch import Tensor

from ..constants import counted
from .traits import adds_noise

FIRST_SHARE, LAST = 0.2, 3  # of the steps at the start, and how many at the end, are always computed
SEEN = 2  # steps ago at most a conditioning was called if it still is: `alternate` leaves out every second one
SAMPLED = 8  # of so many tokens one is looked at by the gate
SMALL = 1e-12  # in float32; divisors are at least this
SLACK = 1e-4  # relative, of a sigma beside the schedule's; the host's are float32

OFF_SCHEDULE = "the sampler computes the model beside the schedule's sigmas, so every step is computed"
TWICE = "the sampler computes the model twice a step, so every step is computed"
NOISY = "the sampler adds fresh noise, so every step is computed"


def num_first(steps: int) -> int:
    return max(2, math.ceil(FIRST_SHARE * steps))


def least(steps: int) -> int:
    """How many of so many steps have to be computed: those at both ends, and no two forecasts in a row."""
    return steps - max(0, math.ceil((steps - num_first(steps) - LAST) / 2))


def plan(steps: int, compute: int) -> tuple[bool, ...]:
    """For each step whether it is computed: `compute` of them in all, the others spread evenly.

    raises: ValueError if that is more than there are, or fewer than `least`.
    """
    if not least(steps) <= compute <= steps:
        raise ValueError(
            f"{compute} of {steps} steps cannot be computed; of {steps} steps it must be {least(steps)} to {steps}, since the "
            "first fifth and the last three always are, and no two forecasts follow each other"
        )
    first, spread = num_first(steps), steps - compute
    places = steps - first - LAST
    apart = (places - 1) / (spread - 1) if spread > 1 else 0.0
    start = first if spread > 1 else first + (places - 1) // 2
    forecasts = {start + math.floor(i * apart) for i in range(spread)}
    return tuple(i not in forecasts for i in range(steps))


@dataclass(frozen=True)
class CacheSettings:
    """compute:   share of the steps that are computed, by a plan that is known beforehand; None: by `threshold`.
    threshold: a step is forecast while the first block's residual has changed by less than this, relative, since the last
               computed one.
    max_error: nothing is forecast any more once a forecast was found to be further off, relative; 0 for no limit.
    """

    compute: float | None = 0.65
    threshold: float = 0.1
    max_error: float = 0.0

    def steps_asked(self, steps: int) -> int:
        """Of so many steps, under a plan."""
        share = 1.0 if self.compute is None else self.compute
        return min(steps, round(share * steps))

    def steps_to_compute(self, steps: int) -> int:
        """The same, and at least as many as have to be."""
        return max(least(steps), self.steps_asked(steps))


@dataclass
class Stream:
    """Residuals of one conditioning at its last two computed steps, (B, L, D).

    acts:        what acted beside it in them, such as a ControlNet; where that changes, another stream begins.
    step:        of its last call.
    first:       the first block's at the last call, of every SAMPLEDth token; only for a gate.
    change:      of that since the last computed step, accumulated; last_change: from the last call but one to the last.
    is_forecast: whether its last call was.
    """

    acts: Any = None
    step: int = 0
    sigmas: list[float] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)
    first: Tensor | None = None
    change: float = 0.0
    last_change: float = 0.0
    is_forecast: bool = False

    def keep(self, sigma: float, residual: Tensor) -> None:
        self.sigmas, self.residuals = [*self.sigmas[-1:], sigma], [*self.residuals[-1:], residual]
        self.change, self.is_forecast = 0.0, False

    def look(self, now: Tensor) -> None:
        """Takes the first block's residual of a call."""
        if self.first is not None and self.first.shape == now.shape:
            self.last_change = float((now - self.first).abs().mean() / self.first.abs().mean().clamp(min=SMALL))
            self.change += self.last_change
        self.first = now

    @property
    def num_bytes(self) -> int:
        kept = [*self.residuals, *([] if self.first is None else [self.first])]
        return sum(tensor.nbytes for tensor in kept)

    def forecast(self, sigma: float) -> Tensor:
        """Along the line through the last two residuals, in float32, since it may leave float16's range."""
        (s0, s1), (r0, r1) = self.sigmas, self.residuals
        return torch.lerp(r0.float(), r1.float(), (sigma - s0) / (s1 - s0))


@dataclass
class CacheRecord:
    """What a run did.

    computed:  steps that were for at least one conditioning; forecast: those that were for none.
    errors:    (step, relative error of the forecast that was made beside a computed call), of steps that may be forecast.
    num_bytes: the most that was kept at a time; conditionings: of how many.
    """

    steps: int
    computed: set[int] = field(default_factory=set)
    forecast: set[int] = field(default_factory=set)
    errors: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_bytes: int = 0
    conditionings: int = 0

    def text(self) -> str:
        """For people."""
        lines = [f"{len(self.computed)} of {len(self.computed) + len(self.forecast)} steps computed"]
        if self.num_bytes:
            told = f"{self.num_bytes / 1e6:.0f} MB" if self.num_bytes >= 1e6 else f"{self.num_bytes / 1e3:.0f} kB"
            lines[0] += f", {told} kept for {counted(self.conditionings, 'prompt')}"
        if self.errors:
            step, worst = max(self.errors, key=lambda pair: pair[1])
            mean = sum(error for _, error in self.errors) / len(self.errors)
            lines.append(f"forecasts off by {mean:.1%} in the mean, {worst:.1%} at most (step {step + 1})")
        return "\n".join([*lines, *self.notes])


class CachedRun:
    """One run. Of each call of the network `decide` is asked after the first block, `result` after the last."""

    def __init__(self, settings: CacheSettings, sigmas: Sequence[float], sampler: str = ""):
        """sigmas: the schedule, n + 1. sampler: its name, by which those that add noise are known.

        Conditionings may be computed on several devices, each by a thread that adds its own to `streams`.
        """
        self.settings, self.levels = settings, list(sigmas[:-1])
        steps = len(self.levels)
        self.record = CacheRecord(steps)
        self.plan = None
        if settings.compute is not None:
            compute = settings.steps_to_compute(steps)
            self.plan = plan(steps, compute)
            if settings.steps_asked(steps) < compute:
                self.record.notes.append(f"{compute} of {steps} steps is the least that can be computed")
        self.pending: list[tuple[int, Tensor]] = []  # errors that nobody waits for
        self.streams: dict[Any, Stream] = {}
        self.seen: set[tuple[int, Any]] = set()
        self.decided: dict[int, bool] = {}  # step -> whether it may be forecast
        self.off = False
        if adds_noise(sampler):
            self.stop(NOISY)

    def stop(self, why: str) -> None:
        if not self.off:
            self.off = True
            self.record.notes.append(why)

    def step_of(self, sigma: float) -> int | None:
        """Number of the step at this sigma; None beside the schedule."""
        near = min(range(len(self.levels)), key=lambda i: abs(self.levels[i] - sigma))
        return near if abs(self.levels[near] - sigma) <= SLACK * self.levels[near] else None

    def sampled(self, img: Tensor) -> Tensor | None:
        """What the gate looks at of the first block's input (B, L, D), copied, since the host's blocks write into theirs."""
        return img[:, ::SAMPLED].clone() if self.plan is None else None

    def decide(
        self, sigma: float, keys: Sequence[Any], before: Tensor | None, after: Tensor, acts: Any = None
    ) -> tuple[int | None, bool]:
        """(number of the step, whether this call is forecast).

        keys:   one for each conditioning in the call, in the order of its rows.
        before: what `sampled` gave of the first block's input; None under a plan.
        after:  the first block's result, (B, L, D).
        acts:   what acts at this noise level and may not at others: nothing is forecast across a change of it.
        """
        step = self.step_of(sigma)
        if step is None:
            self.stop(OFF_SCHEDULE)
        elif any((step, key) in self.seen for key in keys):
            self.stop(TWICE)
        if step is None or self.off:
            if step is not None:
                self._count(step, False)
            return step, False
        self.seen.update((step, key) for key in keys)
        streams = [self._stream(key, acts, step) for key in keys]
        if (
            step not in self.decided
        ):  # before the step is looked at, so that prompts in one call and apart are decided alike
            self.decided[step] = self._wants_forecast(step)
        stays = True
        if before is not None:
            for stream, now in zip(streams, (after[:, ::SAMPLED].float() - before.float()).chunk(len(keys))):
                stream.look(now)
            stays = max(s.change for s in streams) < self.settings.threshold
        forecast = (
            self.decided[step]
            and stays
            and all(
                len(s.residuals) == 2 and s.residuals[0].shape == rows.shape and not s.is_forecast
                for s, rows in zip(streams, after.chunk(len(keys)))
            )
        )
        for stream in streams:
            stream.is_forecast, stream.step = forecast, step
        self._count(step, forecast)
        return step, forecast

    def _stream(self, key: Any, acts: Any, step: int) -> Stream:
        stream = self.streams.get(key)
        if stream is None or stream.acts != acts:
            stream = self.streams[key] = Stream(acts, step)
        return stream

    def _count(self, step: int, forecast: bool) -> None:
        record = self.record
        if not forecast:
            record.computed.add(step)
            record.forecast.discard(step)
        elif step not in record.computed:
            record.forecast.add(step)

    def may_be_forecast(self, step: int) -> bool:
        """Whether a step is neither of the first nor of the last, which are always computed."""
        steps = len(self.levels)
        return num_first(steps) <= step < steps - LAST

    def _wants_forecast(self, step: int) -> bool:
        if self.plan is not None:
            return not self.plan[step]
        inside = self.may_be_forecast(step) and not self.decided.get(step - 1, False)
        called = [s for s in list(self.streams.values()) if s.step >= step - SEEN]  # others have ended
        expected = [s.change + s.last_change for s in called]  # once the step has gone as the one before
        return inside and max(expected, default=math.inf) < self.settings.threshold

    def forecast(self, sigma: float, keys: Sequence[Any]) -> Tensor:
        """What the later blocks would add, for all rows of the call, in float32."""
        return torch.cat([self.streams[key].forecast(sigma) for key in keys])

    def learn(self, step: int | None, sigma: float, keys: Sequence[Any], residual: Tensor) -> None:
        """Takes what the later blocks have added in a computed call, and judges what would have been forecast."""
        if self.off or step is None:
            return
        for key, now in zip(keys, residual.chunk(len(keys))):
            stream = self.streams[key]
            known = len(stream.residuals) == 2 and stream.residuals[0].shape == now.shape
            if known and self.may_be_forecast(step):
                off = stream.forecast(sigma) - now
                size = now.norm(dtype=torch.float32).clamp(min=SMALL)
                self.pending.append((step, off.norm() / size))
            stream.keep(sigma, now.clone())
        self.record.num_bytes = max(self.record.num_bytes, sum(s.num_bytes for s in list(self.streams.values())))
        self.record.conditionings = max(self.record.conditionings, len(self.streams))
        if self.settings.max_error > 0:
            self._judge()

    def _judge(self) -> None:
        """Takes the errors from the device, which waits for it: once a run, or in each step if there is a limit."""
        pending, self.pending = self.pending, []
        for step, found in pending:
            error = float(found)
            self.record.errors.append((step, error))
            if 0 < self.settings.max_error < error:
                self.stop(f"a forecast was off by {error:.1%} at step {step + 1}, so the steps after it are computed")

    def end(self) -> None:
        """Tells the errors that are left, and lets go of every tensor."""
        self._judge()
        self.streams.clear()
