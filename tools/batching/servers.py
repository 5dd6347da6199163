"""Runs jobs on ComfyUI servers over their own API: each takes jobs as it has room; what a server loses goes to others.

A prompt's id is ours and stands in the ledger before it is sent, so that its fate can be asked for after any interruption: the
server's (killed, stopped, restarted) or ours. The server keeps its queue and history in memory; a picture that it had saved
before it ended is found by its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Mapping, Sequence

from .. import load_pack
from .fill import Job
from .ledger import Ledger
from .local import LocalServer
from .transport import BAD_ADDRESS, UNREACHABLE, Http, is_refused, reason
from .workflow import Prompt

DEPTH = 2  # prompts of ours in a server's queue: one that runs and one that waits
ANSWER_SECONDS, BUSY_SECONDS, START_SECONDS = 20, 120, 600
ASK_SECONDS, LISTEN_SECONDS = 1.0, 10.0  # between questions, where no message wakes us and where one does
AT_ONCE = 32  # servers that are looked at together before the run
RETRY_SECONDS = 2.0
MAX_DEATHS = 3  # of servers that had a job, after which the job is what ends them
FOLDER = "chroma-batch"  # of the server's pictures
WAITING, RUNS, DONE, FAILED, CANCELLED = (
    "pending",
    "in_progress",
    "completed",
    "failed",
    "cancelled",
)  # the host's words


@dataclass(frozen=True)
class Finished:
    """How a job ended: pictures as the server saved them, or an error."""

    job: Job
    server: str
    prompt: Prompt
    pictures: tuple[bytes, ...] = ()
    seconds: float | None = None
    error: str = ""


@dataclass
class Flight:
    """A prompt that a server has, or may have."""

    job: Job
    id: str
    given_away: bool = False  # to the others, since this server was silent
    asked: int = 0


@dataclass
class Server:
    """url: its address, by which the ledger knows it. starts: it was started for this run, so that it is waited for."""

    url: str
    transport: Any = None  # `Http`, or what has its methods
    local: LocalServer | None = None
    starts: bool = False
    flights: dict[str, Flight] = field(default_factory=dict)
    answered: float = 0.0  # when it last did, or when it was first asked
    is_up: bool = False
    problem: str = ""
    uploaded: set[str] = field(default_factory=set)
    listens: bool = False  # its messages reach us
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.transport = self.transport or Http(self.url)

    def hear(self, has_ended: bool) -> None:
        """A message came: one of its prompts has ended, or there is a connection."""
        self.listens = True
        if has_ended:
            self.wake.set()


class Run:
    """All jobs on all servers, until each is done or failed."""

    def __init__(
        self,
        jobs: Sequence[Job],
        servers: Sequence[Server],
        ledger: Ledger,
        store: Callable[[Finished], list[str]],
        tell: Callable[[Finished], None],
        say: Callable[[str], None],
        *,
        workflow_of: Callable[[Job], Any] = lambda job: None,
        patience: float = 120.0,
    ):
        """What the run calls, all in this thread but `store`.

        store:       keeps pictures and gives the files' names, in a thread of its own. OSError ends the run.
        tell:        gets each job once it stands in the ledger. say: gets what happens to servers, a line each.
        workflow_of: what the page shows for a job's pictures.
        patience:    seconds after which a silent server's jobs go to others.
        """
        self.jobs = {job.name: job for job in jobs}
        self.servers, self.ledger, self.store, self.tell, self.say = servers, ledger, store, tell, say
        self.workflow_of, self.patience = workflow_of, patience
        self.ended: set[str] = set()
        self.storing: set[str] = set()
        self.waiting: deque[Job] = deque()
        self.client = str(uuid.uuid4())

    async def all(self) -> None:
        """raises: ValueError if no server can be used any more; OSError if pictures cannot be written."""
        self.share_out()
        seconds = min(ANSWER_SECONDS, self.patience)
        async with contextlib.AsyncExitStack() as stack:
            for server in self.servers:
                server.wake = asyncio.Event()  # of this loop
                await stack.enter_async_context(server.transport.opened(seconds))
            tasks = [asyncio.create_task(part(server)) for server in self.servers for part in (self.work, self.listen)]
            tasks.append(asyncio.create_task(self.watch()))
            try:
                while not self.is_over():
                    done, _ = await asyncio.wait(tasks, timeout=0.2, return_when=asyncio.FIRST_EXCEPTION)
                    for task in done:
                        task.result()  # raises what ended it
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def is_over(self) -> bool:
        return len(self.ended) == len(self.jobs)

    def share_out(self) -> None:
        """Prompts of an earlier command stay with the server that has them; the rest waits."""
        by_url = {server.url: server for server in self.servers}
        for job in self.jobs.values():
            known = False
            for prompt_id, url in list(self.ledger.record(job.name).open.items()):
                if url in by_url:
                    by_url[url].flights[prompt_id] = Flight(job, prompt_id)
                    known = True
                else:
                    self.ledger.write(job=job.name, lost=prompt_id)  # that server is not asked to help any more
            if not known:
                self.waiting.append(job)

    # --- one server ---

    async def work(self, server: Server) -> None:
        """Keeps a server busy for as long as there are jobs; waits for it while it is away."""
        server.answered = time.monotonic()
        while True:
            try:
                if not server.is_up:
                    await self.greet(server)
                await self.ask(server)
                await self.give(server)
            except UNREACHABLE as error:
                await self.lose(server, error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            server.wake.clear()
            try:
                seconds = max(min(LISTEN_SECONDS, self.patience / 4), ASK_SECONDS) if server.listens else ASK_SECONDS
                await asyncio.wait_for(server.wake.wait(), seconds)
            except asyncio.TimeoutError:
                pass

    async def greet(self, server: Server) -> None:
        """raises: what shows that the server does not answer; ValueError if it is none or too old."""
        check_version(server.url, await self.json(server, "get", "/system_stats"))
        if server.problem:
            self.say(f"{server.url} is back")
        server.is_up, server.problem = True, ""

    async def listen(self, server: Server) -> None:
        """Wakes the work on this server when it says that a prompt has ended; without its messages it is asked more often."""
        while True:
            try:
                await server.transport.listen(self.client, server.hear)
            except UNREACHABLE:
                pass
            server.listens = False
            await asyncio.sleep(RETRY_SECONDS)

    async def give(self, server: Server) -> None:
        """Sends jobs until the server has enough of them."""
        while self.waiting and sum(not f.given_away for f in server.flights.values()) < DEPTH:
            job = self.waiting.popleft()
            if job.name in self.ended:
                continue
            if self.ledger.record(job.name).num_sent and await self.recovered(server, job):
                continue
            prompt_id = self.ledger.new_id(job.name)
            flight = server.flights[prompt_id] = Flight(job, prompt_id)
            self.ledger.write(job=job.name, sent=prompt_id, to=server.url)
            await self.send(server, flight)

    async def send(self, server: Server, flight: Flight) -> None:
        prompt = with_prefix(flight.job, self.ledger.mark(flight.job.name))
        for name, path in flight.job.uploads.items():
            if name not in server.uploaded:
                data = await asyncio.to_thread(path.read_bytes)
                status, _ = await server.transport.request("post", "/upload/image", file=(name, data))
                if status != 200:
                    await self.finish(server, flight, error=f"{path.name} was refused ({status})")
                    return
                server.uploaded.add(name)
        workflow = self.workflow_of(flight.job)
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow is not None else {}
        body = {"prompt": prompt, "prompt_id": flight.id, "client_id": self.client, "extra_data": extra}
        answer = await self.json(server, "post", "/prompt", body)
        if answer.get("error") or answer.get("node_errors"):
            if answer.get("prompt_id"):  # it runs the outputs that are valid
                with contextlib.suppress(*UNREACHABLE):
                    await self.cancel(server, flight)
            await self.finish(server, flight, error=refusal(answer, prompt))

    async def ask(self, server: Server) -> None:
        """Learns what became of the server's prompts."""
        for flight in list(server.flights.values()):
            if flight.id not in server.flights:
                continue
            job = await self.json(server, "get", f"/api/jobs/{flight.id}", missing={})
            status = job.get("status")
            if flight.job.name in self.ended:
                await self.withdraw(server, flight, status)
            elif status == DONE:
                await self.fetch(server, flight, job)
            elif status == FAILED:
                await self.finish(server, flight, error=failure(job))
            elif status == CANCELLED or (status is None and flight.asked):
                await self.recover(server, flight)
            elif status is None:
                flight.asked += 1  # once more: a prompt may still be on its way in
            elif flight.given_away and status == WAITING:
                await self.withdraw(server, flight, status)

    async def withdraw(self, server: Server, flight: Flight, status: str | None) -> None:
        """Takes back a prompt that another server has or had."""
        if status in (WAITING, RUNS):
            await self.cancel(server, flight)
        if status is not None or flight.asked > 2:
            server.flights.pop(flight.id, None)
        flight.asked += 1

    async def cancel(self, server: Server, flight: Flight) -> None:
        await self.json(server, "post", f"/api/jobs/{flight.id}/cancel", {})

    async def recover(self, server: Server, flight: Flight) -> None:
        """A prompt that the server does not know: its pictures are there by name, or it is done again."""
        if await self.recovered(server, flight.job):
            server.flights.pop(flight.id, None)
            return
        self.ledger.write(job=flight.job.name, lost=flight.id)
        server.flights.pop(flight.id, None)
        if not flight.given_away:
            self.again(flight.job)

    def again(self, job: Job) -> None:
        """Back to those that wait, unless another server has it."""
        others = (f.job.name for server in self.servers for f in server.flights.values() if not f.given_away)
        others = {*others, *(waiting.name for waiting in self.waiting)}
        if job.name not in self.ended and job.name not in others:
            self.waiting.appendleft(job)
            for server in self.servers:
                server.wake.set()

    async def lose(self, server: Server, error: BaseException) -> None:
        """A server that does not answer: its jobs go to others at once if it has ended, else after the patience."""
        ended = is_refused(error) or (server.local is not None and server.local.has_ended())
        silent = time.monotonic() - server.answered
        if server.is_up:
            self.say(f"{server.url} {'has ended' if ended else 'does not answer'} ({reason(error)})")
        server.is_up, server.problem = False, server.problem or reason(error)
        if not ended and silent < self.patience:
            return
        for flight in list(server.flights.values()):
            if ended:
                server.flights.pop(flight.id)
                server.uploaded.clear()
                if flight.job.name not in self.ended:
                    self.ledger.write(job=flight.job.name, lost=flight.id, died=True)
                    if self.ledger.record(flight.job.name).deaths >= MAX_DEATHS:
                        await self.end(
                            Finished(flight.job, server.url, {}, error=f"{MAX_DEATHS} servers ended while they had it")
                        )
            if not flight.given_away and len(self.servers) > 1 or ended:
                flight.given_away = True
                self.again(flight.job)

    async def watch(self) -> None:
        """Starts a server of this machine again after it has ended; ends a run that no server helps any more."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            for server in self.servers:
                if server.local is not None and server.local.has_ended():
                    self.say(f"ComfyUI has ended and is started again. Its log is {server.local.log}")
                    server.local.start()
            if any(server.is_up for server in self.servers):
                last = time.monotonic()
            elif time.monotonic() - last > max(self.patience, START_SECONDS):
                told = "; ".join(f"{server.url}: {server.problem}" for server in self.servers)
                raise ValueError(
                    f"no server has answered for {time.monotonic() - last:.0f} s ({told}). The same command goes on"
                )

    # --- what comes back ---

    async def fetch(self, server: Server, flight: Flight, job: Mapping[str, Any]) -> None:
        """The pictures of a prompt that has run: those it saved, else those it only showed."""
        images = [i for output in job.get("outputs", {}).values() for i in output.get("images", ())]
        images = [i for i in images if i.get("type") == "output"] or images
        pictures = []
        for image in images:
            query = {name: image.get(name, "") for name in ("filename", "subfolder", "type")}
            data = await self.view(server, query)
            if data is None:
                await self.finish(server, flight, error=f"{image['filename']} is no longer on {server.url}")
                return
            pictures.append(data)
        begun, ended = job.get("execution_start_time"), job.get("execution_end_time")
        seconds = (ended - begun) / 1000 if begun and ended else None
        error = "" if pictures else "it made no picture. The workflow needs Save Image or Preview Image"
        await self.finish(server, flight, tuple(pictures), seconds, error)

    async def recovered(self, server: Server, job: Job) -> bool:
        """Whether an earlier try has left its pictures on the server, by their names; they are taken then."""
        pictures = []
        for first, second in saved_names(job, self.ledger.mark(job.name)):
            data, more = [
                await self.view(server, {"filename": name, "subfolder": FOLDER, "type": "output"})
                for name in (first, second)
            ]
            if data is None or not is_whole(data) or more is not None:  # of several nobody knows whether all were saved
                return False
            pictures.append(data)
        if pictures:
            await self.end(Finished(job, server.url, with_prefix(job, self.ledger.mark(job.name)), tuple(pictures)))
        return bool(pictures)

    async def finish(
        self,
        server: Server,
        flight: Flight,
        pictures: tuple[bytes, ...] = (),
        seconds: float | None = None,
        error: str = "",
    ) -> None:
        server.flights.pop(flight.id, None)
        prompt = with_prefix(flight.job, self.ledger.mark(flight.job.name))
        await self.end(Finished(flight.job, server.url, prompt, pictures, seconds, error))

    async def end(self, found: Finished) -> None:
        """Stores what came, then writes it into the ledger; the first one of a job counts. raises: OSError."""
        name = found.job.name
        if name in self.ended or name in self.storing:
            return
        self.storing.add(name)
        files: list[str] = []
        if not found.error:
            try:
                files = await asyncio.to_thread(self.store, found)
            except ValueError as error:
                found = replace(found, error=str(error))
        result = {"failed": found.error} if found.error else {"done": files}
        self.ledger.write(job=name, **result, seconds=found.seconds, by=found.server)
        self.ended.add(name)
        self.tell(found)

    # --- HTTP ---

    async def json(self, server: Server, method: str, path: str, body: Any = None, missing: Any = None) -> Any:
        """The server's JSON answer; errors of validation come back as they are. missing: the answer for 404."""
        status, data = await server.transport.request(method, path, body)
        server.answered = time.monotonic()
        if status == 404 and missing is not None:
            return missing
        try:
            return json.loads(data or b"{}")
        except ValueError:
            return {"error": f"{server.url}{path} answered {status}: {data[:200].decode(errors='replace')}"}

    async def view(self, server: Server, query: Mapping[str, str]) -> bytes | None:
        status, data = await server.transport.request("get", "/view", params=query)
        server.answered = time.monotonic()
        return data if status == 200 else None


