"""What runs did, in the metadata of the pictures that are saved after them."""

from __future__ import annotations

from typing import Any, Mapping

METADATA = "chroma_run"  # key in a picture's metadata


def put(info: Any, node_id: str | None, facts: Mapping[str, Any]) -> bool:
    """Adds plain facts to a prompt's metadata, under a node's id: a prompt may have several runs. Of a node that runs several
    times, as for a list of prompts, all are kept, in order: ComfyUI runs them all before the first picture is saved.

    returns: False if the client sent no metadata, or metadata of another form.
    """
    if not isinstance(info, dict) or not isinstance(info.setdefault(METADATA, {}), dict):
        return False
    runs, key = info[METADATA], str(node_id)
    before = runs.get(key)
    earlier = before if isinstance(before, list) else [before]
    runs[key] = dict(facts) if before is None else [*earlier, dict(facts)]
    return True
