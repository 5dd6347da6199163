"""LoRAs of every layout through the node, on the weights that the host then computes with."""

import copy
import json
import math

import numpy as np
import pytest
import support
import torch
from graphs import Graph
from host_models import sample

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.host
dev = support.dev
RANK, ALPHA, STRENGTH = 4, 3.0, 0.7
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # fp32, one product of rank 4


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    cfg = support.config()
    weights = support.random_weights(cfg)
    return cfg, weights, support.write(tmp_path_factory.mktemp("m") / "tiny.safetensors", support.published(weights))


@pytest.fixture
def model(comfy, inference, case):
    return dev.load_pack("host.model.load").load_chroma(str(case[2]))


@pytest.fixture
def apply(comfy, monkeypatch, tmp_path, caplog):
    """(model, tensors) -> the node's MODEL and what it reported."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors", ".pt"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    module = dev.load_pack("nodes.lora")
    node = module.ChromaLoraLoader.PREPARE_CLASS_CLONE(None)
    caplog.set_level("INFO")

    def run(model, tensors, strength=STRENGTH, name="x.safetensors", **metadata):
        if tensors is not None:
            support.write(tmp_path / name, {k: t.contiguous() for k, t in tensors.items()}, **metadata)
        caplog.clear()
        (out,) = node.execute(model, name, strength).args
        return out, "\n".join(r.getMessage() for r in caplog.records if r.getMessage().startswith("Load Chroma LoRA"))

    run.folder = tmp_path
    return run


def patched(comfy, model):
    """The network's weights as the host computes with them."""
    comfy.model_management.load_models_gpu([model])
    weights = {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}
    model.detach()
    return weights


# --- every layout, every matrix of the model -------------------------------------------------------------------------


def flat(name):
    return name.replace(".", "_")


def onetrainer(name):
    """diffusers' name -> OneTrainer's in the OMI layout. Source: its convert_chroma_lora.py."""
    double = {
        "attn.to_q": "img_attn.qkv.0",
        "attn.to_k": "img_attn.qkv.1",
        "attn.to_v": "img_attn.qkv.2",
        "attn.add_q_proj": "txt_attn.qkv.0",
        "attn.add_k_proj": "txt_attn.qkv.1",
        "attn.add_v_proj": "txt_attn.qkv.2",
        "attn.to_out.0": "img_attn.proj",
        "ff.net.0.proj": "img_mlp.0",
        "ff.net.2": "img_mlp.2",
        "attn.to_add_out": "txt_attn.proj",
        "ff_context.net.0.proj": "txt_mlp.0",
        "ff_context.net.2": "txt_mlp.2",
    }
    single = {
        "attn.to_q": "linear1.0",
        "attn.to_k": "linear1.1",
        "attn.to_v": "linear1.2",
        "proj_mlp": "linear1.3",
        "proj_out": "linear2",
    }
    others = {"context_embedder": "txt_in", "proj_out": "final_layer.linear", "x_embedder": "img_in.proj"}
    stack, *rest = name.split(".", 2)
    if stack == "transformer_blocks":
        return f"double_blocks.{rest[0]}.{double[rest[1]]}"
    if stack == "single_transformer_blocks":
        return f"single_blocks.{rest[0]}.{single[rest[1]]}"
    return others.get(name, name.replace("linear_1", "in_layer").replace("linear_2", "out_layer"))


