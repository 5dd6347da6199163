"""quant_mode from every source, what it leaves alone, LoRAs on packed weights, and what the node says of it."""

import formats
import pytest
import support
import torch
from host_models import lora_on, sample

pytestmark = pytest.mark.host

CONFIG = {"width": 256, "heads": 2, "double": 1, "single": 2, "context": 256, "approximator": (64, 256, 2)}
QKV, LINEAR2 = "double_blocks.0.img_attn.qkv", "single_blocks.1.linear2"
APPROXIMATOR = "distilled_guidance_layer.layers.1.in_layer"
SOURCES = ["bf16", "fp32", "fp8 old", "fp8 rows", "int8 rotated", "nvfp4", "Q8_0", "Q4_K", "Q4_0", "BF16"]
# mode -> (what a block's weight becomes, its error for Gaussian weights by its bit width)
TARGETS = {
    "bf16": (None, formats.floating(7)),
    "fp16": (None, formats.floating(10)),
    "fp32": (None, 0.0),
    "q8_0": ("gguf_q8_0", formats.GGUF["Q8_0"].error(256)),
    "q5_1": ("gguf_q5_1", formats.GGUF["Q5_1"].error(256)),
    "q4_1": ("gguf_q4_1", formats.GGUF["Q4_1"].error(256)),
    "int8_convrot": ("int8_tensorwise", formats.SAFETENSORS["int8 rotated"].error(256)),
    "fp8_scaled": ("float8_e4m3fn", formats.floating(3)),
    "mxfp8": ("mxfp8", formats.floating(3)),
    "nvfp4": ("nvfp4", formats.SAFETENSORS["nvfp4"].error(256)),
}


@pytest.fixture(autouse=True)
def _inference(inference):
    pass


@pytest.fixture(scope="module")
def cfg():
    return support.config(**CONFIG)


@pytest.fixture(scope="module")
def weights(cfg):
    return support.random_weights(cfg)


@pytest.fixture
def loader(comfy):
    return support.dev.load_pack("host.model.load")


def describe(patcher):
    return support.dev.load_pack("host.model.report").model_report(patcher)


@pytest.fixture
def file_of(tmp_path, cfg, weights):
    def write(storage):
        write = formats.gguf_file if storage in formats.GGUF else formats.bfl
        return str(write(tmp_path, weights, cfg, {**formats.SAFETENSORS, **formats.GGUF}[storage])[0])

    return write


def dense(patcher, name):
    weight = patcher.model.diffusion_model.get_parameter(name + ".weight").data
    return (weight.dequantize() if packed(weight) else weight).float()


def packed(weight):
    return type(weight).__name__ == "QuantizedTensor"


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("mode", TARGETS)
def test_mode_makes_its_format_from_any_source(loader, file_of, weights, source, mode):
    path = file_of(source)
    kept = loader.load_chroma(path, "keep")
    found = loader.load_chroma(path, mode)
    format, error = TARGETS[mode]
    for name in (QKV, LINEAR2):
        layer = found.model.diffusion_model.get_submodule(name)
        assert getattr(layer, "quant_format", None) == format
        # against what the file holds; a source in the same format comes out as it was
        distance = support.relative(dense(found, name), dense(kept, name))
        same = getattr(kept.model.diffusion_model.get_submodule(name), "quant_format", None) == format
        # a coarse source has few distinct values, which need not lie evenly between those of the target
        assert distance <= 1.5 * max(error, 1e-7)
        assert same or mode == "fp32" or source in ("BF16", "bf16") and mode in ("bf16", "fp16") or distance > 0
    for name in ("img_in", "txt_in", "final_layer.linear", APPROXIMATOR):
        assert not packed(found.model.diffusion_model.get_parameter(name + ".weight").data)


def test_keep_leaves_every_packed_byte_in_the_file(loader, file_of):
    path = file_of("Q4_K")
    stored = support.dev.load_pack("loaders.files.read").read_tensors(path)
    net = loader.load_chroma(path, "auto").model.diffusion_model
    weight = net.get_parameter(QKV + ".weight").data
    assert torch.equal(weight._qdata, stored[QKV + ".weight"])


def test_kept_gguf_is_mapped_and_not_copied(loader, file_of):
    net = loader.load_chroma(file_of("Q8_0"), "keep").model.diffusion_model
    stored = [p.data._qdata for p in net.parameters() if packed(p.data)]
    assert len(stored) > 10
    places = [t.data_ptr() for t in stored]
    assert max(places) - min(places) < 1.5 * sum(t.nbytes for t in stored)  # all within one file's mapping


