"""Tables from the result files, into benchmarks/results/gpu.md, from which docs/measured.md takes its figures."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..measure import RESULTS
from .parts import PARTS


@dataclass(frozen=True)
class Table:
    """title; part; cases: a regular expression that a case's name fits wholly; columns: heading -> (figure, format).

    No columns: every number of a case in one cell.
    """

    title: str
    part: str
    cases: str
    columns: dict[str, tuple[str, str]]


SECONDS, RATIO, SHARE = "{:.3f}", "{:.2f}", "{:.0%}"
TABLES = (
    Table(
        "One forward",
        "speed",
        r"forward .*",
        {
            "ours, s": ("ours, s", SECONDS),
            "ours, modulations kept, s": ("ours, modulations kept, s", SECONDS),
            "ComfyUI, s": ("ComfyUI, s", SECONDS),
            "diffusers, s": ("diffusers, s", SECONDS),
            "ComfyUI to ours": ("ComfyUI / ours", RATIO),
            "diffusers to ours": ("diffusers / ours", RATIO),
            "TFLOP/s of ours": ("ours, TFLOP/s", "{:.0f}"),
            "of the bf16 ceiling": ("of the bf16 ceiling", SHARE),
            "beyond weights, ours, GB": ("ours, working GB", "{:.2f}"),
            "beyond weights, ComfyUI, GB": ("ComfyUI, working GB", "{:.2f}"),
            "first compiled, s": ("ours, first s", "{:.0f}"),
        },
    ),
    Table(
        "A picture",
        "speed",
        r"(recipe|picture).*",
        {
            "steps": ("steps", "{}"),
            "cfg": ("cfg", "{:g}"),
            "ours, s": ("ours, s", SECONDS),
            "ComfyUI, s": ("ComfyUI, s", SECONDS),
            "diffusers, s": ("diffusers, s", SECONDS),
            "ComfyUI to ours": ("ComfyUI / ours", RATIO),
            "pictures apart": ("pictures apart", "{:.1e}"),
        },
    ),
    Table("Ceiling and attention", "speed", r"ceiling.*|Sage.*", {}),
    Table(
        "A card with little memory, a step of two prompts",
        "streaming",
        r"\d+ GB.*",
        {"first step, s": ("first step s", SECONDS), "step, s": ("step s", SECONDS)},
    ),
    Table("Dynamic VRAM on and off", "streaming", r"dynamic.*", {}),
    Table(
        "From a file in the page cache",
        "loading",
        r".*",
        {
            "file, GB": ("file GB", "{:.2f}"),
            "load, s": ("load s", SECONDS),
            "first step, s": ("first step s", SECONDS),
            "second step, s": ("second step s", SECONDS),
            "peak, GB": ("peak GB", "{:.1f}"),
        },
    ),
    Table(
        "Two prompts in one forward, of the time in two",
        "pairing",
        r".*",
        {
            "padding": ("padding", "{:.1%}"),
            "by length": ("by length / two", RATIO),
            "masked": ("masked / two", RATIO),
        },
    ),
    Table(
        "Fused kernels, ms of a forward",
        "kernels",
        r".*",
        {
            "count": ("count", "{}"),
            "plain": ("plain ms a forward", "{:.2f}"),
            "comfy-kitchen": ("fused ms a forward", "{:.2f}"),
            "in Triton": ("in Triton ms a forward", "{:.2f}"),
            "apart": ("apart", "{:.1e}"),
            "in comfy-kitchen": ("in comfy-kitchen", "{}"),
        },
    ),
    Table("Correctness", "correctness", r".*", {}),
    Table("Tests of a card", "tests", r".*", {}),
    Table("Training", "training", r".*", {}),
)


def write(folder: Path) -> Path:
    """All tables of a folder of results; gives the file's path.

    raises: ValueError where there are none, or where they are a rehearsal's.
    """
    text = tables(load(folder))
    path = RESULTS / "gpu.md"
    path.write_text(text)
    return path


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """Part -> its result file."""
    files = {part.name: folder / f"{part.name}.json" for part in PARTS}
    found = {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}
    if not found:
        raise ValueError(f"{folder} has no results. Run `python -m benchmarks.gpu --out {folder}` on a card first")
    rehearsed = [name for name, content in found.items() if content["rehearsal"]]
    if rehearsed:
        raise ValueError(f"{folder} is a rehearsal's ({', '.join(rehearsed)}): nothing in it is measured on a card")
    return found


def tables(found: dict[str, dict[str, Any]]) -> str:
    """Markdown of all tables that have rows, then of the profiles."""
    lines = ["# On a card", ""]
    machines = {describe(content["machine"]) for content in found.values()}
    lines += [*sorted(machines), ""]
    lines += ["Weights are seeded noise of realistic scale at the published sizes; medians of alternating rounds.", ""]
    for table in TABLES:
        cases = found.get(table.part, {}).get("cases", {})
        rows = {name: figures for name, figures in cases.items() if re.fullmatch(table.cases, name)}
        if rows:
            lines += [f"## {table.title}", "", *markdown(table, rows), ""]
    for name, figures in found.get("speed", {}).get("cases", {}).items():
        if "top" in figures:
            lines += profile(name, figures)
    return "\n".join(lines)


def describe(machine: dict[str, Any]) -> str:
    order = ("card", "card GB", "capability", "driver", "cuda", "processor", "cores", "python", "torch", "triton")
    order += ("comfyui", "comfy-kitchen", "comfy-aimdo", "diffusers", "sageattention", "flash-attn", "commit", "date")
    return "; ".join(f"{name} {shown(machine[name], '{:.0f}')}" for name in order if name in machine)


def markdown(table: Table, rows: dict[str, dict[str, Any]]) -> list[str]:
    headings = {h: c for h, c in table.columns.items() if any(c[0] in figures for figures in rows.values())}
    if not headings:
        lines = ["| | found |", "|---|---|"]
        return lines + [f"| {name} | {everything(figures)} |" for name, figures in rows.items()]
    noted = any(note(figures) for figures in rows.values())
    lines = [f"| | {' | '.join(headings)} |{' note |' * noted}", "|---|" + "---|" * (len(headings) + noted)]
    for name, figures in rows.items():
        cells = [shown(figures.get(key, ""), form) for key, form in headings.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |{f' {note(figures)} |' * noted}")
    return lines


def note(figures: dict[str, Any]) -> str:
    """Why a case has no figures."""
    if figures.get("unfinished"):
        return "not finished"
    return str(figures.get("error") or figures.get("not here") or "").replace("|", "/")


def everything(figures: dict[str, Any]) -> str:
    kept = {k: v for k, v in figures.items() if k not in ("took_s", "traceback", "all", "top", "steps")}
    return "; ".join(f"{k} {shown(v, '{:.3g}')}" for k, v in kept.items()).replace("|", "/")


def shown(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def profile(name: str, figures: dict[str, Any]) -> list[str]:
    """The kernels of a profile, the longest first."""
    span, gaps = figures["span ms"], figures["between kernels ms"]
    lines = [f"## {name[0].upper()}{name[1:]}: {figures['stored as']}", ""]
    lines += [f"{figures['kernels']} kernels in {span:.1f} ms, {gaps:.1f} ms of them between kernels.", ""]
    lines += ["| kernel | count | ms | of the forward |", "|---|---|---|---|"]
    for row in figures["top"]:
        kernel = row["kernel"].replace("|", "/")
        lines.append(f"| `{kernel}` | {row['count']} | {row['ms']:.2f} | {row['ms'] / span:.1%} |")
    return [*lines, ""]
