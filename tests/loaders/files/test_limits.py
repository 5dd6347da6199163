"""What would take long or much memory is refused first. Each file here took 20 seconds to for ever, or gigabytes."""

import io
import json
import struct
import zipfile

import fuzz
import pytest
import support
import torch

header, pickle, gguf, safetensors, read = (
    support.dev.load_pack(f"loaders.files.{n}") for n in ("header", "pickle", "gguf", "safetensors", "read")
)
MANY = header.MAX_TENSORS + 14_000
ENTRY = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'


def safetensors_file(path, text):
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def text(raw):
    return struct.pack("<Q", len(raw)) + raw


def gguf_file(path, tensors=0, entries=0, body=b""):
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + body)
    return path


def refusal(path):
    with pytest.raises(ValueError) as caught, fuzz.guarded(seconds=30):
        read.read_header(path)
    assert fuzz.problem_of(str(caught.value), path.name) is None
    return str(caught.value)


@pytest.mark.parametrize(
    "raw, told",
    [
        (b"{" + b",".join(ENTRY % i for i in range(MANY)) + b"}", "texts and"),
        (b"{" + b",".join(b'"%d":1' % i for i in range(500_000)) + b"}", "500,000 texts"),
        (b'{"__metadata__":{"a":[' + b"[]," * 600_000 + b"1]}}", "600,003 lists"),
        (rb'{"a\\":1,' + b",".join(rb'"%d\\":1' % i for i in range(500_000)) + b"}", "500,001 texts"),
        (b'{"__metadata__":{"a":"' + bytes(header.MAX_HEADER_BYTES) + b'"}}', "less metadata"),
    ],
    ids=["tensors", "texts", "lists", "texts that end in a backslash", "bytes"],
)
def test_long_safetensors_header_is_refused(tmp_path, raw, told):
    assert told in refusal(safetensors_file(tmp_path / "m.safetensors", raw))


def test_long_metadata_of_a_training_is_read(tmp_path):
    tags = json.dumps({"set": {f"a tag of some length {i}": i for i in range(300_000)}})
    raw = json.dumps({"__metadata__": {"ss_tag_frequency": tags}}).encode()
    assert read.read_header(safetensors_file(tmp_path / "m.safetensors", raw)).metadata["ss_tag_frequency"] == tags


@pytest.mark.parametrize("number", ["9" * 4000, str(1 << 63)])
def test_number_beyond_any_file_is_damage(tmp_path, number):
    for shape, place in (("[%s]" % number, "[0,0]"), ("[0]", "[0,%s]" % number)):
        raw = '{"a":{"dtype":"F4","shape":%s,"data_offsets":%s}}' % (shape, place)
        assert "header is damaged" in refusal(safetensors_file(tmp_path / "m.safetensors", raw.encode()))


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda p: gguf_file(p, tensors=MANY, body=bytes(24 * MANY)), f"{MANY:,} tensors"),
        (lambda p: gguf_file(p, entries=MANY, body=bytes(24 * MANY)), f"{MANY:,} tensors"),
        (lambda p: gguf_file(p, entries=1, body=text(b"k") + struct.pack("<IIQ", 9, 8, 2**21) + bytes(2**24)), "texts"),
        (lambda p: gguf_file(p, entries=1, body=text(b"k") + struct.pack("<IIQ", 9, 9, 2**17) + bytes(2**21)), "texts"),
    ],
    ids=["tensors", "entries", "texts", "arrays"],
)
def test_long_gguf_header_is_refused(tmp_path, make, told):
    assert told in refusal(make(tmp_path / "m.gguf"))


@pytest.mark.parametrize("raw", [b"a" * 30_000_000, b"\xff" * 30_000_000])
def test_gguf_text_of_megabytes_is_left_out(tmp_path, raw):
    entries = text(b"long") + struct.pack("<I", 8) + text(raw) + text(b"short") + struct.pack("<I", 8) + text(b"x")
    with fuzz.guarded(seconds=30):
        found = read.read_header(gguf_file(tmp_path / "m.gguf", entries=2, body=entries)).metadata
    assert found == {"long": None, "short": "x"}


def test_odd_bytes_of_a_long_gguf_text_are_shown(tmp_path):
    raw = b"\xff\x80a" * (gguf.MAX_TEXT_BYTES // 3)
    entries = text(b"k") + struct.pack("<I", 8) + text(raw)
    found = read.read_header(gguf_file(tmp_path / "m.gguf", entries=1, body=entries)).metadata
    assert found["k"] == raw.decode("utf-8", "backslashreplace")


def test_long_index_is_refused(tmp_path):
    path = tmp_path / "m.safetensors.index.json"
    path.write_bytes(b'{"weight_map":{' + b",".join(b'"%d":"x.safetensors"' % i for i in range(400_000)) + b"}}")
    assert "at most 8,388,608 are read" in refusal(path)


def repacked(path, compression=zipfile.ZIP_STORED, **parts):
    """torch's own file with more parts in it."""
    raw = io.BytesIO()
    torch.save({"a": torch.ones(2)}, raw)
    source = zipfile.ZipFile(raw)
    with zipfile.ZipFile(path, "w") as archive:
        for entry in source.infolist():
            archive.writestr(entry.filename, source.read(entry))
        for name, data in parts.items():
            archive.writestr(f"archive/{name}", data, compression)
    return path


def test_compressed_pickle_is_refused(tmp_path):
    told = refusal(repacked(tmp_path / "m.pth", zipfile.ZIP_DEFLATED, extra=b"a"))
    assert "archive/extra is compressed" in told and "Take the model's .safetensors file" in told


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(pickle, "MAX_BYTES", 1 << 16)


@pytest.mark.parametrize("parts", [{"extra": bytes(1 << 17)}, {f"data/x{i}": b"" for i in range(1000)}])
def test_pickle_with_much_beside_its_weights_is_refused(tmp_path, small, parts):
    assert "more than 65,536 bytes beside its weights" in refusal(repacked(tmp_path / "m.pth", **parts))


def test_unzipped_pickle_of_endless_instructions_is_refused(tmp_path, small):
    path = tmp_path / "m.pth"
    path.write_bytes(b"\x80\x02" + b"N" * (1 << 17))
    with pytest.raises(ValueError, match="m.pth: refused") as caught:
        read.read_header(path)
    assert "more than 65,536 bytes beside its weights" in str(caught.value.__cause__)


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_not_counted_among_the_rest(tmp_path, small, zipped):
    torch.save({"a": torch.arange(1 << 18)}, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read.read_tensors(tmp_path / "m.pth")["a"], torch.arange(1 << 18))


def test_tensor_of_one_number_for_a_terabyte_is_refused(tmp_path):
    torch.save({"a": torch.ones(1).expand(1 << 40)}, tmp_path / "m.pth")
    assert "a is no plain tensor" in refusal(tmp_path / "m.pth")
