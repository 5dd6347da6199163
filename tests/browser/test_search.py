"""The page's search finds our nodes by what people call them, on the canvas and in Nodes 2.0."""

import pytest
from browser import comfy_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.host,
    pytest.mark.own_page,
]  # a node that is being placed follows the pointer

FOUND = {"approximator": "ChromaDiffusionLoader", "save gguf": "ChromaSaveQuantized"}


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
@pytest.mark.parametrize("words", FOUND)
def test_search_finds_the_node_first_and_puts_it_on_the_canvas(page, words, vue):
    comfy_page.use_vue_nodes(page, vue)
    page.evaluate("app.rootGraph.clear()")
    page.mouse.move(800, 500)
    page.evaluate(
        "app.extensionManager.command.execute('Workspace.SearchBox.Toggle')"
    )  # a slow page misses a double click
    field = page.get_by_role("combobox", name="Add a node...")
    field.fill(words)
    title = page.evaluate("type => LiteGraph.registered_node_types[type].title", FOUND[words])
    page.get_by_role("option").first.filter(has_text=title).wait_for()
    field.press("Enter")
    page.wait_for_function("app.rootGraph.nodes.length === 1")
    assert comfy_page.node_types(page) == [FOUND[words]]
