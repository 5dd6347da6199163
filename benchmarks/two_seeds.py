"""Tables of pictures tell their own noise: each row asks its questions with two seeds, and a cell is the mean of both.

Figures are column -> value, those of one seed; a column that a row has no value for is missing or NaN.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Iterable, Mapping, NamedTuple, Sequence

import numpy as np

from demo import exam

SECOND = 500_000  # from a question's first seed to its second
SHARES: Mapping[str, str] = {"thing": ".1%", "right": ".1%"}  # columns of the judge's verdicts, with forms
ASKED = "(half of them of known things, the others of styles held out of training, pairs of things, coloured shapes)"
CAVEAT = (
    "A model of a hundred things: it says which setting is cheap and which loses detail or the thing itself, and little of "
    "taste"
)
TOLD = "`thing`: the thing that was asked for; `right`: in its style and on its ground too"

Figures = Mapping[str, float]
Row = Sequence[Figures]  # of both seeds


class Answers(NamedTuple):
    """pictures: (B, H, W, 3) in [0, 1]. verdicts: (B, V) bool, V as in exam.VERDICTS. Both in the order of the questions."""

    pictures: np.ndarray
    verdicts: np.ndarray

    def share(self, name: str) -> float:
        return float(self.verdicts[:, exam.VERDICTS.index(name)].mean())

    def shares(self) -> dict[str, float]:
        return {name: self.share(name) for name in SHARES}


def both(asked: Sequence[exam.Question]) -> tuple[list[exam.Question], list[exam.Question]]:
    """The questions, and the same with their second seeds."""
    return list(asked), [replace(question, seed=question.seed + SECOND) for question in asked]


def answers(studio: Any, asked: Sequence[exam.Question], cfg: float, **more: Any) -> Answers:
    """Of one seed. more: of `Studio.answers`."""
    return judged(asked, dict(studio.answers(list(asked), cfg, **more)))


def judged(asked: Sequence[exam.Question], found: Mapping[exam.Question, np.ndarray]) -> Answers:
    verdicts = [question.verdict(found[question]) for question in asked]
    return Answers(
        np.stack([found[question] for question in asked]),
        np.array([[verdict[name] for name in exam.VERDICTS] for verdict in verdicts]),
    )


def cells(row: Row, columns: Mapping[str, str]) -> list[str]:
    """The mean of both seeds in each column's form; empty where there is none."""
    means = {name: np.mean([figures.get(name, math.nan) for figures in row]) for name in columns}
    return ["" if math.isnan(means[name]) else format(means[name], form) for name, form in columns.items()]


def noise(rows: Iterable[Row], column: str) -> float:
    """Half the difference between both seeds' figures, the root mean square over the rows; NaN if no row has any."""
    halves = [(one.get(column, math.nan) - other.get(column, math.nan)) / 2 for one, other in rows]
    found = [half for half in halves if not math.isnan(half)]
    return math.sqrt(sum(half**2 for half in found) / len(found)) if found else math.nan


def noise_line(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """The line that a table of these rows has below it."""
    found = {name: noise(rows, name) for name in columns}
    told = [
        f"{name} {format(found[name], '.1%' if form.endswith('%') else '.2g')}"
        for name, form in columns.items()
        if not math.isnan(found[name])
    ]
    return "Noise, half the difference between the two seeds, root mean square over the rows: " + "; ".join(told) + "."
