"""How many nodes have the templates, before and now, and how many clicks is a newcomer away from a picture?"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import dev

from .measure import write

sys.path.insert(0, str(dev.ROOT / "tests"))
from browser import comfy_page  # noqa: E402

BEFORE = "786c565"  # the commit of release 0.3.0
FOLDER = "example_workflows"
NEWCOMER = "tests/browser/test_workflows.py::test_a_newcomer_has_a_picture_in_three_clicks"


def lacking() -> str:
    """What this needs and the machine has not; empty where all is there."""
    from playwright.sync_api import sync_playwright

    if subprocess.run(["git", "cat-file", "-e", BEFORE], cwd=dev.ROOT, capture_output=True).returncode:
        return f"this copy of the repository has no commit {BEFORE}"
    with sync_playwright() as playwright:
        return "" if comfy_page.find_chromium(playwright) else "there is no Chromium"


def counts(workflow: dict[str, Any]) -> tuple[int, int]:
    """Nodes that are seen as it opens, without notes; and those within its subgraphs."""
    graphs = workflow.get("definitions", {}).get("subgraphs", [])
    outer = [node for node in workflow["nodes"] if node["type"] != "MarkdownNote"]
    return len(outer), sum(len(graph["nodes"]) for graph in graphs)


def of_release(name: str) -> tuple[int, int] | None:
    """None where there was no such template."""
    shown = subprocess.run(["git", "show", f"{BEFORE}:{FOLDER}/{name}"], cwd=dev.ROOT, capture_output=True)
    return None if shown.returncode else counts(json.loads(shown.stdout))


def clicks() -> tuple[int, int]:
    """(clicks, seconds) of the test that clicks as a person does."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rP", "-m", "browser", NEWCOMER],
        cwd=dev.ROOT,
        capture_output=True,
        text=True,
    )
    found = re.search(r"^(\d+) clicks, (\d+) s$", run.stdout, re.M)
    if run.returncode or not found:
        raise RuntimeError(run.stdout[-2000:])
    return int(found[1]), int(found[2])


def main(rounds: int) -> None:
    if lacks := lacking():
        print(f"templates is left out: {lacks}", file=sys.stderr)
        return
    number, seconds = clicks()
    lines = [
        f"Nodes as a template opens, without its note, and, after +, those within its subgraphs; in release 0.3.0 (commit "
        f"{BEFORE}) and in this checkout.",
        "",
        "| template | 0.3.0 | now |",
        "|---|---|---|",
    ]
    for path in sorted((dev.ROOT / FOLDER).glob("*.json")):
        found = of_release(path.name), counts(json.loads(path.read_text()))
        cells = ["" if n is None else f"{n[0]} + {n[1]}" if n[1] else f"{n[0]}" for n in found]
        lines.append(f"| {path.stem} | {' | '.join(cells)} |")
    lines += [
        "",
        f"From opening the page for the first time to a picture, with files in place: {number} clicks (this pack in the list of "
        f"templates that opens by itself, its template *chroma_text_to_image*, *Run*), {seconds} s on "
        "the demo's files, 128 x 128 pixels, 4 steps. Counted by a test, which fails at more clicks.",
    ]
    write("templates", "Nodes of the templates, and clicks to a picture", lines)
