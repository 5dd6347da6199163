"""The page's own controls speak the language that is set in the page; its version 1.47 has no German."""

import json

import pytest
import support
from browser import comfy_page

pytestmark = [pytest.mark.browser, pytest.mark.host]

dev = support.dev
EXAMPLE = support.ROOT / "example_workflows" / "chroma_studio.json"
both = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
LANGUAGES = {
    "zh": {
        "button": "展开为节点",
        "hint": "运行后即可比较 A 与 B",
        "figures": "26 步，其中 14 步高于 0.5",
        "note": "按移位 1",
        "link": "步数 由连线给出",
        "guide": "Chroma：出现问题时",
        "close": "关闭",
    },
    "ja": {
        "button": "ノードとして開く",
        "hint": "実行すると A と B を比較できます",
        "figures": "26 ステップ（0.5 超は 14）",
        "note": "シフト 1 の場合",
        "link": "ステップ数 はリンクで指定",
        "guide": "Chroma：何かおかしいとき",
        "close": "閉じる",
    },
    "fr": {  # none of ours
        "button": "Open as nodes",
        "hint": "Run to compare A and B",
        "figures": "26 steps, 14 above 0.5",
        "note": "for shift 1",
        "link": "steps set by link",
        "guide": "Chroma: Something looks wrong",
        "close": "Close",
    },
}


def workflow():
    """Chroma Studio, two pictures to compare, and two curves, of which one has its steps by a link."""
    out = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    size = {"id": 903, "type": "GetImageSize", "pos": [20, 1160], "size": [240, 120]}
    steps = {"name": "steps", "type": "INT", "widget": {"name": "steps"}, "link": 900}
    out["nodes"] += [
        {"id": 901, "type": "ChromaComparePictures", "pos": [20, 700], "size": [300, 300]},
        {"id": 902, "type": "ChromaScheduler", "pos": [360, 700], "size": [340, 330]},
        {**size, "outputs": [{"name": "width", "type": "INT", "links": [900]}]},
        {"id": 904, "type": "ChromaBetaScheduler", "pos": [740, 700], "size": [340, 330], "inputs": [steps]},
    ]
    out["links"].append([900, 903, 0, 904, 0, "INT"])
    return out


def expect(page, vue, words):
    """Waits until the nodes on the canvas have these words."""
    if vue:
        page.get_by_role("button", name=words["button"]).wait_for()
    else:
        page.wait_for_function(
            "text => app.rootGraph.nodes.flatMap(node => node.widgets ?? []).some(widget => widget.label === text)",
            arg=words["button"],
        )
    for text, within in {"hint": ".chroma-compare", "figures": ".chroma-curve", "note": ".chroma-curve"}.items():
        page.locator(within).get_by_text(words[text], exact=True).first.wait_for()


def close_guide(page, words):
    """Opens a guide by the Help menu and closes it by its button."""
    page.locator(".comfy-menu-button-wrapper, [data-testid=comfy-menu-button]").first.click()  # old, new
    items = page.get_by_role("menuitem")
    items.last.wait_for()
    for at in (items.count() - 2, items.count() - 1):  # a submenu opens when the pointer comes from another item
        items.nth(at).hover()
    page.get_by_role("menuitem", name=words["guide"]).click()
    page.locator("dialog.chroma-page").get_by_role("button", name=words["close"], exact=True).click()
    page.locator("dialog.chroma-page").wait_for(state="hidden")


@both
@pytest.mark.parametrize("language", LANGUAGES)
def test_controls_speak_the_language_with_which_the_page_starts(visit, language, vue):
    words = LANGUAGES[language]
    with visit({"Comfy.Locale": language, "Comfy.VueNodes.Enabled": vue}) as (page, errors):
        comfy_page.load(page, workflow())
        page.evaluate("app.canvas.ds.scale = 0.7; app.canvas.ds.offset = [150, 60]; app.canvas.setDirty(true, true)")
        expect(page, vue, words)
        page.locator(".chroma-curve").get_by_text(words["link"], exact=True).wait_for()
        page.screenshot(path=dev.cache_dir() / "browser" / f"words-{language}-{'vue' if vue else 'canvas'}.png")
        close_guide(page, words)
        assert errors == []


@both
@pytest.mark.own_page
def test_controls_follow_when_the_language_changes(page, vue):
    """The page then makes its nodes anew, some time after the setting is there."""
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.load(page, workflow())
    english, chinese = LANGUAGES["fr"], LANGUAGES["zh"]
    expect(page, vue, english)
    close_guide(page, english)
    comfy_page.use(page, "Comfy.Locale", "zh")
    expect(page, vue, chinese)
    page.locator("dialog.chroma-page").wait_for(state="hidden")
    close_guide(page, chinese)
