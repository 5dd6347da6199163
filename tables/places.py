"""Inputs of a workflow by the names that people give them: "cfg", "prompt", "node title.input"; and values as they take them."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
from typing import Any, Iterator, Mapping, NamedTuple, Protocol, Sequence

DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"  # the host's type of a choice that has inputs of its own
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC_COMBO)
SEEDS = ("seed", "noise_seed")
# What one node calls so and another otherwise.
SYNONYMS = (SEEDS, ("sampler", "sampler_name"), ("schedule", "scheduler"), ("quant_mode", "weight_dtype"))
TEXTS = ("text", "prompt", "string", "value")  # names of a text's input on nodes that encode or hold one
PROMPTS = {"prompt": "positive", "negative prompt": "negative", "negative": "negative"}  # column -> a sampler's input
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
NAMED = 8  # of a list in an error

Prompt = Mapping[str, Mapping[str, Any]]  # node's id -> class_type, inputs, _meta
ObjectInfo = Mapping[str, Any]  # class -> its definition, as the server's /object_info has it


class Place(NamedTuple):
    """An input of a node in the prompt."""

    node: str
    name: str


class Named(Protocol):
    """A prompt, and the widgets that fill several of its inputs or have other names than they.

    shown: (title of the node that has the widget, name of the widget) -> inputs of the prompt that get its value.
    """

    prompt: Prompt
    shown: Mapping[tuple[str, str], Sequence[Place]]


# --- names -----------------------------------------------------------------------------------------------------------


class NoPlace(ValueError):
    """No input has the name."""


def places_of(name: str, workflow: Named, object_info: ObjectInfo) -> list[Place]:
    """The inputs that a column of this name fills. raises: ValueError if there is none, or it is not clear which."""
    ways = (shown_places, exact_places, plain_places, inner_places, titled_places, traced_places)
    for way in ways:
        found = way(name, workflow, object_info)
        if len(found) == 1 or (found and way is shown_places):
            return found
        if found:
            several = ", ".join(repr(told(place, workflow.prompt)) for place in found[:NAMED])
            raise ValueError(f"{name!r} could fill {several}. Write one of these as its name")
    offered = dict.fromkeys([n for _, n in workflow.shown] + [p.name for p in widgets(workflow.prompt, object_info)])
    raise NoPlace(
        f"{name!r} fills no input of the workflow. Its inputs are {', '.join(list(offered)[: 4 * NAMED])}; also "
        "'node title.input'"
    )


def told(place: Place, prompt: Prompt) -> str:
    """`title.input`, or `id.input` where several nodes have the title."""
    titles = [node.get("_meta", {}).get("title") for node in prompt.values()]
    title = prompt[place.node].get("_meta", {}).get("title")
    return f"{title if title and titles.count(title) == 1 else place.node}.{place.name}"


def widgets(prompt: Prompt, object_info: ObjectInfo) -> Iterator[Place]:
    """Every input that has a value of its own, no link."""
    for key, node in prompt.items():
        for name, value in node["inputs"].items():
            kind, options = spec(node, name, object_info)
            if is_widget(kind, options) and not isinstance(value, list):
                yield Place(key, name)


def shown_places(name: str, workflow: Named, object_info: ObjectInfo) -> list[Place]:
    """Of a widget on a subgraph or primitive: `name` or `title.name`, of a primitive its title too."""
    found = {}
    for (title, widget), places in workflow.shown.items():
        if same(name, f"{title}.{widget}") or same(name, widget) or same(name, title):
            found[title, widget] = places
    if len(found) > 1:
        names = ", ".join(repr(f"{title}.{widget}") for title, widget in found)
        raise ValueError(f"{name!r} could fill {names}. Write one of these as its name")
    return next(iter(found.values()), [])


def own_name(node: Mapping[str, Any], name: str, object_info: ObjectInfo) -> str:
    """The name of an input that the page shows under this one; the name itself where it shows none so."""
    if spec(node, name, object_info)[0] != "":
        return name
    shown = ((spec(node, one, object_info)[1].get("display_name"), one) for one in node["inputs"])
    return next((one for text, one in shown if same(text, name)), name)


def exact_places(name: str, workflow: Named, object_info: ObjectInfo) -> list[Place]:
    """`title.input` or `id.input`, also where a link is connected, which it replaces; both may have points in them."""
    found = []
    for key, node in workflow.prompt.items():
        heads = {node.get("_meta", {}).get("title") or "", key, node["class_type"]}
        for at, sign in enumerate(name):
            if sign == "." and any(same(name[:at], head) for head in heads):
                input_name = own_name(node, name[at + 1 :].strip(), object_info)
                kind, options = spec(node, input_name, object_info)
                if is_widget(kind, options):
                    found.append(Place(key, input_name))
    return found


def plain_places(name: str, workflow: Named, object_info: ObjectInfo) -> list[Place]:
    """The one widget of this name, which may be the one that the page shows."""
    names = synonyms(name)

    def is_called(place: Place) -> bool:
        _, options = spec(workflow.prompt[place.node], place.name, object_info)
        return any(same(n, called) for n in names for called in (place.name, options.get("display_name", "")))

    return [place for place in widgets(workflow.prompt, object_info) if is_called(place)]


def inner_places(name: str, workflow: Named, object_info: ObjectInfo) -> list[Place]:
    """The one widget of this name among those of what is chosen, as `cfg` of the choice `custom`."""
    names = synonyms(name)
    inner = (p for p in widgets(workflow.prompt, object_info) if "." in p.name)
    return [p for p in inner if any(same(p.name.rpartition(".")[2], n) for n in names)]


def synonyms(name: str) -> tuple[str, ...]:
    return next((names for names in SYNONYMS if any(same(name, n) for n in names)), (name,))


def titled_places(name: str, workflow: Named, object_info: ObjectInfo) -> list[Place]:
    """The text of a node with this title."""
    found = widgets(workflow.prompt, object_info)
    return [p for p in found if p.name in TEXTS and same(workflow.prompt[p.node].get("_meta", {}).get("title"), name)]


def traced_places(name: str, workflow: Named, object_info: ObjectInfo) -> list[Place]:
    """`prompt` and `negative prompt`: the texts that reach a sampler's `positive` and `negative`."""
    wanted, prompt = PROMPTS.get(name.lower()), workflow.prompt
    texts = {place for place in widgets(prompt, object_info) if place.name in TEXTS}
    open_nodes = [
        value[0]
        for node in prompt.values()
        for slot, value in node["inputs"].items()
        if slot == wanted and isinstance(value, list)
    ]
    seen: set[str] = set()
    while open_nodes:
        key = open_nodes.pop()
        if key in seen or key not in prompt:
            continue
        seen.add(key)
        links = {slot: v for slot, v in prompt[key]["inputs"].items() if isinstance(v, list)}
        own_side = {slot for slot in links if slot == wanted} or set(links)
        open_nodes += [links[slot][0] for slot in own_side]
    return [place for place in texts if place.node in seen]


