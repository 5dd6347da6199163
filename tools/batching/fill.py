"""Which inputs of a workflow a column fills, and a row's values as these inputs take them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from .rows import REMARK, Row
from .workflow import DYNAMIC_COMBO, Converted, Place, Prompt, choices, inputs_of, is_widget

TEXTS = ("text", "prompt", "string", "value")  # names of a text's input on nodes that encode or hold one
SEEDS = ("seed", "noise_seed")
PROMPTS = {"prompt": "positive", "negative prompt": "negative", "negative": "negative"}  # column -> a sampler's input
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
HASH_CHARS = 16  # of a picture's name: two of a million rows share one with a chance below 1e-7
FILES = (".safetensors", ".sft", ".gguf", ".pth", ".pt", ".ckpt", ".bin")
NAMED = 8  # of a list in an error


@dataclass(frozen=True)
class Job:
    """One prompt to run: its name, from a hash of all settings, and the rows that asked for it."""

    name: str
    prompt: Prompt
    rows: tuple[Row, ...]
    uploads: Mapping[str, Path] = field(default_factory=dict)  # name on the server -> file here


@dataclass(frozen=True)
class Filled:
    """Jobs in the order in which they load least, and the rows that give none, with their errors."""

    jobs: list[Job]
    refused: list[Row]


def fill(workflow: Converted, rows: Sequence[Row], object_info: Mapping[str, Any]) -> Filled:
    """A job for every row; equal ones are one job.

    raises: ValueError, before anything runs, for a column that fills nothing or is not clear, and two for one input.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row.values if not name.startswith(REMARK)))
    places = {name: places_of(name, workflow, object_info) for name in columns}
    taken: dict[Place, str] = {}
    for name, found in places.items():
        for place in found:
            if place in taken:
                raise ValueError(
                    f"the columns {taken[place]!r} and {name!r} both fill {told(place, workflow.prompt)}. Remove one"
                )
            taken[place] = name
    jobs: dict[str, Job] = {}
    refused = []
    for row in rows:
        try:
            job = job_of(row, workflow.prompt, places, object_info)
        except (ValueError, OSError) as error:
            refused.append(Row(row.number, row.values, str(error)))
            continue
        known = jobs.get(job.name)
        jobs[job.name] = Job(job.name, job.prompt, (*(known.rows if known else ()), row), job.uploads)
    return Filled(sorted_by_load(list(jobs.values())), refused)


def job_of(row: Row, prompt: Prompt, places: Mapping[str, Sequence[Place]], object_info: Mapping[str, Any]) -> Job:
    """raises: ValueError or OSError for a row that cannot be used."""
    if row.error:
        raise ValueError(row.error)
    filled, uploads = dict(prompt), {}  # nodes that no column fills are shared: rows may be a hundred thousand
    for name, value in row.values.items():
        for place in places.get(name, ()):
            kind, options = spec(filled[place.node], place.name, object_info)
            if options.get("image_upload") and (path := Path(str(value)).expanduser()).is_file():
                value = f"{hashlib.sha256(path.read_bytes()).hexdigest()[:HASH_CHARS]}{path.suffix.lower()}"
                uploads[value] = path
            else:
                value = taken_as(value, kind, options, name)
            node = filled[place.node]
            filled[place.node] = {**node, "inputs": {**node["inputs"], place.name: value}}
    return Job(name_of(filled), filled, (row,), uploads)


def name_of(prompt: Prompt) -> str:
    """A name from all settings: of the same settings the same, whatever the nodes' titles are."""
    settings = {key: [node["class_type"], node["inputs"]] for key, node in prompt.items()}
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARS]


def sorted_by_load(jobs: list[Job]) -> list[Job]:
    """Jobs with the same model files together, and of these those of the same size; else in their order.

    Another model costs a load, another size a new plan of memory and, where it is compiled, a new compilation.
    """

    def files(job: Job) -> tuple[Any, ...]:
        values = (v for node in job.prompt.values() for v in node["inputs"].values() if isinstance(v, str))
        return tuple(v for v in values if v.lower().endswith(FILES))

    def sizes(job: Job) -> tuple[Any, ...]:
        inputs = [node["inputs"] for node in job.prompt.values()]
        return tuple(str(i[name]) for i in inputs for name in ("width", "height", "batch_size") if name in i)

    loads, shapes = {}, {}
    keys = [(loads.setdefault(files(j), len(loads)), shapes.setdefault(sizes(j), len(shapes))) for j in jobs]
    return [jobs[i] for i in sorted(range(len(jobs)), key=lambda i: keys[i])]


# --- names -----------------------------------------------------------------------------------------------------------


