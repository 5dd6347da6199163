"""Chroma Studio on a real server: each mode paints what the shipped workflow of that kind paints, to the last bit."""

import itertools
import json

import numpy as np
import pytest
import support
from browser import demo_files
from browser.swap import with_demo_files
from graphs import Graph, follow, texts

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host

dev = support.dev
NEW_SEED = itertools.count(190_000)
PROMPT, NEGATIVE = "a red circle on a blue background", "a green square"
FILES = {
    "unet_name": "chroma-demo.safetensors",
    "clip_name": "chroma-demo-t5.safetensors",
    "vae_name": "chroma-demo-vae.safetensors",
}
OWN = {"steps": 4, "cfg": 3.5, "sampler": "res_multistep", "schedule": "beta", "shift": "1 (as trained)"}
EDIT = {"steps": 4, "cfg": 1.0, "sampler": "euler", "schedule": "simple", "shift": "by resolution"}
LOAD = {"class_type": "LoadImage", "inputs": {"image": demo_files.PICTURE}, "_meta": {"title": ""}}
PICTURE, MASK = ["load", 0], ["load", 1]
# Mode -> the workflow, the mode's inputs, and the sampler's values there.
PLAIN = {
    "text to image": ("chroma_text_to_image", {"width": 128, "height": 128}, OWN),
    "image to image": ("chroma_image_to_image", {"image": PICTURE, "denoise": 0.6, "megapixels": 0}, OWN),
    "inpaint": (
        "chroma_inpaint_detail",
        {"image": PICTURE, "mask": MASK, "denoise": 0.8, "megapixels": 0.02, "context": 1.5},
        OWN,
    ),
    "enlarge": ("chroma_hires", {"width": 128, "height": 128, "factor": 1.5, "denoise": 0.45}, OWN),
    "edit": ("chroma_edit", {"image": PICTURE, "megapixels": 0.02, "guidance": 2.5}, EDIT),
}


def studio(mode, mode_inputs, own=OWN, **inputs):
    """A graph of a Chroma Studio and what it needs."""
    values = {"mode": mode, **{f"mode.{name}": value for name, value in mode_inputs.items()}}
    values |= {"quality": "custom", **{f"quality.{name}": value for name, value in own.items()}}
    values |= {"prompt": PROMPT, "negative": NEGATIVE, "seed": 1, **FILES, "loras": "none", **inputs}
    save = {"images": ["1", 0], "filename_prefix": "studio"}
    nodes = {
        "1": {"class_type": "ChromaStudio", "inputs": values, "_meta": {"title": ""}},
        "2": {"class_type": "SaveImage", "inputs": save, "_meta": {"title": ""}},
    }
    return Graph({**nodes, "load": LOAD} if PICTURE in values.values() else nodes)


def plain(server, name, seed, own):
    """A shipped workflow with the demo's files and this test's values."""
    saved = json.loads((support.ROOT / "example_workflows" / f"{name}.json").read_text())
    graph = Graph(with_demo_files(dev.api_graph(saved, server.get("/object_info"))))
    for node in graph.nodes.values():
        if node["class_type"] == "ChromaKSampler":
            node["inputs"] |= {**own, "seed": seed, "quality": "custom"}
        elif node["class_type"] == "ChromaTextEncode":
            node["inputs"]["text"] = NEGATIVE if node["inputs"].get("used_as") == "negative" else PROMPT
        elif node["class_type"] == "EmptySD3LatentImage" and not isinstance(node["inputs"]["width"], list):
            node["inputs"] |= {"width": 128, "height": 128}
    return graph


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def painted(graph, server):
    (path,) = graph.run(server)
    return pixels(path)


@pytest.mark.parametrize("mode", PLAIN)
def test_mode_paints_what_the_plain_graph_paints(server, mode):
    name, inputs, own = PLAIN[mode]
    seed = next(NEW_SEED)
    found, expected = (
        painted(studio(mode, inputs, own, seed=seed), server),
        painted(plain(server, name, seed, own), server),
    )
    assert found.shape == expected.shape and found.std() > 1
    assert (found == expected).all()


@pytest.mark.parametrize("right, cut", [(64, 0), (60, 6)], ids=["whole patches", "others"])
def test_outpainting_keeps_what_was_there_and_paints_the_rest(server, right, cut):
    """cut: at the left, of what is more than whole patches."""
    inputs = {"image": PICTURE, "left": 0, "top": 0, "right": right, "bottom": 0, "feathering": 8, "megapixels": 0}
    found = painted(studio("outpaint", inputs, seed=next(NEW_SEED)), server)
    before = pixels(dev.base_dir() / "input" / demo_files.PICTURE)
    assert found.shape == (128, 128 + right - 2 * cut, 3)
    assert np.abs(found[:, : 119 - cut] - before[:, cut:119]).max() <= 1  # of 255; rounding
    assert found[:, 136:].std() > 5  # grey before it is painted
    assert found[:, -4:].std() > 2


