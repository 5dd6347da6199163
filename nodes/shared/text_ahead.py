"""/chroma/prompt: what becomes of a prompt, told while a person types. T5's tokenizer counts; no weight is needed."""

from __future__ import annotations

import inspect
from typing import Any, Mapping

from ...constants import ERROR, INFO, SELF, Line, Lines
from ...host.text.encode_prompt import count
from ...prompts.tags import Choice, build
from ...prompts.terse import SOURCE, offer
from ...prompts.tokens import longest, prompt_report
from .report import message
from .routes import add_route, answering, checked_object

PATH = "/chroma/prompt"
MAX_QUERY = 1 << 18  # bytes
ENCODE, PROMPT = "ChromaTextEncode", "ChromaPrompt"


def ahead(query: Any) -> dict[str, Any]:
    """What a node will tell of its text.

    query:   `class_type` and `inputs`, the values of its widgets.
    returns: `report`, as `report.message` gives it.
    raises:  ValueError in one line for a query of another form.
    """
    checked_object("the query", query, ("class_type", "inputs"))
    kind, inputs = query.get("class_type"), query.get("inputs")
    if not isinstance(inputs, Mapping) or not isinstance(inputs.get("text"), str):
        raise ValueError("inputs have no text; allowed is an object with one")
    if kind not in TOLD:
        raise ValueError(f"class_type {kind!r} is not known ({', '.join(TOLD)})")
    try:
        return {"report": message(TOLD[kind](inputs))}
    except ValueError as error:
        return {"report": message(Lines([Line("ERROR: ", ERROR, str(error))]))}


def of_text(inputs: Mapping[str, Any]) -> Lines:
    text, mode = longest(inputs["text"]), str(inputs.get("mode", "exact"))
    prompt = count(text, mode, str(inputs.get("over_limit", "truncate")))
    told = prompt_report(prompt, mode, str(inputs.get("used_as", "positive")), text)
    if not prompt.falls_off:
        return told
    return Lines([told, Line(f"{prompt.falls_off} …", ERROR, " is not seen by the model")])


def of_prompt(inputs: Mapping[str, Any]) -> Lines:
    text = inputs["text"]
    known = inspect.signature(Choice).parameters
    made, _ = build(text, Choice(**{name: value for name, value in inputs.items() if name in known}))
    told = prompt_report(count(longest(made)), "exact", "positive")
    return Lines([told.split("\n")[0], *([made] if made != text else []), *terse_lines(text, inputs)])


def terse_lines(text: str, inputs: Mapping[str, Any]) -> list[str]:
    """A longer form, a negative prompt and a cfg for a terse text; empty for one that is not, or that styles complete."""
    if any(inputs.get(name) not in (None, "", "none") for name in ("style_prompt", "own_style", "opening")):
        return []
    found = offer(text, str(inputs.get("style")))
    if found is None:
        return []
    lacks = " and ".join(filter(None, [", ".join(found.lacks[:-1]), found.lacks[-1]]))
    return [
        Line(
            "hint: ",
            INFO,
            f"a short prompt that leaves {lacks} open; Chroma's captions are long. Advice, not measured:",
        ),
        Line("text: ", INFO, found.long, SELF, (("text", found.long),)),
        Line("negative: ", INFO, found.negative),
        Line("cfg: ", INFO, f"{found.cfg:g}, with a checkpoint that is not for few steps. Source: {SOURCE}"),
    ]


TOLD = {ENCODE: of_text, PROMPT: of_prompt}


def register() -> None:
    add_route(PATH, answering(ahead, MAX_QUERY))