# --- auto ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem, chosen", [(None, "int8_convrot"), ("is a toaster", "q8_0")])
def test_auto_takes_8_bits_where_16_do_not_fit(loader, file_of, monkeypatch, problem, chosen):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "maximum_vram_for_weights", lambda device: 1e6)
    monkeypatch.setattr(loader, "fast_matmul", lambda kind, device: problem)
    text = describe(loader.load_chroma(file_of("bf16")))
    assert f"auto: {chosen}, since 16 bits take 0.0 GB and there is room for 0.0 GB" in text
    assert f"kept as {chosen} (12 layers), rest bfloat16" in text
    assert ("Not int8_convrot: int8 is a toaster" in text) == bool(problem)


def test_auto_keeps_what_fits_and_what_is_quantised(loader, file_of, monkeypatch):
    import comfy.model_management

    assert "kept as bfloat16: " in describe(loader.load_chroma(file_of("bf16")))
    monkeypatch.setattr(comfy.model_management, "maximum_vram_for_weights", lambda device: 0)
    assert "kept as q4_k (" in describe(loader.load_chroma(file_of("Q4_K")))


# --- LoRA ------------------------------------------------------------------------------------------------------------


def with_loras(comfy, patcher, *loras):
    for lora in loras:
        patcher, _ = comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)
    return patcher


# storage -> most of the LoRA's own change that may go wrong, beside what the storage itself does to the weights
LORA_STORAGES = {"Q8_0": 1.0, "Q6_K": 0.02, "Q5_K": 0.02, "Q4_K": 0.02, "Q2_K": 0.02, "Q4_0": 0.02, "Q5_1": 0.02,
                 "IQ4_XS": 0.02, "fp8 rows": 0.02, "int8 blocks of 128": 0.02}  # fmt: skip


@pytest.mark.parametrize("storage", LORA_STORAGES)
def test_lora_changes_packed_weights_by_its_product(comfy, loader, file_of, weights, storage):
    patcher = loader.load_chroma(file_of(storage), "keep")
    before = dense(patcher, QKV)
    lora = lora_on(weights, QKV, LINEAR2, strength=0.05)
    a, b = (lora[f"diffusion_model.{QKV}.lora_{x}.weight"] for x in "AB")
    patched = with_loras(comfy, patcher, lora)
    comfy.model_management.load_models_gpu([patched])
    change = dense(patched, QKV) - before
    wanted = b @ a
    if (
        storage == "Q8_0"
    ):  # written anew, with unbiased rounding: 0.93 % of the weight in all, and nothing of it is lost
        assert support.relative(before + change, weights[QKV + ".weight"] + wanted) < 0.011
        kept = float((change * wanted).sum() / wanted.square().sum())
        assert abs(kept - 1) < 0.02
    else:
        assert support.relative(change, wanted) < LORA_STORAGES[storage]
        weight = patched.model.diffusion_model.get_parameter(QKV + ".weight").data
        assert weight._params.up.shape == (768, 4)  # rank 4 stays rank 4
    patched.detach()
    assert torch.equal(dense(patcher, QKV), before)


@pytest.mark.parametrize("storage", ["Q4_K", "fp8 rows"])
def test_change_of_full_rank_is_kept_beside_the_packed_weight(comfy, loader, file_of, weights, storage):
    patcher = loader.load_chroma(file_of(storage), "keep")
    before = dense(patcher, QKV)
    change = torch.randn(before.shape) * 0.01
    patched = patcher.clone()
    patched.add_patches({f"diffusion_model.{QKV}.weight": ("diff", (change,))}, 1.0)
    comfy.model_management.load_models_gpu([patched])
    assert support.relative(dense(patched, QKV) - before, change) < 0.011  # int8 by rows
    patched.detach()
    assert torch.equal(dense(patcher, QKV), before)


@pytest.mark.parametrize("storage", ["Q8_0", "Q4_K", "fp8 rows", "int8 rotated", "fp8 old"])
def test_sampling_with_two_loras_comes_near_float32(comfy, loader, cfg, file_of, weights, storage):
    loras = [lora_on(weights, QKV, LINEAR2, strength=0.3), lora_on(weights, "single_blocks.0.linear1", strength=0.3)]
    found = sample(comfy, with_loras(comfy, loader.load_chroma(file_of(storage), "keep"), *loras), cfg)
    exact = sample(comfy, with_loras(comfy, loader.load_chroma(file_of("fp32"), "keep"), *loras), cfg)
    without = sample(comfy, loader.load_chroma(file_of(storage), "keep"), cfg)
    assert support.relative(found, exact) < 0.5 * support.relative(without, exact)


