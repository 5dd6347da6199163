"""The curve that each scheduler node draws on itself, in both of the front end's ways to show nodes."""

import copy
import itertools
import json
import re

import pytest
import support
from browser import comfy_page

pytestmark = [pytest.mark.browser, pytest.mark.host]

dev = support.dev
sigmas = dev.load_pack("samplers.schedules")
SLIDERS = {  # node class -> a widget of its curve and the curve
    "ChromaScheduler": ("curve.alpha", "beta"),
    "ChromaBetaScheduler": ("alpha", "beta"),
    "ChromaSigmoidOffsetScheduler": ("base_c", "sigmoid_offset"),
}
NEW_ID = itertools.count(100, 10)
EACH = pytest.mark.parametrize("node_type", SLIDERS)


@pytest.fixture(params=[False, True], ids=["canvas", "vue"])
def nodes_page(page, request):
    """The page with nodes shown in one of the two ways."""
    comfy_page.use_vue_nodes(page, request.param)
    page.vue = request.param
    return page


def new_node(page, node_type):
    """Makes a graph of one node. Its id is new on this page, since the front end keeps the values of those before."""
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
        [node_type, next(NEW_ID)],
    )


def set_widget(page, name, value, node=0):
    """Sets a widget as the front end does: its value, then its callback."""
    page.evaluate(
        """([name, value, node]) => {
            const widget = app.rootGraph.nodes[node].widgets.find(widget => widget.name === name)
            widget.value = value
            widget.callback?.(value)
        }""",
        [name, value, node],
    )


def value_of(page, name, node=0):
    return page.evaluate(
        "([name, node]) => app.rootGraph.nodes[node].widgets.find(w => w.name === name).value", [name, node]
    )


def drawing(page, node=0):
    return page.locator(".chroma-curve").nth(node)


def line_of(page, node=0):
    """The drawn line's path."""
    return drawing(page, node).locator(".line").get_attribute("d")


def wait_for_label(page, text, node=0):
    """Waits until the drawing's accessible name starts with this."""
    drawing(page, node).locator(f'svg[role="img"][aria-label^="{text}"]').wait_for()


def label(values, asked=None):
    """The accessible name's start for a schedule."""
    steps, asked = len(values) - 1, asked or len(values) - 1
    of = f"/{asked}" if steps < asked else ""
    return f"Sigmas: {steps}{of} step{'s' * (steps > 1)}, {int((values > 0.5).sum())} above 0.5"


def drawn_sigmas(page, node=0):
    """The sigmas at which the drawing has its dots, read from their places."""
    return (
        drawing(page, node)
        .locator("svg")
        .evaluate("""svg => {  // in one call: between two it may be drawn anew
        const read = (selector, name) => [...svg.querySelectorAll(selector)].map(found => Number(found.getAttribute(name)))
        const [bottom, half] = [read(".axis", "y1")[0], read(".half", "y1")[0]]
        return read(".dot", "cy").map(y => (bottom - y) / (bottom - half) / 2)
    }""")
    )


def drag(page, name, pixels):
    """Drags a number's widget with the mouse; yields while the button is down."""
    if page.vue:
        row = page.locator("[data-testid=node-widget]").filter(has_text=name.split(".")[-1])
        box = row.locator("input").first.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    else:
        x, y = page.evaluate(
            """name => {
                const node = app.rootGraph.nodes[0]
                const widget = node.widgets.find(widget => widget.name === name)
                const place = [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10]
                const [x, y] = app.canvas.ds.convertOffsetToCanvas(place)
                const box = app.canvas.canvas.getBoundingClientRect()
                return [box.x + x, box.y + y]
            }""",
            name,
        )
    page.mouse.move(x, y)
    page.mouse.down()
    for i in range(1, 11):
        page.mouse.move(x + pixels * i / 10, y)
        comfy_page.next_frame(page)
    yield
    page.mouse.up()


