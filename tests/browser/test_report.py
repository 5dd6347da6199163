"""What nodes tell of their runs, shown on them in both of the front end's ways to show nodes."""

import copy
import itertools
import json

import pytest
import support
from browser import comfy_page

pytestmark = [pytest.mark.browser, pytest.mark.host]

dev = support.dev
NEW_ID = itertools.count(5000, 10)
MAX_HEIGHT = 162  # pixels, of report.js
SLACK = 18  # pixels that the front end's own measure of a node leaves over: 12 in 1.47, 16 in 1.58
THREE = "first line\nsecond line, which says more\nthird line"


@pytest.fixture(params=[False, True], ids=["canvas", "vue"])
def nodes_page(page, request):
    """The page with nodes shown in one of the two ways."""
    comfy_page.use_vue_nodes(page, request.param)
    return page


def new_node(page, node_type):
    """Makes a graph of one node; gives its id, which is new on this page."""
    page.evaluate(
        """([type, id]) => {
            app.rootGraph.clear()
            const node = LiteGraph.createNode(type)
            node.id = id
            app.rootGraph.add(node)
            node.pos = [400, 300]
            app.canvas.ds.scale = 1
            app.canvas.ds.offset = [0, -200]
            app.canvas.setDirty(true, true)
        }""",
        [node_type, node_id := next(NEW_ID)],
    )
    return str(node_id)


def told(page, text, marks=(), node_type="ChromaDiffusionLoader", **more):
    """Makes a node that tells something; gives its report when it is seen."""
    node_id = new_node(page, node_type)
    comfy_page.tell(page, node_id, text, marks, **more)
    report(page).wait_for()
    comfy_page.until_still(page)  # the node follows in the next frames
    return report(page)


def report(page):
    return page.locator(".chroma-report")


def lines(found):
    return found.locator(".line").all_text_contents()


def node_on_page(page, which="node => true"):
    """The box on the page of the first node for which a function of JavaScript is true."""
    return page.evaluate(
        f"""() => {{
            const {{ pos: [x, y], size: [width, height] }} = app.rootGraph.nodes.find({which})
            const [left, top] = app.canvas.ds.convertOffsetToCanvas([x, y])
            const box = app.canvas.canvas.getBoundingClientRect(), {{ scale }} = app.canvas.ds
            return {{ x: box.x + left, y: box.y + top, width: width * scale, height: height * scale }}
        }}"""
    )


def contrast(a, b):
    """The ratio of two colours' luminances as WCAG 2 defines it, 1 to 21."""

    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_node_that_has_told_nothing_has_no_widget(nodes_page):
    new_node(nodes_page, "ChromaDiffusionLoader")
    comfy_page.until_still(nodes_page)
    assert report(nodes_page).count() == 0
    assert nodes_page.evaluate("app.rootGraph.nodes[0].widgets.every(widget => widget.name !== 'chroma_report')")


@pytest.mark.parametrize("node_type", ["ChromaDiffusionLoader", "ChromaTextEncode", "ChromaDoctor", "ChromaScheduler"])
def test_every_line_is_seen_within_the_node(nodes_page, node_type):
    found = told(nodes_page, THREE, node_type=node_type)
    assert lines(found) == THREE.split("\n")
    boxes = [line.bounding_box() for line in found.locator(".line").all()]
    panel, node = found.locator(".panel").bounding_box(), node_on_page(nodes_page)
    for upper, lower in itertools.pairwise(boxes):
        assert lower["y"] >= upper["y"] + upper["height"] - 0.5
    assert panel["y"] <= boxes[0]["y"] and boxes[-1]["y"] + boxes[-1]["height"] <= panel["y"] + panel["height"]
    assert node["x"] < panel["x"] and panel["x"] + panel["width"] < node["x"] + node["width"]
    assert panel["y"] + panel["height"] < node["y"] + node["height"]
    assert panel["width"] > 170


