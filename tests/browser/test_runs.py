"""What nodes tell of real runs: of what is computed, cached, refused and failed; in subgraphs, other tabs and after a reload."""

import itertools
import json
import re

import pytest
import support
from browser import comfy_page, demo_files
from browser.swap import DEMO

pytestmark = [pytest.mark.browser, pytest.mark.host]

dev = support.dev
# The demo as 0.1.0 had it: Chroma Padding tells of a run alone, where Chroma Text Encode tells while one types.
PADDED = support.ROOT / "tests" / "old_graphs" / "ours" / "0.1.0" / "demo_text_to_image.json"
SUBGRAPH = support.ROOT / "example_workflows" / "chroma_text_to_image.json"
LOADER = "ChromaDiffusionLoader"
NEW_SEED = itertools.count(880_000)
both = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])


def load_demo(page, path=PADDED, **rows):
    comfy_page.load_new(page, json.loads(path.read_text()))
    comfy_page.put(page, {**DEMO, **rows})


def set_widget(page, node_type, name, value):
    page.evaluate(
        """([type, name, value]) => {
            for (const node of app.rootGraph.nodes.filter(node => node.type === type))
                node.widgets.find(widget => widget.name === name).value = value
        }""",
        [node_type, name, value],
    )


def run(page, server):
    """Presses Run; gives the nodes that came out of the server's cache."""
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    return [node for kind, data in entry["status"]["messages"] if kind == "execution_cached" for node in data["nodes"]]


@both
@pytest.mark.own_page
def test_report_of_a_run_outlives_the_cache_a_reload_and_other_tabs(page, server, vue):
    comfy_page.use_vue_nodes(page, vue)
    load_demo(page, ChromaDiffusionLoader={"unet_name": "chroma-demo.safetensors", "quant_mode": ["fp16", "bf16"][vue]})
    comfy_page.put(page, {"KSampler": {"seed": next(NEW_SEED), "steps": 2}})
    server.free()
    assert run(page, server) == []
    comfy_page.wait_until_told(page, "ChromaDiffusionLoader", "13.1 M parameters")
    (first,) = comfy_page.told_by(page, "ChromaDiffusionLoader")
    assert page.get_by_text(re.compile("^Chroma, 13.1 M parameters")).is_visible()
    comfy_page.put(page, {"KSampler": {"seed": next(NEW_SEED)}})
    assert run(page, server)  # the loader among them
    assert comfy_page.told_by(page, "ChromaDiffusionLoader") == [first]

    name = page.evaluate("app.extensionManager.workflow.activeWorkflow.filename")
    page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("app.rootGraph.nodes.length === 0")
    page.get_by_text(name, exact=True).click()
    page.wait_for_function("app.rootGraph.nodes.length > 3")
    comfy_page.wait_until_told(page, "ChromaDiffusionLoader", "13.1 M parameters")
    assert comfy_page.told_by(page, "ChromaDiffusionLoader") == [first]
    page.get_by_text(re.compile("^Chroma, 13.1 M parameters")).wait_for()

    page.wait_for_timeout(1500)  # the front end keeps the open workflows a moment later, and no sign tells it
    page.reload()
    page.wait_for_function(comfy_page.READY)
    page.wait_for_function("app.rootGraph.nodes.length > 3")
    comfy_page.wait_until_told(page, "ChromaDiffusionLoader", "13.1 M parameters")
    assert comfy_page.told_by(page, "ChromaDiffusionLoader") == [first]


@both
def test_report_of_a_node_in_a_subgraph_is_on_the_inner_node(page, server, vue):
    comfy_page.use_vue_nodes(page, vue)
    load_demo(page, SUBGRAPH)
    page.evaluate(
        """seed => {
            const inner = [...app.rootGraph.subgraphs.values()][0]
            for (const node of inner.nodes) for (const widget of node.widgets ?? [])
                if (widget.name === 'width' || widget.name === 'height') widget.value = 128
            const outer = app.rootGraph.nodes.find(node => node.subgraph)
            for (const widget of outer.widgets)
                if (widget.name in seed) widget.value = seed[widget.name]
        }""",
        {"width": 128, "height": 128, "steps": 2, "quality": "custom", "seed": next(NEW_SEED)},
    )
    server.free()
    run(page, server)
    comfy_page.wait_until_told(page, "ChromaKSampler", "prompts computed")
    page.evaluate(
        "(node => app.canvas.openSubgraph(node.subgraph, node))(app.rootGraph.nodes.find(node => node.subgraph))"
    )
    page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.get_by_text(re.compile("prompts computed in")).filter(visible=True).first.wait_for()
    counts = page.get_by_text(re.compile(r"of 512 tokens")).filter(
        visible=True
    )  # the outer node has them too, not seen now
    counts.nth(1).wait_for()  # each prompt's, which the page may draw later
    assert counts.count() == 2