@EACH
def test_drag_of_a_slider_redraws_before_the_mouse_is_released(nodes_page, node_type):
    page, (name, curve) = nodes_page, SLIDERS[node_type]
    new_node(page, node_type)
    wait_for_label(page, label(sigmas.schedule(curve, 26)))
    before, value = line_of(page), value_of(page, name)
    for _ in drag(page, name, 60):
        page.wait_for_function(
            "d => document.querySelector('.chroma-curve .line')?.getAttribute('d') !== d", arg=before
        )
    assert value_of(page, name) != value
    wanted = sigmas.schedule(curve, 26, {name.split(".")[-1]: value_of(page, name)})
    wait_for_label(page, label(wanted, 26))
    assert drawn_sigmas(page) == pytest.approx(wanted.tolist(), abs=1e-5)  # a pixel is 0.015


@EACH
def test_value_set_through_its_callback_redraws(nodes_page, node_type):
    page, (name, curve) = nodes_page, SLIDERS[node_type]
    new_node(page, node_type)
    for key, value in {name: 0.75, "steps": 9, "denoise": 0.8}.items():
        set_widget(page, key, value)
    wanted = sigmas.schedule(curve, 9, {name.split(".")[-1]: 0.75}, denoise=0.8)
    wait_for_label(page, label(wanted))
    assert drawn_sigmas(page) == pytest.approx(wanted.tolist(), abs=1e-5)


@pytest.mark.parametrize("curve", sigmas.CURVES)
def test_choice_of_a_curve_draws_it(nodes_page, curve):
    new_node(nodes_page, "ChromaScheduler")
    set_widget(nodes_page, "curve", curve)
    wanted = sigmas.schedule(curve, 26)
    wait_for_label(nodes_page, label(wanted))
    nodes_page.wait_for_function("document.querySelectorAll('.chroma-curve .dot').length === 27")
    assert drawn_sigmas(nodes_page) == pytest.approx(wanted.tolist(), abs=1e-5)


def test_parameter_of_a_chosen_curve_redraws(nodes_page):
    new_node(nodes_page, "ChromaScheduler")
    set_widget(nodes_page, "curve", "karras")
    set_widget(nodes_page, "curve.rho", 1.0)
    set_widget(nodes_page, "steps", 10)
    wait_for_label(nodes_page, "Sigmas: 10 steps, 5 above 0.5, from 1.000 to 0.100, then 0")


@EACH
def test_workflow_and_prompt_have_nothing_of_the_curve(nodes_page, server, node_type):
    page = nodes_page
    new_node(page, node_type)
    wait_for_label(page, "Sigmas: 26 steps")
    saved = page.evaluate("app.rootGraph.serialize()")
    (node,) = saved["nodes"]
    given = dict(comfy_page.prompt_of(page)[str(node["id"])]["inputs"])
    assert node["widgets_values"] == list(given.values())
    assert "chroma_curve" not in json.dumps([saved, given])
    assert len(given) == 6 + (node_type == "ChromaScheduler")  # two parameters, steps, denoise, two switches; the curve


@EACH
def test_loaded_workflow_draws_its_own_values(nodes_page, node_type):
    page, (name, curve) = nodes_page, SLIDERS[node_type]
    new_node(page, node_type)
    set_widget(page, name, 0.7)
    set_widget(page, "steps", 7)
    workflow = page.evaluate("app.rootGraph.serialize()")
    page.evaluate("app.rootGraph.clear()")
    comfy_page.load(page, copy.deepcopy(workflow))
    wanted = sigmas.schedule(curve, 7, {name.split(".")[-1]: 0.7})
    wait_for_label(page, label(wanted))
    assert drawn_sigmas(page) == pytest.approx(wanted.tolist(), abs=1e-5)
    (before,), (after,) = workflow["nodes"], page.evaluate("app.rootGraph.serialize()")["nodes"]
    assert after["widgets_values"] == before["widgets_values"]