def same(a: Any, b: str) -> bool:
    """a: a name, or whatever a file has in its place."""
    return isinstance(a, str) and bool(a) and a.strip().lower() == b.strip().lower()


# --- values ----------------------------------------------------------------------------------------------------------


def spec(node: Mapping[str, Any], name: str, object_info: ObjectInfo) -> tuple[Any, Mapping[str, Any]]:
    """(kind, options) of an input of a node, those of a dynamic choice too; ("", {}) if it has none of this name."""

    def search(definition: Mapping[str, Any], prefix: str) -> tuple[Any, Mapping[str, Any]]:
        for group in ("required", "optional"):
            for found, kind, options in inputs_of(definition.get(group, {})):
                if prefix + found == name:
                    return kind, options
                chosen = node["inputs"].get(prefix + found)
                for option in options.get("options", ()) if kind == DYNAMIC_COMBO else ():
                    if option["key"] == chosen:
                        inner = search(option["inputs"], f"{prefix}{found}.")
                        if inner[0] != "":
                            return inner
        return "", {}

    return search(object_info[node["class_type"]]["input"], "")


# Class -> a choice that stands in the place of other inputs, which of its values lets them count, and these inputs.
CHOICES = {"ChromaKSampler": ("quality", "custom", ("steps", "cfg", "sampler", "schedule", "shift"))}


