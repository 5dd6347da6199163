"""Chroma Compare Models: the figures of the network, through the host's runs; files of activations."""

import pytest
import support
import torch
from host_models import lora_on, native_patcher

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack
LATENT = {"samples": torch.zeros(1, 16, 16, 24)}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    cfg = support.config(double=2, single=3)
    weights = support.random_weights(cfg)
    return cfg, weights, support.write(tmp_path_factory.mktemp("m") / "tiny.safetensors", support.published(weights))


@pytest.fixture
def load(comfy, inference, case):
    return lambda mode="auto": load_pack("host.model.load").load_chroma(str(case[2]), mode)


@pytest.fixture
def text(case):
    return [[torch.randn(1, 9, case[0].context_dim, generator=torch.Generator().manual_seed(2)), {}]]


@pytest.fixture
def node(comfy, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    node = load_pack("nodes.compare_models").ChromaCompareModels.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    return lambda *a, **k: node.execute(*a, **k).args


def differences(model, reference, text, steps=2, seed=3):
    compare = load_pack("host.run.compare")
    return compare.compare(model, text, compare.record(reference, text, LATENT, steps, seed), seed)


def test_a_model_is_equal_to_itself(load, text):
    found = differences(load(), load(), text)
    assert set(found.curve("img") + found.curve("txt")) == {0.0} and found.of("output") == 0
    assert found.text() == "output: 0 relative error\nno block differs"


def test_recorded_activations_are_those_of_the_plain_network(comfy, load, case, text):
    """Which the command compares: both see one network."""
    run_weights, export = load_pack("loaders.checkpoint.run_weights"), load_pack("loaders.checkpoint.write_quantised")
    (point,) = load_pack("host.run.compare").record(load(), text, LATENT, 1, 3)
    wanted = {}
    inputs = [point[name] for name in ("input.x", "input.timestep", "input.context")]
    network = run_weights.WeightsNetwork(export.FileWeights(case[2]))
    network.forward(*inputs, lambda name, value: wanted.update({name: value}))
    assert wanted.keys() == point.keys() - {"input.x", "input.timestep", "input.context", "input.guidance"}
    assert point["input.guidance"].item() == 0
    errors = {name: support.relative(point[name], wanted[name]) for name in wanted}
    print(f"largest {max(errors.values()):.1e}")
    assert max(errors.values()) < 2e-6  # float32; the velocity goes through the host's denoised and back


def test_precisions_are_compared(load, text):
    found = {mode: differences(load(mode), load(), text) for mode in ("q8_0", "int8_convrot", "fp8_scaled")}
    output = {mode: d.of("output") for mode, d in found.items()}
    print(output)
    assert 1e-3 < output["q8_0"] < output["int8_convrot"] < output["fp8_scaled"] < 0.2
    assert all(len(d.worst()) == 4 for d in found.values())


def test_a_lora_shows_from_its_block_on_and_by_its_strength(comfy, load, case, text):
    lora = lora_on(case[1], "single_blocks.1.linear2")
    at = lambda s: comfy.sd.load_lora_for_models(load(), None, lora, s, 0.0)[0]  # noqa: E731
    weak, strong = differences(at(0.1), load(), text, 1), differences(at(0.2), load(), text, 1)
    assert weak.curve("img")[:3] == [0, 0, 0] and weak.worst()[0] == ("single", 1)
    name = "single_blocks.1.img"
    assert strong.of(name) / weak.of(name) == pytest.approx(2, rel=1e-3)  # linear in that block


def test_the_hosts_own_chroma_is_compared(comfy, load, case, text):
    """Its modulations are always 344, so that at this depth only the last two of them are others."""
    found = differences(load(), native_patcher(comfy, *case[:2]), text, 1)
    print(found.curve("img"), found.of("output"))
    assert max(found.curve("img") + found.curve("txt")) < 1e-5
    assert found.of("output") > 0.01  # the final layer's rows, which the host takes from the end of 344


def test_file_of_activations_is_written_and_stands_in_for_the_reference(load, text, node, tmp_path):
    image, report = node(load("q8_0"), load(), text, LATENT, steps=1, seed=3, save_prefix="activations/x")
    assert "written: " in report and image.shape == (1, 640, 1024, 3)
    (file,) = (tmp_path / "activations").iterdir()
    again = node(load("q8_0"), reference_file=f"activations/{file.name}")[1]
    assert again == report.rpartition("\n")[0] and "most is added by" in again


def test_file_made_by_hand_is_compared(load, text, node, tmp_path):
    """As from another program: single streams in one, and only a few blocks."""
    (point,) = load_pack("host.run.compare").record(load(), text, LATENT, 1, 3)
    joint = torch.cat((point["single_blocks.2.txt"], point["single_blocks.2.img"]), dim=1)
    kept = {n: point[n] for n in ("input.x", "input.timestep", "input.context", "double_blocks.0.img")}
    support.write(tmp_path / "d.safetensors", kept | {"single_blocks.2": joint * 1.01})
    assert node(load(), reference_file="d.safetensors")[1] == "most is added by single 2 (0.0099)"


def test_guidance_of_the_prompt_is_kept_with_the_activations(load, text, node, tmp_path):
    guided = [[text[0][0], {"guidance": 2.0}]]
    (point,) = load_pack("host.run.compare").record(load(), guided, LATENT, 1, 3)
    (plain,) = load_pack("host.run.compare").record(load(), text, LATENT, 1, 3)
    assert point["input.guidance"].item() == 2 and support.relative(point["output"], plain["output"]) > 1e-3
    load_pack("loaders.checkpoint.activations").write_dump(tmp_path / "d.safetensors", point)
    assert node(load(), reference_file="d.safetensors")[1].endswith("no block differs")


@pytest.mark.parametrize("key, told", [("reference_latents", "references"), ("control", "a ControlNet")])
def test_what_a_file_does_not_hold_is_named(load, text, node, key, told):
    with pytest.raises(ValueError, match=f"the model is given {told}, which files of activations do not hold"):
        node(load(), load(), [[text[0][0], {key: 1}]], LATENT, save_prefix="x")


@pytest.mark.parametrize(
    "given, told",
    [
        ({}, "positive and latent are missing"),
        ({"positive": 1, "latent": 1}, "there is nothing to compare with"),
        ({"reference": 1, "reference_file": "x"}, "there is a reference and a reference file"),
        (
            {"reference_file": "no.safetensors"},
            "no.safetensors: there is no such file in ComfyUI's input or output folder",
        ),
        ({"reference_file": "../../etc/passwd"}, "there is no such file"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_told(load, text, node, given, told):
    values = {"reference": load, "positive": lambda: text, "latent": lambda: LATENT}
    with pytest.raises(ValueError, match=told):
        node(load(), **{name: values[name]() if value == 1 else value for name, value in given.items()})


@pytest.fixture
def folders(comfy, tmp_path, monkeypatch):
    """Of input, output, and another disk."""
    import folder_paths

    found = [tmp_path / name for name in ("input", "output", "disk")]
    for folder in found:
        folder.mkdir()
    monkeypatch.setattr(folder_paths, "input_directory", str(found[0]))
    monkeypatch.setattr(folder_paths, "output_directory", str(found[1]))
    return found


@pytest.mark.parametrize("at", [0, 1], ids=["input", "output"])
def test_links_in_the_input_and_output_folder_are_followed(folders, at):
    *places, disk = folders
    (disk / "a.safetensors").touch()
    support.link(places[at] / "link.safetensors", disk / "a.safetensors")
    support.link(places[at] / "sub", disk)
    input_path = load_pack("nodes.compare_models").input_path
    for name in ("link.safetensors", "sub/a.safetensors"):
        assert input_path(name) == places[at] / name
    assert input_path(str(places[at] / "sub" / "a.safetensors")) == places[at] / "sub" / "a.safetensors"


def test_activations_go_through_a_link_and_are_read_through_it(load, text, node, tmp_path, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    support.link(tmp_path / "activations", disk)
    report = node(load("q8_0"), load(), text, LATENT, steps=1, seed=3, save_prefix="activations/x")[1]
    assert [path.name for path in disk.iterdir()] == ["x_00001_.safetensors"]
    again = node(load("q8_0"), reference_file="activations/x_00001_.safetensors")[1]
    assert again == report.rpartition("\n")[0]


@pytest.mark.parametrize(
    "name", ["../disk/a.safetensors", "{}/disk/a.safetensors", "sub/../../disk/a.safetensors", "x" * 300]
)
def test_a_name_that_leads_out_of_the_folders_is_refused(folders, tmp_path, name):
    *places, disk = folders
    (disk / "a.safetensors").touch()
    for place in places:
        support.link(place / "sub", disk)
    with pytest.raises(ValueError, match="there is no such file in ComfyUI's input or output folder"):
        load_pack("nodes.compare_models").input_path(name.format(tmp_path))


def test_a_file_written_anew_is_compared_anew(comfy, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    fingerprint = load_pack("nodes.compare_models").ChromaCompareModels.fingerprint_inputs
    assert fingerprint(reference_file="") is None and fingerprint(reference_file=None) is None
    assert fingerprint(reference_file="gone.safetensors") == ""
    (tmp_path / "a.safetensors").write_bytes(b"one")
    before = fingerprint(reference_file="a.safetensors")
    assert fingerprint(reference_file="a.safetensors") == before
    (tmp_path / "a.safetensors").write_bytes(b"three")
    assert fingerprint(reference_file="a.safetensors") != before