# --- names of files on the server --------------------------------------------------------------------------------------


def savers(prompt: Prompt) -> list[str]:
    return [key for key, node in prompt.items() if node["class_type"] == "SaveImage"]


def saved_name(job: Job, mark: str, number: int) -> str:
    """Of what the job's Save Image of this number saves. mark: the ledger's; others stand on pictures that may be gone."""
    return f"{job.name}-{mark}" + (f"-{number + 1}" if number else "")


def with_prefix(job: Job, mark: str) -> Prompt:
    """The prompt with names of their own for the files that the server saves."""
    prompt = dict(job.prompt)
    for i, key in enumerate(savers(prompt)):
        node = prompt[key]
        prefix = f"{FOLDER}/{saved_name(job, mark, i)}"
        prompt[key] = {**node, "inputs": {**node["inputs"], "filename_prefix": prefix}}
    return prompt


def saved_names(job: Job, mark: str) -> list[tuple[str, str]]:
    """Of each Save Image the file that the server has once the job is done, and the one that it has if there were several;
    empty where a prompt is known to make several, or none."""
    sizes = [node["inputs"].get("batch_size", 1) for node in job.prompt.values()]
    if any(size != 1 for size in sizes):
        return []
    stems = [saved_name(job, mark, i) for i in range(len(savers(job.prompt)))]
    return [(f"{stem}_00001_.png", f"{stem}_00002_.png") for stem in stems]


