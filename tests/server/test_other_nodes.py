"""Nodes that neither a template nor another file of these tests queues: each in a graph of the running server."""

import itertools

import controlnets
import numpy as np
import pytest
import support
from browser import demo_files
from graphs import Graph, follow, texts
from safetensors.torch import save_file

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host
NEW_SEED = itertools.count(520_000)
dev = support.dev
AT_ONCE = dev.load_pack("constants").AT_ONCE


@pytest.fixture
def graph(server):
    return Graph.demo(server).set("KSampler", seed=next(NEW_SEED), steps=4)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def painted(server, graph):
    (path,) = graph.run(server)
    return pixels(path)


def only(graph, *keys):
    """The graph without what these nodes do not need, so that they alone are run."""
    kept, left = {}, list(keys)
    while left:
        key = left.pop()
        kept[key] = graph.nodes[key]
        left += [v[0] for v in kept[key]["inputs"].values() if isinstance(v, list) and v[0] not in kept]
    return Graph(kept)


def ended(messages):
    """Of a run's messages: how it ended, and what nodes told."""
    last = messages[-1]
    assert last["type"] == "execution_success", last["data"].get("exception_message")
    return "\n".join(texts(messages))


# Node -> its inputs besides MODEL, and whether the picture is another than without it.
ON_THE_MODEL = {
    "ChromaSkipBlocks": ({"double_blocks": "0", "single_blocks": "", "start_percent": 0.0, "end_percent": 1.0}, True),
    "ChromaRoPEScaling": ({"method": "ntk", "over_time": "fixed", "base_size": 64}, True),
    "ChromaCache": ({"forecast": "planned", "forecast.compute": 0.7}, True),
    "ChromaLoraLoader": ({"lora_name": demo_files.LORA, "strength_model": 1.0}, True),
}


@pytest.mark.parametrize("kind", ON_THE_MODEL)
def test_a_node_on_the_model_changes_the_picture_and_ends_with_it(server, graph, kind):
    inputs, changes = ON_THE_MODEL[kind]
    graph.set("KSampler", steps=8)
    plain = painted(server, graph)
    other = graph.copy()
    other.model_through(kind, **inputs)
    assert (painted(server, other) != plain).any() == changes
    assert (painted(server, graph.set("KSampler", denoise=0.9999)) == plain).all()  # the given model stays as it was


def test_rope_scaling_up_to_its_base_size_changes_nothing(server, graph):
    plain = painted(server, graph)
    graph.model_through("ChromaRoPEScaling", method="ntk", over_time="fixed", base_size=1024)
    assert (painted(server, graph) == plain).all()


def test_flash_gives_its_settings_to_chroma_ksampler(server, graph):
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    flash = graph.add(
        "ChromaFlash", model=k["model"], lora_name=demo_files.LORA, strength_model=1.0, steps=3, start=AT_ONCE
    )
    given = {"seed": next(NEW_SEED), "positive": k["positive"], "negative": k["negative"], "latent": k["latent_image"]}
    own = {"steps": 20, "cfg": 4.0, "sampler": "heun", "schedule": "linear", "shift": "1 (as trained)", "denoise": 1.0}
    sampler = graph.add(
        "ChromaKSampler", model=[flash, 0], settings=[flash, 1], skip_first_steps=0, quality="custom", **given, **own
    )
    graph.set("VAEDecode", samples=[sampler, 0])
    assert "cfg 1" in ended(follow(server, graph))


def test_measured_blocks_are_named_for_skip_blocks_and_drawn(server, graph):
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    measured = graph.add(
        "ChromaMeasureBlocks",
        model=k["model"],
        positive=k["positive"],
        latent=k["latent_image"],
        count=1,
        seed=1,
        steps=1,
    )
    names = {"double_blocks": [measured, 0], "single_blocks": [measured, 1]}
    graph.model_through("ChromaSkipBlocks", **names, start_percent=0.0, end_percent=1.0)
    graph.nodes[measured]["inputs"]["model"] = [graph.find("ChromaDiffusionLoader"), 0]
    picture = graph.find("SaveImage")
    bars = graph.add("SaveImage", images=[measured, 2], filename_prefix="bars")
    paths = only(graph, bars, picture).run(server)
    assert len(paths) == 3 and all(pixels(path).std() > 1 for path in paths)  # the node shows its bars too


