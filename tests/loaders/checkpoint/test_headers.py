"""The headers in tests/headers agree with the published figures and with themselves.

Figures: the format study of 2026-11-21, 1.1, 1.2 and the table of file sizes in 3; FLUX, its VAE and T5: the
publishers' parameter counts.
"""

import json
import re
from collections import Counter
from math import prod

import gguf
import headers
import pytest
import support
from header_cases import ACCEPTED, REFUSED, expect_of, flux, header_of, read_header_of
from headers import build

KINDS = headers.kinds()
# In the order of safetensors' writer.
BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E8M0": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}
# What stands beside a quantised weight and holds no parameter of the model.
EXTRAS = (
    ".scale_weight",
    ".scale_input",
    ".weight_scale",
    ".weight_scale_2",
    ".weight_scalar",
    ".input_scale",
    ".comfy_quant",
)
OTHERS = ("vae.", "text_encoders.")


def own_tensors(kind):
    """The model's tensors without prefix; no scales, flags or other components."""
    tensors, _, _ = header_of(kind)
    prefix = expect_of(kind)["prefix"]
    return {
        name.removeprefix(prefix): info
        for name, info in tensors.items()
        if not name.startswith(OTHERS) and not name.endswith((*EXTRAS, "scaled_fp8", "__"))
    }


def num_bytes(dtype, shape):
    if dtype in BYTES:
        return prod(shape) * BYTES[dtype]
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]]
    assert shape[-1] % block == 0, f"rows of {shape[-1]} are no whole blocks of {dtype}"
    return prod(shape) // block * size


def file_bytes(kind):
    return sum(num_bytes(*info) for info in header_of(kind)[0].values())


def logical_shapes(kind):
    """name -> shape of a plain model, norms as `.scale`."""
    return {name: shape for name, (_, shape) in own_tensors(kind).items()}


def plain_kind(kind):
    """The unquantised kind that has the same tensors."""
    expect = expect_of(kind)
    if expect["variant"].startswith("FLUX"):
        return kind
    return {"Chroma": "bfl_bf16", "Radiance": "radiance_bf16", "Chroma lite": "lite_bf16"}[expect["variant"]]


def quantised_layers(kind):
    """layer -> (n, k) of every weight that is not stored as a 16 or 32 bit float."""
    shapes = logical_shapes(plain_kind(kind))
    return {
        name.removesuffix(".weight"): shapes[name]
        for name, (dtype, _) in own_tensors(kind).items()
        if dtype not in ("F32", "F16", "BF16") and len(shapes.get(name, ())) == 2
    }


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("a.weight", ["a.weight"]),
        ("b.{0..2}.x", ["b.0.x", "b.1.x", "b.2.x"]),
        ("{img,txt}.{9..10}", ["img.9", "img.10", "txt.9", "txt.10"]),
        ("ff{,_context}.net", ["ff.net", "ff_context.net"]),
        ("x.{3..3}", ["x.3"]),
    ],
)
def test_pattern_expands_in_order(pattern, names):
    assert headers.expand(pattern) == names


def test_build_reproduces_every_file():
    written = {kind.name: build.text(kind).encode() for kind in build.all_kinds()}
    assert len(written) == len(build.all_kinds())  # no name is used twice
    assert written == {kind: (headers.FOLDER / f"{kind}.json").read_bytes() for kind in KINDS}


def test_folder_stays_small():
    assert sum(path.stat().st_size for path in headers.FOLDER.glob("*.json")) < 500_000


@pytest.mark.parametrize("kind", KINDS)
def test_header_is_well_formed(kind):
    header = headers.load(kind)
    tensors, metadata, markers = header_of(kind)
    types = gguf.GGMLQuantizationType.__members__ if header["file"].endswith(".gguf") else BYTES
    assert header["kind"] == kind and header["source"] and header["file"]
    assert tensors and not any(re.search(r"[{}\s]", name) for name in tensors)
    for dtype, shape in tensors.values():
        assert dtype in types
        assert all(type(n) is int and n >= 0 for n in shape)
    if not header["file"].endswith(".gguf"):
        assert all(isinstance(value, str) for value in metadata.values())
    assert markers.keys() == {name for name in tensors if name.endswith(".comfy_quant")}


