"""The Doctor's rules: each on a graph that deserves it, and none on graphs that do not, the pack's own first."""

import copy
import inspect
import json
import math
import random
import re

import pytest
import support
from queued_graphs import CASES, LONG, MORE, between, change, clean, custom, ksampler, node

doctor = support.dev.load_pack("advice.doctor")
models = support.dev.load_pack("advice.rules.models")
queued = support.dev.load_pack("advice.queued_graph")
queued_run = support.dev.load_pack("advice.queued_run")
presets = support.dev.load_pack("advice.presets")
FROM_PRESET = support.dev.load_pack("constants").FROM_PRESET
HARM, IDLE, HINT = support.dev.load_pack("advice.finding").SEVERITIES


def found(graph, record=None):
    return [(f.severity, f.node_id, f.title) for f in doctor.examine(graph, record)]


# --- no false alarms -----------------------------------------------------------------------------------------------------

WORKFLOWS = sorted([*(support.ROOT / "example_workflows").glob("*.json"), *support.dev.WORKFLOWS])
WIDGETS = {  # of nodes that were saved without the names of theirs; the host test uses the host's own definitions
    "ChromaDiffusionLoader": ("unet_name", "quant_mode"),
    "CLIPLoader": ("clip_name", "type", "device"),
    "VAELoader": ("vae_name",),
    "ModelSamplingAuraFlow": ("shift",),
    "CLIPTextEncode": ("text",),
    "EmptySD3LatentImage": ("width", "height", "batch_size"),
    "KSampler": ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
}
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = -10, -20  # ids of a subgraph's two ends


def api(workflow, kinds=None, prefix="", outside=None):
    """A saved workflow as a prompt, with its subgraphs in place of their nodes. outside: input slot -> link there."""
    kinds = kinds or {s["id"]: s for s in workflow.get("definitions", {}).get("subgraphs", [])}
    links = {}
    for link in workflow["links"]:
        of = link if isinstance(link, dict) else dict(zip(("id", "origin_id", "origin_slot"), link))
        links[of["id"]] = (of["origin_id"], of["origin_slot"])
    nodes = {n["id"]: n for n in workflow["nodes"]}

    def source(link):
        origin, slot = links[link]
        if origin == SUBGRAPH_INPUT:
            return (outside or {}).get(slot)
        if nodes[origin]["type"] not in kinds:
            return [f"{prefix}{origin}", slot]
        inner = kinds[nodes[origin]["type"]]
        ends = {of["id"]: of for of in inner["links"]}
        end = ends[inner["outputs"][slot]["linkIds"][0]]
        return [f"{prefix}{origin}:{end['origin_id']}", end["origin_slot"]]

    graph = {}
    for n in workflow["nodes"]:
        if n.get("mode", 0) != 0:
            continue
        linked = {i["name"]: source(i["link"]) for i in n.get("inputs", []) if i.get("link") is not None}
        if n["type"] in kinds:
            given = {k: linked[i["name"]] for k, i in enumerate(n["inputs"]) if i["name"] in linked}
            graph |= api(kinds[n["type"]], kinds, f"{prefix}{n['id']}:", given)
            continue
        names = [i["name"] for i in n.get("inputs", []) if "widget" in i] or WIDGETS.get(n["type"], ())
        names = [name for own in names for name in ((own, None) if own.endswith("seed") else (own,))]
        inputs = {name: value for name, value in zip(names, n.get("widgets_values") or ()) if name}
        graph[f"{prefix}{n['id']}"] = node(n["type"], **inputs | {k: v for k, v in linked.items() if v is not None})
    return graph


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_own_workflow_has_no_finding(path):
    assert found(api(json.loads(path.read_text()))) == []


def test_workflows_are_read_with_their_subgraphs():
    graphs = [api(json.loads(path.read_text())) for path in WORKFLOWS]
    runs = [run for graph in graphs for run in queued_run.runs(queued.Graph(graph), {})]
    assert len(runs) >= len(WORKFLOWS)  # each paints something
    assert all(run.is_chroma and run.steps and run.cfg and run.sampler and run.file for run in runs)


@pytest.mark.parametrize(
    "graph",
    [
        clean(),
        custom(),
        custom(guider="ChromaCFGGuider"),
        clean(file="my-own-merge.safetensors", cfg=1.0, steps=8),  # what it is made for is not known
        clean(file="Chroma1-Flash.safetensors", cfg=1.0, steps=8, sampler_name="heun"),
        between(clean(file="Chroma1-HD.safetensors", cfg=1.0, steps=8), "LoraLoaderModelOnly", lora_name="chroma-flash-r64.safetensors", strength_model=1.0),
        change(clean(), "6", text=LONG),
        change(clean(), "9", width=1216, height=832),
        between(clean(), "EasyCache", reuse_threshold=0.2),
        between(clean(sampler_name="euler_cfg_pp", cfg=1.0), "ChromaNAG", key="51"),
        custom() | {"23": node("ChromaScheduler", model=["4", 0], curve="karras", steps=26)},
        {"1": node("CheckpointLoaderSimple", ckpt_name="sdxl.safetensors"), "2": node("KSampler", model=["1", 0], positive=["3", 0], negative=["3", 0], latent_image=["4", 0], cfg=7.0, scheduler="karras", steps=5)},
        {},
    ],
    ids=range(13),
)  # fmt: skip
def test_sound_graph_has_no_finding(graph):
    assert found(graph) == []


# --- the seven of the plan -----------------------------------------------------------------------------------------------


def test_negative_prompt_at_cfg_1_does_nothing():
    graph = change(clean(file="x-chroma.safetensors", cfg=1.0), "6", text=LONG)
    assert found(graph) == [(IDLE, "10", "the negative prompt does nothing at cfg 1")]
    assert found(change(copy.deepcopy(graph), "10", cfg=1.5)) == []
    assert found(change(copy.deepcopy(graph), "10", sampler_name="euler_cfg_pp")) == []
    assert found(between(copy.deepcopy(graph), "ChromaNAG")) == []
    assert found(between(copy.deepcopy(graph), "ChromaGuidance", curve="list", **{"curve.values": "5, 4"})) == []


@pytest.mark.parametrize("cfg, harmful", [(4.0, True), (2.1, True), (2.0, False), (1.0, False)])
def test_flash_with_cfg_4_does_harm(cfg, harmful):
    title = (HARM, "10", f"cfg {cfg:g} with a model for few steps")
    flash = clean(file="Chroma1-Flash.safetensors", cfg=cfg, steps=8)
    lora = between(
        clean(cfg=cfg, steps=8), "ChromaLoraLoader", lora_name="chroma-flash-heun_r64.safetensors", strength_model=1.0
    )
    for graph in (flash, lora):
        assert found(graph) == [title] * harmful
    assert title not in found(change(lora, "50", strength_model=0.0))  # then it is Chroma1-HD


def last_sigma(shift, steps):
    sigmas = support.dev.load_pack("samplers.schedules")
    return float(sigmas.fixed_shift(steps, shift=shift)[-2])


