"""Chroma KSampler: the same picture, to the last bit, as the long graph and as the host's KSampler at shift 1."""

import dataclasses
import itertools
import json
import os
import re
import threading
from types import SimpleNamespace

import pytest
import support
import torch
from graphs import Graph, follow, texts
from host_models import through_host

pytestmark = pytest.mark.host

STEPS, CFG, SEED = 4, 3.0, 7
SIZE = (16, 20)  # of the latent; (128, 160) pixels
NEW_SEED = itertools.count(20_000)  # a seed that was used before would come out of the server's cache


@pytest.fixture(scope="module")
def cfg():
    return support.config()


@pytest.fixture(scope="module")
def file(cfg, tmp_path_factory):
    weights = support.published(support.random_weights(cfg))
    return support.write(tmp_path_factory.mktemp("m") / "m.safetensors", weights)


@pytest.fixture
def model(comfy, inference, file):
    return support.dev.load_pack("host.model.load").load_chroma(str(file))


@pytest.fixture(scope="module", autouse=True)
def menus(comfy):
    """Our schedules and samplers in the host's menus, as in a server."""
    samplers, k_diffusion = comfy.samplers, comfy.k_diffusion.sampling
    lists = [samplers.SCHEDULER_NAMES, samplers.SAMPLER_NAMES, samplers.KSAMPLER_NAMES]
    before, handlers, functions = [list(names) for names in lists], dict(samplers.SCHEDULER_HANDLERS), dir(k_diffusion)
    support.dev.load_pack("host.sample.scheduler_menu").register()
    support.dev.load_pack("host.sample.samplers").register()
    yield
    for names, old in zip(lists, before):
        names[:] = old
    for name in set(samplers.SCHEDULER_HANDLERS) - set(handlers):
        del samplers.SCHEDULER_HANDLERS[name]
    for name in set(dir(k_diffusion)) - set(functions):
        delattr(k_diffusion, name)


def node(module, name, **hidden):
    """A node's class as the host's executor prepares it."""
    from comfy_api.latest import io

    values = {io.Hidden[key]: value for key, value in hidden.items()}
    return getattr(support.dev.load_pack(f"nodes.{module}"), name).PREPARE_CLASS_CLONE({"hidden_inputs": values})


def empty(batch=1, channels=16, **more):
    return {"samples": torch.zeros(batch, channels, *SIZE), **more}


def picture(**more):
    samples = torch.randn(1, 16, *SIZE, generator=torch.Generator().manual_seed(9))
    return {"samples": samples, **more}


def mask():
    return torch.ones(1, 1, 128, 160).triu()


def prompts(cfg, lengths=(11, 7)):
    generator = torch.Generator().manual_seed(2)
    return [[[torch.randn(1, n, cfg.context_dim, generator=generator), {}]] for n in lengths]


SETTINGS = {
    "seed": SEED,
    "steps": STEPS,
    "cfg": CFG,
    "sampler": "euler",
    "schedule": "beta",
    "shift": {"shift": "1 (as trained)"},
    "denoise": 1.0,
    "skip_first_steps": 0,
}


def ours(model, config, latent=None, /, hidden=None, **settings):
    positive, negative = prompts(config)
    return node("ksampler", "ChromaKSampler", **(hidden or {})).execute(
        model=model,
        **{"positive": positive, "negative": negative, "latent": latent or empty(), **SETTINGS, **settings},
    )[0]


