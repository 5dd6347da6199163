"""The pictures of README and docs/ that show ComfyUI's page: each shows what the text beside it says.

`CHROMA_PACK_WRITE=1 python dev.py test tests/browser/test_shots.py` takes them anew, into docs/; else they go to the cache.
"""

import io
import json
import os

import pytest
import support
from browser import comfy_page
from browser.swap import DEMO
from PIL import Image

pytestmark = [pytest.mark.browser, pytest.mark.host, pytest.mark.own_page]

dev = support.dev
EXAMPLES = support.ROOT / "example_workflows"
PROMPT = "a 3D penguin on a light blue background"
FILES = {k: v for k, v in DEMO.items() if k not in ("ChromaPreset", "ChromaKSampler", "EmptySD3LatentImage")}
SCREEN = {"width": 2000, "height": 1300}
MAX_BYTES = 250_000  # of a picture in docs/
LEFT, TOP = 80, 150  # of the part that is taken: beside what the page shows of its own


@pytest.fixture
def screen(page):
    page.set_viewport_size(SCREEN)
    comfy_page.use_vue_nodes(page, True)
    for setting, value in (("Comfy.Execution.PreviewMethod", "none"), ("Comfy.Minimap.Visible", False)):
        comfy_page.use(page, setting, value)
    return page


def run(page, server, name, rows):
    """Opens a template with the demo's files, and paints with it."""
    comfy_page.load(page, json.loads((EXAMPLES / f"{name}.json").read_text()))
    comfy_page.put(page, {**FILES, **rows})
    server.free()  # so that every node tells what it did
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    page.wait_for_function("app.rootGraph.nodes.find(n => n.type === 'SaveImage').imgs?.[0]?.naturalWidth")


def take(page, name, box):
    """A picture of a part of the graph, (x, y, width, height) in the graph's own measure."""
    x, y, width, height = box
    page.evaluate(
        """([x, y, left, top]) => {
            app.canvas.deselectAll?.()
            app.canvas.ds.scale = 1
            const canvas = app.canvas.canvas.getBoundingClientRect()
            app.canvas.ds.offset = [left - canvas.x - x, top - canvas.y - y]
            app.canvas.setDirty(true, true)
        }""",
        [x, y, LEFT, TOP],
    )
    page.wait_for_function("!document.body.innerText.includes('Job completed')")
    page.mouse.move(LEFT + 2, SCREEN["height"] - 2)
    comfy_page.until_still(page, comfy_page.TOLD_MS)
    folder = support.ROOT / "docs" if os.environ.get("CHROMA_PACK_WRITE") else dev.cache_dir() / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    clip = {"x": LEFT, "y": TOP, "width": width, "height": height}
    path = folder / f"{name}.png"
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MAX_BYTES


def test_every_part_of_a_picture_on_one_screen(screen, server):
    rows = {"Prompt": {"text": PROMPT}, "RandomNoise": {"noise_seed": 0, "control_after_generate": "fixed"}}
    run(screen, server, "chroma_hd", rows)
    comfy_page.wait_until_told(screen, "ChromaPreset", "steps 20")
    screen.locator('.chroma-curve svg[aria-label^="Sigmas: 20 steps"]').wait_for()
    comfy_page.wait_until_told(screen, "ChromaCFGGuider", "forwards")
    comfy_page.wait_until_told(screen, "ChromaTextEncode", "of 512 tokens")
    screen.evaluate(
        """() => {
            const [note, saved] = ['MarkdownNote', 'SaveImage'].map(type => app.rootGraph.nodes.find(n => n.type === type))
            app.rootGraph.remove(note)
            saved.setSize([saved.size[0], 430])
        }"""
    )
    take(screen, "screen", (10, 50, 1790, 1000))


def test_the_shortest_workflow(screen, server):
    run(
        screen,
        server,
        "chroma_text_to_image",
        {"Chroma: text to image": {"prompt": PROMPT, "width": 128, "height": 128, "seed": 0}},
    )
    comfy_page.wait_until_told(screen, "ChromaDiffusionLoader", "13.1 M parameters")
    take(screen, "workflow", (10, 50, 1330, 940))


def test_doctor_with_findings_and_what_mends_them(screen, server):
    rows = {
        "ChromaKSampler": {"cfg": 12.0, "steps": 4, "quality": "custom"},
        "EmptySD3LatentImage": {"width": 128, "height": 128},
    }
    comfy_page.load(screen, json.loads((EXAMPLES / "chroma_lora.json").read_text()))
    screen.evaluate(
        """() => {
            const doctor = LiteGraph.createNode('ChromaDoctor')
            app.rootGraph.add(doctor)
            doctor.pos = [40, 1500]
            doctor.size = [520, 215]
        }"""
    )
    comfy_page.put(screen, {**FILES, **rows})
    entry = server.wait(comfy_page.press_run(screen))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    comfy_page.wait_until_told(screen, "ChromaDoctor", "cfg 12")
    comfy_page.wait_until_told(screen, "ChromaDoctor", "4 steps")
    comfy_page.wait_until_told(screen, "ChromaDoctor", "Apply")
    take(screen, "doctor", (20, 1455, 560, 275))


def test_a_terse_prompt_and_the_long_form_that_is_offered(screen):
    comfy_page.new_node(screen, "ChromaPrompt")
    screen.evaluate(
        """() => {
            const [node] = app.rootGraph.nodes
            node.size = [520, 560]
            const widget = node.widgets.find(w => w.name === 'text')
            widget.value = 'a fox'
            widget.callback?.('a fox')
        }"""
    )
    comfy_page.wait_until_told(screen, "ChromaPrompt", "A photograph of a fox")
    take(screen, "prompt", (380, 250, 560, 640))