def test_linked_model_clip_and_vae_and_loras_paint_the_same_as_files(server):
    seed, size = next(NEW_SEED), {"width": 128, "height": 128}
    lora = {"loras": "1", "loras.lora_1": demo_files.LORA, "loras.strength_1": 1.0}
    without = painted(studio("text to image", size, seed=seed), server)
    by_files = painted(studio("text to image", size, seed=seed, **lora), server)
    linked = studio("text to image", size, seed=seed, **lora, model=["m", 0], clip=["c", 0], vae=["v", 0])
    for key, kind, name in (("m", "ChromaDiffusionLoader", "unet_name"), ("c", "ChromaCLIPLoader", "clip_name")):
        more = {"quant_mode": "auto"} if key == "m" else {}
        linked.nodes[key] = {"class_type": kind, "inputs": {name: FILES[name], **more}, "_meta": {"title": ""}}
    linked.nodes["v"] = {"class_type": "VAELoader", "inputs": {"vae_name": FILES["vae_name"]}, "_meta": {"title": ""}}
    for name in FILES:
        del linked.nodes["1"]["inputs"][name]
    assert (painted(linked, server) == by_files).all() and (by_files != without).any()


def run_by(server, graph):
    """Ids of the nodes that were computed, not taken from the cache."""
    messages = [m for m in follow(server, graph) if isinstance(m, dict)]
    assert messages[-1]["type"] == "execution_success", messages[-1]
    return {m["data"]["node"] for m in messages if m["type"] == "executing" and m["data"]["node"]}, texts(messages)


@pytest.mark.parametrize("linked", [False, True], ids=["files", "linked model"])
def test_another_seed_loads_and_encodes_nothing_anew(server, linked):
    graph = studio("image to image", {"image": PICTURE, "denoise": 0.6, "megapixels": 0.02}, seed=next(NEW_SEED))
    if linked:
        inputs = {"unet_name": FILES["unet_name"], "quant_mode": "auto"}
        graph.nodes["m"] = {"class_type": "ChromaDiffusionLoader", "inputs": inputs, "_meta": {"title": ""}}
        graph.set("ChromaStudio", model=["m", 0])
    server.free()
    first, told = run_by(server, graph)
    inner = {key.removeprefix("1.0.0.") for key in first}
    assert {"clip", "vae", "prompt", "negative", "scale", "encode", "sampler", "decode"} <= inner
    assert ("m" in first) == linked and ("model" in inner) == (not linked)
    assert any("13.1 M parameters" in text for text in told) and any("of 512 tokens" in text for text in told)
    second, _ = run_by(server, graph.set("ChromaStudio", seed=next(NEW_SEED)))
    assert {key.removeprefix("1.0.0.") for key in second} == {"1", "2", "sampler", "decode"}
    third, told = run_by(server, graph)
    assert "1" not in third and any(text.startswith("image to image, custom: ") for text in told)  # told again


def test_quality_takes_the_checkpoints_settings(server):
    graph = studio("text to image", {"width": 128, "height": 128}, seed=next(NEW_SEED))
    inputs = graph.nodes["1"]["inputs"]
    for name in OWN:
        del inputs[f"quality.{name}"]
    inputs["quality"] = "draft"
    _, told = run_by(server, graph)
    assert any("draft: chroma-demo, recognised" in text and "6 steps, cfg 3" in text for text in told)


def test_linked_prompt_is_taken(server):
    seed, size = next(NEW_SEED), {"width": 128, "height": 128}
    linked = studio("text to image", size, seed=seed, prompt=["p", 0])
    linked.nodes["p"] = {
        "class_type": "ChromaPrompt",
        "inputs": {"text": PROMPT, "style": "photograph"},
        "_meta": {"title": ""},
    }
    typed = studio("text to image", size, seed=seed)
    assert (painted(linked, server) == painted(typed, server)).all()


SMALL = {"width": 128, "height": 128}
FAILING = {
    "a file that is not there": (("text to image", SMALL), {"unet_name": "absent.safetensors"}, "not among the model files"),
    "a VAE that is not there": (("text to image", SMALL), {"vae_name": "absent.safetensors"}, "not among the VAE files"),
    "no model": (("text to image", SMALL), {"unet_name": demo_files.MODULATOR}, "Approximator"),
    "flash": (("text to image", SMALL), {"quality": "flash"}, "quality is flash, and the model is chroma-demo"),
    "nothing added": (("outpaint", {"image": PICTURE, **dict.fromkeys(("left", "top", "right", "bottom", "feathering"), 0), "megapixels": 0}), {}, "so nothing is added"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILING)
def test_error_of_an_inner_node_is_the_studios_with_its_sentence(server, case):
    (mode, inputs), changes, told = FAILING[case]
    graph = studio(mode, inputs, seed=next(NEW_SEED), **changes)
    if changes.get("quality"):
        graph.nodes["1"]["inputs"] = {
            k: v for k, v in graph.nodes["1"]["inputs"].items() if not k.startswith("quality.")
        }
    error = graph.fails(server)
    assert error.startswith("ChromaStudio: ") and told in error and "Traceback" not in error


def test_route_gives_the_graph_that_the_node_expands_into(server):
    inputs = {"mode": "edit", "mode.image": ["outside:mode.image", 0], "prompt": "x", "loras": "none", **FILES}
    answer = server.post("/chroma/studio", {"inputs": inputs})
    assert answer["nodes"]["scale"]["inputs"]["image"] == ["outside:mode.image", 0]
    assert answer["output"] == ["decode", 0]
    assert "edit needs a picture" in server.post("/chroma/studio", {"inputs": {"mode": "edit", **FILES}})["error"]
    assert "inputs is None; allowed is an object" in server.post("/chroma/studio", {})["error"]
