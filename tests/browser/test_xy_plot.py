"""Chroma XY Plot put into a workflow on the page: the plot on the node, reports and seconds on the workflow's own nodes."""

import json

import pytest
import support
from browser import comfy_page
from browser.swap import DEMO

pytestmark = [pytest.mark.browser, pytest.mark.host, pytest.mark.own_page]

dev = support.dev
FLOW = support.ROOT / "example_workflows" / "chroma_hd.json"
PICTURES = dev.cache_dir() / "browser"


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_plot_of_a_workflow_is_on_the_node_and_its_nodes_tell_of_their_runs(page, server, vue):
    comfy_page.use_vue_nodes(page, vue)
    page.set_viewport_size({"width": 1920, "height": 1080})
    comfy_page.load(page, json.loads(FLOW.read_text()))
    comfy_page.put(page, {**DEMO, "ChromaScheduler": {"steps": 3}})
    page.evaluate(
        """seeds => {
            const plot = LiteGraph.createNode('ChromaXYPlot')
            app.rootGraph.add(plot)
            const decode = app.rootGraph.nodes.find(n => n.type === 'VAEDecode')
            const save = app.rootGraph.nodes.find(n => n.type === 'SaveImage')
            plot.pos = [save.pos[0] + save.size[0] + 60, save.pos[1]]
            plot.size = [400, 500]
            decode.connect(0, plot, 0)
            plot.connect(0, save, 0)
            const set = (name, value) => { plot.widgets.find(w => w.name === name).value = value }
            set('x', 'seed')
            set('x.values', seeds)
            set('largest', 128)
        }""",
        "5..7" if vue else "1..3",
    )
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    shown = (
        "document.querySelector(`[data-node-id='${ID}'] img`)?.naturalWidth"
        if vue
        else "app.rootGraph.getNodeById(ID).imgs?.[0]?.naturalWidth"
    )
    own = page.evaluate("app.rootGraph.nodes.find(n => n.type === 'ChromaXYPlot').id")
    page.wait_for_function(f"{shown.replace('ID', str(own))} > 384")  # wider than three pictures
    if vue:
        assert page.locator(f"[data-node-id='{own}'] img").count() == 1
    comfy_page.until_still(page)
    page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    comfy_page.until_still(page)
    page.screenshot(path=PICTURES / f"xy-plot-{'vue' if vue else 'canvas'}.png")
    told = page.evaluate(
        """() => Object.fromEntries(app.rootGraph.nodes.flatMap(node => {
            const text = (node.widgets ?? []).find(w => w.name === 'chroma_report')?.element?.innerText
            return text ? [[node.type, text]] : []
        }))"""
    )
    assert told["ChromaXYPlot"].splitlines() == ["3 pictures", "x: RandomNoise.noise_seed, 3 values"]
    assert "forwards" in told["ChromaRunReport"] and "forwards" in told["ChromaCFGGuider"]
