"""Chroma Preset and Chroma Doctor in the host: on models in this process, and in a running ComfyUI."""

import itertools
import json
import logging
import math
from types import SimpleNamespace

import pytest
import support
import torch
from graphs import Graph, follow, texts
from host_models import native_patcher

pytestmark = pytest.mark.host
dev = support.dev
NEW_SEED = itertools.count(30_000)  # a seed that was used before would come out of the server's cache


@pytest.fixture(scope="module")
def cfg():
    return support.config()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Tiny checkpoints under names and kinds of published ones."""
    folder = tmp_path_factory.mktemp("m")
    chroma = support.published(support.random_weights(support.config()))
    radiance = support.published(support.random_weights(support.config(**support.RADIANCE)))
    names = ("Chroma1-HD", "Chroma1-Flash", "my-merge", "chroma-unlocked-v47-flash-heun")
    out = {name: support.write(folder / f"{name}.safetensors", chroma) for name in names}
    return out | {"radiance": support.write(folder / "anything.safetensors", radiance)}


@pytest.fixture
def load(comfy, inference, files):
    return lambda name: dev.load_pack("host.model.load").load_chroma(str(files[name]))


@pytest.fixture
def shown(comfy, monkeypatch):
    """What the nodes show, with no server running here."""
    lines = []
    for name in ("preset", "doctor"):
        monkeypatch.setattr(
            dev.load_pack(f"nodes.{name}"),
            "report",
            lambda node, text: lines.append(text() if callable(text) else text),
        )
    return lines


def prepared(module, name, **hidden):
    """A node's class as the host's executor prepares it."""
    from comfy_api.latest import io

    values = {io.Hidden[key]: value for key, value in hidden.items()}
    return getattr(dev.load_pack(f"nodes.{module}"), name).PREPARE_CLASS_CLONE({"hidden_inputs": values})


@pytest.fixture
def preset(shown, monkeypatch):
    """Runs the node; gives its outputs without the last, `settings`."""

    def run(model, graph=None, node_id=None, **inputs):
        monkeypatch.setattr(dev.load_pack("nodes.preset"), "running_graph", lambda: graph or {})
        return prepared("preset", "ChromaPreset", unique_id=node_id).execute(model, **inputs).args[:-1]

    return run


def table(model):
    return model.get_model_object("model_sampling").sigmas


@pytest.mark.parametrize(
    "name, row",
    [
        ("Chroma1-HD", "Chroma1-HD"),
        ("Chroma1-Flash", "Chroma1-Flash"),
        ("chroma-unlocked-v47-flash-heun", "v47-flash-heun"),
        ("radiance", "Radiance, x0"),
        ("my-merge", "Chroma1-HD"),
    ],
)
def test_model_of_the_loader_gets_its_row(load, preset, shown, name, row):
    p = dev.load_pack("advice.presets").PRESETS[row]
    model, sampler, sigmas, *numbers = preset(load(name))
    assert numbers == [p.steps, p.cfg, p.size, p.size]
    assert sampler.sampler_function.__name__ == f"sample_{p.sampler}"
    torch.testing.assert_close(table(model), torch.arange(1, 1001) / 1000, rtol=0, atol=1e-7)  # shift 1
    schedule = dev.load_pack("samplers.schedules").schedule
    assert torch.equal(sigmas, schedule(p.curve, p.steps, p.params, table(model), keep_steps=True))
    assert len(sigmas) == p.steps + 1
    told = shown[0].splitlines()[0]
    assert told.startswith(f"{row}: ")
    assert "from the loader's report" in told if name == "radiance" else f"{name}.safetensors" in told
    assert ("does not tell" in told) == (name == "my-merge")


def test_hd_is_the_hosts_beta_at_shift_1(comfy, load, preset):
    from comfy_extras.nodes_custom_sampler import BasicScheduler
    from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

    model = load("Chroma1-HD")
    (theirs,) = ModelSamplingAuraFlow().patch_aura(model, 1.0)
    assert torch.equal(preset(model)[2], BasicScheduler.execute(theirs, "beta", 26, 1.0).args[0])


def test_input_model_stays_as_it_was(load, preset):
    model = load("Chroma1-HD")
    before = table(model).clone()
    preset(model)
    assert torch.equal(table(model), before) and not model.object_patches


def test_every_value_can_be_changed(load, preset, shown):
    model, sampler, sigmas, *numbers = preset(
        load("Chroma1-HD"),
        steps=12,
        cfg=4.5,
        sampler="chroma_res_2s",
        schedule={"schedule": "flux_shift", "base_shift": 0.5, "max_shift": 1.15},
        shift={"shift": "by resolution", "base_shift": 0.5, "max_shift": 1.15},
        width=768,
        height=512,
    )
    assert numbers == [12, 4.5, 768, 512]
    assert sampler.sampler_function.__name__ == "sample_chroma_res_2s"
    expected = dev.load_pack("samplers.schedules").flux_shift(12, width=768, height=512)
    assert torch.equal(sigmas, expected)
    mu = dev.load_pack("samplers.schedules").flux_mu(768 * 512 / 256)
    assert float(table(model)[len(table(model)) // 2 - 1]) == pytest.approx(1 / (1 + math.exp(-mu)), abs=1e-4)
    assert sum("set by you" in line for line in shown[0].splitlines()) == 6


def test_row_of_the_trainers_previews_samples_with_their_schedule(load, preset):
    _, _, found, *numbers = preset(load("Chroma1-HD"), preset="any, as the trainer's previews")
    assert numbers == [20, 3.0, 512, 512]
    mu = 0.5 + (512 * 512 / 256 - 256) * (1.15 - 0.5) / (4096 - 256)  # on the line from (256, 0.5) to (4096, 1.15)
    t = torch.linspace(1, 0, 21, dtype=torch.float64)
    assert torch.allclose(found.double(), math.exp(mu) / (math.exp(mu) + (1 / t - 1)), atol=1e-7)  # float32


def test_number_of_a_fixed_shift_is_taken(load, preset):
    model, _, sigmas, *_ = preset(load("Chroma1-HD"), shift={"shift": "fixed", "value": 2.0})
    assert float(table(model)[499]) == pytest.approx(2 / 3)  # 2 t / (1 + t) at t = 0.5
    sigmas = preset(load("Chroma1-HD"), steps=2, schedule={"schedule": "fixed_shift", "value": 2.0})[2]
    assert sigmas.tolist() == pytest.approx([1, 2 / 3, 0])


def test_chosen_row_goes_before_the_recognised(load, preset, shown):
    assert preset(load("Chroma1-Flash"), preset="Chroma1-HD, as diffusers")[3:5] == (35, 5.0)
    assert "chosen by you. The model looks like Chroma1-Flash" in shown[0]


def test_every_row_runs(comfy, load, preset, cfg):
    for name in dev.load_pack("advice.presets").PRESETS:
        model, sampler, sigmas, steps, scale, width, height = preset(load("Chroma1-HD"), preset=name)
        assert len(sigmas) == steps + 1 and sigmas[0] == pytest.approx(1.0) and sigmas[-1] == 0
        assert width % 16 == height % 16 == 0
    noise = torch.randn(1, 16, 16, 16)
    text = [[torch.randn(1, 9, cfg.context_dim), {}]]
    model, sampler, sigmas, *_ = preset(load("Chroma1-HD"), preset="any, with a Flash LoRA", steps=3)
    out = comfy.sample.sample_custom(
        model, noise, 1.0, sampler, sigmas, text, text, torch.zeros_like(noise), disable_pbar=True, seed=1
    )
    assert bool(out.isfinite().all())


def test_denoise_gives_the_end_of_a_longer_schedule(load, preset):
    model = load("Chroma1-HD")
    _, _, sigmas, steps, *_ = preset(model, steps=10, denoise=0.5)
    whole = preset(model, steps=20)[2]
    assert steps == 10 and torch.equal(sigmas, whole[-11:])
    assert len(preset(model, denoise=0.0)[2]) == 0


def test_more_steps_than_places_are_kept(load, preset):
    assert len(preset(load("Chroma1-HD"), steps=300)[2]) == 301  # beta drops repeats here, in the host


@pytest.mark.parametrize("inputs, asked, most", [({"denoise": 0.02}, 26, 26), ({"steps": 2000}, 2000, 1000)], ids=str)
def test_more_steps_than_noise_levels_are_as_many_as_there_are(load, preset, shown, inputs, asked, most):
    """Repeats are dropped where steps / denoise, 1300 and 2000, are more than the table's 1000 levels."""
    sigmas = preset(load("Chroma1-HD"), **inputs)[2]
    assert most // 2 < len(sigmas) - 1 <= most and bool((sigmas[1:] < sigmas[:-1]).all())
    assert (f"too few noise levels there for {asked}" in shown[0]) == (len(sigmas) - 1 < asked)
    assert "keep steps" not in shown[0]


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"preset": "HD"}, "preset is 'HD'; it must be one of auto, "),
        ({"sampler": "eular"}, "sampler is 'eular'; it must be one of euler, from the preset, "),
        ({"schedule": "betta"}, "schedule is 'betta'; it must be one of from the preset, beta, "),
        ({"shift": {"shift": "two"}}, "shift is 'two'; it must be one of from the preset, shift 1, "),
    ],
)
def test_unknown_choice_is_refused(load, preset, inputs, message):
    with pytest.raises(ValueError, match=message):
        preset(load("Chroma1-HD"), **inputs)


