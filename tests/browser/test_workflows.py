"""The example workflows in ComfyUI's own page: loaded, run, dropped back as a picture, offered as templates."""

import io
import json
import re
import shutil
import time

import numpy as np
import pytest
import support
from browser import comfy_page, demo_files
from browser.swap import DEMO, with_demo_files

from tools.batching.workflow import api_graph

Image = pytest.importorskip("PIL.Image")

pytestmark = [pytest.mark.browser, pytest.mark.host]

dev = support.dev
PACK = "chroma-pack"
WORKFLOWS = sorted((support.ROOT / "example_workflows").glob("*.json"))
FIRST = support.ROOT / "example_workflows" / "chroma_text_to_image.json"  # the one that people try first
BLUEPRINTS = sorted((support.ROOT / "subgraphs").glob("*.json"))


def workflow(path=FIRST):
    return json.loads(path.read_text())


def pixels(data):
    return np.asarray(Image.open(data).convert("RGB")).astype(int)


def fetch(url):
    with dev.OPENER.open(url, timeout=30) as answer:
        return answer.read()


def picture_of(server, prompt_id):
    """Address and pixels of the one picture that a prompt saved; and the nodes that came out of the cache."""
    entry = server.wait(prompt_id)
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    (image,) = [image for output in entry["outputs"].values() for image in output.get("images", [])]
    url = "{}/view?filename={filename}&subfolder={subfolder}&type={type}".format(server.url, **image)
    cached = [
        node for kind, data in entry["status"]["messages"] if kind == "execution_cached" for node in data["nodes"]
    ]
    return url, pixels(io.BytesIO(fetch(url))), cached


