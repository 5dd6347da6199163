import re

import pytest
import support
import torch

read = support.dev.load_pack("loaders.files.read")
detect = support.dev.load_pack("loaders.checkpoint.detect_variant")
convert = support.dev.load_pack("loaders.checkpoint.check_shapes")
naming = support.dev.load_pack("loaders.checkpoint.naming")


def header(tensors, name="model.safetensors"):
    return read.Header(name, {k: read.TensorInfo(v.dtype, tuple(v.shape)) for k, v in tensors.items()}, {})


def meta(cfg, **options):
    with torch.device("meta"):
        weights = support.build(cfg).state_dict()
    return support.published(weights, **options)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("suffix", [".scale", ".weight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_prefix_norm_name_and_storage_is_recognised(prefix, suffix, dtype):
    cfg = support.config()
    file = header(meta(cfg, prefix=prefix, suffix=suffix, dtype=dtype))
    found = detect.detect(file)
    convert.check(file, found)
    assert found.config == cfg
    assert (found.prefix, found.dtype) == (prefix, dtype)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"width": 256, "heads": 2},
        {"width": 80, "heads": 4},
        {"double": 1, "single": 1},
        {"double": 8, "single": 38},
        {"approximator": (32, 40, 6)},
        {"context": 4096},
        {"channels": 128},
        {"qkv_bias": False},
    ],
)
def test_sizes_are_read_from_shapes(options):
    cfg = support.config(**options)
    assert detect.detect(header(meta(cfg))).config == cfg


def test_published_model_is_recognised_from_its_header():
    cfg = support.model.ChromaConfig()
    file = header(meta(cfg, dtype=torch.bfloat16))
    found = detect.detect(file)
    convert.check(file, found)
    assert found.config == cfg
    assert found.num_parameters == 8_899_983_424


def test_parts_of_an_all_in_one_checkpoint_are_left_aside():
    tensors = meta(support.config(), prefix="model.diffusion_model.")
    tensors["vae.decoder.conv_in.weight"] = tensors["text_encoders.t5xxl.x"] = torch.empty(1)
    file = header(tensors)
    convert.check(file, detect.detect(file))


