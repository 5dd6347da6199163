"""Every format written and read again, by us and by the library that defines it, through the command line."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple

import gguf
import pytest
import support
import torch
from safetensors import safe_open

from tools import quantize

export, items, metadata = (
    support.dev.load_pack(f"loaders.checkpoint.{n}") for n in ("write_quantised", "tensors_to_write", "metadata")
)
registry = support.dev.load_pack("loaders.formats.base.registry")
hadamard = support.dev.load_pack("loaders.formats.base.hadamard")
detect = support.dev.load_pack("loaders.checkpoint.detect_variant")
info = support.dev.load_pack("loaders.tensor_info")
gguf_types = support.dev.load_pack("loaders.formats.ggml")
read = support.dev.load_pack("loaders.files.read")
LINEAR = "single_blocks.0.linear1.weight"
SAFETENSORS = [name for name, f in export.EXPORTS.items() if f.container == "safetensors"]
GGUF = [name for name, f in export.EXPORTS.items() if f.container == "gguf"]
# At the model's own width of 12288, % of Gaussian weights: the format study, 5.1.
ERRORS = {"int8_convrot": 0.927, "fp8_scaled": 2.646, "bf16": 0.166, "fp16": 0.021, "gguf_bf16": 0.166}
ERRORS |= {"gguf_f16": 0.021, "q8_0": 0.535, "q5_1": 3.79, "q5_0": 4.27, "q4_1": 7.83, "q4_0": 8.59}


def gaussian(rows, columns, seed=0):
    return 0.02 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Weights in float32, and a file of them."""
    cfg = support.config()
    weights = support.random_weights(cfg)
    folder = tmp_path_factory.mktemp("model")
    return cfg, weights, support.write(folder / "m.safetensors", support.published(weights), title="of the test")


def run(source, folder, name, *options, target=None):
    """The file that the command line writes."""
    path = folder / (target or "out" + export.EXPORTS[name].suffix)
    assert quantize.main([str(source), str(path), "--format", name, *options]) == 0
    assert os.listdir(folder) == [path.name] or target
    return path


def errors(path, weights):
    """Name -> relative error of every tensor of a file, which must be those of the model."""
    found = export.FileWeights(path)
    assert found.detection.tensors.keys() == weights.keys()
    return {name: support.relative(found.dense(name), weights[name]) for name in weights}


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", export.EXPORTS)
def test_weight_error_is_that_of_the_format(name):
    format = export.EXPORTS[name]
    assert format.error * 100 == pytest.approx(ERRORS[name])
    weight = gaussian(64, 12288)
    item = items.Item("w", (64, 12288), format.type, True, format.format.marker((64, 12288), True))
    _, (error, norm) = items.coded("w", weight, item)
    assert math.sqrt(error / norm) == pytest.approx(format.error, rel=0.1)  # fp16: most of the spread is std-dependent


