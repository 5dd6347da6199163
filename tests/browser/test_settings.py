"""What Chroma Preset and Chroma KSampler show before a run, on the canvas and in Nodes 2.0."""

import dataclasses
import itertools
import json

import pytest
import support
from browser import comfy_page, demo_files
from browser.swap import DEMO

pytestmark = [pytest.mark.browser, pytest.mark.host]

dev = support.dev
EXAMPLES = support.ROOT / "example_workflows"
SAMPLER, PRESET = "ChromaKSampler", "ChromaPreset"
both = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
NEW_SEED = itertools.count(990_000)
FILES = {k: v for k, v in DEMO.items() if k not in (SAMPLER, PRESET)}


STEPS_ARE = """steps => app.rootGraph.nodes.find(n => n.type === 'ChromaKSampler').widgets
    .find(w => w.name === 'steps').value === steps"""


def opened(page, name, vue, **rows):
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load_new(page, json.loads((EXAMPLES / f"{name}.json").read_text()))
    comfy_page.put(page, {**FILES, **rows})


def value(page, node_type, name):
    return page.evaluate(
        """([type, name]) => [app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap(graph => graph.nodes)
            .find(node => node.type === type).widgets.find(widget => widget.name === name).value""",
        [node_type, name],
    )


def choose(page, node_type, name, chosen):
    page.evaluate(
        """([type, name, chosen]) => {
            const widget = app.rootGraph.nodes.find(node => node.type === type).widgets.find(widget => widget.name === name)
            widget.value = chosen
            widget.callback?.(chosen)
        }""",
        [node_type, name, chosen],
    )


@both
def test_preset_shows_what_it_will_use_and_its_curve_before_a_run(page, vue):
    opened(page, "chroma_hd", vue)
    comfy_page.wait_until_told(page, PRESET, "chroma-demo: recognised by the name chroma-demo.safetensors")
    comfy_page.wait_until_told(page, PRESET, "steps 20")
    page.locator('.chroma-curve svg[aria-label^="Sigmas: 20 steps"]').wait_for()
    choose(page, PRESET, "steps", 7)
    comfy_page.wait_until_told(page, PRESET, "steps 7: set by you")
    page.locator('.chroma-curve svg[aria-label^="Sigmas: 7 steps"]').wait_for()


@both
def test_presets_settings_are_dragged_to_the_sampler_which_shows_and_takes_them(page, server, vue):
    opened(page, "chroma_lora", vue, ChromaKSampler={"quality": "custom", "steps": 30, "seed": next(NEW_SEED)})
    page.evaluate(
        """() => {
            const preset = LiteGraph.createNode('ChromaPreset')
            app.rootGraph.add(preset)
            preset.pos = [20, 1000]
            app.rootGraph.nodes.find(node => node.type === 'ChromaDiffusionLoader').connect(0, preset, 0)
            app.canvas.ds.scale = 0.6
            app.canvas.ds.offset = [250, 250]
            app.canvas.setDirty(true, true)
        }"""
    )
    comfy_page.wait_until_told(page, PRESET, "steps 20")
    page.wait_for_timeout(500)  # until the nodes are drawn where they stand
    comfy_page.drag_link(page, PRESET, "settings", SAMPLER, "settings")
    prompt = comfy_page.prompt_of(page)
    kinds = {node["class_type"]: node for node in prompt.values()}
    source, slot = kinds[SAMPLER]["inputs"]["settings"]
    assert (prompt[source]["class_type"], slot) == (PRESET, 7)
    page.wait_for_function(
        "app.rootGraph.nodes.find(n => n.type === 'ChromaKSampler').widgets.find(w => w.name === 'steps').value === 20"
    )
    choose(page, PRESET, "steps", 3)
    comfy_page.wait_until_told(page, SAMPLER, "3 steps, cfg 3")  # before the run
    page.screenshot(path=dev.cache_dir() / "browser" / f"settings-link-{'vue' if vue else 'canvas'}.png")
    run(page, server)
    comfy_page.wait_until_told(page, SAMPLER, "3 steps, cfg 3: ")  # of the run
    choose(page, SAMPLER, "steps", 30)  # which the link overrules
    page.wait_for_function(STEPS_ARE, arg=3)
    choose(page, PRESET, "steps", 7)
    page.wait_for_function(STEPS_ARE, arg=7)
    assert value(page, SAMPLER, "quality") == "custom"


