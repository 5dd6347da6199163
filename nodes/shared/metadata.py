"""What runs did, in the metadata of the pictures that are saved after them."""

from __future__ import annotations

from typing import Any, Mapping

METADATA = "chroma_run"  # key in a picture's metadata


def put(info: Any, node_id: str | None, facts: Mapping[str, Any]) -> bool:
    """Adds plain facts to a prompt's metadata, under a node's id: a prompt may have several runs.

    returns: False if the client sent no metadata, or metadata of another form.
    """
    if not isinstance(info, dict) or not isinstance(info.setdefault(METADATA, {}), dict):
        return False
    info[METADATA][str(node_id)] = dict(facts)
    return True
