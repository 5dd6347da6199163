import dataclasses

import pytest
import support
import torch

hadamard, kept_layers, registry = (
    support.dev.load_pack(f"loaders.formats.base.{n}") for n in ("hadamard", "kept_layers", "registry")
)


def test_only_linears_of_the_blocks_are_quantised():
    with torch.device("meta"):
        state = support.build(support.model.ChromaConfig()).state_dict()
    chosen = {k: v for k, v in state.items() if kept_layers.is_quantised(k, v.ndim)}
    assert len(chosen) == 19 * 8 + 38 * 2
    assert all(k.startswith(("double_blocks.", "single_blocks.")) and v.ndim == 2 for k, v in chosen.items())
    share = sum(v.numel() for v in chosen.values()) / sum(v.numel() for v in state.values())
    assert share == pytest.approx(0.967, abs=5e-4)  # the rest, 0.29 B parameters, stays in 16 bits


def test_every_linear_of_the_published_model_takes_the_widest_rotation():
    with torch.device("meta"):
        state = support.build(support.model.ChromaConfig()).state_dict()
    widths = {v.shape[1] for k, v in state.items() if kept_layers.is_quantised(k, v.ndim)}
    assert {hadamard.rotation_group(w) for w in widths} == {256}


@pytest.mark.parametrize("width, group", [(3072, 256), (640, 64), (80, 16), (100, None)])
def test_rotation_group_is_the_largest_that_divides(width, group):
    assert hadamard.rotation_group(width) == group


@pytest.mark.parametrize(
    "text, fmt",
    [("float8_e4m3fn (8 bit)", "float8_e4m3fn"), ("float8_e5m2 (also 8 bit)", "float8_e5m2"), ("bf16", None)],
)
def test_texts_of_old_graphs_are_understood(text, fmt):
    assert registry.quant_mode(text).format == fmt


def test_unknown_mode_lists_the_known_ones():
    with pytest.raises(ValueError, match="quant_mode 'int3' is not known .*auto, keep, bf16.*int8_convrot"):
        registry.quant_mode("int3")


def test_a_mode_keeps_the_file_only_where_it_names_neither_type_nor_format():
    keeps = {name for name, mode in registry.QUANT_MODES.items() if mode.keeps}
    assert keeps and all(
        registry.QUANT_MODES[k].format is None and registry.QUANT_MODES[k].dtype is None for k in keeps
    )
    assert not registry.QuantMode(format="int8_tensorwise").keeps
    assert not registry.QuantMode(dtype=torch.bfloat16).keeps


@pytest.mark.parametrize("module", ["format", "registry"])
def test_records_cannot_be_changed_by_who_reads_them(module):
    found = vars(support.dev.load_pack(f"loaders.formats.base.{module}")).values()
    records = [c for c in found if isinstance(c, type) and dataclasses.is_dataclass(c)]
    assert records and all(c.__dataclass_params__.frozen for c in records)


def test_rows_stand_alone_but_where_scales_are_in_tiles_or_codes_in_pairs():
    assert {n for n, f in registry.FORMATS.items() if not f.has_rows} == {"mxfp8", "nvfp4", "convrot_w4a4"}


@pytest.mark.parametrize("columns, calls", [(1 << 18, [4, 4, 2]), (1 << 21, [1] * 10), (1 << 16, [10])])
def test_rows_are_unpacked_a_million_numbers_at_a_time(columns, calls):
    by_rows = support.dev.load_pack("loaders.formats.base.scale_tiles").by_rows
    seen = []

    def function(rows):
        seen.append(len(rows))
        return rows.expand(-1, columns)

    out = by_rows(function, columns, torch.int8, torch.arange(10, dtype=torch.int8)[:, None])
    assert seen == calls and out.shape == (10, columns) and out[:, -1].tolist() == list(range(10))


def test_formats_whose_inputs_the_host_would_round_are_unpacked_here():
    unpacked = {n for n, f in registry.FORMATS.items() if f.unpacked_here}
    assert unpacked == {"float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "convrot_w4a4"}
