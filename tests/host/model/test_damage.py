"""A run that ends in NaN: the first of what it was given that is not finite is named, and the model only where it is its fault."""

import pytest
import support
import torch
from host_models import sample

pytestmark = pytest.mark.host
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def cfg():
    return support.config()


@pytest.fixture(scope="module")
def path(cfg, tmp_path_factory):
    weights = support.published(support.random_weights(cfg))
    return support.write(tmp_path_factory.mktemp("m") / "sound.safetensors", weights)


@pytest.fixture
def model(comfy, inference, path):
    return support.dev.load_pack("host.model.load").load_chroma(str(path))


def text(cfg, *values, **options):
    tokens = torch.randn(1, 9, cfg.context_dim)
    tokens.view(-1)[: len(values)] = torch.tensor(values)
    return [[tokens, options]]


def bad(shape, value=NAN):
    tensor = torch.ones(shape)
    tensor.view(-1)[-1] = value
    return tensor


CASES = {
    "the positive prompt's text": lambda cfg: {"positive": text(cfg, NAN), "negative": text(cfg)},
    "the negative prompt's text": lambda cfg: {"positive": text(cfg), "negative": text(cfg, INF)},
    "the positive prompt's guidance": lambda cfg: {"positive": text(cfg, guidance=NAN), "negative": text(cfg)},
    "the negative prompt's mask": lambda cfg: {
        "positive": text(cfg),
        "negative": text(cfg, mask=bad((1, 16, 20)), mask_strength=1.0),
    },
    "the latent": lambda cfg: {"latent": bad((1, 16, 16, 20))},
    "the latent's mask": lambda cfg: {"noise_mask": bad((1, 1, 16, 20))},
    "the schedule (sigmas)": lambda cfg: {"sigmas": torch.tensor([1.0, NAN, 0.0])},
    "cfg": lambda cfg: {"scale": NAN},
}


@pytest.mark.parametrize("what", CASES)
def test_first_input_that_is_not_finite_is_named(comfy, model, cfg, caplog, what):
    sample(comfy, model, cfg, **{"steps": 2, **CASES[what](cfg)})
    (line,) = [m for m in caplog.messages if "ended in NaN" in m]
    assert line == (
        f"sound.safetensors: the run ended in NaN; the picture will be black. {what} holds NaN or infinity. Look at the node "
        "that gives it; the model is not to blame"
    )


def test_weights_are_named_where_all_inputs_are_finite(comfy, model, cfg, caplog):
    model.model.diffusion_model.img_in.bias.data[3] = NAN
    mask = torch.zeros(1, 9)
    mask[0, -1] = -INF  # added to logits: no damage
    sample(comfy, model, cfg, positive=text(cfg, attention_mask=mask), negative=text(cfg), steps=1)
    assert "Tensors with NaN or infinite weights: img_in.bias. Download the file again" in caplog.text


@pytest.mark.parametrize("mode", ["auto", "int8_convrot"])
def test_file_that_was_not_written_to_its_end_is_told(comfy, inference, path, tmp_path, caplog, mode):
    """Its size and its header are right: some downloads reserve the whole file first."""
    raw = path.read_bytes()
    for half, names in ((raw[: len(raw) // 2].ljust(len(raw), b"\0"), ["single_blocks"]), (raw, [])):
        caplog.clear()
        (tmp_path / "half.safetensors").write_bytes(half)
        support.dev.load_pack("host.model.load").load_chroma(str(tmp_path / "half.safetensors"), mode)
        told = [m for m in caplog.messages if "nothing but zeros" in m]
        assert len(told) == len(names) and all(name in m for m, name in zip(told, names)), told
    assert len(half) == len(raw)


def test_nan_of_attention_masks_and_further_parts_is_found(comfy):
    damage = support.dev.load_pack("host.model.damage")
    hint = type("Control", (), {"cond_hint_original": bad((1, 3, 8, 8))})()
    negative = type("Negative", (), {"text": bad((1, 4, 8))})()
    entry = {"attention_mask": bad((1, 9)), "control": hint, "chroma_nag": negative, "uuid": "x", "area": (1, 2)}
    inputs = damage.inputs_of({"positive": [entry]}, {"noise": bad(3)}, 3.0)
    assert [name for name, value in inputs if not damage.is_finite(value)] == [
        "the positive prompt's attention_mask",
        "the positive prompt's control",
        "the positive prompt's text of Chroma NAG",
        "the noise",
    ]


@pytest.mark.parametrize("mode", ["int8_convrot", "fp8_scaled", "q5_1", "nvfp4"])
def test_scales_of_packed_weights_are_checked_at_load(comfy, inference, model, caplog, mode):
    damage, load = support.dev.load_pack("host.model.damage"), support.dev.load_pack("host.model.load").load_chroma
    name = "single_blocks.1.linear2.weight"
    state = dict(load(model.cached_patcher_init[1][0], mode).model.diffusion_model.named_parameters())
    weights = {n: t.data for n, t in state.items()}
    header = type("Header", (), {"name": "file"})()
    damage.warn_of_damage(header, weights)
    assert caplog.messages == [m for m in caplog.messages if "NaN" not in m]
    weight = weights[name]
    if mode == "q5_1":  # its scales lie between its numbers
        assert torch.isfinite(next(damage.samples(weight))).all()
        weight._qdata.view(torch.uint8)[-1, :2] = torch.tensor([0x00, 0x7E], dtype=torch.uint8)  # NaN in float16
    else:
        weight._params.scale.view(-1)[-1:] = NAN
    damage.warn_of_damage(header, weights)
    assert f"file: 1 tensors hold NaN or infinite weights ({name} ...)" in caplog.text
