"""T5 files told from their headers: names, sizes, storages, refusals."""

import pytest
import support
import torch
from header_cases import read_header_of

t5 = support.dev.load_pack("loaders.t5.detect_t5")
encoder = support.dev.load_pack("loaders.t5.sizes")
read = support.dev.load_pack("loaders.files.read")

CONFIG = encoder.T5Config(vocab_size=32_128, width=256, num_layers=2, num_heads=4, head_dim=64, mlp_dim=512, gated=True)
BASE = encoder.T5Config(
    vocab_size=32_128, width=768, num_layers=12, num_heads=12, head_dim=64, mlp_dim=3072, gated=False
)
XXL = encoder.T5Config(
    vocab_size=32_128, width=4096, num_layers=24, num_heads=64, head_dim=64, mlp_dim=10_240, gated=True
)
SHAPES = encoder.expected_shapes(CONFIG)
QUERY = "encoder.block.1.layer.0.SelfAttention.q"
F16, F32, E4M3, E5M2 = torch.float16, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2
LLAMA_CPP = {
    "shared": "token_embd",
    "encoder.final_layer_norm": "enc.output_norm",
    "SelfAttention.relative_attention_bias": "attn_rel_b",
    **{f"layer.0.SelfAttention.{x}": f"attn_{x}" for x in "qkvo"},
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wi": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
}


def llama_cpp(name):
    """Written out here once more, so that the table is tested and not read back."""
    stem = name.removesuffix(".weight")
    if stem in LLAMA_CPP:
        return LLAMA_CPP[stem] + ".weight"
    _, _, block, rest = stem.split(".", 3)
    return f"enc.blk.{block}.{LLAMA_CPP[rest.removeprefix('layer.0.') if 'relative' in rest else rest]}.weight"


def header(shapes, dtype=F16, metadata=None, markers=None):
    """shapes: name -> shape, or (dtype, shape)."""
    infos = {
        name: read.TensorInfo(*(entry if entry and not isinstance(entry[0], int) else (dtype, entry)))
        for name, entry in shapes.items()
    }
    return read.Header("x.safetensors", infos, metadata or {}, markers or {})


def changed(**changes):
    return {**SHAPES, **{name.replace("__", "."): entry for name, entry in changes.items()}}


@pytest.mark.parametrize("config, parameters", [(CONFIG, 9_536_896), (BASE, 109_628_544), (XXL, 4_762_310_656)])
def test_sizes_are_read_from_shapes(config, parameters):
    found = t5.detect_t5(header(encoder.expected_shapes(config)))
    assert found.config == config
    assert found.num_parameters == parameters  # the last two are those of the published T5-base and T5-XXL v1.1
    assert (found.layout, found.dropped, found.others) == ("Hugging Face", (), 0)


@pytest.mark.parametrize("kind, formats", [("t5xxl", {}), ("t5xxl_fp8_float64", {"float8_e4m3fn": 168})])
def test_published_headers_are_recognised(kind, formats):
    found = t5.detect_t5(read_header_of(kind))
    assert (found.config, found.formats, found.others) == (XXL, formats, 0)


@pytest.mark.parametrize(
    "prefix", ["", "text_encoders.t5xxl.transformer.", "t5xxl.transformer.", "transformer.", "text_model.", "model."]
)
def test_any_prefix_is_taken_off(prefix):
    found = t5.detect_t5(header({prefix + name: shape for name, shape in SHAPES.items()}))
    assert (found.prefix, found.config) == (prefix, CONFIG)
    assert found.tensors[encoder.EMBEDDING][0].file_name == prefix + encoder.EMBEDDING


@pytest.mark.parametrize("config", [CONFIG, BASE], ids=["gated", "not gated"])
def test_names_of_llama_cpp_are_translated(config):
    shapes = encoder.expected_shapes(config)
    found = t5.detect_t5(header({llama_cpp(name): shape for name, shape in shapes.items()}))
    assert (found.layout, found.config) == ("llama.cpp", config)
    assert {name: parts[0].file_name for name, parts in found.tensors.items()} == {n: llama_cpp(n) for n in shapes}


def test_names_of_llama_cpp_are_those_of_gguf():
    gguf = pytest.importorskip("gguf")
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, BASE.num_layers)
    for config in (CONFIG, BASE):
        for name in encoder.expected_shapes(config):
            theirs = table.get_name(name.removesuffix(".weight")) + ".weight"
            assert t5.llama_cpp_name(theirs, config.gated) == name


