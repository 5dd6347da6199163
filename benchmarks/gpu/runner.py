"""Runs parts, each in a process of its own with a time limit, and keeps every case's result the moment it is there.

A result file is `{"part", "machine", "rehearsal", "cases": {name: figures}}`. A case that was cut off has
`{"unfinished": true}` and is tried again after those that were not tried; one that failed has `{"error": ...}` and is
tried again only with --again.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Iterable

from .parts import BY_NAME, Part

Case = tuple[str, Callable[[], dict[str, Any]]]
UNFINISHED = {"unfinished": True}
GRACE = 5  # seconds between a part's own end of time and the end of its process
PATIENCE = 10  # times longer in a rehearsal, whose machine may be busy
SAME = ("card", "torch", "commit")  # of the machine; results of different ones are not put into one file


class Results:
    """The result file of one part, whole at every moment."""

    def __init__(self, path: Path, part: str, machine: dict[str, Any], rehearsal: bool):
        """raises: ValueError where the file is of another machine, version or commit."""
        self.path = path
        self.content = {"part": part, "machine": machine, "rehearsal": rehearsal, "cases": {}}
        if path.exists():
            kept = json.loads(path.read_text())
            for name in SAME:
                before, now = kept["machine"].get(name), machine.get(name)
                if before != now:
                    raise ValueError(f"{path} is of {name} {before}, this run of {now}. Give another folder with --out")
            self.content["cases"] = kept["cases"]

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        return self.content["cases"]

    def record(self, case: str, found: dict[str, Any]) -> None:
        self.cases[case] = found
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=1) + "\n")
        partial.replace(self.path)

    def todo(self, cases: Iterable[Case], again: bool = False) -> list[Case]:
        """The cases without a result: those never tried, then those cut off, then, if asked for, those that failed."""
        order: tuple[list[Case], ...] = ([], [], [])
        for name, call in cases:
            found = self.cases.get(name)
            if found is None:
                order[0].append((name, call))
            elif found == UNFINISHED:
                order[1].append((name, call))
            elif "error" in found and again:
                order[2].append((name, call))
        return [case for group in order for case in group]


def run_cases(results: Results, cases: Iterable[Case], seconds: float, again: bool = False) -> None:
    """Runs what has no result until `seconds` from now; a case that fails does not stop the others."""
    end = time.monotonic() + seconds
    for name, call in results.todo(cases, again):
        if time.monotonic() >= end:
            return
        results.record(name, UNFINISHED)
        start = time.monotonic()
        try:
            found = call()
        except Exception as error:
            text = (str(error).strip().splitlines() or [""])[0][:300]
            found = {"error": f"{type(error).__name__}: {text}", "traceback": traceback.format_exc()[-2000:]}
        found["took_s"] = round(time.monotonic() - start, 2)
        results.record(name, found)
        print(f"  {name}: {brief(found)}", flush=True)


def brief(found: dict[str, Any]) -> str:
    """One line of a case's figures."""
    shown = {k: v for k, v in found.items() if isinstance(v, (int, float, str)) and k not in ("traceback", "took_s")}
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in list(shown.items())[:8])


def child(names: list[str], out: Path, rehearse: bool, again: bool, seconds: float) -> None:
    """Parts in this process: one, or in a rehearsal several that need the same of ComfyUI."""
    began = time.monotonic()
    parts = [BY_NAME[name] for name in names]
    from . import rig as rigs

    rig = rigs.Rig(out, rehearse)
    if parts[0].host:
        rig.start_host(parts[0].dynamic and not rehearse)
    for part in parts:
        results = Results(out / f"{part.name}.json", part.name, rigs.machine(rehearse), rehearse)
        rig.found = results.cases
        cases = importlib.import_module(f".{part.module}", __package__).cases(rig)
        run_cases(results, cases, seconds - (time.monotonic() - began), again)


def run_parts(parts: list[Part], out: Path, seconds: float, rehearse: bool, again: bool) -> bool:
    """Parts in a process of their own, ended when its time is over; whether it came to its end."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", *(part.name for part in parts), "--out", str(out)]
    command += ["--rehearse"] * rehearse + ["--again"] * again + ["--seconds", f"{seconds:.0f}"]
    for part in parts:
        print(f"{part.name} ({part.seconds} s): {part.question}", flush=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=os.name != "nt")
    try:
        return process.wait(seconds + GRACE) == 0
    except subprocess.TimeoutExpired:
        print("  the time is over", flush=True)
        return True
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Ends a part and what it started."""
    if process.poll() is not None:
        return
    if os.name == "nt":
        process.kill()
    else:
        os.killpg(process.pid, 9)  # its own session, see run_part
    process.wait()


def groups(parts: Iterable[Part], rehearse: bool) -> list[list[Part]]:
    """Parts by process: each has its own, but in a rehearsal those with ComfyUI share one, whose start takes longest."""
    parts = list(parts)
    if not rehearse:
        return [[part] for part in parts]
    shared = [part for part in parts if part.host]
    return [*([shared] if shared else []), *([part] for part in parts if not part.host)]


def run(parts: Iterable[Part], out: Path, minutes: float, rehearse: bool, again: bool) -> list[str]:
    """All parts in their order while time is left; gives the names of those whose process failed.

    A rehearsal times nothing, so its processes run beside each other.
    """
    patience = PATIENCE if rehearse else 1
    last = time.monotonic() + 60 * minutes * patience

    def run_group(group: list[Part]) -> list[str]:
        names, left = [part.name for part in group], last - time.monotonic() - GRACE
        if left <= GRACE:
            print(f"{', '.join(names)}: left out, the time is over", flush=True)
            return []
        ended = run_parts(group, out, min(left, patience * sum(p.seconds for p in group)), rehearse, again)
        return [] if ended else names

    found = groups(parts, rehearse)
    with ThreadPoolExecutor(len(found) if rehearse else 1) as pool:
        return [name for names in pool.map(run_group, found) for name in names]
