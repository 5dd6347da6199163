import json

import pytest
import support
import torch

lora, names, report = (support.dev.load_pack(f"loaders.lora.{n}") for n in ("plan", "layer_names", "report"))

CFG = support.config()
with torch.device("meta"):
    MODEL = {name: tuple(p.shape) for name, p in support.build(CFG).named_parameters()}
RANK = 4


def pair(layer, rows, columns, down="lora_down.weight", up="lora_up.weight"):
    return {f"{layer}.{down}": (RANK, columns), f"{layer}.{up}": (rows, RANK)}


def only(found, module, rows=None):
    """Asserts that one weight, or these rows of it, is all that is changed."""
    assert [(t.parameter, t.rows) for t in found.targets.values()] == [(module + ".weight", rows)]
    assert (found.layers[lora.UNKNOWN], found.layers[lora.MISSHAPEN], found.layers[lora.MISSING_BLOCK]) == ([], [], [])


# --- names -----------------------------------------------------------------------------------------------------------

NAMES = {  # layer in a LoRA -> module and the first and number of rows
    "lora_unet_double_blocks_1_img_attn_qkv": ("double_blocks.1.img_attn.qkv", None),
    "diffusion_model.double_blocks.1.img_attn.qkv": ("double_blocks.1.img_attn.qkv", None),
    "double_blocks.1.txt_mlp.2": ("double_blocks.1.txt_mlp.2", None),
    "double_blocks.0.processor.qkv_lora2": ("double_blocks.0.txt_attn.qkv", None),
    "base_model.model.single_blocks.3.linear1": ("single_blocks.3.linear1", None),
    "base_model.model.transformer.single_transformer_blocks.3.proj_mlp": ("single_blocks.3.linear1", (384, 512)),
    "transformer.transformer_blocks.0.attn.add_v_proj": ("double_blocks.0.txt_attn.qkv", (256, 128)),
    "lora_transformer_transformer_blocks_0_attn_to_k": ("double_blocks.0.img_attn.qkv", (128, 128)),
    "transformer.double_blocks.0.img_attn.qkv.1": ("double_blocks.0.img_attn.qkv", (128, 128)),
    "transformer.single_blocks.0.linear1.3": ("single_blocks.0.linear1", (384, 512)),
    "diffusion_model.single_blocks.0.linear1_qkv": ("single_blocks.0.linear1", (0, 384)),
    "lycoris_transformer_blocks_0_ff_net_0_proj": ("double_blocks.0.img_mlp.0", None),
    "single_transformer_blocks.2.proj_out": ("single_blocks.2.linear2", None),
    "transformer.proj_out": ("final_layer.linear", None),
    "lora_transformer_x_embedder": ("img_in", None),
    "transformer.context_embedder": ("txt_in", None),
    "transformer.distilled_guidance_layer.layers.1.linear_2": ("distilled_guidance_layer.layers.1.out_layer", None),
    "lora_unet_distilled_guidance_layer_layers_0_in_layer": ("distilled_guidance_layer.layers.0.in_layer", None),
    "lora_transformer_distilled_guidance_layer_in_proj": ("distilled_guidance_layer.in_proj", None),
}


@pytest.mark.parametrize("layer", NAMES)
def test_layer_of_each_layout_is_found(layer):
    module, rows = NAMES[layer]
    shape = MODEL[module + ".weight"]
    tensors = pair(layer, rows[1] if rows else shape[0], shape[1])
    if "processor" in layer:
        tensors = pair(layer, *shape, "down.weight", "up.weight")
    found = lora.make_plan(tensors, MODEL)
    only(found, module, rows)
    assert bool(found.approximator_layers) == module.startswith("distilled")


