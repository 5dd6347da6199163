"""ComfyUI's hook LoRAs on quantised weights: as on plain ones, and nothing of them stays."""

import formats
import pytest
import support
import torch
from host_models import lora_on, sample

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack
CONFIG = {"width": 256, "heads": 2, "double": 1, "single": 2, "context": 256, "approximator": (64, 256, 2)}
LAYERS = (
    "double_blocks.0.img_attn.qkv",
    "single_blocks.1.linear2",
    "single_blocks.0.linear1",
    "final_layer.linear",
    "distilled_guidance_layer.layers.1.in_layer",
)
MODES = ["int8_convrot", "q8_0", "fp8_scaled", "Q4_K"]  # the last from a file


@pytest.fixture(autouse=True)
def _inference(inference):
    pass


@pytest.fixture(scope="module")
def cfg():
    return support.config(**CONFIG)


@pytest.fixture(scope="module")
def weights(cfg):
    return support.random_weights(cfg)


@pytest.fixture(scope="module")
def files(tmp_path_factory, cfg, weights):
    folder = tmp_path_factory.mktemp("m")
    packed = {name: str(formats.gguf_file(folder, weights, cfg, formats.GGUF[name])[0]) for name in ("Q4_K",)}
    return {**packed, "": str(support.write(folder / "m.safetensors", support.published(weights)))}


@pytest.fixture
def load(comfy, files):
    def load(mode):
        path, mode = (files[mode], "keep") if mode in files else (files[""], mode)
        return load_pack("host.model.load").load_chroma(path, mode)

    return load


@pytest.fixture
def lora(weights):
    return lora_on(weights, *LAYERS, strength=0.15)


def texts(cfg, hooks=None):
    """Positive with hooks, and negative."""
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.randn(1, n, cfg.context_dim, generator=generator) for n in (9, 6))
    return [[first, {"hooks": hooks} if hooks is not None else {}]], [[second, {}]]


def hooks_of(comfy, lora, keyframes=(), strength=1.0):
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(lora, strength, 0.0)
    if keyframes:
        group = comfy.hooks.HookKeyframeGroup()
        for start, part in keyframes:
            group.add(comfy.hooks.HookKeyframe(part, start))
        hooks.set_keyframes_on_hooks(group)
    return hooks


def run(comfy, model, cfg, hooks=None, **more):
    positive, negative = texts(cfg, hooks)
    return sample(comfy, model, cfg, positive=positive, negative=negative, size=(8, 8), **more)


def stored(model):
    return {name: t.clone() for name, t in model.model.diffusion_model.state_dict().items()}


def assert_untouched(model, before):
    after = model.model.diffusion_model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name].view(torch.uint8), t.view(torch.uint8)) for name, t in before.items() if t.ndim)
    for module in model.model.modules():
        assert not getattr(module, "weight_function", ()) and not getattr(module, "bias_function", ())


@pytest.mark.parametrize("keyframes", [(), ((0.0, 0.0), (0.4, 1.0))])
@pytest.mark.parametrize("mode", MODES)
def test_picture_is_that_of_the_float_model_within_the_precision(comfy, load, cfg, lora, mode, keyframes):
    model, exact = load(mode), load("fp32")
    before = stored(model)
    expected = run(comfy, exact, cfg, hooks_of(comfy, lora, keyframes))
    found = run(comfy, model, cfg, hooks_of(comfy, lora, keyframes))
    plain = run(comfy, model, cfg)
    error = support.relative(plain, run(comfy, exact, cfg))  # of the precision itself: 0.2 % to 7 %
    assert support.relative(found, expected) < 2 * error  # measured 1.2 to 1.4
    assert support.relative(found, plain) > 0.4
    assert_untouched(model, before)


