"""What bounds one `python tools batch` with many workers: its own loop with workers that only wait.

A worker takes a prompt, waits, and has a picture; nothing is computed. First without waiting: how many pictures a second the head
can hand out, fetch and store, with one cost after another. Then with a wait, as many workers as there are: what share of them is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import random
import tempfile
import time
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Iterator

import dev
from tools.batching import fill, pictures, servers
from tools.batching.ledger import Ledger
from tools.batching.transport import Http, lift_file_limit
from tools.batching.workflow import Converted

from .measure import write

WAIT, EACH, WORKERS = 10.0, 3, (1, 10, 100, 1000)
AT_ONCE, CEILING_ROWS = 100, 1000  # workers and pictures where nothing waits
PICTURE_SECONDS = 20  # of a picture of 26 steps on a consumer's GPU, for the column of what that feeds
SIDE = 704  # of the picture: noise that fills 1.5 MB, as a PNG of 1024 x 1024 pixels does
MANY_ROWS = 100_000
MODEL_GB, STORAGE_GB_A_SECOND = 9.2, 1.25  # int8, results/sizes.md; a link of 10 Gbit/s
NODE = {"class_type": "Paint", "inputs": {"seed": 0, "prompt": ""}}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
FLOW = Converted({"1": NODE, "2": SAVE})
INFO = {
    "Paint": {"input": {"required": {"seed": ["INT", {"min": 0, "max": 2**64 - 1}], "prompt": ["STRING", {}]}}},
    "SaveImage": {"input": {"required": {"images": ["IMAGE", {}], "filename_prefix": ["STRING", {}]}}},
}


def picture() -> bytes:
    """A PNG of about 1.5 MB."""
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.frombytes("RGB", (SIDE, SIDE), random.Random(0).randbytes(3 * SIDE * SIDE)).save(out, "PNG")
    return out.getvalue()


class Waiting:
    """A ComfyUI that takes prompts one after another, waits for each, and has their pictures then."""

    def __init__(self, seconds: float, data: bytes):
        self.seconds, self.data = seconds, data
        self.free, self.ends = 0.0, {}
        self.tell: Callable[[bool], None] = lambda ended: None

    @contextlib.asynccontextmanager
    async def opened(self, seconds: float) -> AsyncIterator["Waiting"]:
        yield self

    async def request(
        self, method: str, path: str, body: Any = None, params: Any = None, file: Any = None
    ) -> tuple[int, bytes]:
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        if path == "/system_stats":
            return 200, b'{"system": {"comfyui_version": "0.30.0"}}'
        if path == "/prompt":
            self.free = self.ends[body["prompt_id"]] = max(loop.time(), self.free) + self.seconds
            loop.call_at(self.free, lambda: self.tell(True))
            return 200, b"{}"
        if path == "/view":
            return 200, self.data
        end = self.ends.get(path.rpartition("/")[2])
        if end is None:
            return 404, b"{}"
        if loop.time() < end:
            return 200, b'{"status": "in_progress"}'
        image = {"filename": "x.png", "subfolder": "", "type": "output"}
        return 200, json.dumps({"status": "completed", "outputs": {"2": {"images": [image]}}}).encode()

    async def listen(self, client: str, tell: Callable[[bool], None]) -> None:
        self.tell = tell
        tell(False)
        await asyncio.Event().wait()


class InMemory:
    """A ledger that keeps nothing."""

    def __init__(self) -> None:
        self.kept = object.__new__(Ledger)
        self.kept.jobs, self.kept.run = {}, "6a0c1a0e-0000-4000-8000-000000000000"
        self.run, self.record, self.new_id = self.kept.run, self.kept.record, self.kept.new_id

    def write(self, **event: Any) -> None:
        self.kept.take(event)


def jobs(count: int) -> list[fill.Job]:
    rows = [fill.Row(i + 1, {"seed": i, "prompt": f"a picture of {i}"}) for i in range(count)]
    return fill.fill(FLOW, rows, INFO).jobs


def seconds_of(
    found: list[servers.Server], todo: list[fill.Job], ledger: Any, store: Callable[[Any], list[str]]
) -> float:
    run = servers.Run(todo, found, ledger, store, lambda result: None, lambda text: None)
    begun = time.perf_counter()
    asyncio.run(run.all())
    return time.perf_counter() - begun


def stored(folder: Path) -> Callable[[Any], list[str]]:
    def store(result: Any) -> list[str]:
        name = f"{result.job.name}.png"
        pictures.save(folder / name, result.pictures[0], result.prompt, None, "png", 92)
        return [name]

    return store


# --- by HTTP, in a process of its own ------------------------------------------------------------------------------------


def serve(port: int, seconds: float, data: bytes) -> None:
    """As many waiting servers as are asked for, each under a path of its own: /7/prompt."""
    from aiohttp import web

    lift_file_limit()
    found: dict[str, Waiting] = {}

    async def answer(request: web.Request) -> web.StreamResponse:
        server = found.setdefault(request.match_info["worker"], Waiting(seconds, data))
        path = "/" + request.match_info["path"]
        if path == "/ws":
            messages, heard = web.WebSocketResponse(), asyncio.Queue()
            await messages.prepare(request)
            server.tell = heard.put_nowait
            while True:
                await heard.get()
                await messages.send_str('{"type": "executing", "data": {"node": null}}')
        body = await request.json() if request.method == "POST" else None
        status, out = await server.request(request.method.lower(), path, body)
        return web.Response(status=status, body=out)

    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{worker}/{path:.*}", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None, backlog=4096)


@contextlib.contextmanager
def by_http(count: int, seconds: float, data: bytes) -> Iterator[list[servers.Server]]:
    port = dev.free_port()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, seconds, data), daemon=True)
    process.start()
    try:
        while dev.port_is_free(port):
            time.sleep(0.1)
        urls = (f"http://127.0.0.1:{port}/{i}" for i in range(count))
        yield [servers.Server(url, Http(url)) for url in urls]
    finally:
        process.kill()
        process.join()


# --- tables --------------------------------------------------------------------------------------------------------------


def ceilings(folder: Path, data: bytes) -> list[str]:
    """Pictures a second where no worker waits, with one cost of the head after another."""

    def here() -> list[servers.Server]:
        return [servers.Server(f"worker {i}", Waiting(0, data)) for i in range(AT_ONCE)]

    def nothing(result: Any) -> list[str]:
        return []

    lines = ["| the head's work | pictures a second | workers that it feeds |", "|---|---|---|"]

    def add(name: str, seconds: float) -> None:
        rate = CEILING_ROWS / seconds
        lines.append(f"| {name} | {rate:.0f} | {rate * PICTURE_SECONDS:.0f} |")

    todo = jobs(CEILING_ROWS)
    add("the loop alone", seconds_of(here(), todo, InMemory(), nothing))
    with Ledger(folder / "a") as ledger:
        add("and the ledger on the disk", seconds_of(here(), todo, ledger, nothing))
    with Ledger(folder / "b") as ledger:
        add("and the pictures on the disk", seconds_of(here(), todo, ledger, stored(folder / "b")))
    with Ledger(folder / "c") as ledger, by_http(AT_ONCE, 0, data) as found:
        add("and HTTP to another process", seconds_of(found, todo, ledger, stored(folder / "c")))
    return lines


def waiting(folder: Path, data: bytes) -> list[str]:
    """The share of the workers that is busy, by their number."""
    lines = ["| workers | pictures | seconds | busy |", "|---|---|---|---|"]
    for count in WORKERS:
        todo = jobs(EACH * count)
        with Ledger(folder / str(count)) as ledger, by_http(count, WAIT, data) as found:
            seconds = seconds_of(found, todo, ledger, stored(folder / str(count)))
            done = sum(record.files is not None for record in ledger.jobs.values())
        lines.append(f"| {count} | {done} | {seconds:.1f} | {EACH * WAIT / seconds:.0%} |")
    return lines


def rows_of_a_table(folder: Path) -> list[str]:
    """Seconds before the first picture of a long table, and of a command that finds all of it painted."""
    begun = time.perf_counter()
    todo = jobs(MANY_ROWS)
    filled = time.perf_counter() - begun
    path = folder / "long"
    path.mkdir()
    with open(path / "batch.jsonl", "w") as file:
        print(json.dumps({"run": "6a0c1a0e-0000-4000-8000-000000000000"}), file=file)
        for i, job in enumerate(todo):
            print(json.dumps({"job": job.name, "sent": str(i), "to": "x"}), file=file)
            print(json.dumps({"job": job.name, "done": [], "seconds": 1.0, "by": "x"}), file=file)
    begun = time.perf_counter()
    with Ledger(path) as ledger:
        assert all(ledger.is_done(job.name) for job in todo)
    return [
        f"| {MANY_ROWS:,} rows filled | {filled:.1f} s |",
        f"| their ledger read | {time.perf_counter() - begun:.1f} s |",
    ]


def main(rounds: int) -> None:
    lift_file_limit()
    data = picture()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = ceilings(folder, data)
        second = waiting(folder, data)
        third = rows_of_a_table(folder)
    load = MODEL_GB * WORKERS[-1] / STORAGE_GB_A_SECOND / 60
    write(
        "many_workers",
        "One command, many workers that only wait",
        [
            f"The head's own work, without a wait: {AT_ONCE} workers, {CEILING_ROWS} pictures of {len(data) / 1e6:.1f} MB, each cost beside "
            f"those above it. `workers that it feeds`: at {PICTURE_SECONDS} s a picture. Head, disk and, in the last row, all workers share "
            "this machine.",
            "",
            *first,
            "",
            f"Workers that wait {WAIT:.0f} s for each of {EACH} pictures, by HTTP from another process, everything stored. `busy`: of all "
            "their time; the first prompt's way there and the last picture's way back count as idle.",
            "",
            *second,
            "",
            "| a long table | |",
            "|---|---|",
            *third,
            "",
            f"On paper, for {WORKERS[-1]} workers: a model of {MODEL_GB} GB for each from one store at {STORAGE_GB_A_SECOND} GB/s takes {load:.0f} minutes, "
            "so each machine needs a copy of its own; at "
            f"{PICTURE_SECONDS} s a picture they make {WORKERS[-1] / PICTURE_SECONDS:.0f} a second, {WORKERS[-1] / PICTURE_SECONDS * len(data) / 1e6:.0f} MB/s to be "
            f"stored and {WORKERS[-1] / PICTURE_SECONDS * len(data) * 86400 / 1e12:.1f} TB a day.",
        ],
    )
