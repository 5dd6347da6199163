"""Chroma Studio in the page: its modes, "Open as nodes", and what it tells; on the canvas and in Nodes 2.0."""

import itertools
import json

import numpy as np
import pytest
import support
from browser import comfy_page, demo_files
from browser.swap import DEMO

Image = pytest.importorskip("PIL.Image")

pytestmark = [pytest.mark.browser, pytest.mark.host]

dev = support.dev
EXAMPLE = support.ROOT / "example_workflows" / "chroma_studio.json"
STUDIO = "ChromaStudio"
NEW_SEED = itertools.count(770_000)
both = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
SMALL = {"prompt": "a red circle on a blue background", "negative": "a green square"}
OWN = {"quality.steps": 4, "quality.sampler": "euler"}
MODES = {
    "text to image": {"mode.width": 128, "mode.height": 128},
    "image to image": {"mode.denoise": 0.7, "mode.megapixels": 0.02},
    "inpaint": {"mode.denoise": 0.9, "mode.megapixels": 0.02},
    "outpaint": {"mode.left": 16, "mode.right": 36, "mode.megapixels": 0.02},  # no whole patches
    "enlarge": {"mode.width": 64, "mode.height": 64, "mode.factor": 2, "mode.denoise": 0.5},
    "edit": {"mode.megapixels": 0.02},
}
SHOWN = {
    "text to image": ["width", "height"],
    "image to image": ["image", "denoise", "megapixels"],
    "inpaint": ["image", "mask", "denoise", "megapixels", "context"],
    "outpaint": ["image", "left", "top", "right", "bottom", "feathering", "megapixels"],
    "enlarge": ["width", "height", "factor", "denoise", "image"],
    "edit": ["image", "megapixels", "guidance"],
}
SEEDS: dict[str, int] = {}  # "last": that of the last graph that was opened
SET = """([type, values]) => {
    const node = app.rootGraph.nodes.find(node => node.type === type)
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find(widget => widget.name === name)
        widget.value = value
        widget.callback?.(value)
    }
    app.canvas.setDirty(true, true)
}"""


def opened(page, vue, mode="text to image", **values):
    """The template with the demo's files, in a mode, with a picture connected where the mode has one."""
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load_new(page, json.loads(EXAMPLE.read_text()))
    SEEDS["last"] = next(NEW_SEED)
    comfy_page.put(page, {**DEMO, STUDIO: {**DEMO[STUDIO], **SMALL, "seed": SEEDS["last"]}})
    setting(page, mode=mode, quality="custom")
    setting(page, **MODES[mode], **OWN, **values)
    if {"image", "mask"} & set(SHOWN[mode]) and mode != "enlarge":
        page.evaluate(
            """file => {
                const load = LiteGraph.createNode('LoadImage')
                app.rootGraph.add(load)
                load.pos = [-400, 130]
                load.widgets.find(widget => widget.name === 'image').value = file
                const studio = app.rootGraph.nodes.find(node => node.type === 'ChromaStudio')
                for (const [slot, name] of ['mode.image', 'mode.mask'].entries()) {
                    const to = studio.inputs.findIndex(input => input.name === name)
                    if (to >= 0) load.connect(slot, studio, to)
                }
            }""",
            demo_files.PICTURE,
        )
    scroll(page)


def scroll(page):
    page.evaluate("app.canvas.ds.scale = 0.7; app.canvas.ds.offset = [450, 0]; app.canvas.setDirty(true, true)")
    comfy_page.until_still(page)


def setting(page, **values):
    page.evaluate(SET, [STUDIO, values])


def shown(page, name):
    """What the node shows of a choice's own inputs."""
    return page.evaluate(
        """name => {
            const node = app.rootGraph.nodes.find(node => node.type === 'ChromaStudio')
            return node.inputs.map(input => input.name).filter(input => input.startsWith(name + '.'))
                .map(input => input.slice(name.length + 1))
        }""",
        name,
    )


def picture(page, server):
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    (image,) = [image for output in entry["outputs"].values() for image in output.get("images", [])]
    return np.asarray(Image.open(dev.base_dir() / image["type"] / image["subfolder"] / image["filename"])).astype(int)


def shot(page, name, vue):
    page.screenshot(path=dev.cache_dir() / "browser" / f"studio-{name}-{'vue' if vue else 'canvas'}.png")


