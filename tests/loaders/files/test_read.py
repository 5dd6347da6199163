import hashlib
import json
import pickle
import struct
import sys
import types
from pathlib import Path

import gguf
import pytest
import support
import torch
from safetensors.torch import save_file

read = support.dev.load_pack("loaders.files.read")


@pytest.fixture
def file(tmp_path):
    return support.write(
        tmp_path / "model.safetensors", {"a": torch.randn(3, 4), "b": torch.ones(2).bfloat16()}, note="x"
    )


def test_header_tells_names_types_and_shapes(file):
    header = read.read_header(file)
    assert header.tensors == {"a": read.TensorInfo(torch.float32, (3, 4)), "b": read.TensorInfo(torch.bfloat16, (2,))}
    assert header.metadata == {"note": "x"}


def test_tensors_are_those_of_the_file(file):
    tensors = read.read_tensors(file)
    assert torch.equal(tensors["b"], torch.ones(2).bfloat16())
    assert tensors["a"].shape == (3, 4)


def test_empty_file_is_named(tmp_path):
    path = tmp_path / "empty.safetensors"
    path.touch()
    with pytest.raises(ValueError, match="empty.safetensors: the file is empty. Download it again"):
        read.read_header(path)


def test_a_web_page_is_told_from_a_broken_download(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("\n <!DOCTYPE html><title>Log in</title>")
    with pytest.raises(ValueError, match="model.safetensors: this is a web page.*log-in or a consent. Open the link"):
        read.read_header(path)


def test_absent_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="gone.safetensors: there is no such file"):
        read.read_header(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("keep", [4, 30, -1, -40])
def test_truncated_file_is_an_error_with_a_remedy(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="model.safetensors: .*cut short.*Download it again"):
        read.read_header(file)


@pytest.mark.parametrize(
    "raw",
    [
        b"{not json",
        b"[1, 2]",
        b'{"a": {"dtype": "F32"}}',
        b'{"a": 3}',
        b"\xff\xfe" * 8,
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": []}}',
    ],
)
def test_damaged_header_is_an_error_not_a_crash(tmp_path, raw):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0" * 64)
    with pytest.raises(ValueError, match="bad.safetensors: the safetensors header is damaged"):
        read.read_header(path)


def test_header_length_beyond_the_file_is_an_error(tmp_path):
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(ValueError, match="not a safetensors file, or cut short"):
        read.read_header(path)


def test_type_that_torch_lacks_is_kept_as_text(tmp_path):
    raw = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    path = tmp_path / "new.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0")
    assert read.read_header(path).tensors["a"].dtype == "F4"


class Explosive:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickle_with_code_is_refused_and_not_run(tmp_path):
    proof = tmp_path / "was-run"
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"a": Explosive(proof)}))
    with pytest.raises(ValueError, match="evil.pth: refused.*could run code.*safetensors"):
        read.read_header(path)
    assert not proof.exists()


def test_zipped_pickle_with_code_is_refused_and_not_run(tmp_path):
    proof = tmp_path / "was-run"
    path = tmp_path / "evil.pt"
    torch.save({"a": Explosive(proof)}, path)
    with pytest.raises(ValueError, match="evil.pt: refused"):
        read.read_header(path)
    assert not proof.exists()