@pytest.mark.parametrize("name", export.EXPORTS)
def test_file_holds_every_tensor_with_the_error_of_its_type(case, tmp_path, name):
    found = errors(run(case[2], tmp_path, name), case[1])
    format = export.EXPORTS[name]
    for tensor, error in found.items():
        linear = case[1][tensor].ndim == 2 and tensor.startswith(("double_blocks.", "single_blocks."))
        if not linear:
            assert error < 3e-3, tensor  # bfloat16: half a step of 2^-8
        elif name == "int8_convrot":  # its step follows from the row's peak, which is lower in narrow rows
            assert 0.5 * format.error < error < 1.1 * format.error, tensor
        else:
            assert error == pytest.approx(format.error, rel=0.1), tensor


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_is_read_by_its_own_library(case, tmp_path, name):
    path = run(case[2], tmp_path, name)
    expected = {"fp8_scaled": torch.float8_e4m3fn, "int8_convrot": torch.int8, "fp16": torch.float16}
    with safe_open(path, framework="pt") as f:
        names = set(f.keys())
        plain = {n for n in names if not n.endswith((".weight_scale", ".comfy_quant"))}
        assert plain == support.published(case[1]).keys()
        weight = f.get_tensor(LINEAR)
        assert weight.dtype == expected.get(name, torch.bfloat16) and weight.shape == case[1][LINEAR].shape
        if name in ("bf16", "fp16"):
            assert torch.equal(weight, case[1][LINEAR].to(weight.dtype)) and names == plain
            return
        marker = json.loads(f.get_tensor("single_blocks.0.linear1.comfy_quant").numpy().tobytes())
        scale = f.get_tensor("single_blocks.0.linear1.weight_scale")
    assert scale.dtype == torch.float32
    if name == "fp8_scaled":
        assert marker == {"format": "float8_e4m3fn", "full_precision_matrix_mult": True} and scale.shape == ()
        assert support.relative(weight.float() * scale, case[1][LINEAR]) < 0.03
        assert torch.equal(scale.bfloat16().float(), scale)  # the host rounds it to what it computes in
        assert weight.float().abs().max() == 448  # none is cut, all of the range is used
    else:
        assert marker == {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64}
        assert scale.shape == (len(weight), 1)


@pytest.mark.parametrize("name", SAFETENSORS)
def test_every_tensor_lies_at_a_multiple_of_its_element(case, tmp_path, name):
    path = run(case[2], tmp_path, name)
    header = path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    assert length % 8 == 0
    for tensor, entry in json.loads(header[8 : 8 + length]).items():
        if tensor != "__metadata__":
            assert entry["data_offsets"][0] % info.DTYPES[entry["dtype"]].itemsize == 0


@pytest.mark.parametrize("name", GGUF)
def test_gguf_is_read_by_its_own_library(case, tmp_path, name):
    reader = gguf.GGUFReader(run(case[2], tmp_path, name))
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.architecture"] == "flux" and fields["general.name"] == "out"
    assert fields["general.quantization_version"] == 2 and fields["title"] == "of the test"
    assert fields["general.file_type"] == int(export.EXPORTS[name].file_type)
    assert (fields["chroma.prediction"], fields["chroma.text_ids"]) == ("v", "zeros")
    tensors = {t.name: t for t in reader.tensors}
    weights = support.published(case[1])
    assert tensors.keys() == weights.keys()
    for n, weight in weights.items():
        t = tensors[n]
        assert tuple(map(int, t.shape[::-1])) == tuple(weight.shape)
        linear = weight.ndim == 2 and n.startswith(("double_blocks.", "single_blocks."))
        wanted = export.EXPORTS[name].type if linear or name == "gguf_f16" else "BF16"
        assert t.tensor_type.name == (wanted if weight.ndim == 2 else "F32"), n
    t = tensors[LINEAR]
    values = torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy())
    assert support.relative(values, weights[LINEAR]) == pytest.approx(export.EXPORTS[name].error, rel=0.1)
    if t.tensor_type.name in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"):
        assert (gguf.quants.quantize(weights[LINEAR].numpy(), t.tensor_type) == t.data).all()


def test_fp8_without_full_precision_lacks_the_mark(case, tmp_path):
    header = read.read_header(run(case[2], tmp_path, "fp8_scaled", "--fast-matmul"))
    assert header.markers["single_blocks.0.linear1.comfy_quant"] == {"format": "float8_e4m3fn"}
    assert header.metadata["chroma.full_precision_matrix_mult"] == "false"


@pytest.mark.parametrize("name", ["fp8_scaled", "q8_0", "q4_1"])
def test_writing_a_written_file_again_changes_nothing(case, tmp_path, name):
    first = run(case[2], tmp_path, name, target="a" + export.EXPORTS[name].suffix)
    second = run(first, tmp_path, name, target="b" + export.EXPORTS[name].suffix)
    one, two = export.FileWeights(first), export.FileWeights(second)
    assert all(support.relative(two.dense(n), one.dense(n)) < 1e-3 for n in case[1])  # q4_1's min is rounded to fp16
    assert name == "q4_1" or all(torch.equal(two.dense(n), one.dense(n)) for n in case[1])