def places_of(name: str, workflow: Converted, object_info: Mapping[str, Any]) -> list[Place]:
    """The inputs that a column of this name fills. raises: ValueError if there is none, or it is not clear which."""
    ways = (shown_places, exact_places, plain_places, titled_places, traced_places)
    for way in ways:
        found = way(name, workflow, object_info)
        if len(found) == 1 or (found and way is shown_places):
            return found
        if found:
            several = ", ".join(repr(told(place, workflow.prompt)) for place in found[:NAMED])
            raise ValueError(f"the column {name!r} could fill {several}. Write one of these as its name")
    offered = dict.fromkeys([n for _, n in workflow.shown] + [p.name for p in widgets(workflow.prompt, object_info)])
    raise ValueError(
        f"the column {name!r} fills no input of the workflow. Its inputs are {', '.join(list(offered)[: 4 * NAMED])}; also "
        f"'node title.input'. Begin the name with {REMARK} for a column that is only a remark"
    )


def told(place: Place, prompt: Prompt) -> str:
    """`title.input`, or `id.input` where several nodes have the title."""
    titles = [node.get("_meta", {}).get("title") for node in prompt.values()]
    title = prompt[place.node].get("_meta", {}).get("title")
    return f"{title if title and titles.count(title) == 1 else place.node}.{place.name}"


def widgets(prompt: Prompt, object_info: Mapping[str, Any]) -> Iterator[Place]:
    """Every input that has a value of its own, no link."""
    for key, node in prompt.items():
        for name, value in node["inputs"].items():
            kind, options = spec(node, name, object_info)
            if is_widget(kind, options) and not isinstance(value, list):
                yield Place(key, name)


def shown_places(name: str, workflow: Converted, object_info: Mapping[str, Any]) -> list[Place]:
    """Of a widget on a subgraph or primitive: `name` or `title.name`, of a primitive its title too."""
    found = {}
    for (title, widget), places in workflow.shown.items():
        if same(name, f"{title}.{widget}") or same(name, widget) or same(name, title):
            found[title, widget] = places
    if len(found) > 1:
        names = ", ".join(repr(f"{title}.{widget}") for title, widget in found)
        raise ValueError(f"the column {name!r} could fill {names}. Write one of these as its name")
    return next(iter(found.values()), [])


def exact_places(name: str, workflow: Converted, object_info: Mapping[str, Any]) -> list[Place]:
    """`title.input` or `id.input`, also where a link is connected, which it replaces; both may have points in them."""
    found = []
    for key, node in workflow.prompt.items():
        heads = {node.get("_meta", {}).get("title") or "", key, node["class_type"]}
        for at, sign in enumerate(name):
            if sign == "." and any(same(name[:at], head) for head in heads):
                input_name = name[at + 1 :].strip()
                kind, options = spec(node, input_name, object_info)
                if is_widget(kind, options):
                    found.append(Place(key, input_name))
    return found


def plain_places(name: str, workflow: Converted, object_info: Mapping[str, Any]) -> list[Place]:
    """The one widget of this name."""
    names = SEEDS if name.lower() in SEEDS else (name,)
    return [p for p in widgets(workflow.prompt, object_info) if any(same(p.name, n) for n in names)]


def titled_places(name: str, workflow: Converted, object_info: Mapping[str, Any]) -> list[Place]:
    """The text of a node with this title."""
    found = widgets(workflow.prompt, object_info)
    return [p for p in found if p.name in TEXTS and same(workflow.prompt[p.node].get("_meta", {}).get("title"), name)]


def traced_places(name: str, workflow: Converted, object_info: Mapping[str, Any]) -> list[Place]:
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


def same(a: str | None, b: str) -> bool:
    return bool(a) and a.strip().lower() == b.strip().lower()


# --- values ----------------------------------------------------------------------------------------------------------


def spec(node: Mapping[str, Any], name: str, object_info: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
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
            some = ", ".join(map(str, offered[:NAMED])) + (", ..." if len(offered) > NAMED else "")
            raise ValueError(
                f"{name} is {value!r}, expected one of {some or 'the files there, of which there are none'}"
            )
        return found
    if isinstance(value, (dict, list)):
        raise ValueError(f"{name} is {json.dumps(value)[:40]}, expected text")
    return str(value)


def number_of(value: Any, kind: str, options: Mapping[str, Any], name: str) -> int | float:
    what = "a whole number" if kind == "INT" else "a number"
    low, high = options.get("min", -math.inf), options.get("max", math.inf)
    expected = f"{what} from {low} to {high}" if math.isfinite(low) and math.isfinite(high) else what
    problem = ValueError(f"{name} is {value!r}, expected {expected}")
    if isinstance(value, bool):
        raise problem
    try:
        number = int(value) if kind == "INT" and isinstance(value, (str, int)) else float(value)
    except (TypeError, ValueError):
        raise problem from None
    if not math.isfinite(number) or not low <= number <= high or (kind == "INT" and number != int(number)):
        raise problem
    return int(number) if kind == "INT" else number