def test_text_of_the_prompt_keeps_its_room(nodes_page):
    new_node(nodes_page, "ChromaTextEncode")
    field = nodes_page.locator("textarea").first
    field.wait_for()
    comfy_page.until_still(nodes_page)
    before = field.bounding_box()["height"]
    comfy_page.tell(nodes_page, str(nodes_page.evaluate("app.rootGraph.nodes[0].id")), THREE)
    report(nodes_page).wait_for()
    comfy_page.until_still(nodes_page)
    assert field.bounding_box()["height"] == pytest.approx(before, abs=SLACK)


def test_new_report_replaces_the_old_one_and_the_node_keeps_its_size(nodes_page):
    found = told(nodes_page, THREE)
    before = node_on_page(nodes_page)
    comfy_page.tell(nodes_page, str(nodes_page.evaluate("app.rootGraph.nodes[0].id")), "another\nof two lines")
    found.get_by_text("another", exact=True).wait_for()
    comfy_page.until_still(nodes_page)
    assert lines(found) == ["another", "of two lines"]
    assert node_on_page(nodes_page) == before
    assert report(nodes_page).count() == 1


def test_long_text_scrolls_and_a_larger_node_shows_more_of_it(nodes_page):
    page = nodes_page
    found = told(page, "\n".join(f"line {i}" for i in range(40)), node_type="ChromaPadMask")
    panel = found.locator(".panel")
    assert panel.bounding_box()["height"] == pytest.approx(MAX_HEIGHT, abs=SLACK)
    assert "more" in panel.get_attribute("class").split()
    box = panel.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, 2000)
    page.wait_for_function("document.querySelector('.chroma-report .panel').scrollTop > 300")
    page.wait_for_function("!document.querySelector('.chroma-report .panel').classList.contains('more')")
    assert page.evaluate("app.canvas.ds.scale") == 1
    page.evaluate("(node => node.setSize([node.size[0], node.size[1] + 150]))(app.rootGraph.nodes[0])")
    page.evaluate("app.canvas.setDirty(true, true)")
    comfy_page.until_still(page)
    assert panel.bounding_box()["height"] == pytest.approx(MAX_HEIGHT + 150, abs=SLACK)


def test_wheel_over_a_short_report_zooms_the_canvas(nodes_page):
    box = told(nodes_page, THREE).locator(".panel").bounding_box()
    nodes_page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    nodes_page.mouse.wheel(0, -200)
    nodes_page.wait_for_function("app.canvas.ds.scale > 1")


def test_text_can_be_selected_and_copied(nodes_page):
    page = nodes_page
    second = told(page, THREE).locator(".line").nth(1).bounding_box()
    page.mouse.click(second["x"] + 20, second["y"] + second["height"] / 2, click_count=3)
    assert page.evaluate("getSelection().toString().trim()") == "second line, which says more"
    # The front end puts the selected nodes into the clipboard unless it leaves the copying to the browser.
    left = page.evaluate(
        "document.querySelector('.chroma-report .line').dispatchEvent("
        "new ClipboardEvent('copy', { bubbles: true, cancelable: true, clipboardData: new DataTransfer() }))"
    )
    assert left
    own = page.evaluate(
        "document.querySelector('.chroma-report .line').dispatchEvent("
        "new MouseEvent('contextmenu', { bubbles: true, cancelable: true, button: 2 }))"
    )
    assert own  # the browser's menu, with Copy