RADIANCE = {"width": 128, "double": 1, "single": 1}
MODELS = {
    "lite": dict(approximator=(32, 48, 2)),
    "x0": dict(prediction="x0"),
    "radiance": dict(RADIANCE, **support.RADIANCE),
    "radiance, all markers": dict(
        RADIANCE,
        **{**support.RADIANCE, "patch_size": 32, "nerf": support.nerf(kernel_size=16)},
        prediction="x0",
        text_ids="sequential",
    ),
    "radiance, linear head": dict(RADIANCE, **{**support.RADIANCE, "nerf": support.nerf(final="linear")}),
}


@pytest.mark.parametrize("name", ["int8_convrot", "fp8_scaled", "q4_0"])
@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_model_keeps_its_sizes_and_markers(tmp_path, model, name):
    cfg = support.config(**MODELS[model])
    weights = support.random_weights(cfg)
    markers = {n: torch.empty(0) for n in cfg.markers}
    weights = {n: w for n, w in weights.items() if n not in markers}
    source = support.write(tmp_path / "m.safetensors", support.published(weights) | markers)
    path = run(source, tmp_path, name, target="out" + export.EXPORTS[name].suffix)
    found = export.FileWeights(path)
    assert found.detection.config == cfg
    assert found.detection.variant == {"l": "Chroma lite", "x": "Chroma", "r": "Radiance"}[model[0]]
    if cfg.nerf is not None:
        embedder = "nerf_image_embedder.embedder.0.weight"
        assert torch.equal(found.dense(embedder), weights[embedder])  # float32, as trained
        kernel = read.read_header(path).tensors["img_in_patch.weight"]
        assert kernel.dtype == (torch.float32 if name == "q4_0" else torch.bfloat16)
    if name == "q4_0":  # what detect_variant.py reads where a converter drops empty tensors
        header = read.read_header(path)
        assert header.metadata["chroma.prediction"] == cfg.prediction
        assert header.metadata["chroma.text_ids"] == cfg.text_ids
        assert set(cfg.markers) < {t.name for t in gguf.GGUFReader(path).tensors}


def test_prediction_of_the_users_choice_is_written(case, tmp_path):
    path = run(case[2], tmp_path, "q8_0", "--prediction", "x0", "--text-ids", "sequential")
    config = export.FileWeights(path).detection.config
    assert (config.prediction, config.text_ids) == ("x0", "sequential")
    again = run(path, tmp_path, "bf16", "--prediction", "v", target="again.safetensors")
    assert export.FileWeights(again).detection.config.prediction == "v"


def test_width_that_makes_no_blocks_stays_in_16_bits_and_is_told(tmp_path, capsys):
    cfg = support.config(width=144, heads=4)
    weights = support.random_weights(cfg)
    path = run(support.write(tmp_path / "m.safetensors", support.published(weights)), tmp_path, "q8_0", target="a.gguf")
    assert "layers of input width 144 are in 16 bits too" in capsys.readouterr().out
    found = errors(path, weights)
    assert found[LINEAR] < 3e-3  # bfloat16
    assert found["double_blocks.0.img_mlp.2.weight"] == pytest.approx(0.00535, rel=0.1)  # of 4 * 144 inputs


def test_fp16_source_keeps_fp16_beside_the_quantised_layers(case, tmp_path):
    source = support.write(tmp_path / "m.safetensors", support.published(case[1], dtype=torch.float16))
    path = run(source, tmp_path, "fp8_scaled", target="a.safetensors")
    kept = export.FileWeights(path).dense("img_in.weight")
    assert torch.equal(kept, case[1]["img_in.weight"].half())


# --- unpacking, against comfy-kitchen --------------------------------------------------------------------------------