def test_flux_shift_with_8_steps_of_simple_does_harm():
    graph = clean(file="Chroma1-Flash.safetensors", cfg=1.0, steps=8, scheduler="simple")
    assert found(graph) == []
    for key, inputs in (
        ("ModelSamplingFlux", {"max_shift": 1.15, "base_shift": 0.5, "width": 1024, "height": 1024}),
        ("ModelSamplingAuraFlow", {"shift": math.exp(1.15)}),
        ("ChromaTimestepShift", {"mode": "fixed", "mode.shift": math.exp(1.15)}),
    ):
        graph["4"] = node(key, model=["1", 0], **inputs)
        (finding,) = doctor.examine(graph)
        assert (finding.severity, finding.title) == (HINT, "8 steps of simple at a shift of 3.16")
        assert f"{last_sigma(math.exp(1.15), 8):.2f} to 0" in finding.text and last_sigma(
            math.exp(1.15), 8
        ) == pytest.approx(0.311, abs=5e-4)
    graph["4"] = node("Reroute", model=["1", 0])  # ComfyUI's own shift is the same
    assert [f.title for f in doctor.examine(graph)] == ["8 steps of simple at a shift of 3.16"]
    assert found(change(graph, "10", steps=26)) == [(HINT, "10", "the model's shift is ComfyUI's 3.16")]


@pytest.mark.parametrize(
    "file, side, severity",
    [
        ("Chroma1-Base.safetensors", 1536, HARM),
        ("Chroma1-Base.safetensors", 896, HINT),
        ("Chroma1-Base.safetensors", 512, None),
        ("Chroma1-HD.safetensors", 1536, HARM),
        ("Chroma1-HD.safetensors", 1152, None),
        ("Chroma1-HD.safetensors", 256, HINT),
        ("Chroma-DC-2K.safetensors", 1536, None),
        ("my-merge.safetensors", 1536, None),
        ("chroma-unlocked-v10.safetensors", 1024, HINT),  # v48's sizes, by analogy
        ("chroma-unlocked-v46.safetensors", 1024, HINT),
        ("chroma-unlocked-v48.safetensors", 1024, HARM),
    ],
)
def test_size_far_beyond_the_checkpoints_is_told(file, side, severity):
    graph = change(clean(file=file), "9", width=side, height=side)
    assert [f.severity for f in doctor.examine(graph)] == ([severity] if severity else [])


@pytest.mark.parametrize(
    "file, side, loader, remedy",
    [
        ("Chroma1-HD", 1536, "UNETLoader", "Paint it smaller and enlarge it, or use DC-2K, which was made for more."),
        ("Chroma1-HD", 2560, "UNETLoader", "Paint it smaller and enlarge it."),
        ("Chroma-DC-2K", 2560, "UNETLoader", "Paint it smaller and enlarge it."),
        ("Chroma-DC-2K", 2560, "ChromaDiffusionLoader", "Paint it smaller and enlarge it, or connect RoPE Scaling (Chroma)."),
        ("Chroma1-Radiance", 1536, "UNETLoader", "Paint it smaller and enlarge it."),
    ],
)  # fmt: skip
def test_remedy_for_a_size_is_none_that_is_used_already(file, side, loader, remedy):
    graph = change(change(clean(f"{file}.safetensors", loader), "9", width=side, height=side), "3", vae_name="x")
    if "Radiance" in file:
        change(graph, "3", vae_name="pixel_space")
    (finding,) = doctor.examine(graph)
    assert finding.remedy == remedy


@pytest.mark.parametrize(
    "kind, inputs, loader, told",
    [
        ("ChromaRoPEScaling", {"method": "yarn"}, "ChromaDiffusionLoader", False),
        ("ScaleROPE", {"scale_x": 0.5, "scale_y": 0.5}, "ChromaDiffusionLoader", False),
        ("ScaleROPE", {"scale_x": 1.0, "scale_y": 1.0}, "ChromaDiffusionLoader", True),
        ("ScaleROPE", {"scale_x": 0.5, "scale_y": 0.5}, "UNETLoader", True),
        ("DyPE_FLUX", {}, "UNETLoader", False),
        ("EasyCache", {}, "UNETLoader", True),
    ],
    ids=str,
)
def test_size_is_no_fault_where_positions_are_scaled(kind, inputs, loader, told):
    graph = change(between(clean(loader=loader), kind, **inputs), "9", width=2048, height=2048)
    assert ((HARM, "9", "2048 x 2048 with Chroma1-HD") in found(graph)) == told
    assert not told or len(found(graph)) == 1 + (kind == "ScaleROPE" and loader == "UNETLoader")


@pytest.mark.parametrize(
    "lora, severity",
    [("chroma-flash-heun_r64.safetensors", HARM), ("Hyper-Chroma-low-step-LoRA.safetensors", HINT)],
)
def test_cfg_of_a_lora_for_few_steps_is_a_hint_where_flashs_row_is_an_analogy(lora, severity):
    graph = between(clean(cfg=4.0, steps=8), "LoraLoaderModelOnly", lora_name=lora, strength_model=1.0)
    assert found(graph) == [(severity, "10", "cfg 4 with a model for few steps")]


def test_more_than_512_tokens_do_harm():
    words = " ".join(["fox"] * 600)
    (finding,) = doctor.examine(change(clean(), "5", text=words))
    assert (finding.severity, finding.node_id, finding.title) == (HARM, "5", "more than 512 tokens")
    assert "at least 601 tokens" in finding.text
    (finding,) = doctor.examine(change(clean(), "5", text="a fox"), {"tokens": {"a fox": 513}})
    assert "has 513 tokens" in finding.text
    assert doctor.examine(change(clean(), "5", text="a fox"), {"tokens": {"a fox": 512}}) == []
    ours = change(clean(), "5", class_type="ChromaTextEncode", text=words)
    assert found(ours) == [(IDLE, "5", "the end of the prompt is cut off")]
    assert found(change(ours, "5", over_limit="chunk and concatenate")) == []


def test_radiance_with_a_latent_vae_does_harm():
    graph = clean(file="Chroma1-Radiance-v0.4.safetensors", steps=30)
    assert found(graph) == [(HARM, "3", "Radiance with a latent VAE")]
    assert found(change(graph, "3", vae_name="pixel_space")) == []
    assert found(change(clean(), "3", vae_name="pixel_space")) == [(HARM, "3", "pixel_space without Radiance")]
    renamed = clean(file="my-merge.safetensors")  # the loader's report tells
    renamed["60"] = node("ChromaDoctor", model=["1", 0])
    record = {"node": "60", "variant": "Radiance", "file": "my-merge.safetensors"}
    assert found(renamed, record) == [(HARM, "3", "Radiance with a latent VAE")]
    assert found(clean(file="chroma-x0.safetensors")) == []  # latents or pixels: not known


@pytest.mark.parametrize(
    "name, model",
    [
        ("sd3_vae.safetensors", "Stable Diffusion 3"),
        ("SD3.5/diffusion_pytorch_model.safetensors", "Stable Diffusion 3"),
        ("sdxl_vae.safetensors", "SDXL"),
        ("vae-ft-mse-840000-ema-pruned.safetensors", "Stable Diffusion 1.5"),
        ("wan_2.1_vae.safetensors", "Wan"),
        ("Wan2_1_VAE_bf16.safetensors", "Wan"),
        ("qwen_image_vae.safetensors", "Qwen-Image"),
        ("hunyuan_video_vae_bf16.safetensors", "Hunyuan"),
        ("flux2-vae.safetensors", "FLUX.2"),
        ("ae.safetensors", None),
        ("flux_vae.safetensors", None),
        ("FLUX1/ae.sft", None),
        ("chroma_vae.safetensors", None),
        ("diffusion_pytorch_model.safetensors", None),
        ("FLUX.1-dev-vae-20250115.safetensors", None),
        ("taef1", None),
    ],
)
def test_vae_of_another_model_is_told_by_its_name(name, model):
    told = doctor.examine(change(clean(), "3", vae_name=name))
    assert [(f.severity, f.node_id, f.title) for f in told] == ([(HARM, "3", f"{name} with Chroma")] if model else [])
    assert all(f"it is {model}'s" in f.text and "ae.safetensors" in f.remedy for f in told)


