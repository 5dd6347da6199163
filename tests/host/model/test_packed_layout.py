"""The pack's layout in the host's registries: nothing of another's is overwritten, and what is taken is unpacked."""

import logging

import formats
import pytest
import support
import torch

pytestmark = pytest.mark.host

dev = support.dev
FOREIGN = {"storage_t": torch.uint8, "parameters": {"scale"}, "comfy_tensor_layout": "SomebodysGGUFLayout"}


@pytest.fixture
def layout(comfy):
    return dev.load_pack("host.model.packed_layout")


@pytest.fixture
def own(layout):
    return {f.name: f.host_name for f in layout.FORMATS.values() if f.layout == layout.OWN_LAYOUT}


def test_names_of_our_formats_are_registered_once_for_all_imports(layout, own, caplog):
    algos = {}
    assert layout.register(algos) == frozenset()
    before = {name: dict(entry) for name, entry in algos.items()}
    entries = {name: id(entry) for name, entry in algos.items()}
    assert layout.register(algos) == frozenset()
    assert algos == before and {name: id(entry) for name, entry in algos.items()} == entries
    assert set(algos) == set(own.values()) and own["Q8_0"] == "gguf_q8_0"
    assert layout.TAKEN == frozenset() and caplog.text == ""


def test_entry_of_another_is_left_alone_and_told_in_one_line(layout, own, caplog):
    algos = {"gguf_q8_0": FOREIGN}
    with caplog.at_level(logging.WARNING):
        assert layout.register(algos) == {"Q8_0"}
    assert algos["gguf_q8_0"] is FOREIGN and set(algos) == set(own.values())
    assert len(caplog.records) == 1 and "gguf_q8_0 with ComfyUI; weights in these formats are unpacked" in caplog.text


@pytest.mark.parametrize("same_pack", [False, True])
def test_layout_of_another_is_left_alone_and_that_of_a_second_import_is_not(layout, own, monkeypatch, same_pack):
    module = "chroma_copy.host.model.packed_layout" if same_pack else "somebodys_pack"
    other = type("PackedLayout", (layout.QuantizedLayout,), {"__module__": module})
    put = []
    monkeypatch.setattr(layout, "get_layout_class", lambda name: other)
    monkeypatch.setattr(layout, "register_layout_class", lambda *given: put.append(given))
    algos = {}
    assert layout.register(algos) == (frozenset() if same_pack else frozenset(own))
    assert put == ([(layout.OWN_LAYOUT, layout.PackedLayout)] if same_pack else [])
    assert set(algos) == (set(own.values()) if same_pack else set())


def test_weights_in_a_taken_format_are_unpacked_at_load(comfy, inference, layout, monkeypatch, tmp_path):
    load = dev.load_pack("host.model.load").load_chroma
    cfg = support.config()
    stored = formats.Stored(None, 0.0, "all", gguf="Q8_0")
    file, _ = formats.gguf_file(tmp_path, support.random_weights(cfg), cfg, stored)

    def quantised():
        weights = dict(load(str(file), "keep").model.diffusion_model.named_parameters())
        return weights, {name for name, w in weights.items() if isinstance(w, comfy.quant_ops.QuantizedTensor)}

    packed, names = quantised()
    monkeypatch.setattr(layout, "TAKEN", frozenset({"Q8_0"}))
    plain, left = quantised()
    assert names and not left
    for name in names:
        torch.testing.assert_close(
            plain[name].float(), packed[name].dequantize().float(), rtol=2**-7, atol=0
        )  # bfloat16


def test_precision_whose_name_is_taken_is_refused(comfy, monkeypatch):
    load = dev.load_pack("host.model.load")
    mode = next(
        mode
        for mode in dev.load_pack("loaders.formats.base.registry").QUANT_MODES
        if load.quant_mode(mode).format == "Q8_0"
    )
    monkeypatch.setattr(load, "TAKEN", frozenset({"Q8_0"}))
    with pytest.raises(ValueError, match="something else has registered gguf_q8_0 .* choose another precision"):
        load.choose_mode(mode, None, torch.device("cpu"))


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize("rotated", [True, False])
def test_int8_weight_is_unpacked_a_few_rows_at_a_time_and_the_inputs_are_turned(
    layout, monkeypatch, dtype, limit, rotated
):
    """A weight of 600 rows of 256, in steps of 256 rows, against the product in float64."""
    generator = torch.Generator().manual_seed(0)
    dense, bias = torch.randn(600, 256, generator=generator), torch.randn(600, generator=generator)
    weight = layout.QuantizedTensor.from_float(
        dense, "TensorWiseINT8Layout", per_channel=True, convrot=rotated, convrot_groupsize=64
    )
    x = torch.randn(2, 5, 256, generator=generator).to(dtype)
    expected = torch.nn.functional.linear(x.double(), weight.dequantize().double(), bias.double())
    seen, dequantize = [], weight.layout_cls.dequantize
    monkeypatch.setattr(
        weight.layout_cls,
        "dequantize",
        lambda q, params: seen.append((len(q), params.convrot)) or dequantize(q, params),
    )
    monkeypatch.setattr(layout, "CPU_CHUNK", 256 * 256)
    found = layout.linear(x, weight, bias.to(dtype))
    assert found.dtype == dtype and support.relative(found.double(), expected) < limit
    assert seen == [(256, False), (256, False), (88, False)]