def long_graph(model, config, latent=None, /, mode="shift 1", mode_params=(), **settings):
    """Chroma Timestep Shift, a scheduler, RandomNoise, Chroma CFG Guider, SamplerCustomAdvanced."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, RandomNoise, SamplerCustomAdvanced

    given = {**SETTINGS, **settings}
    if mode is not None:
        model = node("shift", "ChromaTimestepShift").execute(model, {"mode": mode, **dict(mode_params)})[0]
    steps = {"steps": given["steps"], "denoise": given["denoise"]}
    if given["schedule"] in support.dev.load_pack("samplers.schedules").CURVES:
        sigmas = node("schedule", "ChromaScheduler").execute(model, {"curve": given["schedule"]}, **steps)[0]
    else:
        sigmas = BasicScheduler.execute(model, given["schedule"], **steps)[0]
    positive, negative = prompts(config)
    guider = node("guidance", "ChromaCFGGuider").execute(
        model, positive, given["cfg"], negative, skip_first_steps=given["skip_first_steps"]
    )[0]
    noise, sampler = RandomNoise.execute(given["seed"])[0], KSamplerSelect.execute(given["sampler"])[0]
    return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent or empty())[0]


def host_ksampler(model, config, latent=None, /, **settings):
    """ModelSamplingAuraFlow at 1 and KSampler."""
    from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

    import nodes

    given = {**SETTINGS, **settings}
    model = ModelSamplingAuraFlow().patch_aura(model, 1.0)[0]
    names = (given["sampler"], given["schedule"])
    return nodes.common_ksampler(
        model,
        given["seed"],
        given["steps"],
        given["cfg"],
        *names,
        *prompts(config),
        latent or empty(),
        given["denoise"],
    )[0]


def equal(a, b):
    assert torch.equal(a["samples"], b["samples"])
    assert set(a) == set(b)
    assert float(a["samples"].std()) > 0.01


# --- the same picture ------------------------------------------------------------------------------------------------

LATENTS = {
    "empty": empty,
    "batch": lambda: empty(2),
    "4 channels": lambda: empty(channels=4),
    "16 pixels a place": lambda: {"samples": torch.zeros(1, 16, 8, 10), "downscale_ratio_spacial": 16},
    "picture": picture,
    "inpaint": lambda: picture(noise_mask=mask()),
    "batch index": lambda: empty(2, batch_index=[3, 1]),
}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": 26, "cfg": 1.0},
        {"cfg": 1.0},
        {"skip_first_steps": 2},
        {"skip_first_steps": -1},
        {"sampler": "res_multistep"},
        {"sampler": "heun"},
        {"sampler": "dpm_2"},
        {"sampler": "euler_ancestral"},
        {"sampler": "chroma_res_2m_sde"},
        {"sampler": "uni_pc"},
        {"schedule": "sigmoid_offset"},
        {"schedule": "bong_tangent"},
        {"schedule": "linear"},
        {"schedule": "karras"},
        {"schedule": "simple"},
        {"schedule": "beta_0.4"},
        {"schedule": "kl_optimal"},
        {"denoise": 0.5},
        {"denoise": 0.5, "schedule": "simple"},
    ],
    ids=str,
)
def test_settings_give_what_the_long_graph_gives(comfy, model, cfg, settings):
    latent = picture() if "denoise" in settings else empty()
    equal(ours(model, cfg, latent, **settings), long_graph(model, cfg, latent, **settings))


@pytest.mark.parametrize("kind", LATENTS)
def test_latents_of_each_kind_give_what_the_long_graph_gives(comfy, model, cfg, kind):
    settings = {"denoise": 0.6} if kind in ("picture", "inpaint") else {}
    equal(ours(model, cfg, LATENTS[kind](), **settings), long_graph(model, cfg, LATENTS[kind](), **settings))


@pytest.mark.parametrize(
    "shift, mode, params",
    [
        ({"shift": "fixed", "value": 1.7}, "fixed", {"shift": 1.7}),
        ({"shift": "fixed"}, "fixed", {"shift": 3.0}),
        ({"shift": "by resolution"}, "by resolution", {"width": 160, "height": 128}),
        ({"shift": "from the model"}, None, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("schedule", ["beta", "simple"])
def test_each_shift_gives_what_the_long_graph_gives(comfy, model, cfg, shift, mode, params, schedule):
    found = ours(model, cfg, shift=shift, schedule=schedule)
    equal(found, long_graph(model, cfg, mode=mode, mode_params=params, schedule=schedule))
    assert support.relative(found["samples"], ours(model, cfg, schedule=schedule)["samples"]) > 1e-3


@pytest.mark.parametrize(
    "sampler", ["euler", "res_multistep", "heun", "dpmpp_2m", "euler_ancestral", "dpmpp_sde", "ddim", "chroma_res_2s"]
)
@pytest.mark.parametrize("schedule", ["beta", "simple", "sgm_uniform", "beta_0.45"])
def test_ksampler_of_the_host_gives_the_same_at_shift_1(comfy, model, cfg, sampler, schedule):
    settings = {"sampler": sampler, "schedule": schedule}
    equal(ours(model, cfg, **settings), host_ksampler(model, cfg, **settings))


@pytest.mark.parametrize("kind", LATENTS)
def test_ksampler_of_the_host_gives_the_same_for_latents_of_each_kind(comfy, model, cfg, kind):
    settings = {"denoise": 0.6} if kind in ("picture", "inpaint") else {}
    equal(ours(model, cfg, LATENTS[kind](), **settings), host_ksampler(model, cfg, LATENTS[kind](), **settings))


def test_inpainting_keeps_what_the_mask_leaves_out(comfy, model, cfg):
    latent = picture(noise_mask=torch.cat((torch.zeros(1, 1, 128, 80), torch.ones(1, 1, 128, 80)), dim=3))
    found = ours(model, cfg, latent)["samples"]
    assert torch.allclose(found[..., :9], latent["samples"][..., :9], atol=1e-5)  # through the latent's scale and back
    assert support.relative(found[..., 11:], latent["samples"][..., 11:]) > 0.1


def test_denoise_0_gives_the_latent_back(comfy, model, cfg):
    latent = picture()
    assert torch.equal(ours(model, cfg, latent, denoise=0.0)["samples"], latent["samples"])


def test_inputs_are_not_changed(comfy, model, cfg):
    latent = picture(noise_mask=mask())
    before = {key: value.clone() for key, value in latent.items()}
    sampling = model.get_model_object("model_sampling")
    ours(model, cfg, latent, skip_first_steps=1)
    assert all(torch.equal(latent[key], before[key]) for key in before) and set(latent) == set(before)
    assert model.get_model_object("model_sampling") is sampling and not model.object_patches
    assert support.dev.load_pack("host.sample.guiders").patch_on(model) is None


# --- what it saves and says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip, uncond", [(0, 4), (1, 3), (4, 0), (-1, 0)])
def test_skipped_steps_are_saved_and_told(comfy, model, cfg, skip, uncond):
    info = {"workflow": {"nodes": []}}
    ours(model, cfg, hidden={"extra_pnginfo": info}, skip_first_steps=skip)
    (facts,) = info["chroma_run"].values()
    assert json.loads(json.dumps(info)) == info and info["workflow"] == {"nodes": []}
    assert (facts["steps"], facts["prompts_computed"], facts["uncond_computed"]) == (STEPS, STEPS + uncond, uncond)
    assert facts["finished"] and facts["seconds"] > 0


def test_runs_of_a_list_are_all_kept_in_order(comfy):
    put, info = support.dev.load_pack("nodes.shared.metadata").put, {}
    for steps in (1, 2, 3):
        assert put(info, "7", {"steps": steps})
    put(info, "8", {"steps": 9})
    assert info == {"chroma_run": {"7": [{"steps": 1}, {"steps": 2}, {"steps": 3}], "8": {"steps": 9}}}


@pytest.mark.parametrize("info", [None, "text", ["list"], 5, {"chroma_run": "text"}], ids=str)
def test_metadata_of_any_form_fails_no_run(comfy, model, cfg, info):
    equal(ours(model, cfg, hidden={"extra_pnginfo": info}), ours(model, cfg))


@pytest.mark.parametrize("info", [None, "text", ["list"], 5, {"chroma_run": "text"}, {}], ids=str)
def test_run_report_fails_no_run(comfy, model, cfg, info, caplog):
    caplog.set_level("INFO")
    guided = node("guidance", "ChromaGuidance").execute(model)[0]
    guiders, is_dict = support.dev.load_pack("host.sample.guiders"), info == {}
    latent, report = {"samples": torch.ones(1)}, node("run_report", "ChromaRunReport", extra_pnginfo=info)

    def told(guidance):
        out = report.execute(latent, guidance)
        assert out[0] is latent
        return out[1]

    assert told(model).startswith("there is no Chroma guidance on the connected input. Connect ")
    assert told(guided).startswith("nothing has been sampled with this guidance. Give ")
    guiders.patch_on(guided).last = support.dev.load_pack("samplers.run_record").RunRecord(3.0, 4)
    assert ("not written into the picture" in told(guided)) == (not is_dict)
    assert "failed (AttributeError)" in told(5)


class RunAtOnce(threading.Thread):
    start = threading.Thread.run


@pytest.fixture
def at_once(comfy, monkeypatch):
    """Runs are those of a node 2 in a graph, and are kept before they end."""
    load = support.dev.load_pack
    inputs = {"unet_name": "m.safetensors"}, {"model": ["1", 0]}
    graph = {
        "1": {"class_type": "UNETLoader", "inputs": inputs[0]},
        "2": {"class_type": "ChromaKSampler", "inputs": inputs[1]},
    }
    monkeypatch.setattr(load("nodes.ksampler"), "running_graph", lambda: graph)
    before_run = load("nodes.shared.before_run")
    monkeypatch.setattr(before_run, "threading", SimpleNamespace(Thread=RunAtOnce))  # its own only, not tqdm's too
    return before_run


@pytest.fixture
def kept(at_once, monkeypatch, tmp_path):
    """What is kept of the runs."""
    monkeypatch.setattr(at_once, "file", lambda: tmp_path / "costs.json")
    return lambda: support.dev.load_pack("advice.run_costs").read(tmp_path / "costs.json")


def test_a_run_is_kept_for_the_next_one(comfy, model, cfg, kept):
    ours(model, cfg, empty(2), hidden={"unique_id": "2"}, skip_first_steps=1)
    (cost,) = kept()
    work = cost.work
    assert (work.model, work.device) == ("UNETLoader unet_name=m.safetensors", "cpu")
    assert (work.width, work.height, work.batch, work.steps) == (160, 128, 2, STEPS)
    assert work.way == ("euler", True, f"skip_first_steps 1 of {STEPS}")
    assert (cost.prompts, cost.network) == (7 / 4, cfg.hidden_size) and cost.seconds > 0
    assert cost.memory > 100 << 20  # of this process, which holds torch
    ours(model, cfg, hidden={"unique_id": "2"}, steps=1)  # too short to tell
    assert kept() == [cost]


def test_a_run_that_is_stopped_is_not_kept_and_the_disk_fails_no_run(comfy, model, cfg, kept, monkeypatch, caplog):
    calls = []

    def wrapper(apply_model, args):
        calls.append(1)
        if len(calls) > 2:
            raise comfy.model_management.InterruptProcessingException
        return apply_model(args["input"], args["timestep"], **args["c"])

    stopped = model.clone()
    stopped.set_model_unet_function_wrapper(wrapper)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ours(stopped, cfg, hidden={"unique_id": "2"})
    assert kept() == []
    monkeypatch.setattr(support.dev.load_pack("advice.run_costs").os, "replace", lambda *names: 1 / 0)
    equal(ours(model, cfg, hidden={"unique_id": "2"}), ours(model, cfg))
    assert "ZeroDivisionError" in caplog.text and kept() == []


@pytest.fixture(params=["read-only", "file"])
def unwritable(request, tmp_path):
    """A user folder in which none can be made; rights do not bind root, so it is the system's own."""
    if request.param == "read-only":
        if not os.path.isdir("/sys/kernel"):
            pytest.skip("no folder that nobody may write to")
        return "/sys/kernel"
    (tmp_path / "user").touch()
    return str(tmp_path / "user")