@pytest.mark.parametrize("cache", ["EasyCache", "LazyCache", "DBCache"])
@pytest.mark.parametrize(
    "sampler, twice",
    [
        ("heun", True),
        ("dpmpp_sde", True),
        ("dpmpp_2s_ancestral", True),
        ("chroma_res_2s", True),
        ("res_2s", True),
        ("seeds_2", True),
        ("euler", False),
        ("res_multistep", False),
        ("chroma_res_2m", False),
        ("dpmpp_2m_sde", False),
        ("deis", False),
    ],
)
def test_cache_with_a_two_stage_sampler_does_harm(cache, sampler, twice):
    expected = [(HARM, "50", f"{cache} with {sampler}")] * twice
    assert found(between(clean(sampler_name=sampler), cache)) == expected
    assert found(between(custom(sampler=sampler), cache, below="21")) == expected


# --- the others ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph, expected", CASES)
def test_rule_finds_what_it_is_for_and_nothing_else(graph, expected):
    assert found(graph) == expected


def test_flux_with_an_approximator_is_left_alone():
    graph = clean(file="flux1-dev.safetensors", cfg=1.0, steps=20, scheduler="simple")
    graph["10"]["inputs"]["model"] = ["1", 0]
    graph["2"]["inputs"]["type"] = "flux"
    assert found(between(graph, "FluxGuidance", name="positive", guidance=3.5)) == []


def test_schnell_is_loaded_without_a_shift():
    graph = clean(file="flux1-schnell.safetensors", cfg=1.0, steps=4, scheduler="simple")
    graph["10"]["inputs"]["model"] = ["1", 0]
    graph["2"]["inputs"]["type"] = "flux"
    assert the_run(graph).shift == queued_run.Shift(1.0, None) and found(graph) == []
    graph["4"] = node("ModelSamplingAuraFlow", model=["1", 0], shift=math.exp(1.15))
    graph["10"]["inputs"]["model"] = ["4", 0]
    assert [f.title for f in doctor.examine(graph)] == ["4 steps of simple at a shift of 3.16"]


@pytest.mark.parametrize("variant", ["FLUX", "FLUX schnell"])
def test_flux_of_the_hosts_loader_is_left_alone(variant):
    """References and caches work there, and the model's kind is told by the connected model alone."""
    graph = between(clean(file="x.safetensors", loader="UNETLoader", scheduler="karras"), "TeaCache")
    between(graph, "ReferenceLatent", name="positive", key="51")
    graph["60"] = node("ChromaDoctor", model=["1", 0])
    record = {"node": "60", "file": "", "variant": variant}
    assert found(graph, record) == []
    assert found(change(graph, "1", unet_name="chroma-name.safetensors"), record) == []
    graph["1"] = node("ChromaDiffusionLoader", unet_name="x.safetensors")  # under an Approximator
    assert (HARM, "10", "the schedule karras with Chroma") in found(graph, record)


def test_what_the_hosts_own_chroma_does_not_look_at_is_told_for_it_alone():
    graph = between(clean(file="x.safetensors", loader="UNETLoader"), "ReferenceLatent", name="positive")
    graph["60"] = node("ChromaDoctor", model=["1", 0])
    for variant, told in (("Chroma", 1), ("FLUX", 0), (None, 0)):
        titles = [title for _, _, title in found(graph, {"node": "60", "file": "", "variant": variant})]
        assert titles == ["ReferenceLatent with Chroma"] * told


# --- reading graphs ------------------------------------------------------------------------------------------------------


def the_run(graph, record=None):
    (run,) = queued_run.runs(queued.Graph(graph), record or {})
    return run


def test_model_is_followed_through_nodes_of_other_packs():
    graph = clean(loader="UnetLoaderGGUF", file="chroma-unlocked-v47-flash-heun-Q8_0.gguf", cfg=1.0, steps=8)
    between(graph, "LoraLoader", clip=["2", 0], lora_name="style.safetensors", strength_model=0.8, strength_clip=1.0)
    between(graph, "Any Switch (rgthree)", key="51")
    graph["51"]["inputs"] = {"any_01": ["50", 0]}
    between(graph, "Power Lora Loader (rgthree)", key="52", lora_1={"on": True, "lora": "a.safetensors", "strength": 1}, lora_2={"on": False, "lora": "b.safetensors", "strength": 1})  # fmt: skip
    run = the_run(graph)
    assert run.models == ["52", "51", "50", "4", "1"]
    assert (run.file, run.loras) == ("chroma-unlocked-v47-flash-heun-Q8_0.gguf", ["a.safetensors", "style.safetensors"])
    assert (run.is_chroma, run.is_native, run.found.name) == (True, True, presets.FLASH_HEUN)


def test_values_are_followed_into_nodes_for_one_value():
    graph = clean(cfg=["70", 0], steps=["71", 0])
    graph |= {
        "70": node("PrimitiveFloat", value=1.0),
        "71": node("Reroute", any=["72", 0]),
        "72": node("INTConstant", value=8),
    }
    graph["5"]["inputs"]["text"] = ["73", 0]
    graph["73"] = node("PrimitiveStringMultiline", value="a fox")
    run = the_run(graph)
    assert (run.cfg, run.steps) == (1.0, 8)
    assert doctor.prompts(graph) == ["a fox"]
    graph["72"] = node("MathInt", a=3, b=5)  # what a node computes is not known
    assert the_run(graph).steps is None


def test_presets_values_are_known():
    graph = custom(file="Chroma1-Flash.safetensors")
    graph["4"] = node("ChromaPreset", model=["1", 0], preset="auto", cfg=0.0, steps=0, sampler=FROM_PRESET, schedule=FROM_PRESET)  # fmt: skip
    graph["9"]["inputs"] |= {"width": ["4", 5], "height": ["4", 6]}
    for name, slot in (("sampler", 1), ("sigmas", 2)):
        graph["10"]["inputs"][name] = ["4", slot]
    graph["21"]["inputs"]["cfg"] = ["4", 4]
    run = the_run(graph)
    assert (run.cfg, run.steps, run.sampler, run.scheduler) == (1.0, 8, "heun", "beta")
    assert queued_run.picture_size(queued.Graph(graph), run) == (768, 768, "9")
    assert found(graph) == []
    graph["21"]["inputs"]["cfg"] = 4.0  # not connected, and never changed from Chroma1-HD's
    assert found(graph) == [(HARM, "21", "cfg 4 with a model for few steps")]
    graph["4"]["inputs"] |= {"steps": 26, "sampler": "euler", "schedule": "linear", "preset": "Chroma1-HD"}
    run = the_run(graph)
    assert (run.steps, run.sampler, run.scheduler) == (26, "euler", "linear")
    assert found(between(graph, "EasyCache", below="21")) == [(HARM, "21", "cfg 4 with a model for few steps")]


