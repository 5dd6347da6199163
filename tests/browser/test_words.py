"""The page's own controls speak the language that is set in the page."""

import json

import pytest
import support
from browser import comfy_page

pytestmark = [pytest.mark.browser, pytest.mark.host]

WORKFLOW = support.ROOT / "example_workflows" / "chroma_studio.json"
LANGUAGES = {
    "zh": ("展开为节点", "运行后比较 A 与 B", "26 步，13 步高于 0.5"),
    "de": ("Als Knoten öffnen", "Nach einem Lauf stehen hier A und B", "26 Schritte, 13 über 0,5"),
    "fr": ("Open as nodes", "Run to compare A and B", "26 steps, 13 above 0.5"),  # none of ours: English
}


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_stands_on_nodes_is_in_the_pages_language(page, server, language, vue):
    opened, hint, figures = LANGUAGES[language]
    comfy_page.use(page, "Comfy.Locale", language)
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load(page, json.loads(WORKFLOW.read_text()))
    if vue:
        page.get_by_role("button", name=opened).wait_for()
    else:
        labels = page.evaluate("app.rootGraph.nodes.flatMap(n => n.widgets ?? []).map(w => w.label ?? w.name)")
        assert opened in labels
    page.evaluate("app.rootGraph.add(LiteGraph.createNode('ChromaComparePictures'))")
    page.locator(".chroma-compare .hint").filter(has_text=hint).first.wait_for(state="attached")
    told = page.evaluate(
        """async () => (await import('/extensions/chroma-pack/js/curve_view.js'))
            .figures([...Array(26).keys()].map(i => 1 - i / 26).concat(0), 26)"""
    )
    assert told == figures