KOHYA = ("lora_down.weight", "lora_up.weight")
PEFT = ("lora_A.weight", "lora_B.weight")
ADAPTER = ("lora_A.default.weight", "lora_B.default.weight")
LAYOUTS = {  # layout -> whether its layers are split as diffusers' are, a layer's name, endings, whether it has alphas
    "kohya": (False, lambda n: "lora_unet_" + flat(n), KOHYA, True),
    "kohya with A and B": (False, lambda n: "lora_unet_" + flat(n), PEFT, True),
    "kohya on diffusers' names": (True, lambda n: "lora_unet_" + flat(n), KOHYA, True),
    "ai-toolkit": (False, lambda n: "diffusion_model." + n, PEFT, False),
    "ai-toolkit on diffusers' names": (True, lambda n: "diffusion_model." + n, PEFT, False),
    "BFL": (False, lambda n: n, PEFT, False),
    "Chroma's trainer": (False, lambda n: n, ("lora.lora_A", "lora.lora_B"), False),
    "PEFT on BFL's names": (False, lambda n: "base_model.model." + n, PEFT, True),
    "PEFT": (True, lambda n: "base_model.model." + n, ADAPTER, False),
    "diffusers": (True, lambda n: "transformer." + n, PEFT, False),
    "diffusers before PEFT": (True, lambda n: "transformer." + n, ("lora.down.weight", "lora.up.weight"), False),
    "DiffSynth": (True, lambda n: n, ADAPTER, False),
    "OneTrainer": (True, lambda n: "lora_transformer_" + flat(n), KOHYA, True),
    "OneTrainer, OMI": (True, lambda n: "transformer." + onetrainer(n), KOHYA, True),
    "SimpleTuner": (True, lambda n: "lycoris_" + flat(n), KOHYA, True),
}


def matrices(weights):
    return {name.removesuffix(".weight"): w for name, w in weights.items() if w.ndim == 2}


def random_pair(rows, columns, generator):
    down = torch.randn(RANK, columns, generator=generator) * columns**-0.5
    return down, torch.randn(rows, RANK, generator=generator)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_matrix_gets_the_strength_times_the_delta(comfy, model, case, apply, layout):
    split, named, (down_name, up_name), has_alpha = LAYOUTS[layout]
    cfg, weights, _ = case
    form = (lambda w: support.to_diffusers(w, cfg)) if split else dict
    generator = torch.Generator().manual_seed(7)
    expected, tensors = form(weights), {}
    for name, weight in matrices(expected).items():
        down, up = random_pair(*weight.shape, generator)
        tensors |= {f"{named(name)}.{down_name}": down, f"{named(name)}.{up_name}": up}
        if has_alpha:
            tensors[f"{named(name)}.alpha"] = torch.tensor(ALPHA)
        scale = STRENGTH * (ALPHA / RANK if has_alpha else 1.0)
        expected[name + ".weight"] = weight + scale * (up @ down)
    out, text = apply(model, tensors)
    found = patched(comfy, out)
    torch.testing.assert_close(form(found), expected, **CLOSE)
    count = len(matrices(form(weights)))
    assert f"{count} of {count} layers matched" in text
    assert "changes 8 layers of distilled_guidance_layer" in text  # three of two, in_proj and out_proj
    torch.testing.assert_close(patched(comfy, model), weights, rtol=0, atol=0)  # the input is not touched


def test_xlabs_lora_of_attention_processors_is_applied(comfy, model, case, apply):
    generator = torch.Generator().manual_seed(7)
    expected, tensors = dict(case[1]), {}
    for layer, module in (
        ("qkv_lora1", "img_attn.qkv"),
        ("proj_lora1", "img_attn.proj"),
        ("qkv_lora2", "txt_attn.qkv"),
    ):
        weight = expected[f"double_blocks.0.{module}.weight"]
        down, up = random_pair(*weight.shape, generator)
        tensors[f"double_blocks.0.processor.{layer}.down.weight"] = down
        tensors[f"double_blocks.0.processor.{layer}.up.weight"] = up
        expected[f"double_blocks.0.{module}.weight"] = weight + STRENGTH * (up @ down)
    weight = expected["single_blocks.1.linear1.weight"].clone()
    down, up = random_pair(3 * 128, 128, generator)
    tensors |= {
        "single_blocks.1.processor.qkv_lora.down.weight": down,
        "single_blocks.1.processor.qkv_lora.up.weight": up,
    }
    weight[: 3 * 128] += STRENGTH * (up @ down)
    expected["single_blocks.1.linear1.weight"] = weight
    torch.testing.assert_close(patched(comfy, apply(model, tensors)[0]), expected, **CLOSE)


