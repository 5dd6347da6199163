"""Do the tests notice a wrong sign? Changes the pure modules in one place at a time, and counts the changes that no test sees.

The changes are cosmic-ray's (`pip install cosmic-ray`, only for this), one for each place and kind; annotations are left
out, for they are never run. Every change runs the area's tests in a fork, so nothing on disk changes. POSIX only.

    python -m benchmarks.mutants [AREA ...] [--sample N] [--show] [--again FILE]

Each area's row goes to `results/mutants.md` as soon as it is known, in place of an older one.

--again takes an earlier output of --show and tries only what was alive in it: where tests were only added since, no other
change can have come back to life.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.machinery
import math
import os
import random
import resource
import sys
from pathlib import Path
from typing import Iterator, NamedTuple

import dev

from .measure import RESULTS, write

UNCHANGED_LIMIT = 600.0  # seconds of a test file without a change
SAMPLE = 200  # changes of an area; all where it has fewer
# Area -> its files, and the tests that answer for it, the quicker first.
AREAS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "schedules": (("samplers/schedules.py",), ("samplers/test_schedules.py",)),
    "samplers": (("samplers/res.py",), ("samplers/test_res.py",)),
    "guidance": (
        ("samplers/guidance.py", "samplers/guided_run.py", "samplers/run_record.py"),
        ("samplers/test_guidance.py", "samplers/test_run_record.py"),
    ),
    "advice": (
        ("advice/*.py", "advice/rules/*.py"),
        tuple(
            f"advice/test_{name}.py"
            for name in ("queued_graph", "presets", "run_costs", "sizes", "speed", "studio", "tables", "doctor")
        ),
    ),
    "formats": (
        ("loaders/formats/*.py", "loaders/formats/base/*.py"),
        (
            "loaders/formats/test_every_packed.py",
            "loaders/formats/base",
            "loaders/formats/test_ggml.py",
            "loaders/checkpoint/test_write_quantised.py",
            "loaders/checkpoint/test_headers.py",
        ),
    ),
    "keys": (
        ("loaders/checkpoint/keys.py",),
        (
            "loaders/checkpoint/test_keys.py",
            "loaders/checkpoint/test_detect_variant.py",
            "loaders/checkpoint/test_headers.py",
        ),
    ),
}
KILLED, ALIVE, SLOW = "killed", "alive", "timed out"


class Place(NamedTuple):
    """Where one kind of change can be made. choices: cosmic-ray's operators that make it, with their count."""

    path: Path
    kind: str
    start: tuple[int, int]
    choices: list[tuple[str, int]]


class Mutant(NamedTuple):
    path: Path
    kind: str
    line: int
    before: str
    after: str
    text: str  # of the whole module


def annotations(tree: ast.AST) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where they begin and end, as (line, column)."""
    for node in ast.walk(tree):
        held = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        for found in (a for a in held if isinstance(a, ast.expr)):
            yield (found.lineno, found.col_offset), (found.end_lineno or 0, found.end_col_offset or 0)


def places_of(path: Path) -> list[Place]:
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    text = path.read_text(encoding="utf-8")
    spans, nodes = list(annotations(ast.parse(text))), list(ast_nodes(get_ast(text)))
    found: dict[tuple[str, tuple[int, int]], list[tuple[str, int]]] = {}
    for name in operator_names():
        kind = name.removeprefix("core/").split("_")[0]
        if kind.startswith("Variable") or name.endswith(("_Is", "_IsNot")):  # the first need arguments; `is` finds
            continue  # equal constants alike
        places = (place for node in nodes for place in get_operator(name)().mutation_positions(node))
        for count, (start, end) in enumerate(places):
            if not any(a <= start and end <= b for a, b in spans):
                found.setdefault((kind, start), []).append((name, count))
    return [Place(path, kind, start, choices) for (kind, start), choices in sorted(found.items())]


def changed(place: Place, choose: random.Random) -> Mutant | None:
    """One of the place's changes: cosmic-ray has up to ten for one operator. None where it leaves the text as it is."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    text = place.path.read_text(encoding="utf-8")
    name, count = choose.choice(place.choices)
    new = mutate_code(text, get_operator(name)(), count)
    pairs = enumerate(zip(text.splitlines(), (new or text).splitlines()), 1)
    return next((Mutant(place.path, place.kind, i, a.strip(), b.strip(), new) for i, (a, b) in pairs if a != b), None)


