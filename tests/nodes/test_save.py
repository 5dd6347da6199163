"""Save Chroma Quantized in this process: names, metadata, what it shows."""

import json
import os
import re

import pytest
import support
from safetensors import safe_open

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack
GRAPH = {"1": {"class_type": "ChromaSaveQuantized", "inputs": {}}}


@pytest.fixture
def model(comfy, inference, tmp_path):
    weights = support.published(support.random_weights(support.config()))
    return load_pack("host.model.load").load_chroma(str(support.write(tmp_path / "tiny.safetensors", weights)))


@pytest.fixture
def run(comfy, model, monkeypatch, tmp_path, caplog):
    """Runs the node into tmp_path/output; returns what it reported."""
    import folder_paths
    from comfy_api.latest import io

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    (tmp_path / "output").mkdir()
    node = load_pack("nodes.save").ChromaSaveQuantized
    values = {io.Hidden.prompt.name: GRAPH, io.Hidden.extra_pnginfo.name: {"workflow": {"nodes": []}}}
    clone = node.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden[name]: v for name, v in values.items()}})
    caplog.set_level("INFO")

    def execute(format="q8_0", prefix="diffusion_models/chroma", **options):
        caplog.clear()
        assert clone.execute(model, format, prefix, **options).args == ()
        return "\n".join(m for m in caplog.messages if m.startswith("Save Chroma Quantized"))

    execute.output = tmp_path / "output"
    execute.node = node
    return execute


@pytest.mark.parametrize("info", [None, "text", ["list"], 5], ids=str)
def test_metadata_of_another_form_is_left_out(run, info):
    found = load_pack("nodes.save").workflow_metadata({"1": {}}, info)
    assert found == {"prompt": '{"1": {}}'}


def test_names_are_numbered_like_those_of_the_hosts_save_nodes(run):
    run()
    run()
    run("fp8_scaled")
    names = sorted(path.name for path in (run.output / "diffusion_models").iterdir())
    assert names == ["chroma_00001_.gguf", "chroma_00002_.gguf", "chroma_00003_.safetensors"]


def test_the_name_is_that_of_the_models_file_by_which_it_is_recognised(run, monkeypatch):
    recognise = load_pack("advice.recognise_preset").recognise
    monkeypatch.setattr(load_pack("nodes.save"), "own_file", lambda model: "Chroma1-HD-Flash.safetensors")
    run("q8_0", "diffusion_models/%model%")
    (path,) = (run.output / "diffusion_models").iterdir()
    assert path.name == "Chroma1-HD-Flash_00001_.gguf"
    assert (
        recognise("Chroma", path.name).name == recognise("Chroma", "Chroma1-HD-Flash.safetensors").name != "Chroma1-HD"
    )


@pytest.mark.parametrize(
    "file, name",
    [
        ("", "chroma"),
        ("m.safetensors.index.json", "m"),
        ("m.safetensors.index.fp16.json", "m"),
        ("Chroma-v1.5-Flash.safetensors.index.json", "Chroma-v1.5-Flash"),
        ("merge with Chroma1-Flash.safetensors", "merge with Chroma1-Flash"),
        ("x.y.sft", "x.y"),
    ],
)
def test_a_models_name_is_that_of_its_own_file(run, monkeypatch, file, name):
    module = load_pack("nodes.save")
    monkeypatch.setattr(module, "own_file", lambda model: file)
    assert module.name_of(object()) == name


def test_a_models_name_leaves_out_the_file_of_its_approximator(comfy, inference, tmp_path):
    weights = support.published(support.random_weights(support.config()))
    names = ("merge with Chroma1-Flash.safetensors", "modulator.safetensors")
    path, approximator = (str(support.write(tmp_path / name, weights)) for name in names)
    loaded = load_pack("host.model.load").load_chroma(path, approximator=approximator)
    assert load_pack("nodes.save").name_of(loaded) == "merge with Chroma1-Flash"


def test_what_a_killed_save_has_left_is_not_counted(run):
    folder = run.output / "diffusion_models"
    folder.mkdir()
    left = folder / "123.chroma_00007_.gguf.partial"
    left.touch()
    run()
    assert sorted(path.name for path in folder.iterdir()) == [left.name, "chroma_00001_.gguf"]


@pytest.mark.parametrize("prefix", ["x" * 260, "x" * 247, "x" * 300 + "/a", "a/" + "\u3042" * 90])
def test_name_that_is_too_long_is_told_before_anything_is_written(run, prefix):
    with pytest.raises(ValueError, match="that name is too long. Choose a shorter one") as caught:
        run(prefix=prefix)
    assert len(str(caught.value)) < 500 and [p for p in run.output.rglob("*") if p.is_file()] == []


