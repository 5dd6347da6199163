"""Whatever a file is called, what nodes log and raise can be written to any terminal: else ComfyUI's queue ends."""

import asyncio
import io
import os
import traceback
from types import SimpleNamespace

import pytest
import support
from safetensors import safe_open

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack
LORA = {"single_blocks.0.linear2.lora_A.weight": (4, 640), "single_blocks.0.linear2.lora_B.weight": (128, 4)}
STEMS = {"kana": "モデル", "blocks": "█é", "no UTF-8": os.fsdecode(b"mod\xff\xe9l")}


@pytest.fixture(params=["ascii", "cp1252", "utf-8"])
def encoding(request, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=request.param)
    streams = SimpleNamespace(stdout=stream, stderr=stream)  # those of sys are pytest's
    monkeypatch.setattr(load_pack("loaders.files.error_text"), "sys", streams)
    return request.param


@pytest.fixture
def nodes(comfy, inference, monkeypatch, tmp_path, caplog):
    import folder_paths

    folders = {kind: tmp_path / kind for kind in ("diffusion_models", "text_encoders", "loras", "output")}
    for kind, folder in folders.items():
        folder.mkdir()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".safetensors", ".pth"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "output_directory", str(folders["output"]))
    caplog.set_level("INFO")
    return {n.__name__: n for n in asyncio.run(load_pack("nodes").ChromaExtension().get_node_list())}


def write(folder, stem, tensors, suffix=".safetensors"):
    """Written under a plain name, then renamed: not every writer takes the other."""
    plain = support.write(folder / "plain.safetensors", tensors)
    try:
        return str(plain.rename(folder / (stem + suffix)).name)
    except (OSError, UnicodeError):
        pytest.skip("no such name on this disk")


def execute(nodes, name, *values):
    return nodes[name].PREPARE_CLASS_CLONE(None).execute(*values).args


def tiny(folder, stem):
    return write(folder, stem, support.published(support.random_weights(support.config())))


def check(text, encoding):
    assert text and text.encode(encoding)


def error_of(nodes, name, *values):
    """All that the host logs of an error."""
    with pytest.raises(ValueError) as caught:
        execute(nodes, name, *values)
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("stem", list(STEMS.values())[:2], ids=list(STEMS)[:2])
def test_model_lora_and_written_file_of_any_name_are_told(nodes, encoding, stem, tmp_path, caplog):
    (model,) = execute(nodes, "ChromaDiffusionLoader", tiny(tmp_path / "diffusion_models", stem), "keep")
    lora = {name: support.torch.zeros(shape) for name, shape in LORA.items()}
    (model,) = execute(nodes, "ChromaLoraLoader", model, write(tmp_path / "loras", stem, lora), 1.0)
    for format in ("fp8_scaled", "q8_0"):
        execute(nodes, "ChromaSaveQuantized", model, format, stem)
    assert sorted(os.listdir(tmp_path / "output")) == [f"{stem}_00001_.safetensors", f"{stem}_00002_.gguf"]
    with safe_open(tmp_path / "output" / f"{stem}_00001_.safetensors", "pt") as f:
        f.metadata()["chroma.source"].encode(encoding)
    for record in caplog.records:
        check(record.getMessage(), encoding)


@pytest.mark.parametrize("stem", STEMS.values(), ids=STEMS)
@pytest.mark.parametrize(
    "node, kind, more",
    [
        ("ChromaDiffusionLoader", "diffusion_models", ("keep",)),
        ("ChromaCLIPLoader", "text_encoders", ()),
        ("ChromaLoraLoader", "loras", ()),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_file_of_any_name_is_told(nodes, encoding, stem, node, kind, more, suffix, tmp_path):
    model = ()
    if kind == "loras":
        model = execute(nodes, "ChromaDiffusionLoader", tiny(tmp_path / "diffusion_models", "m"), "keep")
    name = write(tmp_path / kind, stem, {"a": support.torch.ones(1)}, suffix)
    told = error_of(nodes, node, *model, name, *more, *((1.0,) if model else ()))
    check(told, encoding)
    assert ("bytes that are not UTF-8" in told and "Rename it" in told) == (stem == STEMS["no UTF-8"])
    damaged = tmp_path / kind / name
    damaged.write_bytes(damaged.read_bytes()[:20])
    check(error_of(nodes, node, *model, name, *more, *((1.0,) if model else ())), encoding)


def test_written_file_whose_name_is_not_utf8_is_whole(nodes, encoding, tmp_path, caplog):
    (model,) = execute(nodes, "ChromaDiffusionLoader", tiny(tmp_path / "diffusion_models", "m"), "keep")
    stem = STEMS["no UTF-8"]
    write(tmp_path / "output", stem, {"a": support.torch.ones(1)})  # skips where there can be none
    for format in ("fp8_scaled", "q8_0"):
        execute(nodes, "ChromaSaveQuantized", model, format, stem)
    gguf = tmp_path / "output" / f"{stem}_00002_.gguf"
    assert len(load_pack("loaders.files.read").read_header(gguf).tensors) > 50
    for record in caplog.records:
        check(record.getMessage(), encoding)


def test_errors_of_every_node_are_encodable(nodes, encoding):
    for node in nodes.values():
        assert node.execute.__func__.__wrapped__


def test_trace_of_an_error_that_came_from_another_is_encodable(comfy, encoding):
    report = load_pack("nodes.shared.report")

    @report.with_report
    def fails(cls):
        try:
            open("/none/モデル█\udcff")
        except OSError as error:
            raise KeyError("█") from error

    with pytest.raises(KeyError) as caught:
        fails(None)
    shown = str(caught.value), str(caught.value.__cause__)
    assert all(text.encode(encoding) for text in shown)


def test_bar_of_a_report_stays_out_of_the_log(comfy, caplog):
    caplog.set_level("INFO")
    load_pack("nodes.shared.report").show("Node", None, "███░░ 300 of 512 tokens\n██ 2 of 3")
    assert caplog.messages == ["Node: 300 of 512 tokens; 2 of 3"]