@pytest.mark.parametrize(
    "value, level", [(12, "info"), (459, "info"), (461, "warning"), (512, "warning"), (513, "error")]
)
def test_bar_shows_the_share_and_warns_near_its_end(nodes_page, value, level):
    found = told(nodes_page, f"████░░ {value} of 512 tokens\nexact", bar={"value": value, "max": 512})
    assert lines(found) == [f"{value} of 512 tokens", "exact"]
    bar = found.get_by_role("meter", name=f"{value} of 512")
    assert level in bar.get_attribute("class").split()
    share = bar.locator("div").bounding_box()["width"] / bar.bounding_box()["width"]
    assert share == pytest.approx(min(1, value / 512), abs=0.01)
    first, second = (line.bounding_box() for line in found.locator(".line").all())
    assert first["y"] + first["height"] <= bar.bounding_box()["y"]
    assert bar.bounding_box()["y"] + bar.bounding_box()["height"] <= second["y"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_and_warnings_have_their_colour(nodes_page, theme):
    comfy_page.use(nodes_page, "Comfy.ColorPalette", theme)
    text = "2 findings\nDOES HARM: much\nWARNING: this\nhint: that"
    found = told(nodes_page, text, [[1, 11, "error"], [2, 9, "warning"], [3, 6, "info"]], level="error")
    ground = comfy_page.colour(found.locator(".panel"), "backgroundColor")
    plain = comfy_page.colour(found.locator(".line").first)
    assert contrast(plain, ground) > 7  # WCAG's stricter rule for text
    heads = {head.text_content(): comfy_page.colour(head) for head in found.locator(".head").all()}
    assert list(heads) == ["DOES HARM: ", "WARNING: ", "hint: "]
    for head in heads.values():
        assert contrast(head, ground) > 3  # WCAG's rule for what is bold or not text
    (red, warm, blue) = heads.values()
    assert red[0] > max(red[1:]) + 40 and warm[0] > warm[2] + 30 and blue[2] > blue[0] + 30
    edge = comfy_page.colour(found.locator(".panel"), "borderLeftColor")
    assert edge[0] > max(edge[1:]) + 100


def test_markup_in_a_text_is_shown_as_it_is(nodes_page):
    found = told(nodes_page, "<img src=x onerror=alert(1)> & <b>bold</b>")
    assert lines(found) == ["<img src=x onerror=alert(1)> & <b>bold</b>"]


@pytest.mark.parametrize("node_type", ["ChromaTextEncode", "ChromaCFGGuider", "ChromaScheduler"])
def test_workflow_and_prompt_have_nothing_of_the_report(nodes_page, node_type):
    page = nodes_page
    node_id = new_node(page, node_type)
    comfy_page.until_still(page)
    saved, prompt = page.evaluate("app.rootGraph.serialize()"), comfy_page.prompt_of(page)
    comfy_page.tell(page, node_id, "said something")
    report(page).wait_for()
    comfy_page.until_still(page)
    after = page.evaluate("app.rootGraph.serialize()")
    assert comfy_page.prompt_of(page) == prompt
    for graph in (saved, after):
        graph["nodes"][0].pop("size")  # it may have grown
    assert after == saved
    assert "said something" not in json.dumps(after)


def test_report_stays_the_last_widget_and_values_their_places(nodes_page):
    page = nodes_page
    told(page, THREE, node_type="ChromaCFGGuider")
    for name, value in {"form": "APG", "form.momentum": -0.5, "cfg": 4.5}.items():
        page.evaluate(
            """([name, value]) => {
                const widget = app.rootGraph.nodes[0].widgets.find(widget => widget.name === name)
                widget.value = value
                widget.callback?.(value)
            }""",
            [name, value],
        )
    comfy_page.until_still(page)
    names = page.evaluate("app.rootGraph.nodes[0].widgets.map(widget => widget.name)")
    assert names[-1] == "chroma_report" and "form.momentum" in names
    workflow = page.evaluate("app.rootGraph.serialize()")
    prompt = comfy_page.prompt_of(page)
    comfy_page.load(page, copy.deepcopy(workflow))
    assert comfy_page.prompt_of(page) == prompt
    values = page.evaluate("app.rootGraph.serialize()")["nodes"][0]["widgets_values"]
    assert values == workflow["nodes"][0]["widgets_values"]


def test_reports_do_not_let_a_saved_node_grow_again(nodes_page):
    page = nodes_page
    told(page, THREE, node_type="ChromaTextEncode")
    workflow = page.evaluate("app.rootGraph.serialize()")
    workflow["id"] = "00000000-1111-4222-8333-444444444444"  # of a page that has not seen the report
    comfy_page.load(page, workflow)
    comfy_page.until_still(page)
    size = node_on_page(page)["height"]
    comfy_page.tell(page, str(workflow["nodes"][0]["id"]), THREE)
    report(page).wait_for()
    comfy_page.until_still(page)
    assert node_on_page(page)["height"] == pytest.approx(size, abs=1)


def test_collapsed_node_hides_its_report(nodes_page):
    found = told(nodes_page, THREE)
    nodes_page.evaluate("app.rootGraph.nodes[0].collapse(); app.canvas.setDirty(true, true)")
    found.wait_for(state="hidden")
    comfy_page.tell(nodes_page, str(nodes_page.evaluate("app.rootGraph.nodes[0].id")), "told meanwhile")
    nodes_page.evaluate("app.rootGraph.nodes[0].collapse(); app.canvas.setDirty(true, true)")
    found.get_by_text("told meanwhile").wait_for()


# --- of runs that fail -----------------------------------------------------------------------------------------------


def heard(page, event, **detail):
    """Hands the page an event of the host, as its websocket does."""
    page.evaluate(
        "async ([event, detail]) => (await import('/scripts/api.js')).api.dispatchCustomEvent(event, detail)",
        [event, {"prompt_id": "7b9e3c1a-0000-4000-8000-000000000001", **detail}],
    )


def pack_folder(page):
    return page.evaluate("LiteGraph.registered_node_types.ChromaDoctor.nodeData.python_module").split(".", 1)[1]


@pytest.mark.parametrize("separator", ["/", "\\"])
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "foreign"])
def test_error_in_a_host_node_is_told_if_it_comes_from_our_code(nodes_page, ours, separator):
    node_id = new_node(nodes_page, "KSampler")
    place = separator.join(
        ["", "custom_nodes", pack_folder(nodes_page) if ours else "another-pack", "host", "forward.py"]
    )
    trace = [f'  File "{place}", line 3, in forward\n']
    text = "the text is 4096 wide, the model takes 768."
    heard(nodes_page, "execution_start")
    heard(nodes_page, "execution_error", node_id=node_id, exception_message=text + "\n", traceback=trace)
    comfy_page.until_still(nodes_page)
    assert comfy_page.told_by(nodes_page, "KSampler") == [f"ERROR: {text}" if ours else ""]


