"""ComfyUI's page in a headless Chromium, by Playwright. `page` in these functions is Playwright's, with the page loaded."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
# What ComfyUI's page logs as an error on every start, without any pack: (text, address that it is about).
HOST_NOISE = (
    (r"404 \(Not Found\)", r"/user\.css$"),  # styles, node templates and subgraphs of a user who has none
    (r"404 \(Not Found\)", r"/api/userdata/(user\.css|comfy\.templates\.json)$"),
    (r"404 \(Not Found\)", r"/api/userdata\?dir=subgraphs"),
    (r"404 \(Not Found\)", r"/docs/\w+/en\.md$"),  # help is asked for in the user's language first
    # A workflow that names where its files can be had makes the page ask for their sizes, which `--disable-api-nodes` forbids.
    (r"Content Security Policy", r"/assets/missingModel(Download|Metadata)"),
    # The page looks up in the registry what pack has a node that it does not know; forbidden in the same way.
    (r"^Connecting to 'https://api\.comfy\.org/.* violates .*Content Security Policy", r"/assets/"),
    (
        r"404 \(Not Found\)",
        r"/api/view\?type=input",
    ),  # the picture of a workflow that was loaded before it was put there
    (r"^ComfyApp graph accessed before initialization$", r"/assets/"),
)
SETTINGS = {  # of the server, as a new visitor finds them; all that a test changes is here, since the next test has that server
    "Comfy.TutorialCompleted": True,  # keeps the list of templates closed at the start
    "Comfy.Locale": "en",
    "Comfy.VueNodes.Enabled": False,  # nodes are painted on the canvas
    "Comfy.ColorPalette": "dark",
    "Comfy.Execution.PreviewMethod": "default",
    "Comfy.Minimap.Visible": True,
    "Comfy.RightSidePanel.IsOpen": False,  # opened by a run that is refused
}
DOUBLE_CLICK_MS = 600  # the page takes two clicks on a title within 300 ms for the wish to rename the node
# What every version of the page has at the end of its start: the first workflow, no spinner and the button that runs it.
READY = """window.app?.extensionManager?.spinner === false && app.rootGraph?.nodes.length
    && document.querySelector('[data-testid=queue-button]')"""
START_MS = 180_000
STILL_MS = 100  # some six pictures of the page
TOLD_MS = 700  # the pack's own scripts look at widgets and texts every 250 and 300 ms, at a text twice
POLL_MS = 50
COUNT_REQUESTS = """async () => {
    const { api } = await import('/scripts/api.js')
    const asked = api.fetchApi.bind(api)
    window.unanswered = new Set()
    api.fetchApi = (...given) => {
        window.unanswered.add(given)
        return asked(...given).finally(() => window.unanswered.delete(given))
    }
}"""
# Whether all that is seen has stayed the same for so long, while every question to the server was answered.
IS_STILL = """ms => {
    const box = element => { const { x, y, width, height } = element.getBoundingClientRect(); return [x, y, width, height] }
    const seen = '[data-node-id], textarea, .chroma-report, .chroma-curve, .chroma-compare, .chroma-report .panel'
    const now = JSON.stringify([
        app.canvas.ds.scale, [...app.canvas.ds.offset],
        app.canvas.graph.nodes.map(node => [node.type, [...node.pos], [...node.size], node.widgets?.map(widget => widget.name)]),
        [...document.querySelectorAll(seen)].map(element => [element.textContent, ...box(element)]),
        [...document.images].every(image => image.complete), app.extensionManager.workflow.activeWorkflow?.isModified,
    ])
    const changed = window.lastSeen !== now
    if (changed) window.seenBefore = window.lastSeen
    if (changed || window.unanswered?.size) { window.lastSeen = now; window.stillSince = performance.now() }
    return performance.now() - window.stillSince >= ms
}"""
WHAT_MOVES = """() => ({
    unanswered: [...window.unanswered ?? []].map(([route]) => route), seen: [window.seenBefore, window.lastSeen],
})"""


def find_chromium(playwright: Any) -> str | None:
    """Path of an installed Chromium: one on PATH, else the one that `playwright install chromium` brings."""
    own = shutil.which(playwright.chromium.executable_path)
    return next(filter(None, map(shutil.which, CHROMIUMS)), own)


def is_noise(text: str, address: str) -> bool:
    return any(re.search(t, text) and re.search(a, address) for t, a in HOST_NOISE)


@contextlib.contextmanager
def opened(browser: Any, url: str) -> Iterator[tuple[Any, list[str]]]:
    """A fresh page of a new visitor, with the front end started; and its errors, a list that grows while it is open."""
    errors: list[str] = []

    def heard(message: Any) -> None:
        address = message.location.get("url", "")
        if message.type == "error" and not is_noise(message.text, address):
            errors.append(f"{message.text} ({address})")

    with browser.new_context(viewport={"width": 1600, "height": 1000}) as context:
        page = context.new_page()
        page.on("console", heard)
        page.on("pageerror", lambda error: errors.append(f"uncaught: {error}"))
        page.goto(url, timeout=START_MS)
        page.wait_for_function(READY, timeout=START_MS)
        page.evaluate(COUNT_REQUESTS)
        yield page, errors


def until_still(page: Any, ms: int = STILL_MS) -> None:
    """Waits until nothing that is seen has changed for so long: a move is at its end, a report has its room.

    ms: TOLD_MS where the nodes may yet ask the server of themselves.
    """
    from playwright.sync_api import TimeoutError as TooLong

    page.evaluate("window.lastSeen = null")
    try:
        page.wait_for_function(IS_STILL, arg=ms)
    except TooLong as error:
        moves = page.evaluate(WHAT_MOVES)
        before, now = (text or "" for text in moves["seen"])
        first = next((i for i, (a, b) in enumerate(zip(before, now)) if a != b), 0)
        around = [text[max(0, first - 200) : first + 200] for text in (before, now)]
        raise AssertionError(f"not still: unanswered {moves['unanswered']}; the last change {around}") from error


def until(page: Any, condition: Callable[[], Any], seconds: float = 30) -> None:
    """Waits for what is looked at from here, such as the colours of a screenshot; the assertion behind it tells what is wrong."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        page.wait_for_timeout(POLL_MS)


