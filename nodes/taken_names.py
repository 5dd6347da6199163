"""Tells when another pack has brought a node of one of our names: of two the one that ComfyUI loads last counts, whichever that is."""

from __future__ import annotations

import logging
from typing import Any, Mapping

from server import PromptServer

import nodes

from . import FEATURES

OURS = __name__.rpartition(".nodes.")[0]
told: set[str] = set()


def tell_taken(posted: Any) -> Any:
    """Looks at the nodes of what was posted to the host's /prompt, and logs one line for each name that is taken. Never fails."""
    try:
        for name in sorted(taken(posted["prompt"]) - told):
            told.add(name)
            logging.warning(
                "Chroma Pack: the node %s is that of %s, which was loaded after this pack. Disable one of the two and restart",
                name,
                getattr(nodes.NODE_CLASS_MAPPINGS[name], "RELATIVE_PYTHON_MODULE", "another pack"),
            )
    except Exception as error:
        logging.debug("Chroma Pack: names of nodes were not looked at (%s: %s)", type(error).__name__, error)
    return posted


def taken(prompt: Mapping[str, Any]) -> set[str]:
    """Names of our nodes in a graph whose class is not ours."""
    used = {node.get("class_type") for node in prompt.values()} & {name for f in FEATURES for name in f.nodes}
    return {name for name in used if not nodes.NODE_CLASS_MAPPINGS[name].__module__.startswith(f"{OURS}.")}


def register() -> None:
    if hasattr(PromptServer, "instance"):
        PromptServer.instance.add_on_prompt_handler(tell_taken)