def test_report_is_shown_in_the_tab_and_the_workflow_that_queued_it(visit, server):
    with visit() as (page, errors), visit() as (other, _):
        for each in (page, other):
            load_demo(each)
        comfy_page.put(page, {"KSampler": {"seed": next(NEW_SEED)}, "CLIPTextEncode": {"text": "a yellow ring"}})
        run(page, server)
        comfy_page.wait_until_told(page, "ChromaPadMask", "tokens")
        comfy_page.until_still(other, comfy_page.TOLD_MS)
        assert set(comfy_page.told_by(other, "ChromaPadMask")) == {""}

        node = page.evaluate("app.rootGraph.nodes.find(node => node.type === 'ChromaPadMask').id")
        comfy_page.tell(page, str(node), "of another workflow", workflow="00000000-1111-4222-8333-555555555555")
        assert not any("another workflow" in text for text in comfy_page.told_by(page, "ChromaPadMask"))
        workflow = page.evaluate("app.rootGraph.serialize()")
        comfy_page.load(page, {**workflow, "id": "00000000-1111-4222-8333-555555555555"})
        comfy_page.wait_until_told(page, "ChromaPadMask", "of another workflow")
        assert errors == []


def failed_run(page, server):
    """Presses Run; waits for the failure."""
    assert server.wait(comfy_page.press_run(page))["status"]["status_str"] == "error"


@both
def test_error_stands_on_the_node_that_failed_in_red(page, server, vue):
    comfy_page.use_vue_nodes(page, vue)
    load_demo(page)
    comfy_page.put(page, {"KSampler": {"seed": next(NEW_SEED)}})
    server.free()
    run(page, server)
    comfy_page.wait_until_told(page, "ChromaDiffusionLoader", "13.1 M parameters")
    comfy_page.wait_until_told(page, "ChromaPadMask", "tokens")
    set_widget(page, "ChromaDiffusionLoader", "unet_name", demo_files.MODULATOR)
    failed_run(page, server)
    comfy_page.wait_until_told(page, "ChromaDiffusionLoader", "ERROR: ")
    (text,) = comfy_page.told_by(page, "ChromaDiffusionLoader")
    assert demo_files.MODULATOR in text and "Approximator" in text
    assert "13.1 M" not in text
    head = page.locator(".chroma-report .panel.error .head").first
    red, green, blue = comfy_page.colour(head)
    assert red > max(green, blue) + 40
    assert head.is_visible()


@both
def test_error_of_a_linked_choice_stands_on_its_node(page, server, vue):
    comfy_page.use_vue_nodes(page, vue)
    load_demo(page)
    set_widget(page, "KSampler", "seed", next(NEW_SEED))
    page.evaluate(
        """() => {  // a guidance whose list of values has no number
            const loader = app.rootGraph.nodes.find(node => node.type === 'ChromaDiffusionLoader')
            const sampler = app.rootGraph.nodes.find(node => node.type === 'KSampler')
            const patch = LiteGraph.createNode('ChromaGuidance')
            app.rootGraph.add(patch)
            const curve = patch.widgets.find(widget => widget.name === 'curve')
            curve.value = 'list'
            curve.callback?.('list')
            patch.widgets.find(widget => widget.name === 'curve.values').value = 'one, two'
            loader.connect(0, patch, 0)
            patch.connect(0, sampler, 0)
        }"""
    )
    failed_run(page, server)
    comfy_page.wait_until_told(page, "ChromaGuidance", "ERROR: ")


@both
def test_refused_prompt_is_told_on_the_node(visit, server, vue):
    with visit() as (page, _):  # its console tells of the refused prompt
        comfy_page.use_vue_nodes(page, vue)
        load_demo(page)
        comfy_page.put(page, {"KSampler": {"seed": next(NEW_SEED)}})
        run(page, server)
        comfy_page.wait_until_told(page, "ChromaPadMask", "tokens")
        set_widget(page, "ChromaDiffusionLoader", "quant_mode", "thin air")
        page.get_by_test_id("queue-button").click()
        comfy_page.wait_until_told(page, "ChromaDiffusionLoader", "ERROR: precision 'thin air' is not known")
        assert all("token" in text for text in comfy_page.told_by(page, "ChromaPadMask"))  # of the run before