def next_frame(page: Any) -> None:
    page.evaluate("new Promise(requestAnimationFrame)")


def load(page: Any, workflow: dict[str, Any]) -> None:
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)


def load_new(page: Any, workflow: dict[str, Any]) -> None:
    """Loads it as a workflow that this page has not seen, so that no report of an earlier run stands on its nodes."""
    load(page, {**workflow, "id": str(uuid.uuid4())})


def node_types(page: Any) -> list[str]:
    return page.evaluate("app.rootGraph.nodes.map(node => node.type)")


def unknown_types(page: Any) -> list[str]:
    """Types of nodes, subgraphs' inner ones too, that the front end does not know."""
    return page.evaluate(
        """() => [app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap(graph => graph.nodes)
            .map(node => node.type).filter(type => !(type in LiteGraph.registered_node_types))"""
    )


def overlapping(page: Any) -> list[list[str]]:
    """Pairs of titles of nodes that lie on each other, in the graph or in one of its subgraphs.

    A node that is an element of the page counts with all that hangs on it, such as the strip for its advanced inputs.
    """
    return page.evaluate(
        """() => [app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap(graph => {
            const TITLE = 30, scale = app.canvas.ds.scale
            const canvas = app.canvas.canvas.getBoundingClientRect()
            const boxes = graph.nodes.map(({id, title, pos: [x, y], size: [w, h]}) => {
                const element = graph === app.canvas.graph && document.querySelector(`[data-node-id="${id}"]`)
                if (!element) return [title, x, y - TITLE, w, h + TITLE]
                const all = [element, ...element.querySelectorAll('*')].map(one => one.getBoundingClientRect())
                const bottom = Math.max(...all.filter(box => box.width > 60).map(box => box.bottom))  // not the slots' dots
                return [title, x, y - TITLE, w, (bottom - canvas.y) / scale - app.canvas.ds.offset[1] - y + TITLE]
            })
            return boxes.flatMap(([a, ax, ay, aw, ah], i) => boxes.slice(i + 1)
                .filter(([, x, y, w, h]) => ax < x + w && x < ax + aw && ay < y + h && y < ay + ah)
                .map(([b]) => [a, b]))
        })"""
    )


