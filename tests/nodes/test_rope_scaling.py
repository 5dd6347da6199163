"""RoPE scaling on a MODEL: off up to the base size, one embedder a clone, and the time of each step."""

from types import SimpleNamespace

import pytest
import support
import torch
from host_models import native_patcher, sample

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def module(comfy):
    return support.dev.load_pack("nodes.rope_scaling")


@pytest.fixture(autouse=True)
def texts(module, monkeypatch):
    found = []
    monkeypatch.setattr(module, "report", lambda cls, text: found.append(text()))
    return found


@pytest.fixture(scope="module", params=["latent", "pixels"])
def case(comfy, request, tmp_path_factory):
    cfg = support.config(**(support.RADIANCE if request.param == "pixels" else {}))
    path = tmp_path_factory.mktemp("m") / "tiny.safetensors"
    support.write(path, support.published(support.random_weights(cfg)))
    with torch.inference_mode():
        return cfg, support.dev.load_pack("host.model.load").load_chroma(str(path))


def scaled(module, model, base_size=64, method=None, over_time=None):
    over_time = {"dype_scale": 2.0, "dype_exponent": 2.0, "over_time": module.DYNAMIC, **(over_time or {})}
    return module.ChromaRoPEScaling.execute(model, method or {"method": "yarn"}, over_time, base_size).args[0]


def run(comfy, case, model, pixels):
    """A square picture of so many pixels a side."""
    cfg = case[0]
    side = pixels if cfg.nerf is not None else pixels // 8
    latent = torch.zeros(1, cfg.latent_channels, side, side)
    return sample(comfy, model, cfg, latent=latent, size=(side, side))


@pytest.mark.parametrize("method", ["yarn", "ntk", "linear"])
@pytest.mark.parametrize("time", ["follows the noise (DyPE)", "fixed"])
def test_up_to_the_base_size_a_run_is_the_plain_one_and_above_it_is_not(comfy, inference, module, case, method, time):
    model = case[1]
    other = scaled(module, model, 64, {"method": method}, {"over_time": time})
    assert torch.equal(run(comfy, case, other, 64), run(comfy, case, model, 64))
    assert support.relative(run(comfy, case, other, 128), run(comfy, case, model, 128)) > 1e-4


@pytest.mark.parametrize("patch_size, in_pixels, tokens", [(2, False, 64), (16, True, 64), (32, True, 32)])
def test_the_base_is_of_pixels_whatever_a_token_covers(module, patch_size, in_pixels, tokens):
    """A picture of 1024 pixels has 64 tokens a side, or 32 where a patch of Radiance is twice as large."""
    config = SimpleNamespace(patch_size=patch_size, nerf=object() if in_pixels else None)
    assert 1024 / module.token_side(config) == tokens


def test_the_model_stays_and_each_clone_has_its_own(comfy, inference, module, case):
    model = case[1]
    before = run(comfy, case, model, 128)
    one = scaled(module, model, over_time={"over_time": "fixed"})
    two = scaled(module, one, method={"method": "ntk"}, over_time={"over_time": "fixed"})
    alone = scaled(module, model, method={"method": "ntk"}, over_time={"over_time": "fixed"})
    assert torch.equal(run(comfy, case, two, 128), run(comfy, case, alone, 128))
    assert not torch.equal(run(comfy, case, one, 128), run(comfy, case, two, 128))
    assert torch.equal(run(comfy, case, model, 128), before)


def test_each_step_has_the_scale_of_its_sigma(comfy, inference, module, case, monkeypatch):
    rope = support.dev.load_pack("chroma_model.rope_scaling")
    seen, original = [], rope.scale_at
    monkeypatch.setattr(rope, "scale_at", lambda s, t, d: seen.append((s, t[0].item(), d)) or original(s, t, d))
    other = scaled(module, case[1], over_time={"over_time": "follows the noise (DyPE)", "dype_exponent": 1.0})
    run(comfy, case, other, 128)
    sigmas = comfy.samplers.calculate_sigmas(other.get_model_object("model_sampling"), "simple", 4)[:-1]
    assert sorted({t for _, t, _ in seen}, reverse=True) == pytest.approx(sigmas.tolist(), rel=1e-6)
    assert {(s, d) for s, _, d in seen} == {(2.0, (2.0, 1.0))}


def test_the_node_tells_where_it_acts(inference, module, case, texts):
    scaled(module, case[1], 1024)
    scaled(module, case[1], 512, over_time={"over_time": "fixed"})
    assert texts == [
        "yarn, above an area of 1024 x 1024; at twice the side the scale falls from 4.00 to 1 with the noise",
        "yarn, above an area of 512 x 512, fixed",
    ]


def test_what_does_not_fit_is_named(comfy, inference, module, case):
    with pytest.raises(ValueError, match="alpha is 40 and beta is 32; alpha must be the smaller one"):
        scaled(module, case[1], method={"method": "yarn", "alpha": 40.0, "beta": 32.0})
    cfg = support.config(double=19, single=38)
    native = native_patcher(comfy, cfg, support.random_weights(cfg))
    with pytest.raises(ValueError, match="the model is a Chroma from another loader; load it with Load Chroma Model"):
        scaled(module, native)
