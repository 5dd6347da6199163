"""Routes for the page: a query as JSON, answered in a thread so that others do not wait, an error as one line."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Awaitable, Callable, Mapping

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from server import PromptServer

MAX_ERROR = 600  # characters
MAX_QUERY = 1 << 14  # bytes; a query of numbers has some hundred

Handler = Callable[[web.Request], Awaitable[web.Response]]


def answering(compute: Callable[[Any], Mapping[str, Any]], most: int = MAX_QUERY) -> Handler:
    """A handler that gives what `compute` makes of the query; its ValueError is status 400 with its line as `error`, any
    other error status 500 with its kind too: as text the page would take it for a server that is away, and ask again and again.

    most: bytes of a query.
    """

    async def answer(request: web.Request) -> web.Response:
        try:
            query = json.loads(await body(request, most))
            return web.json_response(await asyncio.to_thread(compute, query))
        except (ValueError, OverflowError, RecursionError) as problem:  # of the query, or of its JSON
            return web.json_response({"error": cut(str(problem))}, status=400)
        except Exception as problem:
            logging.exception("Chroma Pack: %s has failed", request.path)
            return web.json_response({"error": cut(f"{type(problem).__name__}: {problem}")}, status=500)

    return answer


async def body(request: web.Request, most: int) -> bytes:
    """The request's body. raises: ValueError if it is too long, or not compressed as its header says."""
    try:
        return await request.clone(client_max_size=most).read()
    except web.HTTPRequestEntityTooLarge:
        raise ValueError(f"the query has more than {most:,} bytes") from None
    except (web.RequestPayloadError, HttpProcessingError) as problem:
        raise ValueError(f"the query cannot be read: {problem}".replace("\n", " ")) from None


def cut(text: str) -> str:
    """An error without the middle, where it repeats a long query; its end says what is allowed."""
    return text if len(text) <= MAX_ERROR else f"{text[: MAX_ERROR // 2]} ... {text[-MAX_ERROR // 2 :]}"


def checked_object(what: str, found: Any, allowed: Any) -> Mapping[str, Any]:
    """raises: ValueError if it is no object, or has a key that is not allowed."""
    if not isinstance(found, Mapping):
        raise ValueError(f"{what} is {found!r}; allowed is an object")
    if unknown := sorted(set(found) - set(allowed)):
        raise ValueError(f"{what}: {unknown[0]} is not known ({', '.join(allowed) or 'nothing'})")
    return found


def add_route(path: str, post: Handler, get: Handler | None = None) -> None:
    """Adds a path to the server, if there is one; nodes can also be loaded without.

    Only once: the host does not start if a second copy of this pack adds the same route again.
    """
    if not hasattr(PromptServer, "instance"):
        return
    routes = PromptServer.instance.routes
    if not any(getattr(route, "path", None) == path for route in routes):
        if get is not None:
            routes.get(path)(get)
        routes.post(path)(post)