def test_chroma_ksampler_brings_its_own_shift():
    graph = clean()
    graph["10"] = node("ChromaKSampler", model=["1", 0], positive=["5", 0], negative=["6", 0], latent=["9", 0], cfg=3.5, steps=26, sampler="res_multistep", schedule="beta", shift="1 (as trained)", denoise=1.0)  # fmt: skip
    assert found(graph) == []
    run = the_run(graph)
    assert (run.cfg, run.steps, run.sampler, run.scheduler, run.shift.value) == (3.5, 26, "res_multistep", "beta", 1.0)
    graph["10"]["inputs"]["model"] = ["4", 0]
    assert found(graph) == []  # the same
    assert found(change(graph, "4", shift=2.0)) == [(IDLE, "4", "the shift of ModelSamplingAuraFlow")]
    graph["10"]["inputs"]["shift"] = "from the model"
    assert found(change(graph, "4", shift=1.0)) == []
    graph["10"]["inputs"]["model"] = ["1", 0]
    assert found(graph) == [(HINT, "10", "the model's shift is ComfyUI's 3.16")]
    graph["10"]["inputs"] |= {"sampler": "heun", "steps": 8, "schedule": "simple", "shift": "fixed", "shift.value": 3.0}
    assert {title for _, _, title in found(graph)} == {
        "8 steps of simple at a shift of 3.00",
        "8 steps with Chroma1-HD",
    }


def test_record_is_for_the_model_that_it_is_of():
    graph = clean(file="a.safetensors", loader="UNETLoader", scheduler="karras")
    graph["60"] = node("ChromaDoctor", model=["1", 0])
    assert found(graph) == []  # nothing says that it is Chroma
    record = {"node": "60", "variant": "Chroma", "file": "a.safetensors"}
    assert found(graph, record) == [(HARM, "10", "the schedule karras with Chroma")]
    graph["61"] = node("UNETLoader", unet_name="sdxl.safetensors")
    graph["60"]["inputs"]["model"] = ["61", 0]
    assert found(graph, record) == []


# --- where the graph tells less, or something else ----------------------------------------------------------------------------

FLASH = {"file": "Chroma1-Flash.safetensors", "cfg": 1.0, "steps": 8}


def prompts_through(graph, class_type, slots, **inputs):
    """A node with both prompts in it, whose outputs at these slots go to the sampler."""
    graph["80"] = node(class_type, model=["4", 0], positive=["5", 0], negative=["6", 0], **inputs)
    for name, slot in zip(("model", "positive", "negative"), slots):
        graph["10"]["inputs"][name] = ["80", slot]
    return graph


@pytest.mark.parametrize("schedule", ["karras", "exponential"])
def test_own_karras_of_chroma_ksampler_is_sound(schedule):
    assert found(ksampler(clean(), schedule=schedule)) == []


def test_zeroed_negative_is_no_prompt():
    for graph in (clean(**FLASH), clean()):
        graph["6"] = node("ConditioningZeroOut", conditioning=["5", 0])
        assert found(graph) == []
        assert doctor.prompts(graph) == ["a red fox asleep on a mossy rock"]


@pytest.mark.parametrize(
    "class_type, slots", [("Context (rgthree)", (1, 4, 5)), ("BrushNet", (0, 1, 2)), ("ControlNetApplyAdvanced", (0, 0, 1))]
)  # fmt: skip
def test_prompts_are_told_apart_by_who_takes_them(class_type, slots):
    graph = prompts_through(clean(**FLASH), class_type, slots)
    run = the_run(graph)
    assert (run.positive, run.negative) == (["80", "5"], ["80", "6"])
    assert found(graph) == []
    graph["6"]["inputs"]["text"] = LONG
    assert found(graph) == [(IDLE, "10", "the negative prompt does nothing at cfg 1")]


@pytest.mark.parametrize(
    "file",
    [
        "sdxl/polychromatic_v3.safetensors",
        "radianceXL_v2.safetensors",
        "chroma/sdxl_base.safetensors",
        "zeta-chroma-base-x0-pixel-dino-distance.safetensors",
        "Chroma2-Kaleidoscope-base.safetensors",
    ],
)
def test_model_of_another_family_is_left_alone(file):
    graph = clean(file=file, loader="CheckpointLoaderSimple", scheduler="karras", cfg=7.0, sampler_name="dpmpp_2m")
    graph["10"]["inputs"]["model"] = ["1", 0]
    assert found(change(graph, "6", text="bad hands")) == []


def test_folder_does_not_tell_the_kind():
    assert found(clean(file="Radiance and others/Chroma1-HD.safetensors")) == []
    assert found(between(clean(file="chroma/flux1-dev.safetensors", loader="UNETLoader", cfg=1.0), "TeaCache")) == []


def switched(graph, model="4"):
    """A switch between a model and the same with a LoRA; a Doctor behind it, which is told the model."""
    graph["51"] = node("LoraLoaderModelOnly", model=[model, 0], lora_name="x.safetensors", strength_model=1.0)
    graph["30"] = node("ComfySwitchNode", on_false=[model, 0], on_true=["51", 0], switch=True)
    graph["10"]["inputs"]["model"] = ["30", 0]
    graph["60"] = node("ChromaDoctor", model=["30", 0])
    return graph, {"node": "60", "variant": "Chroma", "file": "Chroma1-HD.safetensors"}


def test_what_is_before_a_switch_is_not_guessed():
    assert found(*switched(clean())) == []
    graph, record = switched(clean(cfg=1.0, steps=8))
    assert found(graph, record) == []  # one branch might have a Flash LoRA
    assert found(between(change(graph, "10", cfg=3.5), "NAGuidance"), record) == []
    assert found(change(graph, "10", scheduler="karras"), record) == [(HARM, "10", "the schedule karras with Chroma")]
    run = the_run(*switched(clean()))
    assert (run.is_open, run.is_native, run.found.sure, run.shift) == (True, False, False, queued_run.Shift(None, "30"))
    assert "before ComfySwitchNode (node 30)" in run.found.reason


FLASH_FILE = "chroma-flash-heun_r64.safetensors"
STACK = {"lora_name_1": FLASH_FILE, "model_weight_1": 1.0, "switch_1": "On", "lora_name_2": "None", "switch_2": "Off"}


@pytest.mark.parametrize(
    "inputs, loras",
    [
        ({"lora_name": {"content": FLASH_FILE, "image": None}, "strength_model": 1.0}, [FLASH_FILE]),
        ({"lora_name": {"content": FLASH_FILE}, "strength_model": 0.0}, []),
        ({"lora_name": ["70", 0], "strength_model": 1.0}, [FLASH_FILE]),
        ({"lora_name": ["70", 0], "strength_model": 0.0}, []),
        ({"lora_stack": ["71", 0]}, [FLASH_FILE]),
        ({"lora_stack": ["72", 0]}, ["a.safetensors", FLASH_FILE]),
        ({"lora_stack": ["73", 0]}, []),
        ({"lora_stack": ["74", 0]}, []),
    ],
    ids=range(8),
)
def test_loras_are_found_in_stacks_and_other_forms(inputs, loras):
    graph = between(clean(cfg=1.0, steps=8), "Apply LoRA", **inputs)
    graph |= {
        "70": node("PrimitiveString", value=FLASH_FILE),
        "71": node("CR LoRA Stack", **STACK),
        "72": node("LoRA Stacker", lora_stack=["71", 0], lora_name_1="a.safetensors", lora_count=1),
        "73": node("CR LoRA Stack", **{**STACK, "switch_1": "Off"}),
        "74": node("CR LoRA Stack", **{**STACK, "model_weight_1": 0}),
    }
    run = the_run(graph)
    assert run.loras == loras
    assert (run.found.name, run.found.sure) == (presets.FLASH_LORA if loras else presets.HD, True)
    assert (found(graph) == []) == bool(loras)


