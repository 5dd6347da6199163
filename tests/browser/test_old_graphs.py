"""Workflows saved on the page with FluxMod's old nodes: opened, replaced by one click, queued, run."""

import json

import numpy as np
import pytest
import support
from browser import comfy_page

Image = pytest.importorskip("PIL.Image")

pytestmark = [pytest.mark.browser, pytest.mark.host, pytest.mark.own_page]

dev = support.dev
GRAPHS = {
    path.stem: json.loads(path.read_text()) for path in sorted((support.ROOT / "tests" / "old_graphs").glob("*.json"))
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_saved_workflow_opens_and_one_click_brings_nodes_of_ours(page, server, name):
    graph = GRAPHS[name]
    old = sorted({graph["prompt"][key]["class_type"] for key in graph["becomes"]})
    comfy_page.load(page, graph["page"])
    assert sorted(set(comfy_page.unknown_types(page))) == old
    comfy_page.replace_all(page)
    assert comfy_page.unknown_types(page) == []
    wanted = {**graph["prompt"], **graph["becomes"]}
    found = comfy_page.prompt_of(page)
    assert {key: node["class_type"] for key, node in found.items()} == {k: n["class_type"] for k, n in wanted.items()}
    for key, node in wanted.items():  # the page adds inputs that are newer, at their defaults
        assert {k: v for k, v in found[key]["inputs"].items() if k in node["inputs"]} == node["inputs"], key
    entry = server.wait(comfy_page.press_run(page))
    assert entry["status"]["status_str"] == "success", dev.error_of(entry)
    (image,) = [image for output in entry["outputs"].values() for image in output.get("images", [])]
    picture = np.asarray(Image.open(dev.base_dir() / "output" / image["subfolder"] / image["filename"]).convert("RGB"))
    assert picture.shape == (128, 128, 3) and picture.std() > 1  # of 255; an empty picture has 0
    assert page.get_by_test_id("error-overlay").count() == 0
