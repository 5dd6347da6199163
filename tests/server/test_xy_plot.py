"""Chroma XY Plot on a real server: each cell is the picture that the workflow paints with those values."""

import itertools
import json

import numpy as np
import pytest
import support
from browser.swap import with_demo_files
from graphs import Graph, follow, texts

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host

dev = support.dev
NEW_SEED = itertools.count(290_000)
CFGS, STEPS = [2.0, 5.0], [2, 3]
SIDE, TOP = 192, 64  # of a cell's picture; of the heads


def flow(server):
    saved = json.loads((support.ROOT / "example_workflows" / "chroma_text_to_image.json").read_text())
    graph = Graph(with_demo_files(dev.api_graph(saved, server.get("/object_info"))))
    graph.set("ChromaKSampler", seed=next(NEW_SEED), steps=2, cfg=2.0, quality="standard")  # which gives way
    graph.set("EmptySD3LatentImage", width=SIDE, height=SIDE)
    return graph


def plotted(graph, **inputs):
    """The workflow with a plot of its picture in the place of Save Image."""
    nodes = {key: dict(node) for key, node in graph.nodes.items()}
    (save,) = (key for key, node in nodes.items() if node["class_type"] == "SaveImage")
    picture = nodes[save]["inputs"]["images"]
    values = {"image": picture, "largest": SIDE, **inputs}
    nodes["plot"] = {"class_type": "ChromaXYPlot", "inputs": values, "_meta": {"title": ""}}
    nodes[save] = {**nodes[save], "inputs": {**nodes[save]["inputs"], "images": ["plot", 0]}}
    return Graph(nodes)


CFG_BY_STEPS = {
    "x": "cfg",
    "x.values": "2, 5",
    "y": "another input",
    "y.input": "steps",
    "y.values": "2\n3",
}


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def is_greeting(message):
    """ComfyUI tells a client that comes back the node it was at, if it has not yet forgotten it."""
    return message["type"] == "executing" and bool(message["data"]["node"]) and "display_node" not in message["data"]


def followed(server, graph):
    messages = [m for m in follow(server, graph) if isinstance(m, dict) and not is_greeting(m)]
    assert messages[-1]["type"] == "execution_success", messages[-1]["data"]["exception_message"]
    return messages


def run_copies(messages):
    """Copies that were run, in order, by the nodes that they were made from; a node that asks for more is told twice."""
    run = {
        m["data"]["node"]: m["data"]["display_node"] for m in messages if m["type"] == "executing" and m["data"]["node"]
    }
    return [shown for key, shown in run.items() if "-" in key]


def test_cells_are_the_pictures_of_the_workflow_with_those_values(server):
    graph = flow(server)
    (path,) = (p for p in plotted(graph, **CFG_BY_STEPS).run(server) if "temp" not in p.parts)
    sheet = pixels(path)
    grid = dev.load_pack("tables.grid")
    line = max(grid.LINE, SIDE // grid.LINES_PER_CELL)
    gap, above, beside = grid.GAP * line // grid.LINE, (grid.LABEL_LINES + 1) * line, max(SIDE // 2, 10 * line)
    for (i, cfg), (j, steps) in itertools.product(enumerate(CFGS), enumerate(STEPS)):
        (alone,) = graph.set("ChromaKSampler", cfg=cfg, steps=steps, quality="custom").run(server)
        left, top = beside + i * (SIDE + gap), above + j * (SIDE + above + gap)
        assert (sheet[top : top + SIDE, left : left + SIDE] == pixels(alone)).all(), (cfg, steps)
        below = sheet[top + SIDE : top + SIDE + above, left : left + SIDE]
        assert below.min() < 100  # seconds
    assert sheet[:above, beside:].min() < 100 and sheet[above:, :beside].min() < 100


def test_another_value_paints_what_is_new_and_progress_is_shown_where_it_is_made(server):
    graph = flow(server)
    (sampler,) = (key for key, node in graph.nodes.items() if node["class_type"] == "ChromaKSampler")
    messages = followed(server, plotted(graph, **CFG_BY_STEPS))
    assert run_copies(messages).count(sampler) == 4
    shown = {
        m["data"]["display_node"] for m in messages if m["type"] == "executing" and "-" in (m["data"]["node"] or "")
    }
    assert sampler in shown and "plot" not in shown
    told = {m["data"]["node"] for m in messages if m["type"] == "executed" and m["data"]["display_node"] == sampler}
    assert len(told - {sampler}) == 4  # a report of each run on the sampler that it is a copy of
    assert "4 pictures\nx: Chroma KSampler.cfg, 2 values\ny: Chroma KSampler.steps, 2 values" in texts(messages)
    again = followed(server, plotted(graph, **{**CFG_BY_STEPS, "x.values": "2, 3, 5"}))
    assert run_copies(again).count(sampler) == 2


@pytest.mark.parametrize(
    "inputs, told",
    [
        ({"x": "cfg", "x.values": "3, x", "y": "none"}, "x: cfg is 'x', expected a number from"),
        ({"x": "cfg", "x.values": "3", "y": "prompt", "y.values": ""}, "y: there are no values"),
        ({"x": "another input", "x.input": "nobody", "x.values": "3", "y": "none"}, "x: 'nobody' fills no input"),
        ({"x": "sampler", "x.values": "eulr", "y": "none"}, "x: sampler is 'eulr', expected one of euler, "),
    ],
)
def test_what_cannot_be_plotted_is_told_and_the_server_goes_on(server, inputs, told):
    assert told in plotted(flow(server), **inputs).fails(server)


def test_precisions_are_loaded_one_after_another(server):
    inputs = {"x": "precision", "x.values": "bf16, int8_convrot", "y": "seed", "y.values": "1..2"}
    messages = followed(server, plotted(flow(server), **inputs))
    run = run_copies(messages)
    assert len(run) == 2 + 4 + 4  # loaders, samplers, decoders
    first, second = (at for at, node in enumerate(run) if node == "1")
    assert first < 2 and second >= 5  # the second is loaded when both pictures of the first are there