@pytest.mark.parametrize("width, fits", [(128, True), (384, True), (192, False), (100, False), (64, True)])
def test_a_control_lora_widens_img_in_to_what_a_picture_or_a_mask_needs(width, fits):
    found = lora.make_plan(pair("x_embedder", 128, width), MODEL)
    assert bool(found.layers[lora.MATCHED]) == fits and bool(found.layers[lora.MISSHAPEN]) != fits
    wider = (128, width) if fits and width > 64 else None
    assert found.input_width == (wider and width)
    tensors = {name: torch.zeros(shape) for name, shape in pair("x_embedder", 128, width).items()}
    made = lora.prepare(tensors, found).get("img_in.weight.reshape_weight")
    assert (None if made is None else tuple(made.tolist())) == wider
    assert lora.make_plan(pair("txt_in", 128, width), MODEL).input_width is None


ENDINGS = [
    ("lora_down.weight", "lora_up.weight"),
    ("lora_A.weight", "lora_B.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"),
    ("lora_A.style.weight", "lora_B.style.weight"),
    ("lora_A", "lora_B"),
    ("lora.lora_A", "lora.lora_B"),
    ("lora.down.weight", "lora.up.weight"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
]


@pytest.mark.parametrize("down, up", ENDINGS)
def test_every_ending_of_a_pair_becomes_the_hosts(down, up):
    found = lora.make_plan(pair("txt_in", 128, 64, down, up), MODEL)
    only(found, "txt_in")
    assert found.renamed == {
        f"txt_in.{down}": "txt_in.weight.lora_down.weight",
        f"txt_in.{up}": "txt_in.weight.lora_up.weight",
    }


def test_module_that_only_this_model_has_is_found_by_its_own_name():
    model = MODEL | {"nerf_blocks.0.param_generator.weight": (64, 128)}
    for layer in ("diffusion_model.nerf_blocks.0.param_generator", "lora_unet_nerf_blocks_0_param_generator"):
        only(lora.make_plan(pair(layer, 64, 128), model), "nerf_blocks.0.param_generator")


def test_names_that_the_host_adds_are_taken():
    known = {"strange.name": ("txt_in.weight", None), "strange.q": ("double_blocks.0.img_attn.qkv.weight", (0, 128))}
    only(lora.make_plan(pair("strange.name", 128, 64), MODEL, known), "txt_in")
    only(lora.make_plan(pair("strange.q", 128, 128), MODEL, known), "double_blocks.0.img_attn.qkv", (0, 128))


MODULATIONS = [
    "lora_unet_double_blocks_0_img_mod_lin",
    "diffusion_model.double_blocks.0.txt_mod.lin",
    "lora_unet_single_blocks_37_modulation_lin",
    "transformer.transformer_blocks.18.norm1.linear",
    "lora_transformer_transformer_blocks_0_norm1_context_linear",
    "transformer.single_transformer_blocks.0.norm.linear",
    "transformer.norm_out.linear",
    "diffusion_model.final_layer.adaLN_modulation.1",
    "lora_unet_final_layer_adaLN_modulation_1",
    "diffusion_model.time_in.in_layer",
    "lora_unet_vector_in_out_layer",
    "lora_unet_guidance_in_in_layer",
    "transformer.time_text_embed.timestep_embedder.linear_1",
]


@pytest.mark.parametrize("layer", MODULATIONS)
def test_flux_modulation_is_dropped(layer):
    found = lora.make_plan(pair(layer, 768, 128) | {f"{layer}.alpha": ()}, MODEL)
    assert (found.layers[lora.MODULATION], found.renamed, found.layers[lora.UNKNOWN]) == ([layer], {}, [])


TEXT = [
    "lora_te1_text_model_encoder_layers_0_mlp_fc1",
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
    "text_encoder.text_model.encoder.layers.0.mlp.fc1",
    "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q",
    "t5.encoder.block.0.layer.0.SelfAttention.q",
    "bundle_emb.word.t5_out",
]


@pytest.mark.parametrize("layer", TEXT)
def test_text_encoder_is_counted_apart(layer):
    found = lora.make_plan(pair(layer, 8, 8), MODEL)
    assert (found.layers[lora.TEXT_ENCODER], found.renamed, found.num_layers) == ([layer], {}, 0)


def test_unknown_layers_and_endings_are_named():
    tensors = pair("transformer.extra", 8, 8) | {"txt_in.oft_diag": (3, 3), "stray": (1,), "img_in.alpha": ()}
    assert lora.make_plan(tensors, MODEL).layers[lora.UNKNOWN] == [
        "transformer.extra",
        "txt_in.oft_diag",
        "stray",
        "img_in",
    ]


def test_layer_given_twice_is_named():
    found = lora.make_plan(pair("txt_in", 128, 64) | pair("diffusion_model.txt_in", 128, 64), MODEL)
    assert found.layers[lora.MATCHED] == ["txt_in"]
    assert str(found.layers[lora.MISSHAPEN][0]).startswith(
        "diffusion_model.txt_in: a second adapter (LoRA) for the same weight"
    )
    found = lora.make_plan(
        pair("txt_in", 128, 64) | pair("txt_in", 128, 64, "lora_A.a.weight", "lora_B.a.weight"), MODEL
    )
    assert found.layers[lora.UNKNOWN][0] == "txt_in.lora_A.a.weight (a second lora_down.weight of one layer)"


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_block_that_the_model_lacks_is_told():
    layers = ("lora_unet_double_blocks_2_img_mlp_0", "transformer.single_transformer_blocks.4.attn.to_q")
    layers += ("distilled_guidance_layer.layers.3.linear_1",)
    for layer in layers:
        found = lora.make_plan(pair(layer, 128, 128), MODEL)
        assert (found.layers[lora.MISSING_BLOCK], found.layers[lora.MATCHED], found.layers[lora.UNKNOWN]) == (
            [layer],
            [],
            [],
        )


def test_layer_for_another_width_is_told_with_both_shapes():
    found = lora.make_plan(pair("transformer.transformer_blocks.0.attn.to_q", 3072, 3072), MODEL)
    assert (
        str(found.layers[lora.MISSHAPEN][0])
        == "transformer.transformer_blocks.0.attn.to_q: LoRA's 3072x3072, the model's 128x128"
    )
    assert (found.layers[lora.MATCHED], found.renamed) == ([], {})


@pytest.mark.parametrize(
    "name, parameter",
    [
        (
            "diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale.diff",
            "double_blocks.0.img_attn.norm.query_norm.weight",
        ),
        ("single_blocks.0.norm.key_norm.weight.diff", "single_blocks.0.norm.key_norm.weight"),
        ("lora_unet_single_blocks_0_norm_key_norm_scale.diff", "single_blocks.0.norm.key_norm.weight"),
        ("single_blocks.0.norm.key_norm.scale.set_weight", "single_blocks.0.norm.key_norm.weight"),
        (
            "transformer.transformer_blocks.0.attn.norm_added_q.weight.diff",
            "double_blocks.0.txt_attn.norm.query_norm.weight",
        ),
        ("distilled_guidance_layer.norms.0.scale.diff", "distilled_guidance_layer.norms.0.weight"),
        ("img_in.weight.diff", "img_in.weight"),
        ("img_in.bias.diff", "img_in.bias"),
        ("lora_unet_img_in_bias.diff", "img_in.bias"),
    ],
)
def test_difference_that_is_named_after_its_parameter_is_taken(name, parameter):
    found = lora.make_plan({name: MODEL[parameter]}, MODEL)
    assert [target.parameter for target in found.targets.values()] == [parameter]
    assert not found.layers[lora.UNKNOWN]


@pytest.mark.parametrize(
    "layer, module, heights",
    [
        ("lora_unet_double_blocks_0_img_attn_qkv", "double_blocks.0.img_attn.qkv", (128, 128, 128)),
        ("diffusion_model.double_blocks.1.txt_attn.qkv", "double_blocks.1.txt_attn.qkv", (128, 128, 128)),
        ("lora_unet_single_blocks_0_linear1", "single_blocks.0.linear1", (128, 128, 128, 512)),
    ],
)
def test_unmerged_parts_of_kohyas_fused_layers_are_adapters_of_their_rows(layer, module, heights):
    tensors = {f"{layer}.lora_down.{i}.weight": (4, 128) for i in range(len(heights))}
    tensors |= {f"{layer}.lora_up.{i}.weight": (height, 4) for i, height in enumerate(heights)}
    found = lora.make_plan(lora.pieces_as_layers({**tensors, f"{layer}.alpha": ()}), MODEL)
    starts = [sum(heights[:i]) for i in range(len(heights))]
    assert [(t.parameter, t.rows) for t in found.targets.values()] == [
        (f"{module}.weight", rows) for rows in zip(starts, heights)
    ]
    assert all(
        set(t.tensors.values()) == {"lora_down.weight", "lora_up.weight", "alpha"} for t in found.targets.values()
    )


def test_adapter_that_is_called_by_a_number_is_no_part():
    tensors = {"img_in.lora_A.0.weight": (4, 64), "img_in.lora_down.0.weight": (4, 64), "img_in.alpha": ()}
    assert lora.pieces_as_layers(tensors) == tensors


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"ss_network_dim": "32"},
        *({"ss_network_dim": d, "ss_network_alpha": "1"} for d in ("None", "0", "nan", "inf", "x")),
    ],
)
def test_metadata_without_a_usable_dim_tell_no_network(said):
    assert lora.make_plan({}, MODEL, metadata=said).network is None