def cut_notes(page: Any) -> list[str]:
    """The first words of notes whose tables are wider than there is room for."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.comfy-markdown, .comfy-markdown-content')]
            .filter(note => [...note.querySelectorAll('table')].some(table => table.offsetWidth > note.clientWidth + 1))
            .map(note => note.innerText.slice(0, 40))"""
    )


def show_pictures(page: Any, name: str) -> None:
    """Has every node that shows what it saves show a picture of the host's input folder, as the host tells it after a run."""
    page.evaluate(
        """async name => {
            const { api } = await import('/scripts/api.js')
            const images = [{ filename: name, subfolder: '', type: 'input' }]
            for (const { id, type } of app.rootGraph.nodes)
                if (['SaveImage', 'PreviewImage', 'ChromaPictureGrid'].includes(type))
                    api.dispatchCustomEvent('executed', { node: String(id), display_node: String(id), output: { images } })
        }""",
        name,
    )


def use_vue_nodes(page: Any, on: bool) -> None:
    """The front end's other way to show nodes: as elements of the page, called Nodes 2.0 in its menu."""
    use(page, "Comfy.VueNodes.Enabled", on)


def use(page: Any, setting: str, value: Any) -> None:
    """Sets a setting that `SETTINGS` puts back for the next page."""
    assert setting in SETTINGS, f"{setting} would stay for all later tests: give it a value in SETTINGS"
    page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [setting, value])


def as_a_visitor_finds_it(page: Any) -> None:
    """Puts back what an earlier test on this page set."""
    page.evaluate(
        """async settings => {
            const { setting } = app.extensionManager
            for (const [name, value] of Object.entries(settings))
                if (setting.get(name) !== value) await setting.set(name, value)
        }""",
        SETTINGS,
    )


def prompt_of(page: Any) -> dict[str, Any]:
    """What the front end would queue for the graph on the canvas."""
    return page.evaluate("async () => (await app.graphToPrompt()).output")


def put(page: Any, rows: dict[str, dict[str, Any]]) -> None:
    """Sets widgets of the graph on the canvas, {node class or title: {input: value}}, and loads it anew.

    The front end looks for missing files when it loads a graph; after this it finds those that were put.
    """
    page.evaluate(
        """async rows => {
            for (const node of app.rootGraph.nodes)
                for (const widget of node.widgets ?? [])
                    for (const row of [rows[node.type] ?? {}, rows[node.title] ?? {}])
                        if (widget.name in row) widget.value = row[widget.name]
            await app.loadGraphData(app.rootGraph.serialize())
        }""",
        rows,
    )


def replace_all(page: Any) -> None:
    """Clicks away what the page offers for nodes that are gone: from its notice to the list of errors, there Replace All."""
    page.get_by_test_id("error-overlay-see-errors").click()
    page.get_by_test_id("error-group-swap-nodes").get_by_role("button", name="Replace All").click()
    page.get_by_test_id("error-group-swap-nodes").wait_for(state="detached")


def press_run(page: Any) -> str:
    """Clicks Run; gives the id of the prompt that the front end queued."""
    with page.expect_response(lambda response: response.url.endswith("/api/prompt")) as queued:
        page.get_by_test_id("queue-button").click()
    return queued.value.json()["prompt_id"]


