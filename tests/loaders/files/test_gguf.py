import struct
import tracemalloc
import warnings

import gguf
import numpy as np
import pytest
import support
import torch

read = support.dev.load_pack("loaders.files.gguf")
Q, V = gguf.GGMLQuantizationType, gguf.GGUFValueType
RNG = np.random.default_rng(0)

VALUES = {  # one of every kind of metadata
    V.UINT8: 200, V.INT8: -3, V.UINT16: 60000, V.INT16: -30000, V.UINT32: 4_000_000_000, V.INT32: -2_000_000_000,
    V.FLOAT32: 0.25, V.BOOL: True, V.STRING: "héllo", V.UINT64: 1 << 63, V.INT64: -(1 << 62), V.FLOAT64: 1 / 3,
}  # fmt: skip


def write(path, tensors, alignment=None, add=lambda writer: None):
    """tensors: name -> array, or (packed array, type)."""
    writer = gguf.GGUFWriter(path, arch="flux")
    if alignment:
        writer.add_custom_alignment(alignment)
    add(writer)
    for name, value in tensors.items():
        array, kind = value if isinstance(value, tuple) else (value, None)
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantised(kind, *shape):
    return gguf.quants.quantize(RNG.standard_normal(shape).astype(np.float32), kind), kind


def assorted():
    return {
        "f32": RNG.standard_normal((3, 5)).astype(np.float32),
        "f16": RNG.standard_normal((2, 3, 4)).astype(np.float16),
        "f64": RNG.standard_normal(3),
        "bf16": quantised(Q.BF16, 2, 3, 4, 4),
        **{f"i{8 * n}": RNG.integers(-99, 99, (n, 7)).astype(f"i{n}") for n in (1, 2, 4, 8)},
        "q8.weight": quantised(Q.Q8_0, 5, 64),
        "q4.weight": quantised(Q.Q4_0, 3, 32),
        "q5.weight": quantised(Q.Q5_1, 2, 3, 96),
        "__marker__": np.zeros(0, np.float32),
        "scalar": np.float32(3.0).reshape(()),
        "last": np.ones(1, np.float32),
    }


def with_values(writer):
    for kind, value in VALUES.items():
        writer.add_key_value(f"one.{kind.name}", value, kind)
        if kind is not V.STRING:
            writer.add_key_value(f"many.{kind.name}", [value] * 3, V.ARRAY, sub_type=kind)
    writer.add_array("texts", ["a", "", "ß" * 40])
    writer.add_key_value("nested", [[1, 2], [3]], V.ARRAY)


def mapped(path):
    tensors, _ = read.read_gguf_header(path)
    return read.map_gguf(path, tensors)


@pytest.fixture
def sound(tmp_path):
    return write(tmp_path / "sound.gguf", assorted(), alignment=64, add=with_values)


@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_tensors_equal_gguf_pys(tmp_path, alignment):
    path = write(tmp_path / "a.gguf", assorted(), alignment, with_values)
    reference = {t.name: t for t in gguf.GGUFReader(path).tensors}
    tensors, _ = read.read_gguf_header(path)
    assert list(tensors) == list(reference)
    dense = read.map_gguf(path, tensors)
    for name, t in reference.items():
        found = tensors[name]
        assert (found.type_name, found.offset, found.nbytes) == (t.tensor_type.name, t.data_offset, t.n_bytes)
        assert found.shape == tuple(int(n) for n in reversed(t.shape))
        assert dense[name].view(-1).view(torch.uint8).numpy().tobytes() == t.data.tobytes()
        if t.tensor_type != Q.BF16:  # which gguf-py leaves as bytes
            assert dense[name].shape == t.data.shape
    assert dense["bf16"].dtype == torch.bfloat16 and dense["bf16"].shape == (2, 3, 4, 4)
    assert dense["q8.weight"].dtype == torch.uint8 and dense["q8.weight"].shape == (5, 68)
    assert dense["scalar"].item() == 3 and dense["__marker__"].shape == (0,)


def test_metadata_of_every_kind_is_read(sound):
    _, metadata = read.read_gguf_header(sound)
    assert metadata["general.architecture"] == "flux" and metadata["general.alignment"] == 64
    for kind, value in VALUES.items():
        assert metadata[f"one.{kind.name}"] == value and type(metadata[f"one.{kind.name}"]) is type(value)
        if kind is not V.STRING:
            many = metadata[f"many.{kind.name}"]
            assert isinstance(many, np.ndarray) and many.tolist() == [value] * 3
    assert metadata["texts"] == ["a", "", "ß" * 40]
    assert [part.tolist() for part in metadata["nested"]] == [[1, 2], [3]]