QKV = (384, 128)
FITTING = {
    "LoHa": {"hada_w1_a": (384, 2), "hada_w1_b": (2, 128), "hada_w2_a": (384, 3), "hada_w2_b": (3, 128)},
    "LoKr whole": {"lokr_w1": (8, 8), "lokr_w2": (48, 16)},
    "LoKr factored": {"lokr_w1_a": (8, 2), "lokr_w1_b": (2, 8), "lokr_w2_a": (48, 2), "lokr_w2_b": (2, 16)},
    "GLoRA": {"a1.weight": (128, 2), "a2.weight": (2, 128), "b1.weight": (384, 2), "b2.weight": (2, 128)},
    "old GLoRA": {"a1.weight": (2, 128), "a2.weight": (128, 2), "b1.weight": (2, 128), "b2.weight": (384, 2)},
    "OFT": {"oft_blocks": (24, 16, 16)},
    "BOFT": {"oft_blocks": (4, 24, 16, 16), "rescale": (384, 1)},
    "difference": {"diff": QKV, "diff_b": (384,)},
    "replacement": {"set_weight": QKV},
    "LoRA 1x1": {"lora_up.weight": (384, 4, 1, 1), "lora_down.weight": (4, 128, 1, 1)},
    "DoRA rows": {"lora_up.weight": (384, 4), "lora_down.weight": (4, 128), "dora_scale": (384, 1)},
    "DoRA columns": {"lora_up.weight": (384, 4), "lora_down.weight": (4, 128), "dora_scale": (1, 128)},
    "DoRA of PEFT": {"lora_B.weight": (384, 4), "lora_A.weight": (4, 128), "lora_magnitude_vector.weight": (384,)},
    "DoRA of ai-toolkit": {"lora_B.weight": (384, 4), "lora_A.weight": (4, 128), "magnitude": (384,)},
    "LoRA with bias": {"lora_B.weight": (384, 4), "lora_A.weight": (4, 128), "lora_B.bias": (384,)},
}


