"""Whole suites on a host and a page, as often as asked for: which pass, and which tests pass only sometimes?

    python -m benchmarks.suites [--suite host|browser|all] [--host PATH] [--frontend VERSION] [--repeat 10] [--only PATH ...]

Each run is kept in `suites.jsonl` of the cache when it has ended, so that a stopped command loses one run at most; the table
`results/suites.md` is made of all that is kept there. A test is flaky that passed in one run of a commit and failed in another, on
the same host and page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path
from typing import Any

import dev

from .measure import commit, write

SUITES = {"host": "host and not browser and not gpu", "browser": "browser and not gpu", "all": "not gpu"}  # pytest's -m
PINNED = "pinned"
RUNS = "suites.jsonl"


def kept() -> list[dict[str, Any]]:
    path = dev.cache_dir() / RUNS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def run(suite: str, host: str, frontend: str, only: list[str]) -> dict[str, Any]:
    """One run; by test whether it passed. raises: RuntimeError if pytest did not come to its end."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        own = [*(["--host", host] if host != PINNED else []), *(["--frontend", frontend] if frontend != PINNED else [])]
        how = ["-q", *dev.whole_suite(), "-m", SUITES[suite], f"--junitxml={report}"]
        command = [sys.executable, "dev.py", "test", *own, *how, *only]
        started = time.monotonic()
        ended = subprocess.run(command, cwd=dev.ROOT, capture_output=True, text=True)
        if not report.is_file():
            raise RuntimeError(ended.stdout[-2000:] + ended.stderr[-2000:])
        found = {}
        for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314  pytest's own
            if case.find("skipped") is None:
                broken = case.find("failure") is not None or case.find("error") is not None
                found[f"{case.get('classname')}::{case.get('name')}"] = not broken
    return {
        **{"suite": suite, "host": host, "frontend": frontend, "only": only, "commit": commit()},
        **{"seconds": round(time.monotonic() - started), "passed": found},
    }


def flaky(runs: list[dict[str, Any]]) -> list[str]:
    """Tests that passed and failed on the same commit, host and page."""
    seen: dict[tuple[str, ...], set[bool]] = defaultdict(set)
    for one in runs:
        for test, passed in one["passed"].items():
            seen[one["commit"], one["host"], one["frontend"], test].add(passed)
    return sorted({test for (*_, test), found in seen.items() if len(found) > 1})


def write_table() -> None:
    runs = kept()
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for one in runs:
        place = (one["suite"], Path(one["host"]).name, one["frontend"], one["commit"], " ".join(one["only"]))
        groups[place].append(one)
    rows = []
    for (suite, host, frontend, at, only), found in groups.items():
        counts = [sum(one["passed"].values()) for one in found]
        failed = sorted({test for one in found for test, passed in one["passed"].items() if not passed})
        minutes = sum(one["seconds"] for one in found) / 60
        what = f"{suite}: {only}" if only else suite
        rows.append(
            f"| {what} | {host} | {frontend} | {at} | {len(found)} | {min(counts)} | {len(failed)} | {minutes:.0f} |"
        )
    unsteady = flaky(runs)
    lines = [
        f"{len(runs)} runs, {len(groups)} pairs of a host and a page; {len(unsteady)} flaky tests.",
        "",
        "| suite | host | page | commit | runs | tests passed, least | tests that failed once | minutes |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        *(f"- flaky: {test}" for test in unsteady),
    ]
    write("suites", "Suites on hosts and pages", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", choices=SUITES, default="all")
    parser.add_argument("--host", default=PINNED, help="a folder of ComfyUI")
    parser.add_argument("--frontend", default=PINNED, help="version of comfyui-frontend-package")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="files of tests")
    given = parser.parse_args()
    for _ in range(given.repeat):
        found = run(given.suite, given.host, given.frontend, given.only)
        with open(dev.cache_dir() / RUNS, "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{sum(found['passed'].values())} of {len(found['passed'])} passed, {found['seconds']} s", flush=True)
        write_table()


if __name__ == "__main__":
    main()
