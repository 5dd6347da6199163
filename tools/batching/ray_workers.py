"""Workers of a Ray cluster, each with a ComfyUI of its own in its own process. Ray places them, gives them GPUs and replaces them.

The run and its ledger are those for servers. Only the way there differs: a call goes to the worker, which asks its ComfyUI on
the loopback of its own machine, so that nothing listens on the network. Needs Ray, `python -m pip install ray`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Mapping, Sequence

from .local import END_SECONDS, HERE, LocalServer, find_comfyui
from .transport import UNREACHABLE, Http, is_refused, reason

CALL_SECONDS = 30  # a worker asks its ComfyUI within that; Ray's own way there comes on top
HEAR_SECONDS = 20  # a worker answers a listener at least so often
WATCH_SECONDS = 1.0
ANSWERED, ENDED, SILENT, BROKEN = "answered", "ended", "silent", "broken"


class Worker:
    """One actor. Its ComfyUI ends with it; after a fault Ray makes the actor anew, and so its ComfyUI."""

    def __init__(self, name: str, arguments: Sequence[str]):
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(p for p in paths if p != str(HERE))  # ours is none of ComfyUI's
        self.local = LocalServer(
            Path(tempfile.gettempdir()) / f"chroma-batch-{name}-{os.getpid()}.log", list(arguments)
        )
        self.local.start()
        self.has_answered, self.broken = False, ""
        self.http: Http | None = None
        self.stack = contextlib.AsyncExitStack()
        self.ends = 0  # prompts that have ended, as its ComfyUI told
        self.news = asyncio.Condition()
        self.tasks: list[asyncio.Task] = []

    async def open(self) -> Http:
        if self.http is None:
            self.http = Http(self.local.url)
            await self.stack.enter_async_context(self.http.opened(CALL_SECONDS))
            self.tasks.append(asyncio.create_task(self.watch()))
        return self.http

    async def request(self, *call: Any) -> tuple[str, Any]:
        """(ANSWERED, (status, content)), or why not: (ENDED or SILENT, a line), (BROKEN, the end of its log)."""
        http = await self.open()
        try:
            answer = await http.request(*call)
        except UNREACHABLE as error:
            if self.broken and not self.has_answered:
                return BROKEN, self.broken
            return (ENDED if is_refused(error) and self.has_answered else SILENT), reason(error)
        self.has_answered = True
        return ANSWERED, answer

    async def watch(self) -> None:
        """Starts its ComfyUI again after it has ended."""
        while True:
            if self.local.has_ended():
                self.broken = f"{self.local.log}:\n{self.local.tail()}"
                self.local.start()
            await asyncio.sleep(WATCH_SECONDS)

    async def hear(self, client: str, seen: int) -> int:
        """Waits until more prompts than `seen` have ended; their number. The first call connects."""
        if len(self.tasks) < 2:
            await self.open()
            self.tasks.append(asyncio.create_task(self.listen(client)))
        async with self.news:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.news.wait_for(lambda: self.ends > seen), HEAR_SECONDS)
            return self.ends

    async def listen(self, client: str) -> None:
        heard: asyncio.Queue[bool] = asyncio.Queue()

        async def count() -> None:
            while True:
                if await heard.get():
                    async with self.news:
                        self.ends += 1
                        self.news.notify_all()

        self.tasks.append(asyncio.create_task(count()))
        while True:
            with contextlib.suppress(*UNREACHABLE):
                await self.http.listen(client, heard.put_nowait)
            await asyncio.sleep(WATCH_SECONDS)

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await self.stack.aclose()
        self.local.end()


class ThroughRay:
    """A worker's ComfyUI, as `transport.Http`."""

    def __init__(self, actor: Any, ray: Any):
        self.actor, self.ray = actor, ray
        self.has_answered = False

    @contextlib.asynccontextmanager
    async def opened(self, seconds: float) -> AsyncIterator["ThroughRay"]:
        self.seconds = seconds
        yield self

    async def ask(self, call: Any, seconds: float) -> Any:
        """raises: ConnectionRefusedError if the worker is gone; TimeoutError if it is silent."""
        try:
            return await asyncio.wait_for(call, seconds)
        except self.ray.exceptions.RayTaskError as error:
            raise ConnectionError(f"the worker failed: {reason(error)}") from error
        except self.ray.exceptions.RayError as error:
            raise ConnectionRefusedError(f"the worker is gone: {reason(error)}") from error

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        file: tuple[str, bytes] | None = None,
    ) -> tuple[int, bytes]:
        """As `Http.request`. raises: as there; ValueError if the worker's ComfyUI does not start."""
        call = self.actor.request.remote(method, path, body, params, file)
        kind, answer = await self.ask(call, self.seconds + CALL_SECONDS)
        if kind == BROKEN and not self.has_answered:
            raise ValueError(f"ComfyUI does not start on a worker. The end of {answer}")
        if kind != ANSWERED:
            raise (ConnectionRefusedError if kind == ENDED else ConnectionError)(answer)
        self.has_answered = True
        return answer

    async def listen(self, client: str, tell: Callable[[bool], None]) -> None:
        seen = 0
        while True:
            now = await self.ask(self.actor.hear.remote(client, seen), HEAR_SECONDS + self.seconds)
            tell(now != seen)
            seen = now


def start_workers(count: int, arguments: Sequence[str]) -> list[tuple[str, ThroughRay]]:
    """(name, way there) of so many workers, a GPU each where the cluster has any; they end with this process.

    The cluster is RAY_ADDRESS's, else one on this machine. This pack and ComfyUI stand in the same place on all its machines.
    raises: ValueError if Ray is missing, cannot be reached, or has no room for them.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray, which is missing. python -m pip install ray") from None
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    places = {"PYTHONPATH": paths, "COMFYUI_PATH": str(find_comfyui())}
    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS"),
            runtime_env={"env_vars": places},
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if "RAY_ADDRESS" not in os.environ else None,
        )
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ValueError(f"Ray cannot be reached ({reason(error)}). Start it there, or unset RAY_ADDRESS") from error
    there = ray.cluster_resources()
    kind = "GPU" if there.get("GPU") else "CPU"
    if there.get(kind, 0) < count:
        raise ValueError(
            f"--ray is {count}, but Ray has {there.get(kind, 0):g} {kind}s, one for each worker. Give fewer, or add machines"
        )
    needs = {"num_gpus": 1, "num_cpus": 1} if kind == "GPU" else {"num_cpus": 1}
    actor = ray.remote(Worker).options(max_restarts=-1, **needs)
    return [(f"ray-{i}", ThroughRay(actor.remote(f"ray-{i}", list(arguments)), ray)) for i in range(count)]


def end_workers(workers: Sequence[tuple[str, ThroughRay]]) -> None:
    """Ends their ComfyUIs, and the cluster if it was started for them."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        ray.wait([way.actor.end.remote() for _, way in workers], num_returns=len(workers), timeout=END_SECONDS)
    ray.shutdown()