@both
def test_speed_shows_what_it_will_use_and_save_before_a_run(page, vue):
    opened(page, "chroma_lora", vue)
    page.evaluate(
        """() => {
            const speed = LiteGraph.createNode('ChromaSpeed')
            app.rootGraph.add(speed)
            speed.pos = [20, 1100]
            app.rootGraph.nodes.find(node => node.type === 'ChromaDiffusionLoader').connect(0, speed, 0)
        }"""
    )
    comfy_page.wait_until_told(page, "ChromaSpeed", "standard: chroma-demo, recognised by the name")
    comfy_page.wait_until_told(page, "ChromaSpeed", "22 prompts to compute instead of 40: about 1.8 times as fast")
    page.locator('.chroma-curve svg[aria-label^="Sigmas: 11 steps"]').wait_for()
    choose(page, "ChromaSpeed", "speed", "times as fast")
    comfy_page.wait_until_told(page, "ChromaSpeed", "20 prompts to compute instead of 40: about 2.0 times as fast")
    choose(page, "ChromaSpeed", "speed.times", 1.2)
    comfy_page.wait_until_told(page, "ChromaSpeed", "about 1.2 times as fast: chroma-demo")
    page.evaluate("app.canvas.ds.scale = 1; app.canvas.ds.offset = [100, -900]; app.canvas.setDirty(true, true)")
    comfy_page.until_still(page)
    page.screenshot(path=dev.cache_dir() / "browser" / f"speed-{'vue' if vue else 'canvas'}.png")


@both
def test_choice_fills_the_values_and_a_changed_value_chooses_custom(page, server, vue):
    opened(page, "chroma_lora", vue)
    choose(page, SAMPLER, "quality", "draft")
    comfy_page.wait_until_told(page, SAMPLER, "draft: chroma-demo, recognised")
    page.wait_for_function(
        "app.rootGraph.nodes.find(n => n.type === 'ChromaKSampler').widgets.find(w => w.name === 'steps').value === 6"
    )
    assert (value(page, SAMPLER, "cfg"), value(page, SAMPLER, "sampler")) == (3, "chroma_sigma_2m")
    told = comfy_page.told_by(page, SAMPLER)[0]
    assert "6 steps, cfg 3, chroma_sigma_2m" in told
    choose(page, SAMPLER, "steps", 4)
    page.wait_for_function(
        "app.rootGraph.nodes.find(n => n.type === 'ChromaKSampler').widgets.find(w => w.name === 'quality').value === 'custom'"
    )
    assert value(page, SAMPLER, "cfg") == 3
    comfy_page.until(page, lambda: comfy_page.told_by(page, SAMPLER)[0].startswith("expected: "))
    assert comfy_page.told_by(page, SAMPLER)[0].startswith("expected: ")  # nothing of the choice
    choose(page, SAMPLER, "quality", "flash")
    comfy_page.wait_until_told(page, SAMPLER, "ERROR: quality is flash, and the model is chroma-demo")


@both
def test_value_changed_just_before_a_run_counts_and_comes_back_by_redo(page, vue):
    """The page looks at its widgets a few times a second, and may queue a run at once."""
    opened(page, "chroma_lora", vue, ChromaKSampler={"control_after_generate": "fixed"})
    page.wait_for_function(STEPS_ARE, arg=11)  # of the demo's standard
    comfy_page.until_still(page, comfy_page.TOLD_MS)
    queued = []
    taken = {"prompt_id": "not run", "number": 0, "node_errors": {}}
    page.route("**/api/prompt", lambda route: (queued.append(route.request.post_data_json), route.fulfill(json=taken)))
    page.evaluate(
        """async () => {
            const { changeTracker } = app.extensionManager.workflow.activeWorkflow
            changeTracker.captureCanvasState()
            app.rootGraph.nodes.find(n => n.type === 'ChromaKSampler').widgets.find(w => w.name === 'steps').value = 4
            changeTracker.captureCanvasState()  // as the page does when the value is there
            await app.queuePrompt(0)
        }"""
    )
    page.unroute("**/api/prompt")
    (inputs,) = [node["inputs"] for node in queued[0]["prompt"].values() if node["class_type"] == SAMPLER]
    assert (inputs["steps"], inputs["quality"]) == (4, "custom")
    for back, steps, quality in (("undo", 11, "standard"), ("redo", 4, "custom")):
        page.evaluate(f"app.extensionManager.workflow.activeWorkflow.changeTracker.{back}()")
        page.wait_for_function(STEPS_ARE, arg=steps)
        comfy_page.until_still(page, comfy_page.TOLD_MS)
        assert (value(page, SAMPLER, "steps"), value(page, SAMPLER, "quality")) == (steps, quality)


