"""Copies of a workflow's nodes for an XY plot: one picture for each value of two inputs, everything else made once."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from . import rows
from .places import Named, ObjectInfo, Place, Prompt, places_of, spec, taken_as, with_values

MAX_VALUES, MAX_CELLS = 100, 400
ID_CHARS = 12  # of a copy's id, from a hash of its values
FINGERPRINT = "is_changed"  # where the host keeps that of a node, beside its inputs
Link = Sequence[Any]  # [node's id, number of its output]


@dataclass(frozen=True)
class Axis:
    """One input and what it is set to. name: as a person wrote it. values: as the input takes them."""

    name: str
    place: Place
    values: tuple[Any, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(f"{self.name}: {value}" for value in self.values)


@dataclass(frozen=True)
class Cell:
    """One picture: its place in the plot, where it comes from, and which copies are on the way to it."""

    column: int
    row: int
    picture: Link
    copies: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """nodes: copies by their ids, in the prompt's form. cells: in the order in which least is loaded twice."""

    nodes: dict[str, dict[str, Any]]
    cells: list[Cell]


def axis(name: str, input_name: str, text: str, workflow: Named, object_info: ObjectInfo) -> Axis:
    """name: as it is shown. raises: ValueError if no input, or more than one, has the name, or a value is not one that it takes."""
    found = places_of(input_name, workflow, object_info)
    node, place = workflow.prompt[found[0].node], found[0]
    kind, options = spec(node, place.name, object_info)
    is_text = kind == "STRING"
    values = tuple(taken_as(value, kind, options, name) for value in values_of(text, is_text))
    if len(values) > MAX_VALUES:
        raise ValueError(f"{name} has {len(values)} values, expected at most {MAX_VALUES}. Write fewer")
    return Axis(name, place, values)


def values_of(text: str, is_text: bool) -> list[Any]:
    """A value a line, else as `rows.values_of` reads a line; each once. is_text: commas belong to the value.

    raises: ValueError if there is none.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    is_list = text.lstrip().startswith("[")
    found = rows.values_of(text, MAX_VALUES) if is_list or (len(lines) == 1 and not is_text) else lines
    if not (found := [value for value in found if value != ""]):
        raise ValueError("there are no values. Write them as 3, 4, 5 or 1..4, texts one a line")
    return list({json.dumps(value): value for value in found}.values())


def plan(prompt: Prompt, picture: Link, axes: Sequence[Axis], prefix: str) -> Plan:
    """The copies and the cells of a plot with one or two axes, the first across.

    A node is copied only if a changed value reaches it, and once for each value that does; of the others the outputs are
    linked. prompt: the picture's node and those before it. prefix: of the copies' ids, which follow from the values alone:
    what was computed is found again.

    raises: ValueError for two axes of one input, values that would do nothing, or too many pictures.
    """
    if len({one.place for one in axes}) < len(axes):
        raise ValueError(f"x and y both set {axes[0].name}. Choose another input for one of them")
    across, down = len(axes[0].values), len(axes[1].values) if len(axes) > 1 else 1
    if across * down > MAX_CELLS:
        raise ValueError(f"{across} x {down} pictures are more than {MAX_CELLS}. Write fewer values")
    reached = [reached_from(prompt, one.place.node) for one in axes]
    copied = {key: [key in nodes for nodes in reached] for key in prompt if any(key in nodes for nodes in reached)}
    out: dict[str, dict[str, Any]] = {}
    cells = []
    by_columns = len(axes) > 1 and len(reached[0]) > len(reached[1])  # x reaches more, as a model's file does
    order = [(i, j) for i in range(across) for j in range(down)]
    for at in order if by_columns else sorted(order, key=lambda at: at[::-1]):
        values = {one.place: one.values[n] for one, n in zip(axes, at)}
        ids = {
            key: copy_id(prefix, key, [pair for pair, its in zip(values.items(), reach) if its])
            for key, reach in copied.items()
        }
        for key, new in ids.items():
            if new not in out:
                out[new] = copy_of(key, prompt[key], ids, values)
        cells.append(Cell(*at, [ids[picture[0]], picture[1]], tuple(ids.values())))
    return Plan(out, cells)


def copy_of(key: str, node: Mapping[str, Any], ids: Mapping[str, str], values: Mapping[Place, Any]) -> dict[str, Any]:
    """The host shows a copy's progress and pictures on the node that it was made from, and keeps each node's fingerprint in it,
    which is not the copy's."""
    inputs = {
        name: [ids.get(value[0], value[0]), *value[1:]] if is_link(value) else value
        for name, value in node["inputs"].items()
    }
    own = {place.name: value for place, value in values.items() if place.node == key}
    made = {name: value for name, value in node.items() if name != FINGERPRINT} | {"inputs": inputs}
    return {**with_values(made, own), "override_display_id": key}


def copy_id(prefix: str, key: str, values: Sequence[Any]) -> str:
    text = json.dumps([key, list(values)])
    return f"{prefix}{key}-{hashlib.sha256(text.encode()).hexdigest()[:ID_CHARS]}"


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def before(prompt: Prompt, key: str) -> set[str]:
    """A node and all before it."""
    seen, waiting = set(), [key]
    while waiting:
        key = waiting.pop()
        if key not in seen and key in prompt:
            seen.add(key)
            waiting += [value[0] for value in prompt[key]["inputs"].values() if is_link(value)]
    return seen


def reached_from(prompt: Prompt, key: str) -> set[str]:
    """A node and all after it."""
    takers = defaultdict(list)
    for taker, node in prompt.items():
        for value in node["inputs"].values():
            if is_link(value):
                takers[value[0]].append(taker)
    seen, waiting = set(), [key]
    while waiting:
        key = waiting.pop()
        if key not in seen:
            seen.add(key)
            waiting += takers[key]
    return seen