def test_refusal_in_another_workflow_leaves_what_this_one_told(visit, server):
    with visit() as (page, _):
        load_demo(page)
        comfy_page.put(page, {"KSampler": {"seed": next(NEW_SEED)}})
        first = page.evaluate("app.rootGraph.serialize()")
        run(page, server)
        comfy_page.wait_until_told(page, LOADER, "M parameters")
        load_demo(page)  # a workflow of its own, with nodes of the same ids
        set_widget(page, LOADER, "quant_mode", "thin air")
        page.get_by_test_id("queue-button").click()
        comfy_page.wait_until_told(page, LOADER, "ERROR: precision 'thin air' is not known")
        comfy_page.load(page, first)
        comfy_page.wait_until_told(page, LOADER, "M parameters")


@both
def test_what_comes_from_the_cache_is_told_until_it_is_made_anew(page, server, vue):
    """Also what came after its node, such as a guider's; unless the run was stopped before it."""
    hd(page, vue)
    set_widget(page, "RandomNoise", "control_after_generate", "fixed")
    run(page, server)
    guider_report(page)
    (loaded,), (guided,) = (comfy_page.told_by(page, kind) for kind in (LOADER, "ChromaCFGGuider"))
    set_widget(page, "SaveImage", "filename_prefix", f"again-{next(NEW_SEED)}")
    assert len(run(page, server)) > 5
    comfy_page.until_still(page, comfy_page.TOLD_MS)
    assert comfy_page.told_by(page, "ChromaCFGGuider") == [guided]
    set_widget(page, "ChromaPreset", "steps", 900)
    page.evaluate(NEW_NOISE, next(NEW_SEED))
    prompt = comfy_page.press_run(page)
    page.wait_for_function("document.title.includes('%')")
    server.post("/interrupt", {})
    assert server.wait(prompt)["status"]["status_str"] == "error"
    comfy_page.until_still(page, comfy_page.TOLD_MS)
    assert comfy_page.told_by(page, LOADER) == [loaded]


@both
def test_speed_tells_what_a_run_took_though_the_node_comes_from_the_cache(page, server, vue):
    comfy_page.use_vue_nodes(page, vue)
    load_demo(page)
    page.evaluate(
        """() => {
            const [loader, sampler] = ['ChromaDiffusionLoader', 'KSampler'].map(type => app.rootGraph.nodes.find(n => n.type === type))
            const speed = LiteGraph.createNode('ChromaSpeed')
            app.rootGraph.add(speed)
            speed.pos = [0, 800]
            loader.connect(0, speed, 0)
            speed.connect(0, sampler, 0)
        }"""
    )
    for _ in range(2):
        set_widget(page, "KSampler", "seed", next(NEW_SEED))
        run(page, server)
        comfy_page.until_still(page, comfy_page.TOLD_MS)
        assert "prompts computed in" in comfy_page.told_by(page, "ChromaSpeed")[0]


def test_damaged_storage_of_the_browser_costs_its_reports_alone(visit, server):
    with visit() as (page, errors):
        for storage in ("sessionStorage", "localStorage"):
            page.evaluate(
                f"for (const name of ['reports', 'prompts', 'parts']) {storage}.setItem('chroma.' + name, '{{1')"
            )
        page.reload()
        page.wait_for_function(comfy_page.READY)
        load_demo(page)
        comfy_page.put(page, {"KSampler": {"seed": next(NEW_SEED)}})
        run(page, server)
        comfy_page.wait_until_told(page, LOADER, "M parameters")
        assert errors == []


# --- what else is told of runs ---------------------------------------------------------------------------------------


def load_doctor(page, vue):
    """The demo's graph with a Doctor beside it."""
    comfy_page.use_vue_nodes(page, vue)
    load_demo(page)
    set_widget(page, "KSampler", "seed", next(NEW_SEED))
    page.evaluate(
        "(doctor => { app.rootGraph.add(doctor); doctor.pos = [0, 800] })(LiteGraph.createNode('ChromaDoctor'))"
    )