def test_alpha_of_diffusers_metadata_is_honoured(comfy, model, case, apply):
    down, up = random_pair(128, 128, torch.Generator().manual_seed(7))
    layer = "transformer.single_transformer_blocks.0.attn.to_v"
    config = {"transformer.lora_alpha": 2, "transformer.r": RANK, "transformer.alpha_pattern": {}}
    out, _ = apply(
        model,
        {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up},
        lora_adapter_metadata=json.dumps(config),
    )
    expected = case[1]["single_blocks.0.linear1.weight"].clone()
    expected[256:384] += STRENGTH * 2 / RANK * (up @ down)
    torch.testing.assert_close(patched(comfy, out)["single_blocks.0.linear1.weight"], expected, **CLOSE)


# --- other adapters: the host's own maths on the same rows -----------------------------------------------------------

SHAPES = {  # kind -> its parts for a weight of 128 x 128
    "LoHa": {"hada_w1_a": (128, 2), "hada_w1_b": (2, 128), "hada_w2_a": (128, 2), "hada_w2_b": (2, 128)},
    "LoKr": {"lokr_w1": (8, 8), "lokr_w2_a": (16, 2), "lokr_w2_b": (2, 16)},
    "LoKr whole": {"lokr_w1": (8, 8), "lokr_w2": (16, 16)},
    "DoRA rows": {"lora_up.weight": (128, 4), "lora_down.weight": (4, 128), "dora_scale": (128, 1)},
    "DoRA columns": {"lora_up.weight": (128, 4), "lora_down.weight": (4, 128), "dora_scale": (1, 128)},
    "LoKr with DoRA": {"lokr_w1": (8, 8), "lokr_w2": (16, 16), "dora_scale": (128, 1)},
    "GLoRA": {"a1.weight": (128, 2), "a2.weight": (2, 128), "b1.weight": (128, 2), "b2.weight": (2, 128)},
    "OFT": {"oft_blocks": (8, 16, 16)},
    "BOFT": {"oft_blocks": (2, 8, 16, 16)},
}
PLACES = {  # layer in a LoRA -> the weight and its rows
    "lycoris_transformer_blocks_1_attn_to_k": ("double_blocks.1.img_attn.qkv", 128, 256),
    "diffusion_model.double_blocks.0.txt_attn.proj": ("double_blocks.0.txt_attn.proj", 0, 128),
    "transformer.double_blocks.0.txt_attn.qkv.2": ("double_blocks.0.txt_attn.qkv", 256, 384),
}


ROW_MAGNITUDES = ("DoRA rows", "LoKr with DoRA")


def of_rows(weight, changed, magnitude, strength=STRENGTH):
    """PEFT's DoRA (tuners/lora/dora.py); a strength is a part of the way."""
    return weight + strength * (magnitude * changed / changed.norm(dim=1, keepdim=True) - weight)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("alpha", [None, 0.9])
@pytest.mark.parametrize("kind", SHAPES)
def test_adapter_equals_the_hosts_maths_on_its_rows(comfy, model, case, apply, kind, place, alpha):
    import comfy.lora

    generator = torch.Generator().manual_seed(7)
    parts = {p: 0.3 * torch.randn(s, generator=generator) for p, s in SHAPES[kind].items()}
    if "dora_scale" in parts:
        parts["dora_scale"] = 1 + parts["dora_scale"]
    if alpha is not None:
        parts["alpha"] = torch.tensor(alpha)
    module, first, last = PLACES[place]
    out, text = apply(model, {f"{place}.{p}": t for p, t in parts.items()})
    assert "1 of 1 layers matched" in text

    magnitude = parts.pop("dora_scale") if kind in ROW_MAGNITUDES else None
    if kind == "BOFT" and alpha is None:
        parts["alpha"] = torch.tensor(0.0)  # the host's needs a number
    (adapter,) = comfy.lora.load_lora({f"x.{p}": t for p, t in parts.items()}, {"x": "y"}).values()
    expected = case[1][module + ".weight"].clone()
    rows = expected[first:last].clone()
    strength = STRENGTH if magnitude is None else 1.0
    made = comfy.lora.calculate_weight([(strength, adapter, 1.0, None, None)], rows, "y")
    own = case[1][module + ".weight"][first:last]
    expected[first:last] = made if magnitude is None else of_rows(own, made, magnitude)
    assert support.relative(expected, case[1][module + ".weight"]) > 1e-3
    torch.testing.assert_close(patched(comfy, out)[module + ".weight"], expected, **CLOSE)