@contextlib.contextmanager
def queued_as(page: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """What the page queues meanwhile is changed on its way to the server; the page knows nothing of it."""

    def pass_on(route: Any) -> None:
        query = route.request.post_data_json
        route.continue_(post_data={**query, "prompt": change(query["prompt"])})

    page.route("**/api/prompt", pass_on)
    try:
        yield
    finally:
        page.unroute("**/api/prompt", pass_on)


def drop_file(page: Any, url: str) -> None:
    """Drops the file at `url` onto the canvas as a person would, and waits until the front end has read it."""
    page.evaluate(
        """async url => {
            const blob = await (await fetch(url)).blob()
            const files = new DataTransfer()
            files.items.add(new File([blob], 'dropped.png', { type: blob.type }))
            app.rootGraph.clear()
            app.canvas.canvas.dispatchEvent(
                new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true, clientX: 800, clientY: 500 }))
        }""",
        url,
    )
    page.wait_for_function("app.rootGraph.nodes.length && !app.extensionManager.spinner")


def new_node(page: Any, node_type: str) -> None:
    """Makes a graph of one node."""
    made = page.evaluate(
        """type => {
            app.rootGraph.clear()
            window.lastTestNode = (window.lastTestNode ?? 0) + 1000
            app.rootGraph.state.lastNodeId = window.lastTestNode  // the page keeps values by a node's id
            const node = LiteGraph.createNode(type)
            if (!node) return false
            app.rootGraph.add(node)
            node.pos = [400, 300]
            return true
        }""",
        node_type,
    )
    assert made, f"the front end knows no node {node_type}"


def click_title(page: Any, node_type: str) -> None:
    """Selects the first node of a type by a click on its title bar, as soon as nothing covers it."""
    spot = page.wait_for_function(
        """type => {
            app.canvas.draw(true, true)  // only nodes that were drawn can be clicked
            const node = app.rootGraph.nodes.find(node => node.type === type)
            const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + 60, node.pos[1] - 15])
            const canvas = app.canvas.canvas.getBoundingClientRect()
            const spot = [canvas.x + x, canvas.y + y]
            return document.elementFromPoint(...spot) === app.canvas.canvas && spot
        }""",
        arg=node_type,
    )
    page.wait_for_timeout(DOUBLE_CLICK_MS)  # after the click of a test before, which would make it a double one
    page.mouse.click(*spot.json_value())


def drag_link(page: Any, source: str, output: str, target: str, taken_by: str) -> None:
    """Drags a link with the mouse from an output of the first node of a type to an input of another, by their names."""
    spots = page.evaluate(
        """([source, output, target, input]) => {
            const spot = (type, isInput, name) => {
                const node = app.rootGraph.nodes.find(node => node.type === type)
                const index = (isInput ? node.inputs : node.outputs).findIndex(slot => slot.name === name)
                const element = document.querySelector(`[data-slot-key="${node.id}-${isInput ? 'in' : 'out'}-${index}"]`)
                if (element) { // of a node that is an element of the page
                    const { x, y, width, height } = element.getBoundingClientRect()
                    return [x + width / 2, y + height / 2]
                }
                const [x, y] = app.canvas.ds.convertOffsetToCanvas(node.getConnectionPos(isInput, index))
                const box = app.canvas.canvas.getBoundingClientRect()
                return [box.x + x, box.y + y]
            }
            return [spot(source, false, output), spot(target, true, input)]
        }""",
        [source, output, target, taken_by],
    )
    page.mouse.move(*spots[0])
    page.mouse.down()
    page.mouse.move(*spots[1], steps=10)
    page.mouse.up()


def told_by(page: Any, node_type: str) -> list[str]:
    """What the nodes of a type tell, in the whole workflow."""
    return page.evaluate(
        """type => [app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap(graph => graph.nodes)
            .filter(node => node.type === type)
            .map(node => node.widgets?.find(widget => widget.name === 'chroma_report')?.element.textContent ?? '')""",
        node_type,
    )


def wait_until_told(page: Any, node_type: str, text: str) -> None:
    page.wait_for_function(
        """([type, text]) => [app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap(graph => graph.nodes)
            .some(node => node.type === type && node.widgets
                ?.find(widget => widget.name === 'chroma_report')?.element.textContent.includes(text))""",
        arg=[node_type, text],
    )


def tell(
    page: Any, node_id: str, text: str, marks: Any = (), bar: Any = None, level: str = "info", **more: Any
) -> None:
    """Hands the page a report, as its websocket does."""
    detail = {"node": node_id, "text": text, "marks": list(marks), "bar": bar, "level": level, **more}
    page.evaluate(
        "async detail => (await import('/scripts/api.js')).api.dispatchCustomEvent('chroma.report', detail)", detail
    )


def colour(found: Any, name: str = "color") -> list[int]:
    """A computed colour as three numbers of 255; for color-mix's answers too."""
    return found.evaluate(
        """(element, name) => {
            const context = document.createElement('canvas').getContext('2d')
            context.fillStyle = getComputedStyle(element)[name]
            context.fillRect(0, 0, 1, 1)
            return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)]
        }""",
        name,
    )
