"""The slider over two pictures, on the canvas and in Nodes 2.0."""

import io

import numpy as np
import pytest
import support
from browser import comfy_page

Image = pytest.importorskip("PIL.Image")

pytestmark = [pytest.mark.browser, pytest.mark.host, pytest.mark.own_page]

dev = support.dev
NODE = "ChromaComparePictures"
RED, BLUE = (220, 20, 30), (20, 40, 210)
LOADED = "[...document.querySelectorAll('.chroma-compare img')].every(image => image.complete && image.naturalWidth)"
both = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])


def compare(page, server, vue, a=(256, 128), b=(256, 128)):
    """Runs a graph that compares a red picture and a blue one, each of (width, height); gives the place of the slider."""
    comfy_page.use_vue_nodes(page, vue)
    page.evaluate(
        """sizes => {
            app.rootGraph.clear()
            const compare = LiteGraph.createNode('ChromaComparePictures')
            app.rootGraph.add(compare)
            compare.pos = [600, 300]
            sizes.forEach(([width, height, color], slot) => {
                const node = LiteGraph.createNode('EmptyImage')
                app.rootGraph.add(node)
                node.pos = [100, 200 + 300 * slot]
                for (const widget of node.widgets)
                    if (widget.name in { width, height, color }) widget.value = { width, height, color }[widget.name]
                node.connect(0, compare, slot)
            })
        }""",
        [[*a, 0xDC141E], [*b, 0x1428D2]],
    )
    page.evaluate(  # as a workflow that was opened, which has an id
        """async () => {
            await app.loadGraphData({ ...app.rootGraph.serialize(), id: crypto.randomUUID() })
            app.canvas.ds.scale = 1
            app.canvas.ds.offset = [0, -100]
            app.canvas.setDirty(true, true)
        }"""
    )
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    panel = page.locator(".chroma-compare .panel")
    page.wait_for_function(LOADED)
    comfy_page.until_still(page)
    return panel


def colours(page, panel):
    """The panel as it is seen: (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(panel.screenshot())).convert("RGB")).astype(int)


def is_colour(pixels, want):
    return (abs(pixels - np.array(want)).max(-1) <= 3).all()


def drag(page, panel, start, end):
    """By shares of the panel's width."""
    box = panel.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + (start + end) / 2 * box["width"], y)
    page.mouse.move(box["x"] + end * box["width"], y)
    page.mouse.up()
    comfy_page.until_still(page)