@pytest.mark.parametrize("kind", FITTING)
def test_adapter_of_each_kind_fits_or_is_told(kind):
    layer = "double_blocks.0.img_attn.qkv"
    parts = FITTING[kind]
    found = lora.make_plan({f"{layer}.{p}": s for p, s in parts.items()}, MODEL)
    assert (found.layers[lora.MATCHED], found.layers[lora.MISSHAPEN], found.layers[lora.UNKNOWN]) == ([layer], [], [])
    assert len(found.renamed) == len(parts)
    for part, shape in parts.items():  # a size too large anywhere, or a part missing
        broken = {f"{layer}.{p}": s for p, s in parts.items()} | {f"{layer}.{part}": (shape[0] + 1, *shape[1:])}
        assert len(lora.make_plan(broken, MODEL).layers[lora.MISSHAPEN]) == 1, part
        lacking = {f"{layer}.{p}": s for p, s in parts.items() if p != part}
        if part not in (
            "rescale",
            "dora_scale",
            "lora_magnitude_vector.weight",
            "magnitude",
            "lora_B.bias",
            "diff",
            "diff_b",
        ):
            assert lora.make_plan(lacking, MODEL).layers[lora.MATCHED] == [], part


@pytest.mark.parametrize("core", ["lora_mid.weight", "hada_t1", "lokr_t2"])
def test_adapter_of_a_convolution_is_told(core):
    tensors = pair("txt_in", 128, 64) | {f"txt_in.{core}": (4, 4, 3, 3)}
    assert "of a convolution" in str(lora.make_plan(tensors, MODEL).layers[lora.MISSHAPEN][0])


