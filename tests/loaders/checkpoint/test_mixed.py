"""Mixed precision: the error that a user names is met by the file that was written, with as few blocks in more bits as will do."""

import re

import pytest
import support
import torch

from tools import quantize

load_pack = support.dev.load_pack
export = load_pack("loaders.checkpoint.write_quantised")
activations = load_pack("loaders.checkpoint.activations")
mixed = load_pack("loaders.checkpoint.mixed")
run_weights = load_pack("loaders.checkpoint.run_weights")
read_header = load_pack("loaders.files.read").read_header


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """One block has weights of very different sizes side by side, which low bits harm most."""
    cfg = support.config(double=2, single=4)
    weights = support.random_weights(cfg)
    spikes = (
        torch.randn(weights["single_blocks.2.linear2.weight"].shape, generator=torch.Generator().manual_seed(5)) ** 5
    )
    weights["single_blocks.2.linear2.weight"] += 0.05 * spikes
    path = support.write(tmp_path_factory.mktemp("m") / "a.safetensors", support.published(weights))
    return cfg, path


def output(path, cfg):
    inputs = mixed.made_up(cfg)
    return run_weights.WeightsNetwork(export.FileWeights(path)).forward(*inputs.values())


def written(case, tmp_path, name, **more):
    path = tmp_path / ("out" + export.EXPORTS[name].suffix)
    return export.write_model(export.FileWeights(case[1]), path, name, **more)


@pytest.mark.parametrize("name", ["q4_0", "q5_1", "fp8_scaled", "int8_convrot"])
def test_written_file_errs_by_what_is_told_and_no_more_than_is_allowed(case, tmp_path, name):
    plain = mixed.mixture(export.FileWeights(case[1]), export.EXPORTS[name], 0.49).plain
    result = written(case, tmp_path, name, max_error=0.6 * plain)
    error = support.relative(output(result.path, case[0]), output(case[1], case[0]))
    print(f"{name}: {plain:.2%} -> {error:.2%} with {len(result.mixture.blocks)} of 6 blocks; {result.text()}")
    assert error == pytest.approx(result.mixture.error, rel=1e-3) and error <= 0.6 * plain
    assert 0 < len(result.mixture.blocks) < 6
    told = load_pack("chroma_model.block_lists").blocks_text(result.mixture.blocks)
    assert read_header(result.path).metadata["chroma.more_bits"] == told and told in result.text()


def test_the_block_that_is_harmed_most_is_the_first(case, tmp_path):
    plain = mixed.mixture(export.FileWeights(case[1]), export.EXPORTS["q4_0"], 0.49).plain
    assert written(case, tmp_path, "q4_0", max_error=0.98 * plain).mixture.blocks == {("single", 2)}


def test_blocks_in_more_bits_are_those_of_the_file(case, tmp_path):
    plain = mixed.mixture(export.FileWeights(case[1]), export.EXPORTS["q4_0"], 0.49).plain
    result = written(case, tmp_path, "q4_0", max_error=0.98 * plain)
    tensors = read_header(result.path).tensors
    types = {n: str(tensors[f"single_blocks.{n}.linear2.weight"].dtype) for n in range(4)}
    assert types == {0: "Q4_0", 1: "Q4_0", 2: "Q8_0", 3: "Q4_0"}


def test_error_that_is_told_of_the_weights_is_of_those_in_the_format(case, tmp_path):
    plain = mixed.mixture(export.FileWeights(case[1]), export.EXPORTS["q4_0"], 0.49).plain
    result = written(case, tmp_path, "q4_0", max_error=0.98 * plain)
    exact, stored, off, on = export.FileWeights(case[1]), export.FileWeights(result.path), 0.0, 0.0
    for name, info in read_header(case[1]).tensors.items():
        if "_blocks." in name and len(info.shape) == 2 and not name.startswith("single_blocks.2."):
            was, now = exact.dense(name).float(), stored.dense(name).float()
            off, on = off + float((now - was).square().sum()), on + float(was.square().sum())
    assert result.error == pytest.approx((off / on) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(
    "name, better",
    [("q4_0", "q8_0"), ("q5_1", "q8_0"), ("q8_0", "gguf_f16"), ("fp8_scaled", "bf16"), ("int8_convrot", "bf16")],
)
def test_more_bits_are_those_of_a_format_far_finer(name, better):
    assert mixed.finer(export.EXPORTS[name])[0] in (better, better.replace("f16", "bf16"))


def test_error_that_is_met_anyway_costs_nothing(case, tmp_path):
    result = written(case, tmp_path, "fp8_scaled", max_error=0.49)
    assert result.mixture.blocks == frozenset() and "no block needs more bits" in result.text()


def test_error_that_cannot_be_met_is_told_and_nothing_is_written(case, tmp_path):
    with pytest.raises(ValueError, match=r"the output errs by .*% even with all blocks in q8_0, more than 0.01%"):
        written(case, tmp_path, "q4_0", max_error=0.0001)
    with pytest.raises(ValueError, match="16-bit ones have nothing finer"):
        written(case, tmp_path, "bf16", max_error=0.1)
    assert list(tmp_path.iterdir()) == []


def test_command_meets_the_error_on_the_inputs_of_a_file(case, tmp_path, capsys):
    """Other inputs, another error: that of the written file, measured on them, is the one that is told."""
    cfg, source = case
    generator = torch.Generator().manual_seed(9)
    inputs = {
        "input.x": torch.randn(1, 16, 12, 10, generator=generator),
        "input.timestep": torch.tensor([0.15]),
        "input.context": 3 * torch.randn(1, 21, cfg.context_dim, generator=generator),
    }
    activations.write_dump(tmp_path / "inputs.safetensors", inputs)

    def error_on(given, path):
        outputs = (run_weights.WeightsNetwork(export.FileWeights(p)).forward(*given.values()) for p in (path, source))
        return support.relative(*outputs)

    export.write_model(export.FileWeights(source), tmp_path / "plain.gguf", "q4_0")
    bound = 0.6 * error_on(inputs, tmp_path / "plain.gguf")
    out = tmp_path / "mixed.gguf"
    options = ("--max-error", f"{bound:.6f}", "--inputs", str(tmp_path / "inputs.safetensors"))
    assert quantize.main([str(source), str(out), "q4_0", *options]) == 0
    found = error_on(inputs, out)
    told = float(re.search(r"errs by ([\d.]+)%", capsys.readouterr().out)[1]) / 100
    assert found <= bound and told == pytest.approx(found, abs=6e-4)
    assert abs(error_on(mixed.made_up(cfg), out) - found) > 0.05 * found
