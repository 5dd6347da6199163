"""What the nets of the tests caught, in one table: hosts and pages, faults, inputs, damaged files, long runs, mutants, flaky tests.

    python -m benchmarks.reliability [hosts] [faults] [inputs] [--host FOLDER ...] [--profile many]

Measures the rows that are named, of which each is kept in the cache with its commit as soon as it is known, and writes the whole
table. The other rows are those that `suites`, `fuzz_files`, `fuzz_readers`, `fuzz_prompts`, `soak` and `mutants` wrote before, whose
tables name their commits; a dash where nothing is known yet. Without a name nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import dev
from tools import check_host

from .measure import RESULTS, commit, write

SHORT = "not slow and not gpu and not browser"
WHOLE = "not gpu and not browser"


def tests(folder: str, chosen: str, *options: str) -> tuple[dict[str, int], float, str]:
    """(tests by outcome, seconds, what pytest printed) of a folder of tests. Which of them failed is printed."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        started = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", chosen, f"--junitxml={report}", *options, folder],
            cwd=dev.ROOT,
            capture_output=True,
            text=True,
        )
        seconds = time.monotonic() - started
        print(*re.findall(r"^(?:FAILED|ERROR) .*", run.stdout, re.MULTILINE), sep="\n", file=sys.stderr, flush=True)
        if not report.is_file():
            raise RuntimeError(run.stdout[-2000:] + run.stderr[-2000:])
        suite = next(ElementTree.parse(report).iter("testsuite"))  # noqa: S314  pytest's own
    count = {kind: int(suite.get(kind, 0)) for kind in ("tests", "failures", "errors", "skipped")}
    count["passed"] = count["tests"] - count["failures"] - count["errors"] - count["skipped"]
    return count, seconds, run.stdout


def failed(count: dict[str, int]) -> int:
    return count["failures"] + count["errors"]


