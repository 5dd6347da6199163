"""What bears a model's name and is none, or one of another kind, is told by what it is."""

import gzip
import json
import struct

import pytest
import support
import torch
from safetensors.torch import save

read = support.dev.load_pack("loaders.files.read")

NAMES = ("m.safetensors", "m.sft", "m.gguf", "m.pth", "m.bin")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 17800038288\n"
NO_MODELS = {
    "LFS pointer": (POINTER, "a pointer of Git LFS of .* bytes, not the model. Run git lfs pull"),
    "page": ("\n <!DOCTYPE html><title>Log in</title>", "this is a web page, not a model.*in a browser"),
    "page with a mark": ("\ufeff<html>" + "é" * 2000, "this is a web page, not a model"),
    "error as XML": (
        "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "this is a web page, not a model",
    ),
    "error as JSON": (
        json.dumps({"error": "Access to model x is restricted. Please log in"}),
        "holds text of 59 bytes, not a model: 'Access to model x is restricted. Please log in'. Download the file itself",
    ),
    "message as JSON": ('{"message": "Not found"}', "holds text of 24 bytes, not a model: 'Not found'"),
    "JSON": ('{\n  "_class_name": "ChromaTransformer2DModel"\n}', "holds text of .* not a model: '.*Chroma"),
    "list": ("[1]", "holds text of 3 bytes, not a model"),
    "sentence": ("Entry not found", "holds text of 15 bytes, not a model: 'Entry not found'"),
    "long text": ("ä" * 4000, "holds text of 8,000 bytes, not a model"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", NO_MODELS)
def test_what_was_saved_in_a_models_place_is_told(tmp_path, name, what):
    text, told = NO_MODELS[what]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{name}: {told}") as error:
        read.read_header(path)
    assert "damaged" not in str(error.value) and "again" not in str(error.value)


@pytest.mark.parametrize("what", ["LFS pointer", "page", "error as XML"])
def test_index_and_its_parts_are_looked_at_too(tmp_path, what):
    text, told = NO_MODELS[what]
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ValueError, match=told):
        read.read_header(index)
    part = tmp_path / "m-00001-of-00001.safetensors"
    index.write_text(json.dumps({"weight_map": {"a": part.name}}))
    part.write_text(text)
    with pytest.raises(ValueError, match=f"^{part.name}: {told}"):
        read.read_header(index)


def test_page_in_an_old_encoding_is_told(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes("<html>Zugriff für Gäste".encode("latin-1"))
    with pytest.raises(ValueError, match="this is a web page"):
        read.read_header(path)


def torch_file(zipped):
    def content(tmp_path):
        torch.save({"a": torch.ones(2)}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
        return (tmp_path / "x").read_bytes()

    return content


OTHERS = {
    "GGUF": (
        lambda _: b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
        "a GGUF file .*Rename it so that it ends in .gguf",
        ".gguf",
    ),
    "zipped": (torch_file(True), "one of torch's own files.*ends in .pth", ".pth"),
    "unzipped": (torch_file(False), "one of torch's own files.*ends in .pth", ".pt"),
    "safetensors": (lambda _: save({"a": torch.ones(2)}), "a safetensors file .*ends in .safetensors", ".safetensors"),
    "gzip": (lambda _: gzip.compress(save({"a": torch.ones(2)})), r"an archive \(gzip\).*Unpack it", None),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".gguf", ".pth"])
@pytest.mark.parametrize("what", OTHERS)
def test_file_of_another_kind_than_its_name_says_is_told(tmp_path, what, suffix):
    content, told, own = OTHERS[what]
    path = tmp_path / ("m" + suffix)
    path.write_bytes(content(tmp_path))
    if own == suffix or (own == ".pt" and suffix == ".pth"):
        read.read_header(path)
        return
    with pytest.raises(ValueError, match=f"^m{suffix}: this is {told}"):
        read.read_header(path)


@pytest.mark.parametrize("length", [0x280, 0x8B1F, 0x3C])
def test_header_whose_length_looks_like_another_kinds_first_bytes_is_read(tmp_path, length):
    """640 is how torch's old files begin, 0x3C a "<"."""
    raw = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, separators=(",", ":"))
    raw = (raw if len(raw) <= length else "{}").ljust(length).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", length) + raw + (b"\0" if b"U8" in raw else b""))
    assert len(read.read_header(path).tensors) <= 1
