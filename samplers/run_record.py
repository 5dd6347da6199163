"""What a guided run cost and did, as numbers for a picture's metadata and as text for a person."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Mapping

from torch import Tensor

from ..constants import WARNING, Line, Lines, counted


@dataclass
class RunRecord:
    """Filled while the run lasts; `finished` is False if it was stopped or failed.

    done:    number of steps that were finished, and done_seconds the time until then; `step_done` counts them.
    prompts: conditionings that went through the network, those for uncond included.
    calls:   of the network; several prompts may share one.
    plain:   prompts that plain CFG computes; None if a side has several conditionings.
    stopped: the step at which cond and uncond were found alike.
    cosines: (step, cosine of cond and uncond); `close` makes numbers of tensors.
    warm:    seconds and prompts at the second evaluation, when the model is loaded and all is compiled.
    memory:  bytes of the device that the run has used at most; 0 if that is not known.
    more:    further facts, such as where the settings are from; plain values only.
    """

    cfg: float
    steps: int
    prompts: int = 0
    uncond_prompts: int = 0
    calls: int = 0
    seconds: float = 0.0
    finished: bool = False
    done: int = 0
    done_seconds: float = 0.0
    plain: int | None = None
    evaluations: int = 0
    zeroed: int = 0
    skipped: int = 0
    extrapolated: int = 0
    stopped: int | None = None
    cosines: list[tuple[int, Tensor | float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warm: tuple[float, int] | None = None
    memory: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)

    def evaluation_begins(self, seconds: float) -> None:
        """An evaluation, which is counted already, begins so many seconds after the run."""
        if self.evaluations == 2:
            self.warm = seconds, self.prompts

    @property
    def prompt_seconds(self) -> float | None:
        """Seconds of a prompt once the model is loaded; None if the run has not ended well or is too short to tell."""
        if not self.finished or self.warm is None or self.prompts <= self.warm[1]:
            return None
        return (self.seconds - self.warm[0]) / (self.prompts - self.warm[1])

    def step_done(self, step: int, seconds: float) -> None:
        """Another step is finished, so many seconds after the run's begin. step: its number, from 0."""
        self.done, self.done_seconds = step + 1, seconds

    @property
    def step_seconds(self) -> float | None:
        """Seconds a step, of those that were finished; None if none was."""
        if self.finished:
            return self.seconds / max(self.steps, 1)
        return self.done_seconds / self.done if self.done else None

    def close(self) -> None:
        """Ends the record; it then holds no tensor."""
        self.cosines = [(step, float(value)) for step, value in self.cosines]

    def facts(self) -> dict[str, Any]:
        """For a picture's metadata: numbers and lists only."""
        out = {
            "cfg": self.cfg,
            "steps": self.steps,
            "steps_done": self.steps if self.finished else self.done,
            "prompts_computed": self.prompts,
            "uncond_computed": self.uncond_prompts,
            "network_calls": self.calls,
            "seconds": round(self.seconds, 3),
            "finished": self.finished,
            "evaluations": self.evaluations,
            "steps_zeroed": self.zeroed,
            "uncond_skipped": self.skipped,
            "uncond_extrapolated": self.extrapolated,
            "uncond_stopped_at_step": self.stopped,
            "cosines": [[step, round(value, 5) if math.isfinite(value) else None] for step, value in self.cosines],
        }
        if self.notes:
            out["notes"] = self.notes
        return {**out, **self.more}

    def text(self, settings: str = "") -> Lines:
        """For a person, on the node: time and warnings first, then the settings, what it cost, what was left out."""
        speed = f", {self.step_seconds:.2f} s a step" if self.step_seconds is not None else ""
        lines: list[str] = [f"{self.seconds:.1f} s{speed}"]
        if not self.finished:
            lines.append(Line("stopped before its end", WARNING, f": {self.done} of {self.steps} steps are done"))
        lines += [*self.notes, *([settings] if settings else [])]
        return Lines([*lines, *(self._computed() if self.evaluations else [])])

    def _computed(self) -> list[str]:
        line = f"{counted(self.steps, 'step')}, cfg {self.cfg:g}: {counted(self.prompts, 'prompt')} computed in {counted(self.calls, 'forward')}"
        lines = [line + (f"; plain CFG computes {self.plain}" if self.plain is not None else "")]
        counts = {
            "evaluations zeroed": self.zeroed,
            "uncond skipped": self.skipped,
            "uncond extrapolated": self.extrapolated,
        }
        if any(counts.values()):
            lines.append(", ".join(f"{count} {what}" for what, count in counts.items() if count))
        if self.stopped is not None:
            lines.append(f"cond and uncond alike from step {self.stopped + 1} on")
        if self.cosines:
            values = [float(value) for _, value in self.cosines]
            lines.append(f"cosine of cond and uncond {values[0]:.3f} to {values[-1]:.3f}, least {min(values):.3f}")
        return lines