@pytest.mark.skipif(os.name == "nt", reason="a name that Linux takes")
def test_name_of_the_greatest_length_is_written(run):
    run(prefix="x" * 243)  # with _00001_.gguf 255, and the temporary one is no longer
    assert [path.name for path in run.output.iterdir()] == ["x" * 243 + "_00001_.gguf"]


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="a folder that nobody may write to")
def test_folder_that_is_read_only_is_told(run, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", "/sys/kernel")
    with pytest.raises(ValueError, match="b: could not be written to /sys/kernel/a: ComfyUI may not write there"):
        run(prefix="a/b")


def test_report_tells_file_size_bits_and_error(run):
    text = run("q8_0")
    path = run.output / "diffusion_models" / "chroma_00001_.gguf"
    assert str(path) in text and f"{path.stat().st_size / 1e6:,.1f} MB" in text
    assert re.search(r"\d\.\d\d bits a weight; 24 linear layers in q8_0, error of their weights 0\.5\d\d%", text)


@pytest.mark.parametrize("format", load_pack("loaders.checkpoint.write_quantised").EXPORTS)
def test_every_format_is_written_and_loads(run, format):
    run(format, "x")
    (path,) = run.output.iterdir()
    assert load_pack("host.model.load").load_chroma(str(path))


def metadata(path):
    if path.suffix == ".gguf":
        return load_pack("loaders.files.read").read_header(path).metadata
    with safe_open(path, "pt") as f:
        return f.metadata()


@pytest.mark.parametrize("format", ["q8_0", "fp8_scaled"])
def test_graph_is_in_the_metadata_unless_the_host_is_told_not_to(run, format, monkeypatch):
    from comfy.cli_args import args

    run(format, "with")
    monkeypatch.setattr(args, "disable_metadata", True)
    run(format, "without")
    found = {path.name.split("_")[0]: metadata(path) for path in run.output.iterdir()}
    assert json.loads(found["with"]["prompt"]) == GRAPH and json.loads(found["with"]["workflow"]) == {"nodes": []}
    assert not {"prompt", "workflow"} & found["without"].keys()
    assert all(m["chroma.source"] == "tiny.safetensors" and m["chroma.format"] == format for m in found.values())


def test_matmul_in_fp8_is_allowed_when_asked(run):
    for name, value in (("on", True), ("off", False)):
        run("fp8_scaled", name, full_precision_matmul=value)
    read_header = load_pack("loaders.files.read").read_header
    for path in run.output.iterdir():
        markers = read_header(path).markers.values()
        assert {m.get("full_precision_matrix_mult", False) for m in markers} == {path.name.startswith("on")}


def test_largest_error_is_met_by_more_bits_for_some_blocks(run):
    text = run("q4_0", max_error=0.06)
    found = re.search(r"(\d) blocks? in q8_0: .*; the output errs by (\d\.\d\d)%, (\d+\.\d\d)% without", text, re.I)
    print(text)
    assert 0 < int(found[1]) < 6 and float(found[2]) <= 6 < float(found[3])
    (path,) = (run.output / "diffusion_models").iterdir()
    assert load_pack("host.model.load").load_chroma(str(path)).model.model_config.loaded.detection.formats.keys() == {
        "Q4_0",
        "Q8_0",
    }


@pytest.mark.parametrize(
    "prefix", ["../escaped", "a/../../escaped", "link/../../escaped", "{}/escaped", "%year%/../../x"]
)
def test_place_outside_of_the_output_folder_is_refused(run, tmp_path, prefix):
    with pytest.raises(ValueError, match="is outside the output folder. Name a folder in it"):
        run("q8_0", prefix.format(tmp_path))
    assert list(run.output.iterdir()) == [] and not list(tmp_path.glob("*escaped*"))


@pytest.mark.parametrize(
    "prefix, made",
    [
        ("link/x", "x_00001_.gguf"),
        ("link/sub/x", "sub/x_00001_.gguf"),
        ("link/%width%/x", "0/x_00001_.gguf"),
        ("{}/link/x", "x_00001_.gguf"),
    ],
)
def test_a_folder_that_the_user_has_linked_is_written_through(run, tmp_path, prefix, made):
    """The host's own save nodes refuse it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    support.link(run.output / "link", disk)
    run(prefix=prefix.format(run.output))
    run(prefix=prefix.format(run.output))
    found = [path.relative_to(disk).as_posix() for path in disk.rglob("*.gguf")]
    assert sorted(found) == [made, made.replace("1_.", "2_.")]
    assert [path.name for path in run.output.iterdir()] == ["link"]


def test_a_name_goes_back_over_a_link_by_its_text(run, tmp_path):
    disk = tmp_path / "there" / "disk"
    disk.mkdir(parents=True)
    support.link(run.output / "link", disk)
    run(prefix="link/../x")
    assert list((tmp_path / "there").rglob("*.gguf")) == []
    assert sorted(path.name for path in run.output.iterdir()) == ["link", "x_00001_.gguf"]


def test_a_link_that_leads_nowhere_is_told(run, tmp_path):
    support.link(run.output / "link", tmp_path / "gone")
    with pytest.raises(
        ValueError, match="a file, or a link that leads nowhere, is in the folder's place. Take it away"
    ):
        run(prefix="link/x")
    assert not (tmp_path / "gone").exists()


def test_schema_is_valid_and_names_every_format(comfy):
    node = load_pack("nodes.save").ChromaSaveQuantized
    schema = node.GET_SCHEMA()
    assert schema.is_output_node and schema.outputs == []
    inputs = {i.id: i for i in schema.inputs}
    assert list(inputs) == ["model", "format", "filename_prefix", "full_precision_matmul", "max_error"]
    assert inputs["format"].options == list(load_pack("loaders.checkpoint.write_quantised").EXPORTS)
    assert all(name in inputs["format"].tooltip for name in inputs["format"].options)
    assert all(i.tooltip for i in schema.inputs)
