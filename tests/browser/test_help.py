"""The front end's help panel shows each node's page."""

import pytest
import support
from browser import comfy_page

pytestmark = [pytest.mark.browser, pytest.mark.host]

PAGES = sorted((support.ROOT / "web" / "docs").glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_info_button_of_a_node_opens_its_page(page, path):
    comfy_page.new_node(page, path.stem)
    comfy_page.click_title(page, path.stem)
    page.get_by_test_id("info-button").click()
    heading = path.read_text().splitlines()[0].removeprefix("# ")
    help_panel = page.locator(".node-help-content")
    help_panel.get_by_role("heading", name=heading, level=1, exact=True).wait_for()
