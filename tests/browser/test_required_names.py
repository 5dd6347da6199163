"""What the pack's scripts use of ComfyUI's page: a page that renamed one of these names would break them without a word."""

import re

import pytest
import support

pytestmark = [pytest.mark.browser, pytest.mark.host]
SCRIPTS = sorted((support.ROOT / "web" / "js").glob("*.js"))
USED = re.compile(r"\b(?:app|api|LiteGraph)(?:\??\.\w+)+")
FILES = {"app.js", "api.js"}  # which the imports name


def used():
    found = {name.replace("?", "") for path in SCRIPTS for name in USED.findall(path.read_text(encoding="utf-8"))}
    return sorted(found - FILES)


def test_the_page_has_every_name_that_the_scripts_use(page):
    names = used()
    assert {
        "app.rootGraph.subgraphs.values",
        "app.extensionManager.workflow.activeWorkflow.changeTracker",
        "api.fetchApi",
    } <= set(names)
    missing = """async names => {
        const { app } = await import('/scripts/app.js'), { api } = await import('/scripts/api.js')
        return names.filter(name => {
            let value = { app, api, LiteGraph }
            return name.split('.').some(key => {
                if (!(key in Object(value))) return true
                value = value[key]
            })
        })
    }"""
    assert page.evaluate(missing, names) == []
    assert page.evaluate(missing, ["app.noSuchName", "app.rootGraph.noSuchName"]) == [
        "app.noSuchName",
        "app.rootGraph.noSuchName",
    ]