@pytest.mark.parametrize("version", ["2.5.1+cu124", "2.9.1"])
def test_pickle_is_not_opened_where_pytorch_could_be_made_to_run_it(tmp_path, monkeypatch, version):
    path = tmp_path / "m.pth"
    torch.save({"x": torch.ones(2)}, path)
    assert read.read_tensors(path)["x"].tolist() == [1, 1]
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("it was opened"))
    for reader in (read.read_header, read.read_tensors):
        with pytest.raises(
            ValueError, match=f"m.pth: not read, .* with PyTorch {version[:5]}.*update PyTorch to 2.10 or newer"
        ):
            reader(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_of_a_quantisers_classes_is_told_by_its_name(tmp_path, monkeypatch, zipped):
    package, module = types.ModuleType("torchao"), types.ModuleType("torchao.dtypes")
    module.Tensor4 = type("Tensor4", (), {"__module__": "torchao.dtypes"})
    path = tmp_path / "int4.pth"
    with monkeypatch.context() as only_while_writing:
        only_while_writing.setitem(sys.modules, "torchao", package)
        only_while_writing.setitem(sys.modules, "torchao.dtypes", module)
        torch.save({"a.weight": module.Tensor4()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match="int4.pth: quantised by torchao, whose classes are not supported. Take a GGUF"
    ):
        read.read_header(path)


def test_pickle_of_other_classes_tells_which(tmp_path):
    path = tmp_path / "whole.pth"
    torch.save({"model": Explosive(tmp_path / "x"), "a": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(ValueError, match="whole.pth: refused.*it needs '.*'.*Take the model's .safetensors"):
        read.read_header(path)


@pytest.mark.parametrize(
    "part, index",
    [
        ("m-00001-of-00002.safetensors", "m.safetensors.index.json"),
        ("m.fp16-00001-of-00002.safetensors", "m.safetensors.index.fp16.json"),  # Hugging Face's name of a variant
        ("m.fp16-00001-of-00002.safetensors", "m.fp16.safetensors.index.json"),
        ("v1.0-x-00001-of-00002.safetensors", "v1.0-x.safetensors.index.json"),
    ],
)
def test_a_part_is_read_as_the_whole_that_its_index_lists(tmp_path, part, index):
    save_file({"a": torch.ones(2)}, tmp_path / part)
    with pytest.raises(ValueError, match=f"^{part}: one part of several, and .*{index}.*which lists them"):
        read.read_header(tmp_path / part)
    (tmp_path / index).write_text(json.dumps({"weight_map": {"a": part}}))
    for name in (part, index):
        assert read.read_header(tmp_path / name).name == index
        assert read.read_tensors(tmp_path / name)["a"].tolist() == [1, 1]


def test_a_single_part_is_the_whole_and_needs_no_index(tmp_path):
    path = tmp_path / "m-00001-of-00001.safetensors"
    save_file({"a": torch.ones(2)}, path)
    assert read.read_header(path).name == path.name and read.read_tensors(path)["a"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00002.bin", "m-00002-of-00003.GGUF"])
def test_part_of_another_kind_is_told_from_a_broken_download(tmp_path, name):
    torch.save({"a": torch.ones(2)}, tmp_path / name)
    with pytest.raises(ValueError, match=f"^{name}: one part of several, .*Take the model as one file"):
        read.read_header(tmp_path / name)


def test_tensor_that_the_index_lists_and_no_part_holds_is_named(tmp_path):
    """Also a last block, whose absence nothing else would show."""
    part = tmp_path / "m-00001-of-00001.safetensors"
    save_file({"a.weight": torch.ones(2)}, part)
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": part.name, "b.weight": part.name}}))
    with pytest.raises(
        ValueError, match="index.json: .b.weight., one of 1 tensors that it lists, is in none of its parts"
    ):
        read.read_header(index)


def sharded(folder, *said):
    """A file for each text that its metadata has of its quantised layers, and the index of all."""
    parts = [f"m-{i:05d}-of-{len(said):05d}.safetensors" for i in range(1, len(said) + 1)]
    for name, text in zip(parts, said):
        save_file({name: torch.ones(2)}, folder / name, metadata={"format": "pt", "_quantization_metadata": text})
    index = folder / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: name for name in parts}}))
    return index


def in_a_cache(files, folder):
    """The files moved as Hugging Face's cache keeps them: under their hash in `blobs`, and a link in `snapshots` to each."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "0a1b"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for file in files:
        blob = blobs / hashlib.sha256(file.name.encode()).hexdigest()
        file.rename(blob)
        support.link(snapshot / file.name, Path("..", "..", "blobs", blob.name))
    return snapshot


@pytest.mark.parametrize("asked", ["m.safetensors.index.json", "m-00001-of-00002.safetensors"])
def test_shards_of_a_cache_are_links_to_files_without_ending_and_are_read(tmp_path, asked):
    index = sharded(tmp_path, layers(), layers())
    parts = sorted(tmp_path.glob("m-*"))
    snapshot = in_a_cache([index, *parts], tmp_path)
    header, tensors = read.read_header(snapshot / asked), read.read_tensors(snapshot / asked)
    assert header.tensors.keys() == tensors.keys() == {part.name for part in parts}
    assert all(torch.equal(tensor, torch.ones(2)) for tensor in tensors.values())
    assert read.files_of(snapshot / asked) == [snapshot / name for name in (index.name, *(p.name for p in parts))]


def test_a_part_that_is_a_link_to_nowhere_is_missing(tmp_path):
    index = sharded(tmp_path, layers(), layers())
    gone = tmp_path / "m-00002-of-00002.safetensors"
    gone.unlink()
    support.link(gone, tmp_path / "blobs" / "gone")
    with pytest.raises(ValueError, match=f"{gone.name}, one of 2 parts, is missing"):
        read.read_header(index)


@pytest.mark.parametrize("suffix", ["safetensors", "gguf", "pt"])
def test_a_file_that_is_a_link_is_of_the_kind_that_its_own_name_tells(tmp_path, suffix):
    if suffix == "pt" and torch.__version__ < (2, 10):
        pytest.skip("pickles are not read by this PyTorch")
    path, wanted = tmp_path / f"m.{suffix}", torch.arange(64.0).reshape(2, 32)
    if suffix == "gguf":
        writer = gguf.GGUFWriter(path, "flux")
        writer.add_tensor("a", wanted.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    elif suffix == "pt":
        torch.save({"a": wanted}, path)
    else:
        save_file({"a": wanted}, path)
    linked = in_a_cache([path], tmp_path) / path.name
    assert read.read_header(linked).tensors["a"].shape == (2, 32)
    assert torch.equal(read.read_tensors(linked)["a"], wanted)


def layers(**formats):
    return json.dumps({"format_version": "1.0", "layers": {k: {"format": v} for k, v in formats.items()}})


def test_quantised_layers_of_all_parts_are_known(tmp_path):
    index = sharded(tmp_path, layers(a="float8_e4m3fn", b="int8_tensorwise"), layers(), layers(c="float8_e4m3fn"))
    metadata = read.read_header(index).metadata
    assert json.loads(metadata.pop("_quantization_metadata")) == json.loads(
        layers(a="float8_e4m3fn", b="int8_tensorwise", c="float8_e4m3fn")
    )
    assert metadata == {"format": "pt"}


def test_parts_may_all_tell_of_all_layers_but_not_of_one_layer_differently(tmp_path):
    same = layers(a="float8_e4m3fn", b="float8_e4m3fn")
    said = read.read_header(sharded(tmp_path, same, same)).metadata["_quantization_metadata"]
    assert json.loads(said) == json.loads(same)
    with pytest.raises(ValueError, match="^m-00002-of-00002.safetensors: .* describes 'a' otherwise than another part"):
        read.read_header(sharded(tmp_path, same, layers(a="int8_tensorwise")))


@pytest.mark.parametrize("text", ["", "[]", '{"layers": {"a": 1}}'])
def test_part_with_damaged_word_of_its_layers_is_named(tmp_path, text):
    with pytest.raises(ValueError, match="^m-00001-of-00002.safetensors: _quantization_metadata is damaged"):
        read.read_header(sharded(tmp_path, text, layers(b="float8_e4m3fn")))


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"state_dict": d}, lambda d: {"model": d, "step": 3}])
def test_pickle_of_plain_tensors_loads(tmp_path, wrap):
    path = tmp_path / "plain.pth"
    torch.save(wrap({"a": torch.ones(2)}), path)
    assert read.read_header(path).tensors == {"a": read.TensorInfo(torch.float32, (2,))}
    assert torch.equal(read.read_tensors(path)["a"], torch.ones(2))


@pytest.mark.parametrize("zipped", [True, False])
def test_parameters_of_a_pickle_keep_nothing_for_gradients(tmp_path, zipped):
    path = tmp_path / "parameters.pth"
    torch.save({"a": torch.nn.Parameter(torch.ones(2))}, path, _use_new_zipfile_serialization=zipped)
    tensor = read.read_tensors(path)["a"]
    assert type(tensor) is torch.Tensor and not tensor.requires_grad and tensor.tolist() == [1, 1]


def test_pickle_without_tensors_is_an_error(tmp_path):
    path = tmp_path / "words.pth"
    torch.save({"a": "b"}, path)
    with pytest.raises(ValueError, match="holds no named tensors"):
        read.read_header(path)


@pytest.mark.parametrize("name, told", [("m.gguf", "GGUF header is damaged"), ("m.onnx", "unknown file type '.onnx'")])
def test_other_file_types_are_told(tmp_path, name, told):
    path = tmp_path / name
    path.write_bytes(b"GGUF" if name.endswith("gguf") else b"\x08\x07")
    with pytest.raises(ValueError, match=told):
        read.read_header(path)


def test_old_unzipped_pickle_of_plain_tensors_loads(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read.read_tensors(path)["a"], torch.ones(2))