def test_compared_models_are_told_and_drawn(server, graph):
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    loader = graph.nodes[graph.find("ChromaDiffusionLoader")]["inputs"]
    coarse = graph.add("ChromaDiffusionLoader", **{**loader, "quant_mode": "float8_e4m3fn (8 bit)"})
    compared = graph.add(
        "ChromaCompareModels",
        model=[coarse, 0],
        reference=k["model"],
        positive=k["positive"],
        latent=k["latent_image"],
        steps=1,
    )
    graph.nodes[compared]["inputs"]["reference"] = [graph.find("ChromaDiffusionLoader"), 0]
    told = ended(follow(server, only(graph, compared)))
    assert "%" in told or "relative" in told
    drawn = graph.add("SaveImage", images=[compared, 0], filename_prefix="errors")
    assert pixels(only(graph, drawn).run(server)[0]).std() > 1


def test_a_controlnet_moves_the_picture_within_its_range(server, graph, comfy):
    folder = dev.base_dir() / "models" / "controlnet"
    folder.mkdir(parents=True, exist_ok=True)
    width = demo_files.demo_weights()["img_in.weight"].shape[0]
    name = "chroma-demo-controlnet-of-latents.safetensors"  # benchmarks/soak.py has another one
    save_file(controlnets.state_dict("instantx", width, demo_files.TEXT_WIDTH), folder / name)
    plain = painted(server, graph)
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    control = graph.add("ControlNetLoader", control_net_name=name)
    image = graph.add("LoadImage", image=demo_files.PICTURE)
    applied = graph.add(
        "ChromaControlNetApply",
        **{"positive": k["positive"], "negative": k["negative"], "control_net": [control, 0], "image": [image, 0]},
        **{"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "guidance": 3.5},
        vae=[graph.find("VAELoader"), 0],
    )
    k["positive"], k["negative"] = [applied, 0], [applied, 1]
    assert (painted(server, graph) != plain).any()
    graph.nodes[applied]["inputs"]["strength"] = 0.0
    assert (painted(server, graph) == plain).all()


def test_schedules_are_plotted(server, graph):
    model = {"model": [graph.find("ChromaDiffusionLoader"), 0]}
    sigmas = [
        graph.add("ChromaSigmoidOffsetScheduler", steps=8, square_k=1.0, base_c=0.5, **model, denoise=1.0),
        graph.add("BasicScheduler", **model, steps=8, scheduler="beta", denoise=1.0),
    ]
    plot = graph.add("ChromaSigmasPlot", sigmas_1=[sigmas[0], 0], sigmas_2=[sigmas[1], 0], label_1="own")
    drawn = graph.add("SaveImage", images=[plot, 0], filename_prefix="plot")
    assert pixels(only(graph, drawn).run(server)[0]).std() > 1


FLUXMOD = {"seed": 5, "steps": 3, "cfg": 1.5, "sampler_name": "euler", "scheduler": "beta", "denoise": 1.0}


def test_fluxmods_samplers_are_the_hosts_own(server, graph):
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    same = {name: k[name] for name in ("model", "positive", "negative", "latent_image")}
    graph.set("KSampler", **FLUXMOD)
    plain = painted(server, graph)
    other = graph.copy()
    sampler = other.add("KSamplerMod", **same, **FLUXMOD, activation_casting="bf16")
    other.set("VAEDecode", samples=[sampler, 0])
    assert np.abs(painted(server, other) - plain).mean() < 8  # of 255; bf16 against float32
    third = graph.copy()
    chosen = third.add("KSamplerSelect", sampler_name="euler")
    wrapped = third.add("FluxModSamplerWrapperNode", sampler=[chosen, 0], activation_casting="bf16")
    sigmas = third.add("BasicScheduler", model=k["model"], steps=3, scheduler="beta", denoise=1.0)
    custom = third.add(
        "SamplerCustom",
        **{"model": k["model"], "add_noise": True, "noise_seed": 5, "cfg": 1.5, "positive": k["positive"]},
        **{
            "negative": k["negative"],
            "sampler": [wrapped, 0],
            "sigmas": [sigmas, 0],
            "latent_image": k["latent_image"],
        },
    )
    third.set("VAEDecode", samples=[custom, 0])
    assert (painted(server, third) == painted(server, other.set("SaveImage", filename_prefix="again"))).all()


def test_no_node_of_the_pack_is_missing_here_and_elsewhere(server):
    """A node that is new has to be queued somewhere: in a template, in this folder, or in the pages' tests."""
    info = server.get("/object_info")
    ours = {name for name, node in info.items() if node["python_module"] == "custom_nodes.chroma-pack"}
    roots = [support.ROOT / "tests" / "server", support.ROOT / "example_workflows", support.ROOT / "tests" / "browser"]
    written = "\n".join(
        p.read_text(encoding="utf-8") for r in roots for p in r.rglob("*") if p.suffix in (".py", ".json")
    )
    expanded = {"ChromaRowValue", "ChromaXYPlotCell"}  # Chroma Prompt List and Chroma XY Plot put them into the graph
    assert {name for name in ours - expanded if f'"{name}"' not in written} == set()
