"""T5 files of every storage through the node: one narrow encoder against transformers' own in float32."""

import gc
import json
import weakref

import formats
import gguf
import pytest
import support
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.host
dev = support.dev
t5 = dev.load_pack("loaders.t5.sizes")

GATED = t5.T5Config(vocab_size=32_128, width=256, num_layers=2, num_heads=4, head_dim=64, mlp_dim=512, gated=True)
# What the host takes for T5-XXL, but narrow: 24 layers with an MLP of 10240.
TALL = t5.T5Config(vocab_size=32_128, width=64, num_layers=24, num_heads=1, head_dim=64, mlp_dim=10_240, gated=True)
PROMPTS = ("a red fox, two blue birds and a very long tail of words", "", "Zürich: 3 свечи? <extra_id_0>")
NUM_ROWS = 509  # different rows of the embedding, repeated: packing 8 million weights in Python takes long
STORAGES = {**formats.SAFETENSORS, **formats.GGUF}
FLOAT32 = 5e-6  # two layers in another order of sums; 24 bits are 6e-8
WEIGHT_TOLERANCE = 0.25  # of the figure that the bit width implies, as in test_matrix
# Errors of the matrices are independent, so they add as squares, each at most whole: 7 a layer, and 7 other tensors
# (embedding, positions, norms) in 16 bits. At least, one matrix shows by half, since its branch is added to the stream.
NUM_MATRICES, NUM_OTHERS, LEAST_GAIN = 7 * 2, 7, 0.5
SIXTEEN_BITS = {torch.float32: 0.0, torch.float16: formats.floating(10), torch.bfloat16: formats.floating(7)}
EMBEDDING_TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0")


def random_weights(config, seed=0):
    """Seeded, in T5's own proportions: attention is not scaled, so queries are small."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in t5.expected_shapes(config).items():
        if name == t5.EMBEDDING:
            noise = torch.randn(NUM_ROWS, shape[1], generator=generator)
            weights[name] = noise[torch.arange(shape[0]) % NUM_ROWS]
        elif name.endswith("layer_norm.weight"):
            weights[name] = 1 + 0.1 * torch.randn(shape, generator=generator)
        elif name == t5.RELATIVE_BIAS:
            weights[name] = torch.randn(shape, generator=generator)
        else:
            std = shape[1] ** -0.5 * (config.head_dim**-0.5 if name.endswith("q.weight") else 1)
            weights[name] = std * torch.randn(shape, generator=generator)
    return weights


def packed_embedding(weight, type_name):
    rows = formats.packed_ggml(weight[:NUM_ROWS], type_name)
    return rows[torch.arange(len(weight)) % NUM_ROWS]


LLAMA_CPP = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5, GATED.num_layers)


def write_gguf(path, weights, type_name, embedding="F16", architecture="t5encoder", **extra):
    """As llama.cpp does it: vectors and positions in F32. extra: more tensors, by llama.cpp's names."""
    writer = gguf.GGUFWriter(path, architecture)
    if architecture == "t5":
        writer.add_token_list(["▁a"] * GATED.vocab_size)
    for name, tensor in {**weights, **extra}.items():
        kind = "F32" if tensor.ndim == 1 or name == t5.RELATIVE_BIAS else type_name
        kind = embedding if name == t5.EMBEDDING else kind
        theirs = name if name in extra else LLAMA_CPP.get_name(name.removesuffix(".weight")) + ".weight"
        pack = packed_embedding if name == t5.EMBEDDING else formats.packed_ggml
        data = pack(tensor, kind).contiguous().numpy()
        writer.add_tensor(theirs, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def entries(weights, stored, prefix=""):
    """(tensors, metadata) of a safetensors file; embedding, norms and positions stay in 16 bits."""
    out, layers = dict(stored.marker() if stored.marker else {}), {}
    for name, tensor in weights.items():
        stem = prefix + name.removesuffix(".weight")
        if stored.write is None or not t5.is_linear(name):
            out[prefix + name] = tensor.to(stored.dtype)
            continue
        if stored.layers == "dummies":
            out |= {prefix + name: tensor.to(stored.dtype), f"{stem}.scale_weight": torch.ones(1)}
            continue
        out |= {f"{stem}.{suffix}": t.clone().contiguous() for suffix, t in stored.write(tensor).items()}
        layers[stem] = {"format": "float8_e4m3fn"}
    text = json.dumps({"format_version": "1.0", "layers": layers})
    return out, {"_quantization_metadata": text} if stored.metadata else None


def write(folder, weights, storage, prefix=""):
    stored = STORAGES[storage]
    if stored.gguf:
        path = folder / "t5.gguf"
        write_gguf(path, weights, stored.gguf)
        return path.name
    tensors, metadata = entries(weights, stored, prefix)
    save_file(tensors, folder / "t5.safetensors", metadata=metadata)
    return "t5.safetensors"


@pytest.fixture(scope="module")
def original():
    return random_weights(GATED)


def most(implied, dtype):
    """The largest output error of linears with this relative error, beside other tensors in dtype."""
    return FLOAT32 + (NUM_MATRICES * implied**2 + NUM_OTHERS * SIXTEEN_BITS[dtype] ** 2) ** 0.5


@pytest.fixture(scope="module")
def reference(original):
    """Token ids and weights (the original ones) -> (1, L, D) from transformers' encoder."""
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=GATED.vocab_size,
        d_model=GATED.width,
        d_kv=GATED.head_dim,
        d_ff=GATED.mlp_dim,
        num_layers=GATED.num_layers,
        num_heads=GATED.num_heads,
        feed_forward_proj="gated-gelu",
    )
    net = transformers.T5EncoderModel(config).eval().requires_grad_(False)
    held = [None]

    def run(ids, weights=original):
        if held[0] is not weights:
            lost = net.load_state_dict(weights, strict=False)
            assert set(lost.missing_keys) <= {"encoder.embed_tokens.weight"} and not lost.unexpected_keys
            held[0] = weights
        return net(input_ids=torch.tensor([ids])).last_hidden_state

    return run