def lora_graph(**lora):
    inputs = {"model": ["1", 0], "lora_name": "chroma-flash-heun_r64-fp32.safetensors", "strength_model": 1.0, **lora}
    return {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "models/chroma-unlocked-v48.safetensors"}},
        "2": {"class_type": "ChromaLoraLoader", "inputs": inputs},
        "3": {"class_type": "ChromaPreset", "inputs": {"model": ["2", 0]}},
    }


def test_flash_lora_is_found_in_the_graph(load, preset, shown):
    assert preset(load("Chroma1-HD"), lora_graph(), "3")[3:5] == (8, 1.0)
    assert "by its LoRA chroma-flash-heun_r64-fp32.safetensors" in shown[0]
    assert preset(load("Chroma1-HD"), lora_graph(strength_model=0.0), "3")[3:5] == (26, 3.5)


def test_a_node_that_was_expanded_into_the_graph_is_recognised_as_its_original(load, preset):
    """As the copies of an XY plot, which only the graph that is executed holds."""
    graph = {f"9/{node}-ab12": made for node, made in lora_graph().items()}
    for made in graph.values():
        made["inputs"] = {n: [f"9/{v[0]}-ab12", v[1]] if isinstance(v, list) else v for n, v in made["inputs"].items()}
    assert preset(load("Chroma1-HD"), graph, "9/3-ab12")[3:5] == (8, 1.0)


