"""Trains the demo of things for as long as the part may take; the next call goes on from its state."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from typing import Any, Callable, Iterator

import dev

from .rig import Rig

SECONDS = 100  # of one session of training


def cases(rig: Rig) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    if rig.rehearse:
        yield "toy", lambda: toy(rig)
        return
    yield f"session {len(rig.found) + 1}", lambda: session(rig)


def session(rig: Rig) -> dict[str, Any]:
    """Minutes of `demo.train_things`, whose state and weights stay in --out."""
    from demo import things

    if not any(things.folder().glob("sprites-*.npy")):
        return {"not here": f"no sprites in {things.folder()}: run `python -m demo.things` and take them along"}
    out = rig.out / "training"
    command = [sys.executable, "-m", "demo.train_things", "chroma", "--out", str(out), "--hours", str(SECONDS / 3600)]
    start = time.monotonic()
    run = subprocess.run([*command, "--threads", "8"], cwd=dev.ROOT, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr.strip().splitlines()[-1])
    lines = [line for line in run.stdout.splitlines() if line.startswith("step ")]
    steps = [int(re.match(r"step (\d+)", line)[1]) for line in lines]
    return {"seconds": time.monotonic() - start, "step": steps[-1] if steps else 0, "last lines": lines[-3:]}


def toy(rig: Rig) -> dict[str, Any]:
    """The control flow of a session: the tests' toy trainer takes two steps, keeps its state, and goes on from it."""
    test = "tests/demo/test_train_things.py::test_a_restarted_run_ends_as_an_unbroken_one"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{test}[chroma]"]
    run = subprocess.run(command, cwd=dev.ROOT, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError((run.stdout + run.stderr).strip()[-1000:])
    return {"a restarted run is the unbroken one": "yes"}
