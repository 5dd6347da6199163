"""Many pictures: `python tools batch` beside a plain loop over HTTP, on one server, two and four; and with faults.

With Ray in this Python, on two of its workers too.

Each server computes with one thread. The plain loop sends a prompt, waits for its end, fetches its picture, sends the next.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Sequence

import dev
from tools.batching.local import end

from .measure import write

ROWS, FAULT_ROWS, STEPS = 24, 200, 4
MODEL, MODELS = "unet_name", ("chroma-demo.safetensors", "chroma-demo-again.safetensors")
INTRO = f"The demo model, {STEPS} steps, {ROWS} pictures a round; each server computes with one thread, all on this machine."
LOADED = "Load Chroma Model: "  # in a server's log, once a load
COLOURS, SHAPES = ("red", "green", "blue", "yellow"), ("circle", "square", "triangle")
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def table(path: Path, num_rows: int, first_seed: int, models: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Writes rows of different prompts and seeds; gives them. models: files that they take in turn."""
    rows = [
        {"prompt": f"a {COLOURS[i % 4]} {SHAPES[i % 3]}", "seed": first_seed + i, "steps": STEPS}
        | ({MODEL: models[i % len(models)]} if models else {})
        for i in range(num_rows)
    ]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def start(rows: Path, out: Path, servers: list[dev.Server], *more: str) -> subprocess.Popen:
    urls = [part for server in servers for part in ("--server", server.url)]
    command = [sys.executable, "-m", "tools", "batch", str(dev.WORKFLOW), str(rows), "--out", str(out), *urls, *more]
    return subprocess.Popen(command, cwd=dev.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def loop(server: dev.Server, rows: list[dict[str, Any]]) -> dict[int, bytes]:
    """The plain loop: seed -> pixels."""
    from PIL import Image

    graph = dev.api_graph(json.loads(dev.WORKFLOW.read_text(encoding="utf-8")), server.get("/object_info"))
    inputs = {(node["class_type"], node["_meta"]["title"]): node["inputs"] for node in graph.values()}
    sampler = next(value for (kind, _), value in inputs.items() if kind == "KSampler")
    found = {}
    for row in rows:
        sampler.update(seed=row["seed"], steps=row["steps"])
        if model := row.get(MODEL):
            next(value for value in inputs.values() if MODEL in value)[MODEL] = model
        inputs["ChromaTextEncode", "Prompt"]["text"] = row["prompt"]
        found[row["seed"]] = Image.open(server.run(graph)[-1]).convert("RGB").tobytes()
    return found


def events(out: Path) -> list[dict[str, Any]]:
    path = out / "batch.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def num_done(out: Path) -> int:
    return sum("done" in event for event in events(out))


def ratios(folder: Path, servers: list[dev.Server], rounds: int) -> list[str]:
    """Rows of a table: seconds a picture, and of the plain loop's."""
    seconds: dict[str, list[float]] = {}
    counts = [n for n in (1, 2, 4) if n <= len(servers)]
    for turn in range(rounds):
        for count in (0, *counts):
            seed = 10_000 + 1_000 * (turn * 10 + count)
            rows, out = folder / f"rows-{turn}-{count}.csv", folder / f"out-{turn}-{count}"
            data = table(rows, ROWS, seed)
            begun = time.perf_counter()
            if count:
                if start(rows, out, servers[:count]).wait():
                    raise RuntimeError(f"the batch on {count} servers failed")
            else:
                loop(servers[0], data)
            name = f"batch, {count} server{'s' * (count > 1)}" if count else "plain loop, 1 server"
            seconds.setdefault(name, []).append((time.perf_counter() - begun) / ROWS)
    base = statistics.median(seconds["plain loop, 1 server"])
    return ["| | seconds a picture | ratio to the plain loop |", "|---|---|---|"] + [
        f"| {name} | {statistics.median(s):.2f} | {statistics.median(s) / base:.2f} |" for name, s in seconds.items()
    ]


def order(folder: Path, server: dev.Server, rounds: int) -> None:
    """Writes what the order of rows saves: two models in turn, in the table's order by the plain loop and as the batch orders them."""
    models = dev.base_dir() / "models" / "diffusion_models"
    shutil.copyfile(models / MODELS[0], models / MODELS[1])
    seconds: dict[str, list[float]] = {}
    loads: dict[str, int] = {}
    for turn in range(rounds):
        for name in ("in the table's order, plain loop", "in the batch's order"):
            rows, out = folder / f"order-{turn}.csv", folder / f"order-{turn}"
            data = table(rows, ROWS, 70_000 + 1_000 * turn + 500 * ("batch" in name), MODELS)
            before, begun = server.log.read_text(errors="replace").count(LOADED), time.perf_counter()
            if "loop" in name:
                loop(server, data)
            elif start(rows, out, [server]).wait():
                raise RuntimeError("the batch of two models failed")
            seconds.setdefault(name, []).append((time.perf_counter() - begun) / ROWS)
            loads[name] = server.log.read_text(errors="replace").count(LOADED) - before
    (models / MODELS[1]).unlink()
    lines = [f"| {ROWS} rows that take two models in turn | loads | seconds a picture |", "|---|---|---|"]
    lines += [f"| {name} | {loads[name]} | {statistics.median(s):.2f} |" for name, s in seconds.items()]
    write("batch_order", "Many pictures: rows in the order in which they load least", [INTRO, "", *lines])


def faults(folder: Path, servers: list[dev.Server]) -> list[str]:
    """One of three servers killed, one stopped and continued, then the driver killed and started again."""
    rows, out = folder / "faults.csv", folder / "faults"
    data = table(rows, FAULT_ROWS, 90_000)
    killed, stopped, whole = servers[:3]
    driver = start(rows, out, servers[:3], "--patience", "5")
    acts = (
        (0.2, killed.process.kill),
        (0.3, lambda: stopped.process.send_signal(signal.SIGSTOP)),
        (0.5, lambda: stopped.process.send_signal(signal.SIGCONT)),
        (0.7, driver.kill),
    )
    before = acted(driver, out, acts)
    code = start(rows, out, servers[:3], "--patience", "5").wait()
    head = "three servers: one killed, one stopped and continued, the driver killed"
    return outcome(head, out, loop(whole, data), before, code)


def faults_of_ray(folder: Path, whole: dev.Server) -> list[str]:
    """One of two workers of Ray killed, then the driver killed and started again."""
    import psutil

    rows, out = folder / "ray.csv", folder / "ray"
    data = table(rows, FAULT_ROWS, 95_000)
    database = ["--database-url", "sqlite:///:memory:"]
    options = ["--base-directory", str(dev.base_dir()), "--cpu", "--disable-api-nodes", *database]
    os.environ["COMFYUI_PATH"] = str(dev.host_path())
    more = ("--ray", "2", f"--comfyui={' '.join(options)}")
    driver = start(rows, out, [], *more)

    def kill_one() -> None:
        below = psutil.Process(driver.pid).children(recursive=True)
        next(process for process in below if "ray::Worker" in " ".join(process.cmdline())).kill()

    before = acted(driver, out, ((0.3, kill_one), (0.7, driver.kill)))
    code = start(rows, out, [], *more).wait()
    return outcome("two workers of Ray: one killed, the driver killed", out, loop(whole, data), before, code)


def acted(driver: subprocess.Popen, out: Path, acts: Sequence[tuple[float, Callable[[], Any]]]) -> int:
    """Does each act once such a share of the pictures is done, the last of which ends the driver; the pictures by then."""
    for share, act in acts:
        while num_done(out) < share * FAULT_ROWS and driver.poll() is None:
            time.sleep(0.1)
        act()
    driver.wait()
    return num_done(out)


def outcome(head: str, out: Path, wanted: dict[int, bytes], before: int, code: int) -> list[str]:
    """Rows of a table. wanted: seed -> pixels of the plain loop."""
    from PIL import Image

    done = [event["job"] for event in events(out) if "done" in event]
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        results = {int(line["seed"]): line["files"] for line in csv.DictReader(file)}
    equal = sum(Image.open(out / results[seed]).convert("RGB").tobytes() == pixels for seed, pixels in wanted.items())
    return [
        f"| {FAULT_ROWS} rows, {head} | |",
        "|---|---|",
        f"| pictures when the driver was killed | {before} |",
        f"| prompts sent in all | {sum('sent' in event for event in events(out))} |",
        f"| pictures at the end | {len(list(out.glob('*.png')))} |",
        f"| painted twice | {len(done) - len(set(done))} |",
        f"| pixels equal to the plain loop's | {equal} |",
        f"| return code | {code} |",
    ]


def main(rounds: int) -> None:
    os.environ.update(THREADS)
    dev.place_models()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        servers = [dev.Server(log=dev.cache_dir() / f"bench-batch-{i}.log", cpu=True) for i in range(4)]
        list(pool.map(stack.enter_context, servers))
        for server in servers:  # each loads the model before anything is timed
            loop(server, table(Path(name) / "warm.csv", 1, 1))
        speed = ratios(Path(name), servers, min(rounds, 3))
        order(Path(name), servers[0], min(rounds, 3))
        lines = [*speed, "", *(faults(Path(name), servers) if os.name != "nt" else [])]
        if os.name != "nt" and importlib.util.find_spec("ray"):
            for server in servers[:2]:  # make room; the first was killed
                end(server.process)
            lines += ["", *faults_of_ray(Path(name), servers[2])]
    write("batch", "Many pictures: the batch beside a plain loop over HTTP, and with faults", [INTRO, "", *lines])