def test_vectors_are_no_pair_of_matrices():
    found = lora.make_plan({"txt_in.lora_up.weight": (128,), "txt_in.lora_down.weight": (1, 64)}, MODEL)
    assert "LoRA whose parts do not belong together" in str(found.layers[lora.MISSHAPEN][0])


def test_pair_of_rank_0_is_told():
    """The host would divide by it while a picture is painted."""
    tensors = {"txt_in.lora_up.weight": (128, 0), "txt_in.lora_down.weight": (0, 64), "txt_in.alpha": ()}
    found = lora.make_plan(tensors, MODEL)
    assert "LoRA whose parts do not belong together" in str(found.layers[lora.MISSHAPEN][0])


def test_alpha_must_be_one_number():
    assert lora.make_plan(pair("txt_in", 128, 64) | {"txt_in.alpha": (1,)}, MODEL).layers[lora.MATCHED] == ["txt_in"]
    assert "alpha of shape 2" in str(
        lora.make_plan(pair("txt_in", 128, 64) | {"txt_in.alpha": (2,)}, MODEL).layers[lora.MISSHAPEN][0]
    )


def test_bias_that_the_model_lacks_is_told():
    with torch.device("meta"):
        net = support.build(support.config(qkv_bias=False))
    model = {name: tuple(p.shape) for name, p in net.named_parameters()}
    found = lora.make_plan({"double_blocks.0.img_attn.qkv.diff_b": (384,)}, model)
    assert str(found.layers[lora.MISSHAPEN][0]).endswith("no such parameter, the model's has none")


# --- alphas and values -----------------------------------------------------------------------------------------------