def saved_by(server, prompt_id):
    """Pixels of all pictures that a prompt put into the output folder."""
    entry = server.wait(prompt_id)
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    images = [image for output in entry["outputs"].values() for image in output.get("images", [])]
    folder = dev.base_dir() / "output"
    return [pixels(folder / i["subfolder"] / i["filename"]) for i in images if i["type"] == "output"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_loads_in_the_page_and_its_prompt_makes_a_picture(page, server, path):
    comfy_page.use_vue_nodes(page, False)
    comfy_page.load(page, workflow(path))
    assert comfy_page.unknown_types(page) == []
    assert sorted(comfy_page.node_types(page)) == sorted(node["type"] for node in workflow(path)["nodes"])
    pictures = [pixels(p) for p in server.run(with_demo_files(comfy_page.prompt_of(page)))]
    assert pictures
    assert all(p.std() > 1 for p in pictures)  # of 255; an empty picture has 0


SMALL_SCREEN = {"width": 1366, "height": 768}
READABLE = 0.571  # below this scale the page paints nodes as grey boxes without text
CONTRAST = 4.5  # of text and ground, WCAG's least


def luminance(colour):
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_template_can_be_read_on_a_small_screen(page, server, path, vue):
    """The whole of it fits at a scale at which text is painted, and no node lies on another."""
    page.set_viewport_size(SMALL_SCREEN)
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load(page, workflow(path))
    comfy_page.until_still(page, comfy_page.TOLD_MS)  # nodes of elements grow, and tell what they will do
    assert page.evaluate("app.canvas.ds.scale") >= READABLE  # as it opens
    page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    comfy_page.until_still(page)  # it moves there
    page.screenshot(path=dev.cache_dir() / "browser" / f"template-{path.stem}-{'vue' if vue else 'canvas'}.png")
    assert page.evaluate("app.canvas.ds.scale") >= READABLE
    assert comfy_page.overlapping(page) == []
    assert comfy_page.cut_notes(page) == []
    comfy_page.show_pictures(page, demo_files.PICTURE)
    comfy_page.until_still(page)
    page.screenshot(path=dev.cache_dir() / "browser" / f"painted-{path.stem}-{'vue' if vue else 'canvas'}.png")
    assert comfy_page.overlapping(page) == []  # as it is after a run


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_no_node_covers_another_once_all_have_told_what_they_did(page, server, path, vue):
    """Run on the demo's files; the reports make nodes taller."""
    page.set_viewport_size(SMALL_SCREEN)
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load_new(page, workflow(path))

    with comfy_page.queued_as(page, with_demo_files):
        entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    page.wait_for_function(
        """() => [app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap(graph => graph.nodes)
            .some(node => /\\d s, .* s a step/.test(node.widgets?.find(w => w.name === 'chroma_report')?.element.textContent))"""
    )
    comfy_page.until_still(page, comfy_page.TOLD_MS)  # the pictures come, and nodes of elements grow
    page.screenshot(path=dev.cache_dir() / "browser" / f"told-{path.stem}-{'vue' if vue else 'canvas'}.png")
    assert comfy_page.overlapping(page) == []


def test_file_names_in_notes_stand_out_from_their_ground_in_the_dark(page, server):
    comfy_page.use_vue_nodes(page, True)
    comfy_page.use(page, "Comfy.ColorPalette", "dark")
    comfy_page.load(page, workflow())
    name = page.locator("td strong").filter(has_text="safetensors").first
    name.wait_for()
    ground = page.evaluate_handle(
        """() => {
            let element = [...document.querySelectorAll('td strong')].find(e => e.textContent.includes('safetensors'))
            while (getComputedStyle(element).backgroundColor === 'rgba(0, 0, 0, 0)') element = element.parentElement
            return element
        }"""
    )

    def contrast():
        colours = (comfy_page.colour(*of) for of in ((name, "color"), (ground, "backgroundColor")))
        light, dark = sorted(map(luminance, colours), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    comfy_page.until(page, lambda: contrast() >= CONTRAST)  # the page may still be changing its colours
    assert contrast() >= CONTRAST


def bypassed(saved):
    """Every second LoRA, guidance or conditioning node bypassed: all that give what they take."""
    for node in saved["nodes"]:
        kinds = {entry["type"] for entry in node.get("inputs", ())}
        if kinds & {o["type"] for o in node.get("outputs", ())} and node["type"] != "KSampler":
            node["mode"] = 4


def muted(saved):
    """Text encoders and what is like them muted, of which their takers keep nothing."""
    for node in saved["nodes"]:
        if any(o["type"] in ("CONDITIONING", "INT", "FLOAT") for o in node.get("outputs", ())):
            node["mode"] = 2


def rerouted(saved):
    """A Reroute in each link of the outer graph."""
    number = max(node["id"] for node in saved["nodes"])
    link_number = max([0, *(link[0] for link in saved["links"])])
    nodes = {node["id"]: node for node in saved["nodes"]}
    for link, source, slot, target, place, kind in list(saved["links"]):
        number, link_number = number + 1, link_number + 1
        saved["nodes"].append(
            {
                "id": number,
                "type": "Reroute",
                "pos": [0, 0],
                "size": [75, 26],
                "flags": {},
                "order": 0,
                "mode": 0,
                "inputs": [{"name": "", "type": "*", "link": link}],
                "outputs": [{"name": "", "type": kind, "links": [link_number]}],
                "properties": {"showOutputText": False, "horizontal": False},
            }
        )
        saved["links"] = [entry for entry in saved["links"] if entry[0] != link]
        saved["links"] += [[link, source, slot, number, 0, kind], [link_number, number, 0, target, place, kind]]
        nodes[target]["inputs"][place]["link"] = link_number
    saved["last_node_id"], saved["last_link_id"] = number, link_number


CHANGES = [lambda saved: None, bypassed, muted, rerouted]


@pytest.mark.parametrize("path", [*dev.WORKFLOWS, *WORKFLOWS, *BLUEPRINTS], ids=lambda p: p.stem)
def test_a_workflow_is_converted_as_the_page_does_it(page, server, path):
    """As it is, and with nodes bypassed, muted and rerouted: all nodes, inputs, links and titles."""
    info = server.get("/object_info")
    for change in CHANGES:
        saved = workflow(path)
        change(saved)
        comfy_page.load(page, saved)
        theirs, ours = comfy_page.prompt_of(page), api_graph(saved, info)
        for key in ours.keys() & theirs.keys():
            assert ours[key] == theirs[key], (getattr(change, "__name__", ""), key, ours[key], theirs[key])
        assert ours.keys() == theirs.keys(), change


SUBGRAPH = "Chroma: text to image"  # the title of the first workflow's node that holds the others
SMALL = {"width": 128, "height": 128, "steps": 4, "quality": "custom"}


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
@pytest.mark.own_page
def test_run_button_makes_a_picture_that_the_page_shows(page, server, vue):
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load(page, workflow())
    text = f"a blue square on a white background, {vue}"  # new, so that no node comes out of the server's cache
    comfy_page.put(page, {**DEMO, SUBGRAPH: {**SMALL, "prompt": text}})
    server.free()  # so that the loader tells again what it loads
    _, picture, _ = picture_of(server, comfy_page.press_run(page))
    assert picture.shape == (128, 128, 3)
    page.wait_for_function("app.rootGraph.nodes.find(n => n.type === 'SaveImage').imgs?.[0]?.naturalWidth === 128")
    page.get_by_text(re.compile(r"Chroma, 13.1 M parameters")).first.wait_for()  # what the loader says on itself
    assert page.get_by_test_id("error-overlay").count() == 0
    assert (
        comfy_page.overlapping(page) == []
    )  # with the reports that have grown the nodes, those within the subgraph too


FILES = {name: DEMO["ChromaStudio"][f"{name}_name"] for name in ("unet", "clip", "vae")}
BLUEPRINT = {**SMALL, "steps": 2, "model": FILES["unet"], "text encoder": FILES["clip"], "vae": FILES["vae"]}
AGAIN = {  # what changes a graph that is queued several times: its values, and the pictures of one run
    FIRST: ({SUBGRAPH: SMALL}, 1),
    FIRST.with_stem("chroma_flash"): ({}, 1),
    FIRST.with_stem("chroma_compare"): ({"A: standard": {**SMALL, "steps": 2}, "B: draft": {**SMALL, "steps": 3}}, 2),
    FIRST.with_stem("chroma_prompt_list"): (
        {
            "ChromaPromptList": {"text": "a red circle", "repeats": 2},
            "ChromaKSampler": {"steps": 2, "quality": "custom"},
        },
        2,
    ),
    FIRST.with_stem("chroma_studio"): ({"ChromaStudio": {**DEMO["ChromaStudio"], "quality": "draft"}}, 1),
    **{path: ({workflow(path)["nodes"][0]["title"]: BLUEPRINT}, 1) for path in BLUEPRINTS},
}


@pytest.mark.parametrize("path", AGAIN, ids=lambda p: p.stem)
@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
@pytest.mark.own_page
def test_each_run_makes_another_picture(page, server, path, vue):
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load(page, workflow(path))
    values, count = AGAIN[path]
    if path in BLUEPRINTS:
        page.evaluate(
            """() => {
                const save = LiteGraph.createNode('SaveImage')
                app.rootGraph.add(save)
                app.rootGraph.nodes.find(node => node.subgraph).connect(0, save, 0)
            }"""
        )
    comfy_page.put(page, {**DEMO, **values})
    queued = []
    page.on("response", lambda answer: answer.url.endswith("/api/prompt") and queued.append(answer.json()["prompt_id"]))
    page.evaluate("app.queuePrompt(0, 2)")  # as with a batch count of two
    comfy_page.press_run(page)
    assert len(queued) == 3
    pictures = [picture for prompt in queued for picture in saved_by(server, prompt)]
    assert len(pictures) == 3 * count
    assert len({picture.tobytes() for picture in pictures}) == 3 * count


@pytest.mark.own_page
def test_templates_are_listed_with_pictures_and_open(page, server):
    names = [path.stem for path in WORKFLOWS]
    assert sorted(server.get("/workflow_templates")[PACK]) == names
    for name in names:
        data = fetch(f"{server.url}/api/workflow_templates/{PACK}/{name}.jpg")
        assert Image.open(io.BytesIO(data)).format == "JPEG"
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_role("dialog").get_by_text(PACK).click()
    for name in names:
        card = page.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()
        picture = card.locator("img").first.element_handle()
        page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture)
    page.get_by_test_id(f"template-workflow-{FIRST.stem}").click()
    page.get_by_role("dialog").wait_for(state="hidden")
    assert sorted(comfy_page.node_types(page)) == sorted(node["type"] for node in workflow()["nodes"])


MAX_CLICKS = 3  # from the page as it opens for the first time to a picture


@pytest.fixture
def files_in_place():
    """The demo's files under the names that the first template has."""
    models, placed = dev.base_dir() / "models", []
    wanted = {value: node["type"] for node in workflow()["nodes"] for value in node.get("widgets_values") or ()}
    for folder, kind, name in (
        ("diffusion_models", "ChromaDiffusionLoader", "unet_name"),
        ("text_encoders", "ChromaCLIPLoader", "clip_name"),
        ("vae", "VAELoader", "vae_name"),
    ):
        (file,) = [v for v, k in wanted.items() if k == kind and str(v).endswith(".safetensors")]
        if not (models / folder / file).exists():
            shutil.copyfile(models / folder / DEMO[kind][name], models / folder / file)
            placed.append(models / folder / file)
    yield
    for path in placed:
        path.unlink()


def test_a_newcomer_has_a_picture_in_three_clicks(browser, server, files_in_place):
    """From the list of templates that opens by itself to the picture; in the table of benchmarks/templates.py."""
    clicks = []

    def click(what):
        what.click()
        clicks.append(str(what))

    server.free()
    server.post("/settings", {**comfy_page.SETTINGS, "Comfy.TutorialCompleted": False})
    with browser.new_context(viewport=SMALL_SCREEN) as context:
        page = context.new_page()
        page.set_default_timeout(comfy_page.START_MS)
        began = time.perf_counter()
        page.goto(server.url, timeout=comfy_page.START_MS)
        click(page.get_by_role("dialog").get_by_text(PACK))
        click(page.get_by_test_id(f"template-workflow-{FIRST.stem}"))
        page.get_by_role("dialog").wait_for(state="hidden")
        with comfy_page.queued_as(page, with_demo_files):  # of a small size
            click(page.get_by_test_id("queue-button"))
            page.wait_for_function(
                "app.rootGraph.nodes.find(n => n.type === 'SaveImage')?.imgs?.[0]?.naturalWidth === 128"
            )
        print(f"{len(clicks)} clicks, {time.perf_counter() - began:.0f} s")
        assert page.get_by_test_id("error-overlay").count() == 0
    assert len(clicks) <= MAX_CLICKS, clicks


@pytest.mark.own_page
def test_saved_picture_dropped_on_the_page_brings_back_graph_and_pixels(page, server):
    comfy_page.load(page, workflow())
    comfy_page.put(
        page, {**DEMO, SUBGRAPH: {**SMALL, "seed": 20}}
    )  # a seed of its own, so that the picture is a new one
    before, types = comfy_page.prompt_of(page), comfy_page.node_types(page)
    url, picture, _ = picture_of(server, comfy_page.press_run(page))
    comfy_page.drop_file(page, url)
    assert comfy_page.node_types(page) == types
    assert comfy_page.prompt_of(page) == before
    server.free()  # else the cache would answer
    _, again, cached = picture_of(server, comfy_page.press_run(page))
    assert cached == []
    assert (again == picture).all()


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda p: p.stem)
def test_a_blueprint_is_one_node_that_makes_a_picture(page, server, path):
    """Offered by the server, loaded as a graph of its one node, and run with something that saves its picture."""
    listed = server.get("/global_subgraphs").values()
    assert path.stem in [entry["name"] for entry in listed if PACK in entry["info"]["node_pack"]]
    blueprint = workflow(path)
    (node,) = blueprint["nodes"]
    assert node["title"] == blueprint["definitions"]["subgraphs"][0]["name"] == path.stem.replace(" text", ": text")
    comfy_page.load(page, blueprint)
    assert comfy_page.unknown_types(page) == []
    prompt = with_demo_files(comfy_page.prompt_of(page))
    (decode,) = [key for key, n in prompt.items() if n["class_type"].startswith("VAEDecode")]
    save = {
        "class_type": "SaveImage",
        "inputs": {"images": [decode, 0], "filename_prefix": "blueprint"},
        "_meta": {"title": ""},
    }
    (picture,) = server.run({**prompt, "9999": save})
    assert pixels(picture).std() > 1