@pytest.mark.parametrize(
    "said, alpha, scale",
    [
        ({"ss_network_dim": "32", "ss_network_alpha": "1"}, 1.0, 1 / 32),  # ComfyUI's issue 15114
        ({"ss_network_dim": "32", "ss_network_alpha": "0.7"}, 0.7, 0.7 / 32),
        ({"ss_network_dim": "32", "ss_network_alpha": "1"}, 32.0, 1.0),  # as LyCORIS stores it
        ({"ss_network_dim": "32", "ss_network_alpha": "1"}, 10_000.0, 1.0),  # a layer of a dim of its own
        ({"ss_network_dim": "32", "ss_network_alpha": "32"}, 32.0, 1.0),
        ({}, 1.0, 1.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lokr_of_whole_matrices_has_the_scale_that_it_was_trained_with(
    comfy, model, case, apply, said, alpha, scale, dtype
):
    layer = "lora_unet_double_blocks_0_img_attn_proj"
    first, second = torch.randn(8, 8).to(dtype), torch.randn(16, 16).to(dtype)
    parts = {"lokr_w1": first, "lokr_w2": second, "alpha": torch.tensor(alpha).to(dtype)}
    out, _ = apply(model, {f"{layer}.{p}": t for p, t in parts.items()}, **said)
    expected = case[1]["double_blocks.0.img_attn.proj.weight"] + STRENGTH * scale * torch.kron(
        first.float(), second.float()
    )
    torch.testing.assert_close(patched(comfy, out)["double_blocks.0.img_attn.proj.weight"], expected, **CLOSE)


def test_unmerged_parts_of_a_fused_layer_and_norms_by_their_parameters_names_arrive(comfy, model, case, apply):
    layer, rank, alpha = "lora_unet_double_blocks_0_img_attn_qkv", 4, 2.0
    downs, ups = torch.randn(3, rank, 128), torch.randn(3, 128, rank)
    tensors = {f"{layer}.lora_down.{i}.weight": t.clone() for i, t in enumerate(downs)}
    tensors |= {f"{layer}.lora_up.{i}.weight": t.clone() for i, t in enumerate(ups)}
    norm = torch.randn(64)
    tensors |= {f"{layer}.alpha": torch.tensor(alpha), "single_blocks.0.norm.key_norm.scale.diff": norm}
    out, text = apply(model, tensors)
    assert "4 of 4 layers matched" in text
    expected = {k: v.clone() for k, v in case[1].items()}
    expected["double_blocks.0.img_attn.qkv.weight"] += STRENGTH * alpha / rank * torch.cat(list(ups @ downs))
    expected["single_blocks.0.norm.key_norm.weight"] += STRENGTH * norm
    torch.testing.assert_close(patched(comfy, out), expected, **CLOSE)


@pytest.mark.parametrize("strength", [1.0, STRENGTH, 0.0])
@pytest.mark.parametrize("mode", ["fp32", "q8_0"])
def test_dora_of_rows_is_pefts(comfy, inference, case, apply, mode, strength):
    """Of a layer of 512 x 128, as PEFT merges it: the norm is that of the changed weight."""
    model = dev.load_pack("host.model.load").load_chroma(str(case[2]), mode)
    layer, module = "transformer.transformer_blocks.0.ff.net.0.proj", "double_blocks.0.img_mlp.0"
    weight = case[1][module + ".weight"]
    down, up = random_pair(*weight.shape, torch.Generator().manual_seed(7))
    changed = weight + up @ down
    magnitude = 1.1 * weight.norm(dim=1)
    tensors = {"lora_A.weight": down, "lora_B.weight": up, "lora_magnitude_vector": magnitude}
    out, _ = apply(model, {f"{layer}.{part}": t for part, t in tensors.items()}, strength)
    comfy.model_management.load_models_gpu([out])
    found = out.model.diffusion_model.get_parameter(module + ".weight").data
    found = (found.dequantize() if mode != "fp32" else found).float()
    out.detach()
    expected = of_rows(weight, changed, magnitude[:, None], strength)
    assert support.relative(found, expected) < (1e-6 if mode == "fp32" else 0.015)  # two roundings to 8 bits


@pytest.mark.parametrize("name", ["lora_magnitude_vector", "magnitude"])  # PEFT's and ai-toolkit's
def test_magnitudes_of_any_layout_are_the_same(comfy, model, apply, name):
    down, up = random_pair(128, 128, torch.Generator().manual_seed(7))
    magnitude = 1 + 0.1 * torch.randn(128)
    layer = "transformer.transformer_blocks.0.attn.to_out.0"
    peft = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up, f"{layer}.{name}": magnitude}
    layer = "lora_unet_double_blocks_0_img_attn_proj"
    kohya = {
        f"{layer}.lora_down.weight": down,
        f"{layer}.lora_up.weight": up,
        f"{layer}.dora_scale": magnitude[:, None],
    }
    weights = [patched(comfy, apply(model, sd)[0])["double_blocks.0.img_attn.proj.weight"] for sd in (peft, kohya)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_differences_and_biases_reach_weights_biases_norms_and_slices(comfy, model, case, apply):
    delta = {
        "diffusion_model.txt_in.diff": torch.randn(128, 64),
        "diffusion_model.txt_in.diff_b": torch.randn(128),
        "transformer.transformer_blocks.0.attn.to_v.diff": torch.randn(128, 128),
        "transformer.transformer_blocks.0.attn.to_v.diff_b": torch.randn(128),
        "lora_unet_single_blocks_2_norm_key_norm.w_norm": torch.randn(64),
    }
    down, up = random_pair(128, 128, torch.Generator().manual_seed(7))
    layer = "transformer.transformer_blocks.1.attn.add_k_proj"
    bias = torch.randn(128)
    delta |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up, f"{layer}.lora_B.bias": bias}
    delta[f"{layer}.alpha"] = torch.tensor(ALPHA)
    d = list(delta.values())
    expected = {k: v.clone() for k, v in case[1].items()}
    expected["txt_in.weight"] += STRENGTH * d[0]
    expected["txt_in.bias"] += STRENGTH * d[1]
    expected["double_blocks.0.img_attn.qkv.weight"][256:] += STRENGTH * d[2]
    expected["double_blocks.0.img_attn.qkv.bias"][256:] += STRENGTH * d[3]
    expected["single_blocks.2.norm.key_norm.weight"] += STRENGTH * d[4]
    scale = STRENGTH * ALPHA / RANK
    expected["double_blocks.1.txt_attn.qkv.weight"][128:256] += scale * (up @ down)
    expected["double_blocks.1.txt_attn.qkv.bias"][128:256] += scale * bias
    torch.testing.assert_close(patched(comfy, apply(model, delta)[0]), expected, **CLOSE)


def test_bfl_control_lora_is_applied_with_its_wider_input(comfy, model, case, apply):
    """The host's own conversion of that layout; its img_in takes a picture beside the latent."""
    down, up = random_pair(128, 128, torch.Generator().manual_seed(7))
    scale = torch.ones(64) * 2
    tensors = {
        "img_in.lora_A.weight": torch.randn(4, 128),
        "img_in.lora_B.weight": torch.randn(128, 4),
        "img_in.lora_B.bias": torch.randn(128),
        "single_blocks.0.norm.key_norm.scale": scale,
        "single_blocks.0.linear1.lora_B.bias": torch.ones(896),
        "double_blocks.0.img_attn.proj.lora_A.weight": down,
        "double_blocks.0.img_attn.proj.lora_B.weight": up,
    }
    out, text = apply(model, tensors)
    found = patched(comfy, out)
    expected = case[1] | {"single_blocks.0.norm.key_norm.weight": scale}
    expected["double_blocks.0.img_attn.proj.weight"] = (
        expected["double_blocks.0.img_attn.proj.weight"] + STRENGTH * up @ down
    )
    expected["single_blocks.0.linear1.bias"] = expected["single_blocks.0.linear1.bias"] + STRENGTH
    wider = torch.nn.functional.pad(expected["img_in.weight"], (0, 64))
    change = tensors["img_in.lora_B.weight"] @ tensors["img_in.lora_A.weight"]
    expected["img_in.weight"] = wider + STRENGTH * change
    expected["img_in.bias"] = expected["img_in.bias"] + STRENGTH * tensors["img_in.lora_B.bias"]
    torch.testing.assert_close(found, expected, **CLOSE)
    assert "4 of 4 layers matched" in text and "the model now takes 128 inputs" in text
    again = {"img_in.lora_A.weight": torch.randn(4, 64), "img_in.lora_B.weight": torch.randn(128, 4)}
    again |= {k: t for k, t in tensors.items() if k.startswith("double")}
    again = {f"diffusion_model.{k}": t for k, t in again.items()}
    assert "diffusion_model.img_in: LoRA's 128x64, the model's 128x128" in apply(out, again)[1]


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_flux_lora_on_a_smaller_chroma_applies_what_fits_and_samples(comfy, model, case, apply):
    g = torch.Generator().manual_seed(7)
    tensors = {}
    for layer, rows, columns in (
        ("lora_unet_double_blocks_0_img_attn_qkv", 384, 128),
        ("lora_unet_double_blocks_0_img_mod_lin", 768, 128),
        ("lora_unet_double_blocks_18_img_attn_qkv", 384, 128),
        ("lora_unet_single_blocks_0_linear2", 3072, 15360),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", 16, 16),
    ):
        down, up = random_pair(rows, columns, g)
        tensors |= {
            f"{layer}.lora_down.weight": down,
            f"{layer}.lora_up.weight": up,
            f"{layer}.alpha": torch.tensor(4.0),
        }
    out, text = apply(model, tensors)
    assert text.split(": ", 1)[1] == (
        "1 of 3 layers matched, 1 modulation layers dropped (Chroma has none), 1 text-encoder layers left out; "
        "of blocks that this model does not have: lora_unet_double_blocks_18_img_attn_qkv; "
        "skipped, do not fit: lora_unet_single_blocks_0_linear2: LoRA's 3072x15360, the model's 128x640; "
        "Warning: most of this LoRA does not fit"
    )
    assert support.relative(sample(comfy, out, case[0]), sample(comfy, model, case[0])) > 1e-3


BAD = {
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": "it looks like a LoRA for Stable Diffusion 1, 2",
    "diffusion_model.blocks.0.cross_attn.k.lora_A.weight": "it looks like a LoRA for Wan",
    "weird": "not a LoRA for Chroma .it begins with weird",
}


@pytest.mark.parametrize("name", BAD)
def test_file_without_a_fitting_layer_is_an_error_that_names_it(model, apply, name):
    with pytest.raises(ValueError, match=f"x.safetensors: .*{BAD[name]}.*Choose a LoRA that was made for Chroma"):
        apply(model, {name: torch.randn(4, 8)})


def test_damaged_files_are_one_clear_error(model, apply):
    (apply.folder / "x.safetensors").write_bytes(b"not a tensor in sight\0")
    with pytest.raises(ValueError, match="^x.safetensors: not a safetensors file, or cut short"):
        apply(model, None)
    torch.save({"x.lora_up.weight": torch.ones(2), "code": copy.deepcopy}, apply.folder / "x.pt")
    with pytest.raises(ValueError, match="^x.pt: refused"):
        apply(model, None, name="x.pt")


def test_pickled_lora_is_read_without_running_code(comfy, model, apply):
    down, up = random_pair(128, 64, torch.Generator().manual_seed(7))
    torch.save({"txt_in.lora.lora_A": down, "txt_in.lora.lora_B": up}, apply.folder / "x.pt")
    out, text = apply(model, None, name="x.pt")
    assert "1 of 1 layers matched" in text


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", ""])
def test_name_that_is_not_listed_is_refused(model, apply, name):
    with pytest.raises(ValueError, match="not among the LoRA files"):
        apply(model, None, name=name)


def test_model_that_is_not_chroma_is_told(model, apply):
    other = copy.copy(model)
    other.model = torch.nn.Module()
    other.model.diffusion_model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="the model is not Chroma.*Connect Load Chroma Model"):
        apply(other, {"x": torch.ones(1)})


# --- strength, stacking, precision -----------------------------------------------------------------------------------


def small(seed=7, layer="diffusion_model.double_blocks.0.img_attn.qkv"):
    down, up = random_pair(384, 128, torch.Generator().manual_seed(seed))
    return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}