def test_a_run_forgets_what_is_not_cached_and_the_node_keeps_its_size(nodes_page):
    found = told(nodes_page, THREE)
    before = node_on_page(nodes_page)
    node_id = str(nodes_page.evaluate("app.rootGraph.nodes[0].id"))
    heard(nodes_page, "execution_start")
    heard(nodes_page, "execution_cached", nodes=[node_id])
    assert lines(found) == THREE.split("\n")
    heard(nodes_page, "execution_start")
    heard(nodes_page, "execution_cached", nodes=[])
    comfy_page.until_still(nodes_page)
    assert lines(found) == [""] and not found.locator(".panel").is_visible()
    assert node_on_page(nodes_page) == before
    comfy_page.load(nodes_page, nodes_page.evaluate("app.rootGraph.serialize()"))
    comfy_page.until_still(nodes_page)
    assert report(nodes_page).count() == 0


# --- of what is in a subgraph ----------------------------------------------------------------------------------------

EXAMPLES = support.ROOT / "example_workflows"


def outer(page, title):
    """The lines on the node of a subgraph."""
    return page.evaluate(
        """title => {
            const node = app.rootGraph.nodes.find(node => node.subgraph && node.title === title)
            const widget = node.widgets.find(widget => widget.name === 'chroma_report')
            return widget ? [...widget.element.querySelectorAll('.line')].map(line => line.textContent) : []
        }""",
        title,
    )


def opened(page, name):
    workflow = json.loads((EXAMPLES / f"{name}.json").read_text())
    comfy_page.load(page, {**workflow, "id": f"00000000-2222-4222-8333-{next(NEW_ID):012}"})
    comfy_page.until_still(page, comfy_page.TOLD_MS)  # what the nodes tell before a run


