"""Pruned files: blocks keep their numbers, so that the file computes what the whole model does with those blocks skipped."""

import json
import subprocess
import sys

import pytest
import support
import torch

export = support.dev.load_pack("loaders.checkpoint.write_quantised")
detect = support.dev.load_pack("loaders.checkpoint.detect_variant").detect
read_header = support.dev.load_pack("loaders.files.read").read_header
transformer = support.dev.load_pack("chroma_model.transformer")

LEFT_OUT = "double 1, single 0, single 2-3"
BLOCKS = {("double", 1), ("single", 0), ("single", 2), ("single", 3)}
VARIANTS = {"Chroma": {}, "Radiance": support.RADIANCE, "last double": {}}


def network_of(path):
    """The network that a file holds, from its sizes alone."""
    source = export.FileWeights(path)
    net = support.build(source.detection.config)
    missing, unexpected = net.load_state_dict({n: source.dense(n) for n in source.detection.tensors}, strict=False)
    assert not unexpected and all(name.endswith(".left_out") for name in missing)
    return net


def skipping(blocks):
    """A `run_block` that leaves blocks out of the whole model."""

    def run(kind, index, block, **streams):
        if (kind, index) not in blocks:
            return transformer.run_block(kind, index, block, **streams)
        return (streams["img"], streams["txt"]) if kind == "double" else streams["x"]

    return run


@pytest.fixture(scope="module", params=list(VARIANTS))
def case(request, tmp_path_factory):
    cfg = support.config(double=3, single=5, **VARIANTS[request.param])
    weights = support.random_weights(cfg)
    path = support.write(tmp_path_factory.mktemp("m") / "whole.safetensors", support.published(weights))
    return cfg, weights, path


def written(case, tmp_path, format, blocks=LEFT_OUT, name="pruned"):
    path = tmp_path / (name + export.EXPORTS[format].suffix)
    return export.write_model(export.FileWeights(case[2], left_out=blocks), path, format)


@pytest.mark.parametrize("format", ["bf16", "fp8_scaled", "int8_convrot", "q8_0", "gguf_bf16"])
def test_pruned_file_computes_what_the_whole_model_does_with_those_blocks_skipped(case, tmp_path, format):
    whole = written(case, tmp_path, format, "", "whole").path
    pruned = written(case, tmp_path, format).path
    inputs = support.inputs(case[0], height=16, width=24)
    with torch.no_grad():
        wanted = network_of(whole)(**inputs, run_block=skipping(BLOCKS))
        found = network_of(pruned)(**inputs)
        plain = network_of(whole)(**inputs)
    print(
        f"{format}: {support.relative(found, wanted):.1e} apart; skipping changes {support.relative(plain, wanted):.2f}"
    )
    assert support.relative(found, wanted) < 1e-6 and support.relative(plain, wanted) > 0.05
    assert pruned.stat().st_size < whole.stat().st_size


def test_numbered_anew_the_blocks_would_get_modulations_of_others(case, tmp_path):
    """Why the numbers stay: a model of fewer blocks gives the same weights other rows of the Approximator."""
    cfg, weights, _ = case
    fewer = support.config(double=2, single=2, **({} if cfg.nerf is None else support.RADIANCE))
    order = {("double", 0): 0, ("double", 2): 1, ("single", 1): 0, ("single", 4): 1}
    block_of = support.dev.load_pack("loaders.checkpoint.keys").block_of
    renamed = {}
    for name, weight in weights.items():
        block = block_of(name)
        if block is None:
            renamed[name] = weight
        elif block in order:
            renamed[name.replace(f".{block[1]}.", f".{order[block]}.", 1)] = weight
    net = support.build(fewer)
    net.load_state_dict(renamed)
    inputs = support.inputs(cfg, height=16, width=24)
    with torch.no_grad():
        found = net(**inputs)
        wanted = network_of(written(case, tmp_path, "bf16").path)(**inputs)
    assert support.relative(found, wanted) > 0.05


def test_left_out_blocks_are_told_by_empty_tensors_and_metadata(case, tmp_path):
    header = read_header(written(case, tmp_path, "bf16").path)
    assert header.metadata["chroma.left_out"] == LEFT_OUT
    empty = {name for name in header.tensors if name.endswith(".left_out")}
    assert empty == {f"pruned.{kind}_blocks.{i}.left_out" for kind, i in BLOCKS}
    assert detect(header).config.left_out == BLOCKS
    assert detect(header).config.num_modulations == case[0].num_modulations


@pytest.mark.parametrize("lost", ["tensors", "metadata"])
def test_one_of_the_two_is_enough(case, tmp_path, lost):
    from dataclasses import replace

    header = read_header(written(case, tmp_path, "bf16").path)
    if lost == "tensors":
        header = replace(header, tensors={n: t for n, t in header.tensors.items() if not n.endswith(".left_out")})
    else:
        header = replace(header, metadata={})
    assert detect(header).config.left_out == BLOCKS


def test_a_gap_that_nothing_tells_of_is_an_incomplete_file(case, tmp_path):
    tensors = {n: t for n, t in support.published(case[1]).items() if not n.startswith("single_blocks.2.")}
    with pytest.raises(ValueError, match="single_blocks.2 is missing"):
        export.FileWeights(support.write(tmp_path / "gap.safetensors", tensors))


def test_weights_of_a_block_that_is_said_to_be_left_out_are_refused(case, tmp_path):
    tensors = support.published(case[1]) | {"single_blocks.2.left_out": torch.empty(0)}
    with pytest.raises(ValueError, match="single_blocks.2.linear1.weight.* not part of Chroma"):
        export.FileWeights(support.write(tmp_path / "both.safetensors", tensors))


@pytest.mark.parametrize(
    "blocks, told",
    [
        ("double 3", "'double 3': this model has the double blocks 0 to 2"),
        ("singel 1", "'singel 1' in the list names no block"),
        ("double", "all double blocks are left out. Keep one of them at least"),
    ],
)
def test_blocks_that_cannot_be_left_out_are_told(case, blocks, told):
    with pytest.raises(ValueError, match=told):
        export.FileWeights(case[2], left_out=blocks)


def test_pruned_file_can_be_pruned_further(case, tmp_path):
    once = written(case, tmp_path, "bf16", "double 1").path
    path = tmp_path / "twice.safetensors"
    export.write_model(export.FileWeights(once, left_out="single 0"), path, "bf16")
    assert detect(read_header(path)).config.left_out == {("double", 1), ("single", 0)}
    assert torch.equal(
        network_of(path).single_blocks[4].linear1.weight, case[1]["single_blocks.4.linear1.weight"].bfloat16().float()
    )


def test_command_prunes(case, tmp_path):
    target = tmp_path / "out.safetensors"
    command = [sys.executable, "-m", "tools", "quantize", case[2], target, "--format", "bf16", "--leave-out", LEFT_OUT]
    done = subprocess.run(command, cwd=support.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"pruned: without the blocks {LEFT_OUT}" in done.stdout
    assert json.loads(json.dumps(read_header(target).metadata))["chroma.left_out"] == LEFT_OUT


@pytest.mark.parametrize("text", ["what", "double 5000", "double 1,, x"])
def test_metadata_that_cannot_be_read_are_told(case, tmp_path, text):
    path = support.write(tmp_path / "m.safetensors", support.published(case[1]), **{"chroma.left_out": text})
    with pytest.raises(ValueError, match="m.safetensors: its metadata say chroma.left_out is"):
        export.FileWeights(path)
