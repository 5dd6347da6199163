"""Chroma Speed in a running ComfyUI: under Chroma KSampler, KSampler and SamplerCustomAdvanced, and in the pictures' metadata."""

import itertools
import json

import numpy as np
import pytest
import support
from graphs import Graph, follow, texts

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host
NEW_SEED = itertools.count(440_000)
TIMES = support.dev.load_pack("constants").TIMES


@pytest.fixture
def graph(server):
    return Graph.demo(server)


def with_speed(graph, speed="draft", **inputs):
    """The demo's graph with a Chroma Speed between model and sampler. returns: its id, the seed and KSampler's inputs."""
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    k["seed"] = next(NEW_SEED)
    k["model"] = graph.nodes[graph.find("ModelSamplingAuraFlow")]["inputs"]["model"]
    node = graph.add("ChromaSpeed", model=k["model"], speed=speed, **inputs)
    return node, k["seed"], k


def sampled_by(graph, kind, **inputs):
    sampler = graph.add(kind, **inputs)
    graph.set("VAEDecode", samples=[sampler, 0])
    return sampler


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def facts_of(server, graph, node):
    """What the picture of a run that a page has queued says of a node."""
    body = {"prompt": graph.nodes, "client_id": "test", "extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}}}
    entry = server.wait(server.post("/prompt", body)["prompt_id"])
    (image,) = [image for output in entry["outputs"].values() for image in output.get("images", [])]
    path = support.dev.base_dir() / "output" / image["subfolder"] / image["filename"]
    return json.loads(Image.open(path).text["chroma_run"])[node]


def chroma_ksampler(graph, k, **inputs):
    given = {name: k[name] for name in ("seed", "positive", "negative")}
    own = {"steps": 3, "cfg": 1.0, "sampler": "heun", "schedule": "linear", "shift": "1 (as trained)", "denoise": 1.0}
    own |= {"skip_first_steps": 0, "latent": k["latent_image"], "quality": "custom"}  # which do not count
    return sampled_by(graph, "ChromaKSampler", **given, **own, **inputs)


def test_with_chroma_ksampler_it_is_that_samplers_own_choice(server, graph):
    speed, _, k = with_speed(graph)
    chroma_ksampler(graph, k, model=[speed, 0], settings=[speed, 5])
    shown = "\n".join(texts(follow(server, graph.copy())))
    assert "draft: chroma-demo, recognised by the name" in shown
    assert "12 prompts to compute instead of 40: about 3.3 times as fast" in shown
    graph.nodes[graph.find("ChromaKSampler")]["inputs"]["seed"] = seed = next(NEW_SEED)
    (found,) = graph.run(server)
    alone = Graph.demo(server)
    _, _, k = with_speed(alone)
    chroma_ksampler(alone, {**k, "seed": seed}, model=k["model"])
    alone.nodes[alone.find("ChromaKSampler")]["inputs"]["quality"] = "draft"
    (expected,) = alone.run(server)
    assert (pixels(found) == pixels(expected)).all()


def custom_sampler(graph, speed, seed, k):
    guider = graph.add("CFGGuider", model=[speed, 0], positive=k["positive"], negative=k["negative"], cfg=[speed, 4])
    noise = graph.add("RandomNoise", noise_seed=seed)
    links = {"noise": [noise, 0], "guider": [guider, 0], "sampler": [speed, 1], "sigmas": [speed, 2]}
    return sampled_by(graph, "SamplerCustomAdvanced", **links, latent_image=k["latent_image"])


def test_with_other_samplers_the_picture_says_so_too(server, graph):
    speed, seed, k = with_speed(graph, TIMES, **{"speed.times": 2.0})
    sampler = custom_sampler(graph, speed, seed, k)
    report = graph.add("ChromaRunReport", latent=[sampler, 0], guidance=[speed, 0])
    graph.set("VAEDecode", samples=[report, 0])
    shown = texts(follow(server, graph.copy()))
    told = [text for text in shown if "about 2 times as fast: chroma-demo" in text and "s a step" in text]
    assert told, shown  # of the run, on this node
    assert "10 steps, cfg 3, chroma_sigma_2m, beta alpha 0.6 beta 0.6, shift 1" in told[0]
    noise = graph.nodes[graph.nodes[sampler]["inputs"]["noise"][0]]["inputs"]
    noise["noise_seed"] = next(NEW_SEED)  # Chroma Speed itself then comes out of the cache
    facts = facts_of(server, graph, report)
    assert facts["settings"]["quality"] == "about 2 times as fast" and facts["prompts_computed"] == 20


def test_flash_is_refused_for_a_model_without_flash(server, graph):
    speed, seed, k = with_speed(graph, "flash")
    custom_sampler(graph, speed, seed, k)
    assert "quality is flash, and the model is chroma-demo" in graph.fails(server)