@pytest.mark.parametrize("storage", ["Q8_0", "Q4_K"])
def test_streamed_weights_give_the_same_picture(comfy, loader, cfg, file_of, weights, storage):
    lora = lora_on(weights, QKV, strength=0.3)
    whole = with_loras(comfy, loader.load_chroma(file_of(storage), "keep"), lora)
    expected = sample(comfy, whole, cfg)
    whole.detach()
    streamed = with_loras(comfy, loader.load_chroma(file_of(storage), "keep"), lora)
    streamed.load(streamed.load_device, lowvram_model_memory=1)
    x = support.inputs(cfg)
    found = streamed.model.diffusion_model(x["x"], x["timesteps"], x["context"])
    comfy.model_management.load_models_gpu([whole])
    exact = whole.model.diffusion_model(x["x"], x["timesteps"], x["context"])
    # Q8_0: merged weights are rounded once more, streamed ones are not
    assert support.relative(found, exact) < (0.02 if storage == "Q8_0" else 1e-4)
    assert torch.isfinite(expected).all()
    streamed.detach()


# --- what the host does to quantised tensors with dynamic VRAM, without a GPU ------------------------------------------


@pytest.mark.parametrize("storage", ["Q8_0", "Q4_K", "fp8 rows"])
def test_layout_survives_the_hosts_gathered_buffers(comfy, loader, file_of, weights, storage):
    import comfy.memory_management as memory

    weight = loader.load_chroma(file_of(storage), "keep").model.diffusion_model.get_parameter(QKV + ".weight").data
    geometry = memory.tensors_to_geometries([weight])
    buffer = torch.empty(memory.vram_aligned_size(geometry), dtype=torch.uint8)
    (resident,) = memory.interpret_gathered_like(geometry, buffer)
    resident.copy_(weight)
    assert torch.equal(resident.dequantize(), weight.dequantize())
    # A LoRA, as the host's streaming does it: requantised from float, then copied over the resident weight.
    lora = lora_on(weights, QKV, strength=0.05)
    a, b = (lora[f"diffusion_model.{QKV}.lora_{x}.weight"] for x in "AB")
    wanted = resident.dequantize() + b @ a
    resident.copy_(resident.requantize_from_float(wanted, scale="recalculate", stochastic_rounding=7))
    assert support.relative(resident.dequantize(), wanted) < (0.011 if storage == "Q8_0" else 1e-3)


# --- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["Q8_0", "Q4_K", "fp8 rows", "fp8 blocks of 64", "int8 blocks of 128", "nvfp4"])
@pytest.mark.parametrize("lora", [False, True])
def test_host_saves_packed_models_and_they_load_again(comfy, loader, cfg, file_of, weights, tmp_path, storage, lora):
    patcher = loader.load_chroma(file_of(storage), "keep")
    if lora:
        patcher = with_loras(comfy, patcher, lora_on(weights, QKV, strength=0.3))
    path = tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(path), patcher)
    expected = sample(comfy, patcher, cfg)
    patcher.detach()
    found = sample(comfy, loader.load_chroma(str(path)), cfg)
    assert support.relative(found, expected) < 1e-6 if lora else torch.equal(found, expected)  # fp32 sums


# --- fast multiplication ---------------------------------------------------------------------------------------------


def test_int8_is_multiplied_in_int8_or_unpacked_on_request(loader, file_of, cfg, fast_products):
    path, x = file_of("bf16"), support.inputs(cfg)

    def run(patcher):
        return patcher.model.diffusion_model(x["x"], x["timesteps"], x["context"])

    exact = run(loader.load_chroma(path, "fp32"))
    fast = loader.load_chroma(path, "int8_convrot")
    full = loader.load_chroma(path, "int8_convrot", full_precision=True)
    assert "computes in float32; int8 matrix multiplication" in describe(fast)
    assert "full precision was asked for" in describe(full)
    weight_only = support.relative(run(full), exact)
    assert 0.3 * weight_only < support.relative(run(fast), run(full)) < 3 * weight_only  # inputs are rounded as well


def test_int8_is_unpacked_where_that_is_faster(loader, file_of, cfg, slow_products):
    path, x = file_of("bf16"), support.inputs(cfg)

    def run(patcher):
        return patcher.model.diffusion_model(x["x"], x["timesteps"], x["context"])

    found, full = (loader.load_chroma(path, "int8_convrot", full_precision=f) for f in (False, True))
    line = (
        "computes in float32; int8_tensorwise is unpacked at use: int8 takes 58 times as long on this device as float32"
    )
    assert line in describe(found)
    assert torch.equal(run(found), run(full))


