"""Links between help pages open the page that they name, rendered, in a window over the graph."""

import re

import pytest
import support
from browser import comfy_page

pytestmark = [pytest.mark.browser, pytest.mark.host]

DOCS = support.ROOT / "web" / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
LINK = re.compile(r"\]\(([\w./]+\.md)\)")


def title(path):
    return path.read_text().splitlines()[0].removeprefix("# ")


def help_of(page, node_type):
    comfy_page.new_node(page, node_type)
    comfy_page.click_title(page, node_type)
    page.get_by_test_id("info-button").click()
    heading = page.locator(".node-help-content").get_by_role("heading", name=title(DOCS / f"{node_type}.md"), level=1)
    heading.wait_for()
    return page.locator(".node-help-content")


def shown(page, heading):
    dialog = page.get_by_role("dialog").filter(has=page.get_by_role("heading", name=heading, level=1, exact=True))
    dialog.wait_for()
    return dialog


def follow(page, href):
    """Clicks a link of this address on the page."""
    page.evaluate(
        """href => {
            const a = Object.assign(document.createElement('a'), { textContent: 'x' })
            a.setAttribute('href', href)
            document.body.append(a)
            a.click()
            a.remove()
        }""",
        href,
    )


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_guide_opens_from_a_help_page_and_closes(page, path):
    help_of(page, "ChromaKSampler").get_by_role("link", name=title(path)).click()
    dialog = shown(page, title(path))
    assert dialog.locator("table").count() == path.read_text().count("\n|---"), "every table is rendered"
    assert "<!--" not in dialog.inner_text()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


def test_links_within_a_guide_are_followed_and_lead_back(page):
    first, second = (DOCS / "guides" / f"{name}.md" for name in ("which_settings", "something_looks_wrong"))
    help_of(page, "ChromaNAG").get_by_role("link", name=title(first)).click()
    dialog = shown(page, title(first))
    dialog.get_by_role("link", name="Chroma Preset", exact=True).first.click()
    dialog = shown(page, "Chroma Preset")
    dialog.get_by_role("button", name="Back").click()
    dialog = shown(page, title(first))
    assert dialog.get_by_role("button", name="Back").is_disabled()
    dialog.get_by_role("link", name=title(second)).click()
    shown(page, title(second)).get_by_role("button", name="Close").click()
    dialog.wait_for(state="hidden")


def test_every_link_between_pages_is_known(page):
    """The pack's script and nobody else opens them: each is tried as a link on a page of the front end."""
    for path in sorted({*DOCS.glob("*.md"), *GUIDES}):
        for target in set(LINK.findall(path.read_text())):
            wanted = title((path.parent / target).resolve())
            link = (path.parent / target).resolve().relative_to(DOCS.resolve()).as_posix()
            follow(page, link)
            dialog = shown(page, wanted)
            dialog.get_by_role("button", name="Close").click()
            dialog.wait_for(state="hidden")


FOREIGN = [
    "README.md",
    "https://example.org/ChromaNAG.md",
    "https://example.org/extensions/chroma-pack/docs/ChromaNAG.md",
    "/ChromaNAG.md",
    "/docs/ChromaNAG.md",
    "/extensions/another-pack/docs/ChromaNAG.md",
    "/extensions/chroma-pack/docs/KSampler.md",
    "KSampler.md",
    "../secret.md",
    "#ChromaNAG.md",
    "/%zz",
    "http://[",
]


def test_links_of_others_are_left_alone(page):
    left = page.evaluate(
        """hrefs => hrefs.filter(href => {
            const a = document.createElement('a')
            a.setAttribute('href', href)
            document.body.append(a)
            let ours = true
            a.addEventListener('click', event => { ours = false; event.preventDefault() })
            a.click()
            a.remove()
            return !ours
        })""",
        FOREIGN,
    )
    assert left == FOREIGN


@pytest.mark.parametrize(
    "href",
    [
        "ChromaNAG.md",
        "/extensions/chroma-pack/docs/ChromaNAG.md",
        "/extensions/chroma%2Dpack/docs/guides/../ChromaNAG.md",
        "{url}/extensions/chroma-pack/docs/guides/../ChromaNAG.md",
    ],
)
def test_links_to_our_pages_are_known_in_every_form(page, server, href):
    """As our pages have them, and as newer front ends rewrite them."""
    follow(page, href.format(url=server.url))
    dialog = shown(page, title(DOCS / "ChromaNAG.md"))
    dialog.get_by_role("button", name="Close").click()
    dialog.wait_for(state="hidden")


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_guide_opens_from_the_help_menu(page, path):
    page.locator(".comfy-menu-button-wrapper, [data-testid=comfy-menu-button]").first.click()  # old, new
    for name in ("Extensions", "Help"):  # a submenu opens when the pointer comes from another item
        page.get_by_role("menuitem", name=name, exact=True).hover()
    page.get_by_role("menuitem", name=f"Chroma: {title(path)}").click()
    dialog = shown(page, title(path))
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


@pytest.mark.parametrize("href", ["../ChromaPreset/zh.md", "/extensions/chroma-pack/docs/../ChromaPreset/zh.md"])
def test_links_of_a_translated_help_page_lead_to_translated_pages(page, href):
    """The front end shows ID/zh.md as if it lay at ID.md."""
    follow(page, href)
    dialog = shown(page, title(DOCS / "ChromaPreset" / "zh.md"))
    name = title(DOCS / "ChromaKSampler" / "zh.md").partition("（")[0]
    dialog.get_by_role("link", name=name, exact=True).first.click()
    dialog = shown(page, title(DOCS / "ChromaKSampler" / "zh.md"))
    dialog.get_by_role("button", name="Close").click()
    dialog.wait_for(state="hidden")


def test_a_page_that_cannot_be_fetched_says_so(visit):
    with visit() as (page, _):  # its console tells of the failed request
        page.route("**/docs/ChromaNAG.md", lambda route: route.abort())
        follow(page, "/extensions/chroma-pack/docs/ChromaNAG.md")
        page.get_by_role("dialog").get_by_text("ComfyUI does not answer").wait_for()
