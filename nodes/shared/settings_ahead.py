"""/chroma/settings: what Chroma Preset, Chroma KSampler, Chroma Studio and Chroma Size will use and take, and what is wrong with a
loader's file, told before a run. The files' headers are read for it."""

from __future__ import annotations

from typing import Any, Mapping

import comfy.samplers

from ...advice.flash import settings_in_graph
from ...advice.presets import HD, PRESETS, STANDARD
from ...advice.queued_graph import FLASH_NODE, OUR_SAMPLER, PRESET_NODE, SIZE_NODE, SPEED_NODE, Graph
from ...advice.queued_run import recognise_chain, speed_of
from ...advice.recognise_preset import Recognition
from ...advice.sizes import of_node
from ...advice.sizes import tell as tell_size
from ...advice.studio import STUDIO_NODE, all_opened
from ...advice.user_changes import Settings, as_fast, head_of, settle, tell
from ...constants import AS_TRAINED, CUSTOM, ERROR, FROM_PRESET, TRAINED, Line, Lines
from ...host.sample.apply_preset import with_size
from ...host.sample.shift import CURVE
from ...samplers.schedules import CURVES
from . import before_run
from .file_ahead import LOADERS, told_of_file, variant_of
from .report import message, only_tell
from .routes import add_route, answering, checked_object
from .scheduler_curve import drawn

PATH = "/chroma/settings"
MAX_QUERY = 1 << 17  # bytes: the nodes before one
KINDS = (PRESET_NODE, SPEED_NODE, OUR_SAMPLER, STUDIO_NODE, SIZE_NODE, *LOADERS)
AUTO = "auto"
VALUE = "value"  # key of a shift's number in Chroma Preset's menu
NO_MODEL = "Connect a model; its file tells which settings fit"


def ahead(query: Any) -> dict[str, Any]:
    """What a node will use.

    query:   `graph`, the node and those before it in the API format, and `node`, its id.
    returns: `report`, as `report.message` gives it, None where there is nothing to tell; `sigmas` and `steps` of its
             schedule, or None; `shift` as in `scheduler_curve.drawn`; `values`, Chroma KSampler's widgets for them.
    raises:  ValueError in one line for a query of another form.
    """
    checked_object("the query", query, ("graph", "node"))
    if not isinstance(query.get("graph"), Mapping):
        raise ValueError(f"graph is {query.get('graph')!r}; allowed is an object")
    graph, node = Graph(query["graph"]), str(query.get("node"))
    if node not in graph.nodes or graph.kind(node) not in KINDS:
        raise ValueError(f"node {node!r} is none of the graph that is told ahead ({', '.join(KINDS)})")
    nothing = {"report": None, "sigmas": None, "steps": None, "shift": None, "values": {}}
    if graph.kind(node) == SIZE_NODE:
        return {**nothing, "report": size_ahead(graph, node)}
    if graph.kind(node) == STUDIO_NODE:
        return {**nothing, "report": studio_ahead(graph, node)}
    if graph.kind(node) in LOADERS:
        line = told_of_file(graph, node)
        return {**nothing, "report": message(Lines([line])) if line else None}
    lines, settings = told_ahead(graph, node)
    nothing["report"] = message(Lines(lines)) if lines else None
    return nothing if settings is None else {**nothing, "values": widgets(settings), **curve_of(settings, graph, node)}


def told_ahead(graph: Graph, node: str) -> tuple[list[str], Settings | None]:
    """What Chroma Preset or Chroma KSampler tells, and its settings where its own widgets do not count."""
    try:
        settings, text = settings_ahead(graph, node) or (None, "")
    except ValueError as error:
        return [Line("ERROR: ", ERROR, str(error))], None
    cost = only_tell("Chroma Pack", lambda: before_run.ahead(graph, node, settings), "")
    return [part for part in (text, cost) if part], settings


def studio_ahead(graph: Graph, node: str) -> dict[str, Any] | None:
    """What the loaders and samplers of a Chroma Studio tell, as a report: the samplers have the same settings, and each pass
    takes its time."""
    opened, owners = all_opened(graph.nodes)
    inner, own = Graph(opened), [key for key, owner in owners.items() if owner == node]
    lines = [line for key in own if inner.kind(key) in LOADERS and (line := told_of_file(inner, key))]
    lines += [line for key in own if inner.kind(key) == OUR_SAMPLER for line in told_ahead(inner, key)[0]]
    return message(Lines(list(dict.fromkeys(lines)))) if lines else None


def size_ahead(graph: Graph, node: str) -> dict[str, Any] | None:
    """What Chroma Size will give, as a report; None where a run computes it, or the model cannot be read."""
    try:
        name = recognised_ahead(graph, node).name if graph.link(node, "model") else HD
    except ValueError:  # its loader says so
        return None
    size = of_node(graph, node, PRESETS[name])
    return None if size is None else message(tell_size(name, size))