# --- the report ------------------------------------------------------------------------------------------------------


def test_report_names_file_storage_size_and_compute(loader, file_of):
    lines = describe(loader.load_chroma(file_of("Q8_0"))).splitlines()
    assert lines[0].startswith("Chroma, ") and lines[0].endswith("1 + 2 blocks of width 256")
    assert lines[1] == "file: Q8_0 (18 tensors), rest float16, BFL names"
    assert lines[2].startswith("kept as q8_0 (18 layers), rest float16: 4 MB, 8.7")
    assert lines[3] == "computes in float32; q8_0 is unpacked at use, no device multiplies it as it is"


def test_damaged_scale_in_a_gguf_is_named_after_a_run_in_nan(comfy, loader, cfg, file_of, caplog):
    path = file_of("Q8_0")
    place = support.dev.load_pack("loaders.files.gguf").read_gguf_header(path)[0][QKV + ".weight"].offset
    with open(path, "r+b") as f:
        f.seek(place + 256 // 32 * 34)  # of the second row, which is not among those looked at when it is loaded
        f.write(b"\xff\x7f")  # a block's scale: NaN in float16
    patcher = loader.load_chroma(path)
    assert not torch.isfinite(sample(comfy, patcher, cfg)).all()
    assert f"Tensors with NaN or infinite weights: {QKV}.weight. Download the file again" in caplog.text


@pytest.mark.parametrize("mode", [m for m, (format, _) in TARGETS.items() if format])
def test_weight_of_zeros_stays_zero(comfy, mode):
    comfy_quant, quant = (support.dev.load_pack(m) for m in ("host.model.weights", "loaders.formats.base.registry"))
    packed_weight, _ = comfy_quant.pack(torch.zeros(128, 256), quant.QUANT_MODES[mode])
    assert not packed_weight.dequantize().any()


@pytest.mark.parametrize("storage", ["int8 rotated", "w4a4 rotated"])
def test_full_precision_leaves_inputs_unrounded(comfy, loader, file_of, cfg, storage, fast_products):
    x = support.inputs(cfg)
    path = file_of(storage)
    fast, full = (loader.load_chroma(path, "keep", full_precision=f).model.diffusion_model for f in (False, True))
    unpacked = loader.load_chroma(path, "fp32").model.diffusion_model
    found = [net(x["x"], x["timesteps"], x["context"]) for net in (fast, full, unpacked)]
    assert support.relative(found[1], found[2]) < 2e-6  # fp32
    assert support.relative(found[0], found[2]) > 1e-3  # else this test shows nothing


@pytest.mark.parametrize("change", ["none", "low rank", "full rank"])
@pytest.mark.parametrize("storage", ["Q8_0", "Q4_K", "fp8 new", "fp8 rows", "fp8 blocks of 64", "int8 blocks of 128"])
def test_rows_unpacked_a_few_at_a_time_give_the_same(comfy, loader, file_of, monkeypatch, storage, change):
    layers = support.dev.load_pack("host.model.packed_layout")
    weight = loader.load_chroma(file_of(storage), "keep").model.diffusion_model.get_parameter(QKV + ".weight").data
    wanted = weight.dequantize()
    if change != "none":
        rank = 4 if change == "low rank" else 256
        wanted = wanted + torch.randn(768, rank) @ torch.randn(rank, 256) * 0.002
        weight = weight.requantize_from_float(wanted, scale="recalculate", stochastic_rounding=1)
    x, bias = torch.randn(2, 5, 256), torch.randn(768)
    whole = layers.linear(x, weight, bias)
    calls = []
    real = weight.layout_cls.dequantize.__func__
    monkeypatch.setattr(
        weight.layout_cls, "dequantize", classmethod(lambda cls, q, p: calls.append(len(q)) or real(cls, q, p))
    )
    monkeypatch.setattr(layers, "CPU_CHUNK", 256 * 256)
    assert support.relative(layers.linear(x, weight, bias), whole) < 1e-6  # fp32, sums in another order
    assert calls == [256, 256, 256]
    monkeypatch.setattr(layers, "TOGETHER", 4)  # the items of a batch one after the other, each piece unpacked once
    assert support.relative(layers.linear(x, weight, bias), whole) < 1e-6
    assert calls == [256, 256, 256] * 2
    assert support.relative(whole, x @ wanted.T + bias) < 0.05
