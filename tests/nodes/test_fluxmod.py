"""FluxMod's sampling nodes: what a run under them computes in, and that nothing but the run has changed."""

import copy
import itertools
import json

import pytest
import support
import torch
from graphs import Graph
from host_models import lora_on, sample

pytestmark = pytest.mark.host

STEPS = 4
NEW_SEED = itertools.count(30_000)  # a seed that was used before would come out of the server's cache
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Relative L2 of a run from that in float32, twice what was found: 1.0e-2 and 1.3e-3, whose ratio is that of the types'
# own precision, 8. One rounding is 2^-9 and 2^-12; blocks add up some, and CFG at 3 multiplies them.
LIMITS = {"bf16": 2e-2, "fp16": 2.5e-3}


@pytest.fixture(scope="module")
def cfg():
    return support.config()


@pytest.fixture(scope="module")
def weights(cfg):
    return support.random_weights(cfg)


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    """The same weights as float32 and as bfloat16."""
    folder = tmp_path_factory.mktemp("m")
    return {
        dtype: support.write(folder / f"{dtype}.safetensors", support.published(weights, dtype=getattr(torch, dtype)))
        for dtype in ("float32", "bfloat16")
    }


@pytest.fixture
def load(comfy, inference, files):
    def load(mode="fp32", file="float32"):
        return support.dev.load_pack("host.model.load").load_chroma(str(files[file]), mode)

    return load


@pytest.fixture
def nodes(comfy):
    return support.dev.load_pack("nodes.fluxmod")


def prompts(config):
    generator = torch.Generator().manual_seed(2)
    return [[[torch.randn(1, n, config.context_dim, generator=generator), {}]] for n in (11, 7)]


def latent():
    return {"samples": torch.zeros(1, 16, 16, 20)}


def by_ksampler(nodes, model, config, casting, seed=7):
    out = nodes.KSamplerMod.execute(
        model, seed, STEPS, 3.0, "euler", "simple", *prompts(config), latent(), 1.0, casting
    )
    return out[0]["samples"]


def by_sampler(nodes, model, config, casting, seed=7, name="euler"):
    """SamplerCustom on the wrapped sampler; unwrapped for no casting."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, SamplerCustom

    sampler = KSamplerSelect.execute(name)[0]
    if casting is not None:
        sampler = nodes.FluxModSamplerWrapperNode.execute(sampler, casting)[0]
    sigmas = BasicScheduler.execute(model, "simple", STEPS, 1.0)[0]
    return SamplerCustom.execute(model, True, seed, 3.0, *prompts(config), sampler, sigmas, latent())[0]["samples"]


WAYS = {"KSamplerMod": by_ksampler, "FluxModSamplerWrapperNode": by_sampler}


def plain(model, config):
    """The host's KSampler."""
    return by_sampler(None, model, config, None)


class Seen:
    """The types that pass through chosen layers while it is open."""

    def __init__(self, net):
        self.dtypes = {}
        layers = {
            "input": net.img_in,
            "double": net.double_blocks[0].img_mlp[0],
            "single": net.single_blocks[0].linear1,
            "norm": net.single_blocks[0].norm.query_norm,
            "final": net.final_layer.linear,
            "approximator": net.distilled_guidance_layer,
            "in the approximator": net.distilled_guidance_layer.in_proj,
        }
        self.hooks = [layer.register_forward_hook(self.noting(name)) for name, layer in layers.items()]

    def noting(self, name):
        def hook(_, inputs, output):
            self.dtypes.setdefault(name, set()).update((inputs[0].dtype, output.dtype))

        return hook

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def check_types(seen, dtype):
    approximator = {"approximator", "in the approximator"}
    assert set(seen.dtypes) > approximator
    for name, dtypes in seen.dtypes.items():
        assert dtypes == {torch.float32 if name in approximator else dtype}, name


def state(model):
    """What a run might leave changed on a model and on its layers."""
    modules = {
        name: {k: v for k, v in vars(module).items() if not k.startswith("_")}
        for name, module in model.model.diffusion_model.named_modules()
    }
    model_state = {k: v for k, v in vars(model.model).items() if k in ("manual_cast_dtype", "model_sampling")}
    return modules, model_state, model.model_options, model.object_patches, model.patches_uuid, model.wrappers


