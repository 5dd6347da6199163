"""Text that a node shows on itself."""

from __future__ import annotations

import logging

from comfy_api.latest import io
from server import PromptServer


def report(node: type[io.ComfyNode], text: str) -> None:
    """Shows text on the running node and in the log. The node's schema must ask for Hidden.unique_id."""
    logging.info("%s: %s", (node.SCHEMA or node.define_schema()).display_name, text.replace("\n", "; "))
    if node.hidden.unique_id is not None:
        PromptServer.instance.send_progress_text(text, node.hidden.unique_id)