def test_strength_zero_gives_the_very_model(model, apply):
    out, text = apply(model, None, strength=0, name="not even there")
    assert out is model
    assert "strength 0" in text


def test_two_loras_add_up_and_opposite_strengths_cancel(comfy, model, case, apply):
    name = "double_blocks.0.img_attn.qkv.weight"
    first, _ = apply(model, small(1), 1.0)
    both, _ = apply(first, small(2, "lora_unet_double_blocks_0_img_attn_qkv"), -2.0)
    deltas = [d["b"] @ d["a"] for d in (dict(zip("ab", small(s).values())) for s in (1, 2))]
    torch.testing.assert_close(patched(comfy, both)[name], case[1][name] + deltas[0] - 2 * deltas[1], **CLOSE)
    none, _ = apply(first, small(1), -1.0)
    torch.testing.assert_close(patched(comfy, none)[name], case[1][name], **CLOSE)


@pytest.mark.parametrize("mode", ["int8_convrot", "fp8_scaled"])
def test_split_lora_acts_on_quantised_weights(comfy, inference, case, apply, mode):
    load = dev.load_pack("host.model.load").load_chroma
    down, up = random_pair(128, 128, torch.Generator().manual_seed(7))
    layer = "transformer.transformer_blocks.0.attn.to_v"
    lora = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    effects = []
    for name in (mode, "fp32"):
        model = load(str(case[2]), name)
        out, text = apply(model, lora, 1.0)
        assert "1 of 1 layers matched" in text
        effects.append(support.relative(sample(comfy, out, case[0]), sample(comfy, model, case[0])))
    assert effects[0] == pytest.approx(effects[1], rel=0.5)  # 8-bit noise on top of the effect
    assert math.isfinite(effects[0]) and effects[1] > 1e-3