def test_where_runs_cannot_be_kept_they_go_on_and_it_is_told_once(model, cfg, at_once, unwritable, monkeypatch, caplog):
    import folder_paths

    at_once.tell_not_kept.cache_clear()
    monkeypatch.setattr(folder_paths, "user_directory", unwritable)
    path = os.path.join(unwritable, "__chroma_pack", "run_costs.json")
    wanted = ours(model, cfg)
    for _ in range(3):
        equal(ours(model, cfg, hidden={"unique_id": "2"}), wanted)
    (told,) = (record for record in caplog.records if record.levelname in ("WARNING", "ERROR"))
    assert told.levelname == "WARNING" and told.getMessage().startswith(
        f"Chroma KSampler: how long runs take is not kept, since {path} cannot be written: "
    )
    assert support.dev.load_pack("advice.run_costs").read(at_once.file()) == [] and not os.path.exists(path)


def test_read_out_names_schedule_shift_and_cost(comfy, model, cfg, caplog):
    caplog.set_level("INFO")
    ours(model, cfg, skip_first_steps=2)
    (text,) = [m for m in caplog.messages if m.startswith("Chroma KSampler: ")]
    assert re.match(r"Chroma KSampler: [\d.]+ s, [\d.]+ s a step; beta: 4 steps, sigma 1.000 to ", text)
    assert "; shift 1.000; 4 steps, cfg 3: 6 prompts computed" in text and "2 uncond skipped" in text