@both
@pytest.mark.parametrize("muted", ["ChromaDiffusionLoader", "KSampler"])
def test_doctor_names_the_muted_node_that_keeps_everything_from_being_painted(visit, server, vue, muted):
    with visit() as (page, _):  # its console tells of the refused output
        load_doctor(page, vue)
        title = page.evaluate(
            "type => (node => { node.mode = 2; return node.title })(app.rootGraph.nodes.find(n => n.type === type))",
            muted,
        )
        comfy_page.press_run(page)
        comfy_page.wait_until_told(page, "ChromaDoctor", "nothing is painted")
        (told,) = comfy_page.told_by(page, "ChromaDoctor")
        assert f"{title} (node " in told and "muted, so no sampler reaches an output" in told
        assert page.locator(".chroma-report .error .head, .chroma-report .line.error .head").first.is_visible()


@both
def test_encoder_and_doctor_warn_of_a_prompt_that_t5_cannot_read(page, server, vue):
    load_doctor(page, vue)
    page.evaluate(
        """() => {
            const [prompt] = app.rootGraph.nodes.filter(node => node.type === 'CLIPTextEncode')
            const encode = LiteGraph.createNode('ChromaTextEncode')
            app.rootGraph.add(encode)
            encode.pos = [0, 1100]
            const clip = app.rootGraph.nodes.find(node => node.type === 'CLIPLoader')
            const sampler = app.rootGraph.nodes.find(node => node.type === 'KSampler')
            clip.connect(0, encode, 0)
            encode.connect(0, sampler, 1)
            encode.widgets.find(widget => widget.name === 'text').value = '雪中的红狐狸 <lora:fox:1>'
        }"""
    )
    run(page, server)
    comfy_page.wait_until_told(page, "ChromaTextEncode", "T5 does not know the characters")
    (told,) = comfy_page.told_by(page, "ChromaTextEncode")
    assert "write English" in told and "hint: “<lora:fox:1>”" in told
    comfy_page.wait_until_told(page, "ChromaDoctor", "a prompt that T5 cannot read")
    assert "“<lora:fox:1>” in the prompt" in comfy_page.told_by(page, "ChromaDoctor")[0]


@both
def test_interrupted_run_tells_the_steps_that_were_done(page, server, vue):
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load_new(page, json.loads(SUBGRAPH.with_stem("chroma_lora").read_text()))
    comfy_page.put(page, {**DEMO, "ChromaKSampler": {"steps": 900, "quality": "custom", "seed": next(NEW_SEED)}})
    prompt = comfy_page.press_run(page)
    page.wait_for_function(
        "app.rootGraph.nodes.find(node => node.type === 'ChromaKSampler').progress > 0.003", timeout=90_000
    )
    server.post("/interrupt", {})
    server.wait(prompt)
    comfy_page.wait_until_told(page, "ChromaKSampler", "stopped before its end")
    (told,) = comfy_page.told_by(page, "ChromaKSampler")
    found = re.match(r"[\d.]+ s, [\d.]+ s a step\n?stopped before its end: (\d+) of (\d+) steps are done", told)
    assert found and 0 < int(found[1]) < int(found[2]) > 500, (
        told
    )  # what the seconds count: tests/samplers/test_run_record.py


@both
def test_one_node_sampler_warns_of_what_it_is_set_to(page, server, vue):
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load_new(page, json.loads(SUBGRAPH.with_stem("chroma_lora").read_text()))
    size = {"width": 16, "height": 512}
    row = {"steps": 2, "cfg": 100, "skip_first_steps": 40, "quality": "custom", "seed": next(NEW_SEED)}
    comfy_page.put(page, {**DEMO, "ChromaKSampler": row, "EmptySD3LatentImage": size})
    run(page, server)
    comfy_page.wait_until_told(page, "ChromaKSampler", "prompts computed")
    (told,) = comfy_page.told_by(page, "ChromaKSampler")
    for title in ("DOES HARM: cfg 100", "DOES NOTHING: skip first steps 40 of 2", "HINT: 16 x 512 is a strip"):
        assert title in told


@both
def test_missing_negative_is_told_before_a_file_is_read(page, server, vue):
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load_new(page, json.loads(SUBGRAPH.with_stem("chroma_lora").read_text()))
    comfy_page.put(page, {**DEMO, "ChromaKSampler": {"steps": 2, "quality": "custom", "seed": next(NEW_SEED)}})
    page.evaluate("app.rootGraph.nodes.find(n => n.type === 'ChromaKSampler').disconnectInput(3)")
    server.free()
    failed_run(page, server)
    comfy_page.wait_until_told(page, "ChromaKSampler", "ERROR: cfg is 3.5 and there is no negative prompt. Connect one")
    assert comfy_page.told_by(page, "ChromaDiffusionLoader") == [""]