def is_whole(png: bytes) -> bool:
    return png.startswith(b"\x89PNG") and png[-8:-4] == b"IEND"


# --- errors ------------------------------------------------------------------------------------------------------------


def failure(job: Mapping[str, Any]) -> str:
    """What a node raised, from a failed job."""
    found = job.get("execution_error") or {}
    text = " ".join(str(found.get("exception_message", "")).split())
    return f"{found.get('node_type', 'a node')}: {text or 'no message'}"


def refusal(answer: Mapping[str, Any], prompt: Prompt) -> str:
    """What is wrong with a prompt, from the server's answer to it."""
    parts = []
    for key, found in (answer.get("node_errors") or {}).items():
        for error in found.get("errors", ()):
            parts.append(f"{found.get('class_type', key)}: {error.get('message')} ({error.get('details')})")
    error = answer.get("error")
    head = error.get("message", "") if isinstance(error, dict) else str(error or "")
    return "; ".join(parts) or head


# --- before the run ----------------------------------------------------------------------------------------------------


async def survey(servers: Sequence[Server], check: Callable[[str, Mapping[str, Any]], None]) -> dict[str, Any] | None:
    """The /object_info of the first server that answers; `problem` of those that do not is set.

    Of servers that are being started the first is enough: the others join the run.
    check:  gets (url, /object_info) of each that answers.
    raises: ValueError if one is no ComfyUI or too old, or what `check` raises.
    """
    gate, found = asyncio.Semaphore(AT_ONCE), None

    async def look_at(server: Server) -> None:
        nonlocal found
        async with contextlib.nullcontext() if server.starts else gate:
            info = await object_info_of(server)
        if info is not None:
            check(server.url, info)
            found = found or info

    ahead = {asyncio.create_task(look_at(server)): server for server in servers}
    while ahead and not (found and all(server.starts for server in ahead.values())):
        done, _ = await asyncio.wait(ahead, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del ahead[task]
            task.result()
    for task in ahead:
        task.cancel()
    await asyncio.gather(*ahead, return_exceptions=True)
    return found


async def object_info_of(server: Server) -> dict[str, Any] | None:
    """The server's /object_info; None if it does not answer, with `problem` set.

    One that is being started is waited for, and for a while one that takes the call and says nothing: a step may keep it busy.

    raises: ValueError if it is no ComfyUI or too old, or if one that is being started does not start.
    """
    begun = time.monotonic()
    async with server.transport.opened(ANSWER_SECONDS) as transport:
        while True:
            try:
                check_version(server.url, json.loads((await transport.request("get", "/system_stats"))[1]))
                info = json.loads((await transport.request("get", "/object_info"))[1])
                server.problem = ""
                return info
            except BAD_ADDRESS as error:
                raise ValueError(f"--server {server.url}: expected an address as http://127.0.0.1:8188") from error
            except ValueError as error:
                if not isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
                    raise
                raise ValueError(f"{server.url} is no ComfyUI: its answer is not JSON. Check the address") from error
            except UNREACHABLE as error:
                server.problem, is_silent = reason(error), isinstance(error, asyncio.TimeoutError)
            has_ended = server.local is not None and server.local.has_ended()
            seconds = time.monotonic() - begun
            if has_ended or (server.starts and seconds > START_SECONDS):
                told = f" The end of {server.local.log}:\n{server.local.tail()}" if server.local is not None else ""
                raise ValueError(f"ComfyUI does not start ({server.problem}).{told}")
            if not server.starts and (not is_silent or seconds > BUSY_SECONDS):
                return None
            await asyncio.sleep(0.5)


def check_version(url: str, stats: Any) -> None:
    """raises: ValueError unless it is the answer of a ComfyUI that is new enough."""
    version = stats.get("system", {}).get("comfyui_version") if isinstance(stats, dict) else None
    if version is None:
        raise ValueError(f"{url} is no ComfyUI: it names no version. Check the address")
    pack = load_pack()
    if pack.is_older(version, pack.REQUIRED_HOST):
        raise ValueError(f"{url} runs ComfyUI {version}, expected {pack.REQUIRED_HOST} or newer. Update it")