# --- the type --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("casting", DTYPES)
def test_the_forward_computes_in_the_chosen_type_and_near_float32(load, nodes, cfg, way, casting):
    model = load()
    reference = plain(model, cfg)
    with Seen(model.model.diffusion_model) as seen:
        result = WAYS[way](nodes, model, cfg, casting)
    check_types(seen, DTYPES[casting])
    assert result.dtype == torch.float32
    assert LIMITS[casting] / 100 < support.relative(result, reference) < LIMITS[casting]


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_computes_in_the_chosen_type_gives_its_own_picture(load, nodes, cfg, way):
    model = load("bf16", "bfloat16")
    model.model.manual_cast_dtype = torch.bfloat16  # as on a device that computes in it
    assert torch.equal(WAYS[way](nodes, model, cfg, "bf16"), plain(model, cfg))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("casting", DTYPES)
def test_the_picture_is_that_of_model_compute_dtype(load, nodes, cfg, way, casting):
    from comfy_extras.nodes_model_advanced import ModelComputeDtype

    model = load()
    theirs = ModelComputeDtype().patch(model, casting)[0]
    assert torch.equal(WAYS[way](nodes, model, cfg, casting), plain(theirs, cfg))
    assert torch.equal(WAYS[way](nodes, theirs, cfg, "fp16"), WAYS[way](nodes, model, cfg, "fp16"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["q8_0", "fp8_scaled", "int8_convrot", "q5_1"])
@pytest.mark.parametrize("casting", DTYPES)
def test_quantised_models_compute_in_it_too(load, nodes, cfg, way, mode, casting):
    model = load(mode)
    reference = plain(model, cfg)
    with Seen(model.model.diffusion_model) as seen:
        result = WAYS[way](nodes, model, cfg, casting)
    check_types(seen, DTYPES[casting])
    # The reference has the same weights, so only the rounding of activations differs. int8_convrot rounds its inputs to
    # 8 bits on either side, and a small difference before that becomes a step of 8 bits.
    limit = 5e-2 if mode == "int8_convrot" else LIMITS[casting]
    assert 0 < support.relative(result, reference) < limit


@pytest.mark.parametrize("way", WAYS)
def test_quantised_models_keep_their_way_of_multiplication(load, nodes, cfg, way):
    model = load("int8_convrot")
    paths = []
    layer = model.model.diffusion_model.double_blocks[0].img_mlp[0]
    layer.register_forward_hook(lambda layer, inputs, _: paths.append(layer._path(inputs[0])))
    for casting in (None, "bf16"):
        by_sampler(nodes, model, cfg, casting)
        assert not getattr(layer, "comfy_force_cast_weights", False)
    assert len(paths) > STEPS and len(set(paths)) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["fp32", "q8_0", "fp8_scaled"])
def test_a_lora_acts_in_it(load, nodes, cfg, weights, way, mode):
    import comfy.sd

    model = load(mode)
    lora = lora_on(weights, "double_blocks.0.img_attn.qkv", "single_blocks.1.linear1")
    patched = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0]
    reference = plain(patched, cfg)
    with Seen(model.model.diffusion_model) as seen:
        result = WAYS[way](nodes, patched, cfg, "bf16")
    check_types(seen, torch.bfloat16)
    assert support.relative(result, reference) < LIMITS["bf16"]
    assert support.relative(result, plain(model, cfg)) > 5 * LIMITS["bf16"]


