"""What in a queued graph does nothing or does harm with Chroma. Pure: `examine` reads the graph and changes nothing.

A rule takes a graph and one of its sampling runs and gives findings; `@rule` in a file of `rules/` registers it. Its
docstring has the reason and its source.
Rules are silent wherever the graph does not tell enough: a false alarm is worse than a missed one.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping

from ..constants import ERROR, INFO, WARNING, Line, Lines
from .finding import HARM, HINT, IDLE, RULES, SEVERITIES, Facts, Finding
from .queued_graph import Graph
from .queued_run import runs
from .studio import all_opened, own_values

LEVEL_OF = {HARM: ERROR, IDLE: WARNING, HINT: INFO}
MUTED = 2  # a node's mode in a workflow
MAX_DEPTH = 20  # of subgraphs
FAILED_TEXT = "This rule could not be checked; the others were."
FAILED_REMEDY = "Please report this with the workflow; the log has the error."

for _module in pkgutil.iter_modules([str(Path(__file__).with_name("rules"))]):  # this puts their rules into RULES
    importlib.import_module(f".rules.{_module.name}", __package__)


def examine(
    graph: Mapping[str, Any], record: Mapping[str, Any] | None = None, sampler: str | None = None
) -> list[Finding]:
    """Findings on the runs of Chroma models in a graph of the API format, the gravest first, once each.

    record: what is known beside it, all optional: "node", whose model input has "variant" (as the loader reports it) and
            "file"; "tokens", "slow", "unknown" and "float32" as in `Facts`; "outputs", the nodes that show or save something, and
            "muted", titles of the page's muted nodes by id. Without it the files' names tell which runs are Chroma's.
    sampler: the node whose run alone is looked at; None for all.
    """
    record = record or {}
    graph, owners = all_opened(own := graph)
    known = (record.get(name, {}) for name in ("tokens", "slow", "unknown"))
    read, facts = Graph(graph), Facts(*known, float32=record.get("float32", ()))
    found: dict[Finding, None] = dict.fromkeys(unpainted(read, record))
    for run in (run for run in runs(read, record) if run.is_chroma and sampler in (None, run.node)):
        for rule in RULES:
            try:
                found.update(dict.fromkeys(rule(read, run, facts)))
            except Exception as error:  # one rule's bug must not hide what the others find
                # %a: what is quoted of a graph may be more than the terminal can show
                logging.warning("Chroma Doctor: the rule %s failed on node %a: %a", rule.__name__, run.node, error)
                name = rule.__name__.replace("_", " ")
                found[Finding(HINT, run.node, f"the rule on {name} failed", FAILED_TEXT, FAILED_REMEDY)] = None
    told = dict.fromkeys(_of_studio(f, owners, own) if f.node_id in owners else f for f in found)
    return sorted(told, key=lambda finding: SEVERITIES.index(finding.severity))


def _of_studio(finding: Finding, owners: Mapping[str, str], graph: Mapping[str, Any]) -> Finding:
    """A finding on a node that a Chroma Studio stands for, as one on the Studio."""
    owner = owners[finding.node_id]
    fix = own_values(finding.fix, graph[owner]["inputs"])
    return replace(finding, node_id=owner, fix=fix, insert=None)


def unpainted(graph: Graph, record: Mapping[str, Any]) -> list[Finding]:
    """A finding if nothing can be painted since the page has left muted nodes out: no sampler reaches an output.

    A node with a guider, or with a model and a prompt, counts as a sampler: of other packs' no more is known.
    """
    muted: Mapping[str, str] = record.get("muted", {})
    waiting, seen = [str(node) for node in record.get("outputs", ()) if str(node) in graph.nodes], set()
    while waiting:
        if (node := waiting.pop()) not in seen:
            seen.add(node)
            waiting += [source for source, _ in graph.links(node).values()]
    if not muted or any(_has_model(graph, node) for node in seen):
        return []
    names = ", ".join(f"{title} (node {node})" for node, title in muted.items())
    many = len(muted) > 1
    return [
        Finding(
            HARM,
            next(iter(muted)),
            "nothing is painted",
            f"{names} {'are' if many else 'is'} muted, so no sampler reaches an output.",
            f"Select {'them' if many else 'it'} and press Ctrl+M.",
        )
    ]


def _has_model(graph: Graph, node: str) -> bool:
    """Whether a node is a sampler whose model comes from somewhere."""
    links = graph.links(node)
    guider = next((g for g in graph.chain(links.get("guider"), "guider") if "model" in graph.links(g)), None)
    if guider is None and not ("model" in links and "positive" in links):
        return False
    chain = graph.model_chain(guider or node)
    return bool(graph.file(chain)) or graph.is_open(chain)


def muted_nodes(workflow: Any, names: Mapping[str, str]) -> dict[str, str]:
    """Muted nodes of a page's workflow, those in subgraphs too: id as in a prompt -> title.

    names: of the classes, for nodes that have no title of their own.
    """
    whole = workflow if isinstance(workflow, Mapping) else {}
    subgraphs = {g["id"]: g for g in _list(whole.get("definitions", {}), "subgraphs") if "id" in g}
    out: dict[str, str] = {}

    def add(graph: Mapping[str, Any], before: str) -> None:
        for node in _list(graph, "nodes"):
            key = f"{before}{node.get('id')}"
            if node.get("mode") == MUTED:
                out[key] = str(node.get("title") or names.get(str(node.get("type"))) or node.get("type"))
            elif node.get("type") in subgraphs and before.count(":") < MAX_DEPTH:
                add(subgraphs[node["type"]], f"{key}:")

    add(whole, "")
    return out


def _list(whole: Any, name: str) -> list[Mapping[str, Any]]:
    """The objects of a list in what a page has sent, which may have any form."""
    found = whole.get(name) if isinstance(whole, Mapping) else None
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def prompts(graph: Mapping[str, Any]) -> list[str]:
    """The typed prompts of all runs, so that their tokens can be counted."""
    read = Graph(all_opened(graph)[0])
    texts = (read.text(chain) for run in runs(read, {}) for chain in (run.positive, run.negative))
    return list(dict.fromkeys(text for text in texts if text))


def warnings(graph: Mapping[str, Any], record: Mapping[str, Any], sampler: str) -> list[Line]:
    """A line for each finding on what a one-node sampler itself sets, or on the size of its picture."""
    read = Graph(graph)
    own = {sampler, *(chain[-1:] if (chain := read.chain(read.source(sampler, "latent"), "latent")) else ())}
    found = (f for f in examine(graph, record, sampler) if f.node_id in own)
    return [
        Line(f"{f.severity.upper()}: ", LEVEL_OF[f.severity], f"{f.title}. {f.remedy}", f.node_id, f.fix, f.insert)
        for f in found
    ]


def findings_text(findings: list[Finding], graph: Mapping[str, Any]) -> Lines:
    """Findings for people, with the nodes that they are about."""
    if not findings:
        return Lines(["nothing found"])
    read, lines = Graph(graph), [f"{len(findings)} finding{'s' * (len(findings) > 1)}"]
    for f in findings:
        name = f", {read.title(f.node_id)}" if f.node_id in read.nodes else ""
        head = Line(f"{f.severity.upper()}: ", LEVEL_OF[f.severity], f"{f.title} (node {f.node_id}{name})", f.node_id)
        act = f.fix or f.insert
        remedy = Line("→ ", INFO, f.remedy, f.node_id, f.fix, f.insert) if act else f"→ {f.remedy}"
        lines += ["", head, f.text, remedy]
    return Lines(lines)
