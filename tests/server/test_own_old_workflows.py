"""Workflows as each release of this pack shipped them: what people have saved and shared. They are converted, queued and run."""

import json

import numpy as np
import pytest
import support
from browser.swap import with_demo_files

Image = pytest.importorskip("PIL.Image")
pytestmark = [pytest.mark.host, pytest.mark.slow]
dev = support.dev
SHIPPED = sorted((support.ROOT / "tests" / "old_graphs" / "ours").glob("*/*.json"))
PAINTERS = ("KSampler", "ChromaKSampler", "SamplerCustomAdvanced")


@pytest.fixture(scope="module", autouse=True)
def files(server):
    from browser import demo_files

    demo_files.place(dev.base_dir())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_workflow_of_an_earlier_release_still_paints(server, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    prompt = with_demo_files(dev.api_graph(workflow, server.get("/object_info")))
    for node in prompt.values():
        if "steps" in node["inputs"] and not isinstance(node["inputs"]["steps"], list):
            node["inputs"]["steps"] = 2
    assert any(node["class_type"] in PAINTERS for node in prompt.values())
    pictures = server.run(prompt)
    assert pictures
    for picture in pictures:
        assert np.asarray(Image.open(picture).convert("RGB")).std() > 1  # of 255; an empty picture has 0
