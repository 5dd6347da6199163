"""Activations of a forward, block by block from a file; written, read, compared; and the command that does all of it."""

import subprocess
import sys

import pytest
import support
import torch

load_pack = support.dev.load_pack
activations = load_pack("loaders.checkpoint.activations")
export = load_pack("loaders.checkpoint.write_quantised")
run_weights = load_pack("loaders.checkpoint.run_weights")
run_block = load_pack("chroma_model.transformer").run_block


@pytest.fixture(scope="module", params=["Chroma", "Radiance"])
def case(request, tmp_path_factory):
    cfg = support.config(double=2, single=3, **({} if request.param == "Chroma" else support.RADIANCE))
    weights = support.random_weights(cfg)
    folder = tmp_path_factory.mktemp("m")
    return cfg, weights, support.write(folder / "a.safetensors", support.published(weights))


def given(cfg):
    return support.inputs(cfg, height=16, width=24).values()


def activations_of(path, cfg, change=None):
    found = {}
    net = run_weights.WeightsNetwork(export.FileWeights(path), change=change)
    net.forward(*given(cfg), lambda name, value: found.update({name: value}))
    return found


def test_block_by_block_it_is_the_whole_network(case):
    cfg, weights, path = case
    net, wanted = support.build(cfg), {}
    net.load_state_dict(weights)

    def run(kind, index, block, **streams):
        num_txt = streams.get("num_txt")
        out = run_block(kind, index, block, **streams)
        if kind != "input":
            img, txt = out if kind == "double" else (out[:, num_txt:], out[:, :num_txt])
            wanted.update({f"{kind}_blocks.{index}.img": img, f"{kind}_blocks.{index}.txt": txt})
        return out

    wanted["output"] = net(*given(cfg), run_block=run)
    found = activations_of(path, cfg)
    assert set(found) == {*wanted, "embed.img", "embed.txt"}
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_guidance_is_that_of_the_kind_of_model_unless_it_is_given(case, tmp_path):
    """FLUX under an Approximator runs at 3.5."""
    cfg, weights, _ = case
    path = support.write(tmp_path / "f.safetensors", support.published(weights), **{"chroma.variant": "FLUX"})
    net = support.build(cfg)
    net.load_state_dict(weights)
    network = run_weights.WeightsNetwork(export.FileWeights(path))
    usual = 3.5 if cfg.nerf is None else 0.0
    for given_one, wanted in ((None, usual), (torch.zeros(1), 0.0), (torch.tensor([2.0]), 2.0)):
        found = network.forward(*given(cfg), guidance=given_one)
        assert torch.equal(found, net(*given(cfg), guidance=torch.tensor([wanted])))


def test_no_block_stays_in_memory(case):
    net = run_weights.WeightsNetwork(export.FileWeights(case[2]))
    net.forward(*given(case[0]))
    blocks = (*net.network.double_blocks, *net.network.single_blocks)
    assert all(p.is_meta for block in blocks for p in block.parameters())


def test_errors_are_relative_and_the_block_that_adds_them_is_named(case):
    cfg, _, path = case
    wanted = activations_of(path, cfg)
    torch.manual_seed(1)
    found = activations_of(
        path,
        cfg,
        lambda n, w: w + 0.02 * w.std() * torch.randn_like(w) if ".1." in n and "single" in n and w.ndim == 2 else w,
    )
    differences = activations.Differences()
    for name in found:
        differences.add(name, found[name], wanted[name])
    assert differences.blocks() == [("double", 0), ("double", 1), ("single", 0), ("single", 1), ("single", 2)]
    assert differences.curve("img")[:3] == [0, 0, 0] and differences.curve("img")[3] > 1e-3
    name = "single_blocks.2.img"
    assert differences.of(name) == pytest.approx(support.relative(found[name], wanted[name]), rel=1e-5)
    assert differences.worst()[0] == ("single", 1)
    assert "most is added by single 1" in differences.text()


def test_added_is_the_root_of_the_difference_of_squares():
    differences = activations.Differences()
    one = torch.ones(1, 4, 8)
    for name, error in (
        ("embed.img", 0.0),
        ("double_blocks.0.img", 0.3),
        ("double_blocks.1.img", 0.5),
        ("single_blocks.0.img", 0.4),
    ):
        differences.add(name, one * (1 + error), one)
    assert differences.added() == pytest.approx({("double", 0): 0.3, ("double", 1): 0.4, ("single", 0): 0.0}, abs=1e-6)