def test_a_shift_that_is_replaced_or_has_no_effect_is_told(comfy, model, cfg, caplog):
    caplog.set_level("INFO")
    shifted = node("shift", "ChromaTimestepShift").execute(model, {"mode": "fixed", "shift": 3.0})[0]
    equal(ours(shifted, cfg), ours(model, cfg))
    assert "in place of the shift of a node before this one; to keep that one, choose 'from the model'" in caplog.text
    caplog.clear()
    equal(
        ours(shifted, cfg, shift={"shift": "from the model"}), ours(model, cfg, shift={"shift": "fixed", "value": 3.0})
    )
    assert "in place of" not in caplog.text
    shifted.object_patches["model_sampling"].to("meta")  # stands for one on another device, which torch.equal refuses
    equal(ours(shifted, cfg), ours(model, cfg))
    ours(model, cfg, schedule="linear", shift={"shift": "by resolution"})
    assert "linear does not use the shift; simple and beta do" in caplog.text


def test_settings_of_a_chroma_guidance_before_it_stay_in_force(comfy, model, cfg):
    guided = node("guidance", "ChromaGuidance").execute(model, form={"form": "APG", "eta": 0.2}, zero_init_steps=1)[0]
    found = support.dev.load_pack("host.sample.guiders").patch_on(guided)
    result = ours(guided, cfg)
    equal(result, host_ksampler(guided, cfg))
    assert support.relative(result["samples"], ours(model, cfg)["samples"]) > 1e-3
    assert found.last.zeroed == 1  # for a Chroma Run Report at that node
    ours(guided, cfg, skip_first_steps=3)
    assert (found.last.zeroed, found.last.uncond_prompts) == (1, 1)
    assert found.guidance.skip_first_steps == 0


