"""A workflow as the page saves it, or as it exports it for the API -> the prompt that a server runs. Standard library only.

Knows what the page itself resolves: subgraphs within subgraphs, bypassed and muted nodes, reroutes, primitives, the values of
widgets by their position. `tests/browser/test_workflows.py` compares it with the page's own export.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple

from .. import load_pack

ERROR_TEXT, PLACES = load_pack("loaders.files.error_text"), load_pack("tables.places")
DYNAMIC_COMBO, SEEDS, Place = PLACES.DYNAMIC_COMBO, PLACES.SEEDS, PLACES.Place
choices, inputs_of, is_widget = PLACES.choices, PLACES.inputs_of, PLACES.is_widget
CONTROLS = ("fixed", "increment", "decrement", "randomize", "increment-wrap")  # a widget that the page adds to a number
UPLOADS = ("image_upload", "video_upload", "audio_upload")
ALWAYS, MUTED, BYPASSED = 0, 2, 4  # a node's `mode`
NOTES = ("Note", "MarkdownNote")
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"  # nodes of the page alone
PAGE_ONLY = (*NOTES, REROUTE, PRIMITIVE)
ANY = ("*", "")
MAX_NAMED = 8  # of the nodes in an error

Prompt = dict[str, dict[str, Any]]


class Saved(NamedTuple):
    """A value in a saved workflow: the graph's id (None: the outer one), the node's id, the key in `widgets_values`."""

    graph: Any
    node: Any
    key: int | str


@dataclass
class Converted:
    """A prompt, and the widgets that fill several of its inputs or have other names than they.

    shown: (title of the node that has the widget, name of the widget) -> inputs of the prompt that get its value.
    saved: input -> where the saved workflow has its value.
    """

    prompt: Prompt
    shown: dict[tuple[str, str], list[Place]] = field(default_factory=lambda: defaultdict(list))
    saved: dict[Place, Saved] = field(default_factory=dict)


class Source(NamedTuple):
    """Where an input gets its value from: an output of a node, or a widget of a subgraph or primitive."""

    node: str = ""
    slot: int = 0
    value: Any = None
    widget: tuple[str, str] | None = None  # title and name
    saved: Saved | None = None


def read(path: Path) -> dict[str, Any]:
    """A workflow from a file, in either form. raises: ValueError if it is none; OSError if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or lists within lists without end
        raise ValueError(
            f"{path.name} is no workflow: it is not JSON ({ERROR_TEXT.reason(error)}). Save it with Workflow > Save"
        ) from error
    if not is_saved(found) and not is_prompt(found):
        raise ValueError(
            f"{path.name} is JSON, but no workflow. Save one with Workflow > Save, or Workflow > Export (API)"
        )
    return found


def is_saved(workflow: Any) -> bool:
    """Whether it is the form that the page saves."""
    return isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list)


def is_prompt(workflow: Any) -> bool:
    """Whether it is the form that a server runs."""
    return (
        isinstance(workflow, dict)
        and bool(workflow)
        and all(isinstance(n, dict) and fits_types(n) for n in workflow.values())
    )


def fits_types(node: Mapping[str, Any]) -> bool:
    """Whether it has what a node of a prompt has."""
    meta, inputs = node.get("_meta", {}), node.get("inputs")
    return isinstance(node.get("class_type"), str) and isinstance(inputs, dict) and isinstance(meta, dict)


