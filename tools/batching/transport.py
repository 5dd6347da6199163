"""How a ComfyUI's API is reached: by HTTP from here. `ray_workers.py` has the other way, through a worker of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import Any, AsyncIterator, Callable, Mapping

import aiohttp

REFUSED = (errno.ECONNREFUSED, 1225, 10061)  # no process listens there; the last two are Windows'
UNREACHABLE = (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError)
BAD_ADDRESS = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)
RUN_ENDED = '"node": null'  # of the host's message `executing`, the last one of a prompt


class Http:
    """A server's API by HTTP and websocket."""

    def __init__(self, url: str):
        self.url = url

    @contextlib.asynccontextmanager
    async def opened(self, seconds: float) -> AsyncIterator["Http"]:
        """Use its calls within `async with`. seconds: of silence after which a call fails."""
        timeout = aiohttp.ClientTimeout(total=None, connect=seconds, sock_read=seconds)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as self.session:
            yield self

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Mapping[str, str] | None = None,
        file: tuple[str, bytes] | None = None,
    ) -> tuple[int, bytes]:
        """(status, what came). body: sent as JSON. file: name and content, sent as the form that uploads have.

        raises: one of UNREACHABLE.
        """
        form = None
        if file is not None:
            form = aiohttp.FormData()
            form.add_field("image", file[1], filename=file[0])
            form.add_field("overwrite", "true")
        async with self.session.request(method, self.url + path, json=body, params=params, data=form) as answer:
            return answer.status, await answer.read()

    async def listen(self, client: str, tell: Callable[[bool], None]) -> None:
        """Tells of each prompt of a client that has ended (True), and that there is a connection (False); until it breaks.

        raises: one of UNREACHABLE.
        """
        async with self.session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as messages:
            tell(False)
            async for message in messages:
                if message.type == aiohttp.WSMsgType.TEXT and RUN_ENDED in message.data:
                    tell(True)


def lift_file_limit() -> None:
    """Lets this process have as many open files as the system allows: each server is two or three sockets."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def is_refused(error: BaseException) -> bool:
    """Whether no process is there any more, where a silent one may go on."""
    found = getattr(error, "os_error", error)
    return isinstance(found, ConnectionRefusedError) or getattr(found, "errno", None) in REFUSED


def reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