# --- its inputs ------------------------------------------------------------------------------------------------------


def test_negative_may_be_missing_only_where_it_is_not_needed(comfy, model, cfg):
    for settings in ({"cfg": 1.0}, {"skip_first_steps": -1}):
        equal(ours(model, cfg, negative=None, **settings), ours(model, cfg, **settings))
    with pytest.raises(ValueError, match="cfg is 3 and there is no negative prompt. Connect one"):
        ours(model, cfg, negative=None)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"steps": 0}, "steps is 0; allowed is a whole number from 1 to 10000"),
        ({"cfg": float("nan")}, "cfg is nan; allowed is a number from 0.0 to 100.0"),
        ({"denoise": 1.5}, "denoise is 1.5; allowed is a number from 0.0 to 1.0"),
        ({"skip_first_steps": -2}, "skip_first_steps is -2; allowed is a whole number from -1 to 10000"),
        ({"sampler": "best"}, "sampler is 'best'; it must be one of euler, "),
        ({"schedule": "fixed_shift"}, "schedule is 'fixed_shift'; it must be one of beta, "),
        ({"shift": None}, r"shift is None; it must be one of 1 \(as trained\), fixed, by resolution, from the model"),
        ({"shift": {"shift": "fixed", "value": 0.0}}, "shift.value is 0.0; allowed is a number from 0.01 to 100"),
    ],
    ids=str,
)
def test_bad_values_are_told(comfy, model, cfg, settings, words):
    with pytest.raises(ValueError, match=words):
        ours(model, cfg, **settings)