@pytest.mark.parametrize(
    "kind, num_tensors, num_parameters",
    [
        ("bfl_bf16", 643, 8_899_983_424),
        ("trainer_pth_fp32", 643, 8_899_983_424),
        ("comfyui_modelsave", 643, 8_899_983_424),
        ("diffusers_bf16", 1023, 8_899_983_424),
        ("gguf_q4_k_m", 643, 8_899_983_424),
        ("radiance_bf16", 658, 9_506_132_227),
        ("radiance_gguf_q8_0", 658, 9_506_132_227),
        ("flux_dev_bf16", 780, 11_901_408_320),
        ("flux_schnell_fp8", 776, 11_891_178_560),
        ("t5xxl", 219, 4_762_310_656),
        ("vae", 244, 83_819_683),
    ],
)
def test_model_has_the_published_tensors_and_parameters(kind, num_tensors, num_parameters):
    tensors, _, _ = header_of(kind)
    assert len(tensors) == num_tensors
    assert sum(prod(shape) for _, shape in tensors.values()) == num_parameters


@pytest.mark.parametrize("kind", ACCEPTED)
def test_parameters_are_those_expected_whatever_their_storage(kind):
    packed = {"comfy_nvfp4": "U8", "comfy_convrot_w4a4": "I8"}.get(kind)  # two weights in a byte
    found = sum(prod(shape) * (2 if dtype == packed else 1) for dtype, shape in own_tensors(kind).values())
    assert found == expect_of(kind)["num_parameters"]


@pytest.mark.parametrize(
    "kind, gigabytes",
    [
        ("bfl_bf16", 17.80),
        ("diffusers_bf16", 17.80),
        ("radiance_bf16", 19.01),
        ("gguf_q8_0", 9.47),
        ("radiance_gguf_q8_0", 10.12),
        ("gguf_q6_k", 7.32),
        ("gguf_q5_1", 6.70),
        ("gguf_q5_k_m", 6.29),
        ("gguf_q5_k_s", 6.14),
        ("gguf_q4_1", 5.59),
        ("gguf_q4_k_m", 5.17),
        ("gguf_q4_k_s", 5.03),
        ("gguf_q4_0", 5.03),
        ("gguf_q3_k_s", 3.85),
        ("gguf_q2_k", 2.95),
        ("raw_float8_e4m3fn", 8.90),
        ("raw_float8_e5m2", 8.90),
        ("old_fp8_hybrid_small", 9.18),
        ("old_fp8_hybrid_large", 9.19),
        ("radiance_fp8_hybrid_small", 10.39),
        ("radiance_fp8_hybrid_large", 10.76),
        ("comfy_int8_row", 9.19),
        ("comfy_int8_convrot", 9.19),
        ("comfy_mxfp8", 9.46),
        ("comfy_nvfp4", 5.43),
    ],
)
def test_file_has_the_size_of_the_table(kind, gigabytes):
    assert file_bytes(kind) / 1e9 == pytest.approx(gigabytes, abs=0.012)  # two decimals; no int8 row scales, 8 MB