def run_tests(test: str, mutant: Mutant | None) -> int:
    """pytest's code, in this process."""
    import pytest

    if mutant is not None:
        read = importlib.machinery.SourceFileLoader.get_code

        def get_code(self: importlib.machinery.SourceFileLoader, name: str) -> object:
            ours = Path(self.path) == mutant.path
            return compile(mutant.text, self.path, "exec") if ours else read(self, name)

        importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not host and not gpu and not slow"]
    return int(pytest.main([*options, str(dev.ROOT / "tests" / test)]))


def verdict(test: str, mutant: Mutant | None, limit: float) -> tuple[str, float]:
    """Of a test file in a fork, so that what it imports and changes is gone with it; and the seconds that it computed.

    limit: of those seconds. Time on the wall would tell of other processes too.
    """
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit),) * 2)
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            code = run_tests(test, mutant)
        os._exit(0 if code == 0 else 1)
    _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime
    if os.WIFSIGNALED(status):
        return SLOW, seconds
    return ALIVE if os.waitstatus_to_exitcode(status) == 0 else KILLED, seconds


def where(mutant: Mutant) -> str:
    return f"{mutant.path.relative_to(dev.ROOT)}:{mutant.line} {mutant.kind}\n  - {mutant.before}\n  + {mutant.after}"


def measured(area: str, sample: int, show: bool, earlier: str | None = None) -> tuple[int, int, list[Mutant]]:
    """Number of possible changes, of those tried, and those that no test saw. earlier: output of --show."""
    patterns, tests = AREAS[area]
    choose = random.Random(0)
    paths = sorted(p for pattern in patterns for p in dev.ROOT.glob(pattern))
    every = [place for path in paths for place in places_of(path)]
    chosen = sorted(choose.sample(every, min(sample, len(every))))
    tried = [m for m in (changed(place, choose) for place in chosen) if m is not None]
    limits = {}
    for test in tests:
        found, seconds = verdict(test, None, UNCHANGED_LIMIT)
        if found != ALIVE:
            raise RuntimeError(f"{test} fails without a change")
        limits[test] = 5 + 3 * seconds
    alive = []
    for i, mutant in enumerate(tried, 1):
        if earlier is not None and where(mutant) not in earlier:
            continue
        if all(verdict(test, mutant, limit)[0] == ALIVE for test, limit in limits.items()):
            alive.append(mutant)
            if show:
                print(where(mutant), flush=True)
        print(f"{area} {i}/{len(tried)}, {len(alive)} alive", end="\r", file=sys.stderr, flush=True)
    return len(every), len(tried), alive


def keep(area: str, row: str) -> None:
    """Into the table, whose other rows stay."""
    path = RESULTS / "mutants.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")} | {area: row}
    known = [rows[name] for name in AREAS if name in rows]
    write(
        "mutants",
        "Changes of the pure modules that no test notices",
        [
            "The machine and commit are those of the newest row.",
            "",
            "| area | changes | tried | alive | share |",
            "|---|---|---|---|---|",
            *known,
        ],
    )


def main(areas: tuple[str, ...], sample: int, show: bool, earlier: str | None = None) -> None:
    sys.path.insert(0, str(dev.ROOT / "tests"))
    with contextlib.suppress(ImportError):  # what every test file would import anew
        import diffusers  # noqa: F401
        import gguf  # noqa: F401
        import pytest  # noqa: F401
        import safetensors.torch  # noqa: F401
        import torch
        import transformers  # noqa: F401

        torch.set_num_threads(1)  # a fork inherits no threads
    print("| area | changes | tried | alive | share |\n|---|---|---|---|---|")
    for area in areas:
        possible, tried, alive = measured(area, sample, show, earlier)
        row = f"| {area} | {possible} | {tried} | {len(alive)} | {len(alive) / tried:.1%} |"
        print(row, flush=True)
        keep(area, row)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("areas", nargs="*", default=[])
    parser.add_argument("--sample", type=int, default=SAMPLE)
    parser.add_argument("--show", action="store_true", help="each that is alive, as it is found")
    parser.add_argument("--again", type=Path, help="an earlier output of --show, for what was alive in it")
    arguments = parser.parse_args()
    earlier = arguments.again.read_text(encoding="utf-8") if arguments.again else None
    main(tuple(arguments.areas) or tuple(AREAS), arguments.sample, arguments.show, earlier)
