"""/chroma/studio: the nodes that a Chroma Studio stands for, for the page to open them."""

from __future__ import annotations

from typing import Any

from ...advice.studio import grouped, studio_graph
from .routes import add_route, answering, checked_object

PATH = "/chroma/studio"
MAX_QUERY = 1 << 18  # bytes: two prompts, and the rest


def opened(query: Any) -> dict[str, Any]:
    """query: `inputs` of the node in the API format. returns: `nodes` in that format, and `output`, the picture's link.

    raises: ValueError in one line, as `studio_graph`.
    """
    checked_object("the query", query, ("inputs",))
    checked_object("inputs", inputs := query.get("inputs"), inputs if isinstance(inputs, dict) else ())
    graph = studio_graph(grouped(inputs))
    return {"nodes": graph.nodes, "output": graph.output}


def register() -> None:
    add_route(PATH, answering(opened, MAX_QUERY))
