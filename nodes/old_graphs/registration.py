"""Tells the host of the old nodes: the page offers to replace them, and queued graphs are looked through."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyAPISync, io
from server import PromptServer

from .queued import on_prompt
from .table import TABLE, Replacement


def node_replace(row: Replacement) -> io.NodeReplace:
    """A row as the page and the host read it. They map no values, and the host fails where an input of the mapping is missing;
    `on_prompt` does these and comes first. The page goes through the inputs in order and passes over what an old node lacks."""
    inputs = [{"new_id": row.inputs[old], "set_value": value} for old, value in row.early.items()]
    inputs += [{"new_id": new, "old_id": old} for old, new in row.inputs.items()]
    inputs += [{"new_id": new, "set_value": value} for new, value in row.added.items()]
    # Without an output's row the page cuts the links from it.
    return io.NodeReplace(row.new, row.old, list(row.typed), inputs, [{"new_idx": 0, "old_idx": 0}])


def register() -> None:
    """Puts both on the server; there is none where the nodes are loaded without one."""
    if not hasattr(PromptServer, "instance"):
        return
    try:
        PromptServer.instance.add_on_prompt_handler(on_prompt)
        for row in TABLE:
            ComfyAPISync().node_replacement.register(node_replace(row))
    except Exception as error:
        logging.warning(
            "Chroma Pack: FluxMod's old nodes are not replaced by themselves (%s: %s). Replace them by hand; the help of Load "
            "Chroma Model lists what by what",
            type(error).__name__,
            error,
        )