def test_workflow_of_before_the_curve_gets_room_for_it(nodes_page):
    page = nodes_page
    new_node(page, "ChromaBetaScheduler")
    workflow = page.evaluate("app.rootGraph.serialize()")
    workflow["nodes"][0]["size"][1] = 180
    comfy_page.load(page, workflow)
    wait_for_label(page, "Sigmas: 26 steps")
    comfy_page.until_still(page)
    assert drawing(page).bounding_box()["height"] == pytest.approx(110, abs=1)
    bottom = page.evaluate("app.rootGraph.nodes[0].pos[1] + app.rootGraph.nodes[0].size[1]")
    box = drawing(page).bounding_box()
    bottom_on_page = page.evaluate(
        "y => app.canvas.ds.convertOffsetToCanvas([0, y])[1] + app.canvas.canvas.getBoundingClientRect().y", bottom
    )
    assert box["y"] + box["height"] <= bottom_on_page + 1


def test_copy_has_a_curve_of_its_own(nodes_page):
    page = nodes_page
    new_node(page, "ChromaScheduler")
    set_widget(page, "steps", 5)
    page.evaluate("app.canvas.selectNode(app.rootGraph.nodes[0]); app.canvas.copyToClipboard()")
    page.evaluate("app.canvas.graph_mouse = [800, 300]; app.canvas.pasteFromClipboard()")
    wait_for_label(page, "Sigmas: 5 steps", node=1)
    set_widget(page, "steps", 6, node=1)
    wait_for_label(page, "Sigmas: 6 steps", node=1)
    wait_for_label(page, "Sigmas: 5 steps", node=0)


def test_wider_node_has_a_wider_drawing(nodes_page):
    new_node(nodes_page, "ChromaBetaScheduler")
    wait_for_label(nodes_page, "Sigmas: 26 steps")
    before, line = drawing(nodes_page).bounding_box(), line_of(nodes_page)
    nodes_page.evaluate("n => { n = app.rootGraph.nodes[0]; n.setSize([n.size[0] + 150, n.size[1]]) }")
    nodes_page.evaluate("app.canvas.setDirty(true, true)")
    nodes_page.wait_for_function(
        "d => document.querySelector('.chroma-curve .line')?.getAttribute('d') !== d", arg=line
    )
    after = drawing(nodes_page).bounding_box()
    assert after["width"] - before["width"] == pytest.approx(150, abs=2)
    assert after["height"] == pytest.approx(before["height"], abs=1)


def test_collapsed_node_hides_its_curve_and_shows_the_newest_when_opened(nodes_page):
    page = nodes_page
    new_node(page, "ChromaBetaScheduler")
    wait_for_label(page, "Sigmas: 26 steps")
    page.evaluate("app.rootGraph.nodes[0].collapse(); app.canvas.setDirty(true, true)")
    drawing(page).wait_for(state="hidden")
    set_widget(page, "steps", 4)
    comfy_page.until_still(page)
    page.evaluate("app.rootGraph.nodes[0].collapse(); app.canvas.setDirty(true, true)")
    drawing(page).wait_for()
    wait_for_label(page, "Sigmas: 4 steps")


def connect(page, source, target, name, value=None):
    """Adds a node of the class `source` and connects its first output to an input of the node number `target`.

    value:   of its first widget.
    returns: its number.
    """
    return page.evaluate(
        """([type, target, name, value]) => {
            const source = LiteGraph.createNode(type)
            app.rootGraph.add(source)
            if (value !== null) source.widgets[0].value = value
            const node = app.rootGraph.nodes[target]
            source.connect(0, node, node.inputs.findIndex(input => input.name === name))
            return app.rootGraph.nodes.indexOf(source)
        }""",
        [source, target, name, value],
    )


def test_linked_value_is_told_and_that_of_a_constant_is_followed(nodes_page):
    page = nodes_page
    new_node(page, "ChromaBetaScheduler")
    connect(page, "GetImageSize", 0, "steps")
    drawing(page).get_by_text("steps set by link", exact=True).wait_for()
    connect(page, "PrimitiveInt", 0, "steps", value=12)
    wait_for_label(page, "Sigmas: 12 steps")
    assert drawing(page).locator(".note").text_content() == "for shift 1"