def check(page, panel, share):
    """Left of the share of the panel's width stands A, right of it B; the panel is as wide as the picture."""
    seen = colours(page, panel)
    height, width = seen.shape[:2]
    row, place = seen[height // 2 - 5 : height // 2 + 5], round(share * width)
    assert is_colour(row[:, 4 : place - 6], RED) and is_colour(row[:, place + 6 : width - 4], BLUE), (share, width)


@both
def test_dragged_slider_shows_a_on_its_left_and_b_on_its_right(page, server, vue):
    panel = compare(page, server, vue)
    check(page, panel, 0.5)
    before = page.evaluate("[...app.rootGraph.nodes.find(n => n.type === 'ChromaComparePictures').pos]")
    drag(page, panel, 0.5, 0.25)
    check(page, panel, 0.25)
    page.screenshot(path=dev.cache_dir() / "browser" / f"compare-{'vue' if vue else 'canvas'}.png")
    drag(page, panel, 0.4, 0.8)  # from a place beside it
    check(page, panel, 0.8)
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    check(page, panel, 0.7)
    assert panel.get_attribute("aria-valuenow") == "70"
    after = page.evaluate("[...app.rootGraph.nodes.find(n => n.type === 'ChromaComparePictures').pos]")
    assert after == before  # the node was not dragged
    page.evaluate("app.canvas.ds.scale = 0.6; app.canvas.setDirty(true, true)")
    comfy_page.until_still(page)
    drag(page, panel, 0.7, 0.3)
    check(page, panel, 0.3)


@both
def test_pictures_of_other_shapes_lie_in_the_middle_and_a_second_run_keeps_the_place(page, server, vue):
    panel = compare(page, server, vue, (128, 256), (64, 128))
    drag(page, panel, 0.5, 0.5)
    seen = colours(page, panel)
    height, width = seen.shape[:2]
    shown = height / 2  # of the width: twice as high as wide
    left = (width - shown) / 2
    row = seen[height // 2]
    assert is_colour(row[round(left) + 3 : width // 2 - 6], RED)
    assert is_colour(row[width // 2 + 6 : round(left + shown) - 3], BLUE)
    assert not is_colour(row[: round(left) - 3], RED) and not is_colour(row[round(left + shown) + 3 :], BLUE)
    drag(page, panel, 0.5, (left + 0.2 * shown) / width)
    assert panel.get_attribute("aria-valuenow") == "20"
    page.evaluate(
        "app.rootGraph.nodes.find(n => n.type === 'EmptyImage').widgets.find(w => w.name === 'color').value = 0x00ff00"
    )
    server.wait(comfy_page.press_run(page))
    part = slice(round(left) + 3, round(left + 0.2 * shown) - 6)
    comfy_page.until(page, lambda: is_colour(colours(page, panel)[height // 2][part], (0, 255, 0)))
    assert is_colour(colours(page, panel)[height // 2][part], (0, 255, 0))


@both
def test_another_tab_and_back_shows_the_pictures_again(page, server, vue):
    compare(page, server, vue)
    name = page.evaluate("app.extensionManager.workflow.activeWorkflow.filename")
    page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("app.rootGraph.nodes.length === 0")
    page.get_by_text(name, exact=True).click()
    page.wait_for_function("app.rootGraph.nodes.length === 3")
    page.wait_for_function(LOADED)
    comfy_page.until_still(page)
    check(page, page.locator(".chroma-compare .panel"), 0.5)


@both
def test_pictures_of_a_run_are_those_of_its_workflow_whichever_is_open(page, server, vue):
    compare(page, server, vue)
    workflow = page.evaluate("app.rootGraph.serialize()")
    comfy_page.load(page, {**workflow, "id": "00000000-3333-4222-8333-111111111111"})  # the same nodes' ids
    told = """async ([workflow, id]) => {
        const { api } = await import('/scripts/api.js')
        const files = [1, 2].map(i => ({ filename: `x${i}.png`, type: 'temp', subfolder: '' }))
        api.dispatchCustomEvent('chroma.queued', { prompt: 'another', workflow })
        api.dispatchCustomEvent('executed', { prompt_id: 'another', node: id, display_node: id, output: { chroma_compare: files } })
    }"""
    (node,) = [str(node["id"]) for node in workflow["nodes"] if node["type"] == NODE]
    sources = "[...document.querySelectorAll('.chroma-compare img')].map(image => image.src)"
    page.route("**/view?filename=x*", lambda route: route.fulfill(status=200, body=""))
    page.evaluate(told, [workflow["id"], node])
    assert not any("x1.png" in source for source in page.evaluate(sources))
    comfy_page.load(page, workflow)
    comfy_page.until(page, lambda: any("x1.png" in source for source in page.evaluate(sources)))
    assert any("x1.png" in source for source in page.evaluate(sources))


def test_both_pictures_are_given_one_after_the_other(page, server):
    nodes = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16, "batch_size": 2, "color": 0xDC141E}},
        "2": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0x1428D2}},
        "3": {"class_type": NODE, "inputs": {"image_a": ["1", 0], "image_b": ["2", 0]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "both"}},
    }
    saved = [Image.open(path).convert("RGB") for path in server.run(nodes)]
    assert [picture.size for picture in saved] == [(32, 16), (32, 16), (16, 16)]
    assert [picture.getpixel((8, 8)) for picture in saved] == [RED, RED, BLUE]