def test_lora_that_the_graph_hides_is_told(load, preset, shown):
    graph = lora_graph(lora_name={"content": "chroma-flash-heun_r64-fp32.safetensors"})
    assert preset(load("Chroma1-HD"), graph, "3")[3:5] == (8, 1.0)
    assert preset(load("Chroma1-HD"), lora_graph(lora_name=5), "3")[3:5] == (26, 3.5)
    assert "does not tell which LoRAs ChromaLoraLoader (node 2) puts on it" in shown[1]
    assert "recognised" not in shown[1]


def test_hosts_own_model_is_named_by_the_graph(comfy, inference, preset, shown, cfg):
    theirs = native_patcher(comfy, cfg, support.random_weights(cfg))
    assert preset(theirs)[3:5] == (26, 3.5) and "file is not known" in shown[0]
    graph = lora_graph(lora_name="style.safetensors")
    assert preset(theirs, graph, "3")[3:5] == (26, 4.0) and "by the name chroma-unlocked-v48.safetensors" in shown[1]


@pytest.mark.parametrize(
    "model, config, variant",
    [
        ("Chroma", "Chroma", "Chroma"),
        ("ChromaRadiance", "ChromaRadiance", "Radiance"),
        ("Flux", "Flux", "FLUX"),
        ("Flux", "FluxInpaint", "FLUX"),
        ("Flux", "FluxSchnell", "FLUX schnell"),
        ("Flux2", "Flux2", None),
        ("LongCatImage", "LongCatImage", None),
        ("Lumina2", "ZImage", None),
    ],
)
def test_variant_of_the_hosts_models(comfy, model, config, variant):
    """FLUX.2 and LongCat are subclasses of the host's FLUX."""
    import comfy.model_base
    import comfy.supported_models

    net = object.__new__(getattr(comfy.model_base, model))
    net.model_config = object.__new__(getattr(comfy.supported_models, config))
    known = dev.load_pack("host.sample.apply_preset").known
    assert known(SimpleNamespace(model=net)) == (variant, "")


def test_model_of_another_kind_is_refused(comfy, inference, preset, load):
    class Other:
        model_config = object()

    model = load("Chroma1-HD")
    model.model = type("Other", (), {"model_config": type("Config", (), {})()})()
    with pytest.raises(ValueError, match="the model is Other; this node is for Chroma"):
        preset(model)


@pytest.mark.parametrize("module, name", [("preset", "ChromaPreset"), ("doctor", "ChromaDoctor")])
def test_every_input_and_output_has_a_tooltip_and_there_is_help(comfy, module, name):
    schema = getattr(dev.load_pack(f"nodes.{module}"), name).define_schema()
    assert all(part.tooltip for part in (*schema.inputs, *schema.outputs))
    assert (support.ROOT / "web" / "docs" / f"{schema.node_id}.md").is_file()