KITCHEN = {
    "float8_e4m3fn": ("TensorCoreFP8Layout", {}, {}),
    "int8_tensorwise": ("TensorWiseINT8Layout", {"per_channel": True}, {}),
    "int8 rotated": (
        "TensorWiseINT8Layout",
        {"per_channel": True, "convrot": True, "convrot_groupsize": 64},
        {"convrot": True, "convrot_groupsize": 64},
    ),
    "convrot_w4a4": ("TensorCoreConvRotW4A4Layout", {"convrot_groupsize": 64}, {"convrot_groupsize": 64}),
    "mxfp8": ("TensorCoreMXFP8Layout", {}, {}),
    "nvfp4": ("TensorCoreNVFP4Layout", {"scale": "recalculate"}, {}),
}


@pytest.mark.parametrize("format", KITCHEN)
@pytest.mark.parametrize("shape", [(256, 384), (96, 128)])
def test_unpacked_weights_are_those_of_comfy_kitchen(format, shape):
    tensor = pytest.importorskip("comfy_kitchen.tensor")
    layout, options, settings = KITCHEN[format]
    packed = tensor.QuantizedTensor.from_float(gaussian(*shape), layout, **options)
    stored = packed.state_dict("w.weight")
    part = info.Part(
        "w.weight",
        info.Storage("int8_tensorwise" if format == "int8 rotated" else format, shape, settings),
        {n.removeprefix("w."): n for n in stored if n != "w.weight"},
    )
    torch.testing.assert_close(registry.dense(part, stored), packed.dequantize(), rtol=1e-5, atol=1e-6)  # fp32 products


@pytest.mark.parametrize("group", [4, 16, 64, 256])
def test_rotating_twice_gives_the_weight_back(group):
    weight = gaussian(4, 512)
    rotated = hadamard.rotate(weight, group)
    assert support.relative(rotated, weight) > 0.5  # it does rotate
    assert rotated.norm().item() == pytest.approx(weight.norm().item(), rel=1e-5)
    torch.testing.assert_close(hadamard.rotate(rotated, group), weight, rtol=1e-5, atol=1e-7)  # fp32, sums of 256


def test_int8_codes_are_those_of_comfy_kitchen():
    tensor = pytest.importorskip("comfy_kitchen.tensor")
    weight = gaussian(64, 3072)
    theirs = tensor.QuantizedTensor.from_float(weight, "TensorWiseINT8Layout", per_channel=True, convrot=True)
    ours, _ = items.coded("w", weight, items.Item("w", (64, 3072), "I8", True, None))
    different = (ours["weight"].int() - theirs._qdata.int()).abs()
    assert different.max() <= 1 and (different > 0).float().mean() < 1e-4  # halves, rounded after sums in another order
    torch.testing.assert_close(ours["weight_scale"], theirs._params.scale, rtol=1e-6, atol=0)


def test_saved_lora_and_input_scales_are_part_of_the_unpacked_weight():
    weight, up, down = gaussian(64, 128), gaussian(64, 4, 1), gaussian(4, 128, 2)
    packed = gguf_types.quantise(weight, "Q5_1")
    tensors = {"w.weight": packed, "w.weight_up": up, "w.weight_down": down}
    scales = {"weight_up": "w.weight_up", "weight_down": "w.weight_down"}
    found = registry.dense(info.Part("w.weight", info.Storage("Q5_1", (64, 128)), scales), tensors)
    expected = gguf_types.dequantise(packed, "Q5_1", torch.float32) + up @ down
    torch.testing.assert_close(found, expected)
    tensor = pytest.importorskip("comfy_kitchen.tensor")
    stored = tensor.QuantizedTensor.from_float(weight, "TensorCoreNVFP4Layout", scale="recalculate")
    inputs = torch.rand(128) + 0.5
    tensors = stored.state_dict("w.weight") | {"w.pre_quant_scale": inputs}
    scales = {n.removeprefix("w."): n for n in tensors if n != "w.weight"}
    found = registry.dense(info.Part("w.weight", info.Storage("nvfp4", (64, 128)), scales), tensors)
    torch.testing.assert_close(found, stored.dequantize() * inputs, rtol=1e-5, atol=1e-6)


