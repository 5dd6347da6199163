"""Wildcards in a prompt: `{red|grey}` becomes one of its words, `__animal__` a line of the file animal.txt.

The common form of other packs: a weight before an alternative, `{3::red|grey}`; both may stand within each other. Braces
without `|` stay, so that a prompt may be JSON. A backslash keeps a character as it is: `\\{`, `\\|`, `\\}`, `\\_`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import re
from pathlib import Path
from typing import Callable, Sequence

from .rows import lines_of

ESCAPED = "{|}_"
WEIGHT = re.compile(r"\s*(\d+(?:\.\d+)?)::")
NAME = re.compile(r"__((?!_)[\w./+-]+?(?<!_))__(?!_)")
MAX_DEPTH = 20  # of wildcards within wildcards
MAX_CHOICES = 10_000  # made for one text
SUFFIX = ".txt"

Choices = Callable[[str], Sequence[str]]  # name of a file -> its lines


def resolved(text: str, numbers: random.Random, choices: Choices) -> str:
    """The text with one of each choice.

    numbers: makes the choices; of the same seed the same on every system.
    raises:  ValueError for wildcards that lead to each other without end, and whatever `choices` raises.
    """
    made = itertools.count(1)

    def counted(name: str) -> Sequence[str]:
        if next(made) > MAX_CHOICES:
            raise ValueError(
                f"wildcards lead to more than {MAX_CHOICES:,} others, the last __{name}__. Use fewer of them in each other's files"
            )
        return choices(name)

    return _resolved(text, numbers, counted, ())


def _resolved(text: str, numbers: random.Random, choices: Choices, within: tuple[str, ...]) -> str:
    """within: wildcards around this text."""
    if len(within) > MAX_DEPTH:
        raise ValueError(
            f"wildcards stand within wildcards more than {MAX_DEPTH} deep ({' > '.join(within[:4])} > ...). Break the circle"
        )
    groups = groups_of(text)
    out: list[str] = []
    at = 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] and text[at + 1] in ESCAPED:
            out.append(text[at + 1])
            at += 2
        elif at in groups:
            *bars, end = groups[at]
            parts = [text[a + 1 : b] for a, b in zip((at, *bars), (*bars, end))]
            out.append(_resolved(one_of(parts, numbers), numbers, choices, (*within, "{}")))
            at = end + 1
        elif text[at] == "_" and (found := NAME.match(text, at)):
            lines = choices(found[1])
            line = lines[min(int(numbers.random() * len(lines)), len(lines) - 1)]
            out.append(_resolved(line, numbers, choices, (*within, found[0])))
            at = found.end()
        else:
            out.append(text[at])
            at += 1
    return "".join(out)


def groups_of(text: str) -> dict[int, list[int]]:
    """Place of each `{` with alternatives -> those of its own `|`, and of its `}` last."""
    out, ahead = {}, []
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "{":
            ahead.append((at, []))
        elif text[at] == "|" and ahead:
            ahead[-1][1].append(at)
        elif text[at] == "}" and ahead:
            start, bars = ahead.pop()
            if bars:
                out[start] = [*bars, at]
        at += 1
    return out


def one_of(parts: Sequence[str], numbers: random.Random) -> str:
    """An alternative by its weight, 1 if it has none. raises: ValueError if all weigh nothing."""
    found = [WEIGHT.match(part) for part in parts]
    weights = [float(match[1]) if match else 1.0 for match in found]
    if not 0 < sum(weights) < math.inf:
        raise ValueError(f"the alternatives {'|'.join(parts)[:80]} weigh {sum(weights):g} in all. Raise a weight")
    drawn = numbers.random() * sum(weights)
    totals = list(itertools.accumulate(weights))
    at = next((i for i, total in enumerate(totals) if drawn < total), totals.index(totals[-1]))
    part, match = parts[at], found[at]
    return part[match.end() :] if match else part


class Folder:
    """Wildcard files below a folder: NAME.txt, a choice a line, in folders too (`__animals/birds__`); each is read once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.read: dict[str, list[str]] = {}

    def choices(self, name: str) -> list[str]:
        """raises: ValueError naming the file where it is not there, empty or not UTF-8."""
        if name not in self.read:
            self.read[name] = self._lines(name)
        return self.read[name]

    def _lines(self, name: str) -> list[str]:
        path = Path(os.path.normpath(self.folder / f"{name}{SUFFIX}"))
        told = f"{self.folder.name}/{name}{SUFFIX}"
        if self.folder not in path.parents:
            raise ValueError(f"__{name}__ leads out of the folder {self.folder.name}. Name a file in it")
        try:
            lines = lines_of(path.read_text(encoding="utf-8-sig"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{told} is not in UTF-8 ({error}). Save it as UTF-8") from error
        except OSError as error:
            raise ValueError(
                f"__{name}__: {told} cannot be read ({error.strerror}). Put it there with a choice a line, or write "
                f"\\_\\_ for the characters themselves"
            ) from error
        if not lines:
            raise ValueError(f"{told} has no lines to choose from. Write a choice a line")
        return lines

    def state(self) -> list[tuple[str, int, int]]:
        """(name, time, size) of every file, those of linked folders too, by which a change shows."""
        found = []
        seen: set[str] = set()  # a link may lead back to a folder above it
        for folder, inner, names in os.walk(self.folder, followlinks=True):
            seen.add(os.path.realpath(folder))
            inner[:] = [name for name in inner if os.path.realpath(os.path.join(folder, name)) not in seen]
            for path in (Path(folder) / name for name in names if name.endswith(SUFFIX)):
                with contextlib.suppress(OSError):  # a link that leads nowhere
                    stat = path.stat()
                    found.append((path.relative_to(self.folder).as_posix(), stat.st_mtime_ns, stat.st_size))
        return sorted(found)