def convert(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Converted:
    """The prompt of a workflow in either form. object_info: the server's answer to /object_info.

    raises: ValueError for a node that the server does not know, and for a saved workflow that is damaged.
    """
    try:
        return converted(workflow, object_info)
    except (LookupError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        raise ValueError(
            f"the workflow is damaged ({type(error).__name__}: {ERROR_TEXT.reason(error)}). Open it on ComfyUI's page, and save it anew"
        ) from error


def converted(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Converted:
    """See `convert`; of a damaged workflow it raises what comes."""
    if is_prompt(workflow):
        unknown = sorted({node["class_type"] for node in workflow.values()} - set(object_info))
        refuse(unknown)
        return Converted({str(key): dict(node) for key, node in workflow.items()})
    definitions = {s["id"]: s for s in workflow.get("definitions", {}).get("subgraphs", ())}
    root = Scope(workflow, definitions, object_info)
    refuse(sorted(set(root.unknown())))
    out = Converted({})
    for key, node, scope in root.live():
        inputs: dict[str, Any] = {}
        for name, value, at in scope.values(node):
            inputs[name] = stored(value)
            if at is not None:
                out.saved[Place(key, name)] = Saved(scope.id, node["id"], at)
        for slot, entry in enumerate(node.get("inputs", ())):
            source = scope.source(slot, node)
            if source is None:
                continue
            if source.widget is not None:
                inputs[entry["name"]] = stored(source.value)
                out.shown[source.widget].append(Place(key, entry["name"]))
                out.saved[Place(key, entry["name"])] = source.saved
            else:
                inputs[entry["name"]] = [source.node, source.slot]
        out.prompt[key] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {
                "title": str(node.get("title") or "") or object_info[node["type"]].get("display_name") or node["type"]
            },
        }
    return out


def api_graph(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Prompt:
    """The prompt alone, see `convert`."""
    return convert(workflow, object_info).prompt


def saved_with(workflow: Mapping[str, Any], converted: Converted, prompt: Prompt) -> dict[str, Any] | None:
    """The workflow as the page saves it, with a prompt's values; None where one of them has no place in it."""
    if not is_saved(workflow):
        return None
    out = copy.deepcopy(dict(workflow))
    graphs = {s["id"]: s for s in out.get("definitions", {}).get("subgraphs", ())}
    for key, node in prompt.items():
        for name, value in node["inputs"].items():
            if value == converted.prompt[key]["inputs"].get(name):
                continue
            place = converted.saved.get(Place(key, name))
            if place is None:
                return None
            graph = out if place.graph is None else graphs[place.graph]
            next(n for n in graph["nodes"] if n["id"] == place.node)["widgets_values"][place.key] = value
    return out


def refuse(unknown: list[str]) -> None:
    if unknown:
        names = [name if name.isprintable() else ERROR_TEXT.short(name) for name in map(ERROR_TEXT.shortened, unknown)]
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        raise ValueError(
            f"the workflow has a node {', '.join(names[:MAX_NAMED])}{more}, which this ComfyUI does not know. Install its pack "
            "there, or export the workflow with Workflow > Export (API) if it is a node of the page alone"
        )


def stored(value: Any) -> Any:
    """A widget's value as the host takes it: a list would mean a link."""
    return {"__value__": value} if isinstance(value, list) else value


# --- graphs within graphs --------------------------------------------------------------------------------------------


class Link(NamedTuple):
    origin: Any
    slot: int


def link_of(saved: Any) -> tuple[Any, Link, Any]:
    """(id, link, target's id) of a link in either form: lists in the outer graph, dicts in subgraphs."""
    if isinstance(saved, dict):
        return saved["id"], Link(saved["origin_id"], saved["origin_slot"]), saved["target_id"]
    number, origin, slot, target, *_ = saved
    return number, Link(origin, slot), target


class Scope:
    """A graph: the outer one, or the inside of one node that is a subgraph."""

    def __init__(
        self,
        graph: Mapping[str, Any],
        definitions: Mapping[str, Any],
        object_info: Mapping[str, Any],
        holder: Mapping[str, Any] | None = None,
        outer: "Scope | None" = None,
    ):
        self.graph, self.definitions, self.object_info = graph, definitions, object_info
        self.holder, self.outer = holder, outer
        self.id = None if outer is None else graph["id"]
        self.prefix = "" if outer is None else f"{outer.prefix}{holder['id']}:"
        self.nodes = {node["id"]: node for node in graph["nodes"]}
        self.links = {number: link for number, link, _ in map(link_of, graph.get("links", ()))}
        self.inside: dict[Any, Scope] = {}

    def enter(self, node: Mapping[str, Any]) -> "Scope":
        """The inside of a node that is a subgraph."""
        if node["id"] not in self.inside:
            definition = self.definitions[node["type"]]
            self.inside[node["id"]] = Scope(definition, self.definitions, self.object_info, node, self)
        return self.inside[node["id"]]

    def live(self) -> Iterator[tuple[str, Mapping[str, Any], "Scope"]]:
        """(id in the prompt, node, its graph) of every node that runs."""
        for node in self.graph["nodes"]:
            if node.get("mode", ALWAYS) in (MUTED, BYPASSED) or node["type"] in PAGE_ONLY:
                continue
            if node["type"] in self.definitions:
                yield from self.enter(node).live()
            else:
                yield self.prefix + str(node["id"]), node, self

    def unknown(self) -> Iterator[str]:
        """Types of nodes that would run and that the server does not know."""
        return (node["type"] for _, node, _ in self.live() if node["type"] not in self.object_info)

    def values(self, node: Mapping[str, Any]) -> Iterator[tuple[str, Any, int | str | None]]:
        """(name, value, key in `widgets_values`) of every widget of a node of the server."""
        saved = node.get("widgets_values") or []
        definition = self.object_info[node["type"]]["input"]
        if isinstance(saved, dict):
            for name, default, _ in widget_values(definition, deque()):
                yield name, saved.get(name, default), name if name in saved else None
        else:
            yield from widget_values(definition, deque(enumerate(saved)))

    # --- links ---

    def source(self, slot: int, node: Mapping[str, Any], kind: str | None = None) -> Source | None:
        """Where a node's input gets its value from; None if nothing that runs is connected."""
        entry = node["inputs"][slot]
        link = self.links.get(entry.get("link"))
        if link is None:
            return None
        if self.outer is not None and link.origin == self.graph["inputNode"]["id"]:
            return self.outer.given(self.holder, self.graph["inputs"][link.slot]["name"])
        return self.output(self.nodes[link.origin], link.slot, kind or entry.get("type", "*"))

    def given(self, holder: Mapping[str, Any], name: str) -> Source | None:
        """What a subgraph's input gets from outside: a link, or the widget that its node has for it."""
        entries = list(enumerate(holder.get("inputs", ())))
        found = next((i for i, entry in entries if entry["name"] == name), None)
        if found is None:
            return None
        if holder["inputs"][found].get("link") is not None:
            return self.source(found, holder)
        names = [entry["name"] for _, entry in entries if entry.get("widget")]
        values = holder.get("widgets_values") or []
        if name not in names or names.index(name) >= len(values):
            return None
        widget = (holder.get("title") or self.definitions[holder["type"]]["name"], name)
        at = names.index(name)
        return Source(value=values[at], widget=widget, saved=Saved(self.id, holder["id"], at))

    def output(self, node: Mapping[str, Any], slot: int, kind: str) -> Source | None:
        """What an output of a node stands for, through nodes that do not run."""
        if node.get("mode", ALWAYS) == MUTED:
            return None
        if node.get("mode", ALWAYS) == BYPASSED:
            passed = bypass(node, slot, kind)
            return None if passed is None else self.source(passed, node)
        if node["type"] == REROUTE:
            return self.source(0, node, kind)
        if node["type"] == PRIMITIVE:
            name = node["outputs"][0].get("widget", {}).get("name", "value")
            widget = (node.get("title") or PRIMITIVE, name)
            return Source(value=node["widgets_values"][0], widget=widget, saved=Saved(self.id, node["id"], 0))
        if node["type"] in self.definitions:
            inner = self.enter(node)
            numbers = inner.graph["outputs"][slot].get("linkIds") or []
            link = inner.links.get(numbers[0]) if numbers else None
            return None if link is None else inner.output(inner.nodes[link.origin], link.slot, kind)
        return Source(self.prefix + str(node["id"]), slot)


def bypass(node: Mapping[str, Any], slot: int, kind: str) -> int | None:
    """The input that a bypassed node passes on in place of an output: the one beside it, else the first that fits."""
    kinds = [entry["type"] for entry in node.get("inputs", ())]
    given = node["outputs"][slot]["type"]
    if kind in ANY:
        return (slot if slot < len(kinds) else 0) if kinds else None
    fitting = [i for i, k in enumerate(kinds) if fits(k, given) and fits(k, kind)]
    if slot in fitting:
        return slot
    return next((i for i, k in enumerate(kinds) if k == kind), fitting[0] if fitting else None)


def fits(a: str, b: str) -> bool:
    """Whether slots of these types can be connected; a type may name several."""
    first, second = ({part.strip().lower() for part in str(kind).split(",")} for kind in (a, b))
    return bool(first & second) or bool({*ANY} & (first | second))


# --- widgets ---------------------------------------------------------------------------------------------------------


def widget_values(
    definition: Mapping[str, Any], saved: deque[tuple[int, Any]], prefix: str = ""
) -> Iterator[tuple[str, Any, int | None]]:
    """(name, value, its number in `saved`) of every widget, in the page's order; after those saved come defaults.

    definition: `input` of a node in /object_info. A dynamic choice is followed by the inputs of what is chosen.
    saved:      (number, value) of those in the file; used up.
    """
    for group in ("required", "optional"):
        specs = definition.get(group, {})
        for name, kind, options in inputs_of(specs):
            if not is_widget(kind, options):
                continue
            at, value = saved.popleft() if saved else (None, default_of(kind, options))
            yield prefix + name, value, at
            if saved and options.get("control_after_generate", name in SEEDS) and saved[0][1] in CONTROLS:
                saved.popleft()
            for option in options.get("options", ()) if kind == DYNAMIC_COMBO else ():
                if option["key"] == value:
                    yield from widget_values(option["inputs"], saved, f"{prefix}{name}.")
        if saved and any(options.get(upload) for _, _, options in inputs_of(specs) for upload in UPLOADS):
            saved.popleft()  # the button, which the page puts behind the required ones


def default_of(kind: Any, options: Mapping[str, Any]) -> Any:
    """A widget's value where nothing is saved, as the page sets it."""
    if "default" in options:
        return options["default"]
    if offered := choices(kind, options):
        return offered[0]
    return {"INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False}.get(kind if isinstance(kind, str) else "")