def test_files_without_tensors_or_metadata_are_read(tmp_path):
    assert read.read_gguf_header(write(tmp_path / "a.gguf", {}))[0] == {}
    bare = tmp_path / "bare.gguf"  # as stable-diffusion.cpp writes: no metadata at all
    bare.write_bytes(b"GGUF" + struct.pack("<IQQ", 2, 0, 0))
    assert read.read_gguf_header(bare) == ({}, {})
    marker = write(tmp_path / "b.gguf", {"__x0__": np.zeros(0, np.float32)})
    assert mapped(marker)["__x0__"].numel() == 0


def test_text_that_is_not_utf8_keeps_its_bytes(tmp_path):
    path = write(tmp_path / "a.gguf", {}, add=lambda w: w.add_array("tokens", [b"\xff\xfe", b"ok"]))
    assert read.read_gguf_header(path)[1]["tokens"] == ["\\xff\\xfe", "ok"]


@pytest.mark.parametrize("sizes, expected", [((2, 3, 4), (2, 3, 4)), ((5, 5), (24,)), ((-4, -6), (24,))])
def test_original_shape_is_taken_when_it_fits(tmp_path, sizes, expected):
    def add(writer):
        writer.add_key_value("comfy.gguf.orig_shape.w", list(sizes), V.ARRAY, sub_type=V.INT32)

    path = write(tmp_path / "a.gguf", {"w": np.arange(24, dtype=np.float32)}, add=add)
    tensors, _ = read.read_gguf_header(path)
    assert tensors["w"].shape == expected
    assert read.map_gguf(path, tensors)["w"].flatten().tolist() == list(range(24))


def test_mapped_tensors_copy_nothing_and_warn_of_nothing(tmp_path):
    path = write(tmp_path / "a.gguf", {"w": np.zeros((1024, 1024), np.float32)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        w = mapped(path)["w"]
    with open(path, "r+b") as f:
        f.seek(-4, 2)
        f.write(struct.pack("<f", 7.0))
    assert w[-1, -1] == 7


def header_of(name=b"w", sizes=(4,), code=0, offset=0, count=1, entries=0, version=3, data=bytes(64), pad=True):
    raw = b"GGUF" + struct.pack("<IQQ", version, count, entries)
    raw += struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    raw += struct.pack("<IQ", code, offset)
    return raw + bytes(-len(raw) % 32) + data if pad else raw


def test_tensor_at_an_odd_place_is_copied(tmp_path):
    path = tmp_path / "odd.gguf"
    path.write_bytes(header_of(offset=3, data=b"abc" + struct.pack("<4f", 1, 2, 3, 4)))
    assert mapped(path)["w"].tolist() == [1, 2, 3, 4]


def test_unknown_type_is_left_to_the_caller(tmp_path):
    path = tmp_path / "new.gguf"
    path.write_bytes(header_of(code=123))
    tensors, _ = read.read_gguf_header(path)
    assert tensors["w"].type_name == "type 123" and tensors["w"].nbytes == 0
    with pytest.raises(ValueError, match="w has tensor type 123, which is not known"):
        read.map_gguf(path, tensors)
    path.write_bytes(header_of(sizes=(256, 2), code=22, data=bytes(164)))
    tensors, _ = read.read_gguf_header(path)
    assert tensors["w"] == read.GGUFTensor("IQ2_S", (2, 256), 96, 164)
    assert read.map_gguf(path, tensors)["w"].shape == (2, 82)


TWICE = header_of(count=2, pad=False) + header_of(pad=False)[24:]
META = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1s", 1, b"k")


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"", "is empty"),
        (b"GG", "not a GGUF file"),
        (b"PK\3\4" + bytes(60), "not a GGUF file"),
        (b"GGUF" + struct.pack("<I", 3), "goes on for 8 bytes at byte 8, the file ends at 8"),
        (header_of(version=1), "GGUF version 1 is not known"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (header_of(count=1 << 60), "announces 1,152,921,504,606,846,976 tensors"),
        (header_of(entries=1 << 60), "metadata entries"),
        (header_of(sizes=(1 << 60,)), "ends at byte"),
        (header_of(sizes=(1 << 60, 1 << 60)), "has the shape"),
        (header_of(sizes=(4, 0)), r"has the shape \[0, 4\]"),
        (header_of(sizes=(1,) * 5), "has 5 sizes, at most 4"),
        (header_of(sizes=(33,), code=8), r"type Q8_0 has the shape \[33\]"),
        (header_of(sizes=(), code=8), r"type Q8_0 has the shape \[\]"),
        (header_of(sizes=(17,)), "'w' ends at byte 132 of 128"),
        (header_of(offset=(1 << 64) - 1), "'w' ends at byte"),
        (header_of(name=b"\xff\xfe"), "tensor name is no UTF-8"),
        (TWICE + bytes(96), "tensor name 'w' comes twice"),
        (TWICE.replace(b"w", b"v", 1) + bytes(96), "lies inside"),
        (META + struct.pack("<IQ", 8, 1 << 60), "goes on for 1,152,921,504,606,846,976 bytes"),
        (META + struct.pack("<IIQ", 9, 0, 1 << 60), "values of 'k'"),
        (META + struct.pack("<IIQ", 9, 8, 1 << 60), "values of 'k'"),
        (META + struct.pack("<IIQ", 9, 77, 0) + struct.pack("<I", 0), None),
        (META + struct.pack("<I", 77) + bytes(8), "value of 'k' is of type 77"),
        (META + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 1000, "in more than 4 others"),
    ],
)
def test_damage_is_named(tmp_path, raw, message):
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    if message is None:  # an empty array of anything is harmless
        read.read_gguf_header(path)
        return
    with pytest.raises(ValueError, match=message) as caught:
        read.read_gguf_header(path)
    assert str(caught.value).startswith("bad.gguf: ")
    assert "Download" in str(caught.value) or "Take the little-endian" in str(caught.value)