def press(page, vue, label="Open as nodes"):
    """Clicks the button on the node."""
    if vue:
        page.get_by_role("button", name=label).click()
        return
    spot = page.evaluate(
        """label => {
            const node = app.rootGraph.nodes.find(node => node.type === 'ChromaStudio')
            const { y } = node.widgets.find(widget => widget.name === label)
            const [left, top] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] + y + 10])
            const box = app.canvas.canvas.getBoundingClientRect()
            return [box.x + left, box.y + top]
        }""",
        label,
    )
    page.mouse.click(*spot)


@both
def test_each_mode_shows_its_inputs_alone_and_keeps_the_picture_that_is_connected(page, vue):
    opened(page, vue, "image to image")
    for mode, inputs in SHOWN.items():
        setting(page, mode=mode)
        assert shown(page, "mode") == inputs
        comfy_page.until_still(page)
        shot(page, mode.replace(" ", "-"), vue)
    setting(page, mode="inpaint")
    setting(page, mode="edit")
    assert shown(page, "quality") == ["steps", "cfg", "sampler", "schedule", "shift"]
    for quality in ("draft", "standard", "quality", "flash"):
        setting(page, quality=quality)
        assert shown(page, "quality") == []
    for count in ("1", "2", "3", "none"):
        setting(page, loras=count)
        named = range(1, 1 + (0 if count == "none" else int(count)))
        assert shown(page, "loras") == [name for i in named for name in (f"lora_{i}", f"strength_{i}")]
    opened(page, vue, "image to image")
    setting(page, mode="edit")
    linked = "app.rootGraph.nodes.find(n => n.type === 'ChromaStudio').inputs.find(i => i.name === 'mode.image').link"
    assert page.evaluate(linked) is not None


@both
@pytest.mark.own_page
def test_new_node_has_the_choices_in_their_order_and_the_first_of_each(page, server, vue):
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.new_node(page, STUDIO)
    asked = server.get("/object_info/ChromaStudio")["ChromaStudio"]["input"]
    menus = {
        name: rest[0]["options"]
        for name, (kind, *rest) in {**asked["required"], **asked["optional"]}.items()
        if "DYNAMIC" in kind
    }
    assert menus.keys() == {"mode", "quality", "loras"}
    found = page.evaluate(
        "app.rootGraph.nodes[0].widgets.map(({ name, value, options }) => [name, [value, options.values]])"
    )
    keys = {name: [option["key"] for option in options] for name, options in menus.items()}
    assert {name: of for name, of in dict(found).items() if name in menus} == {n: [k[0], k] for n, k in keys.items()}
    assert shown(page, "loras") == []
    setting(page, loras="2")
    assert shown(page, "loras") == ["lora_1", "strength_1", "lora_2", "strength_2"]
    shot(page, "new", vue)


@both
@pytest.mark.parametrize("mode", MODES)
def test_opened_as_nodes_it_paints_the_same_and_undo_brings_it_back(page, server, vue, mode):
    opened(page, vue, mode, loras="1")
    setting(page, **{"loras.lora_1": demo_files.LORA})
    page.evaluate(
        """() => { for (const widget of app.rootGraph.nodes.find(n => n.type === 'ChromaStudio').widgets)
            if (widget.name === 'control_after_generate') widget.value = 'fixed' }"""
    )
    before, types = comfy_page.prompt_of(page), sorted(comfy_page.node_types(page))
    expected = picture(page, server)
    comfy_page.wait_until_told(page, STUDIO, "prompts computed")
    comfy_page.until_still(page)
    shot(page, f"run-{mode.replace(' ', '-')}", vue)
    for undone in (True, False):
        press(page, vue)
        page.wait_for_function("!app.rootGraph.nodes.some(node => node.type === 'ChromaStudio')")
        if undone:
            comfy_page.until_still(page)
            page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
            page.wait_for_function("app.rootGraph.nodes.some(node => node.type === 'ChromaStudio')")
            assert sorted(comfy_page.node_types(page)) == types
            assert comfy_page.prompt_of(page) == before
            scroll(page)
    assert comfy_page.unknown_types(page) == []
    server.free()
    found = picture(page, server)
    assert found.shape == expected.shape and (found == expected).all()
    comfy_page.until_still(page, comfy_page.TOLD_MS)
    page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    comfy_page.until_still(page)
    shot(page, f"opened-{mode.replace(' ', '-')}", vue)
    assert comfy_page.overlapping(page) == []  # with what the nodes tell


