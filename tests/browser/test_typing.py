"""What nodes in which prompts are typed show meanwhile, on the canvas and in Nodes 2.0."""

import pytest
import support
from browser import comfy_page
from browser.swap import DEMO

pytestmark = [pytest.mark.browser, pytest.mark.host, pytest.mark.own_page]

dev = support.dev
both = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
FOX = "a red fox asleep on a mossy rock. "


def shown(page, node_type, vue):
    comfy_page.use_vue_nodes(page, vue)
    comfy_page.new_node(page, node_type)
    page.evaluate(
        """() => {
            const node = app.rootGraph.nodes[0]
            node.setSize([460, Math.max(520, node.size[1])])
            app.canvas.ds.scale = 1
            app.canvas.ds.offset = [0, -200]
            app.canvas.setDirty(true, true)
        }"""
    )
    field = page.locator("textarea").first
    field.wait_for()
    return field


@both
@pytest.mark.parametrize("node_type", ["ChromaTextEncode", "ChromaStudio"])
def test_tokens_are_counted_while_typing_and_what_falls_off_is_red(page, server, node_type, vue):
    field = shown(page, node_type, vue)
    field.fill(FOX)
    page.get_by_text("16 of 512 tokens").wait_for()
    field.press_sequentially("and ferns", delay=20)
    page.get_by_text("20 of 512 tokens").wait_for()
    field.fill(FOX * 60)
    page.get_by_text("901 of 512 tokens").wait_for()
    page.locator(".chroma-report .bar.error").wait_for()
    gone = page.locator(".chroma-report .line").filter(has_text="is not seen by the model").locator(".head")
    assert "mossy rock" in gone.text_content()
    red, green, blue = comfy_page.colour(gone)
    assert red > max(green, blue) + 40
    gone.scroll_into_view_if_needed()
    page.screenshot(path=dev.cache_dir() / "browser" / f"typing-{node_type}-{'vue' if vue else 'canvas'}.png")


@both
def test_studio_counts_both_its_texts_beside_what_its_sampler_takes(page, server, vue):
    field = shown(page, "ChromaStudio", vue)
    page.evaluate(
        """file => {
            const widget = app.rootGraph.nodes[0].widgets.find(widget => widget.name === 'unet_name')
            widget.value = file
        }""",
        DEMO["ChromaStudio"]["unet_name"],
    )
    settings = "standard: chroma-demo, recognised by the name"
    comfy_page.wait_until_told(page, "ChromaStudio", settings)
    for text, count in ((FOX, 16), (FOX * 2, 31)):
        field.fill(text)
        comfy_page.wait_until_told(page, "ChromaStudio", f"{count} of 512 tokens")
    page.locator("textarea").nth(1).fill("blurry")
    comfy_page.wait_until_told(page, "ChromaStudio", "Negative prompt: ")
    page.get_by_role("meter", name="31 of 512").wait_for()
    (told,) = comfy_page.told_by(page, "ChromaStudio")
    assert told.index("31 of 512") < told.index("Negative prompt: ") < told.index(settings)
    page.evaluate("app.rootGraph.nodes[0].widgets.find(widget => widget.name === 'quality').callback?.('draft')")
    page.evaluate("app.rootGraph.nodes[0].widgets.find(widget => widget.name === 'quality').value = 'draft'")
    comfy_page.wait_until_told(page, "ChromaStudio", "draft: chroma-demo")
    assert "31 of 512 tokens" in comfy_page.told_by(page, "ChromaStudio")[0]


@both
def test_terse_prompt_is_noticed_and_its_long_form_applied_with_undo(page, server, vue):
    field = shown(page, "ChromaPrompt", vue)
    field.fill("a fox")
    page.get_by_text("a short prompt that leaves medium, place and light open").wait_for()
    page.get_by_text("This is a low-quality image.").first.wait_for()
    assert field.input_value() == "a fox"  # nothing is added unasked
    page.screenshot(path=dev.cache_dir() / "browser" / f"terse-{'vue' if vue else 'canvas'}.png")
    page.locator(".chroma-report button.apply").click()
    page.wait_for_function("app.rootGraph.nodes[0].widgets[0].value.startsWith('A photograph of a fox. ')")
    page.wait_for_function("document.querySelector('textarea').value.startsWith('A photograph of a fox. ')")
    page.get_by_text("a short prompt that leaves").wait_for(state="hidden")
    page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    page.wait_for_function("app.rootGraph.nodes[0]?.widgets[0].value === 'a fox'")


@both
def test_answer_for_a_workflow_that_was_closed_meanwhile_is_not_shown(page, server, vue):
    page.evaluate(
        """async () => {
            const { api } = await import('/scripts/api.js')
            const fetched = api.fetchApi.bind(api)
            window.asked = window.answered = 0
            api.fetchApi = async (path, options) => {
                if (path !== '/chroma/prompt') return fetched(path, options)
                window.asked += 1
                const answer = await fetched(path, options)
                await new Promise((resolve) => setTimeout(resolve, 1500))
                window.answered += 1
                return answer
            }
        }"""
    )
    shown(page, "ChromaTextEncode", vue)
    page.wait_for_function("window.asked === 1 && window.answered === 0")
    page.evaluate("app.loadGraphData(app.rootGraph.serialize())")
    page.wait_for_function("window.asked === 2 && window.answered === 2")
    comfy_page.until_still(page, comfy_page.TOLD_MS)
    assert page.locator(".chroma-report").count() == 1