@pytest.fixture
def node(comfy, monkeypatch, tmp_path, inference):
    """The loader's node, with tmp_path as models/text_encoders; `node.said` is what it reported."""
    import folder_paths

    entry = ([str(tmp_path)], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "text_encoders", entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    module = dev.load_pack("nodes.clip")
    monkeypatch.setattr(module, "said", [], raising=False)
    monkeypatch.setattr(
        module, "report", lambda node, text: module.said.append(text() if callable(text) else text)
    )  # no server is running here
    return module


def load(node, name, **inputs):
    (clip,) = node.ChromaCLIPLoader.execute(name, **inputs).result
    return clip


def encoder(clip):
    return getattr(clip.cond_stage_model, clip.cond_stage_model.clip).transformer


def ids(clip, prompt):
    (tokens,) = clip.tokenize(prompt).values()
    return [token for token, _ in tokens[0]]


def encode(clip, prompt):
    return clip.encode_from_tokens(clip.tokenize(prompt))


def parameters(clip):
    """Name -> (type, bytes), a packed weight's own bytes and not what they stand for."""
    nbytes = dev.load_pack("host.model.report").num_bytes
    return {name: (type(p.data), nbytes(p)) for name, p in encoder(clip).named_parameters()}


def dense(weight):
    return (weight.dequantize() if hasattr(weight, "_qdata") else weight).float()


def unpacked(clip):
    """All weights in float32, as the file and what was added to them make them."""
    return {name: dense(p) for name, p in encoder(clip).named_parameters()}


def output_error(clip, reference, *weights):
    """Relative error over all prompts, against transformers with these weights, or else the original ones."""
    found = torch.cat([encode(clip, p) for p in PROMPTS], 1)
    return support.relative(found, torch.cat([reference(ids(clip, p), *weights) for p in PROMPTS], 1))


# --- storages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_encoding_is_as_exact_as_the_files_bits(node, original, reference, tmp_path, storage):
    stored = STORAGES[storage]
    clip = load(node, write(tmp_path, original, storage), precision="keep")
    before, state = parameters(clip), unpacked(clip)
    output = output_error(clip, reference)
    assert output_error(clip, reference, state) <= FLOAT32  # what is multiplied is what is stored, and nothing else
    assert parameters(clip) == before  # nothing is left unpacked by a run

    linears = [name for name in original if t5.is_linear(name)]
    wrong = sum(float((state[n] - original[n]).square().sum()) for n in linears)
    total = sum(float(original[n].square().sum()) for n in linears)
    squares = sum(stored.error(original[n].shape[1]) ** 2 * float(original[n].square().sum()) for n in linears)
    error, implied = (wrong / total) ** 0.5, (squares / total) ** 0.5
    if stored.layers == "dummies":
        implied = formats.floating(7)  # the weights are bfloat16, whatever the scales beside them say
    assert abs(error - implied) <= WEIGHT_TOLERANCE * implied, f"weights {error:.3%}, its bits imply {implied:.3%}"
    others = torch.float16 if stored.gguf else stored.dtype
    assert LEAST_GAIN * implied <= output <= most(implied, others)

    if stored.write is not None and stored.layers != "dummies" or stored.gguf and stored.gguf not in formats.PLAIN:
        written = [p for n, p in encoder(clip).named_parameters() if t5.is_linear(n)]
        assert all(hasattr(p.data, "_qdata") for p in written)
        packed = sum(before[n][1] for n in linears)
        assert packed < 0.56 * sum(2 * original[n].numel() for n in linears)  # 8.5 bits of 16, and scales


def test_inputs_are_multiplied_by_the_scale_that_a_file_has_for_them(node, original, reference, tmp_path):
    tensors, _ = entries(original, STORAGES["nvfp4"])
    stem = "encoder.block.0.layer.1.DenseReluDense.wi_0"
    scale = torch.linspace(0.5, 2.0, GATED.width)
    save_file({**tensors, f"{stem}.pre_quant_scale": scale}, tmp_path / "t5.safetensors")
    clip = load(node, "t5.safetensors", precision="keep")
    weights = unpacked(clip)
    weights[f"{stem}.weight"] = weights[f"{stem}.weight"] * scale
    weights = {n: weights[n] for n in original}
    assert output_error(clip, reference, weights) <= FLOAT32


@pytest.mark.parametrize("factor, kept", [(1.0, False), (2.0, True)])
def test_weights_own_scale_is_no_scale_of_the_inputs(node, original, tmp_path, factor, kept):
    """convert_to_quant writes it there; inputs above 448 times it would be cut."""
    tensors, _ = entries(original, STORAGES["fp8 new"])
    stem = "encoder.block.0.layer.1.DenseReluDense.wi_0"
    scale = tensors[f"{stem}.weight_scale"] * factor
    save_file({**tensors, f"{stem}.input_scale": scale}, tmp_path / "t5.safetensors")
    layer = encoder(load(node, "t5.safetensors", precision="keep")).get_submodule(stem)
    found = getattr(layer, "input_scale", None)
    assert (found is not None) == kept
    assert not kept or torch.equal(found.flatten(), scale.flatten())


@pytest.mark.parametrize("embedding", EMBEDDING_TYPES)
def test_packed_embedding_is_unpacked_for_the_tokens_only(node, original, reference, tmp_path, monkeypatch, embedding):
    write_gguf(tmp_path / "t5.gguf", original, "F32", embedding)
    clip = load(node, "t5.gguf")
    layouts = dev.load_pack("host.model.packed_layout")
    rows = []
    unpack = layouts.unpacked
    monkeypatch.setattr(layouts, "unpacked", lambda packed, *a: rows.append(len(packed)) or unpack(packed, *a))
    output = output_error(clip, reference)
    assert rows == [len(ids(clip, p)) for p in PROMPTS]

    weight = encoder(clip).shared.weight
    kind = gguf.GGMLQuantizationType[embedding]
    block_size, type_size = gguf.GGML_QUANT_SIZES[kind]
    assert parameters(clip)["shared.weight"][1] == GATED.vocab_size * GATED.width // block_size * type_size
    tokens = torch.tensor([[5, 32_099, 5], [0, 1, 777]])
    torch.testing.assert_close(
        encoder(clip).shared(tokens, out_dtype=torch.float32), dense(weight)[tokens], rtol=0, atol=0
    )
    implied = STORAGES[embedding].error(GATED.width)
    error = support.relative(dense(weight)[:NUM_ROWS], original[t5.EMBEDDING][:NUM_ROWS])
    assert abs(error - implied) <= WEIGHT_TOLERANCE * implied
    # Nothing else is rounded, and it is the stream itself: each of 4 branches adds its error once more, the MLPs', which
    # multiply two functions of it, twice.
    assert output_error(clip, reference, unpacked(clip)) <= FLOAT32
    assert LEAST_GAIN * implied <= output <= (1 + 2 + 2 * 2) * implied


@pytest.mark.parametrize(
    "storage", ["fp8 raw", "fp8 old", "fp8 old e5m2", "fp8 rows", "fp8 blocks of 64", "int8 rows", "int8 rotated"]
)
def test_rows_of_every_other_format_are_those_of_the_whole(node, original, tmp_path, storage):
    tensors, _ = entries(original, STORAGES["fp32"])
    small = original[t5.EMBEDDING][:512]
    table = {name: t.clone() for name, t in STORAGES[storage].write(small).items()}
    repeated = torch.arange(GATED.vocab_size) % 512
    for name, t in table.items():
        blocks = 512 // t.shape[0] if t.ndim == 2 else 1
        per_row = name != "comfy_quant" and t.ndim and t.shape[0] > 1
        rows = repeated[::blocks] // blocks
        bits = t.view(torch.uint8) if t.dtype.itemsize == 1 else t  # fp8 can not be indexed everywhere
        tensors[f"shared.{name}"] = bits[rows].view(t.dtype) if per_row else t
    if STORAGES[storage].marker:
        tensors |= STORAGES[storage].marker()
    save_file(tensors, tmp_path / "t5.safetensors")
    shared = encoder(load(node, "t5.safetensors")).shared
    assert hasattr(shared.weight.data, "_qdata")
    tokens = torch.tensor([[5, 32_099, 5, 64, 63, 0]])
    found = shared(tokens, out_dtype=torch.float32)
    torch.testing.assert_close(found, dense(shared.weight)[tokens], rtol=1e-6, atol=1e-6)
    assert support.relative(found, original[t5.EMBEDDING][tokens % 512]) <= 1.25 * STORAGES[storage].error(GATED.width)


def test_embedding_in_tiled_scales_is_unpacked_at_load(node, original, tmp_path):
    tensors, _ = entries(original, STORAGES["bf16"])
    tensors.pop(t5.EMBEDDING)
    table = STORAGES["mxfp8"].write(original[t5.EMBEDDING])
    save_file({**tensors, **{f"shared.{n}": t.contiguous() for n, t in table.items()}}, tmp_path / "t5.safetensors")
    shared = encoder(load(node, "t5.safetensors")).shared
    assert type(shared.weight.data) is torch.Tensor and shared.weight.dtype == torch.bfloat16
    assert support.relative(shared.weight, original[t5.EMBEDDING]) <= 1.25 * formats.floating(3)


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_float32_file_equals_transformers(node, original, reference, tmp_path):
    clip = load(node, write(tmp_path, original, "fp32"), precision="keep")
    assert {type_ for type_, _ in parameters(clip).values()} == {torch.Tensor}
    assert output_error(clip, reference) <= FLOAT32


def test_quantised_whole_t5_behind_a_prefix_gives_the_same(node, original, tmp_path):
    expected = load(node, write(tmp_path, original, "fp8 old, input scales"))
    expected = [encode(expected, p) for p in PROMPTS]
    prefix = "text_encoders.t5xxl.transformer."
    tensors, _ = entries(original, STORAGES["fp8 old, input scales"], prefix)
    tensors[prefix + "scaled_fp8"] = tensors.pop("scaled_fp8")
    decoder = {n.replace("encoder.block", "decoder.block"): t.clone() for n, t in tensors.items() if ".block.1." in n}
    save_file({**tensors, **decoder, "vae.x": torch.ones(2)}, tmp_path / "all.safetensors")
    clip = load(node, "all.safetensors")
    assert all(torch.equal(encode(clip, p), e) for p, e in zip(PROMPTS, expected))
    lines = node.said[-1].splitlines()
    assert f"{len(decoder)} tensors of the decoder and the like left out" in lines
    assert "1 tensor of other models left out" in lines


def test_whole_t5_as_gguf_leaves_its_decoder_out(node, original, tmp_path):
    write_gguf(tmp_path / "enc.gguf", original, "Q8_0")
    decoder = {"dec.blk.0.attn_q.weight": torch.zeros(256, 256), "dec.output_norm.weight": torch.ones(256)}
    write_gguf(tmp_path / "whole.gguf", original, "Q8_0", "F16", "t5", **decoder)
    alone, whole = load(node, "enc.gguf"), load(node, "whole.gguf")
    assert torch.equal(encode(alone, PROMPTS[0]), encode(whole, PROMPTS[0]))
    assert "2 tensors of the decoder and the like left out" in node.said[-1]


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_sharded_folder_is_one_entry_and_gives_the_same(node, original, tmp_path, variant):
    expected = encode(load(node, write(tmp_path, original, "fp16")), PROMPTS[0])
    folder = tmp_path / "flan"
    folder.mkdir()
    tensors, _ = entries(original, STORAGES["fp16"])
    weight_map = {}
    for i, part in enumerate((list(tensors)[::2], list(tensors)[1::2]), 1):
        file = f"model{variant}-{i:05d}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / f"model.safetensors.index{variant}.json").write_text(json.dumps({"weight_map": weight_map}))
    (option,) = [o for o in node.encoder_files() if "flan" in o]
    assert option.endswith(f"model.safetensors.index{variant}.json")
    assert torch.equal(encode(load(node, option), PROMPTS[0]), expected)


def test_narrow_xxl_equals_the_hosts_own_loader(comfy, node, tmp_path):
    weights = {name: t.half() for name, t in random_weights(TALL).items()}
    save_file(weights, tmp_path / "tall.safetensors")
    clip = load(node, "tall.safetensors")
    sizes = {"d_model": 64, "num_heads": 1, "d_kv": 64, "d_ff": 10_240, "num_layers": 24}
    host = comfy.sd.load_text_encoder_state_dicts(
        [weights], clip_type=comfy.sd.CLIPType.CHROMA, model_options={"t5xxl_model_config": sizes}
    )
    for prompt in (*PROMPTS, "(a weighted:1.4) word"):
        assert clip.tokenize(prompt) == host.tokenize(prompt)
        assert torch.equal(encode(clip, prompt), encode(host, prompt))
    assert type(clip.cond_stage_model).__mro__[1] is type(host.cond_stage_model).__mro__[1]


def test_t5_base_equals_the_hosts_own_loader(comfy, node, monkeypatch):
    path = dev.base_dir() / "models" / dev.TEXT_ENCODER
    monkeypatch.setattr(node, "encoder_path", lambda name: str(path))
    clip = load(node, path.name)
    host = comfy.sd.load_clip([str(path)], clip_type=comfy.sd.CLIPType.CHROMA)
    for prompt in PROMPTS:
        assert clip.tokenize(prompt) == host.tokenize(prompt)
        assert torch.equal(encode(clip, prompt), encode(host, prompt))


# --- precision -------------------------------------------------------------------------------------------------------

MODES = {  # precision -> storage of the linears, the error it adds, bytes of 1000 weights
    "bf16": (torch.bfloat16, formats.floating(7), 2000),
    "fp16": (torch.float16, formats.floating(10), 2000),
    "fp32": (torch.float32, 0.0, 4000),
    "auto": (torch.float16, formats.floating(10), 2000),
    "keep": (torch.float32, 0.0, 4000),
    "q8_0": ("gguf_q8_0", STORAGES["Q8_0"].error(256), 1062.5),
    "fp8_scaled": ("float8_e4m3fn", formats.floating(3), 1000),
}


@pytest.mark.parametrize("precision", MODES)
def test_precision_changes_the_linears_to_what_it_names(node, original, reference, tmp_path, precision):
    kept, implied, nbytes = MODES[precision]
    clip = load(node, write(tmp_path, original, "fp32"), precision=precision)
    layer = encoder(clip).encoder.block[1].layer[0].SelfAttention.k
    assert getattr(layer, "quant_format", layer.weight.dtype) == kept
    exact = original["encoder.block.1.layer.0.SelfAttention.k.weight"]
    assert abs(support.relative(dense(layer.weight), exact) - implied) <= WEIGHT_TOLERANCE * implied
    found = sum(b for n, (_, b) in parameters(clip).items() if t5.is_linear(n))
    count = sum(original[n].numel() for n in original if t5.is_linear(n))
    assert found == pytest.approx(nbytes * count / 1000, rel=1e-3)  # one scale a tensor more
    others = encoder(clip).shared.weight.dtype
    assert output_error(clip, reference) <= most(implied, others)


def test_packed_file_is_unpacked_or_packed_anew_on_request(node, original, tmp_path):
    write_gguf(tmp_path / "t5.gguf", original, "Q8_0", "Q8_0")
    kept = load(node, "t5.gguf")
    whole = load(node, "t5.gguf", precision="fp32")
    again = load(node, "t5.gguf", precision="q8_0")
    assert {type_ for type_, _ in parameters(whole).values()} == {torch.Tensor}
    assert parameters(again) == parameters(kept)
    expected = encode(kept, PROMPTS[0])
    assert support.relative(encode(whole, PROMPTS[0]), expected) <= FLOAT32
    assert torch.equal(encode(again, PROMPTS[0]), expected)


@pytest.mark.parametrize("precision", ["q8_0", "fp8_scaled"])
def test_layers_of_zeros_stay_zeros(node, original, tmp_path, precision):
    weights = {n: torch.zeros_like(t) if "DenseReluDense" in n else t for n, t in original.items()}
    clip = load(node, write(tmp_path, weights, "fp16"), precision=precision)
    assert not dense(encoder(clip).encoder.block[0].layer[1].DenseReluDense.wo.weight).any()
    assert torch.isfinite(encode(clip, PROMPTS[0])).all()


def test_layers_whose_width_no_block_fits_stay_plain(node, tmp_path, caplog):
    config = t5.T5Config(32_128, 48, 1, 3, 16, 80, True)  # no block of 32 fits 48
    weights = random_weights(config)
    clip = load(node, write(tmp_path, weights, "fp16"), precision="q8_0")
    assert {type_ for type_, _ in parameters(clip).values()} == {torch.Tensor}
    assert "of input width 48 stay unquantised" in caplog.text


# --- what the host does with a CLIP ----------------------------------------------------------------------------------


def lora(weights, *names, rank=4):
    """(LoRA in the host's generic names, the changed weights)."""
    generator = torch.Generator().manual_seed(3)
    tensors, changed = {}, dict(weights)
    for name in names:
        rows, columns = weights[name].shape
        up = torch.randn(rows, rank, generator=generator)
        down = torch.randn(rank, columns, generator=generator) * 0.2 * columns**-0.5
        stem = f"text_encoders.t5xxl.transformer.{name.removesuffix('.weight')}"
        tensors |= {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}
        changed[name] = weights[name] + up @ down
    return tensors, changed


CHANGED = ("encoder.block.0.layer.0.SelfAttention.v.weight", "encoder.block.1.layer.1.DenseReluDense.wi_1.weight")


@pytest.mark.parametrize("storage", ["fp32", "fp8 old", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("also", [(), (t5.EMBEDDING,)], ids=["linears", "embedding too"])
def test_lora_of_the_text_encoder_is_applied_and_taken_off(comfy, node, original, reference, tmp_path, storage, also):
    if storage in formats.GGUF:
        write_gguf(tmp_path / "t5.gguf", original, storage, storage)
        clip = load(node, "t5.gguf")
    else:
        clip = load(node, write(tmp_path, original, storage), precision="keep")
    before = encode(clip, PROMPTS[0])
    weights = {n: t.clone() for n, t in unpacked(clip).items()}
    tensors, wanted = lora(weights, *CHANGED, *also)
    _, patched = comfy.sd.load_lora_for_models(None, clip, tensors, 0.0, 1.0)
    found = encode(patched, PROMPTS[0])
    weights_then = {n: t.clone() for n, t in unpacked(patched).items()}
    assert support.relative(found, reference(ids(clip, PROMPTS[0]), weights_then)) <= FLOAT32
    # fp8 and Q8_0 are packed anew with unbiased rounding, at sqrt(2) times their error; to the others it is added.
    anew = {"fp8 old": formats.floating(3), "Q8_0": STORAGES["Q8_0"].error(256)}
    for name, exact in wanted.items():
        changed = name in (*CHANGED, *also)
        plain = name == t5.EMBEDDING and storage == "fp8 old"  # in bfloat16 there
        rounding = formats.floating(7) if plain else 2**0.5 * anew.get(storage, 0.0)
        limit = (1 + WEIGHT_TOLERANCE) * rounding + 1e-5 if changed else 0.0
        assert support.relative(weights_then[name], exact) <= limit, name
        if changed:
            assert support.relative(weights[name], exact) > 0.02  # the LoRA does something
    assert torch.equal(encode(clip, PROMPTS[0]), before)


def test_lora_of_the_embedding_that_is_not_baked_in_is_added_too(node, original, tmp_path):
    write_gguf(tmp_path / "t5.gguf", original, "Q8_0", "Q8_0")
    shared = encoder(load(node, "t5.gguf")).shared
    tokens = torch.tensor([[3, 4, 5]])
    plain = shared(tokens, out_dtype=torch.float32)
    shared.weight_function = [lambda weight: 2 * weight]  # as the host does it where memory is short
    torch.testing.assert_close(shared(tokens, out_dtype=torch.float32), 2 * plain, rtol=0, atol=0)


def test_an_encoder_that_nobody_uses_is_gone_at_once(node, original, tmp_path):
    """Not at the next collection of circles, which the host waits for until a prompt has ended."""
    clip = load(node, write(tmp_path, original, "fp16"))
    gone = weakref.ref(clip.patcher)
    gc.disable()
    try:
        del clip
        assert gone() is None
    finally:
        gc.enable()


def test_host_can_make_another_patcher(node, original, tmp_path):
    clip = load(node, write(tmp_path, original, "Q8_0"))
    factory, arguments = clip.patcher.cached_patcher_init
    other = factory(*arguments, disable_dynamic=True)
    assert other is not clip.patcher and other.model is not clip.patcher.model
    again = clip.clone()
    again.patcher, again.cond_stage_model = other, other.model
    assert torch.equal(encode(again, PROMPTS[0]), encode(clip, PROMPTS[0]))


@pytest.mark.parametrize("storage", ["fp16", "fp8 new", "Q8_0", "Q4_K"])
def test_what_the_host_saves_loads_again(comfy, node, original, tmp_path, storage):
    if storage in formats.GGUF:
        write_gguf(tmp_path / "t5.gguf", original, storage, storage)
    clip = load(node, "t5.gguf" if storage in formats.GGUF else write(tmp_path, original, storage))
    clip.load_model()
    state = clip.state_dict_for_saving()
    # As CLIPSave writes it.
    state = comfy.utils.state_dict_prefix_replace(state, {"t5xxl.": "", "transformer.": ""})
    save_file({n: t.contiguous() for n, t in state.items()}, tmp_path / "saved.safetensors")
    again = load(node, "saved.safetensors")
    assert {n: b for n, (_, b) in parameters(again).items()} == {n: b for n, (_, b) in parameters(clip).items()}
    assert torch.equal(encode(again, PROMPTS[0]), encode(clip, PROMPTS[0]))


def test_dynamic_vram_can_stream_every_packed_weight(comfy, node, original, tmp_path):
    import comfy.memory_management as memory

    write_gguf(tmp_path / "t5.gguf", original, "Q4_K", "Q6_K")
    net = encoder(load(node, "t5.gguf"))
    for weight in (net.shared.weight, net.encoder.block[0].layer[0].SelfAttention.q.weight):
        buffer = torch.zeros(memory.vram_aligned_size([weight]), dtype=torch.uint8)
        (copy,) = memory.interpret_gathered_like([weight], buffer)
        copy.copy_(weight)
        torch.testing.assert_close(dense(copy), dense(weight), rtol=0, atol=0)


# --- the node --------------------------------------------------------------------------------------------------------


def test_node_tells_file_layout_bytes_and_compute(node, original, tmp_path):
    write_gguf(tmp_path / "t5.gguf", original, "Q8_0", "Q8_0")
    load(node, "t5.gguf")
    size = (tmp_path / "t5.gguf").stat().st_size / 1e6
    plain = sum(4 * t.numel() for n, t in original.items() if not t5.is_linear(n) and n != t5.EMBEDDING)
    count = sum(t.numel() for t in original.values())
    kept = plain + 34 / 32 * (count - plain / 4)
    assert node.said == [
        "T5 v1.1 encoder, 9.5 M parameters, 2 layers of width 256\n"
        f"file: Q8_0 (15 tensors), rest float32, {size:,.0f} MB, llama.cpp names\n"
        f"kept as q8_0 (15 layers), rest float32: {kept / 1e6:,.0f} MB, {8 * kept / count:.2f} bits a weight\n"
        "computes in float32, as ComfyUI does for T5, packed weights are unpacked at use\n"
        "tokens: no padding, no mask"
    ]


def test_cpu_is_asked_for_by_name(node, original, tmp_path):
    clip = load(node, write(tmp_path, original, "fp16"), device="cpu")
    assert clip.patcher.load_device == clip.patcher.offload_device == torch.device("cpu")


@pytest.mark.parametrize("inputs", [{"precision": "int3"}, {"device": "tpu"}])
def test_unknown_choice_is_refused(node, original, tmp_path, inputs):
    ((what, asked),) = inputs.items()
    with pytest.raises(ValueError, match=f"{what} is '{asked}'; it must be one of "):
        load(node, write(tmp_path, original, "fp16"), **inputs)


def test_broken_files_are_refused_by_name(node, original, tmp_path):
    name = write(tmp_path, original, "Q8_0")
    raw = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="t5.gguf: damaged or cut short"):
        load(node, name)
    tensors = {n: t for n, t in original.items() if n != "encoder.block.1.layer.1.layer_norm.weight"}
    save_file(tensors, tmp_path / "lost.safetensors")
    with pytest.raises(
        ValueError, match="lost.safetensors: tensor encoder.block.1.layer.1.layer_norm.weight is missing"
    ):
        load(node, "lost.safetensors")
    save_file({"text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(2, 2)}, tmp_path / "clip_l.safetensors")
    with pytest.raises(ValueError, match="clip_l.safetensors: not a T5 text encoder; it looks like CLIP-L"):
        load(node, "clip_l.safetensors")


def test_scale_that_is_no_dummy_is_refused(node, original, tmp_path):
    tensors, _ = entries(original, STORAGES["fp8 old hybrid"])
    tensors["encoder.block.0.layer.0.SelfAttention.q.scale_weight"] = torch.tensor([0.5])
    save_file(tensors, tmp_path / "t5.safetensors")
    with pytest.raises(ValueError, match="q.scale_weight beside it is 0.5, expected 1"):
        load(node, "t5.safetensors")


def test_gguf_files_are_offered_also_from_a_gguf_packs_folder(node, monkeypatch, tmp_path):
    import folder_paths

    (tmp_path / "a.gguf").touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "B.gguf").touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "text_encoders", ([str(tmp_path)], {".safetensors"}))
    assert set(node.encoder_files()) == {"a.gguf", "more/B.gguf"}
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "c.gguf").touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_gguf", ([str(tmp_path / "pack")], {".gguf"}))
    assert node.encoder_path("c.gguf") == str(tmp_path / "pack" / "c.gguf")
    (options,) = [i.options for i in node.ChromaCLIPLoader.define_schema().inputs if i.id == "clip_name"]
    assert options[:2] == ["a.gguf", "c.gguf"]
    with pytest.raises(ValueError, match="not among the text encoders. Put it into ComfyUI/models/text_encoders"):
        node.encoder_path("../secret.gguf")
