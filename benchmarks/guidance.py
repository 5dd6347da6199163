"""What do intervals, skipped steps, adaptive thresholds, forms and NAG cost and do? The demo model and its judge."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Mapping, NamedTuple

import numpy as np
import torch

from . import likeness, two_seeds
from .measure import Kept, alternate

SCALE, HIGH = 3.0, 6.0
FLASH_STEPS = 8
NUM_QUESTIONS = 24
AWAY, STYLE, GROUND = "a 3D fox on a blue background", "3D", "blue"
NUM_AWAY, FIRST_AWAY = 32, 5000  # pictures without a prompt for each of two seeds, and the first seed's first
NAG = {"tau": 2.5, "alpha": 0.25, "percent": (0.0, 1.0), "blocks": None}
BATCH = 16
COST = {"prompts a step": ".2f"}
TIMED_QUESTIONS, TIMED_STEPS = 8, 8
COLUMNS = {**COST, **likeness.COLUMNS, **two_seeds.SHARES}


@dataclass(frozen=True)
class Line:
    """guidance: values of `samplers/guided_run.Guidance`. nag: of `host/run/nag.AttentionGuided`; none for the model as it is."""

    name: str
    cfg: float
    guidance: Mapping[str, Any] = field(default_factory=dict)
    nag: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Table:
    title: str
    steps: int
    first: Line  # what the others are compared with
    rest: tuple[Line, ...]


class Painted(NamedTuple):
    """Of one seed; see `two_seeds.Answers`. prompts: computed a step."""

    pictures: np.ndarray
    verdicts: np.ndarray
    prompts: float


def tables(steps: int) -> tuple[Table, ...]:
    """steps: of a run that is not said to be of few."""

    def at(cfg: float, settings: Mapping[str, Mapping[str, Any]]) -> tuple[Line, ...]:
        return tuple(Line(name, cfg, guidance) for name, guidance in settings.items())

    cheaper = {
        **{f"skip_first_steps {n}": {"skip_first_steps": n} for n in (1, 2, 4)},
        **{f"interval 0 to {p:g}": {"percent": (0.0, p)} for p in (0.2, 0.4, 0.6, 0.8)},
        "interval 0.1 to 0.6": {"percent": (0.1, 0.6)},
        **{f"stop when alike, {c:g}": {"stop_above": c} for c in (0.9, 0.95, 0.97, 0.98, 0.99)},
        "alternate": {"alternate": True},
        "alternate, stop at 0.98": {"alternate": True, "stop_above": 0.98},
        "linear to 1": {"curve": "linear", "end": 1.0},
        "cosine to 1": {"curve": "cosine", "end": 1.0},
    }
    forms = {
        "CFG-Zero*": {"form": "CFG-Zero*"},
        "CFG-Zero*, 1 zero-init step": {"form": "CFG-Zero*", "zero_init_steps": 1},
        "APG, eta 0": {"form": "APG"},
        "APG, eta 0, momentum -0.5": {"form": "APG", "momentum": -0.5},
        "rescale 0.7": {"rescale": 0.7},
        "normalise": {"normalise": True},
    }
    nag = {
        **{f"NAG {scale:g}, empty negative": {"scale": scale} for scale in (1.5, 2.0, 3.0, 5.0)},
        "NAG 5, empty negative, until a quarter": {"scale": 5.0, "percent": (0.0, 0.25)},
        "NAG 5, empty negative, single blocks only": {
            "scale": 5.0,
            "blocks": frozenset(("single", i) for i in range(8)),
        },
    }
    few = (Line("cfg 3", SCALE), *(Line(name, 1.0, nag={"text": "", **values}) for name, values in nag.items()))
    return (
        Table("Cheaper than plain CFG", steps, plain(SCALE), (Line("cfg 1", 1.0), *at(SCALE, cheaper))),
        Table(f"Forms at cfg {SCALE:g}", steps, plain(SCALE), at(SCALE, forms)),
        Table(f"Forms at cfg {HIGH:g}", steps, plain(HIGH), at(HIGH, forms)),
        Table(f"{FLASH_STEPS} steps at cfg 1, as Flash models run", FLASH_STEPS, plain(1.0), few),
    )


def plain(cfg: float) -> Line:
    return Line(f"plain, cfg {cfg:g}", cfg)


class Bench:
    """Paints lines of the tables, with both seeds."""

    def __init__(self, studio: Any, asked: Any):
        import dev

        self.studio, self.asked, self.base = studio, asked, studio.model
        self.guiders, self.nag = dev.load_pack("host.sample.guiders"), dev.load_pack("host.run.nag")
        self.guidance = dev.load_pack("samplers.guided_run").Guidance

    def away_from(self, text: str, **values: Any) -> Any:
        """A model that NAG takes away from a text. values: in place of those of NAG."""
        negative = self.nag.negative_text([[self.studio.text(text), {}]])
        return self.nag.AttentionGuided(negative, **{**NAG, **values}).on(self.base)

    def paint(self, line: Line, steps: int) -> list[Painted]:
        return [self.paint_one(self.model(line), line, steps, asked) for asked in self.asked]

    def model(self, line: Line) -> Any:
        return self.base if line.nag is None else self.away_from(**line.nag)

    def paint_one(self, model: Any, line: Line, steps: int, asked: Any) -> Painted:
        told: list[Any] = []
        self.studio.model = self.guiders.GuidancePatch(self.guidance(**line.guidance), report=told.append).on(model)
        found = dict(self.studio.answers(asked, line.cfg, BATCH, steps))
        prompts = sum(record.prompts for record in told) / sum(record.steps for record in told)
        return Painted(*two_seeds.judged(asked, found), prompts)


def figures(found: Painted, first: Painted) -> dict[str, float]:
    cost = {"prompts a step": found.prompts}
    likes = {} if found is first else likeness.figures(found.pictures, first.pictures)
    return {**cost, **likes, **two_seeds.Answers(found.pictures, found.verdicts).shares()}


def made(table: Table, bench: Bench, kept: Kept) -> list[str]:
    """Markdown of one table."""
    steps = table.steps
    first = kept.painted(Painted, [table.first, steps], lambda: bench.paint(table.first, steps))
    rows = {table.first.name: [figures(one, one) for one in first]}
    for line in table.rest:
        rows[line.name] = kept.row(
            [table.first, line, steps],
            lambda line=line: [figures(*pair) for pair in zip(bench.paint(line, steps), first)],
        )
        print(line.name, two_seeds.cells(rows[line.name], COLUMNS), flush=True)
    return [
        f"## {table.title}",
        "",
        f"| | {' | '.join(COLUMNS)} |",
        "|---|" + "---|" * len(COLUMNS),
        *(f"| {name} | {' | '.join(two_seeds.cells(row, COLUMNS))} |" for name, row in rows.items()),
        "",
        two_seeds.noise_line([rows[line.name] for line in table.rest], COLUMNS),
        "",
    ]


@torch.inference_mode()
def main(rounds: int) -> None:
    from demo import evaluate, exam

    studio = evaluate.Studio("fp32")  # which finds the host
    asked = two_seeds.both(exam.mixed(NUM_QUESTIONS))
    bench = Bench(studio, asked)
    list(studio.answers(asked[0], 2.0, BATCH, 1))  # warms up and encodes the prompts
    kept = Kept("guidance", [asked, evaluate.SAMPLER, evaluate.SCHEDULE, evaluate.SHIFT, BATCH, NAG])
    lines = [
        f"The demo model in float32, {NUM_QUESTIONS} prompts {two_seeds.ASKED}, with two unseen seeds each, {evaluate.STEPS} "
        f"{evaluate.SAMPLER} steps of {evaluate.SCHEDULE} unless said otherwise. `prompts a step`: prompts computed, 2 with plain "
        "CFG; "
        f"{likeness.TOLD}; {two_seeds.TOLD}. {two_seeds.CAVEAT}.",
        "",
    ]
    for table in tables(evaluate.STEPS):
        lines += made(table, bench, kept)
    lines += moving_away(bench, kept)
    lines += ["", *time_of_runs(bench, rounds)]
    kept.write("Guidance: cost and effect", lines)


TIMED = (
    plain(SCALE),
    Line("alternate", SCALE, {"alternate": True}),
    Line("interval 0 to 0.6", SCALE, {"percent": (0.0, 0.6)}),
    plain(1.0),
    Line("NAG 2, empty negative", 1.0, nag={"text": "", "scale": 2.0}),
    Line("NAG 2, a negative of some words", 1.0, nag={"text": AWAY, "scale": 2.0}),
)


def time_of_runs(bench: Bench, rounds: int) -> list[str]:
    asked = bench.asked[0][:TIMED_QUESTIONS]
    painted = {line.name: bench.paint_one(bench.model(line), line, TIMED_STEPS, asked) for line in TIMED}
    seconds = alternate(
        {line.name: lambda line=line: bench.paint_one(bench.model(line), line, TIMED_STEPS, asked) for line in TIMED},
        rounds,
    )
    base = seconds[plain(1.0).name]
    return [
        f"## Time of a run: {TIMED_QUESTIONS} prompts, {TIMED_STEPS} steps, with decoding",
        "",
        f"Median of {rounds} alternating rounds, relative to plain cfg 1 in the same round.",
        "",
        "| | prompts a step | time, ratio |",
        "|---|---|---|",
        *(
            f"| {name} | {painted[name].prompts:.2f} | {statistics.median(s / b for s, b in zip(values, base)):.2f} |"
            for name, values in seconds.items()
        ),
    ]


def moving_away(bench: Bench, kept: Kept) -> list[str]:
    """How many pictures without a prompt show what a negative prompt names, by NAG's scale."""
    columns = {f"{GROUND} backgrounds": ".0%", f"in {STYLE}": ".0%"}
    names = dict(zip(columns, (GROUND, STYLE)))

    def measured(scale: float | None) -> list[dict[str, float]]:
        model = bench.base if scale is None else bench.away_from(AWAY, scale=scale)
        seen = [seen_of(bench.studio, model, "", NUM_AWAY, FIRST_AWAY + i * NUM_AWAY) for i in range(2)]
        return [{column: one[name] / NUM_AWAY for column, name in names.items()} for one in seen]

    rows = {
        "without" if scale is None else f"{scale:g}": kept.row(
            [AWAY, scale, NUM_AWAY, FIRST_AWAY], lambda scale=scale: measured(scale)
        )
        for scale in (None, 2.0, 5.0, 9.0)
    }
    return [
        f"## Moving away: {2 * NUM_AWAY} pictures of the empty prompt at cfg 1, NAG's negative prompt `{AWAY}`",
        "",
        f"| NAG scale | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
        *(f"| {name} | {' | '.join(two_seeds.cells(row, columns))} |" for name, row in rows.items()),
        "",
        two_seeds.noise_line(list(rows.values()), columns),
    ]


def seen_of(
    studio: Any, model: Any, prompt: str, count: int, first_seed: int = FIRST_AWAY, batch: int = BATCH
) -> Counter:
    """What the judge sees in pictures of one prompt at cfg 1: ground, and thing and style as of a thing alone."""
    from demo import exam, judge_things

    studio.model = model
    seen: Counter = Counter()
    for start in range(0, count, batch):
        seeds = [first_seed + i for i in range(start, min(start + batch, count))]
        images = torch.from_numpy(studio.paint([prompt] * len(seeds), seeds, 1.0))
        for found in judge_things.look(images.permute(0, 3, 1, 2), *exam.judge_of_things()):
            seen.update((found.thing, found.style, found.ground))
    return seen
