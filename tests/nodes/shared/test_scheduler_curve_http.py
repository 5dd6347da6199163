"""The curve's route on a server of its own: what a query may be, and that it is there once."""

import asyncio
import json
import zlib

import pytest
import support

aiohttp = pytest.importorskip("aiohttp")
from aiohttp import test_utils, web  # noqa: E402

pytestmark = pytest.mark.host
QUERY = json.dumps({"curve": "linear", "steps": 2}).encode()


@pytest.fixture
def curve(comfy):
    return support.dev.load_pack("nodes.shared.scheduler_curve")


def ask(curve, sent, **headers):
    """(status, answer, bytes read)."""

    async def run():
        app = web.Application(client_max_size=100 << 20)  # as the host's
        app.router.add_post(curve.PATH, curve.answer)
        async with test_utils.TestClient(test_utils.TestServer(app)) as client:
            async with client.post(curve.PATH, data=sent, headers=headers) as answer:
                return answer.status, await answer.json()

    return asyncio.run(run())


async def parts(count):
    for _ in range(count):
        yield b" " * 4096


def test_query_is_answered(curve):
    assert ask(curve, QUERY) == (200, {"sigmas": [1.0, 0.5, 0.0], "shift": None})
    assert ask(curve, zlib.compress(QUERY), **{"Content-Encoding": "deflate"})[0] == 200


@pytest.mark.parametrize("make", [lambda: b" " * 20_000, lambda: parts(100)], ids=["at once", "in parts"])
def test_long_query_is_not_parsed(curve, monkeypatch, make):
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail(f"{len(text)} bytes were parsed"))
    assert ask(curve, make()) == (400, {"error": "the query has more than 16,384 bytes"})


def test_little_that_unpacks_to_much_is_not_parsed(curve):
    status, answer = ask(curve, zlib.compress(bytes(50 << 20)), **{"Content-Encoding": "deflate"})
    assert status == 400 and "the query " in answer["error"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_false_content_encoding_is_told(curve, encoding):
    status, answer = ask(curve, QUERY, **{"Content-Encoding": encoding})
    assert status == 400 and answer["error"].startswith("the query cannot be read: ")


def test_second_copy_adds_no_second_route(curve, monkeypatch):
    server = type("Server", (), {"routes": web.RouteTableDef()})
    monkeypatch.setattr(support.dev.load_pack("nodes.shared.routes").PromptServer, "instance", server, raising=False)
    for _ in range(2):
        curve.register()
    assert [(r.method, r.path) for r in server.routes] == [("GET", curve.PATH), ("POST", curve.PATH)]
    app = web.Application()
    app.add_routes(server.routes)  # which would fail for a route that is there twice


def test_error_of_our_own_is_an_answer_that_the_page_can_read(curve, caplog):
    """It would be text, which the page takes for a server that is away, and asks again and again."""
    routes = support.dev.load_pack("nodes.shared.routes")

    def fail(query):
        raise KeyError("x")

    broken = type("Broken", (), {"PATH": "/broken", "answer": staticmethod(routes.answering(fail))})
    assert ask(broken, QUERY) == (500, {"error": "KeyError: 'x'"})
    assert "KeyError" in caplog.text