@pytest.mark.parametrize("prefix", ["", "t5xxl."])
def test_decoder_of_a_whole_t5_is_left_out_and_counted(prefix):
    decoder = {n.replace("encoder", "decoder"): s for n, s in SHAPES.items() if n.startswith("encoder.block")}
    extra = {**decoder, "decoder.embed_tokens.weight": (32_128, 256), "lm_head.weight": (32_128, 256)}
    extra["encoder.embed_tokens.weight"] = (32_128, 256)
    found = t5.detect_t5(header({prefix + n: s for n, s in {**extra, **SHAPES}.items()}))
    assert sorted(found.dropped) == sorted(prefix + n for n in extra)
    assert found.config == CONFIG and set(found.tensors) == set(SHAPES)


def test_what_is_left_out_names_nothing():
    """A gate in a decoder does not make the encoder's one input the second of two."""
    shapes = {llama_cpp(n): s for n, s in encoder.expected_shapes(BASE).items()}
    assert t5.detect_t5(header(shapes | {"dec.blk.0.ffn_gate.weight": (4, 4)})).config == BASE


def test_decoder_under_names_of_llama_cpp_is_left_out():
    shapes = {llama_cpp(n): s for n, s in SHAPES.items()}
    extra = {"dec.blk.0.attn_q.weight": (256, 256), "dec.output_norm.weight": (256,), "output.weight": (32_128, 256)}
    assert t5.detect_t5(header({**extra, **shapes})).dropped == tuple(extra)


def test_embedding_under_its_second_name_is_found_with_its_scale():
    shapes = {n.replace("shared", "encoder.embed_tokens"): s for n, s in SHAPES.items()}
    shapes["encoder.embed_tokens.weight"] = (E4M3, (32_128, 256))
    shapes["encoder.embed_tokens.scale_weight"] = (F32, (1,))
    part = t5.detect_t5(header(shapes)).tensors[encoder.EMBEDDING][0]
    assert part.file_name == "encoder.embed_tokens.weight"
    assert part.scales == {"weight_scale": "encoder.embed_tokens.scale_weight"}


def test_other_models_of_an_all_in_one_file_are_counted():
    shapes = {f"text_encoders.t5xxl.transformer.{n}": s for n, s in SHAPES.items()}
    shapes["text_encoders.t5xxl.logit_scale"] = ()
    shapes |= {"text_encoders.clip_l.x": (3,), "vae.decoder.conv_in.weight": (4, 4, 3, 3)}
    found = t5.detect_t5(header(shapes))
    assert (found.dropped, found.others) == (("text_encoders.t5xxl.logit_scale",), 2)


OLD = {"scaled_fp8": (E4M3, (2,)), f"{QUERY}.weight": (E4M3, (256, 256)), f"{QUERY}.scale_weight": (F32, (1,))}
FULL = {"full_precision_matrix_mult": True}
STORAGES = {  # what -> entries of the query's layer and of the file, format, settings, scales
    "raw fp8": ({f"{QUERY}.weight": (E4M3, (256, 256))}, "float8_e4m3fn", {"unscaled": True}, {}),
    "old": (OLD, "float8_e4m3fn", FULL, {"weight_scale": f"{QUERY}.scale_weight"}),
    "old, empty marker, input scale": (
        {**OLD, "scaled_fp8": (E4M3, (0,)), f"{QUERY}.scale_input": (F32, (1,))},
        "float8_e4m3fn",
        {},
        {"weight_scale": f"{QUERY}.scale_weight", "input_scale": f"{QUERY}.scale_input"},
    ),
    "old e5m2": (
        {**OLD, "scaled_fp8": (E5M2, (2,)), f"{QUERY}.weight": (E5M2, (256, 256))},
        "float8_e5m2",
        FULL,
        {"weight_scale": f"{QUERY}.scale_weight"},
    ),
    "old, dummy scale": (
        {**OLD, f"{QUERY}.weight": (F16, (256, 256))},
        None,
        {},
        {"weight_scale": f"{QUERY}.scale_weight"},
    ),
    "scale without marker": (
        {f"{QUERY}.weight": (E4M3, (256, 256)), f"{QUERY}.weight_scale": (F32, ())},
        "float8_e4m3fn",
        {},
        {"weight_scale": f"{QUERY}.weight_scale"},
    ),
    **{  # what convert_to_quant --t5xxl writes: the weight's own scales stand for the inputs' too
        what: (
            {
                f"{QUERY}.weight": (dtype, (256, 256)),
                f"{QUERY}.weight_scale": (F32, s),
                f"{QUERY}.input_scale": (F32, s),
            },
            format,
            {},
            {"weight_scale": f"{QUERY}.weight_scale"},
        )
        for what, dtype, s, format in (
            ("fp8 by row", E4M3, (256,), "float8_e4m3fn_rowwise"),
            ("fp8 by block", E4M3, (4, 4), "float8_e4m3fn_blockwise"),
            ("int8 by block", torch.int8, (2, 2), "int8_blockwise"),
        )
    },
    "plain": ({f"{QUERY}.input_scale": (F32, (256, 1))}, None, {}, {}),
    "Q4_K": ({f"{QUERY}.weight": ("Q4_K", (256, 256))}, "Q4_K", {}, {}),
}