def of_result(name: str, pattern: str) -> str:
    """A piece of a table in benchmarks/results; a dash where the table is not there."""
    path = RESULTS / f"{name}.md"
    found = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE) if path.is_file() else None
    return found[1] if found else "-"


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def told_at_start(folder: Path) -> str:
    """What a ComfyUI with this pack in it says of it while it starts; it runs with the environment of the pinned one."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        for part in ("custom_nodes", "input", "output", "user", "models"):
            (base / part).mkdir()
        dev.link(base / "custom_nodes" / "chroma-pack")
        options = ("--cpu", "--quick-test-for-ci", "--disable-api-nodes", "--database-url", "sqlite:///:memory:")
        run = subprocess.run(
            [sys.executable, "main.py", *options, "--base-directory", name],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    told = re.findall(r"Chroma Pack: .*", run.stdout)
    if run.returncode:
        return f"it did not start with this environment ({run.returncode})"
    return f"told in {len(told)} line{'s' * (len(told) > 1)}: {' '.join(told)}" if told else "loads without a warning"


def hosts(folders: list[Path]) -> list[str]:
    names, rows = check_host.used_by(), []
    for folder in folders:
        gone, unclear = check_host.lacking(folder, names)
        what = f"names of ComfyUI {check_host.HostTree(folder).version}"
        note = f"{len(unclear)} are not told by its sources; the pack in it {told_at_start(folder)}; at {commit()}"
        rows.append(row(what, len(names), len(gone), note))
    return rows


def files_tried() -> str:
    path = RESULTS / "fuzz_files.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    wrong = sum(int(n) for n in re.findall(r"^\|.*\| (\d+) \|$", text, re.MULTILINE))
    tried = of_result("fuzz_files", r"^(\d+) damaged files")
    return row(
        "damaged files", tried, wrong, "neither refused in a sentence nor loaded as they were; `results/fuzz_files.md`"
    )


def prompts_tried() -> str:
    counts = [of_result("fuzz_prompts", rf"^\| {what} \| (\d+) \|") for what in ("unclear", "hung", "dead")]
    bad = sum(int(n) for n in counts if n != "-")
    tried = of_result("fuzz_prompts", r"^(\d+) prompts")
    return row("wrong prompts", tried, bad, "unclear, hung or dead; `results/fuzz_prompts.md`")


def soaked() -> str:
    tried = of_result("soak", r"^(\d+) prompts in")
    differ = (RESULTS / "soak.md").read_text(encoding="utf-8").count("DIFFERS") if tried != "-" else "-"
    minutes, grown = of_result("soak", r"prompts in ([\d.]+) minutes"), of_result("soak", r"^Median memory .*: (.*)\.$")
    note = f"in {minutes} minutes to one server; median memory {grown} in the later thirds; `results/soak.md`"
    return row("prompts one after another", tried, differ, note)


def readers_tried() -> str:
    tried = of_result("fuzz_readers", r"^(\d+) inputs to")
    readers = of_result("fuzz_readers", r"inputs to (\d+) readers")
    note = f"coverage-guided, to {readers} readers of files; what broke one was mended, and is a test; `results/fuzz_readers.md`"
    return row("headers and files by a fuzzer", tried, "-", note)


def suites_run() -> str:
    tried, pairs = of_result("suites", r"^(\d+) runs"), of_result("suites", r"^\d+ runs, (\d+) pairs")
    unsteady = of_result("suites", r"(\d+) flaky tests")
    note = f"whole suites on {pairs} pairs of a host and a page; failed: flaky tests; `results/suites.md`"
    return row("runs of suites", tried, unsteady, note)


def memory_curve() -> str:
    thirds = [of_result("soak", rf"^\| {third} \| \d+ \| [\d.]+ / ([\d.]+) /") for third in (1, 2, 3)]
    return row("memory, MB", " -> ".join(thirds), "-", "median of each third of those prompts; the limit is 2 % more")


def mutants_killed() -> str:
    path = RESULTS / "mutants.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.findall(r"^\| (\w+) \| \d+ \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    tried, alive = (sum(int(areas[i]) for areas in found) if found else "-" for i in (1, 2))
    note = f"in {', '.join(area for area, *_ in found) or 'no area yet'}; failed: no test noticed; `results/mutants.md`"
    return row("changes of one place in the code", tried, alive, note)


def faults() -> list[str]:
    broken, seconds, _ = tests("tests/faults", WHOLE)
    return [
        row(
            "faults",
            broken["tests"] - broken["skipped"],
            failed(broken),
            f"`tests/faults`, {seconds:.0f} s, at {commit()}",
        )
    ]


def inputs(profile: str) -> list[str]:
    drawn, _, said = tests("tests/properties", SHORT, f"--hypothesis-profile={profile}", "--hypothesis-show-statistics")
    examples = sum(int(n) for n in re.findall(r"(\d+) passing", said))
    note = f"in {drawn['tests']} tests of `tests/properties`, profile {profile}, at {commit()}"
    return [row("drawn inputs", examples, failed(drawn), note)]


def main(measured: list[str], folders: list[Path] | None = None, profile: str = "plain") -> None:
    ways = {
        "hosts": lambda: hosts(folders or [dev.host_path()]),
        "faults": faults,
        "inputs": lambda: inputs(profile),
    }
    kept = dev.cache_dir() / "reliability.json"
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    for name in measured:
        known[name] = ways[name]()
        kept.write_text(json.dumps(known), encoding="utf-8")
    lines = [
        "| | tried | failed | |",
        "|---|---|---|---|",
        *known.get("hosts", [row("names of ComfyUI", "-", "-", "not measured yet")]),
        suites_run(),
        *known.get("faults", [row("faults", "-", "-", "not measured yet")]),
        *known.get("inputs", [row("drawn inputs", "-", "-", "not measured yet")]),
        files_tried(),
        readers_tried(),
        prompts_tried(),
        soaked(),
        memory_curve(),
        mutants_killed(),
    ]
    write("reliability", "What was tried to break it", lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "measured", nargs="*", choices=["hosts", "faults", "inputs", []], metavar="hosts | faults | inputs"
    )
    parser.add_argument("--host", nargs="*", type=Path, help="folders of ComfyUI, for hosts")
    parser.add_argument("--profile", default="plain")
    given = parser.parse_args()
    main(given.measured, given.host, given.profile)
