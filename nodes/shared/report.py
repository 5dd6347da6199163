"""A node's report on its run: in the log, and on the node, where web/js/report.js shows it.

`report` puts it beside the node's outputs, so that the host repeats it when they come from its cache. `show` is for what
comes after its node, such as a guider's: an event, for the node that the running graph has in that place.
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import json
import logging
import re
import uuid
from typing import Any, Callable, Mapping, TypedDict, TypeVar

from comfy_api.latest import io
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...advice.queued_graph import Graph
from ...constants import INFO, LEVELS, Line, Lines
from ...loaders.files.error_text import encodable

EVENT, QUEUED = "chroma.report", "chroma.queued"  # events of the page
UI = "chroma_report"  # key in what a node gives to the page: messages as JSON, since the host counts objects as files
CELLS = re.compile(r"[█░]+ ")
FAILED = "This report has failed ({}), so it is not shown. The run goes on."
IS_TOLD = "is_told"  # attribute that marks a wrapped function
T = TypeVar("T")
TOLD: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("told", default=None)  # by the running node
BAR = re.compile(r"[█░]+ ([\d,]+) of ([\d,]+)\b")  # a text may begin with it


class Bar(TypedDict):
    """How much of something is used. It is drawn under the first line, in another colour near `max` and above it."""

    value: float
    max: float


def title(node: type[io.ComfyNode]) -> str:
    return (node.SCHEMA or node.define_schema()).display_name


def only_tell(title: str, tell: Callable[[], T], failed: str = FAILED) -> T | str:
    """The result of `tell`. A report never fails a run: an error becomes a line in the log, and gives `failed`."""
    try:
        return tell()
    except Exception as error:
        logging.warning("%s: failed to report on this run: %s: %s", title, type(error).__name__, encodable(str(error)))
        return failed.format(type(error).__name__)


Text = str | Callable[[], str]


def report(
    node: type[io.ComfyNode],
    text: Text,
    bar: Bar | None = None,
    level: str | None = None,
    parts: Mapping[str, str] | None = None,
) -> None:
    """Shows text on the running node and in the log. The node's schema must ask for Hidden.unique_id.

    text:  or a function that makes it, whose errors then do not fail the run.
    bar:   drawn with the text. None: drawn from characters at the text's start, as in "██░░ 256 of 512", if any.
    level: of the whole report, one of constants.LEVELS. None: that of its most serious line.
    parts: id -> title of the nodes that it expands into, whose reports the page shows on it too. It knows them by a name of
           this run again, when the host has all from its cache and those nodes say nothing.
    """
    name = title(node)
    made = only_tell(name, text) if callable(text) else text
    log(name, made)
    if (told := TOLD.get()) is not None:
        of_parts = {"parts": list(parts.items()), "run": uuid.uuid4().hex} if parts else {}
        only_tell(name, lambda: told.append(json.dumps({**message(made, bar, level), **of_parts})))


def show(title: str, node_id: str | None, text: Text, bar: Bar | None = None, level: str | None = None) -> None:
    """The same for a node that has run before, or still runs, by its id in the graph."""
    made = only_tell(title, text) if callable(text) else text
    only_tell(title, lambda: _send(title, node_id, made, bar, level))


def log(title: str, text: str) -> None:
    logging.info("%s: %s", title, encodable(CELLS.sub("", text).replace("\n", "; ")))


def _send(title: str, node_id: str | None, text: str, bar: Bar | None, level: str | None) -> None:
    log(title, text)
    if node_id is not None:
        _send_event(node_id, message(text, bar, level))


def _send_event(node_id: str, told: Mapping[str, Any]) -> None:
    server = PromptServer.instance
    if server.client_id is None:  # of the page that queued the prompt; others may have nodes of the same ids
        return
    shown_on = get_progress_state().dynprompt.get_display_node_id(str(node_id))
    part = {"part": str(node_id)} if shown_on != str(node_id) else {}  # it has expanded into this one, or is copied
    server.send_sync(EVENT, {"node": shown_on, "workflow": _workflow(server), **part, **told}, server.client_id)


def running_graph() -> dict[str, Any]:
    """The graph that is executed, with what nodes have been expanded into; empty if none is."""
    dynprompt = get_progress_state().dynprompt
    return {node: dynprompt.get_node(node) for node in dynprompt.all_node_ids()}


def node_before(kind: str, role: str) -> str | None:
    """The nearest node of a class before the running one, in the graph that is executed: what it made may be another's
    from the cache, so its own memory of an id is worth nothing.

    role: of the link to it, "guider" or "model". returns: its id; None if there is none.
    """
    running, graph = get_executing_context(), Graph(running_graph())
    if running is None or running.node_id not in graph.nodes:
        return None
    start = running.node_id
    if role == "model" and graph.source(start, "guider"):  # which has the model, not the sampler
        start = next(
            (n for n in graph.chain(graph.source(start, "guider"), "guider") if graph.source(n, "model")), start
        )
    chain = graph.chain(graph.source(start, role), role)
    return next((node for node in chain if graph.kind(node) == kind), None)


def message(text: str, bar: Bar | None = None, level: str | None = None) -> dict[str, Any]:
    """A report as it is sent to the page: its text, and how to show it.

    marks: [line, length of its head, level] of each line that stands out.
    acts:  [line, node, [[input, value], ...]] of each line about a node: a click goes there, or sets the values; with a
           fourth entry it inserts the node that this describes, an `advice.finding.Insert`.
    """
    lines = text.lines if isinstance(text, Lines) else ()
    marked = [(i, line) for i, line in enumerate(lines) if isinstance(line, Line)]
    marks = [[i, len(line.head), line.level] for i, line in marked]
    acts = [
        [i, line.node, [list(pair) for pair in line.fix], *([dataclasses.asdict(line.insert)] if line.insert else [])]
        for i, line in marked
        if line.node is not None
    ]
    if found := bar is None and BAR.match(text):
        bar = dict(zip(("value", "max"), (int(number.replace(",", "")) for number in found.groups())))
    level = level or max((mark[2] for mark in marks), key=LEVELS.index, default=INFO)
    return {"text": text, "marks": marks, "acts": acts, "bar": bar, "level": level}


def reporting(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, with what it tells beside its outputs, and with errors that the host can log whatever they quote.

    `has_intermediate_output` has the host repeat what a node gave to the page when its outputs come from the cache.
    """
    execute, define_schema = node.execute.__func__, node.define_schema.__func__
    if hasattr(execute, IS_TOLD):
        return node

    @functools.wraps(define_schema)
    def schema(cls: type[io.ComfyNode]) -> io.Schema:
        made = define_schema(cls)
        made.has_intermediate_output = True
        return made

    node.execute, node.define_schema = classmethod(with_report(execute)), classmethod(schema)
    return node


