"""Blocks by kind and number, as people write them: "double 3, single 0-9"."""

from __future__ import annotations

import re
import reprlib
from typing import Iterable, Mapping

Block = tuple[str, int]  # ("double" or "single", its number)
_SEPARATORS = re.compile("[,，、;]")
_BLOCKS = re.compile(r"(double|single)(?:\s+(\d{1,6})(?:\s*-\s*(\d{1,6}))?)?")


def parse_blocks(text: str, counts: Mapping[str, int], kind: str = "") -> frozenset[Block]:
    """Blocks from a list such as "double, single 0-9, single 12"; nothing from an empty text.

    counts: "double" and "single" -> how many the model has.
    kind:   where all are of one: the list then holds numbers alone, such as "3, 4" or "0-5".
    raises: ValueError for a part that names no blocks, or for an unknown number.
    """
    blocks: set[Block] = set()
    for part in filter(None, (part.strip() for part in _SEPARATORS.split(text.lower()))):
        found = _BLOCKS.fullmatch(f"{kind} {part}" if kind else part)
        if found is None:
            remedy = "numbers, e.g. 3, 4 or 0-5" if kind else "all, or e.g. double, single 0-9, single 12"
            raise ValueError(f"{reprlib.repr(part)} in the list names no block; write {remedy}")
        of_kind, first, last = found.groups()
        count = counts[of_kind]
        low = int(first) if first else 0
        high = int(last or first) if first else count - 1
        if low > high or high >= count:
            raise ValueError(f"{reprlib.repr(part)}: this model has the {of_kind} blocks 0 to {count - 1}")
        blocks |= {(of_kind, i) for i in range(low, high + 1)}
    return frozenset(blocks)


def numbers_text(numbers: Iterable[int]) -> str:
    """Numbers as a list with ranges: "0-2, 5"."""
    runs: list[list[int]] = []
    for i in sorted(numbers):
        if runs and runs[-1][1] == i - 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(f"{low}-{high}" if high > low else str(low) for low, high in runs)


def blocks_text(blocks: Iterable[Block]) -> str:
    """Blocks as `parse_blocks` takes them: "double 3, single 0-9, single 12"."""
    blocks = set(blocks)
    lists = ((kind, numbers_text(i for k, i in blocks if k == kind)) for kind in ("double", "single"))
    return ", ".join(f"{kind} {part}" for kind, numbers in lists if numbers for part in numbers.split(", "))
