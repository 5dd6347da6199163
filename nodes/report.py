"""Text that a node shows on itself."""

from __future__ import annotations

import logging

from comfy_api.latest import io
from server import PromptServer


def title(node: type[io.ComfyNode]) -> str:
    return (node.SCHEMA or node.define_schema()).display_name


def report(node: type[io.ComfyNode], text: str) -> None:
    """Shows text on the running node and in the log. The node's schema must ask for Hidden.unique_id."""
    show(title(node), node.hidden.unique_id, text)


def show(title: str, node_id: str | None, text: str) -> None:
    """The same for a node that has run before, by its id in the graph."""
    logging.info("%s: %s", title, text.replace("\n", "; "))
    if node_id is not None:
        PromptServer.instance.send_progress_text(text, node_id)
