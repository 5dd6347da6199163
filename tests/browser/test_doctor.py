"""Nodes that the Doctor offers to insert: put into the links at a click, with undo; on the canvas and in Nodes 2.0."""

import itertools
import json

import pytest
import support
from browser import comfy_page
from browser.swap import DEMO

pytestmark = [pytest.mark.browser, pytest.mark.host, pytest.mark.own_page]

dev = support.dev
DOCTOR = "ChromaDoctor"
LORA = support.ROOT / "example_workflows" / "chroma_lora.json"
NEW_SEED = itertools.count(660_000)
both = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])


def opened(page, vue, path, **rows):
    """A workflow with the demo's files and a Doctor below it."""
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load(page, json.loads(path.read_text()))
    comfy_page.put(page, {**DEMO, **rows})
    page.evaluate(
        """() => {
            const doctor = LiteGraph.createNode('ChromaDoctor')
            app.rootGraph.add(doctor)
            doctor.pos = [20, 1100]
            doctor.size = [400, 300]
        }"""
    )


def run(page, server):
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)


def line_of(page, text):
    """The Doctor's line, seen."""
    page.evaluate("app.canvas.ds.scale = 0.7; app.canvas.ds.offset = [100, -700]; app.canvas.setDirty(true, true)")
    comfy_page.until_still(page)
    line = page.locator(".chroma-report .line").filter(has_text=text).first
    line.scroll_into_view_if_needed()
    return line


def apply_with_undo(page, text, kind):
    """Applies, takes it back, and applies again."""
    before = comfy_page.prompt_of(page)
    for undone in (True, False):
        line_of(page, text).get_by_role("button", name="Apply").click()
        page.wait_for_function("kind => app.rootGraph.nodes.some(node => node.type === kind)", arg=kind)
        assert comfy_page.prompt_of(page) != before
        chosen = page.evaluate("[...app.canvas.selectedItems].map(node => node.type)")
        assert chosen == [kind]  # it is shown
        if undone:
            comfy_page.until_still(page)
            page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
            page.wait_for_function("kind => !app.rootGraph.nodes.some(node => node.type === kind)", arg=kind)
            assert comfy_page.prompt_of(page) == before
            comfy_page.wait_until_told(page, DOCTOR, text)
    return before


def shot(page, name, vue):
    page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    comfy_page.until_still(page)
    page.screenshot(path=dev.cache_dir() / "browser" / f"doctor-{name}-{'vue' if vue else 'canvas'}.png")


def fixed(page):
    """So that a prompt differs by what is done to the graph alone."""
    page.evaluate(
        """() => { for (const node of app.rootGraph.nodes) for (const widget of node.widgets ?? [])
            if (widget.name === 'control_after_generate') widget.value = 'fixed' }"""
    )


@both
def test_missing_shift_is_inserted_behind_the_loader_for_all_that_take_its_model(page, server, vue):
    opened(page, vue, dev.WORKFLOW, KSampler={"seed": next(NEW_SEED), "steps": 12})
    fixed(page)
    page.evaluate(
        """() => {
            const of = type => app.rootGraph.nodes.find(node => node.type === type)
            const loader = of('ChromaDiffusionLoader')
            for (const type of ['KSampler', 'ChromaDoctor']) {
                const node = of(type)
                loader.connect(0, node, node.inputs.findIndex(input => input.name === 'model'))
            }
            app.rootGraph.remove(of('ModelSamplingAuraFlow'))
            const lora = LiteGraph.createNode('ChromaLoraLoader')  // between the two, and switched off
            app.rootGraph.add(lora)
            lora.pos = [20, -400]
            lora.mode = 4
            loader.connect(0, lora, lora.inputs.findIndex(input => input.name === 'model'))
            lora.connect(0, of('KSampler'), of('KSampler').inputs.findIndex(input => input.name === 'model'))
        }"""
    )
    run(page, server)
    text = "Connect Chroma Timestep Shift with shift 1"
    comfy_page.wait_until_told(page, DOCTOR, "the model's shift is ComfyUI's 3.16")
    apply_with_undo(page, text, "ChromaTimestepShift")
    prompt = comfy_page.prompt_of(page)
    (shift,) = [key for key, node in prompt.items() if node["class_type"] == "ChromaTimestepShift"]
    (loader,) = [key for key, node in prompt.items() if node["class_type"] == "ChromaDiffusionLoader"]
    assert prompt[shift]["inputs"] == {"model": [loader, 0], "mode": "shift 1"}
    takers = {n["class_type"] for n in prompt.values() if n["inputs"].get("model") == [shift, 0]}
    assert takers == {"KSampler", DOCTOR}
    into_lora = "app.rootGraph.nodes.find(node => node.type === 'ChromaLoraLoader').getInputNode(0).type"
    assert page.evaluate(into_lora) == "ChromaTimestepShift"  # it acts when the LoRA is switched on too
    run(page, server)
    comfy_page.until(page, lambda: text not in comfy_page.told_by(page, DOCTOR)[0])
    assert text not in comfy_page.told_by(page, DOCTOR)[0]
    shot(page, "shift", vue)
    assert not [pair for pair in comfy_page.overlapping(page) if "Chroma Timestep Shift" in pair]


@both
def test_nag_is_inserted_where_a_negative_prompt_does_nothing(page, server, vue):
    values = {"cfg": 1.0, "steps": 12, "quality": "custom", "seed": next(NEW_SEED)}
    negative = {"text": "blurred, low quality, " * 20}
    opened(page, vue, LORA, ChromaKSampler=values, **{"Negative prompt": negative})
    fixed(page)
    run(page, server)
    comfy_page.wait_until_told(page, DOCTOR, "the negative prompt does nothing at cfg 1")
    apply_with_undo(page, "Empty the negative prompt, or use Chroma NAG", "ChromaNAG")
    prompt = comfy_page.prompt_of(page)
    (nag,) = [key for key, node in prompt.items() if node["class_type"] == "ChromaNAG"]
    (sampler,) = [node for node in prompt.values() if node["class_type"] == "ChromaKSampler"]
    assert sampler["inputs"]["model"] == [nag, 0]
    assert prompt[nag]["inputs"]["negative"] == sampler["inputs"]["negative"]
    assert prompt[prompt[nag]["inputs"]["model"][0]]["class_type"] == "ChromaLoraLoader"
    run(page, server)
    comfy_page.until(page, lambda: "does nothing at cfg 1" not in comfy_page.told_by(page, DOCTOR)[0])
    assert "does nothing at cfg 1" not in comfy_page.told_by(page, DOCTOR)[0]
    shot(page, "nag", vue)
    assert not [pair for pair in comfy_page.overlapping(page) if "Chroma NAG" in pair]