# --- Doctor --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def doctor(shown):
    def run(prompt, model=None, clip=None, node_id="9"):
        return prepared("doctor", "ChromaDoctor", prompt=prompt, unique_id=node_id).execute(model, clip).ui.as_dict()

    return run


def sampler_graph(scheduler):
    link = {name: [str(n), 0] for n, name in enumerate(("model", "positive", "negative", "latent_image"), 1)}
    return {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "my-merge.safetensors"}},
        "5": {"class_type": "KSampler", "inputs": {**link, "cfg": 3.5, "steps": 26, "scheduler": scheduler}},
        "9": {"class_type": "ChromaDoctor", "inputs": {"model": ["1", 0]}},
        **{n: {"class_type": "X", "inputs": {}} for n in "234"},
    }


def test_doctor_shows_findings_on_itself(load, doctor, shown):
    ui = doctor(sampler_graph("karras"), load("my-merge"))
    assert ui == {"text": (shown[0],)}
    assert shown[0].startswith("1 finding\n") and "karras" in shown[0]


def test_doctor_knows_the_kind_from_the_model(load, doctor, shown):
    doctor(sampler_graph("karras"))  # no model: the name says nothing
    doctor({})
    assert shown == ["nothing found"] * 2


@pytest.mark.parametrize("prompt", [None, [], {"1": 5}, {"5": {"class_type": "KSampler", "inputs": 3}}], ids=str)
def test_doctor_never_raises(load, doctor, shown, prompt):
    doctor(prompt, model=object())
    assert len(shown) == 1


def loader_graph(loader="UNETLoader", **inputs):
    graph = sampler_graph("beta")
    return graph | {"1": {"class_type": loader, "inputs": {"unet_name": "my-merge.safetensors", **inputs}}}


def test_doctor_tells_of_weights_that_this_device_is_slow_with(comfy, inference, files, doctor, shown, slow_products):
    packed = dev.load_pack("host.model.load").load_chroma(str(files["my-merge"]), "int8_convrot")
    doctor(loader_graph(), packed)  # as of the host's loader, which would multiply them so
    doctor(loader_graph("ChromaDiffusionLoader", quant_mode="int8_convrot"))
    doctor(loader_graph("ChromaDiffusionLoader", quant_mode="q8_0"))
    line = "int8 takes 58 times as long on this device as float32. "
    assert line + "Every step" in shown[0] and shown[0].count(line) == 1
    assert line + "So its weights are unpacked" in shown[1]
    assert "58 times" not in shown[2]


@pytest.mark.parametrize(
    "compute, mode, told",
    [("float32", "auto", True), ("bfloat16", "auto", False), ("bfloat16", "fp32", True), ("bfloat16", "bf16", False)],
)
def test_doctor_knows_where_a_model_computes_in_float32(comfy, doctor, shown, monkeypatch, compute, mode, told):
    """compute: the type that this device computes in."""
    dtype = getattr(torch, compute)
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *_: dtype)
    graph = loader_graph("ChromaDiffusionLoader", quant_mode=mode)
    graph["6"] = {"class_type": "EasyCache", "inputs": {"model": ["1", 0]}}
    graph["5"]["inputs"]["model"] = ["6", 0]
    doctor(graph)
    assert ("EasyCache in float32" in shown[0]) == told


def test_doctor_knows_the_connected_model_to_compute_in_float32(load, comfy, doctor, shown, monkeypatch):
    graph = loader_graph("ChromaDiffusionLoader")
    graph["6"] = {"class_type": "EasyCache", "inputs": {"model": ["1", 0]}}
    graph["5"]["inputs"]["model"] = ["6", 0]
    model = load("my-merge")
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *_: torch.bfloat16)
    for dtype in (torch.float32, torch.bfloat16):
        model.model.manual_cast_dtype = dtype
        doctor(graph, model)
    assert ["EasyCache in float32" in text for text in shown] == [True, False]


def test_speed_advises_a_precision_where_the_files_is_slow(comfy, inference, files, monkeypatch, slow_products):
    module, told = dev.load_pack("nodes.speed"), []
    monkeypatch.setattr(module, "report", lambda node, text: told.append(str(text)))
    graph = {
        "1": {"class_type": "ChromaDiffusionLoader", "inputs": {"unet_name": "my-merge.safetensors"}},
        "2": {"class_type": "ChromaSpeed", "inputs": {"model": ["1", 0], "speed": "draft"}},
    }
    monkeypatch.setattr(module, "running_graph", lambda: graph)
    monkeypatch.setattr(dev.load_pack("nodes.preset"), "running_graph", lambda: graph)
    for mode in ("int8_convrot", "fp32"):
        model = dev.load_pack("host.model.load").load_chroma(str(files["my-merge"]), mode)
        prepared("speed", "ChromaSpeed", unique_id="2").execute(model, {"speed": "draft"})
    assert "int8 takes 58 times as long on this device as float32. Choose q8_0 as precision in the loader" in told[0]
    assert "58 times" not in told[1]