@pytest.mark.parametrize("what", STORAGES)
@pytest.mark.parametrize("prefix", ["", "text_encoders.t5xxl.transformer."])
def test_storage_is_recognised(what, prefix):
    entries, format, settings, scales = STORAGES[what]
    found = t5.detect_t5(header({prefix + n: s for n, s in {**SHAPES, **entries}.items()}))
    part = found.tensors[f"{QUERY}.weight"][0]
    assert (part.storage.format, dict(part.storage.settings), part.storage.shape) == (format, settings, (256, 256))
    assert part.scales == {role: prefix + name for role, name in scales.items()}
    assert found.formats == ({format: 1} if format else {})


@pytest.mark.parametrize("shape", [(256, 1), ()])
@pytest.mark.parametrize("marker", [{"format": "int8_tensorwise", "convrot": True}, {"format": "int8_tensorwise"}])
def test_input_scales_of_int8_are_left_out(shape, marker):
    entries = {"weight": (torch.int8, (256, 256)), "weight_scale": (F32, (256, 1)), "input_scale": (F32, shape)}
    shapes = SHAPES | {f"{QUERY}.{part}": entry for part, entry in entries.items()}
    name = f"{QUERY}.comfy_quant"
    found = t5.detect_t5(header({**shapes, name: (torch.uint8, (9,))}, markers={name: marker}))
    part = found.tensors[f"{QUERY}.weight"][0]
    assert (part.storage.format, dict(part.scales)) == ("int8_tensorwise", {"weight_scale": f"{QUERY}.weight_scale"})


@pytest.mark.parametrize("root", ["scaled_fp8", "t5xxl.scaled_fp8", "t5xxl.transformer.scaled_fp8"])
def test_old_marker_is_found_before_or_behind_the_prefix(root):
    shapes = {f"t5xxl.transformer.{n}": s for n, s in {**SHAPES, **OLD}.items() if n != "scaled_fp8"}
    found = t5.detect_t5(header({**shapes, root: (E4M3, (2,))}))
    assert found.tensors[f"{QUERY}.weight"][0].storage.settings == FULL
    assert found.others == 0
    int8 = t5.detect_t5(header({**shapes, root.replace("fp8", "int8"): (torch.int8, (2,))}))
    assert (int8.tensors[f"{QUERY}.weight"][0].storage.settings, int8.others) == ({}, 0)


def without(*names):
    return {n: s for n, s in SHAPES.items() if n not in names}