def test_other_models_are_told_to_use_other_nodes(comfy, model, cfg):
    class Other:
        model, model_options = torch.nn.Linear(1, 1), {}
        clone = get_model_object = None

    with pytest.raises(ValueError, match="the model is Linear; this node is for Chroma"):
        ours(Other(), cfg)


def test_menus_are_fresh_and_defaults_are_those_of_chroma(comfy):
    ksampler = support.dev.load_pack("nodes.ksampler").ChromaKSampler
    inputs = {**ksampler.INPUT_TYPES()["required"], **ksampler.INPUT_TYPES()["optional"]}
    required = ["model", "positive", "latent", "seed", "steps", "cfg", "sampler", "schedule", "shift", "denoise"]
    assert list(ksampler.INPUT_TYPES()["required"]) == [*required, "skip_first_steps"]
    assert list(ksampler.INPUT_TYPES()["optional"]) == ["negative", "quality", "settings"]
    defaults = {name: inputs[name][1].get("default") for name in required[4:8]}
    assert defaults == {"steps": 26, "cfg": 3.5, "sampler": "res_multistep", "schedule": "beta"}
    assert inputs["shift"][1]["options"][0]["key"] == "1 (as trained)"
    assert inputs["seed"][1]["control_after_generate"] is True
    names = inputs["schedule"][1]["options"]
    assert len(names) == len(set(names)) and {"beta", "linear", "simple", "beta_0.4", "kl_optimal"} <= set(names)
    comfy.samplers.SAMPLER_NAMES.append("new")
    try:
        assert "new" in ksampler.INPUT_TYPES()["required"]["sampler"][1]["options"]
    finally:
        comfy.samplers.SAMPLER_NAMES.remove("new")


def test_a_prompt_of_the_host_reaches_the_node_as_written_here(comfy):
    ksampler = support.dev.load_pack("nodes.ksampler").ChromaKSampler
    live = {
        "model": ["1", 0],
        "positive": ["2", 0],
        "latent": ["3", 0],
        **SETTINGS,
        "shift": "fixed",
        "shift.value": 2.0,
    }
    values, _ = through_host(ksampler, live)
    assert values["shift"] == {"shift": "fixed", "value": 2.0}


# --- in a running ComfyUI --------------------------------------------------------------------------------------------


@pytest.fixture
def graph(server):
    return Graph.demo(server)


def pixels(path):
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def with_ours(graph, **inputs):
    """The demo graph with our node in place of its shift and its KSampler; gives the node's id."""
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    loader = graph.find("ChromaDiffusionLoader")
    values = {
        "model": [loader, 0],
        "positive": k["positive"],
        "negative": k["negative"],
        "latent": k["latent_image"],
        "seed": k["seed"],
        "steps": k["steps"],
        "cfg": k["cfg"],
        "sampler": k["sampler_name"],
        "schedule": k["scheduler"],
        "shift": "1 (as trained)",
        "denoise": 1.0,
        "skip_first_steps": 0,
    }
    key = graph.add("ChromaKSampler", **{**values, **inputs})
    graph.set("VAEDecode", samples=[key, 0])
    return key


def test_server_gives_the_picture_of_the_demo_graph(server, graph):
    graph.set("KSampler", seed=next(NEW_SEED), steps=4)
    reference = pixels(graph.copy().run(server)[0])
    other = graph.copy()
    with_ours(other, shift="fixed", **{"shift.value": 3.0})
    with_ours(graph)
    assert (pixels(graph.run(server)[0]) == reference).all()
    assert (pixels(other.run(server)[0]) != reference).any()


