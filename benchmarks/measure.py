"""Alternating measurements in one process, and tables that say on what machine they were made."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable

import dev

RESULTS = Path(__file__).parent / "results"


def alternate(variants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every variant in every round; one warm-up each, and the order turns round from round to round."""
    for call in variants.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(rounds):
        names = list(variants)
        for name in names if i % 2 == 0 else reversed(names):
            start = time.perf_counter()
            variants[name]()
            seconds[name].append(time.perf_counter() - start)
        print(f"round {i + 1}/{rounds}", file=sys.stderr, flush=True)
    return seconds


def ratio_table(seconds: dict[str, list[float]], base: str) -> list[str]:
    """Markdown rows: median and least seconds, and the median of the ratios to `base`, round by round."""
    rows = ["| | median s | least s | ratio to ours |", "|---|---|---|---|"]
    for name, values in seconds.items():
        ratios = [v / b for v, b in zip(values, seconds[base])]
        rows.append(
            f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} | {statistics.median(ratios):.2f} |"
        )
    return rows


INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)


def processor() -> tuple[str, frozenset[str]]:
    """Its name, and which of INSTRUCTIONS it has: they decide how fast 8 and 16 bits are. None is known but on Linux."""
    name, flags = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        facts = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        found = {key.strip(): value.strip() for key, _, value in facts}
        name, flags = found.get("model name", name), found.get("flags", found.get("Features", ""))
    return name, frozenset(flags.split()) & frozenset(INSTRUCTIONS)


def commit() -> str:
    """That of the checkout, short."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=dev.ROOT, capture_output=True, text=True).stdout.strip()


def machine() -> str:
    """Processor or GPU, versions and commit, in one line."""
    import torch

    cpu, instructions = processor()
    cpu += f" ({', '.join(i for i in INSTRUCTIONS if i in instructions)})" if instructions else ""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{cpu}, {os.cpu_count()} cores, {gpu}; Python {platform.python_version()}, torch {version('torch')}, ComfyUI "
        f"{dev.host_version()}, diffusers {version('diffusers')}; commit {commit()}; {time.strftime('%Y-%m-%d')}"
    )


def write(name: str, title: str, lines: list[str]) -> None:
    text = "\n".join([f"# {title}", "", machine(), "", *lines, ""])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)
