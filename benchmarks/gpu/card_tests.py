"""`pytest -m gpu` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any, Callable, Iterator

import dev

from .rig import Rig


def cases(rig: Rig) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "pytest -m gpu", lambda: pytest_gpu(rig)


def pytest_gpu(rig: Rig) -> dict[str, Any]:
    """Counts, and what failed or was skipped, in pytest's words."""
    environment = {**os.environ, **({"CHROMA_PACK_CARD": "cpu"} if rig.rehearse else {})}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "tests/gpu",
        "tests/loaders",
    ]
    run = subprocess.run(command, cwd=dev.ROOT, env=environment, capture_output=True, text=True)
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|skipped|error)", run.stdout)}
    told = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
    if run.returncode not in (0, 1):
        raise RuntimeError((run.stdout + run.stderr).strip()[-1000:])
    return {"passed": 0, "failed": 0, **counts, "told": told}