def test_written_and_read_it_is_the_same(case, tmp_path):
    cfg, _, path = case
    tensors = dict(zip(activations.INPUTS, given(cfg))) | activations_of(path, cfg)
    file = tmp_path / "d.safetensors"
    activations.write_dump(file, tensors)
    assert activations.is_dump(file) and not activations.is_dump(path)
    assert support.equal(activations.read_dump(file), tensors)


def test_single_streams_in_one_are_split(tmp_path):
    """As other programs hold them."""
    x = {"input.x": torch.zeros(1, 16, 4, 4), "input.timestep": torch.ones(1), "input.context": torch.zeros(1, 3, 8)}
    joint = torch.randn(1, 7, 16)
    found = activations.read_dump(support.write(tmp_path / "d.safetensors", x | {"single_blocks.0": joint}))
    assert torch.equal(found["single_blocks.0.txt"], joint[:, :3])
    assert torch.equal(found["single_blocks.0.img"], joint[:, 3:])


@pytest.mark.parametrize(
    "change, told",
    [
        ({"input.timestep": None}, "input.timestep is missing, expected 1 dimensions"),
        ({"input.x": torch.zeros(2, 16, 4, 4)}, r"input.x is \(2, 16, 4, 4\), expected 4 dimensions"),
        (
            {"input.timestep": torch.tensor([700.0])},
            "input.timestep is 700, expected above 0 and at most 1. Divide it by",
        ),
        ({"input.timestep": torch.zeros(1)}, "input.timestep is 0, expected above 0"),
        ({"double.0": torch.zeros(1)}, "double.0 is no name of an activation. Names are double_blocks.N.img"),
        (
            {"single_blocks.0": torch.zeros(1, 2, 4)},
            r"single_blocks.0 is \(1, 2, 4\), expected \(1, more than 3, width\)",
        ),
    ],
)
def test_files_that_hold_something_else_are_told(tmp_path, change, told):
    x = {"input.x": torch.zeros(1, 16, 4, 4), "input.timestep": torch.ones(1), "input.context": torch.zeros(1, 3, 8)}
    tensors = {name: t for name, t in (x | change).items() if t is not None}
    with pytest.raises(ValueError, match=f"^d.safetensors: {told}"):
        activations.read_dump(support.write(tmp_path / "d.safetensors", tensors))


def command(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "tools", "compare", *map(str, arguments)],
        cwd=support.ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_command_compares_precisions_and_a_file_of_activations(case, tmp_path):
    cfg, _, path = case
    small = tmp_path / "q4.gguf"
    export.write_model(export.FileWeights(path), small, "q4_0")
    size = ("--size", 64, "--tokens", 9)
    rc, text, _ = command(small, path, *size, "--write", tmp_path / "d.safetensors")
    assert rc == 0 and "most is added by" in text
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines[1:6]] == [
        ["double", "0"],
        ["double", "1"],
        *(["single", str(i)] for i in range(3)),
    ]
    error = float(lines[6].split()[1])
    assert 0.01 < error < 1 and lines[6] == f"output: {error:.3g} relative error"
    again = command(small, tmp_path / "d.safetensors")[1].splitlines()[6]  # the same inputs, the same activations
    assert float(again.split()[1]) == pytest.approx(error, rel=1e-3)
    rc, text, _ = command(path, tmp_path / "d.safetensors")
    output = next(line for line in text.splitlines() if line.startswith("output: "))
    assert rc == 0 and float(output.split()[1]) < 1e-6  # several threads do not add in the same order each time


def test_command_tells_what_it_cannot_compare(case, tmp_path):
    other = support.config(double=1, single=1, context=32)
    path = support.write(tmp_path / "o.safetensors", support.published(support.random_weights(other)))
    rc, _, error = command(case[2], path)
    assert rc == 1 and error.startswith("compare: ") and error.count("\n") == 1
    rc, _, error = command(case[2], tmp_path / "none")
    assert rc == 2 and "there is no such file" in error
    rc, text, _ = command("--help")
    assert rc == 0 and "single_blocks.N.img" in text and "input.timestep" in text
