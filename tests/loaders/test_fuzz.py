"""Damaged files are refused with one short ValueError, or load as what they were. `fuzz.UNDETECTABLE` lists the rest."""

import json
import struct
import sys
from collections import Counter

import fuzz
import pytest
import support
import torch

COUNTS = {key: 100 if "pth" in key else 400 for key in fuzz.SAMPLES}


@pytest.fixture
def folders(tmp_path):
    paths = tmp_path / "files", tmp_path / "made"
    for path in paths:
        path.mkdir()
    return paths


@pytest.mark.parametrize("key", fuzz.SAMPLES)
def test_damage_is_refused_or_loads_as_before(folders, key):
    folder, made = folders
    sample = fuzz.SAMPLES[key](made)
    sound = fuzz.load(fuzz.write(folder, sample))
    counts, wrong = Counter(), []
    for mutation in fuzz.mutations(sample, COUNTS[key], seed=0):
        found, problem = fuzz.outcome(folder, sample, sound, mutation)
        counts[mutation.kind, found] += 1
        if problem:
            wrong.append(f"{mutation.kind}: {mutation.what}: {problem}")
    for (kind, found), n in sorted(counts.items()):
        print(f"{key:12} {kind:22} {found:22} {n}")
    assert not wrong, "\n".join(wrong)
    results = Counter()
    for (_, found), n in counts.items():
        results[found] += n
    assert results.total() == COUNTS[key]
    assert results["refused"] > 0.3 * COUNTS[key] and results["same"] > 0  # both ends are met
    assert sum(results[name] for name in fuzz.UNDETECTABLE) < 0.15 * COUNTS[key]


def test_two_thousand_mutations_and_more_are_tried():
    assert sum(n for key, n in COUNTS.items() if "pth" not in key) >= 2000


@pytest.mark.parametrize("key", fuzz.SAMPLES)
def test_sound_sample_holds_the_model(folders, key):
    """So that what the other tests compare with is right: every plain tensor has the values it was written with."""
    folder, made = folders
    sample = fuzz.SAMPLES[key](made)
    found = fuzz.load(fuzz.write(folder, sample))
    weights = support.random_weights(fuzz.config())
    assert found.tensors.keys() == weights.keys()
    for name, (stored,) in found.tensors.items():
        assert stored.shape == tuple(weights[name].shape)
        if stored.format is None:
            values = torch.frombuffer(bytearray(stored.values), dtype=stored.dtype)
            assert torch.equal(values, weights[name].to(stored.dtype).flatten())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_guard_refuses_memory_and_ends_hangs():
    with pytest.raises(MemoryError), fuzz.guarded():
        bytearray(2 * fuzz.MEMORY)
    with pytest.raises(fuzz.Hang), fuzz.guarded(seconds=0.05):
        while True:
            pass
    assert len(bytearray(2 * fuzz.MEMORY)) == 2 * fuzz.MEMORY  # and both are taken back


# --- what fuzzing has found ------------------------------------------------------------------------------------------

QKV = "double_blocks.0.img_attn.qkv"


def header_edited(key, change):
    """Of a safetensors sample: the file with its header changed."""

    def make(folder):
        ((name, raw),) = fuzz.SAMPLES[key](folder).files.items()
        end = 8 + struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8:end])
        return name, fuzz.with_header(change(header) or header, raw[end:])

    return make


def entry_edited(key, tensor, **changes):
    return header_edited(key, lambda header: header[tensor].update(changes))


def renamed(key, old, new):
    return header_edited(key, lambda h: {(new if name == old else name): entry for name, entry in h.items()})


def marked(key, layer, text):
    def make(_):
        entries = fuzz._scaled(key)
        entries[layer + ".comfy_quant"] = fuzz.Entry("U8", (len(text),), text)
        return f"{key}.safetensors", fuzz.safetensors(entries)

    return make


def replaced(key, old, new, count=1):
    """The sample with bytes exchanged."""

    def make(folder):
        ((name, raw),) = fuzz.SAMPLES[key](folder).files.items()
        assert raw.count(old) >= 1
        return name, raw.replace(old, new, count)

    return make


def pickled(key, value):
    return lambda _: (
        "m.pth",
        fuzz._pickled({**support.published(support.random_weights(fuzz.config())), key: value}),
    )


