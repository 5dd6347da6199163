"""How much longer does ComfyUI take to start with this pack, and how much memory does that take?"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import dev

from .measure import write

STARTS = {"later starts": False, "the first start, which compiles": True}


def child() -> None:
    """Imports the host and its own nodes, then the pack by the host's loader; prints seconds and bytes."""
    sys.path.insert(0, str(dev.host_path()))
    import asyncio

    from comfy.cli_args import args

    args.cpu = True
    start = time.perf_counter()
    import psutil
    import server  # noqa: F401  the host's page server, which the pack's route is made for

    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())
    host = time.perf_counter() - start
    process = psutil.Process()
    before = process.memory_info().rss
    start, busy = time.perf_counter(), time.process_time()
    loaded = asyncio.run(nodes.load_custom_node(str(dev.ROOT)))
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    if not loaded:
        raise RuntimeError("the host could not load the pack; its reason is above")
    taken = process.memory_info().rss - before
    print(json.dumps({"host": host, "seconds": seconds, "processor": busy, "bytes": taken}))


def measured(compiles: bool) -> dict[str, float]:
    """One start in a process of its own. compiles: with no compiled modules of an earlier one, the host's neither."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **({"PYTHONPYCACHEPREFIX": folder} if compiles else {})}
        run = subprocess.run(
            [sys.executable, "-c", "import benchmarks.start as b; b.child()"],
            cwd=dev.ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return json.loads(run.stdout.splitlines()[-1])


def main(rounds: int) -> None:
    measured(False)  # warms the file cache, and compiles
    found: dict[str, list[dict[str, float]]] = {name: [] for name in STARTS}
    for i in range(rounds):
        for name, compiles in STARTS.items():
            found[name].append(measured(compiles))
        print(f"round {i + 1}/{rounds}", file=sys.stderr, flush=True)
    lines = [
        "The pack loaded by the host's own loader after the host's modules and nodes, each start a process of its own; "
        f"{rounds} alternating rounds, medians. Memory is resident memory that came in while the pack was loaded; "
        "`the host alone` is its modules and its own nodes, without the search for a device.",
        "",
        "| | pack, s | least s | processor s | pack, MB | the host alone, s |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        middle = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        least = min(r["seconds"] for r in runs)
        lines.append(
            f"| {name} | {middle['seconds']:.2f} | {least:.2f} | {middle['processor']:.2f} "
            f"| {middle['bytes'] / 1e6:.0f} | {middle['host']:.1f} |"
        )
    write("start", "What the pack adds to ComfyUI's start", lines)