@pytest.mark.parametrize("end", ["", "x"])
def test_name_of_endless_digits_is_looked_at_once(end):
    name = "lora_name_" + "1" * 1_000_000 + end
    graph = between(clean(cfg=1.0, steps=8), "LoRA Stacker", **{name: FLASH_FILE, "lora_count": 1})
    assert the_run(graph).loras == ([FLASH_FILE] if end else [])  # of the first LoRA only


@pytest.mark.parametrize(
    "inputs", [{"loras": {"__value__": [{"name": FLASH_FILE}]}}, {"lora_name": 7}, {"lora_stack": ["70", 0]}, {}], ids=range(4)
)  # fmt: skip
def test_hidden_lora_leaves_the_model_in_doubt(inputs):
    graph = between(clean(cfg=1.0, steps=8), "Lora Loader (X)", **inputs) | {"70": node("FromElsewhere", number=3)}
    assert found(graph) == []
    assert "does not tell which LoRAs" in the_run(graph).found.reason


def test_stack_at_a_loader_is_not_its_model():
    graph = clean(loader="Efficient Loader", cfg=1.0, steps=8)
    graph["1"]["inputs"] |= {"lora_stack": ["71", 0], "lora_name": "None"}
    graph["71"] = node("CR LoRA Stack", **STACK)
    run = the_run(graph)
    assert (run.models, run.file, run.loras) == (["4", "1"], "Chroma1-HD.safetensors", [FLASH_FILE])


def test_checkpoint_that_may_be_for_few_steps_gets_no_hint():
    assert found(clean(file="Chroma1-HD-turbo-8step.safetensors", cfg=1.0, steps=8)) == []


@pytest.mark.parametrize(
    "join",
    [
        node("ConditioningConcat", conditioning_to=["6", 0], conditioning_from=["7", 0]),
        node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["7", 0]),
    ],
    ids=["concat", "combine"],
)
def test_joined_negatives_are_not_short(join):
    graph = change(clean(), "6", text="blurry") | {"7": node("CLIPTextEncode", clip=["2", 0], text=LONG), "8": join}
    assert found(change(graph, "10", negative=["8", 0])) == []


def test_texts_that_are_put_together_are_not_known():
    graph = change(clean(), "6", text=["41", 0]) | {"40": node("PrimitiveString", value="bad")}
    graph["41"] = node("StringConcatenate", string_a=["40", 0], string_b=LONG, delimiter=", ")
    assert found(graph) == []
    graph["41"] = node("Text", text="bad", prefix=["40", 0])
    assert found(graph) == []
    graph["41"] = node("Reroute", any=["40", 0])
    assert found(graph) == [(HINT, "6", "a short negative prompt")]


def test_short_negative_at_a_computed_cfg_is_left_alone():
    graph = change(clean(cfg=["90", 0]), "6", text="bad") | {"90": node("MathFloat", a=1.0, b=2.0)}
    assert found(graph) == []


def test_second_half_of_a_run_may_be_without_guidance():
    graph = custom()
    graph["24"] = node("SplitSigmas", sigmas=["23", 0], step=13)
    graph["10"]["inputs"]["sigmas"] = ["24", 0]
    graph["31"] = copy.deepcopy(graph["10"])
    graph["31"]["inputs"] |= {"guider": ["33", 0], "sigmas": ["24", 1], "latent_image": ["10", 0]}
    graph["33"] = node("BasicGuider", model=["4", 0], conditioning=["5", 0])
    assert found(graph) == []

    graph = change(clean(), "6", text=LONG)
    both = {"model": ["4", 0], "positive": ["5", 0], "negative": ["6", 0], "steps": 26, "sampler_name": "euler"}
    first = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 13, "cfg": 3.5, "latent_image": ["9", 0]}
    second = {"add_noise": "disable", "start_at_step": 13, "end_at_step": 10000, "cfg": 1.0, "latent_image": ["10", 0]}
    graph["10"] = node("KSamplerAdvanced", **both, **first, scheduler="beta")
    graph["31"] = node("KSamplerAdvanced", **both, **second, scheduler="beta")
    assert found(graph) == []
    whole = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 10000}
    graph["31"]["inputs"] |= {**whole, "latent_image": ["9", 0]}
    assert found(graph) == [
        (IDLE, "31", "the negative prompt does nothing at cfg 1"),
        (HINT, "31", "cfg 1 with Chroma1-HD"),
    ]


def test_computed_denoise_is_not_taken_for_1():
    graph = clean(steps=8, denoise=["90", 0]) | {"90": node("MathFloat", a=1.0, b=2.0)}
    assert math.isnan(the_run(graph).denoise) and found(graph) == []


def test_presets_shift_before_chroma_ksampler_is_told_only_where_it_was_set():
    graph = ksampler(clean(), model="4")
    auto = {"preset": "auto", "sampler": FROM_PRESET, "schedule": FROM_PRESET}
    graph["4"] = node("ChromaPreset", model=["1", 0], **auto, shift=FROM_PRESET)
    assert found(graph) == []
    assert found(change(graph, "4", shift="shift 1")) == []
    change(graph, "4", shift="fixed", **{"shift.value": 3.0})
    (finding,) = doctor.examine(graph)
    assert (finding.node_id, finding.title) == ("4", "the shift of ChromaPreset")
    assert finding.remedy.startswith("Choose 'from the model' as its shift")


@pytest.mark.parametrize("shift, told", [(1.0, False), (3.0, True)])
def test_shift_before_a_choice_of_quality_is_idle_where_it_differs(shift, told):
    graph = change(ksampler(clean(), model="4", quality="standard"), "4", shift=shift)
    assert found(graph) == [(IDLE, "4", "the shift of ModelSamplingAuraFlow")] * told


AT_1024 = {"max_shift": 1.15, "base_shift": 0.5, "width": 1024, "height": 1024}


@pytest.mark.parametrize(
    "before, after, text",
    [
        (("ModelSamplingAuraFlow", {"shift": 1.0}), ("ChromaTimestepShift", {"mode": "shift 1"}), None),
        (("ModelSamplingFlux", AT_1024), ("ModelSamplingAuraFlow", {"shift": 3.16}), None),
        (("ModelSamplingFlux", AT_1024), ("ModelSamplingAuraFlow", {"shift": 3.0}), "sets another"),
        (("ModelSamplingAuraFlow", {"shift": ["9", 0]}), ("ModelSamplingAuraFlow", {"shift": 3.0}), "sets its own"),
    ],
    ids=str,
)
def test_shift_is_idle_where_a_later_one_differs(before, after, text):
    graph = clean() | {"4": node(before[0], model=["1", 0], **before[1])}
    told = doctor.examine(between(graph, after[0], **after[1]))
    assert [(f.severity, f.node_id) for f in told] == [(IDLE, "4")] * (text is not None)
    assert all(text in f.text for f in told)