@pytest.mark.parametrize("value", [0, 3, 1 << 31])
def test_alignment_that_cannot_be_is_refused(tmp_path, value):
    path = write(tmp_path / "a.gguf", {"w": np.ones(4, np.float32)}, alignment=64)
    key = b"general.alignment" + struct.pack("<I", 4)
    path.write_bytes(path.read_bytes().replace(key + struct.pack("<I", 64), key + struct.pack("<I", value)))
    with pytest.raises(ValueError, match="a.gguf: .*Download it again"):
        read.read_gguf_header(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="none.gguf: there is no such file"):
        read.read_gguf_header(tmp_path / "none.gguf")


def parse(path):
    """Reads a file as a loader does; what comes back must lie inside it."""
    try:
        tensors, _ = read.read_gguf_header(path)
    except ValueError as error:
        assert str(error).startswith(path.name) and str(error).count("\n") == 0
        return False
    size = path.stat().st_size
    assert all(0 <= t.offset and t.offset + t.nbytes <= size for t in tensors.values() if t.nbytes)
    known = {name: t for name, t in tensors.items() if not t.type_name.startswith("type ")}
    for tensor in read.map_gguf(path, known).values():
        tensor.flatten().view(torch.uint8).sum()  # touches every byte
    return True


def test_random_damage_ends_in_a_valueerror_or_a_sound_parse(sound, tmp_path):
    raw = sound.read_bytes()
    header = min(t.offset for t in read.read_gguf_header(sound)[0].values() if t.nbytes)
    rng = np.random.default_rng(1)
    path = tmp_path / "fuzz.gguf"
    fields = [0, 1, 9, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 60, 1 << 63, (1 << 64) - 1]
    outcomes = []
    for case in range(1500):
        damaged = bytearray(raw)
        at = int(rng.integers(0, header))
        match case % 5:
            case 0:
                damaged[at] ^= 1 << int(rng.integers(8))
            case 1:
                damaged[at : at + 8] = struct.pack("<Q", fields[rng.integers(len(fields))])
            case 2:
                damaged[at : at + 4] = struct.pack("<I", fields[rng.integers(len(fields))] & 0xFFFFFFFF)
            case 3:
                del damaged[at : at + int(rng.integers(1, 40))]
            case 4:
                del damaged[int(rng.integers(0, len(raw))) :]
        path.write_bytes(damaged)
        outcomes.append(parse(path))
    assert 0.02 < np.mean(outcomes) < 0.6  # both ends are met


def test_header_of_a_whole_model_takes_little_memory(tmp_path):
    def add(writer):
        writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(32128)])
        writer.add_array("tokenizer.ggml.scores", [float(i) for i in range(32128)])

    path = write(tmp_path / "a.gguf", {f"blocks.{i}.weight": np.ones((2, 2), np.float32) for i in range(643)}, add=add)
    tracemalloc.start()
    _, metadata = read.read_gguf_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(metadata["tokenizer.ggml.tokens"]) == 32128 and metadata["tokenizer.ggml.tokens"][-1] == "token 32127"
    assert metadata["tokenizer.ggml.scores"][7] == 7
    assert peak < 8 << 20
