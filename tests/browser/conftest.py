"""A real Chromium on the page of the running ComfyUI."""

from __future__ import annotations

import os
import re

import pytest
import support
from browser import comfy_page

dev = support.dev
FAILED = pytest.StashKey[bool]()


def give_up(reason: str) -> None:
    """Skips, or fails where CHROMA_PACK_REQUIRE_BROWSER has promised a browser."""
    (pytest.fail if os.environ.get("CHROMA_PACK_REQUIRE_BROWSER") else pytest.skip)(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture(scope="module")
def browser():
    """For one module only: Playwright keeps an event loop running in this thread, and other tests need their own."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        give_up("this Python lacks playwright: run `python dev.py test`")
    with sync_playwright() as playwright:
        path = comfy_page.find_chromium(playwright)
        if path is None:
            give_up("no Chromium here: `apt-get install chromium`, or `playwright install chromium` elsewhere")
        with playwright.chromium.launch(executable_path=path) as chromium:
            yield chromium


@pytest.fixture(scope="module")
def visit(browser, server):
    """Opens a page as a new visitor, or one with settings of his own, with the front end started."""

    def opened(settings=None):
        server.post("/settings", {**comfy_page.SETTINGS, **(settings or {})})
        return comfy_page.opened(browser, server.url)

    return opened


@pytest.fixture(scope="module")
def opened_once(visit):
    with visit() as opened:
        yield opened


def watched(page, errors, node):
    """The page for one test. Errors in its console fail the test; of a failed test a picture is kept."""
    yield page
    found = "\n".join(errors)
    errors.clear()
    if found or node.stash.get(FAILED, False):
        picture = dev.cache_dir() / "browser" / (re.sub(r"\W+", "-", node.name).strip("-") + ".png")
        page.screenshot(path=picture)
        print(f"the page: {picture}")
    assert not found, f"the page's console has errors:\n{found}"


@pytest.fixture
def page(request):
    """One page for all tests of a module, which is quicker; a test begins with the graph that the one before left.

    Marked `own_page`, a test has a new one: it reloads it, changes what it asks for, or counts on its first state.
    """
    if request.node.get_closest_marker("own_page"):
        with request.getfixturevalue("visit")() as opened:
            yield from watched(*opened, request.node)
    else:
        opened = request.getfixturevalue("opened_once")
        comfy_page.as_a_visitor_finds_it(opened[0])
        yield from watched(*opened, request.node)