def gguf_name(name, *rest):
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", len(rest)) + struct.pack(f"<{len(rest)}Q", *rest)


FOUND = {
    "scale as int32": (entry_edited("fp8", f"{QKV}.weight_scale", dtype="I32"), "scales of shape .* fit no known"),
    "scale gone": (
        renamed("old fp8", f"{QKV}.scale_weight", f"{QKV}.scale_input"),
        "has input_scale but has no weight",
    ),
    "marked otherwise": (
        entry_edited("fp8", f"{QKV}.weight", dtype="F8_E5M2"),
        "marked as .* but stored as float8_e5m2",
    ),
    "fp8 as int8": (entry_edited("fp8 metadata", f"{QKV}.weight", dtype="I8"), "marked as .* but stored as int8"),
    "ggml's type": (entry_edited("bf16", f"{QKV}.weight", dtype="Q8_0", shape=[2**60, 64]), "has the type 'Q8_0'"),
    "format is a list": (marked("fp8", QKV, b'{"format": ["x"]}'), "expected the name of a format"),
    "format is long": (marked("fp8", QKV, b'{"format": "' + b"A" * 3000 + b'"}'), "which is not supported"),
    "group of no rotation": (
        marked("int8", QKV, b'{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 32}'),
        "in groups of 32 does not fit: expected a power of 4",
    ),
    "convrot is text": (
        marked("int8", QKV, b'{"format": "int8_tensorwise", "convrot": "no"}'),
        "has convrot 'no' in its marker",
    ),
    "marker without format": (marked("int8", QKV, b'{"x": 1}'), "int8, and no comfy_quant marker says"),
    "long name": (renamed("bf16", f"{QKV}.bias", "x" * 10_000), "expected at most 256 characters"),
    "name that cannot be shown": (renamed("bf16", f"{QKV}.bias", "\ud800\n"), "damaged .the name"),
    "name twice": (
        replaced("bf16", b'"double_blocks.0.txt_mlp.0.bias"', b'"double_blocks.0.img_mlp.0.bias"'),
        "damaged .'double_blocks.0.img_mlp.0.bias' comes twice",
    ),
    "metadata of numbers": (header_edited("bf16", lambda h: h.update(__metadata__={"a": 1})), "damaged .metadata"),
    "GGUF prediction": (
        replaced("Q8_0", b"\0x0", b"\0x1"),
        "chroma.prediction is 'x1' .known: v, x0.*Choose prediction",
    ),
    "GGUF size": (
        replaced("Q8_0", gguf_name(b"txt_in.weight", 32, 64), gguf_name(b"txt_in.weight", 31, 64)),
        "128 bytes before .* are unaccounted for",
    ),
    "GGUF longer": (lambda f: ("q8.gguf", fuzz.SAMPLES["Q8_0"](f).files["q8.gguf"] + b"\0"), "its last tensor"),
    "pickled key": (pickled(7, torch.ones(1)), "holds the name 7"),
    "pickled meta tensor": (pickled("a", torch.ones(1, device="meta")), "a is no plain tensor"),
    "pickled sparse tensor": (pickled("a", torch.eye(2).to_sparse()), "a is no plain tensor"),
    "pickle's program": (replaced("pth", b"_rebuild_tensor_v2", b"_rebuild_tensor_v3"), "refused, it is damaged"),
}


@pytest.mark.parametrize("what", FOUND)
def test_damage_once_missed_is_named(folders, what):
    folder, made = folders
    make, message = FOUND[what]
    name, raw = make(made)
    (folder / name).write_bytes(raw)
    with pytest.raises(ValueError, match=message) as caught, fuzz.guarded():
        fuzz.load(folder / name)
    assert fuzz.problem_of(str(caught.value), name) is None


@pytest.mark.parametrize("name", ["\0.safetensors", "x" * 300 + ".safetensors", "a\n.safetensors", "é" * 200, 7, None])
def test_index_that_names_no_file_is_refused(folders, name):
    path = folders[0] / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="model.safetensors.index.json: names .* expected safetensors files") as caught:
        fuzz.load(path)
    assert fuzz.problem_of(str(caught.value), path.name) is None