@both
def test_studio_tells_time_first_then_tokens_and_keeps_them_with_another_seed(page, server, vue):
    opened(page, vue)
    server.free()
    for seed in (next(NEW_SEED), next(NEW_SEED)):
        setting(page, seed=seed)
        picture(page, server)
        comfy_page.wait_until_told(page, STUDIO, "prompts computed")
        (told,) = comfy_page.told_by(page, STUDIO)
        assert " s a step" in told[:40]
        for part in ("Prompt: ", "Negative prompt: ", "of 512 tokens", "Load Chroma Model: Chroma, 13.1 M parameters"):
            assert part in told
        assert told.endswith("text to image, custom: 8 nodes")


@both
@pytest.mark.own_page
def test_whole_from_the_cache_it_tells_what_its_nodes_told(page, server, vue):
    """In another workflow, and once the page is loaded anew."""
    seed, all_told = next(NEW_SEED), []
    for reload in (False, False, True):
        if reload:
            page.reload()
            page.wait_for_function(comfy_page.READY)
        opened(page, vue, seed=seed)
        picture(page, server)
        comfy_page.wait_until_told(page, STUDIO, "prompts computed")
        all_told += comfy_page.told_by(page, STUDIO)
    assert all_told[0] == all_told[1] == all_told[2]


@both
def test_error_of_an_inner_node_stands_on_the_studio(page, server, vue):
    opened(page, vue)
    picture(page, server)
    comfy_page.wait_until_told(page, STUDIO, "prompts computed")
    setting(page, quality="flash")
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "error"
    comfy_page.wait_until_told(page, STUDIO, "ERROR: quality is flash, and the model is chroma-demo")
    comfy_page.until(page, lambda: "prompts computed" not in comfy_page.told_by(page, STUDIO)[0])
    (told,) = comfy_page.told_by(page, STUDIO)
    assert "prompts computed" not in told
    shot(page, "error", vue)
    assert page.locator(".chroma-report .panel.error .head").first.is_visible()


@both
def test_what_cannot_be_opened_is_told(visit, vue):
    with visit() as (page, _):  # its console tells of the refused query
        opened(page, vue)
        setting(page, mode="edit")
        comfy_page.until_still(page)
        press(page, vue)
        page.get_by_text("edit needs a picture, and nothing is connected to image").wait_for()
        page.get_by_test_id("queue-button").click()
        comfy_page.wait_until_told(page, STUDIO, "image: nothing is connected. Connect Load Image")
        assert STUDIO in comfy_page.node_types(page)


@both
def test_in_a_subgraph_it_opens_between_the_subgraphs_borders(page, server, vue):
    opened(page, vue, "image to image")
    expected = picture(page, server)
    page.evaluate(
        """() => {
            const studio = app.rootGraph.nodes.find(node => node.type === 'ChromaStudio')
            for (const widget of studio.widgets) if (widget.name === 'control_after_generate') widget.value = 'fixed'
            const { node } = app.rootGraph.convertToSubgraph(new Set([studio]))
            app.canvas.openSubgraph(node.subgraph, node)
        }"""
    )
    comfy_page.until_still(page)
    page.evaluate(
        """() => {
            const studio = app.canvas.graph.nodes.find(node => node.type === 'ChromaStudio')
            studio.widgets.find(widget => widget.name === 'Open as nodes').callback()
        }"""
    )
    page.wait_for_function("!app.canvas.graph.nodes.some(node => node.type === 'ChromaStudio')")
    shot(page, "subgraph", vue)
    prompt = comfy_page.prompt_of(page)
    assert {node["class_type"] for node in prompt.values()} >= {"LoadImage", "ChromaKSampler", "SaveImage"}
    (seeded,) = [node for node in prompt.values() if node["class_type"] == "ChromaKSampler"]
    seeded["inputs"]["seed"] = SEEDS["last"]
    (path,) = server.run(prompt)
    assert (np.asarray(Image.open(path)).astype(int) == expected).all()