def test_a_radiance_model_computes_in_it(comfy, inference, tmp_path):
    config = support.config(**support.RADIANCE)
    file = support.write(tmp_path / "r.safetensors", support.published(support.random_weights(config)))
    model = support.dev.load_pack("host.model.load").load_chroma(str(file), "fp32")
    dtypes = []
    net = model.model.diffusion_model
    hook = net.single_blocks[0].linear1.register_forward_hook(lambda _, inputs, out: dtypes.append(out.dtype))
    wanted = sample(comfy, model, config, latent=torch.zeros(1, 3, 64, 64), steps=STEPS)
    clone = support.dev.load_pack("host.sample.compute_dtype").model_in(torch.bfloat16, model)
    found = sample(comfy, clone, config, latent=torch.zeros(1, 3, 64, 64), steps=STEPS)
    hook.remove()
    assert set(dtypes) == {torch.float32, torch.bfloat16} and dtypes[-1] == torch.bfloat16
    assert support.relative(found, wanted) < 5e-2  # its head works on single pixels, where little is averaged


# --- nothing else ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", ["fp32", "q8_0"])
def test_the_model_is_as_before_also_after_a_run_that_fails(load, nodes, cfg, way, mode):
    model = load(mode)
    reference = plain(model, cfg)
    before = state(model)
    WAYS[way](nodes, model, cfg, "fp16")
    after = state(model)
    assert after[:2] == before[:2] and [str(a) for a in after[2:]] == [str(b) for b in before[2:]]
    broken = model.clone()
    broken.set_model_sampler_post_cfg_function(lambda args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        WAYS[way](nodes, broken, cfg, "fp16")
    assert state(model)[:2] == before[:2]
    assert torch.equal(plain(model, cfg), reference)


def test_no_weight_is_loaded_again(load, nodes, cfg, monkeypatch):
    """The host's ModelComputeDtype loads the whole model for each clone that it makes."""
    from comfy_extras.nodes_model_advanced import ModelComputeDtype

    model = load()
    plain(model, cfg)
    loads, original = [], type(model).load
    monkeypatch.setattr(type(model), "load", lambda self, *a, **k: [loads.append(1), original(self, *a, **k)][1])
    for casting in ("bf16", "fp16", "bf16"):
        by_ksampler(nodes, model, cfg, casting)
    assert not loads
    plain(ModelComputeDtype().patch(model, "bf16")[0], cfg)
    assert loads


@pytest.mark.parametrize("name", ["euler", "heun", "uni_pc", "ddim", "dpm_fast", "euler_ancestral"])
def test_a_wrapped_sampler_keeps_its_function_and_options(load, nodes, cfg, name):
    from comfy_extras.nodes_custom_sampler import KSamplerSelect

    sampler = KSamplerSelect.execute(name)[0]
    sampler.extra_options["kept"] = 1
    ours = nodes.FluxModSamplerWrapperNode.execute(sampler, "bf16")[0]
    assert type(ours) is type(sampler) and ours is not sampler
    assert (ours.extra_options, ours.inpaint_options) == (sampler.extra_options, sampler.inpaint_options)
    assert ours.sampler_function.__name__ == sampler.sampler_function.__name__
    sampler.extra_options.pop("kept")
    model = load()
    reference = by_sampler(nodes, model, cfg, None, name=name)
    assert support.relative(by_sampler(nodes, model, cfg, "bf16", name=name), reference) < 5e-2


def test_both_models_of_a_guider_compute_in_it(comfy, load, nodes, cfg):
    from comfy_extras.nodes_custom_sampler import Guider_DualModel, KSamplerSelect

    models = load(), load("fp32", "bfloat16")
    dtypes = []
    for model in models:
        layer = model.model.diffusion_model.img_in
        layer.register_forward_hook(lambda _, inputs, out, model=model: dtypes.append((id(model), out.dtype)))
    guider = Guider_DualModel(*models)
    guider.set_conds(*prompts(cfg))
    guider.set_cfg(3.0)
    noise = torch.randn(1, 16, 16, 20)
    sampler = nodes.FluxModSamplerWrapperNode.execute(KSamplerSelect.execute("euler")[0], "bf16")[0]
    guider.sample(noise, torch.zeros_like(noise), sampler, torch.linspace(1, 0, 3), disable_pbar=True, seed=1)
    assert set(dtypes) == {(id(model), torch.bfloat16) for model in models}


# --- as FluxMod has them ---------------------------------------------------------------------------------------------


def test_inputs_are_fluxmods_in_its_order(comfy, nodes):
    """What a saved workflow relies on: ids, order of inputs and widgets, options, output types."""
    inputs = nodes.KSamplerMod.INPUT_TYPES()["required"]
    assert list(inputs) == [
        "model",
        "seed",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "positive",
        "negative",
        "latent_image",
        "denoise",
        "activation_casting",
    ]
    defaults = {name: inputs[name][1]["default"] for name in ("seed", "steps", "cfg", "denoise", "activation_casting")}
    assert defaults == {"seed": 0, "steps": 20, "cfg": 8.0, "denoise": 1.0, "activation_casting": "bf16"}
    wrapper = nodes.FluxModSamplerWrapperNode.INPUT_TYPES()["required"]
    assert list(wrapper) == ["sampler", "activation_casting"]
    for found in (inputs, wrapper):
        assert found["activation_casting"][1]["options"] == ["bf16", "fp16"]
    schemas = {node: node.GET_SCHEMA() for node in (nodes.KSamplerMod, nodes.FluxModSamplerWrapperNode)}
    assert [s.node_id for s in schemas.values()] == ["KSamplerMod", "FluxModSamplerWrapperNode"]
    assert [[o.io_type for o in s.outputs] for s in schemas.values()] == [["LATENT"], ["SAMPLER"]]
    assert all(s.is_deprecated for s in schemas.values())


def test_unknown_types_and_samplers_are_told(load, nodes, cfg):
    with pytest.raises(ValueError, match="activation_casting is 'fp8'; it must be one of bf16, fp16"):
        by_ksampler(nodes, load(), cfg, "fp8")
    with pytest.raises(ValueError, match="the sampler is object, which can not be wrapped; a KSAMPLER can"):
        nodes.FluxModSamplerWrapperNode.execute(object(), "bf16")


# --- in a running ComfyUI --------------------------------------------------------------------------------------------


def saved_with_fluxmod():
    """The demo workflow as FluxMod's users have saved it: KSamplerMod in the place of KSampler."""
    workflow = copy.deepcopy(json.loads(support.dev.WORKFLOW.read_text()))
    (node,) = (node for node in workflow["nodes"] if node["type"] == "KSampler")
    seed, control, _, *rest = node["widgets_values"]
    node["type"] = "KSamplerMod"
    node["widgets_values"] = [seed, control, STEPS, *rest, "bf16"]
    return workflow


def pixels(path):
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_workflow_saved_with_fluxmod_runs_in_the_server(server):
    graph = Graph(support.dev.api_graph(saved_with_fluxmod(), server.get("/object_info")))
    inputs = graph.nodes[graph.find("KSamplerMod")]["inputs"]
    assert {k: v for k, v in inputs.items() if not isinstance(v, list)} == {
        "seed": 1,
        "steps": STEPS,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "beta",
        "denoise": 1.0,
        "activation_casting": "bf16",
    }
    seed = next(NEW_SEED)
    reference = Graph.demo(server).set("KSampler", seed=seed, steps=STEPS).run(server)
    found = graph.set("KSamplerMod", seed=seed).run(server)
    assert abs(pixels(found[0]) - pixels(reference[0])).mean() < 2  # of 255; a 4-step picture in bf16


def test_the_sampler_wrapper_runs_in_the_server(server):
    graph = Graph.demo(server)
    k = graph.nodes[graph.find("KSampler")]["inputs"]
    prompts = {name: k[name] for name in ("model", "positive", "negative", "latent_image")}
    select = graph.add("KSamplerSelect", sampler_name="euler")
    wrapped = graph.add("FluxModSamplerWrapperNode", sampler=[select, 0], activation_casting="bf16")
    sigmas = graph.add("BasicScheduler", model=k["model"], scheduler="beta", steps=STEPS, denoise=1.0)
    inputs = {
        "add_noise": True,
        "noise_seed": next(NEW_SEED),
        "cfg": 3.0,
        "sampler": [wrapped, 0],
        "sigmas": [sigmas, 0],
    }
    graph.set("VAEDecode", samples=[graph.add("SamplerCustom", **prompts, **inputs), 0])
    assert pixels(graph.run(server)[0]).shape == (128, 128, 3)