@both
def test_values_that_a_choice_fills_in_are_undone_with_it(page, vue):
    opened(page, "chroma_lora", vue)
    comfy_page.wait_until_told(page, SAMPLER, "expected: ")
    comfy_page.until_still(page, comfy_page.TOLD_MS)  # the node has room for what it tells
    before = value(page, SAMPLER, "steps")
    page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")
    choose(page, SAMPLER, "quality", "draft")
    page.wait_for_function(STEPS_ARE, arg=6)
    comfy_page.until_still(page, comfy_page.TOLD_MS)
    page.evaluate(
        "app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()"
    )  # as any click does
    page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    page.wait_for_function(STEPS_ARE, arg=before)
    assert value(page, SAMPLER, "quality") == "standard"


@both
def test_what_a_run_told_of_other_values_is_not_shown_again(page, server, vue):
    opened(page, "chroma_lora", vue, ChromaKSampler={"quality": "custom", "steps": 2, "seed": next(NEW_SEED)})
    run(page, server)
    comfy_page.wait_until_told(page, SAMPLER, "prompts computed")
    told = page.evaluate("app.rootGraph.serialize()")
    choose(page, SAMPLER, "steps", 5)
    comfy_page.until(page, lambda: "prompts computed" not in comfy_page.told_by(page, SAMPLER)[0])
    for workflow in (
        page.evaluate("app.rootGraph.serialize()"),
        told,
    ):  # as after undo, and a picture of an earlier run
        comfy_page.load(page, workflow)
        comfy_page.until_still(page, comfy_page.TOLD_MS)
        assert "prompts computed" not in comfy_page.told_by(page, SAMPLER)[0]


@both
def test_nodes_of_the_page_alone_are_seen_through(page, vue):
    """A primitive's value, and a node of another pack that passes on what stands elsewhere, as Set and Get do."""
    opened(page, "chroma_lora", vue)
    asked = page.evaluate(
        """async () => {
            class Virtual extends LiteGraph.LGraphNode {
                isVirtualNode = true
                constructor() { super(); this.addWidget('text', 'Constant', 'the model') }
                getInputLink() { throw new Error('a toast') }
                resolveVirtualOutput() { throw new Error('a toast') }
            }
            LiteGraph.registerNodeType('GetNode', class extends Virtual {})
            LiteGraph.registerNodeType('SetNode', class extends Virtual {})
            const [loader, sampler] = ['ChromaLoraLoader', 'ChromaKSampler'].map(t => app.rootGraph.nodes.find(n => n.type === t))
            const [get, set, primitive] = ['GetNode', 'SetNode', 'PrimitiveNode'].map(type => {
                const node = LiteGraph.createNode(type)
                app.rootGraph.add(node)
                return node
            })
            get.addOutput('MODEL', 'MODEL')
            set.addInput('MODEL', 'MODEL')
            loader.connect(0, set, 0)
            get.connect(0, sampler, sampler.inputs.findIndex(input => input.name === 'model'))
            primitive.connect(0, sampler, sampler.inputs.findIndex(input => input.name === 'steps'))
            primitive.widgets[0].value = 17
            const { graphOf } = await import('/extensions/chroma-pack/js/graph_query.js')
            const { graph, node } = graphOf(sampler)
            const { inputs } = graph[node]
            const asked = [inputs.steps, graph[inputs.model[0]].class_type]
            primitive.widgets[0].value = undefined  // as of a menu without files
            set.widgets[0].value = 'another'
            const { inputs: none } = graphOf(sampler).graph[graphOf(sampler).node]
            return [...asked, 'model' in none]
        }"""
    )
    assert asked == [17, "ChromaLoraLoader", False]


@both
@pytest.mark.own_page
def test_a_server_that_does_not_answer_is_asked_ever_less_often(visit, vue):
    with visit() as (page, _):
        opened(page, "chroma_lora", vue)
        comfy_page.wait_until_told(page, SAMPLER, "expected: ")
        asked = []
        for path in ("settings", "prompt"):
            page.route(
                f"**/chroma/{path}",
                lambda route: (asked.append(route.request.url), route.fulfill(status=502, body="<html>")),
            )
        choose(page, SAMPLER, "quality", "draft")
        page.wait_for_timeout(5000)  # in which it would be asked sixteen times
        assert 2 <= len(asked) <= 4
        page.unroute_all()
        page.evaluate("import('/scripts/api.js').then(({ api }) => api.dispatchCustomEvent('reconnected'))")
        comfy_page.wait_until_told(page, SAMPLER, "draft: chroma-demo, recognised")