@pytest.mark.parametrize("mode", MODES)
def test_twice_in_a_row_gives_the_same_and_a_run_without_is_as_before(comfy, load, cfg, lora, mode):
    model = load(mode)
    plain = run(comfy, model, cfg)
    hooks = hooks_of(comfy, lora, ((0.0, 1.0), (0.5, 0.3)))
    first = run(comfy, model, cfg, hooks)
    assert torch.equal(run(comfy, model, cfg, hooks), first)
    assert torch.equal(run(comfy, model.clone(), cfg, hooks_of(comfy, lora, ((0.0, 1.0), (0.5, 0.3)))), first)
    assert torch.equal(run(comfy, model, cfg), plain)


@pytest.mark.parametrize("mode", MODES)
def test_it_is_the_lora_in_the_weights_where_both_prompts_have_it(comfy, load, cfg, lora, mode):
    model = load(mode)
    merged = model.clone()
    merged.add_patches(comfy.lora.load_lora(lora, comfy.lora.model_lora_keys_unet(model.model, {})), 1.0)
    positive, negative = texts(cfg, hooks_of(comfy, lora))
    negative[0][1]["hooks"] = positive[0][1]["hooks"]
    found = sample(comfy, model, cfg, positive=positive, negative=negative, size=(8, 8))
    plain = run(comfy, model, cfg)
    assert support.relative(found, run(comfy, merged, cfg)) < 0.2 * support.relative(found, plain)


@pytest.mark.parametrize("mode", MODES)
def test_streamed_model_gives_the_same(comfy, load, cfg, lora, mode, monkeypatch):
    whole, streamed = load(mode), load(mode)
    before = stored(streamed)
    expected = run(comfy, whole, cfg, hooks_of(comfy, lora))
    whole.detach()
    load_model, loaded = streamed.load, []

    def lowvram(device_to=None, **_):
        loaded.append(device_to)
        load_model(device_to, lowvram_model_memory=1)

    monkeypatch.setattr(streamed, "load", lowvram)
    with_lora = run(comfy, streamed, cfg, hooks_of(comfy, lora))
    assert loaded and streamed.model.model_lowvram
    assert torch.equal(with_lora, expected)
    assert_untouched(streamed, before)


@pytest.mark.parametrize("mode", ["int8_convrot", "Q4_K"])
def test_beside_a_lora_in_the_weights_both_act(comfy, load, cfg, weights, lora, mode):
    def both(model):
        other = lora_on(weights, "single_blocks.0.linear1", "double_blocks.0.txt_mlp.0", strength=0.3)
        patched = model.clone()
        patched.add_patches(comfy.lora.load_lora(other, comfy.lora.model_lora_keys_unet(model.model, {})), 1.0)
        return run(comfy, patched, cfg, hooks_of(comfy, lora)), run(comfy, patched, cfg)

    found, alone = both(load(mode))
    expected, exact_alone = both(load("fp32"))
    assert support.relative(found, expected) < 2 * support.relative(alone, exact_alone)


def test_two_hooks_on_two_prompts_keep_apart(comfy, load, cfg, weights):
    def picture(mode):
        first, second = (lora_on(weights, name, strength=0.5) for name in LAYERS[:2])
        positive, negative = texts(cfg, hooks_of(comfy, first))
        negative[0][1]["hooks"] = hooks_of(comfy, second)
        return sample(comfy, load(mode), cfg, positive=positive, negative=negative, size=(8, 8))

    assert support.relative(picture("q8_0"), picture("fp32")) < 0.02


def test_nothing_stays_where_a_run_fails(comfy, load, cfg, lora):
    model = load("q8_0")
    before = stored(model)
    plain = run(comfy, model, cfg)
    block = model.model.diffusion_model.single_blocks[1]

    def broken(*_):
        raise RuntimeError("broken")

    handle = block.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="broken"):
        run(comfy, model, cfg, hooks_of(comfy, lora))
    handle.remove()
    assert_untouched(model, before)
    assert torch.equal(run(comfy, model, cfg), plain)
