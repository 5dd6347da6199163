"""Old nodes in a graph that is queued. The host refuses ids that it does not know, and asks these handlers before it looks."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Container, Mapping

from nodes import NODE_CLASS_MAPPINGS

from .table import MAY_BE_NO_FILE, NO_FILE, TABLE, Replacement

ROWS = {row.old: row for row in TABLE}


def on_prompt(posted: Any) -> Any:
    """What was posted to the host's /prompt, with our nodes in the place of old ones. Never fails: a graph that it cannot read
    is the host's to refuse."""
    try:
        prompt, replaced = renewed(posted["prompt"], NODE_CLASS_MAPPINGS)
        if replaced:
            told = ", ".join(f"{old} by {ROWS[old].new}" for old in sorted(replaced))
            logging.info("Chroma Pack: %d nodes of FluxMod replaced for this run (%s)", replaced.total(), told)
        return {**posted, "prompt": prompt}
    except Exception as error:
        logging.warning(
            "Chroma Pack: old nodes in the queued graph were not looked for (%s: %s)", type(error).__name__, error
        )
        return posted


def renewed(prompt: Mapping[str, Any], known: Container[str]) -> tuple[dict[str, Any], Counter[str]]:
    """A queued graph with a node of ours in the place of each of `TABLE` whose id the host does not know.

    known:   ids of the host's nodes. A row whose new id is not there either is left alone.
    returns: the graph, and how many nodes of each old id were replaced. The input stays as it is.
    """
    out, replaced = dict(prompt), Counter()
    for key, node in prompt.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("inputs"), Mapping):
            continue
        old = node.get("class_type")
        if not isinstance(old, str):
            continue
        row = ROWS.get(old)
        if row is not None and old not in known and row.new in known:
            replaced[old] += 1
            node = {**node, "class_type": row.new, "inputs": new_inputs(row, node["inputs"])}
        out[key] = without_no_file(node)
    return out, replaced


def new_inputs(row: Replacement, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of our node from those of the old one. What is missing stays so, and is told by the host as of any node."""
    given = {**row.early, **inputs}
    return {**row.added, **{new: given[old] for old, new in row.inputs.items() if old in given}}


def without_no_file(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node without inputs that name no file in FluxMod's way."""
    names = MAY_BE_NO_FILE.get(node["class_type"], ())
    dropped = [name for name in names if node["inputs"].get(name) == NO_FILE]
    return {**node, "inputs": {k: v for k, v in node["inputs"].items() if k not in dropped}} if dropped else node
