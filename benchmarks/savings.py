"""How far is each sampler's picture from its own with plain CFG, where uncond is left out? The demo model, all samplers.

It takes an hour or more.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import torch

from . import two_seeds
from .measure import Kept

SCALE, NUM_QUESTIONS = 3.0, 4
BAR = 4.0  # of 255, mean: above it `alternate` is off for a sampler. A gap lies there that is wider than the noise
SETTINGS = {
    "alternate": {"alternate": True},
    "skip 2": {"skip_first_steps": 2},
    "interval to 0.4": {"percent": (0.0, 0.4)},
    "stop at 0.98": {"stop_above": 0.98},
}
COLUMNS = dict.fromkeys(SETTINGS, ".2f")  # mean difference of 255
Cell = tuple[
    float, bool, float
]  # that difference, whether the run found that it had to compute uncond, share of prompts
Told = list[dict[str, Cell]]  # of each seed, by the settings' names


def figures(row: Told) -> two_seeds.Row:
    return [{name: cell[0] for name, cell in one.items()} for one in row]


def cells(row: Told) -> list[str]:
    told = two_seeds.cells(figures(row), COLUMNS)
    noted = ["*" * any(one[name][1] for one in row) for name in SETTINGS]
    shares = [np.mean([one[name][2] for one in row]) for name in SETTINGS]
    return [f"{off}{star} ({share:.2f})" for off, star, share in zip(told, noted, shares)]


def measured(studio: Any, patched: Any, sampler: str, asked: list[Any]) -> dict[str, Cell]:
    """Of one seed. patched: guidance's values and a list that gets every run's record -> the model."""

    def paint(**settings: Any) -> tuple[np.ndarray, int, bool]:
        told: list[Any] = []
        studio.model, studio.sampler = patched(settings, told), sampler
        found = dict(studio.answers(asked, SCALE, len(asked)))
        pictures = np.stack([found[question] for question in asked])
        return pictures, sum(r.prompts for r in told), any(r.notes for r in told)

    exact, whole, _ = paint()
    out = {}
    for name, settings in SETTINGS.items():
        pictures, prompts, noted = paint(**settings)
        out[name] = float(np.abs(pictures - exact).mean()) * 255, noted, prompts / whole
    return out


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate, exam

    studio = evaluate.Studio("fp32")  # which finds the host
    guiders, run = dev.load_pack("host.sample.guiders"), dev.load_pack("samplers.guided_run")
    base, asked = studio.model, two_seeds.both(exam.mixed(NUM_QUESTIONS))

    def patched(settings: dict[str, Any], told: list[Any]) -> Any:
        return guiders.GuidancePatch(run.Guidance(**settings), report=told.append).on(base)

    lines = [
        f"{NUM_QUESTIONS} prompts of the demo with two seeds each, {evaluate.STEPS} steps of {evaluate.SCHEDULE}, cfg {SCALE:g}: "
        "mean difference to the same sampler's picture with plain CFG, of 255, and the share of prompts computed. `*`: the run "
        "found that the sampler needs uncond, or that it leaves the schedule, and computed it. Above "
        f"{BAR:g} under `alternate` a sampler is in `ROUGH_SAMPLERS`, and computes uncond in every step.",
        "",
        "| sampler | " + " | ".join(SETTINGS) + " |",
        "|---|" + "---|" * len(SETTINGS),
    ]
    kept = Kept("savings", [asked, SCALE, SETTINGS, evaluate.STEPS, evaluate.SCHEDULE, evaluate.SHIFT])
    rows: dict[str, Told] = {}
    with mock.patch.object(run, "ROUGH_SAMPLERS", frozenset()):  # measured without the table that follows from this
        for sampler in studio.comfy.samplers.SAMPLER_NAMES:
            rows[sampler] = kept.row(sampler, lambda s=sampler: [measured(studio, patched, s, part) for part in asked])
            lines.append(f"| {sampler} | {' | '.join(cells(rows[sampler]))} |")
            print(lines[-1], flush=True)
    found = {sampler for sampler, row in rows.items() if float(two_seeds.cells(figures(row), COLUMNS)[0]) > BAR}
    lines += [
        "",
        two_seeds.noise_line([figures(row) for row in rows.values()], COLUMNS),
        "",
        f"Above the bar: {', '.join(sorted(found)) or 'none'}; in the table: {', '.join(sorted(run.ROUGH_SAMPLERS)) or 'none'}.",
    ]
    kept.write("Savings by sampler", lines)