def settings_ahead(graph: Graph, node: str) -> tuple[Settings, str] | None:
    """The settings of a node and what it says of them; None where its own widgets count or nothing is known."""
    link, quality = graph.link(node, "settings"), graph.value(node, "quality")
    if graph.kind(node) == OUR_SAMPLER and not link and quality in (None, CUSTOM):
        return None
    if not graph.model_chain(node):
        raise ValueError(NO_MODEL)
    if graph.kind(node) == PRESET_NODE:
        settings, found, chosen = of_preset(graph, node)
        linked = [n for n in ("steps", "cfg", "width", "height", "sampler") if graph.is_hidden(node, n)]
        text = tell(settings, found, chosen)
        return settings, text + (f"\n{', '.join(linked)}: by link, known once it runs" if linked else "")
    if graph.kind(node) == SPEED_NODE:
        settings, found = of_speed(graph, node)
        return settings, f"{head_of(settings, found)}\n{as_fast(PRESETS[found.name], settings)}"
    if link:
        source = graph.chain(link, "settings")[-1]
        makers = {
            PRESET_NODE: lambda: of_preset(graph, source)[0],
            SPEED_NODE: lambda: of_speed(graph, source)[0],
            FLASH_NODE: lambda: settings_in_graph(graph, source),
        }
        settings = makers.get(graph.kind(source), lambda: None)()
        return None if settings is None else (settings, head_of(settings, None))
    if not isinstance(quality, str):
        return None
    found = recognised_ahead(graph, node)
    settings = settle(found.name, choice=quality, reason=found.reason)
    return settings, head_of(settings, found)


def of_speed(graph: Graph, node: str) -> tuple[Settings, Recognition]:
    """A Chroma Speed's settings, and what it recognises. raises: ValueError as `presets.of_choice`."""
    found = recognised_ahead(graph, node)
    return settle(found.name, choice=speed_of(graph, node) or STANDARD, reason=found.reason), found


def of_preset(graph: Graph, node: str) -> tuple[Settings, Recognition, bool]:
    """A Chroma Preset's settings, what it recognises, and whether a person chose the row."""
    found, chosen = recognised_ahead(graph, node), graph.value(node, "preset")
    by_hand = isinstance(chosen, str) and chosen != AUTO

    def choice(name: str) -> tuple[str | None, dict[str, float]]:
        value = graph.value(node, name)
        given = (key for key in graph.inputs(node) if key.startswith(f"{name}."))
        params = {key.split(".")[1]: graph.number(node, key) for key in given}
        params = {("shift" if key == VALUE else key): n for key, n in params.items() if n is not None}
        return (None, {}) if not isinstance(value, str) or value == FROM_PRESET else (value, params)

    (curve, params), (shift, shift_params) = choice("schedule"), choice("shift")
    sampler = graph.value(node, "sampler")
    settings = settle(
        chosen if by_hand else found.name,
        sampler=None if not isinstance(sampler, str) or sampler == FROM_PRESET else sampler,
        curve=curve,
        params=params,
        shift=shift,
        shift_params=shift_params,
        cfg=graph.number(node, "cfg") or 0,
        **{name: int(graph.number(node, name) or 0) for name in ("steps", "width", "height")},
    )
    return settings, found, by_hand


def recognised_ahead(graph: Graph, node: str) -> Recognition:
    """The preset for a node's model, by its file's header and name.

    raises: ValueError for a file that cannot be loaded as the loader is set, as the run would raise it.
    """
    chain = graph.model_chain(node)
    file = graph.file(chain)
    return recognise_chain(graph, chain, variant_of(graph, chain[-1], file), file)


def curve_of(settings: Settings, graph: Graph, node: str) -> dict[str, Any]:
    """The sigmas of settings, for the drawing; empty for more than are drawn."""
    size = settings.width, settings.height
    curve = CURVE.get(settings.shift)
    shift = {"curve": curve, **with_size(curve, settings.shift_params, *size)} if curve else None
    denoise = graph.number(node, "denoise")
    query = {
        "curve": settings.curve,
        "params": with_size(settings.curve, settings.params, *size),
        "steps": settings.steps,
        "denoise": 1.0 if denoise is None else denoise,
        "keep_steps": True,
        "shift": shift,
    }
    try:
        return {**drawn(query), "steps": settings.steps}
    except ValueError:
        return {}


def widgets(settings: Settings) -> dict[str, Any]:
    """Chroma KSampler's widgets for settings, those that it has."""
    menu = comfy.samplers.KSampler.SCHEDULERS
    names = {curve: (curve, row.defaults) for curve, row in CURVES.items()}
    names |= {f"beta_{n:g}": ("beta", {"alpha": n, "beta": n}) for n in (0.4, 0.45) if f"beta_{n:g}" in menu}
    wanted = (settings.curve, dict(settings.params))
    schedule = next((name for name, (curve, params) in names.items() if (curve, dict(params)) == wanted), None)
    shift = AS_TRAINED if settings.shift == TRAINED else settings.shift
    values = {"steps": settings.steps, "cfg": settings.cfg, "sampler": settings.sampler, "schedule": schedule}
    return {name: value for name, value in {**values, "shift": shift}.items() if value is not None}


def register() -> None:
    add_route(PATH, answering(ahead, MAX_QUERY))