def test_size_from_a_connected_latent_is_not_the_typed_one():
    """8 steps of FLUX's shift for 512 x 512 leave 0.211 to the last one, for 1024 x 1024 they leave 0.311."""
    graph = custom(file="Chroma1-Flash.safetensors", cfg=1.0)
    size = {"curve.width": 1024, "curve.height": 1024, "curve.base_shift": 0.5, "curve.max_shift": 1.15}
    graph["23"] = node("ChromaScheduler", model=["4", 0], curve="flux_shift", steps=8, denoise=1.0, **size)
    assert [f.severity for f in doctor.examine(graph)] == [HINT]
    assert found(change(graph, "23", **{"curve.latent": ["9", 0]})) == []


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400, -(10**400), {"a": 1}, "x", [1, 2, 3]], ids=type)
def test_one_bad_value_does_not_hide_other_findings(value):
    expected = (HARM, "10", "the schedule karras with Chroma")
    for key, name in (("10", "steps"), ("10", "cfg"), ("10", "denoise"), ("9", "width"), ("4", "shift")):
        assert expected in found(change(clean(scheduler="karras"), key, **{name: value}))
    for class_type, name in (("ChromaPreset", "preset"), ("ChromaPreset", "shift"), ("ChromaTimestepShift", "mode")):
        graph = clean(scheduler="karras", steps=["4", 3])
        graph["4"] = node(class_type, model=["1", 0], **{name: value})
        assert expected in found(graph)
    assert found(ksampler(clean(), shift=value)) == []


def test_two_runs_are_examined_each_and_findings_told_once():
    graph = clean(cfg=1.0)
    graph["6"]["inputs"]["text"] = LONG
    graph["30"] = node("LatentUpscaleBy", samples=["10", 0], scale_by=1.5)
    graph["31"] = copy.deepcopy(graph["10"])
    graph["31"]["inputs"] |= {"latent_image": ["30", 0], "denoise": 0.5, "cfg": 1.0}
    titles = found(graph)
    assert titles.count((IDLE, "10", "the negative prompt does nothing at cfg 1")) == 1
    assert titles.count((IDLE, "31", "the negative prompt does nothing at cfg 1")) == 1
    assert not any("denoise" in title for _, _, title in titles)


@pytest.mark.parametrize("steps, instead", [(4, 4), (12, 10), (19, 15)])
def test_alternate_with_few_steps_is_told_how_many_steps_compute_as_much(steps, instead):
    """Every second step computes one prompt in the place of two, after the first two steps."""
    findings = doctor.examine(between(clean(steps=steps), "ChromaGuidance", alternate=True))
    (finding,) = [one for one in findings if "alternate" in one.title]
    assert f" {instead} steps then compute as many prompts" in finding.remedy


def test_report_names_the_nodes_and_the_gravest_first():
    graph = change(clean(file="Chroma1-Flash.safetensors", cfg=4.0, steps=8), "9", width=1000, height=768)
    text = doctor.findings_text(doctor.examine(graph), graph)
    assert text.startswith("2 findings")
    assert text.index("DOES HARM: cfg 4") < text.index("HINT: 1000 x 768")
    assert "(node 10, KSampler)" in text and "→ Set cfg to 1, at most 1.5." in text
    assert doctor.findings_text([], graph) == "nothing found"


@pytest.mark.parametrize("loader", ["ChromaDiffusionLoader", "UNETLoader"])
def test_easycache_does_harm_where_the_model_computes_in_float32(loader):
    graph, known = between(clean(loader=loader), "EasyCache"), {"float32": ["1"]}
    assert found(graph, known) == [(HARM, "50", "EasyCache in float32")]
    assert found(graph, {"float32": ["77"]}) == []  # another model's loader
    assert found(between(clean(loader=loader), "LazyCache"), known) == []
    assert found(between(graph, "ModelComputeDtype", key="51", dtype="bf16"), known) == []
    assert found(change(between(clean(), "EasyCache"), "10", activation_casting="bf16"), known) == []


def rule_modules():
    return [
        support.dev.load_pack(f"advice.rules.{p.stem}") for p in (support.ROOT / "advice" / "rules").glob("[a-z]*.py")
    ]


@pytest.mark.parametrize("loader, severity", [("ChromaDiffusionLoader", HINT), ("UNETLoader", HARM)])
def test_weights_that_the_device_multiplies_slowly_are_told(loader, severity):
    graph, slow = clean(loader=loader), "int8 takes 58 times as long on this device as float32"
    (told,) = doctor.examine(graph, {"slow": {"1": slow}})
    assert (told.severity, told.node_id) == (severity, "1")
    assert told.text.startswith(f"{slow}. ")
    assert found(graph, {"slow": {"77": slow}}) == []  # another model's loader


@pytest.mark.parametrize(
    "dtype, file, off",
    [
        ("fp8_e4m3fn", "Chroma1-HD", "3 to 56 %"),
        ("fp8_e4m3fn_fast", "chroma-unlocked-v48", "3 to 56 %"),
        ("fp8_e5m2", "Chroma1-HD", "5 %"),
        ("fp8_e4m3fn", "Chroma1-HD-fp8mixed", None),
        ("fp8_e4m3fn", "Chroma1-HD_float8_e4m3fn_scaled_learned", None),
        ("fp8_e4m3fn_fast", "chroma-int8-convrot", None),
        ("fp8_e4m3fn", "flux1-dev", None),
        (["70", 0], "Chroma1-HD", "3 to 56 %"),
        (7, "Chroma1-HD", None),
    ],
    ids=str,
)
def test_plain_cast_of_a_16_bit_file_is_told(dtype, file, off):
    graph = change(clean(f"{file}.safetensors", "UNETLoader", steps=30), "1", weight_dtype=dtype)
    graph["9"]["inputs"] |= {"width": 768, "height": 768}
    told = doctor.examine(graph | {"70": node("PrimitiveString", value="fp8_e4m3fn")})
    assert [(f.severity, f.node_id, f.fix, f.insert) for f in told] == [(HINT, "1", (), None)] * (off is not None)
    assert all(f"by {off}" in f.text or f"by about {off}" in f.text for f in told)
    assert doctor.examine(change(graph, "1", class_type="ChromaDiffusionLoader")) == []  # which has no such input


def test_figures_of_a_plain_cast_are_those_of_the_table():
    text = (support.ROOT / "benchmarks/results/precision.md").read_text()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    rows = {name: [float(cell.rstrip("%")) for cell in more] for name, *more in cells if more[-1].endswith("%")}
    plain = rows["plain cast to e4m3, as older loaders did it"]
    (told,) = doctor.examine(change(clean(loader="UNETLoader"), "1", weight_dtype="fp8_e4m3fn"))
    assert f"by {plain[0]:.0f} to {plain[2]:.0f} %" in told.text
    scaled = [float(n) for n in re.findall(r"(\d\.\d) %", told.text)]
    assert scaled == pytest.approx([rows["fp8_scaled"][0], rows["int8_convrot"][0]], abs=0.051)  # rounded to 0.1
    (told,) = doctor.examine(change(clean(loader="UNETLoader"), "1", weight_dtype="fp8_e5m2"))
    assert f"by about {rows['float8_e5m2 (also 8 bit)'][0]:.0f} %" in told.text


