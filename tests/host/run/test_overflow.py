"""What float16 cannot hold is told once, with its place, and a run without it says nothing."""

from types import SimpleNamespace

import pytest
import support
import torch
from host_models import our_net, sample

pytestmark = pytest.mark.host


@pytest.fixture
def overflow(comfy):
    return support.dev.load_pack("host.run.overflow")


def run(comfy, overflow, name="", dtype=torch.float16, factor=1.0, control=None):
    """One forward in dtype with one layer's weights scaled; gives the picture and the noted places."""
    cfg = support.config()
    weights = support.random_weights(cfg)
    if name:
        weights[name] = weights[name] * factor
    net = our_net(comfy, cfg, weights, dtype)
    data = {k: v.to(dtype) for k, v in support.inputs(cfg, height=8, width=8, tokens=4).items()}
    flags = overflow.Flags()
    with torch.inference_mode():
        out = net(
            data["x"],
            data["timesteps"],
            data["context"],
            torch.zeros(1),
            control,
            transformer_options={overflow.OPTION: flags},
        )
    return out, [place for place, cut in flags.found.items() if bool(cut)]


@pytest.mark.parametrize(
    "name, place",
    [
        ("double_blocks.1.img_mlp.2.weight", ("double", 1)),
        ("double_blocks.0.txt_attn.proj.weight", ("double", 0)),
        ("single_blocks.2.linear2.weight", ("single", 2)),
    ],
)
def test_the_first_block_that_overflows_is_noted(comfy, overflow, name, place):
    out, places = run(comfy, overflow, name, factor=2e5)
    assert places[0] == place and torch.isfinite(out).all()


@pytest.mark.parametrize("side, place", [("input", ("double", 1)), ("output", ("single", 1))])
def test_a_controlnets_residual_beyond_the_range_is_cut_and_noted(comfy, overflow, side, place):
    """Left infinite it would be NaN in the next block, and its rows lost."""
    residual = torch.zeros(1, 16, 128, dtype=torch.float16)
    residual[0, 3, 5] = torch.inf
    out, places = run(comfy, overflow, control={side: [None, residual]})
    least = run(comfy, overflow, control={side: [None, residual.nan_to_num()]})[0]
    assert places == [place] and torch.isfinite(out).all() and torch.equal(out, least)


def test_nothing_is_noted_where_nothing_is_cut(comfy, overflow):
    assert run(comfy, overflow)[1] == []
    assert run(comfy, overflow, "double_blocks.1.img_mlp.2.weight", torch.float32, 2e5)[1] == []


@pytest.mark.parametrize("cut, told", [([], None), ([("single", 3)], "single block 3,"), ([("double", 1), ("single", 0)], "double block 1 and 1 more,")])  # fmt: skip
def test_a_run_tells_once_at_its_end(overflow, caplog, cut, told):
    guider = SimpleNamespace(model_options={"transformer_options": {}})

    class Executor:
        class_obj = guider

        def __call__(self, x):
            flags = guider.model_options["transformer_options"][overflow.OPTION]
            flags.found[("double", 7)] = torch.tensor(False)
            flags.found.update(dict.fromkeys(cut, torch.tensor(True)))
            return x

    assert overflow.tell_overflow("f.safetensors")(Executor(), 5) == 5
    assert len(caplog.messages) == (told is not None)
    assert told is None or (told in caplog.text and "65504" in caplog.text and "bf16 or fp32" in caplog.text)


def test_a_run_of_the_host_warns_with_the_blocks_place(comfy, inference, tmp_path, caplog, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *args, **more: None)  # float16 on a CPU too
    cfg = support.config()
    weights = support.random_weights(cfg)
    for factor in (1.0, 2e5):
        name = "single_blocks.2.linear2.weight"
        scaled = {**weights, name: (weights[name] * factor).clamp(-6e4, 6e4)}
        path = support.write(tmp_path / f"{factor:g}.safetensors", support.published(scaled))
        model = support.dev.load_pack("host.model.load").load_chroma(str(path), "fp16")
        assert torch.isfinite(sample(comfy, model, cfg, steps=2)).all()
        assert ("were cut in single block 2," in caplog.text) == (factor > 1)


def test_weights_that_a_cast_makes_infinite_are_not_called_damage(comfy, caplog):
    damage = support.dev.load_pack("host.model.damage")
    header = SimpleNamespace(name="f.safetensors")
    weights = {"a": torch.tensor([1.0, 7e4]).half(), "b": torch.ones(2).half()}
    damage.warn_of_damage(header, weights, torch.bfloat16)
    assert "beyond float16's range have become infinite (a)" in caplog.text and "damaged" not in caplog.text
    caplog.clear()
    damage.warn_of_damage(header, weights, torch.float16)
    assert "damaged" in caplog.text and "beyond" not in caplog.text
    caplog.clear()
    damage.warn_of_damage(header, {"a": torch.tensor([1.0, float("nan")]).half()}, torch.bfloat16)
    assert "damaged" in caplog.text
