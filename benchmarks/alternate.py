"""How far may `alternate` follow the line that it forecasts guidance by? Each share of its slope, on the demo model.

It takes half an hour or so. `TRUST` of samplers/guided_run.py should be the share that is nearest to the solution where alternate pays.
"""

from __future__ import annotations

import math
from typing import Mapping, Sequence
from unittest import mock

import numpy as np
import torch

from . import two_seeds
from .likeness import psnr
from .measure import Kept
from .painter import Painter, Painting, Setting

CFG, NUM_QUESTIONS = 3.0, 12
EXACT = Setting(100, CFG, "chroma_res_2s", "linear")
SCHEDULE, PARAMS = "beta", {"alpha": 0.6, "beta": 0.6}
SAMPLERS = ("euler", "chroma_sigma_2m")
STEPS = (8, 12, 17, 20, 26, 39)
TRUSTS = (0.0, 0.25, 0.5, 0.75, 1.0)
COLUMNS = {
    "forwards": ".1f",
    "distance": ".4f",
    "of plain with as many": ".4f",
    "ratio": ".2f",
    "PSNR to plain, dB": ".1f",
    **two_seeds.SHARES,
}


def plain(sampler: str, steps: int) -> Setting:
    return Setting(steps, CFG, sampler, SCHEDULE, PARAMS)


def alternating(sampler: str, steps: int) -> Setting:
    return Setting(steps, CFG, sampler, SCHEDULE, PARAMS, guidance={"alternate": True})


def steps_of(forwards: float) -> int:
    """Steps of plain guidance with as many forwards, or one more where that is odd."""
    return math.ceil(round(forwards, 3) / 2)


def figures(found: Painting, exact: Painting, same: Painting, as_many: Painting) -> dict[str, float]:
    """What COLUMNS tell of one seed. same: plain guidance with the same steps; as_many: with as many forwards."""
    off, other = found.distance(exact), as_many.distance(exact)
    ratio = float(np.median([psnr(a, b) for a, b in zip(found.pictures, same.pictures)]))
    return dict(zip(COLUMNS, (found.forwards, off, other, off / other, ratio))) | found.shares()


def measured(painter: Painter, kept: Kept, sampler: str, steps: int, trust: float) -> list[dict[str, float]]:
    """Of both seeds."""
    with mock.patch.object(painter.guided_run, "TRUST", trust):
        found = painter.paint_all(alternating(sampler, steps))
    exact, same = painter.paint_once(kept, EXACT), painter.paint_once(kept, plain(sampler, steps))
    as_many = painter.paint_once(kept, plain(sampler, steps_of(found[0].forwards)))
    return [figures(*four) for four in zip(found, exact, same, as_many)]


def mean_ratio(rows: Sequence[two_seeds.Row]) -> two_seeds.Row:
    """Over the rows, of each seed: the geometric mean."""
    return [{"ratio": float(np.exp(np.mean([np.log(row[i]["ratio"]) for row in rows])))} for i in range(2)]


def nearest(ratios: Mapping[tuple[str, int, float], two_seeds.Row]) -> tuple[float, list[str]]:
    """The trust that is nearest where fewer plain steps are further off than some trust, and where that is."""
    means = {key: float(np.prod([one["ratio"] for one in row])) ** 0.5 for key, row in ratios.items()}
    cells = [(s, n) for s in SAMPLERS for n in STEPS if min(means[s, n, t] for t in TRUSTS) < 1]
    best = min(TRUSTS, key=lambda t: float(np.prod([means[s, n, t] for s, n in cells])))
    return best, [f"{s} {n}" for s, n in cells]


@torch.inference_mode()
def main(rounds: int) -> None:
    from demo import evaluate, exam

    painter = Painter(evaluate.Studio("fp32"), exam.mixed(NUM_QUESTIONS))
    painter.warm_up()
    kept = Kept("alternate", [painter.asked, EXACT, SCHEDULE, PARAMS, CFG])
    rows: dict[tuple[str, int, float], two_seeds.Row] = {}
    for sampler in SAMPLERS:
        for steps in STEPS:
            for trust in TRUSTS:
                rows[sampler, steps, trust] = kept.row(
                    ["alternate", sampler, steps, trust],
                    lambda s=sampler, n=steps, t=trust: measured(painter, kept, s, n, t),
                )
                print(sampler, steps, trust, two_seeds.cells(rows[sampler, steps, trust], COLUMNS), flush=True)
    by_trust = {
        (sampler, trust): mean_ratio([rows[sampler, steps, trust] for steps in STEPS])
        for sampler in SAMPLERS
        for trust in TRUSTS
    }
    best, pays = nearest({key: mean_ratio([row]) for key, row in rows.items()})
    form = {"ratio": ".2f"}
    lines = [
        f"The demo model in float32, {NUM_QUESTIONS} prompts {two_seeds.ASKED}, with two unseen seeds each, cfg {CFG:g}, "
        f"{plain('euler', 1).schedule_text()}. `alternate` computes uncond in every second step and forecasts cond - uncond between "
        "them by the line through the last two; `trust`: the share of its slope that is taken, 0 repeating the last. `forwards`: "
        f"prompts computed for a picture; `distance`: relative, of the latent to that of {EXACT.steps} steps of {EXACT.sampler}, mean; "
        "`of plain with as many`: the distance of plain guidance with as many forwards, or one more where that is odd; `ratio`: of "
        "the two, so that above 1 fewer plain steps are better; `PSNR to plain`: to the same number of plain steps, median; "
        f"{two_seeds.TOLD}. {two_seeds.CAVEAT}.",
        "",
        "## Which trust",
        "",
        "The ratio, geometric mean over the numbers of steps.",
        "",
        f"| trust | {' | '.join(SAMPLERS)} |",
        "|---|" + "---|" * len(SAMPLERS),
    ]
    for trust in TRUSTS:
        cells = [two_seeds.cells(by_trust[sampler, trust], form)[0] for sampler in SAMPLERS]
        lines.append(f"| {trust:g} | {' | '.join(cells)} |")
    lines += [
        "",
        two_seeds.noise_line(list(by_trust.values()), form),
        "",
        f"It pays with {', '.join(pays) or 'none'} steps; nearest over these: {best:g}; in samplers/guided_run.py: "
        f"{painter.guided_run.TRUST:g}.",
        "",
        "## By steps",
        "",
        f"| sampler, steps, trust | {' | '.join(COLUMNS)} |",
        "|---|" + "---|" * len(COLUMNS),
        *(
            f"| {sampler}, {steps}, {trust:g} | {' | '.join(two_seeds.cells(row, COLUMNS))} |"
            for (sampler, steps, trust), row in rows.items()
        ),
        "",
        two_seeds.noise_line(list(rows.values()), COLUMNS),
    ]
    kept.write("How far alternate may follow its line", lines)