FLUX = {
    "double_blocks.0.img_attn.qkv.weight": torch.empty(6, 2),
    "double_blocks.0.img_mod.lin.weight": torch.empty(2, 2),
    "img_in.weight": torch.empty(2, 2),
}
OTHERS = {
    "FLUX": FLUX,
    "SDXL": {
        "conditioner.embedders.1.model.x": torch.empty(1),
        "model.diffusion_model.input_blocks.0.0.weight": torch.empty(1),
    },
    "another model in diffusers' layout": {"transformer_blocks.0.attn2.to_q.weight": torch.empty(1)},
    "T5 text encoder": {"encoder.block.0.layer.0.SelfAttention.q.weight": torch.empty(1)},
    "LoRA": {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.empty(1)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_models_are_named(what):
    with pytest.raises(ValueError, match=f"^other.safetensors: .*{what}"):
        detect.detect(header(OTHERS[what], "other.safetensors"))


def test_unknown_file_shows_what_it_begins_with():
    with pytest.raises(
        ValueError, match=r"not a Chroma checkpoint \(it begins with weird.tensor\).*Choose a file of Chroma"
    ):
        detect.detect(header({"weird.tensor": torch.empty(1)}))


LEFT_OVER = ("double_blocks.1.txt_mod.lin.weight", "guidance_in.in_layer.weight", "final_layer.adaLN_modulation.1.bias")


@pytest.mark.parametrize("name", LEFT_OVER)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_what_is_left_out_decides_no_variant(name, prefix):
    """A merge of Chroma with one tensor of FLUX's modulation stays Chroma, also with another Approximator."""
    tensors = meta(support.config(), prefix=prefix)
    file = header(tensors | {prefix + name: torch.empty(4, 4)})
    other = header({n: t for n, t in meta(support.config()).items() if "distilled" in n}, "modulator.safetensors")
    for found in (detect.detect(file), detect.detect(naming.with_approximator(file, other))):
        assert (found.variant, found.dropped) == ("Chroma", (prefix + name,))


@pytest.mark.parametrize("modulation", [{}, {name: torch.empty(4, 4) for name in LEFT_OVER}])
def test_blocks_without_an_approximator_of_their_own_are_flux(modulation):
    """FluxMod's pruned files hold none of FLUX's modulation either."""
    tensors = meta(support.config())
    base = header({n: t for n, t in tensors.items() if "distilled" not in n} | modulation)
    assert detect.detect(naming.with_approximator(base, header(tensors, "modulator.safetensors"))).variant == "FLUX"


@pytest.mark.parametrize(
    "embeddings, variant",
    [
        (["time_in.in_layer.weight"], "FLUX schnell"),
        (["time_in.in_layer.weight", "guidance_in.in_layer.weight"], "FLUX"),
        (["time_text_embed.timestep_embedder.linear_1.weight"], "FLUX schnell"),
        (
            ["time_text_embed.timestep_embedder.linear_1.weight", "time_text_embed.guidance_embedder.linear_1.weight"],
            "FLUX",
        ),
        (["vector_in.in_layer.weight"], "FLUX"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_flux_without_an_embedding_of_guidance_is_schnell(embeddings, variant, prefix):
    tensors = {n: t for n, t in meta(support.config(), prefix=prefix).items() if "distilled" not in n}
    base = header(tensors | {prefix + name: torch.empty(4, 4) for name in embeddings})
    found = detect.detect(naming.with_approximator(base, header(meta(support.config()), "modulator.safetensors")))
    assert (found.variant, len(found.dropped)) == (variant, len(embeddings))


@pytest.mark.parametrize(
    "options, said, variant",
    [
        ({}, "FLUX", "FLUX"),
        ({}, "FLUX schnell", "FLUX schnell"),
        ({"approximator": (32, 40, 6)}, "FLUX", "FLUX"),
        ({}, "Chroma", "Chroma"),
        ({}, "of somewhere", "Chroma"),
        ({"approximator": (32, 40, 6)}, "Chroma", "Chroma lite"),
        ({**support.RADIANCE}, "FLUX", "Radiance"),
    ],
)
def test_metadata_of_our_writer_tell_flux_and_sizes_the_rest(options, said, variant):
    tensors = {n: t for n, t in meta(support.config(**options)).items()}
    file = read.Header("m.gguf", header(tensors).tensors, {"chroma.variant": said})
    assert detect.detect(file).variant == variant


def test_missing_approximator_is_told():
    tensors = {k: v for k, v in meta(support.config()).items() if "distilled" not in k}
    with pytest.raises(ValueError, match="no distilled_guidance_layer.* Take a complete Chroma checkpoint"):
        detect.detect(header(tensors))


@pytest.mark.parametrize(
    "gone, told",
    [
        ("double_blocks.0.", "double_blocks.0 is missing"),
        ("single_blocks.1.", "single_blocks.1 is missing, but single_blocks.3 is there"),
        ("distilled_guidance_layer.layers.1.", "distilled_guidance_layer.layers.1 is missing"),
        ("img_in.weight", "tensor img_in.weight is missing"),
    ],
)
def test_missing_block_is_named(gone, told):
    tensors = {k: v for k, v in meta(support.config()).items() if not k.startswith(gone)}
    with pytest.raises(ValueError, match=f"model.safetensors: .*{told}.*download it again"):
        detect.detect(header(tensors))


def test_missing_tensor_is_named():
    tensors = meta(support.config())
    del tensors["single_blocks.2.linear2.bias"], tensors["double_blocks.1.txt_mlp.2.weight"]
    file = header(tensors)
    with pytest.raises(ValueError, match="double_blocks.1.txt_mlp.2.weight, single_blocks.2.linear2.bias are missing"):
        convert.check(file, detect.detect(file))


def test_unknown_tensors_are_named_and_counted():
    tensors = meta(support.config(), prefix="diffusion_model.")
    tensors |= {f"diffusion_model.extra.{i}": torch.empty(1) for i in range(8)}
    file = header(tensors)
    with pytest.raises(ValueError, match="diffusion_model.extra.0, .* and 3 more are not part of Chroma"):
        convert.check(file, detect.detect(file))


def test_tensor_outside_the_prefix_is_named():
    tensors = meta(support.config(), prefix="diffusion_model.")
    tensors["stray"] = torch.empty(1)
    with pytest.raises(ValueError, match="tensor stray does not begin with 'diffusion_model.'"):
        detect.detect(header(tensors))


def test_wrong_shape_is_named_with_both_shapes():
    tensors = meta(support.config())
    tensors["single_blocks.1.linear2.weight"] = torch.empty(128, 639, device="meta")
    file = header(tensors)
    with pytest.raises(
        ValueError, match=r"single_blocks.1.linear2.weight has shape \(128, 639\), expected \(128, 640\)"
    ):
        convert.check(file, detect.detect(file))


def test_tensor_under_two_names_is_an_error():
    tensors = meta(support.config())
    tensors["single_blocks.0.norm.key_norm.weight"] = tensors["single_blocks.0.norm.key_norm.scale"]
    with pytest.raises(ValueError, match="are the same tensor"):
        detect.detect(header(tensors))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int16, torch.uint8, torch.bool])
def test_unsupported_storage_is_named(dtype):
    tensors = meta(support.config())
    tensors["img_in.weight"] = torch.empty(128, 64, dtype=dtype, device="meta")
    with pytest.raises(
        ValueError, match=f"img_in.weight is stored as {str(dtype)[6:]} of shape .128, 64., which no known"
    ):
        detect.detect(header(tensors))


@pytest.mark.parametrize(
    "name, shape, told",
    [
        ("img_in.weight", (128,), "expected 2 sizes"),
        ("img_in.weight", (0, 64), "expected 2 sizes"),
        ("img_in.weight", (100, 64), "not a multiple of the head size"),
        ("double_blocks.0.img_attn.norm.key_norm.scale", (16,), "head size 16"),
        ("distilled_guidance_layer.out_proj.weight", (64, 48), "width 64, but the blocks are 128 wide"),
    ],
)
def test_sizes_that_make_no_model_are_told(name, shape, told):
    tensors = meta(support.config())
    tensors[name] = torch.empty(shape, device="meta")
    with pytest.raises(ValueError, match=f"^model.safetensors: .*{told}"):
        detect.detect(header(tensors))


def test_non_finite_weights_are_found():
    tensors = {"a": torch.ones(8, 4), "b": torch.ones(4), "c": torch.ones(3, 2).half()}
    tensors["a"][3, 1] = float("nan")
    tensors["b"][2] = float("inf")
    assert convert.non_finite(tensors, sample=False) == ["a", "b"]
    assert convert.non_finite(tensors, sample=True) == ["b"]  # row 3 of a is not among those looked at
    tensors["a"][-1, 0] = float("nan")
    assert convert.non_finite(tensors, sample=True) == ["a", "b"]


def test_large_finite_half_precision_weights_are_not_taken_for_infinite():
    assert convert.non_finite({"a": torch.full((4, 100), 60000.0).half()}, sample=False) == []


# --- one row each ----------------------------------------------------------------------------------------------------

LORA, VAE = "a LoRA; it belongs in models/loras", "a VAE; it belongs in models/vae"
CONTROLNET, T5 = (
    "a ControlNet; it belongs in models/controlnet",
    "a T5 text encoder; it belongs in models/text_encoders",
)
OTHER_MODELS = {
    "lora_unet_a.alpha": LORA,
    "img_in.lora_A.weight": LORA,
    "unet.a.to_q.lora.down.weight": LORA,
    "lycoris_double_blocks_0_img_attn_qkv.hada_w1_a": LORA,
    "lycoris_double_blocks_0_img_attn_qkv.lokr_w1_b": LORA,
    "diffusion_model.double_blocks.0.img_attn.qkv.oft_blocks": LORA,
    "controlnet_blocks.0.weight": CONTROLNET,
    "control_model.input_hint_block.0.weight": CONTROLNET,
    "double_stream_modulation_img.lin.weight": "FLUX.2",
    "transformer_blocks.1.img_mod.1.weight": "Qwen-Image",
    "noise_refiner.0.attention.qkv.weight": "Lumina or Z-Image",
    "blocks.0.self_attn.q.weight": "Wan",
    "txt_in.individual_token_refiner.blocks.0.x": "HunyuanVideo",
    "joint_blocks.0.x_block.weight": "Stable Diffusion 3",
    "transformer_blocks.0.attn2.to_q.weight": "another model in diffusers' layout",
    "conditioner.embedders.1.model.weight": "SDXL",
    "label_emb.0.0.weight": "SDXL or another UNet with size conditioning",
    "input_blocks.0.0.weight": "Stable Diffusion 1 or 2",
    "redux_up.weight": "a style model (Redux); it belongs in models/style_models",
    "encoder.block.0.layer.0.SelfAttention.q.weight": T5,
    "enc.blk.0.attn_q.weight": T5,
    "model.encoder.layers.0.pre_self_attn_layernorm.weight": "T5Gemma, another model than T5",
    "text_model.encoder.layers.30.mlp.fc1.weight": "CLIP-G, a text encoder of SDXL",
    "text_model.encoder.layers.22.mlp.fc1.weight": "CLIP-H, the text encoder of Stable Diffusion 2",
    "text_model.encoder.layers.0.mlp.fc1.weight": "CLIP-L, a text encoder of Stable Diffusion and FLUX",
    "transformer.resblocks.0.x": "CLIP, a text encoder of Stable Diffusion",
    "vision_model.encoder.layers.0.mlp.fc1.weight": "CLIP's image encoder; it belongs in models/clip_vision",
    "model.layers.0.mlp.up_proj.weight": "a language model (LLaMA, Qwen, Gemma or alike)",
    "blk.0.attn_q.weight": "a language model",
    "decoder.up.0.block.0.conv1.weight": VAE,
    "decoder.up_blocks.0.resnets.0.conv1.weight": VAE,
    "first_stage_model.decoder.conv_in.weight": VAE,
    "decoder.conv1.weight": VAE,
    "taesd_decoder.1.weight": "a TAESD VAE; it belongs in models/vae",
}
QKV = "double_blocks.0.img_attn.qkv.weight"


def test_rows_of_other_models_are_all_tried():
    rows = support.dev.load_pack("loaders.checkpoint.keys").OTHER_MODELS
    assert all(any(part in name for name in OTHER_MODELS) for part, _ in rows)


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_other_model_is_told_by_one_of_its_tensors(name):
    with pytest.raises(ValueError, match=re.escape(f"not a Chroma checkpoint; it looks like {OTHER_MODELS[name]}. ")):
        detect.detect(header({name: torch.zeros(1)}))


@pytest.mark.parametrize(
    "name",
    ["double_stream_modulation_img.lin.weight", "controlnet_blocks.0.weight", "transformer_blocks.1.img_mod.1.weight"],
)
def test_other_model_with_layers_of_fluxs_names_is_told_too(name):
    told = f"it looks like {OTHER_MODELS[name]}. Take a complete Chroma checkpoint"
    with pytest.raises(ValueError, match=re.escape(told) + "$"):
        detect.detect(header({QKV: torch.zeros(2, 2), name: torch.zeros(1)}))