# --- in the server ---------------------------------------------------------------------------------------------------


def test_node_runs_in_the_server_and_changes_the_picture(server, loras_dir):
    generator = torch.Generator().manual_seed(3)
    layer = "lora_transformer_transformer_blocks_0_attn_to_out_0"
    tensors = {
        f"{layer}.lora_down.weight": 0.1 * torch.randn(4, 256, generator=generator),
        f"{layer}.lora_up.weight": torch.randn(256, 4, generator=generator),
    }
    support.write(loras_dir / "test-node.safetensors", tensors)
    graph = Graph.demo(server).set("KSampler", seed=211)
    plain = np.asarray(Image.open(graph.copy().run(server)[0]).convert("RGB")).astype(int)
    same = graph.copy()
    graph.model_through("ChromaLoraLoader", lora_name="test-node.safetensors", strength_model=1.0)
    changed = np.asarray(Image.open(graph.run(server)[0]).convert("RGB")).astype(int)
    same.model_through("LoraLoaderModelOnly", lora_name="test-node.safetensors", strength_model=1.0)
    same.set("KSampler", denoise=0.99999999)  # so that the server does not take the picture from its cache
    hosts = np.asarray(Image.open(same.run(server)[0]).convert("RGB")).astype(int)
    assert (changed != plain).any()
    assert (changed == hosts).all()
    assert "Load Chroma LoRA: 1 of 1 layers matched" in (dev.cache_dir() / f"{dev.BASE}-server.log").read_text()


def test_lora_of_another_model_fails_in_the_server_with_its_name(server, loras_dir):
    support.write(
        loras_dir / "test-wan.safetensors", {"diffusion_model.blocks.0.cross_attn.k.lora_A.weight": torch.ones(4, 8)}
    )
    graph = Graph.demo(server)
    graph.model_through("ChromaLoraLoader", lora_name="test-wan.safetensors", strength_model=1.0)
    assert "test-wan.safetensors: no layer fits this Chroma model; it looks like a LoRA for Wan" in graph.fails(server)
