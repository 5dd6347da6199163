"""Alternating measurements in one process, long ones that go on where they stopped, and tables that say on what machine
they were made."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Sequence, TypeVar

import numpy as np

import dev

RESULTS = Path(__file__).parent / "results"
Painted = TypeVar("Painted", bound=tuple)


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


class Kept:
    """The rows of a table that are measured already, in the cache, so that a stopped run goes on; `write` removes them.

    A row is taken from there only if nothing has changed of what it depends on: the table's settings, its own, and the
    demo's weights. The code is not looked at: after a change to it, remove the table's `.kept` files by hand.
    """

    def __init__(self, table: str, settings: Any, weights: Iterable[Path] | None = None):
        """settings: of all rows, such as the questions. weights: files; by default those of the demo."""
        if weights is None:
            from demo import evaluate

            weights = evaluate.WEIGHTS
        self.table = table
        self.settings = [plain(settings), [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]]
        self.path = dev.cache_dir() / f"{table}.kept.json"
        self.rows: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def key(self, settings: Any) -> str:
        """The same for the same settings of table and row, and for the same weights."""
        text = json.dumps([self.table, self.settings, plain(settings)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def row(self, settings: Any, measure: Callable[[], Any]) -> Any:
        """What JSON can hold. settings: all that this row has of its own."""
        key = self.key(settings)
        if key not in self.rows:
            self.rows[key] = json.loads(json.dumps(measure()))  # a fresh row is like one from the file
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.rows))
            partial.replace(self.path)
        return self.rows[key]

    def painted(self, kind: type[Painted], settings: Any, paint: Callable[[], Sequence[Painted]]) -> list[Painted]:
        """Pictures that rows are compared with: named tuples of arrays and numbers, each in the one file."""
        path = self.path.with_name(f"{self.table}.kept-{self.key(settings)[:16]}.npz")
        if not path.exists():
            found = {f"{i} {name}": v for i, one in enumerate(paint()) for name, v in one._asdict().items()}
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.savez(file, **found)
            partial.replace(path)
        with np.load(path) as stored:
            found = {name: stored[name] if stored[name].ndim else stored[name].item() for name in stored.files}
        count = len({name.split()[0] for name in found})
        return [kind(**{name: found[f"{i} {name}"] for name in kind._fields}) for i in range(count)]

    def write(self, title: str, lines: list[str]) -> None:
        """The table, after which nothing is kept."""
        write(self.table, title, lines)
        self.delete()

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        for path in self.path.parent.glob(f"{self.table}.kept-*.npz"):
            path.unlink()
        self.rows = {}


def plain(value: Any) -> Any:
    """Settings as JSON has them, the same for equal ones. raises: TypeError for what cannot be told from another."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(v) for v in value), key=json.dumps)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"{value!r} is no setting that can be written down; give a number, a text or a group of them")