def test_models_shift_is_followed_through_the_nodes_before(nodes_page):
    page = nodes_page
    new_node(page, "ChromaBetaScheduler")
    drawing(page).get_by_text("for shift 1", exact=True).wait_for()
    lora = connect(page, "LoraLoaderModelOnly", 0, "model")
    shift = connect(page, "ChromaTimestepShift", lora, "model")
    set_widget(page, "mode", "fixed", node=shift)
    set_widget(page, "mode.shift", 5.0, node=shift)
    drawing(page).get_by_text("shift 5", exact=True).wait_for()
    table = 5 * sigmas.flow_table() / (1 + 4 * sigmas.flow_table())
    wanted = sigmas.schedule("beta", 26, table=table)
    assert drawn_sigmas(page) == pytest.approx(wanted.tolist(), abs=1e-5)
    connect(page, "ChromaDiffusionLoader", lora, "model")
    drawing(page).get_by_text("shift 3.16", exact=True).wait_for()
    connect(page, "UNETLoader", lora, "model")
    drawing(page).get_by_text("for shift 1", exact=True).wait_for()


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_values_without_a_curve_show_why_and_good_ones_draw_again(visit, vue):
    with visit() as (page, errors):
        comfy_page.use_vue_nodes(page, vue)
        new_node(page, "ChromaScheduler")
        wait_for_label(page, "Sigmas: 26 steps")
        set_widget(page, "steps", 5000)
        problem = drawing(page).get_by_role("alert")
        problem.get_by_text("5000 steps at denoise 1 are not drawn here").wait_for()
        assert drawing(page).locator(".line").count() == 0
        set_widget(page, "steps", 5)
        wait_for_label(page, "Sigmas: 5 steps")
        assert problem.is_hidden()
        assert len(errors) == 1 and "400 (Bad Request)" in errors[0]  # Chromium's own line on the answer's status


def test_colours_follow_the_theme(nodes_page):
    colours = {}
    for theme in ("light", "dark"):
        comfy_page.use(nodes_page, "Comfy.ColorPalette", theme)
        new_node(nodes_page, "ChromaBetaScheduler")
        wait_for_label(nodes_page, "Sigmas: 26 steps")
        colours[theme] = drawing(nodes_page).evaluate(
            "e => [getComputedStyle(e.firstChild).backgroundColor, getComputedStyle(e.firstChild).color]"
        )
    (light, dark_text), (dark, light_text) = (map(brightness, colours[theme]) for theme in ("light", "dark"))
    assert light > dark_text + 100  # of 255
    assert light_text > dark + 100


def brightness(colour):
    """The mean of a computed colour's three parts, of 255."""
    parts = [float(n) for n in re.findall(r"[\d.]+", colour)[:3]]
    return sum(parts) / 3 * (1 if colour.startswith("rgb") else 255)


def test_wheel_over_the_curve_zooms_the_canvas(nodes_page):
    page = nodes_page
    new_node(page, "ChromaBetaScheduler")
    wait_for_label(page, "Sigmas: 26 steps")
    box = drawing(page).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -200)
    page.wait_for_function("app.canvas.ds.scale > 1")


def test_pointer_over_a_step_tells_its_sigmas(nodes_page):
    page = nodes_page
    new_node(page, "ChromaScheduler")
    set_widget(page, "curve", "linear")
    set_widget(page, "steps", 4)
    wait_for_label(page, "Sigmas: 4 steps")
    axis = drawing(page).locator(".axis").bounding_box()
    page.mouse.move(axis["x"] + axis["width"] * 3 / 8, axis["y"] - 10)
    drawing(page).get_by_text("step 2: 0.750 to 0.500", exact=True).wait_for()
    page.mouse.move(axis["x"], 5)
    drawing(page).get_by_text("4 steps, 2 above 0.5", exact=True).wait_for()