LM = {"model.layers.0.self_attn.q_proj.weight": (8, 8), "model.embed_tokens.weight": (99, 8)}
REFUSED = {  # what -> shapes, metadata, words of the message
    "CLIP-L": ({"text_model.encoder.layers.0.mlp.fc1.weight": (8, 8)}, {}, "it looks like CLIP-L"),
    "CLIP-G": (
        {f"text_model.encoder.layers.{i}.mlp.fc1.weight": (8, 8) for i in range(32)},
        {},
        "it looks like CLIP-G",
    ),
    "Chroma": (
        {"distilled_guidance_layer.in_proj.weight": (8, 8), "double_blocks.0.img_attn.qkv.weight": (8, 8)},
        {},
        "it looks like a Chroma model; it belongs in models/diffusion_models",
    ),
    "LLaMA": (LM, {}, "a language model"),
    "LLaMA GGUF": ({"blk.0.attn_q.weight": (8, 8)}, {"general.architecture": "llama"}, "its architecture is 'llama'"),
    "LoRA": ({"lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight": (8, 8)}, {}, "a LoRA"),
    "FLUX in diffusers' layout": (
        {"single_transformer_blocks.0.attn.to_q.weight": (8, 8)},
        {},
        "it looks like FLUX in diffusers' layout; it belongs in models/diffusion_models",
    ),
    "LoRA of FLUX": ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (8, 8)}, {}, "a LoRA"),
    "VAE": ({"decoder.up.0.block.0.conv1.weight": (8, 8, 3, 3)}, {}, "it looks like a VAE"),
    "nothing known": ({"a.b": (8, 8)}, {}, "it begins with a.b. Chroma needs T5-XXL"),
    "UMT5": (changed(shared__weight=(256_384, 256)), {}, "its embedding has 256,384 words, T5's has 32,100 to 32,128"),
    "other tokenizer": (SHAPES, {"tokenizer.ggml.tokens": ["a"] * 9}, "its tokenizer has 9 words"),
    "no query": (without(f"{QUERY}.weight"), {}, f"tensor {QUERY}.weight is missing. The file is incomplete"),
    "no embedding": (without(encoder.EMBEDDING), {}, "tensor shared.weight is missing"),
    "no last norm": (without(encoder.FINAL_NORM), {}, "tensor encoder.final_layer_norm.weight is missing"),
    "no positions": (without(encoder.RELATIVE_BIAS), {}, "relative_attention_bias.weight is missing"),
    "no first layer": ({n: s for n, s in SHAPES.items() if ".block.0." not in n}, {}, "encoder.block.0 missing"),
    "a layer of a number beyond all": (
        SHAPES | {"encoder.block.99999999999999999999.layer.0.layer_norm.weight": (256,)},
        {},
        "encoder.block.2, encoder.block.3, encoder.block.4, encoder.block.5, encoder.block.6 missing",
    ),
    "an architecture of a megabyte": (LM, {"general.architecture": "x" * 1_000_000}, "xxx'. Chroma needs"),
    "layers announced by a list": (
        SHAPES,
        {"general.architecture": "t5encoder", "t5encoder.block_count": [2] * 1_000_000},
        "its header announces [2, 2, 2, 2, 2, 2, ...]. The file",
    ),
    "fewer layers than announced": (
        SHAPES,
        {"general.architecture": "t5encoder", "t5encoder.block_count": 24},
        "holds 2 layers, its header announces 24",
    ),
    "last of 24 layers": (
        {n: s for n, s in encoder.expected_shapes(XXL).items() if not n.startswith("encoder.block.23.")},
        {},
        "holds 23 of the 24 layers that a T5 of width 4,096 has",
    ),
    "last of 12 layers": (
        {n: s for n, s in encoder.expected_shapes(BASE).items() if not n.startswith("encoder.block.11.")},
        {},
        "holds 11 of the 12 layers",
    ),
    "shape": (changed(**{f"{QUERY}.weight".replace(".", "__"): (256, 128)}), {}, "(256, 128), expected (256, 256)"),
    "16 buckets": (
        changed(**{encoder.RELATIVE_BIAS.replace(".", "__"): (16, 4)}),
        {},
        "16 buckets of positions do not fit",
    ),
    "heads": (changed(**{encoder.RELATIVE_BIAS.replace(".", "__"): (32, 3)}), {}, "256 rows of queries, 3 heads"),
    "unknown tensor": ({**SHAPES, "encoder.x.weight": (3,)}, {}, "tensor encoder.x.weight is not part of T5's encoder"),
    "lost scale": ({**SHAPES, "encoder.x.scale_weight": (F32, (1,))}, {}, "is a scale without its weight"),
    "type": ({**SHAPES, f"{QUERY}.weight": ("IQ2_S", (256, 256))}, {}, "stored as IQ2_S, which is not supported"),
    "bitsandbytes": ({**SHAPES, f"{QUERY}.weight.absmax": (F32, (9,))}, {}, "bitsandbytes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_t5_or_not_whole_is_refused_by_name(what):
    shapes, metadata, words = REFUSED[what]
    with pytest.raises(ValueError, match="^x.safetensors: ") as error:
        t5.detect_t5(header(shapes, metadata=metadata))
    assert words in str(error.value) and len(str(error.value)) < 400


def test_linears_are_all_but_embedding_positions_and_norms():
    kept = {name for name in SHAPES if not encoder.is_linear(name)}
    norms = {name for name in SHAPES if name.endswith("layer_norm.weight")}
    assert kept == norms | {encoder.EMBEDDING, encoder.RELATIVE_BIAS}