def test_text_encoder_without_t5_leaves_tokens_estimated(load, doctor, shown):
    class Other:
        tokenizer = cond_stage_model = object()

    doctor(sampler_graph("karras"), load("my-merge"), Other())
    assert shown[0].startswith("1 finding\n") and "karras" in shown[0]


def test_error_of_the_doctor_is_one_line_in_the_log(load, doctor, shown, monkeypatch, caplog):
    def broken(*_):
        raise KeyError("x")

    monkeypatch.setattr(dev.load_pack("nodes.doctor"), "examine", broken)
    with caplog.at_level(logging.WARNING):
        doctor(sampler_graph("karras"), load("my-merge"))
    assert "The Doctor itself has failed (KeyError)" in shown[0] and "run goes on" in shown[0]
    (record,) = [r for r in caplog.records if "Chroma Doctor" in r.getMessage()]
    assert "\n" not in record.getMessage() and record.exc_info is None


# --- in a server -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def graph(server):
    return Graph.demo(server)


def workflows():
    """Those without subgraphs, which `dev.api_graph` does not read; tests/advice/test_doctor.py has the others."""
    files = sorted([*(support.ROOT / "example_workflows").glob("*.json"), *dev.WORKFLOWS])
    return [path for path in files if not json.loads(path.read_text()).get("definitions")]


@pytest.mark.parametrize("path", workflows(), ids=lambda p: p.stem)
def test_own_workflow_has_no_finding(server, path):
    api = dev.api_graph(json.loads(path.read_text()), server.get("/object_info"))
    assert dev.load_pack("advice.doctor").examine(api) == []


def test_doctor_runs_each_time_and_counts_tokens(server, graph):
    clip = graph.find("CLIPLoader")
    key = graph.add("ChromaDoctor", model=[graph.find("ChromaDiffusionLoader"), 0], clip=[clip, 0])
    graph.set("KSampler", steps=20, seed=next(NEW_SEED))
    shown = texts(follow(server, graph))
    assert "nothing found" in shown
    graph.set("ChromaTextEncode", "Prompt", text="a red circle " * 200).set("KSampler", steps=1)
    messages = follow(server, graph)
    (told,) = [text for text in texts(messages) if "finding" in text]
    assert "the end of the prompt is cut off" in told and "has 801 tokens" in told  # a, red, circ, le; and </s>
    (ui,) = [m["data"]["output"]["text"][0] for m in messages if isinstance(m, dict) and m["type"] == "executed" and m["data"]["node"] == key]  # fmt: skip
    assert ui == told


def test_preset_drives_the_demo(server, graph):
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    preset = graph.add("ChromaPreset", model=[graph.find("ChromaDiffusionLoader"), 0], preset="auto", steps=2)
    custom = graph.add(
        "SamplerCustom",
        model=[preset, 0],
        add_noise=True,
        noise_seed=next(NEW_SEED),
        cfg=[preset, 4],
        positive=k["positive"],
        negative=k["negative"],
        sampler=[preset, 1],
        sigmas=[preset, 2],
        latent_image=k["latent_image"],
    )
    graph.set("VAEDecode", samples=[custom, 0]).set("EmptySD3LatentImage", width=[preset, 5], height=[preset, 6])
    (told,) = [text for text in texts(follow(server, graph)) if text.startswith("chroma-demo")]
    assert "recognised by the name chroma-demo.safetensors" in told and "steps 2: set by you" in told


def test_preset_with_its_own_choices_runs_in_the_server(server, graph):
    graph.model_through(
        "ChromaPreset",
        preset="Chroma1-HD",
        steps=3,
        **{"schedule": "beta", "schedule.alpha": 0.4, "schedule.beta": 0.4, "shift": "fixed", "shift.value": 2.0},
    )
    shown = texts(follow(server, graph.set("KSampler", seed=next(NEW_SEED))))
    (told,) = [text for text in shown if text.startswith("Chroma1-HD: chosen by you. The model looks like chroma-demo")]
    assert "fixed shift 2: set by you" in told and "schedule beta alpha 0.4 beta 0.4: set by you" in told