@pytest.mark.parametrize(
    "kind, published",
    [
        ("bfl_bf16", 17_800_038_288),
        ("comfy_fp8mixed", 9_193_379_316),
        ("old_fp8_hybrid_large_rev2", 9_193_371_409),
        ("t5xxl_fp8_float64", 5_684_140_184),
    ],
)
def test_file_has_the_published_bytes(kind, published):
    """Compact JSON, tensors by their type and name: what safetensors' writer makes."""
    types = list(BYTES)
    tensors, metadata, _ = header_of(kind)
    text, end = {"__metadata__": metadata} if metadata else {}, 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (types.index(item[1][0]), item[0])):
        begin, end = end, end + num_bytes(dtype, shape)
        text[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    header = len(json.dumps(text, separators=(",", ":")))
    assert 8 + -(-header // 8) * 8 + end == published


# Format -> dtype of the weight, ending of a scale -> its shape for a weight of n x k.
SCALES = {
    "float8_e4m3fn": ("F8_E4M3", {"scale_weight": lambda n, k: (1,), "weight_scale": lambda n, k: ()}),
    "float8_e5m2": ("F8_E5M2", {"scale_weight": lambda n, k: (1,)}),
    "float8_e4m3fn_rowwise": ("F8_E4M3", {"weight_scale": lambda n, k: (n,)}),
    "float8_e4m3fn_blockwise": ("F8_E4M3", {"weight_scale": lambda n, k: (n / 64, k / 64)}),
    "int8_blockwise": ("I8", {"weight_scale": lambda n, k: (n / 128, k / 128)}),
    "mxfp8": ("F8_E4M3", {"weight_scale": lambda n, k: (n, k / 32)}),  # n and k here fill whole tiles
    "nvfp4": ("U8", {"weight_scale": lambda n, k: (n, k / 16), "weight_scale_2": lambda n, k: ()}),
    "convrot_w4a4": ("I8", {"weight_scale": lambda n, k: (n,)}),
}
INT8 = {
    "comfy_int8_tensor": lambda n, k: (),
    "comfy_int8_unmarked": lambda n, k: (),
    "comfy_int8_row": lambda n, k: (n, 1),
    "comfy_int8_convrot": lambda n, k: (n, 1),
    "comfy_int8_quarot": lambda n, k: (n, 1),
    "comfy_int8_convrot_nested": lambda n, k: (n, 1),
}
OWN_SCALES = {
    "comfy_fp8mixed": {"weight_scale": lambda n, k: (1,)},
    "old_fp8_float64": {"scale_weight": lambda n, k: ()},
}
WRITTEN = {"comfy_int8_quarot": None, "comfy_mxfp8_hybrid": "hybrid_mxfp8"}  # kind -> the format in its markers
SCALED = [k for k in ACCEPTED if k.startswith(("raw_", "old_", "comfy_", "radiance_fp8"))]


@pytest.mark.parametrize("kind", SCALED)
def test_every_quantised_layer_has_its_scales_with_the_right_shape(kind):
    tensors, _, _ = header_of(kind)
    expect = expect_of(kind)
    layers = quantised_layers(kind)
    ((form, count),) = expect["storage"].items()
    weight_dtype, scales = ("I8", {"weight_scale": INT8[kind]}) if kind in INT8 else SCALES[form]
    if expect.get("unscaled"):
        scales = {}
    scales = OWN_SCALES.get(kind, scales)
    assert len(layers) == count
    for layer, (n, k) in layers.items():
        stem = expect["prefix"] + layer
        dtype, shape = tensors[f"{stem}.weight"]
        assert dtype == weight_dtype
        assert shape == ((n, k // 2) if form in ("nvfp4", "convrot_w4a4") else (n, k))
        found = [end for end in scales if f"{stem}.{end}" in tensors]
        assert len(found) == (1 if len(scales) > 1 and form != "nvfp4" else len(scales))  # fp8: either name
        for end in found:
            assert tensors[f"{stem}.{end}"][1] == scales[end](n, k)
    scaled = {
        name.rsplit(".", 1)[0].removeprefix(expect["prefix"]) for name in tensors if name.endswith("weight_scale")
    }
    assert scaled in (
        set(),
        set(layers),
    )  # no scale without a quantised weight, but for the old hybrids' `scale_weight`


@pytest.mark.parametrize(
    "kind, ending, shape",
    [
        ("old_fp8_input", "scale_input", (1,)),
        ("old_fp8_hybrid_large_rev2", "scale_input", (1,)),
        ("comfy_fp8_input_scale", "input_scale", ()),
    ],
)
def test_every_quantised_layer_has_its_input_scale(kind, ending, shape):
    tensors, _, _ = header_of(kind)
    found = {name.rsplit(".", 1)[0]: info for name, info in tensors.items() if name.endswith("." + ending)}
    assert found == dict.fromkeys(quantised_layers(kind), ("F32", shape))


@pytest.mark.parametrize(
    "kind, marker",
    [
        ("old_fp8", ("F8_E4M3", (2,))),
        ("old_fp8_input", ("F8_E4M3", (0,))),
        ("old_fp8_e5m2", ("F8_E5M2", (2,))),
        ("old_fp8_unmarked", None),
        ("old_fp8_float64", ("F8_E4M3", (2,))),
        ("old_fp8_hybrid_large_rev2", ("F8_E4M3", (1,))),
        ("t5xxl_fp8_float64", ("F8_E4M3", (0,))),
    ],
)
def test_old_marker_has_the_elements_of_its_writer(kind, marker):
    assert header_of(kind)[0].get("scaled_fp8") == marker


@pytest.mark.parametrize("kind, num_dummies", [("old_fp8_hybrid_large", 15), ("old_fp8_hybrid_small", 12)])
def test_old_hybrid_has_scales_beside_16_bit_weights(kind, num_dummies):
    tensors, _, _ = header_of(kind)
    layers = [name.removesuffix(".scale_weight") for name in tensors if name.endswith(".scale_weight")]
    assert sum(tensors[f"{layer}.weight"][0] == "BF16" for layer in layers) == num_dummies
    assert tensors["scaled_fp8"] == ("F8_E4M3", (2,))


@pytest.mark.parametrize("kind", [k for k in ACCEPTED if k not in SCALED or k.startswith("raw_")])
def test_storage_counts_the_weights_of_each_type(kind):
    names = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    packed = [(d, len(s)) for d, s in own_tensors(kind).values() if d not in ("F32", "F16", "BF16")]
    expect = expect_of(kind)
    assert Counter(names.get(dtype, dtype) for dtype, ndim in packed if ndim == 2) == expect["storage"]
    assert Counter(names[dtype] for dtype, ndim in packed if ndim == 1) == expect.get("storage_vectors", {})


@pytest.mark.parametrize("kind", [k for k in KINDS if "_gguf" in k or k.startswith("gguf")])
def test_quantised_gguf_rows_are_whole_blocks(kind):
    tensors, _, _ = header_of(kind)
    assert all(num_bytes(*info) > 0 for info in tensors.values())  # num_bytes asserts the blocks
    assert all(len(shape) == 2 for dtype, shape in tensors.values() if dtype not in ("F32", "F16", "BF16"))


@pytest.mark.parametrize("kind", [k for k in KINDS if header_of(k)[2]])
def test_marker_is_as_long_as_its_text_and_names_the_format(kind):
    tensors, _, markers = header_of(kind)
    (form,) = expect_of(kind)["storage"]
    assert len(markers) == expect_of(kind)["storage"][form]
    for name, text in markers.items():
        assert tensors[name] == ("U8", (len(text.encode()),))
        assert json.loads(text).get("format") == WRITTEN.get(kind, form)


@pytest.mark.parametrize("kind", ["comfy_fp8_metadata", "comfy_fp8_metadata_prefixed"])
def test_metadata_names_every_quantised_layer(kind):
    tensors, metadata, _ = header_of(kind)
    layers = json.loads(metadata["_quantization_metadata"])["layers"]
    assert {f"{layer}.weight_scale" for layer in layers} == {n for n in tensors if n.endswith(".weight_scale")}
    assert all(conf == {"format": "float8_e4m3fn"} for conf in layers.values())


@pytest.mark.parametrize("kind", ACCEPTED)
def test_every_tensor_is_under_the_prefix(kind):
    prefix = expect_of(kind)["prefix"]
    assert all(name.startswith((prefix, *OTHERS)) for name in header_of(kind)[0])


@pytest.mark.parametrize("kind", ACCEPTED)
def test_plain_is_the_dtype_of_most_floats(kind):
    floats = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    sizes = {}
    for dtype, shape in own_tensors(kind).values():
        if dtype in floats:
            sizes[floats[dtype]] = sizes.get(floats[dtype], 0) + prod(shape)
    assert expect_of(kind)["plain"] == max(sizes, key=sizes.get, default=None)


def test_shards_hold_every_tensor_once_within_10_gigabytes():
    header = headers.load("diffusers_bf16_sharded")
    tensors, _, _ = header_of("diffusers_bf16_sharded")
    names = [name for shard in header["shards"].values() for name in shard]
    assert sorted(names) == sorted(tensors)
    sizes = [sum(num_bytes(*tensors[name]) for name in shard) for shard in header["shards"].values()]
    assert sizes == [9_946_122_752, 7_853_844_096]  # huggingface_hub's own split of the class's state dict


def test_diffusers_names_are_those_of_the_class():
    diffusers = pytest.importorskip("diffusers")
    import torch

    with torch.device("meta"):
        state = diffusers.ChromaTransformer2DModel().state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == logical_shapes("diffusers_bf16")


@pytest.mark.parametrize(
    "kind, flags, kernel",
    [
        ("latent_x0", {"__x0__"}, None),
        ("radiance_bf16", set(), 16),
        ("radiance_x0", {"__x0__"}, 16),
        ("radiance_x0_32", {"__x0__", "__32x32__"}, 32),
        ("radiance_x0_32_resampled", {"__x0__", "__32x32__"}, 16),
        ("radiance_sequential", {"__x0__", "__sequential__"}, 16),
    ],
)
def test_flags_are_empty_tensors(kind, flags, kernel):
    tensors, _, _ = header_of(kind)
    assert {name for name, (_, shape) in tensors.items() if shape == (0,)} == flags
    expect = expect_of(kind)
    assert expect["prediction"] == ("x0" if "__x0__" in flags else "v")
    if kernel:
        assert tensors["img_in_patch.weight"][1] == (3072, 3, kernel, kernel)
        assert (expect["kernel"], expect["patch_size"]) == (kernel, 32 if "__32x32__" in flags else 16)


@pytest.mark.parametrize("kind, modulations", [("bfl_bf16", 344), ("lite_bf16", 212)])
def test_block_counts_give_the_modulations(kind, modulations):
    expect = expect_of(kind)
    names = own_tensors(kind)
    for part in ("double", "single"):
        blocks = {int(name.split(".")[1]) for name in names if name.startswith(f"{part}_blocks.")}
        assert blocks == set(range(expect[f"num_{part}_blocks"]))
    assert 3 * expect["num_single_blocks"] + 12 * expect["num_double_blocks"] + 2 == modulations


def test_refused_kinds_are_these():
    told = {kind: expect_of(kind)["error"] for kind in REFUSED}
    assert told == {
        "bnb_nf4": "nf4",
        "fluxmod_modulator": "Approximator",
        "gguf_iq2_s": "IQ2_S",
        "lora_kohya": "LoRA",
        "lora_peft": "LoRA",
        "sdxl": "SDXL",
        "t5xxl": "T5",
        "t5xxl_fp8_float64": "T5",
        "vae": "VAE",
    }


# --- detection, on every kind ----------------------------------------------------------------------------------------

keys = support.dev.load_pack("loaders.checkpoint.keys")
detect = support.dev.load_pack("loaders.checkpoint.detect_variant")
convert = support.dev.load_pack("loaders.checkpoint.check_shapes")
layout = support.dev.load_pack("loaders.checkpoint.naming")


@pytest.mark.parametrize("kind", ACCEPTED)
def test_kind_is_recognised_and_complete(kind):
    expect, file = expect_of(kind), read_header_of(kind)
    if flux(kind):
        file = layout.with_approximator(file, read_header_of("fluxmod_modulator"))
    found = detect.detect(file)
    convert.check(file, found)  # every tensor of the model is there and has its shape
    config = found.config
    assert found.variant == expect["variant"]
    assert found.layout == expect["layout"]
    assert found.prefix == expect["prefix"]
    assert config.prediction == expect["prediction"]
    assert (config.num_double_blocks, config.num_single_blocks) == (
        expect["num_double_blocks"],
        expect["num_single_blocks"],
    )
    assert str(found.dtype) == "torch." + (expect["plain"] or "bfloat16")
    if not flux(kind):  # there some of the file's tensors are not used
        assert found.num_parameters == expect["num_parameters"]
        vectors = Counter(expect.get("storage_vectors", {}))
        assert Counter(found.formats) == Counter(expect["storage"]) + vectors
        a = config.approximator
        assert [a.in_dim, a.hidden_dim, a.num_layers] == expect["approximator"]
    if expect["variant"] == "Radiance":
        nerf = config.nerf
        assert (nerf.final, nerf.kernel_size, config.patch_size) == (
            expect["head"],
            expect["kernel"],
            expect["patch_size"],
        )
        assert config.text_ids == expect["txt_ids"]


@pytest.mark.parametrize("kind", REFUSED)
def test_kind_that_is_not_supported_is_refused_by_name(kind):
    file = read_header_of(kind)
    with pytest.raises(ValueError) as told:
        detect.detect(file)
    assert str(told.value).startswith(file.name + ": ")
    assert expect_of(kind)["error"] in str(told.value)


@pytest.mark.parametrize("kind", [kind for kind in ACCEPTED if flux(kind)])
def test_flux_without_an_approximator_is_told_where_to_choose_one(kind):
    with pytest.raises(
        ValueError,
        match="it looks like FLUX.* choose a file that holds an Approximator .* as approximator in the loader",
    ):
        detect.detect(read_header_of(kind))


@pytest.mark.parametrize("prediction, text_ids", [("x0", "auto"), ("auto", "sequential"), ("v", "zeros")])
def test_overrides_win_over_markers(prediction, text_ids):
    for kind in ("bfl_bf16", "radiance_sequential"):
        marked = detect.detect(read_header_of(kind)).config
        found = detect.detect(read_header_of(kind), prediction, text_ids).config
        assert found.prediction == (marked.prediction if prediction == "auto" else prediction)
        assert found.text_ids == (marked.text_ids if text_ids == "auto" else text_ids)


def test_unknown_override_lists_the_known_ones():
    with pytest.raises(ValueError, match="prediction 'eps' is not known .known: auto, v, x0"):
        detect.detect(read_header_of("bfl_bf16"), prediction="eps")


@pytest.mark.parametrize("kind", ["gguf_q8_0", "comfy_int8_convrot", "old_fp8", "diffusers_bf16_sharded"])
def test_names_convert_in_both_directions(kind):
    found = detect.detect(read_header_of(kind))
    for name, parts in found.tensors.items():
        if found.layout == "diffusers":
            theirs = keys.diffusers_names(name)
            assert [p.file_name for p in parts] == [found.prefix + n for n in theirs]
            published = {keys.published_name(n) for n in theirs}
            assert {keys.model_name(n) for n, _ in published} == {name}
            assert sorted(p or 0 for _, p in published) == list(range(len(theirs)))
        else:
            assert keys.model_name(parts[0].file_name.removeprefix(found.prefix)) == name
