"""What the training scripts share: rates whose end need not be known, averaged weights, state, a log with hours."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ContextManager, Iterable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

NUM_HELD = 2000  # steps at the full rate; from there it falls with the root of the step


def rate(step: int, warm_up: int, decay: tuple[int, int] | None = None, began: int = 0) -> float:
    """Share of the full learning rate: warm-up, constant, inverse square root; then, on request, a line down to 0.

    decay: (first step, number of steps) of that line.
    began: where the warm-up begins.
    """
    share = min(1.0, (step - began + 1) / warm_up) * (NUM_HELD / max(step, NUM_HELD)) ** 0.5
    if decay is None:
        return share
    begin, length = decay
    return share * min(1.0, max(0.0, 1 - (step - begin) / length))


def autocast(device: torch.device) -> torch.autocast:
    """Products in bfloat16 where that is quicker: on a GPU, and on a processor that multiplies in it."""
    able = torch.cpu.get_capabilities()
    quick = device.type != "cpu" or bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=quick)


def quick_attention(device: torch.device) -> ContextManager[None]:
    """Attention by its formula on a processor, where the fused one is slower for training on some hundred rows."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def average(ema: dict[str, Tensor], now: dict[str, Tensor], step: int, half_life: float) -> None:
    """Moves the averaged weights towards those of now; early on, faster."""
    keep = 0.5 ** (1 / min(half_life, 1 + step / 10))
    with torch.no_grad():
        for k, v in now.items():
            ema[k].lerp_(v, 1 - keep)


def save(state: dict[str, Any], path: Path) -> None:
    """All or nothing: a run that is killed while it writes keeps what it had."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    with partial.open("rb+") as f:
        os.fsync(f.fileno())
    partial.replace(path)


class StopRequest:
    """True once the process was asked to end (Ctrl-C, SIGTERM), so that a run saves first."""

    def __init__(self) -> None:
        self.came = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def _take(self, number: int, _: Any) -> None:
        self.came = True
        signal.signal(number, signal.SIG_DFL)  # the second one ends it at once

    def __bool__(self) -> bool:
        return self.came


@dataclass
class Log:
    """A line for people and a row for the card's curve; hours count on over restarts."""

    path: Path
    hours: float = 0.0
    _began: float = field(default_factory=time.time)

    def tick(self) -> float:
        """Adds the time since the last call; gives all hours so far."""
        now = time.time()
        self.hours += (now - self._began) / 3600
        self._began = now
        return self.hours

    def write(self, step: int, **figures: float | str) -> None:
        row = {"step": step, "hours": f"{self.tick():.4f}"} | {
            k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in figures.items()
        }
        print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)
        with self.path.open("a", newline="") as f:
            csv.writer(f, lineterminator="\n").writerow([f"{k}={v}" for k, v in row.items()])


def set_rate(optimisers: Iterable[torch.optim.Optimizer], value: float) -> None:
    for group in (g for o in optimisers for g in o.param_groups):
        group["lr"] = value