@both
@pytest.mark.own_page
def test_answer_that_comes_after_another_choice_does_not_count(page, vue):
    opened(page, "chroma_lora", vue)
    comfy_page.wait_until_told(page, SAMPLER, "expected: ")
    held = []
    page.route("**/chroma/settings", lambda route: held.append(route) if not held else route.continue_())
    with page.expect_request("**/chroma/settings"):
        choose(page, SAMPLER, "quality", "quality")
    choose(page, SAMPLER, "quality", "draft")  # while the answer on the first is on its way
    held[0].continue_()
    comfy_page.wait_until_told(page, SAMPLER, "draft: chroma-demo, recognised")
    assert (value(page, SAMPLER, "steps"), value(page, SAMPLER, "quality")) == (6, "draft")


@both
def test_what_was_shown_before_is_what_the_run_takes(page, server, vue):
    opened(page, "chroma_lora", vue, ChromaKSampler={"quality": "draft", "seed": next(NEW_SEED)})
    comfy_page.wait_until_told(page, SAMPLER, "6 steps, cfg 3, chroma_sigma_2m")
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    comfy_page.wait_until_told(page, SAMPLER, "6 steps, cfg 3: ")  # of the run
    (text,) = comfy_page.told_by(page, SAMPLER)
    assert "draft: chroma-demo, recognised by" in text and "12 prompts computed" in text
    comfy_page.until_still(page, comfy_page.TOLD_MS)
    assert comfy_page.told_by(page, SAMPLER) == [text]  # it stays


DOCTOR = "ChromaDoctor"


@both
def test_doctors_finding_goes_to_its_node_and_applies_the_value_with_undo(page, server, vue):
    opened(
        page, "chroma_lora", vue, ChromaKSampler={"cfg": 40.0, "steps": 1, "quality": "custom", "seed": next(NEW_SEED)}
    )
    comfy_page.put(page, {"EmptySD3LatentImage": {"width": 128, "height": 128}})
    page.evaluate(
        "(doctor => { app.rootGraph.add(doctor); doctor.pos = [20, 1100]; doctor.size = [400, 300] })(LiteGraph.createNode('ChromaDoctor'))"
    )
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    comfy_page.wait_until_told(page, DOCTOR, "cfg 40")
    page.evaluate("app.canvas.ds.scale = 0.7; app.canvas.ds.offset = [100, -700]; app.canvas.setDirty(true, true)")
    comfy_page.until_still(page)
    report = page.locator(".chroma-report").filter(has_text="findings")
    line = report.locator(".line").filter(has_text="Set cfg to 3").first
    line.scroll_into_view_if_needed()
    page.screenshot(path=dev.cache_dir() / "browser" / f"doctor-{'vue' if vue else 'canvas'}.png")
    line.get_by_role("button", name="Apply").click()
    assert value(page, SAMPLER, "cfg") == 3
    line.get_by_text("Applied").wait_for()
    page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    page.wait_for_function(
        "app.rootGraph.nodes.find(n => n.type === 'ChromaKSampler')?.widgets.find(w => w.name === 'cfg').value === 40"
    )
    page.evaluate("app.canvas.ds.scale = 0.7; app.canvas.ds.offset = [100, -700]; app.canvas.setDirty(true, true)")
    report.locator("button.go").first.click()
    chosen = page.evaluate("[...app.canvas.selectedItems].map(node => node.type)")
    assert chosen == [SAMPLER]


@both
def test_a_loader_shows_before_a_run_what_a_wrong_file_is(page, server, vue):
    opened(page, "chroma_lora", vue)
    loader = "ChromaDiffusionLoader"
    choose(page, loader, "unet_name", demo_files.FLUX)
    comfy_page.wait_until_told(page, loader, f"ERROR: {demo_files.FLUX}: has no distilled_guidance_layer.* tensors")
    choose(page, loader, "unet_name", DEMO[loader]["unet_name"])
    page.wait_for_function(
        """type => !app.rootGraph.nodes.find(node => node.type === type).widgets
            .find(widget => widget.name === 'chroma_report').element.textContent.includes('ERROR')""",
        arg=loader,
    )


@both
def test_choice_on_a_subgraphs_node_fills_its_numbers(page, server, vue):
    opened(page, "chroma_text_to_image", vue)
    outer = "app.rootGraph.nodes.find(n => n.subgraph).widgets.find(w => w.name === '{}').value"
    page.wait_for_function(f"{outer.format('steps')} === 11 && {outer.format('cfg')} === 3")  # the demo's standard
    page.evaluate(f"{outer.format('quality')} = 'draft'")
    page.wait_for_function(f"{outer.format('steps')} === 6")
    page.evaluate(f"{outer.format('steps')} = 5")
    page.wait_for_function(f"{outer.format('quality')} === 'custom'")