def test_alpha_of_diffusers_metadata_counts_where_the_file_has_none():
    q, k = "transformer.transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.to_k"
    tensors = pair(q, 128, 128) | pair(k, 128, 128) | pair("transformer.context_embedder", 128, 64)
    tensors["transformer.context_embedder.alpha"] = ()
    said = {"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"attn.to_k": 2}}
    found = lora.make_plan(tensors, MODEL, metadata={"lora_adapter_metadata": json.dumps(said)})
    qkv = "double_blocks.0.img_attn.qkv.weight"
    assert {key: t.alpha for key, t in found.targets.items() if t.alpha is not None} == {
        f"{qkv}[0:128]": 8,
        f"{qkv}[128:256]": 2,
    }


def test_prepared_tensors_have_the_hosts_names_and_forms():
    layer = "transformer.transformer_blocks.0.attn.to_k"
    tensors = {
        f"{layer}.lora_A.weight": torch.randn(4, 128),
        f"{layer}.lora_B.weight": torch.randn(128, 4),
        f"{layer}.lora_B.bias": torch.ones(128),
        f"{layer}.lora_magnitude_vector": torch.ones(128),
        f"{layer}.alpha": torch.tensor(2.0),
    }
    found = lora.make_plan({k: tuple(t.shape) for k, t in tensors.items()}, MODEL)
    out = lora.prepare(tensors, found)
    weight, bias = "double_blocks.0.img_attn.qkv.weight[128:256]", "double_blocks.0.img_attn.qkv.bias[128:256]"
    assert out.keys() == {f"{weight}.{p}" for p in ("lora_up.weight", "lora_down.weight", "alpha", "dora_scale")} | {
        f"{bias}.diff"
    }
    assert out[f"{weight}.dora_scale"].shape == (128, 1)
    assert torch.equal(out[f"{bias}.diff"], torch.full((128,), 0.5))  # alpha 2 of rank 4
    assert torch.equal(tensors[f"{layer}.lora_B.bias"], torch.ones(128))


# --- what people are told --------------------------------------------------------------------------------------------


def test_summary_counts_and_names_everything():
    tensors = pair("txt_in", 128, 64) | pair("img_in", 128, 64) | pair("transformer.extra", 8, 8)
    tensors |= pair("final_layer.linear", 64, 128) | pair("distilled_guidance_layer.layers.0.linear_1", 48, 48)
    tensors |= pair("double_blocks.7.img_mlp.0", 512, 128) | pair("double_blocks.0.img_mlp.0", 640, 160)
    tensors |= pair("lora_te1_x", 8, 8) | pair("double_blocks.0.img_mod.lin", 768, 128)
    assert report.summary(lora.make_plan(tensors, MODEL), tensors).splitlines() == [
        "4 of 7 layers matched, 1 modulation layers dropped (Chroma has none), 1 text-encoder layers left out",
        "unmatched: transformer.extra",
        "of blocks that this model does not have: double_blocks.7.img_mlp.0",
        "skipped, do not fit: double_blocks.0.img_mlp.0: LoRA's 640x160, the model's 512x128",
        "Warning: changes 1 layers of distilled_guidance_layer, which makes every shift, scale and gate of the model. "
        "Lower the strength if colours break",
    ]


def test_lora_of_which_most_does_not_fit_is_warned_of():
    tensors = pair("transformer_blocks.0.attn.to_q", 128, 128)
    tensors |= {k: v for i in range(20, 24) for k, v in pair(f"transformer_blocks.{i}.img_mlp.net.2", 8, 8).items()}
    text = report.summary(lora.make_plan(tensors, MODEL), tensors)
    assert text.endswith("Warning: most of this LoRA does not fit; it looks like a LoRA for Qwen-Image")


@pytest.mark.parametrize(
    "name, told",
    [
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "a T5 text encoder; it belongs in models/text_encoders"),
        ("decoder.conv_in.weight", "a VAE; it belongs in models/vae"),
        ("transformer_blocks.0.attn.to_q.weight", "a whole checkpoint: Load Chroma Model"),
        ("transformer_blocks.0.qkv_proj.qweight", "a whole checkpoint: Load Chroma Model"),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", None),
        ("blocks.0.self_attn.q.lora_A.weight", "a LoRA for Wan"),
    ],
)
def test_other_files_in_a_loras_place_are_told(name, told):
    assert support.dev.load_pack("loaders.lora.report").looks_like([name]) == told


OTHERS = {
    "SDXL": pair("lora_unet_down_blocks_1_attentions_0_proj_in", 640, 640) | pair("lora_te2_x", 8, 8),
    "Stable Diffusion 1, 2": pair("lora_unet_input_blocks_1_1_proj_in", 320, 320),
    "Wan": pair("diffusion_model.blocks.0.cross_attn.k", 5120, 5120),
    "Lumina or Z-Image": pair("diffusion_model.layers.0.attention.qkv", 3840, 3840),
    "HunyuanVideo": pair("diffusion_model.double_blocks.0.img_attn_qkv", 9216, 3072),
    "a whole checkpoint: Load Chroma Model": {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": QKV},
    "made for a model of other sizes": pair("lora_unet_double_blocks_0_img_attn_qkv", 9216, 3072),
    "blocks that this model does not have": pair("lora_unet_double_blocks_9_img_attn_qkv", 9216, 3072),
    "only modulation layers": pair("lora_unet_double_blocks_0_img_mod_lin", 768, 128),
    "only text encoders": pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", 8, 8),
    "it begins with weird.tensor": {"weird.tensor": (3,)},
    "it begins with no tensors": {},
}


@pytest.mark.parametrize("what", OTHERS)
def test_file_that_does_not_fit_at_all_is_named(what):
    found = lora.make_plan(OTHERS[what], MODEL)
    assert found.layers[lora.MATCHED] == []
    text = report.nothing_matched("x.safetensors", found, OTHERS[what])
    assert text.startswith("x.safetensors: ") and what in text and "Choose a LoRA that was made for Chroma" in text
