"""Graphs saved with FluxMod's old nodes, queued as they are: no page, no titles, ids that no pack has."""

import copy
import json

import numpy as np
import pytest
import support

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host

dev = support.dev
GRAPHS = {
    path.stem: json.loads(path.read_text()) for path in sorted((support.ROOT / "tests" / "old_graphs").glob("*.json"))
}


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def prompt_of(name):
    """A copy of the old graph."""
    return copy.deepcopy(GRAPHS[name]["prompt"])


@pytest.mark.parametrize("name", GRAPHS)
def test_an_old_graph_is_queued_as_it_is_and_makes_its_picture(server, name):
    (path,) = server.run(prompt_of(name))
    picture = pixels(path)
    assert picture.shape == (128, 128, 3) and picture.std() > 1  # of 255; an empty picture has 0
    (other,) = server.run({**prompt_of(name), **GRAPHS[name]["becomes"]})
    assert (pixels(other) == picture).all()


def test_flux_with_its_modulator_is_the_demo_again_at_guidance_0(server):
    """The two files are the demo's, cut in two, so the old graph must give what the demo's own file gives."""
    (path,) = server.run(prompt_of("flux"))
    whole = prompt_of("flux")
    whole["1"] = {
        "class_type": "ChromaDiffusionLoader",
        "inputs": {"unet_name": "chroma-demo.safetensors", "quant_mode": "bf16"},
    }
    (other,) = server.run(whole)
    assert (pixels(other) == pixels(path)).all()


def test_an_old_node_without_an_input_is_told_by_the_host_and_the_server_lives(server):
    prompt = prompt_of("chroma_by_flux_loader")
    del prompt["1"]["inputs"]["unet_name"]
    with pytest.raises(dev.Problem, match="Required input is missing"):
        server.run(prompt)
    assert server.run(prompt_of("chroma_by_flux_loader"))


def test_the_server_offers_every_old_node(server):
    told = server.get("/node_replacements")
    nodes = server.get("/object_info")
    for name in {node["class_type"] for graph in GRAPHS.values() for node in graph["prompt"].values()} - set(nodes):
        (row,) = told[name]
        assert row["new_node_id"] in nodes