# --- before a run ----------------------------------------------------------------------------------------------------

COSTS = dev.load_pack("advice.run_costs")


def costs_file():
    return dev.base_dir() / "user" / "__chroma_pack" / "run_costs.json"


def run(page, server):
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)


@both
def test_time_and_memory_are_told_before_a_run_from_what_ran_here(page, server, vue):
    costs_file().unlink(missing_ok=True)
    opened(page, "chroma_lora", vue, ChromaKSampler={"quality": "custom", "steps": 4, "seed": next(NEW_SEED)})
    comfy_page.put(page, {"EmptySD3LatentImage": {"width": 128, "height": 128}})
    comfy_page.wait_until_told(
        page, SAMPLER, "once loaded, guessed from the model's size for its first run here: 4 steps"
    )
    run(page, server)
    comfy_page.wait_until_told(page, SAMPLER, "s a step")  # of the run
    (cost,) = COSTS.read(costs_file())
    assert (cost.work.width, cost.work.steps, cost.prompts) == (128, 4, 2)
    choose(page, SAMPLER, "steps", 8)
    told = COSTS.expected(dataclasses.replace(cost.work, steps=8), [cost])
    assert "once loaded, as before: 8 steps of " in told and " GB of memory" in told
    comfy_page.wait_until_told(page, SAMPLER, told)  # by the run's own seconds
    page.evaluate("app.canvas.ds.scale = 1; app.canvas.ds.offset = [-700, 0]; app.canvas.setDirty(true, true)")
    comfy_page.until_still(page)
    page.screenshot(path=dev.cache_dir() / "browser" / f"before-run-{'vue' if vue else 'canvas'}.png")
    for side in ("width", "height"):
        choose(page, "EmptySD3LatentImage", side, 256)
    comfy_page.wait_until_told(page, SAMPLER, "estimated from 128 x 128: 8 steps of ")
    costs_file().write_text("{ damaged")
    choose(page, SAMPLER, "steps", 7)
    comfy_page.wait_until_told(page, SAMPLER, "for its first run here: 7 steps")
    run(page, server)
    assert [one.work.steps for one in COSTS.read(costs_file())] == [7]


@both
def test_studio_tells_before_a_run_what_its_sampler_takes(page, server, vue):
    opened(page, "chroma_studio", vue)
    comfy_page.put(page, {"ChromaStudio": {"seed": next(NEW_SEED)}})
    comfy_page.wait_until_told(page, "ChromaStudio", "standard: chroma-demo, recognised by the name")
    choose(page, "ChromaStudio", "quality", "draft")
    comfy_page.wait_until_told(page, "ChromaStudio", "draft: chroma-demo, recognised by the name")
    comfy_page.wait_until_told(page, "ChromaStudio", "expected: ")
    choose(page, "ChromaStudio", "quality", "flash")
    comfy_page.wait_until_told(page, "ChromaStudio", "ERROR: quality is flash, and the model is chroma-demo")


@both
def test_size_is_shown_before_a_run_and_is_what_is_painted(page, server, vue):
    opened(page, "chroma_lora", vue, ChromaKSampler={"quality": "custom", "steps": 2, "seed": next(NEW_SEED)})
    page.evaluate(
        """() => {
            const size = LiteGraph.createNode('ChromaSize')
            app.rootGraph.add(size)
            size.pos = [20, 1100]
            const latent = app.rootGraph.nodes.find(node => node.type === 'EmptySD3LatentImage')
            for (const [slot, name] of ['width', 'height'].entries())
                size.connect(slot, latent, latent.inputs.findIndex(input => input.name === name))
        }"""
    )
    comfy_page.wait_until_told(page, "ChromaSize", "1024 x 1024 pixels")
    choose(page, "ChromaSize", "size.ratio", "3:2")
    choose(page, "ChromaSize", "size.area", "small")
    comfy_page.wait_until_told(
        page, "ChromaSize", "640 x 416 pixels, as many as 516 x 516Chroma1-HD is good for 512 to 1152"
    )
    comfy_page.wait_until_told(page, SAMPLER, "expected: ")  # it knows the size
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    page.wait_for_function("app.rootGraph.nodes.find(n => n.type === 'SaveImage').imgs?.[0]?.naturalWidth === 640")
    assert COSTS.read(costs_file())[-1].work.width == 640
    choose(page, "ChromaSize", "size", "Kontext's sizes")
    comfy_page.wait_until_told(page, "ChromaSize", "1024 x 1024 pixels, as many as 1024 x 1024")