def test_a_subgraphs_node_shows_time_tokens_and_warnings_of_what_is_in_it(nodes_page):
    page, title = nodes_page, "Chroma: text to image"
    opened(page, "chroma_text_to_image")
    before = outer(page, title)  # known before a run
    assert any(line.startswith("Chroma KSampler: ") for line in before)
    assert any(line.startswith("Prompt: ") and " of 512" in line for line in before)
    comfy_page.tell(page, "11:4", "██░░ 77 of 512 tokens used\nmore of it", bar={"value": 77, "max": 512})
    comfy_page.tell(page, "11:5", "5 of 512 tokens used\nWARNING: short", [[1, 8, "warning"]], level="warning")
    comfy_page.tell(
        page, "11:7", "7.5 s, 0.29 s a step\nHINT: low\nbeta: 26 steps", [[1, 5, "warning"]], level="warning"
    )
    comfy_page.until_still(page)
    want = [
        "Chroma KSampler: 7.5 s, 0.29 s a step",
        "HINT: low",
        "Prompt: 77 of 512 tokens used",
        "Negative prompt: 5 of 512 tokens used",
        "WARNING: short",
    ]
    assert outer(page, title) == want
    vue = page.evaluate("LiteGraph.vueNodesMode")
    page.screenshot(path=dev.cache_dir() / "browser" / f"outer-{'vue' if vue else 'canvas'}.png")
    shown = page.locator(f"{'[data-testid=node-body-11]' if vue else '.dom-widget'} .chroma-report").filter(
        has_text="Chroma KSampler: 7.5 s"  # its inner node, which is not seen, has it without the name
    )
    shown.wait_for()
    assert lines(shown) == want
    assert "warning" in shown.locator(".panel").get_attribute("class")
    box, node = shown.bounding_box(), node_on_page(page, "node => node.subgraph")
    assert node["x"] < box["x"] and box["x"] + box["width"] < node["x"] + node["width"]
    fields = [field.bounding_box() for field in page.locator("textarea").all() if field.is_visible()]
    fields = [
        field for field in fields if node["x"] < field["x"] < node["x"] + node["width"]
    ]  # not of a note beside it
    assert len(fields) == 2 and all(
        field["y"] + field["height"] < box["y"] and field["height"] > 60 for field in fields
    )
    assert box["y"] + box["height"] < node["y"] + node["height"] + 2
    assert comfy_page.overlapping(page) == []
    heard(page, "execution_start")
    heard(page, "execution_cached", nodes=["11:4", "11:5"])  # the sampler runs anew
    assert outer(page, title) == want[2:]
    heard(page, "execution_error", node_id="11:7", exception_message="the text is too wide.", traceback=[])
    comfy_page.until_still(page)
    assert outer(page, title)[0] == "Chroma KSampler: ERROR: the text is too wide."


def test_nodes_of_two_subgraphs_show_each_their_own(nodes_page):
    page = nodes_page
    opened(page, "chroma_compare")
    comfy_page.tell(page, "6:27", "1.5 s, 0.1 s a step")
    comfy_page.tell(page, "7:47", "2.5 s, 0.2 s a step")
    comfy_page.until_still(page)
    assert outer(page, "A: standard")[0] == "Chroma KSampler: 1.5 s, 0.1 s a step"
    assert outer(page, "B: draft")[0] == "Chroma KSampler: 2.5 s, 0.2 s a step"


def test_a_copy_of_a_subgraphs_node_keeps_its_own_report(nodes_page):
    page, title = nodes_page, "Chroma: text to image"
    opened(page, "chroma_text_to_image")
    page.evaluate(
        """() => {
            const node = app.rootGraph.nodes.find(node => node.subgraph)
            app.rootGraph.nodes.filter(node => node.type === 'SaveImage').forEach(node => app.rootGraph.remove(node))
            const copy = LiteGraph.createNode(node.type)
            copy.title = 'copy'
            copy.pos = [900, 100]
            app.rootGraph.add(copy)
            window.copied = String(copy.id)
        }"""
    )
    comfy_page.tell(page, "11:7", "1.5 s, 0.1 s a step")
    comfy_page.tell(page, page.evaluate("copied") + ":7", "2.5 s, 0.2 s a step")
    comfy_page.until_still(page, comfy_page.TOLD_MS)
    assert outer(page, title)[0] == "Chroma KSampler: 1.5 s, 0.1 s a step"
    assert outer(page, "copy") == ["Chroma KSampler: 2.5 s, 0.2 s a step"]