def test_every_rule_of_every_file_is_registered_once():
    """A rule is known by what it is given; one without the decorator would never run."""
    rules = [
        f
        for module in rule_modules()
        for f in vars(module).values()
        if inspect.isfunction(f) and list(inspect.signature(f).parameters) == ["graph", "run", "facts"]
    ]
    assert len(rules) > 20 and sorted(r.__name__ for r in rules) == sorted(r.__name__ for r in doctor.RULES)


def test_every_rule_is_reached():
    reached = set()
    for graph in [*(graph for graph, _ in CASES), *MORE]:
        read = queued.Graph(graph)
        for run in queued_run.runs(read, {}):
            reached |= {r for r in doctor.RULES if list(r(read, run, doctor.Facts({}, {"1": "slow"}, float32=["1"])))}
    assert [r.__name__ for r in doctor.RULES if r not in reached] == []


def test_a_rule_that_fails_is_told_and_hides_nothing(monkeypatch, caplog):
    def broken_rule(graph, run, facts):
        yield from found(clean(scheduler="karras"))[:0]
        raise KeyError("steps")

    graph = clean(scheduler="karras")
    whole = found(graph)
    monkeypatch.setattr(doctor, "RULES", [broken_rule, *doctor.RULES])
    assert found(graph) == [*whole, (HINT, "10", "the rule on broken rule failed")]
    assert "the rule broken_rule failed on node '10': KeyError('steps')" in caplog.text and "KeyError" in caplog.text


@pytest.mark.parametrize("rule", doctor.RULES, ids=lambda r: r.__name__)
def test_every_rule_has_a_reason_and_a_source(rule):
    reason, _, source = inspect.getdoc(rule).partition("source:")
    assert len(reason.split()) > 8 and len(source.split()) >= 3


def test_damaged_graphs_are_read():
    rng = random.Random(0)
    for _ in range(300):
        graph = rng.choice([clean, custom])()
        for key in list(graph):
            n = graph[key]
            for name in list(n["inputs"]):
                if rng.random() < 0.2:
                    n["inputs"][name] = rng.choice(
                        [None, [], ["1"], ["404", 0], [key, 0], ["10", 0], [1, 2, 3], {}, {"a": [1]}, "x", -1, 1e9, True, [["1", 0]], float("nan"), float("inf"), 10**400]
                    )  # fmt: skip
            if rng.random() < 0.05:
                graph[key] = rng.choice([None, [], "x", {}, {"class_type": None}, {"inputs": None}])
        doctor.findings_text(doctor.examine(graph), graph)


def test_circle_ends():
    graph = clean()
    graph["4"]["inputs"]["model"] = ["50", 0]
    graph["50"] = node("Reroute", any=["4", 0])
    assert the_run(graph).models == ["4", "50"]


def test_graph_is_not_changed():
    graph = custom(guider="ChromaCFGGuider", cfg=1.0)
    before = copy.deepcopy(graph)
    doctor.examine(graph, {"tokens": {}})
    assert graph == before


# --- what the page has left out ----------------------------------------------------------------------------------------


def muted(graph, *keys):
    """The graph as the page queues it with muted nodes: they and the links to them are gone."""
    for key in keys:
        del graph[key]
    for one in graph.values():
        one["inputs"] = {k: v for k, v in one["inputs"].items() if not (isinstance(v, list) and v[0] in keys)}
    return graph


@pytest.mark.parametrize("make, key", [(clean, "1"), (clean, "10"), (custom, "1"), (custom, "21"), (custom, "10")])
def test_a_muted_node_that_keeps_everything_from_being_painted_is_named(make, key):
    record = {"outputs": ["12"], "muted": {key: "The Node"}}
    assert found(muted(make(), key), record)[0] == (HARM, key, "nothing is painted")
    assert f"The Node (node {key}) is muted" in doctor.examine(muted(make(), key), record)[0].text
    assert found(make(), record) == found(make())  # another one is muted, and a picture is painted
    assert found(muted(make(), key), {**record, "muted": {}}) == found(muted(make(), key))


def test_muted_nodes_of_subgraphs_have_the_ids_of_a_prompt():
    inner = {"id": "kind", "nodes": [{"id": 5, "mode": 2, "type": "KSampler"}]}
    flow = {
        "nodes": [{"id": 3, "mode": 2, "title": "Mine", "type": "A"}, {"id": 10, "mode": 0, "type": "kind"}, {"id": 4}],
        "definitions": {"subgraphs": [inner]},
    }
    assert doctor.muted_nodes(flow, {"KSampler": "The sampler"}) == {"3": "Mine", "10:5": "The sampler"}
    for odd in (None, [], "text", {"nodes": 5}, {"nodes": [None], "definitions": []}):
        assert doctor.muted_nodes(odd, {}) == {}


def test_a_one_node_sampler_gets_lines_on_its_own_values_only():
    graph = change(ksampler(clean(), cfg=100.0, skip_first_steps=40), "6", text="blurry")
    assert [str(line) for line in doctor.warnings(graph, {}, "10")] == [
        "DOES HARM: cfg 100. Set cfg to 3.5.",
        "DOES NOTHING: skip first steps 40 of 26. Set it to a few steps, or cfg to 1.",
    ]


# --- one choice for quality ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", ["draft", "standard", "quality"])
@pytest.mark.parametrize("file", ["Chroma1-HD.safetensors", "Chroma1-Flash.safetensors", "Chroma1-Base.safetensors"])
def test_choice_of_quality_counts_in_place_of_the_widgets(file, quality):
    """Widgets that would be warned of do nothing under a choice; the run is what the choice takes."""
    size = {"width": 768, "height": 768}
    graph = change(ksampler(clean(file), quality=quality, cfg=100.0, steps=2), "9", **size)
    preset = presets.of_choice(the_run(graph).found.name, quality)
    run = the_run(graph)
    assert (run.steps, run.cfg, run.sampler, run.scheduler) == (preset.steps, preset.cfg, preset.sampler, preset.curve)
    assert found(graph) == []
    assert found(change(graph, "10", quality="custom"))


def test_settings_of_a_preset_count_in_place_of_the_widgets():
    graph = ksampler(clean(), cfg=100.0, steps=2, settings=["50", 7])
    preset = {"preset": "auto", "steps": 40, "cfg": 0.0, "sampler": FROM_PRESET, "schedule": "linear"}
    graph["50"] = node("ChromaPreset", model=["1", 0], **preset, shift=FROM_PRESET, width=0, height=0)
    run = the_run(graph)
    assert (run.steps, run.cfg, run.sampler, run.scheduler) == (40, 3.5, "euler", "linear")
    assert found(graph) == []
    graph["50"] = node("Other", model=["1", 0])
    assert (the_run(graph).steps, the_run(graph).cfg) == (None, None)  # nothing is known, so nothing is said
    assert found(graph) == []


def test_linked_choice_is_not_known():
    graph = ksampler(clean(), cfg=100.0, quality=["60", 0]) | {"60": node("Switch", a="draft", b="quality")}
    assert the_run(graph).cfg is None and found(graph) == []


# --- findings to act on ----------------------------------------------------------------------------------------------

