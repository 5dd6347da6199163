"""What the Doctor finds, and what it is told beside the graph."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Collection, Iterator, Mapping

from .queued_graph import Graph
from .queued_run import QueuedRun

HARM, IDLE, HINT = "does harm", "does nothing", "hint"
SEVERITIES = (HARM, IDLE, HINT)
TOKENS_A_WORD = (1.0, 1.8)  # T5 in English prose: a minimum and a generous maximum


@dataclass(frozen=True)
class Insert:
    """A node that is missing, to be put into links.

    kind:    its class. into: (node, input), all of one source, which get its first output instead.
    through: its input that takes that source. values: (input, value) of its own.
    also:    (input, (node, input)): an input of its own that takes what that one gets.
    """

    kind: str
    into: tuple[tuple[str, str], ...]
    through: str = "model"
    values: tuple[tuple[str, Any], ...] = ()
    also: tuple[tuple[str, tuple[str, str]], ...] = ()


@dataclass(frozen=True)
class Finding:
    """severity: one of SEVERITIES. node_id: whose setting it is. fix: (input, value) of that node that mend it alone.

    insert: a node that mends it alone.
    """

    severity: str
    node_id: str
    title: str
    text: str
    remedy: str
    fix: tuple[tuple[str, Any], ...] = ()
    insert: Insert | None = None


@dataclass(frozen=True)
class Facts:
    """What is known beside the graph.

    tokens: of a prompt by its text, where somebody has counted them.
    unknown: tokens of a prompt, by its text, that T5 does not know, where somebody has counted them.
    slow:   node of a loader -> how much slower this device multiplies its weights as they are stored.
    float32: nodes of loaders whose models compute in float32.
    """

    tokens: Mapping[str, int]
    slow: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    float32: Collection[str] = ()

    def least(self, text: str) -> int:
        return self.tokens.get(text, math.ceil(TOKENS_A_WORD[0] * len(text.split())) + 1)

    def most(self, text: str) -> int:
        words = len(re.findall(r"\w+|[^\w\s]", text))
        return self.tokens.get(text, min(math.ceil(TOKENS_A_WORD[1] * words), len(text)) + 1)


Rule = Callable[[Graph, QueuedRun, Facts], Iterator[Finding]]
RULES: list[Rule] = []  # in the order of the files' names and of their lines


def rule(function: Rule) -> Rule:
    """Decorator of every rule. A function without it never runs; a test looks for such."""
    RULES.append(function)
    return function
