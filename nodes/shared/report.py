"""A node's report on its run: in the log, and on the node, where web/js/report.js shows it."""

from __future__ import annotations

import functools
import logging
import re
from typing import Any, Callable, Mapping, TypedDict, TypeVar

from comfy_api.latest import io
from server import PromptServer

from ...constants import INFO, LEVELS, Line, Lines
from ...loaders.files.error_text import encodable

EVENT = "chroma.report"
CELLS = re.compile(r"[█░]+ ")
FAILED = "This report has failed ({}), so it is not shown. The run goes on."
IS_ENCODABLE = "errors_are_encodable"  # attribute that marks a wrapped function
T = TypeVar("T")
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


def report(node: type[io.ComfyNode], text: Text, bar: Bar | None = None, level: str | None = None) -> None:
    """Shows text on the running node and in the log. The node's schema must ask for Hidden.unique_id.

    text:  or a function that makes it, whose errors then do not fail the run.
    bar:   drawn with the text. None: drawn from characters at the text's start, as in "██░░ 256 of 512", if any.
    level: of the whole report, one of constants.LEVELS. None: that of its most serious line.
    """
    show(title(node), node.hidden.unique_id, text, bar, level)


def show(title: str, node_id: str | None, text: Text, bar: Bar | None = None, level: str | None = None) -> None:
    """The same for a node that has run before, by its id in the graph."""
    made = only_tell(title, text) if callable(text) else text
    only_tell(title, lambda: _send(title, node_id, made, bar, level))


def _send(title: str, node_id: str | None, text: str, bar: Bar | None, level: str | None) -> None:
    logging.info("%s: %s", title, encodable(CELLS.sub("", text).replace("\n", "; ")))
    if node_id is None:
        return
    server = PromptServer.instance
    if server.client_id is None:  # of the page that queued the prompt; others may have nodes of the same ids
        return
    told = {"node": str(node_id), "workflow": _workflow(server), **message(text, bar, level)}
    server.send_sync(EVENT, told, server.client_id)


def message(text: str, bar: Bar | None = None, level: str | None = None) -> dict[str, Any]:
    """A report as it is sent to the page: its text, and how to show it.

    marks: [line, length of its head, level] of each line that stands out.
    """
    lines = text.lines if isinstance(text, Lines) else ()
    marks = [[i, len(line.head), line.level] for i, line in enumerate(lines) if isinstance(line, Line)]
    if found := bar is None and BAR.match(text):
        bar = dict(zip(("value", "max"), (int(number.replace(",", "")) for number in found.groups())))
    level = level or max((mark[2] for mark in marks), key=LEVELS.index, default=INFO)
    return {"text": text, "marks": marks, "bar": bar, "level": level}


def with_encodable_errors(execute: Callable[..., Any]) -> Callable[..., Any]:
    """A node's `execute`, with errors that the host can log whatever text they quote."""
    if hasattr(execute, IS_ENCODABLE):  # wrapped already
        return execute

    @functools.wraps(execute)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return execute(*args, **kwargs)
        except Exception as error:
            make_encodable(error)
            raise

    setattr(run, IS_ENCODABLE, True)
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