def with_values(node: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The node with other values. They count: a choice in whose place they stand gives way, as on the page.

    raises: ValueError for a value that something else stands in the place of.
    """
    choice, own, inputs = CHOICES.get(node["class_type"], ("", "", ()))
    name = next((name for name in values if name in inputs), None)
    if name is None:
        return {**node, "inputs": {**node["inputs"], **values}}
    if values.get(choice, own) != own:
        raise ValueError(
            f"{name} does nothing while {choice} is {values[choice]}. Leave out one of them, or take {own}"
        )
    if isinstance(node["inputs"].get("settings"), list):
        raise ValueError(f"{name} does nothing here: the connected settings have it. Name the input of their node")
    return {**node, "inputs": {**node["inputs"], choice: own, **values}}


def taken_as(value: Any, kind: Any, options: Mapping[str, Any], name: str) -> Any:
    """A cell's value as an input of this kind takes it. raises: ValueError naming column, value and what is expected."""
    if kind in ("INT", "FLOAT"):
        return number_of(value, kind, options, name)
    if kind == "BOOLEAN":
        word = str(value).strip().lower()
        if word not in (*YES, *NO):
            raise ValueError(f"{name} is {value!r}, expected true or false")
        return word in YES
    offered = choices(kind, options)
    if isinstance(kind, list) or kind in ("COMBO", DYNAMIC_COMBO):
        found = next((o for o in offered if o == value or str(o) == str(value)), None)
        if found is None:
            expected = one_of(offered, value) or "the files there, of which there are none"
            raise ValueError(f"{name} is {value!r}, expected one of {expected}")
        return found
    if isinstance(value, (dict, list)):
        raise ValueError(f"{name} is {json.dumps(value)[:40]}, expected text")
    return str(value)


def one_of(offered: Sequence[Any], value: Any) -> str:
    """The choices in words; of many those like the value first, and the number of those that are not named."""
    names = list(dict.fromkeys(map(str, offered)))
    if len(names) <= NAMED:
        return ", ".join(names)
    folded = {name.casefold(): name for name in names}
    alike = [folded[word] for word in difflib.get_close_matches(str(value).casefold(), folded)]
    shown = list(dict.fromkeys([*alike, *names]))[:NAMED]
    return f"{', '.join(shown)} and {len(names) - NAMED} more"


def number_of(value: Any, kind: str, options: Mapping[str, Any], name: str) -> int | float:
    what = "a whole number" if kind == "INT" else "a number"
    low, high = options.get("min", -math.inf), options.get("max", math.inf)
    expected = f"{what} from {low} to {high}" if math.isfinite(low) and math.isfinite(high) else what
    problem = ValueError(f"{name} is {value!r}, expected {expected}")
    if isinstance(value, bool):
        raise problem
    try:
        number = whole_number(value) if kind == "INT" else float(value)
    except (TypeError, ValueError, OverflowError):
        raise problem from None
    if not low <= number <= high or abs(number) == math.inf:
        raise problem
    return number


def whole_number(value: Any) -> int:
    """Also of one that is written as a float, as pandas writes a column with an empty cell: "26.0". Long ones stay exact.

    raises: ValueError, TypeError or OverflowError if it is none.
    """
    if isinstance(value, (str, int)):
        with contextlib.suppress(ValueError):
            return int(value)
    number = float(value)
    if not number.is_integer():
        raise ValueError(f"{value!r} is no whole number")
    return int(number)


# --- inputs ---------------------------------------------------------------------------------------------------------


def inputs_of(specs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """(name, kind, options) of every input of a group."""
    for name, (kind, *rest) in specs.items():
        yield name, kind, rest[0] if rest else {}


def is_widget(kind: Any, options: Mapping[str, Any]) -> bool:
    return not options.get("forceInput") and (isinstance(kind, list) or kind in WIDGETS)


def choices(kind: Any, options: Mapping[str, Any]) -> list[Any]:
    """What a choice offers; empty for other inputs."""
    found = kind if isinstance(kind, list) else options.get("options") or [] if kind in ("COMBO", DYNAMIC_COMBO) else []
    return [option["key"] if isinstance(option, dict) else option for option in found]