def with_report(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's `execute`, whose output has the node's reports for the page."""

    @functools.wraps(execute)
    def run(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> io.NodeOutput:
        token = TOLD.set([])
        try:
            out = execute(cls, *args, **kwargs)
            if told := TOLD.get():
                own = out.ui if isinstance(out.ui, dict) else out.ui.as_dict() if out.ui else {}
                out.ui = {**own, UI: told}
            return out
        except BaseException as error:  # an interruption too; there is no output that could have the reports
            make_encodable(error)
            for told in TOLD.get() or ():
                only_tell(title(cls), lambda told=told: _send_event(cls.hidden.unique_id, json.loads(told)))
            raise
        finally:
            TOLD.reset(token)

    setattr(run, IS_TOLD, True)
    return run


def make_encodable(error: BaseException | None) -> None:
    """Replaces characters that cannot be logged, in an error and in its causes: the host logs the whole traceback."""
    while error is not None:
        if isinstance(error, OSError) and isinstance(error.filename, str):
            error.filename = encodable(error.filename)
        if encodable(str(error)) != str(error):
            error.args = (encodable(str(error)),)
        error = error.__cause__ or error.__context__


def _workflow(server: PromptServer) -> str | None:
    """The id of the workflow that the running prompt was made from; None if its client sent none."""
    running, _ = server.prompt_queue.get_current_queue_volatile()
    for _, _, _, extra_data, *_ in running:
        name = _part(_part(_part(extra_data, "extra_pnginfo"), "workflow"), "id")
        return name if isinstance(name, str) else None
    return None


def _part(whole: Any, name: str) -> Any:
    """A part of what a client has sent, which may have any form; None if there is no such part."""
    return whole.get(name) if isinstance(whole, Mapping) else None


def tell_workflow(queued: Any) -> Any:
    """Tells a page the id of the prompt that it queues, with its workflow: the host's events name the prompt alone."""

    def tell() -> None:
        client = queued.get("client_id")
        workflow = _part(_part(_part(queued.get("extra_data"), "extra_pnginfo"), "workflow"), "id")
        if isinstance(client, str) and isinstance(workflow, str):
            prompt = queued.setdefault("prompt_id", str(uuid.uuid4()))  # else the host makes one like it
            PromptServer.instance.send_sync(QUEUED, {"prompt": prompt, "workflow": workflow}, client)

    only_tell("Chroma Pack", tell)
    return queued


def register() -> None:
    """Has the server tell; nodes can also be loaded without one."""
    if hasattr(PromptServer, "instance"):
        PromptServer.instance.add_on_prompt_handler(tell_workflow)