def test_server_shows_the_read_out_and_writes_it_into_the_picture(server, graph):
    from PIL import Image

    graph.set("KSampler", seed=next(NEW_SEED), steps=5)
    with_ours(graph, skip_first_steps=2)
    body = {"prompt": graph.nodes, "client_id": "test", "extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}}}
    entry = server.wait(server.post("/prompt", body)["prompt_id"])
    images = [image for output in entry["outputs"].values() for image in output.get("images", [])]
    saved = Image.open(support.dev.base_dir() / "output" / images[0]["subfolder"] / images[0]["filename"])
    (facts,) = json.loads(saved.text["chroma_run"]).values()
    assert (facts["steps"], facts["prompts_computed"], facts["uncond_skipped"]) == (5, 8, 2)
    graph.set("ChromaKSampler", seed=next(NEW_SEED))
    shown = [t for t in texts(follow(server, graph)) if "prompts computed" in t]
    assert len(shown) == 1 and re.match(r"[\d.]+ s, [\d.]+ s a step\nHINT: 5 steps with chroma-demo", shown[0])
    assert "\nbeta: 5 steps, sigma 1.000 to " in shown[0]


def test_server_takes_linked_numbers_and_choices_and_tells_of_bad_ones(server, graph):
    graph.set("KSampler", seed=next(NEW_SEED))
    key = with_ours(graph)

    def linked(**values):
        copy = graph.copy()
        for name, (kind, value) in values.items():
            copy.nodes[key]["inputs"][name.replace("__", ".")] = [copy.add(kind, value=value), 0]
        return copy

    assert linked(steps=("PrimitiveInt", 3)).set("ChromaKSampler", shift="fixed", **{"shift.value": 2.0}).run(server)
    assert linked(shift__value=("PrimitiveFloat", 2.0)).set("ChromaKSampler", shift="fixed").run(server)
    error = linked(steps=("PrimitiveInt", 10**9)).fails(server)
    assert "steps is 1000000000; allowed is a whole number from 1 to 10000" in error
    error = linked(cfg=("PrimitiveFloat", 1e9)).fails(server)
    assert "cfg is 1000000000.0; allowed is a number from 0.0 to 100.0" in error
    error = linked(shift__value=("PrimitiveFloat", -2.0)).set("ChromaKSampler", shift="fixed").fails(server)
    assert "shift.value is -2.0; allowed is a number from 0.01 to 100" in error


@pytest.mark.parametrize("workflow", ["text", ["list"]], ids=str)
def test_server_runs_what_was_queued_with_metadata_of_any_form(server, graph, workflow):
    graph.set("KSampler", seed=next(NEW_SEED), steps=2)
    with_ours(graph)
    body = {"prompt": graph.nodes, "client_id": "test", "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
    prompt = server.post("/prompt", body)["prompt_id"]
    entry = server.wait(prompt)
    server.post("/history", {"delete": [prompt]})  # ComfyUI's own list of jobs fails on it as long as it is there
    assert entry["status"]["status_str"] == "success"


def test_server_tells_of_a_missing_negative_prompt_and_a_shift_that_is_not_there(server, graph):
    graph.set("KSampler", seed=next(NEW_SEED))
    key = with_ours(graph)
    broken = graph.copy()
    del broken.nodes[key]["inputs"]["negative"]
    assert "there is no negative prompt. Connect one" in broken.fails(server)
    broken = graph.copy().set("ChromaKSampler", shift="2")
    assert "shift is '2'; it must be one of 1 (as trained)" in broken.fails(server)
    assert graph.run(server)


# --- one choice for quality ------------------------------------------------------------------------------------------


def named(file, tmp_path, name):
    """The tiny model under a published file's name."""
    import shutil

    path = shutil.copy(file, tmp_path / name)
    return support.dev.load_pack("host.model.load").load_chroma(str(path))


def by_preset(model, config, name, choice, latent=None):
    """The chain of Chroma Preset's outputs with the same values, each set by hand."""
    from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced

    p = support.dev.load_pack("advice.presets").of_choice(name, choice)
    out = node("preset", "ChromaPreset").execute(
        model,
        preset=name,
        steps=p.steps,
        cfg=p.cfg,
        sampler=p.sampler,
        schedule={"schedule": p.curve, **p.params},
        shift={"shift": p.shift},
    )
    positive, negative = prompts(config)
    guider = node("guidance", "ChromaCFGGuider").execute(out[0], positive, p.cfg, negative)
    noise = RandomNoise.execute(SEED)[0]
    return SamplerCustomAdvanced.execute(noise, guider[0], out[1], out[2], latent or empty())[0]


@pytest.mark.parametrize(
    "name, row, quality",
    [
        ("Chroma1-HD.safetensors", "Chroma1-HD", "draft"),
        ("Chroma1-HD.safetensors", "Chroma1-HD", "standard"),
        ("Chroma1-HD.safetensors", "Chroma1-HD", "quality"),
        ("Chroma1-Flash.safetensors", "Chroma1-Flash", "flash"),
    ],
)
def test_choice_gives_what_the_preset_gives_and_is_told_and_saved(
    comfy, inference, file, cfg, tmp_path, caplog, name, row, quality
):
    caplog.set_level("INFO")
    model, info = named(file, tmp_path, name), {}
    made = ours(model, cfg, hidden={"extra_pnginfo": info}, quality=quality, steps=1, cfg=9.0, sampler="heun")
    text = next(m for m in caplog.messages if m.startswith("Chroma KSampler: "))
    equal(made, by_preset(model, cfg, row, quality))
    assert f"; {quality}: {row}, recognised by the name {name}; " in text
    (facts,) = info["chroma_run"].values()
    p = support.dev.load_pack("advice.presets").of_choice(row, quality)
    saved = facts["settings"]
    assert (saved["quality"], saved["preset"], saved["steps"], saved["cfg"]) == (quality, row, p.steps, p.cfg)
    assert (facts["steps"], facts["cfg"]) == (p.steps, p.cfg) and json.loads(json.dumps(facts)) == facts


def test_flash_without_flash_is_refused(comfy, inference, file, cfg, tmp_path):
    with pytest.raises(ValueError, match=r"quality is flash, and the model is Chroma1-HD \(by the name Chroma1-HD.saf"):
        ours(named(file, tmp_path, "Chroma1-HD.safetensors"), cfg, quality="flash")


def test_settings_of_a_preset_are_taken(comfy, model, cfg):
    out = node("preset", "ChromaPreset").execute(model, steps=4, cfg=3.0, schedule={"schedule": "linear"})
    assert out[-1].steps == 4
    made = ours(model, cfg, settings=out[-1], quality="quality", steps=9)
    equal(made, ours(model, cfg, schedule="linear"))
    with pytest.raises(ValueError, match="settings is of the type dict; allowed is the settings of Chroma Preset"):
        ours(model, cfg, settings={})


def test_savings_give_way_to_guidance_before_the_node(comfy, inference, file, cfg, tmp_path, caplog):
    caplog.set_level("INFO")
    model = named(file, tmp_path, "Chroma1-HD.safetensors")
    guided = node("guidance", "ChromaGuidance").execute(model, skip_first_steps=5)[0]
    flash = support.dev.load_pack("advice.flash").flash_settings(steps=5, guided_steps=2, cfg=3.0)
    ours(guided, cfg, settings=dataclasses.replace(flash, sampler="euler"))
    assert "guided_steps left out, since the model has guidance" in caplog.text and "5 prompts computed" in caplog.text


def test_server_runs_a_choice_and_refuses_a_missing_negative_before_it_reads_files(server, graph):
    graph.set("KSampler", seed=next(NEW_SEED))
    key = with_ours(graph, quality="draft", steps=3)
    shown = [t for t in texts(follow(server, graph)) if "prompts computed" in t]
    assert len(shown) == 1 and "\ndraft: chroma-demo, recognised by the name" in shown[0]
    assert "\n6 steps, cfg 3, chroma_sigma_2m, beta alpha 0.6 beta 0.6, shift 1\n" in shown[0]
    del graph.nodes[key]["inputs"]["negative"]
    assert "cfg is 3 and there is no negative prompt" in graph.fails(server)
