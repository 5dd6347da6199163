"""The text nodes in the real server, with the demo's encoder."""

import itertools

import numpy as np
import pytest
import support
from graphs import Graph

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host
dev = support.dev
SEED = itertools.count(50_000)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def log():
    return (dev.cache_dir() / f"{dev.BASE}-server.log").read_text()


def test_words_beyond_the_limit_are_named_on_the_node(server):
    graph = Graph.demo(server).set("KSampler", seed=next(SEED))
    key = graph.find("ChromaTextEncode", "Prompt")
    graph.nodes[key]["inputs"]["text"] = "a red circle " * 200 + "and a walrus"
    assert pixels(graph.run(server)[0]).shape == (128, 128, 3)
    assert "dropped" in log() or "cut" in log()
    graph.nodes[key]["inputs"]["over_limit"] = "error"
    assert "512" in graph.fails(server)


def test_prompt_builder_feeds_the_encoder(server):
    graph = Graph.demo(server).set("KSampler", seed=next(SEED))
    info = server.get("/object_info")["ChromaPrompt"]["input"]
    inputs = {name: (spec[1].get("default", spec[0][0] if isinstance(spec[0], list) else spec[1].get("options", [""])[0]))
              for group in ("required", "optional") for name, spec in info.get(group, {}).items()}  # fmt: skip
    inputs["text"] = "a red circle on a blue background"
    builder = graph.add("ChromaPrompt", **inputs)
    graph.set("ChromaTextEncode", "Prompt", text=[builder, 0])
    assert pixels(graph.run(server)[0]).shape == (128, 128, 3)
