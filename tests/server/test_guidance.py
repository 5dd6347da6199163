"""The guidance nodes in a running ComfyUI, over its HTTP API, with the demo model."""

import json
import re

import numpy as np
import pytest
import support
from graphs import Graph, follow, texts

pytestmark = pytest.mark.host


@pytest.fixture
def graph(server):
    return Graph.demo(server)


def pixels(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB")).astype(float) / 255


def with_guider(graph, node="ChromaCFGGuider", report=False, **inputs):
    """The demo graph with SamplerCustomAdvanced in place of its KSampler; gives the ids of guider and sampler."""
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    noise = graph.add("RandomNoise", noise_seed=k["seed"])
    guider = graph.add(node, model=k["model"], positive=k["positive"], negative=k["negative"], cfg=k["cfg"], **inputs)
    sampler = graph.add("KSamplerSelect", sampler_name=k["sampler_name"])
    sigmas = graph.add("BasicScheduler", model=k["model"], scheduler=k["scheduler"], steps=k["steps"], denoise=1.0)
    custom = graph.add(
        "SamplerCustomAdvanced",
        noise=[noise, 0],
        guider=[guider, 0],
        sampler=[sampler, 0],
        sigmas=[sigmas, 0],
        latent_image=k["latent_image"],
    )
    last = graph.add("ChromaRunReport", latent=[custom, 0], guidance=[guider, 0]) if report else custom
    graph.set("VAEDecode", samples=[last, 0])
    return guider, custom


EVERYTHING = {
    "skip_first_steps": 1,
    "interval": "percent",
    "interval.start": 0.0,
    "interval.end": 0.9,
    "curve": "cosine",
    "curve.end": 1.5,
    "form": "APG",
    "form.eta": 0.1,
    "form.norm_threshold": 0.0,
    "form.momentum": -0.3,
    "rescale": 0.3,
    "normalise": True,
    "zero_init_steps": 0,
    "adaptive": "stop when alike",
    "adaptive.threshold": 0.9999,
    "alternate": True,
    "pairing": "paired",
}


def test_the_guider_gives_what_ksampler_gives(server, graph):
    graph.set("KSampler", seed=501, steps=4)
    reference = pixels(graph.copy().run(server)[0])
    with_guider(graph)
    assert (pixels(graph.run(server)[0]) == reference).all()


def test_guider_and_patch_give_one_picture_with_everything_on(server, graph):
    graph.set("KSampler", seed=502, steps=6)
    plain = pixels(graph.copy().run(server)[0])
    patched = graph.copy()
    k = patched.nodes[patched.find("KSampler")]["inputs"]
    k["model"] = [patched.add("ChromaGuidance", model=k["model"], **EVERYTHING), 0]
    by_patch = pixels(patched.run(server)[0])
    with_guider(graph, **EVERYTHING)
    assert (pixels(graph.run(server)[0]) == by_patch).all()
    assert abs(by_patch - plain).mean() > 1e-3


def test_the_read_out_is_on_the_node_and_in_the_picture(server, graph):
    from PIL import Image

    graph.set("KSampler", seed=503, steps=5)
    with_guider(graph, report=True, skip_first_steps=2)
    body = {"prompt": graph.nodes, "client_id": "test", "extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}}}
    entry = server.wait(server.post("/prompt", body)["prompt_id"])
    images = [image for output in entry["outputs"].values() for image in output.get("images", [])]
    picture = Image.open(support.dev.base_dir() / "output" / images[0]["subfolder"] / images[0]["filename"])
    facts = json.loads(picture.text["chroma_run"])[graph.find("ChromaRunReport")]
    assert facts["steps"] == 5 and facts["prompts_computed"] == 8 and facts["uncond_skipped"] == 2
    assert len(facts["cosines"]) == 3 and facts["seconds"] > 0
    assert json.loads(picture.text["workflow"]) == {"nodes": []}


def test_the_read_out_is_shown_when_the_run_ends(server, graph):
    graph.set("KSampler", seed=504, steps=3)
    with_guider(graph, report=True, skip_first_steps=1)
    shown = [t for t in texts(follow(server, graph)) if "prompts computed" in t]
    assert len(shown) == 2  # on the guider, and on the report
    first, rest = shown[0].split("\n", 1)
    assert re.fullmatch(r"[\d.]+ s, [\d.]+ s a step", first)
    assert rest.startswith("3 steps, cfg 3: 5 prompts computed in 3 forwards; plain CFG computes 6\n1 uncond skipped")
    assert "queued without metadata" in shown[1]


@pytest.mark.parametrize(
    "inputs, words",
    [
        ({"curve": "list", "curve.values": "3, x"}, "'x' in the list of cfg values is no number"),
        ({"curve": "list", "curve.values": " "}, "list of cfg values is empty"),
        ({"interval": "sigma", "interval.high": 0.2, "interval.low": 0.5}, "interval's lower sigma is 0.5"),
        ({"form": "best"}, "form is 'best'; it must be one of plain, CFG-Zero"),
    ],
    ids=str,
)
def test_bad_settings_are_told_and_the_server_lives(server, graph, inputs, words):
    import re

    broken = graph.copy()
    with_guider(broken, **inputs)
    assert re.search(words, broken.fails(server))
    assert graph.set("KSampler", seed=505).run(server)


def test_a_missing_negative_prompt_is_told(server, graph):
    graph.set("KSampler", seed=506)
    guider, _ = with_guider(graph)
    del graph.nodes[guider]["inputs"]["negative"]
    assert "there is no negative prompt. Connect one" in graph.fails(server)
    graph.nodes[guider]["inputs"]["cfg"] = 1.0
    assert graph.run(server)


def test_a_report_without_guidance_is_told(server, graph):
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    report = graph.add("ChromaRunReport", latent=[graph.find("KSampler"), 0], guidance=k["model"])
    graph.set("VAEDecode", samples=[report, 0])
    assert any("no Chroma guidance on the connected input" in text for text in texts(follow(server, graph)))


def test_nag_at_cfg_one_changes_the_picture_and_its_end_is_free(server, graph):
    graph.set("KSampler", seed=507, steps=4, cfg=1.0)
    plain = pixels(graph.copy().run(server)[0])
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    nag = graph.add("ChromaNAG", model=k["model"], negative=k["negative"], scale=5.0, tau=2.5, alpha=0.5)
    k["model"] = [nag, 0]
    shown = texts(follow(server, graph))
    assert any("tokens, in 12 of 12 blocks" in t for t in shown), shown
    moved = pixels(graph.set("KSampler", seed=507).run(server)[0])
    assert abs(moved - plain).mean() > 0.01
    graph.nodes[nag]["inputs"].update(start=0.6, end=0.4)
    assert "start is 0.6 and end is 0.4" in graph.fails(server)


@pytest.mark.slow
def test_nag_takes_from_the_demo_models_pictures_what_is_named(comfy, inference):
    """32 pictures of the empty prompt at cfg 1: blue grounds and things in 3D, without NAG and away from them."""
    benchmark = pytest.importorskip("benchmarks.guidance")
    from demo import evaluate

    studio = evaluate.Studio("fp32")
    base, nag = studio.model, support.dev.load_pack("host.run.nag")
    negative = nag.negative_text([[studio.text(benchmark.AWAY), {}]])
    away = nag.AttentionGuided(negative, 5.0, 2.5, 0.25, (0.0, 1.0), None).on(base)
    without, moved = (benchmark.seen_of(studio, model, "", 32) for model in (base, away))
    named = benchmark.GROUND, benchmark.STYLE
    assert sum(without[n] for n in named) >= 6
    assert sum(moved[n] for n in named) < sum(without[n] for n in named) / 2
