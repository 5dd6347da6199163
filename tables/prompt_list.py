"""The rows of one run in the page: a prompt, a seed and a label each, and the columns of its table."""

from __future__ import annotations

import random
import re
import reprlib
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from .places import whole_number
from .rows import PROMPT, REMARK, Row
from .wildcards import Choices, resolved

NEGATIVE, SEED, LABEL = "negative prompt", "seed", "label"
NEGATIVES = (NEGATIVE, "negative", "negative_prompt")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
MAX_SEED = 2**64 - 1
MAX_ENTRIES = 10_000  # of one run: the host keeps all their latents until the last is sampled


@dataclass(frozen=True)
class Entry:
    """One picture to be. values: its row by column, as the file has them."""

    prompt: str
    negative: str
    seed: int
    label: str
    values: Mapping[str, Any]


def entries(rows: Sequence[Row], text: str, seed: int, repeats: int, choices: Choices) -> list[Entry]:
    """Every row `repeats` times, each with wildcards of its own and a seed of its own.

    text:   the prompt of rows that have none.
    seed:   of the first picture, one more for each; a column `seed` counts from its own. Of wildcards too.
    raises: ValueError naming the row.
    """
    if not rows:
        raise ValueError("there are no rows. Write a prompt a line, or choose a file")
    if len(rows) * repeats > MAX_ENTRIES:
        raise ValueError(
            f"{len(rows)} rows, {repeats} times each, are more than {MAX_ENTRIES:,} pictures in one run. Take fewer rows at "
            "a time, or use python tools batch, which can be stopped and goes on"
        )
    out = []
    for row in rows:
        for repeat in range(repeats):
            try:
                out.append(entry(row, text, seed, len(out), repeat, choices))
            except ValueError as error:
                raise ValueError(f"row {row.number}: {error}") from error
    return out


def entry(row: Row, text: str, seed: int, index: int, repeat: int, choices: Choices) -> Entry:
    """index: of the picture among all. repeat: of the picture among those of its row. raises: ValueError."""
    if row.error:
        raise ValueError(row.error)
    values = {name.strip(): value for name, value in row.values.items() if not name.startswith(REMARK)}
    lower = {name.lower(): value for name, value in values.items()}
    numbers = random.Random(f"{seed}/{index}")  # noqa: S311  a choice to be repeated, no secret
    given = str(lower.get(PROMPT, text)).strip()
    if not given:
        there = ", ".join(map(repr, values)) or "nothing"
        raise ValueError(
            f"it has no prompt, only {there}. Give the table a column {PROMPT}, or write one into the node's text"
        )
    negative = next((str(lower[name]) for name in NEGATIVES if name in lower), "")
    prompt, negative = (resolved(part, numbers, choices) for part in (given, negative))
    own = (seed_of(lower[SEED]) + repeat if SEED in lower else seed + index) % (MAX_SEED + 1)
    label = str(lower.get(LABEL) or f"{own}: {prompt}")
    return Entry(prompt, negative, own, label, values)


def seed_of(value: Any) -> int:
    """raises: ValueError unless it is a seed."""
    try:
        number = None if isinstance(value, bool) else whole_number(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or not 0 <= number <= MAX_SEED:
        raise ValueError(f"seed is {reprlib.repr(value)}, expected a whole number from 0 to {MAX_SEED}")
    return number


def value_of(values: Mapping[str, Any], column: str) -> int | float | str | bool:
    """What a row has in a column: a number where it is one, else text.

    raises: ValueError if the row has none.
    """
    found = {name.lower(): value for name, value in values.items()}.get(column.strip().lower())
    if found is None or isinstance(found, (list, dict)):
        there = ", ".join(map(repr, values)) or "nothing"
        raise ValueError(
            f"a row has no value in the column {column!r}; it has {there}. Fill the cell, or name another column"
        )
    if not isinstance(found, str):
        return found
    if not NUMBER.fullmatch(found.strip()):
        return found
    return int(found) if found.strip().lstrip("+-").isdecimal() else float(found)
