"""/chroma/prompt: what becomes of a prompt, told while a person types. T5's tokenizer counts; no weight is needed."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Callable, Mapping

from aiohttp import web

from ...advice.studio import STUDIO_NODE, TITLES
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
    if kind not in TYPED:
        raise ValueError(f"class_type {kind!r} is not known ({', '.join(TYPED)})")
    texts = TYPED[kind].texts
    if not isinstance(inputs, Mapping) or not any(isinstance(inputs.get(name), str) for name in texts):
        raise ValueError(f"inputs have no text; allowed is an object with one of: {', '.join(texts)}")
    try:
        return {"report": message(TYPED[kind].told(inputs))}
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


def of_studio(inputs: Mapping[str, Any]) -> Lines:
    """The count of each text that is typed there, and what stands out of the rest."""
    lines: list[str] = []
    for name in TYPED[STUDIO_NODE].texts:
        text = inputs.get(name)
        if not isinstance(text, str) or (lines and not text.strip()):
            continue
        first, *more = of_text({"text": text, "used_as": "negative" if name == "negative" else "positive"}).lines
        count = first.partition(" ")[2]  # without the bar
        lines.append(Line(f"{TITLES[name]}: ", INFO, count) if lines else first)
        lines += [line for line in more if isinstance(line, Line)]
    return Lines(lines)


@dataclass(frozen=True)
class Typed:
    """texts: a node's inputs in which prompts are typed. options: its others that count. told: what it tells of them."""

    texts: tuple[str, ...]
    options: tuple[str, ...]
    told: Callable[[Mapping[str, Any]], Lines]


# Where prompts are typed; the page asks for this table.
TYPED = {
    ENCODE: Typed(("text",), ("mode", "over_limit", "used_as"), of_text),
    PROMPT: Typed(("text",), tuple(inspect.signature(Choice).parameters), of_prompt),
    STUDIO_NODE: Typed(("prompt", "negative"), (), of_studio),
}


async def tell(request: web.Request) -> web.Response:
    """`TYPED` over HTTP."""
    return web.json_response({kind: {"texts": row.texts, "options": row.options} for kind, row in TYPED.items()})


def register() -> None:
    add_route(PATH, answering(ahead, MAX_QUERY), tell)