# --- sources of other kinds ------------------------------------------------------------------------------------------


def test_from_gguf_to_fp8(case, tmp_path):
    first = run(case[2], tmp_path, "q8_0", target="a.gguf")
    second = run(first, tmp_path, "fp8_scaled", target="b.safetensors")
    expected = math.hypot(0.00535, 0.02646)  # the two roundings are independent
    assert errors(second, case[1])[LINEAR] == pytest.approx(expected, rel=0.1)
    metadata = read.read_header(second).metadata
    assert metadata["title"] == "of the test" and metadata["chroma.source"] == "a.gguf"
    assert not any(key.startswith("general.arch") for key in metadata)


def sharded(folder, tensors):
    names = sorted(tensors)
    files = [names[: len(names) // 2], names[len(names) // 2 :]]
    weight_map = {}
    for i, part in enumerate(files):
        file = f"diffusion_pytorch_model-{i + 1:05}-of-00002.safetensors"
        support.write(folder / file, {n: tensors[n].contiguous() for n in part})
        weight_map.update(dict.fromkeys(part, file))
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_from_diffusers_in_shards_to_gguf(case, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    index = sharded(tmp_path / "in", support.to_diffusers(case[1], case[0]))
    from_shards = run(index, tmp_path / "out", "q5_0", target="a.gguf")
    direct = run(case[2], tmp_path / "out", "q5_0", target="b.gguf")
    one, two = export.FileWeights(from_shards), export.FileWeights(direct)
    assert all(torch.equal(one.dense(n), two.dense(n)) for n in case[1])


# --- metadata --------------------------------------------------------------------------------------------------------


def test_metadata_of_the_source_is_kept_and_the_settings_recorded(case, tmp_path):
    source = support.write(
        tmp_path / "m.safetensors",
        support.published(case[1]),
        **{"title": "T", "chroma.prediction": "x0", "chroma.format": "old", "modelspec.hash_sha256": "0x0"},
    )
    found = read.read_header(run(source, tmp_path, "fp8_scaled", target="a.safetensors")).metadata
    assert found == {
        "title": "T",
        "chroma.writer": f"chroma-pack {metadata.version()}",
        "chroma.source": "m.safetensors",
        "chroma.format": "fp8_scaled",
        "chroma.variant": "Chroma",
        "chroma.kept": "img_in., txt_in., final_layer., distilled_guidance_layer.",
        "chroma.prediction": "x0",
        "chroma.text_ids": "zeros",
        "chroma.full_precision_matrix_mult": "true",
    }
    assert metadata.version()[0].isdigit()


@pytest.mark.parametrize("key", ["a\nb", "k" * 300], ids=["two lines", "long"])
def test_metadata_that_no_gguf_holds_is_left_out(case, tmp_path, key):
    """Else the file would be written, and refused by every reader."""
    tensors = support.published(case[1])
    source = support.write(tmp_path / "m.safetensors", tensors, **{key: "x", "title": "T"})
    found = read.read_header(run(source, tmp_path, "q8_0", target="a.gguf")).metadata
    assert found["title"] == "T" and key not in found


def test_number_of_64_bits_without_a_sign_is_kept(case, tmp_path):
    source, large = tmp_path / "m.gguf", (1 << 64) - 1
    writer = gguf.GGUFWriter(source, arch="flux")
    writer.add_uint64("seed", large)
    for name, tensor in support.published(case[1]).items():
        writer.add_tensor(name, tensor.numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    assert read.read_header(run(source, tmp_path, "q8_0", target="a.gguf")).metadata["seed"] == large


# --- what can go wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fp8_scaled", "q8_0"])
@pytest.mark.parametrize("problem", [KeyboardInterrupt, RuntimeError])
def test_interrupted_writing_leaves_nothing(case, tmp_path, name, problem):
    seen = []

    def stop(done, total, tensor):
        seen.append(os.listdir(tmp_path))
        if done > total / 2:
            raise problem

    path = tmp_path / ("out" + export.EXPORTS[name].suffix)
    with pytest.raises(problem):
        export.write_model(export.FileWeights(case[2]), path, name, progress=stop)
    assert len(seen) > 10 and all(len(names) == 1 and names[0].endswith(".partial") for names in seen)
    assert os.listdir(tmp_path) == []


def test_interrupted_overwriting_leaves_the_old_file(case, tmp_path):
    path = run(case[2], tmp_path, "bf16")
    before = path.read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export.write_model(export.FileWeights(case[2]), path, "bf16", overwrite=True, progress=stop)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_killed_writer_leaves_only_the_temporary_name(case, tmp_path):
    code = (
        "import os, signal, sys, pathlib, dev\n"
        "export = dev.load_pack('loaders.checkpoint.write_quantised')\n"
        "def stop(done, total, name):\n"
        "    if done > total / 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "target = pathlib.Path(sys.argv[2])\n"
        "export.write_model(export.FileWeights(pathlib.Path(sys.argv[1])), target, 'q8_0', progress=stop)\n"
    )
    target = tmp_path / "out.gguf"
    done = subprocess.run([sys.executable, "-c", code, str(case[2]), str(target)], cwd=support.ROOT)
    assert done.returncode == -signal.SIGKILL
    (left,) = os.listdir(tmp_path)
    assert left.endswith(".out.gguf.partial") and left.split(".")[0].isdecimal()
    written = os.path.getmtime(tmp_path / left)
    run(case[2], tmp_path, "bf16", target="a.safetensors")
    assert left in os.listdir(tmp_path)  # its process may be at work on another machine
    os.utime(tmp_path / left, (written - 7200, written - 7200))
    run(case[2], tmp_path, "bf16", target="b.safetensors")
    assert left not in os.listdir(tmp_path)


def test_full_disk_is_told_before_anything_is_written(case, tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    assert quantize.main([str(case[2]), str(tmp_path / "a.gguf"), "--format", "q8_0"]) == quantize.FAILED
    told = capsys.readouterr().err
    assert "a.gguf: needs 0.00 GB, but" in told and "has 0.00 GB free. Make room there" in told
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["fp8_scaled", "q8_0"])
def test_announced_size_is_at_least_the_files_and_hardly_more(case, tmp_path, name, monkeypatch):
    writers = support.dev.load_pack("loaders.files.write")
    asked = []
    original = writers.whole_file
    monkeypatch.setattr(
        export, "whole_file", lambda path, needed, *a: asked.append(needed) or original(path, needed, *a)
    )
    size = run(case[2], tmp_path, name).stat().st_size
    assert size <= asked[0] <= size + 40_000  # of which the entries of 150 tensors are the most


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux's full device")
def test_disk_that_fills_meanwhile_is_told(case, tmp_path, monkeypatch):
    writers = support.dev.load_pack("loaders.files.write")

    def fails(self, name, tensor):
        with open("/dev/full", "wb", buffering=0) as f:
            f.write(b"x")

    monkeypatch.setattr(writers.SafetensorsFile, "write", fails)
    with pytest.raises(ValueError, match="a.safetensors: could not be written to .*: that disk is full. Make room"):
        export.write_model(export.FileWeights(case[2]), tmp_path / "a.safetensors", "bf16")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_damaged_weights_are_not_written(case, tmp_path, value):
    weights = dict(case[1])
    weights[LINEAR] = weights[LINEAR].clone()
    weights[LINEAR][3, 5] = value
    source = export.FileWeights(support.write(tmp_path / "m.safetensors", support.published(weights)))
    with pytest.raises(ValueError, match=f"m.safetensors: tensor {LINEAR} holds NaN or infinite weights"):
        export.write_model(source, tmp_path / "a.gguf", "q8_0")
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_weights_beyond_fp16_are_told(case, tmp_path):
    weights = dict(case[1])
    weights["img_in.bias"] = torch.full_like(weights["img_in.bias"], 1e5)
    source = export.FileWeights(support.write(tmp_path / "m.safetensors", support.published(weights)))
    with pytest.raises(ValueError, match="img_in.bias holds 100000, more than fp16 can. Choose a format in bf16"):
        export.write_model(source, tmp_path / "a.safetensors", "fp16")


def test_zero_weights_stay_zero(tmp_path):
    for type in ("F8_E4M3", "I8", "Q8_0", "Q4_1"):
        roles, (error, _) = items.coded("w", torch.zeros(4, 256), items.Item("w", (4, 256), type, True, None))
        assert error == 0 and torch.isfinite(roles.get("weight_scale", torch.ones(()))).all()


WATCHED_WRITING = """
import pathlib, sys, threading
import dev
export = dev.load_pack("loaders.checkpoint.write_quantised")

def anonymous():
    with open("/proc/self/status") as f:
        return int(next(line for line in f if line.startswith("RssAnon")).split()[1]) * 1024

def write(source, target):
    export.write_model(export.FileWeights(pathlib.Path(source)), pathlib.Path(target), sys.argv[1])

small, large, small_out, large_out = sys.argv[2:]
write(small, small_out)  # what is made once
peak = before = anonymous()
done = threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())

threading.Thread(target=watch, daemon=True).start()
write(large, large_out)
done.set()
print(peak - before)
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Files of a model whose largest layer takes 28 MiB in float32, by layout; and the count of its weights."""
    cfg = support.config(width=1024, heads=8, double=1, single=2)
    weights = support.random_weights(cfg)
    folder = tmp_path_factory.mktemp("wide")
    (folder / "shards").mkdir()
    plain = support.write(folder / "m.safetensors", support.published(weights, dtype=torch.bfloat16))
    half = {n: w.bfloat16() for n, w in support.to_diffusers(weights, cfg).items()}
    return {"BFL": plain, "diffusers": sharded(folder / "shards", half)}, weights[LINEAR].numel()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's account of memory")
@pytest.mark.parametrize("layout, name", [("BFL", "fp8_scaled"), ("BFL", "int8_convrot"), ("diffusers", "q8_0")])
def test_memory_taken_is_at_most_three_times_the_largest_layer(case, wide, tmp_path, layout, name):
    suffix = export.EXPORTS[name].suffix
    paths = [case[2], wide[0][layout], tmp_path / ("small" + suffix), tmp_path / ("large" + suffix)]
    command = [sys.executable, "-c", WATCHED_WRITING, name, *map(str, paths)]
    # Freed memory goes back at once, so that what the allocator keeps for later is not counted.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(10**6)}
    done = subprocess.run(command, cwd=support.ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    taken, layer = int(done.stdout), 4 * wide[1]
    print(f"{layout} -> {name}: {taken / 2**20:.0f} MiB, {taken / layer:.2f} times the largest layer in float32")
    assert 0 < taken < 3 * layer


# --- the command line ------------------------------------------------------------------------------------------------


def command(*arguments, module=("tools", "quantize")):
    return subprocess.run(
        [sys.executable, "-m", *module, *map(str, arguments)], cwd=support.ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("module", [("tools", "quantize"), ("quantize",)], ids=" ".join)  # the second since 0.2
def test_command_writes_a_file_and_tells_about_it(case, tmp_path, module):
    done = command(case[2], tmp_path / "a.gguf", "q8_0", module=module)
    assert done.returncode == 0, done.stderr
    path, size, linears, _ = done.stdout.splitlines()
    assert path == str(tmp_path / "a.gguf") and "bits a weight" in size
    assert linears.startswith("24 linear layers in q8_0, error of their weights 0.5")
    assert done.stderr == ""  # no terminal, and quickly done


def test_help_names_every_format_and_its_error():
    done = command("--help")
    assert done.returncode == 0
    assert all(
        f"{name} " in done.stdout and f"{100 * f.error:.2f}%" in done.stdout for name, f in export.EXPORTS.items()
    )


def test_wrong_arguments_give_one_line_and_exit_code_2(case, tmp_path, capsys):
    existing = run(case[2], tmp_path, "bf16")
    gguf = tmp_path / "a.gguf"
    wrong = {
        (case[2], gguf): "no format is given. Give one: int8_convrot, ",
        (case[2], gguf, "q8_0", "--format", "q4_0"): "two formats are given. Give one: ",
        (case[2], gguf, "q9"): "argument FORMAT: invalid choice: 'q9'",
        (case[2], gguf, "--format", "q9"): "argument --format: invalid choice: 'q9'",
        (case[2], gguf, "bf16"): "a.gguf: bf16 is written as safetensors, so the name must end",
        (case[2], tmp_path / "a.bin", "q8_0"): "a.bin: q8_0 is written as gguf, so the name must end in .gguf",
        (tmp_path / "no.gguf", gguf, "q8_0"): "there is no such file",
        (tmp_path, gguf, "q8_0"): "is a folder. Give the .safetensors or .index.json file in it",
        (case[2], tmp_path / "no" / "a.gguf", "q8_0"): "there is no folder",
        (case[2], existing, "bf16"): "exists already. Choose another name, or add --overwrite",
        (existing, existing, "--overwrite", "bf16"): "is the file to read",
        (case[2], gguf, "--device", "warp9", "q8_0"): "--device warp9 cannot be used",
        (case[2], gguf, "q8_0", "--fast"): "unrecognized arguments: --fast",
    }
    for arguments, told in wrong.items():
        with pytest.raises(SystemExit) as left:
            quantize.main([str(a) for a in arguments])
        lines = capsys.readouterr().err.splitlines()
        assert left.value.code == 2 and len(lines) == 1 and told in lines[0], lines
    assert os.listdir(tmp_path) == [existing.name]


def test_part_of_the_source_is_not_replaced(case, tmp_path, capsys):
    """Also not when it is asked to overwrite: the rest of the model would be lost with it."""
    parts = [f"m-0000{i}-of-00002.safetensors" for i in (1, 2)]
    tensors = support.published(case[1])
    place = {name: parts[i % 2] for i, name in enumerate(tensors)}
    for part in parts:
        support.write(tmp_path / part, {name: t for name, t in tensors.items() if place[name] == part})
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": place}))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for source in (index, tmp_path / parts[0]):
        with pytest.raises(SystemExit):
            quantize.main([str(source), str(tmp_path / parts[1]), "fp8_scaled", "--overwrite"])
        assert f"{parts[1]} is the file to read, or a part of it" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_file_that_is_no_chroma_is_told_with_exit_code_1(tmp_path, capsys):
    source = support.write(tmp_path / "v.safetensors", {"decoder.up.0.block.0.conv1.weight": torch.zeros(1)})
    assert quantize.main([str(source), str(tmp_path / "a.gguf"), "--format", "q8_0"]) == quantize.FAILED
    assert "v.safetensors: not a Chroma checkpoint; it looks like a VAE" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["v.safetensors"]


def test_stopped_command_says_so(case, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize, "progress", lambda: stop)
    assert quantize.main([str(case[2]), str(tmp_path / "a.gguf"), "--format", "q8_0"]) == quantize.INTERRUPTED
    assert capsys.readouterr().err == "quantize: stopped, nothing was written\n" and os.listdir(tmp_path) == []


def test_overwriting_when_asked_replaces_the_file(case, tmp_path):
    path = run(case[2], tmp_path, "bf16")
    size = path.stat().st_size
    run(case[2], tmp_path, "fp8_scaled", "--overwrite")
    assert path.stat().st_size < size