MENDED = {  # graph with one fault -> the node and the values that mend it
    "cfg": (ksampler(clean(), cfg=100.0), "10", {"cfg": 3.5}),
    "flash": (change(clean("Chroma1-Flash.safetensors", cfg=4.0, steps=8), "9", width=768, height=768), "10", {"cfg": 1.0}),
    "steps": (clean(steps=6), "10", {"steps": 26}),
    "size": (change(clean(), "9", width=1000, height=1030), "9", {"width": 992, "height": 1024}),
    "denoise": (clean(denoise=0.4), "10", {"denoise": 1.0}),
    "schedule": (clean(scheduler="karras"), "10", {"scheduler": "beta"}),
    "negative": (change(clean(), "6", text="blurry"), "6", {"text": ""}),
    "type": (change(clean(), "2", type="sd3"), "2", {"type": "chroma"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MENDED)
def test_what_is_offered_mends_what_was_found(name):
    graph, node_id, values = MENDED[name]
    (finding,) = doctor.examine(graph)
    assert (finding.node_id, dict(finding.fix)) == (node_id, values)
    text = doctor.findings_text([finding], graph)
    assert [(line.node, dict(line.fix)) for line in text.lines if getattr(line, "node", None)] == [
        (node_id, {}),
        (node_id, values),
    ]
    assert doctor.examine(change(graph, node_id, **dict(finding.fix))) == []


@pytest.mark.parametrize(
    "loader, type_, offered",
    [
        ("CLIPLoader", "sd3", True),
        ("CLIPLoaderGGUF", "mochi", True),
        ("DualCLIPLoader", "flux", False),
        ("DualCLIPLoaderGGUF", "hidream", False),
        ("TripleCLIPLoader", None, False),
    ],
    ids=str,
)
def test_type_is_offered_only_where_the_menu_has_it(loader, type_, offered):
    graph = clean()
    graph["2"] = node(loader, clip_name="t5xxl.safetensors", **({"type": type_} if type_ else {}))
    (finding,) = doctor.examine(graph)
    assert finding.title.startswith("a text encoder of the type ")
    assert finding.fix == ((("type", "chroma"),) if offered else ())
    assert ("Load CLIP with the type chroma and T5-XXL alone" in finding.remedy) == (loader[:10] != "CLIPLoader")


def test_values_are_offered_only_where_the_node_is_known_to_take_them():
    graph = clean(file="Chroma1-Radiance-v0.4.safetensors", steps=30)
    (finding,) = doctor.examine(change(graph, "3", class_type="VAELoaderKJ"))
    assert finding.title == "Radiance with a latent VAE" and finding.fix == ()
    graph = clean()
    graph["6"] = node("CLIPTextEncodeFlux", clip=["2", 0], clip_l="", t5xxl="blurry", guidance=0.0)
    (finding,) = doctor.examine(graph)
    assert finding.title == "a short negative prompt" and finding.fix == ()


def with_insert(graph, insert):
    """The graph as the page makes it of an offered node."""
    source = {tuple(graph[node]["inputs"][name]) for node, name in insert.into}
    (link,) = source
    also = {name: graph[node]["inputs"][given] for name, (node, given) in insert.also}
    graph["99"] = node(insert.kind, **{insert.through: list(link)}, **dict(insert.values), **also)
    for other, name in insert.into:
        graph[other]["inputs"][name] = ["99", 0]
    return graph


def without_shift(graph, *takers):
    for key in takers:
        graph[key]["inputs"]["model"] = ["1", 0]
    del graph["4"]
    return graph


FLASH_AT_1 = change(clean("Chroma1-Flash.safetensors", cfg=1.0, steps=8), "9", width=768, height=768)
INSERTED = {  # graph that lacks a node -> the node, and what gets its output
    "shift": (without_shift(clean(), "10"), "ChromaTimestepShift", {("10", "model")}),
    "shift for the scheduler too": (
        without_shift(custom(), "21", "23"),
        "ChromaTimestepShift",
        {("21", "model"), ("23", "model")},
    ),
    "few steps": (
        without_shift(
            change(
                clean("Chroma1-Flash.safetensors", cfg=1.0, steps=8, scheduler="simple"), "9", width=768, height=768
            ),
            "10",
        ),
        "ChromaTimestepShift",
        {("10", "model")},
    ),
    "negative at cfg 1": (change(FLASH_AT_1, "6", text="blurred, " * 40), "ChromaNAG", {("10", "model")}),
}


@pytest.mark.parametrize("name", INSERTED)
def test_node_that_is_offered_mends_what_was_found(name):
    graph, kind, into = INSERTED[name]
    (finding,) = doctor.examine(graph)
    assert (finding.insert.kind, set(finding.insert.into)) == (kind, into)
    (line,) = [line for line in doctor.findings_text([finding], graph).lines if getattr(line, "insert", None)]
    assert line.insert == finding.insert
    assert doctor.examine(with_insert(graph, finding.insert)) == []


def test_nothing_is_inserted_where_the_scheduler_has_another_model():
    graph = without_shift(custom(), "21", "23")
    graph["1b"] = node("ChromaDiffusionLoader", unet_name="Chroma1-HD.safetensors")
    graph["23"]["inputs"]["model"] = ["1b", 0]
    assert [finding.insert for finding in doctor.examine(graph)] == [None]


def test_host_nodes_model_gets_no_nag_of_ours():
    graph = change(clean(loader="UNETLoader", cfg=1.0), "6", text="blurred, " * 40)
    assert {finding.insert for finding in doctor.examine(graph)} == {None}


# --- Chroma Studio ---------------------------------------------------------------------------------------------------


def of_studio(**inputs):
    files = {"unet_name": "Chroma1-HD.safetensors", "clip_name": "t5xxl.safetensors", "vae_name": "ae.safetensors"}
    values = {"mode": "text to image", "mode.width": 1024, "mode.height": 1024, "prompt": "a red fox", "negative": ""}
    own = {
        "quality": "custom",
        "quality.steps": 26,
        "quality.cfg": 3.5,
        "quality.sampler": "euler",
        "quality.schedule": "beta",
    }
    studio = node("ChromaStudio", **{**files, **values, **own, "quality.shift": "1 (as trained)", "seed": 1, **inputs})
    return {"1": studio, "2": node("SaveImage", images=["1", 0])}


def test_studio_is_looked_at_as_the_nodes_that_it_stands_for():
    assert doctor.examine(of_studio()) == []
    (finding,) = doctor.examine(of_studio(**{"quality.cfg": 100.0}))
    assert (finding.node_id, finding.title, finding.fix) == ("1", "cfg 100", (("quality.cfg", 3.5),))
    (finding,) = doctor.examine(of_studio(**{"mode.width": 1000}))
    assert (finding.node_id, finding.fix) == ("1", (("mode.width", 992), ("mode.height", 1024)))
    (finding,) = doctor.examine(of_studio(prompt="雪中的红狐狸"))
    assert (finding.node_id, finding.fix) == ("1", ())
    assert doctor.prompts(of_studio()) == ["a red fox"]
    assert doctor.examine(of_studio(mode="edit")) == []  # the run refuses it with a sentence of its own


def test_studio_paints_though_something_else_is_muted():
    assert doctor.examine(of_studio(), {"outputs": ["2"], "muted": {"9": "Other"}}) == []
