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

from .traits import adds_noise

FIRST_SHARE, LAST = 0.2, 3  # of the steps at the start, and how many at the end, are always computed
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

    def steps_to_compute(self, steps: int) -> int:
        """Of so many steps, under a plan."""
        share = 1.0 if self.compute is None else self.compute
        return max(least(steps), min(steps, round(share * steps)))


@dataclass
class Stream:
    """Residuals of one conditioning at its last two computed steps, (B, L, D), and the first block's at the last."""

    sigmas: list[float] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)
    first: Tensor | None = None
    change: float = 0.0  # of the first block's residual since the last computed step, accumulated

    def keep(self, sigma: float, residual: Tensor) -> None:
        self.sigmas, self.residuals = [*self.sigmas[-1:], sigma], [*self.residuals[-1:], residual]
        self.change = 0.0

    def forecast(self, sigma: float) -> Tensor:
        """Along the line through the last two residuals."""
        (s0, s1), (r0, r1) = self.sigmas, self.residuals
        return torch.lerp(r0, r1, (sigma - s0) / (s1 - s0))


@dataclass
class CacheRecord:
    """What a run did. errors: (step, relative error of the forecast that was made beside a computed step)."""

    steps: int
    computed: set[int] = field(default_factory=set)
    forecast: set[int] = field(default_factory=set)
    errors: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        lines = [f"{len(self.computed)} of {len(self.computed) + len(self.forecast)} steps computed"]
        if self.errors:
            step, worst = max(self.errors, key=lambda pair: pair[1])
            mean = sum(error for _, error in self.errors) / len(self.errors)
            lines.append(f"forecasts off by {mean:.1%} in the mean, {worst:.1%} at most (step {step + 1})")
        return "\n".join([*lines, *self.notes])


class CachedRun:
    """One run. Of each call of the network `decide` is asked after the first block, `result` after the last."""

    def __init__(self, settings: CacheSettings, sigmas: Sequence[float], sampler: str = ""):
        """sigmas: the schedule, n + 1. sampler: its name, by which those that add noise are known."""
        self.settings, self.levels = settings, list(sigmas[:-1])
        steps = len(self.levels)
        self.record = CacheRecord(steps)
        self.plan = plan(steps, settings.steps_to_compute(steps)) if settings.compute is not None else None
        self.streams: dict[Any, Stream] = {}
        self.seen: set[tuple[int, Any]] = set()
        self.decided: dict[int, bool] = {}  # step -> whether it is forecast; all of its calls alike
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

    def decide(self, sigma: float, keys: Sequence[Any], first: Tensor) -> tuple[int | None, bool]:
        """(number of the step, whether this call is forecast).

        keys:  one for each conditioning in the call, in the order of its rows. first: what the first block added.
        """
        step = self.step_of(sigma)
        if step is None:
            self.stop(OFF_SCHEDULE)
        elif any((step, key) in self.seen for key in keys):
            self.stop(TWICE)
        if step is None or self.off:
            if step is not None:
                self.record.computed.add(step)
            return step, False
        self.seen.update((step, key) for key in keys)
        streams = [self.streams.setdefault(key, Stream()) for key in keys]
        if self.plan is None:
            self._gate(streams, first)
        if step not in self.decided:
            self.decided[step] = self._wants_forecast(step, streams)
        forecast = self.decided[step] and all(
            len(s.residuals) == 2 and s.residuals[0].shape == r.shape for s, r in zip(streams, first.chunk(len(keys)))
        )
        (self.record.forecast if forecast else self.record.computed).add(step)
        return step, forecast

    def _gate(self, streams: list[Stream], first: Tensor) -> None:
        for stream, now in zip(streams, first.chunk(len(streams))):
            if stream.first is not None and stream.first.shape == now.shape:
                stream.change += float((now - stream.first).abs().mean() / stream.first.abs().mean().clamp(min=1e-12))
            stream.first = now.clone()

    def _wants_forecast(self, step: int, streams: list[Stream]) -> bool:
        if self.plan is not None:
            return not self.plan[step]
        steps = len(self.levels)
        inside = num_first(steps) <= step < steps - LAST and not self.decided.get(step - 1, False)
        return inside and max(s.change for s in streams) < self.settings.threshold

    def forecast(self, sigma: float, keys: Sequence[Any]) -> Tensor:
        """What the later blocks would add, for all rows of the call."""
        return torch.cat([self.streams[key].forecast(sigma) for key in keys])

    def learn(self, step: int | None, sigma: float, keys: Sequence[Any], residual: Tensor) -> None:
        """Takes what the later blocks have added in a computed call, and judges what would have been forecast."""
        if self.off or step is None:
            return
        for key, now in zip(keys, residual.chunk(len(keys))):
            stream = self.streams[key]
            if len(stream.residuals) == 2 and stream.residuals[0].shape == now.shape:
                error = float((stream.forecast(sigma) - now).norm() / now.norm().clamp(min=1e-12))
                self.record.errors.append((step, error))
                if 0 < self.settings.max_error < error:
                    self.stop(
                        f"a forecast was off by {error:.1%} at step {step + 1}, so the steps after it are computed"
                    )
            stream.keep(sigma, now.clone())

    def end(self) -> None:
        """Lets go of every tensor."""
        self.streams.clear()