# --- a guider's reports reach the node of the run ----------------------------------------------------------------------


def hd(page, vue):
    """The workflow with guider, scheduler and sampler apart, small."""
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load_new(page, json.loads(SUBGRAPH.with_stem("chroma_hd").read_text()))
    small = {"ChromaPreset": {"width": 128, "height": 128, "steps": 2}, "RandomNoise": {"noise_seed": next(NEW_SEED)}}
    comfy_page.put(page, {**DEMO, **small})


def guider_report(page):
    comfy_page.wait_until_told(page, "ChromaCFGGuider", "prompts computed")
    types = page.evaluate(
        """() => [app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap(graph => graph.nodes)
            .filter(n => n.widgets?.find(w => w.name === 'chroma_report')?.element.textContent.includes('prompts computed'))
            .map(n => n.type)"""
    )
    assert {kind for kind in types if kind in LEAVES} == {"ChromaCFGGuider"}


LEAVES = ("ChromaCFGGuider", "VAEDecode", "SamplerCustomAdvanced", "ChromaPreset", "RandomNoise", "SaveImage")
NEW_NOISE = """seed => {
    for (const graph of [app.rootGraph, ...app.rootGraph.subgraphs.values()])
        for (const node of graph.nodes) if (node.type === 'RandomNoise') node.widgets[0].value = seed
}"""
CHANGES = {
    "exchanged ids": """() => {
        const workflow = app.rootGraph.serialize()
        const [a, b] = ['ChromaCFGGuider', 'VAEDecode'].map(type => workflow.nodes.find(node => node.type === type).id)
        const other = id => (id === a ? b : id === b ? a : id)
        for (const node of workflow.nodes) node.id = other(node.id)
        for (const link of workflow.links) [link[1], link[3]] = [other(link[1]), other(link[3])]
        return app.loadGraphData(workflow)
    }""",
    "cloned and deleted": """() => {
        const old = app.rootGraph.nodes.find(node => node.type === 'ChromaCFGGuider')
        const copy = old.clone()
        app.rootGraph.add(copy)
        old.inputs.forEach((input, slot) => {
            if (input.link != null) old.getInputNode(slot).connect(app.rootGraph.links.get(input.link).origin_slot, copy, slot)
        })
        for (const link of old.outputs[0].links.map(id => app.rootGraph.links.get(id)))
            copy.connect(0, app.rootGraph.getNodeById(link.target_id), link.target_slot)
        app.rootGraph.remove(old)
    }""",
    "in a subgraph": """() => {
        const types = ['ChromaCFGGuider', 'SamplerCustomAdvanced', 'RandomNoise']
        app.rootGraph.convertToSubgraph(new Set(app.rootGraph.nodes.filter(node => types.includes(node.type))))
    }""",
    "another workflow": """() => {
        const workflow = app.rootGraph.serialize()
        workflow.id = '00000000-1111-4222-8333-666666666666'
        return app.loadGraphData(workflow)
    }""",
}


@both
@pytest.mark.parametrize("change", CHANGES)
def test_report_of_a_guider_from_the_cache_is_on_the_guider_of_this_run(page, server, vue, change):
    hd(page, vue)
    run(page, server)
    guider_report(page)
    page.evaluate(CHANGES[change])
    page.evaluate(NEW_NOISE, next(NEW_SEED))
    run(page, server)
    guider_report(page)


@both
def test_nodes_tell_in_a_second_tab_of_its_run_from_the_cache_or_not(visit, server, vue):
    with visit() as (page, _), visit() as (other, _):
        for each in (page, other):
            hd(each, vue)
            each.evaluate(NEW_NOISE, 7 + vue)
        run(page, server)
        assert run(other, server)  # all from the cache
        for kind, text in {"ChromaDiffusionLoader": "13.1 M parameters", "ChromaPreset": "steps 2"}.items():
            comfy_page.wait_until_told(other, kind, text)
        (before,) = comfy_page.told_by(page, "ChromaCFGGuider")
        other.evaluate(NEW_NOISE, next(NEW_SEED))
        cached = run(other, server)
        guider = other.evaluate("String(app.rootGraph.nodes.find(node => node.type === 'ChromaCFGGuider').id)")
        assert guider in cached  # it was made for the first tab
        guider_report(other)
        assert "prompts computed" in before and comfy_page.told_by(page, "ChromaCFGGuider") == [before]
