"""Small sound files of every kind, every way to damage them, and what a loader makes of the result.

A sample is a model of one double and one single block. `mutations` first goes through the fields of its header, each
with values that have broken parsers, then damages bytes anywhere. `load` is the loader's way without a host:
header, detection, check, tensors, unpacking.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import signal
import struct
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

import gguf
import kquants
import support
import torch
from torch import Tensor

MAX_MESSAGE = 600  # characters of an error
SECONDS = 5.0  # one file may take; 10 ms is usual
MEMORY = 512 << 20  # bytes that one file may make the process grow by
ALIGNMENT = 32  # of the GGUF samples

DEEP, NAN, BAD_UTF8, HUGE = "\x01deep", "\x01nan", "\x01utf8", "\x01huge"  # stand for what Python does not write
RAW = {DEEP: b"[" * 100_000 + b"]" * 100_000, NAN: b"NaN", BAD_UTF8: b'"\xff\xfe\x80"', HUGE: b"1" + b"0" * 5000}
NUMBERS = (0, 1, -1, 2, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**60, 2**63 - 1, 2**63, 2**64 - 1, 2**64)
NASTY = (
    *(*NUMBERS, 0.5, -0.0, 1e308, float("inf"), NAN, HUGE, None, True, False),
    *("", "x", "0", "\0", "\ud800", "é" * 300, "\n" * 20, "A" * 100_000, "../x", BAD_UTF8),
    *([], [0], [[]], [2**62] * 9, [1] * 5000, [None], ["x"], {}, {"a": {}}, {"format": []}, DEEP),
)
DTYPES = (
    *("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "I64", "I32", "I16", "I8", "U64", "U32", "U16"),
    *("U8", "BOOL", "F4", "F6_E2M3", "F6_E3M2", "C64", "Q8_0", "Q4_K", "bf16", "torch.float32", "type 7"),
)
NAMES = ("weight_scale", "input_scale", "comfy_quant", "absmax", "scale", "weight", "scaled_fp8", "__x0__")
UNSIGNED = tuple(n for n in NUMBERS if 0 <= n < 2**64)


@dataclass(frozen=True)
class Sample:
    """A sound file, or an index and its shards. opened: which of the files the loader is given."""

    opened: str
    files: dict[str, bytes]


@dataclass(frozen=True)
class Mutation:
    """kind: what was changed, for counting; what: the same in detail; files: those that changed.

    header: no weight's bytes were changed, so that what still loads must equal the original.
    resized: bytes came or went behind the header, which must be noticed.
    """

    kind: str
    what: str
    files: dict[str, bytes]
    header: bool = True
    resized: bool = False


# --- samples ---------------------------------------------------------------------------------------------------------


def config(**more: Any) -> Any:
    sizes = {"width": 64, "heads": 2, "double": 1, "single": 1, "context": 32, "channels": 16}
    return support.config(**{**sizes, "approximator": (64, 32, 1), **more})


@dataclass
class Entry:
    dtype: str
    shape: tuple[int, ...]
    raw: bytes


Entries = dict[str, Entry]
CODES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.uint8: "U8",
}


def entry(tensor: Tensor) -> Entry:
    raw = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return Entry(CODES[tensor.dtype], tuple(tensor.shape), raw)


def safetensors(entries: Entries, metadata: dict[str, Any] | None = None) -> bytes:
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for name, e in entries.items():
        header[name] = {"dtype": e.dtype, "shape": list(e.shape), "data_offsets": [end, end + len(e.raw)]}
        end += len(e.raw)
    return with_header(header, b"".join(e.raw for e in entries.values()))


def with_header(header: Any, data: bytes) -> bytes:
    return framed(text_of(header), data)


def framed(text: bytes, data: bytes) -> bytes:
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def text_of(value: Any) -> bytes:
    out = json.dumps(value).encode()
    for mark, raw in RAW.items():
        out = out.replace(json.dumps(mark).encode(), raw)
    return out


def _in_block(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and name.startswith(("double_blocks.", "single_blocks."))


def _scaled(kind: str) -> Entries:
    """The tiny model with its blocks' weights in an 8- or 4-bit format, each with what stands beside it."""
    out: Entries = {}
    for name, tensor in support.published(support.random_weights(config()), dtype=torch.bfloat16).items():
        if not _in_block(name, tensor):
            out[name] = entry(tensor)
            continue
        stem, wide = name.removesuffix(".weight"), tensor.float()
        scale = wide.abs().amax() / 448
        if kind in ("old", "fp8", "metadata"):
            out[name] = entry((wide / scale).to(torch.float8_e4m3fn))
            out[f"{stem}.{'scale_weight' if kind == 'old' else 'weight_scale'}"] = entry(scale.reshape(1))
            marker = {"format": "float8_e4m3fn"}
        elif kind == "int8":  # rotating such rows leaves their statistics as they are
            rows = wide.abs().amax(1, keepdim=True) / 127
            out[name] = entry((wide / rows).round().to(torch.int8))
            out[f"{stem}.weight_scale"] = entry(rows)
            marker = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64}
        else:
            n, k = wide.shape
            codes = torch.randint(0, 256, (n, k // 2), generator=torch.Generator().manual_seed(0))
            out[name] = entry(codes.to(torch.uint8))
            blocks = torch.ones(-(-n // 128) * 128, -(-(k // 16) // 4) * 4)
            out[f"{stem}.weight_scale"] = entry(blocks.to(torch.float8_e4m3fn))
            out[f"{stem}.weight_scale_2"] = entry(torch.tensor(0.3 * k**-0.5))
            marker = {"format": "nvfp4"}
        if kind not in ("old", "metadata"):
            out[f"{stem}.comfy_quant"] = Entry("U8", (len(json.dumps(marker)),), json.dumps(marker).encode())
    if kind == "old":
        out["scaled_fp8"] = entry(torch.zeros(2).to(torch.float8_e4m3fn))
    return out


def _metadata(entries: Entries) -> dict[str, str]:
    layers = {
        n.removesuffix(".weight"): {"format": "float8_e4m3fn"} for n, e in entries.items() if e.dtype == "F8_E4M3"
    }
    return {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


def _plain() -> Entries:
    weights = support.published(support.random_weights(config()), dtype=torch.bfloat16)
    return {"__x0__": Entry("F32", (0,), b""), **{name: entry(tensor) for name, tensor in weights.items()}}


def _sharded() -> Sample:
    plain = list(_plain().items())
    parts = [dict(plain[: len(plain) // 2]), dict(plain[len(plain) // 2 :])]
    files = {
        f"model-0000{i}-of-00002.safetensors": safetensors(part, {"format": "pt"}) for i, part in enumerate(parts, 1)
    }
    places = {name: file for file, part in zip(files, parts) for name in part}
    index = {"metadata": {"total_size": sum(map(len, files.values()))}, "weight_map": places}
    return Sample("model.safetensors.index.json", {"model.safetensors.index.json": json.dumps(index).encode(), **files})


def _gguf(kinds: dict[str, str], folder: Path) -> bytes:
    """kinds: part of a name -> type of the blocks' weights; the first that fits counts. The rest is BF16, vectors F32."""
    path = folder / "made.gguf"
    writer = gguf.GGUFWriter(path, arch="flux")
    writer.add_quantization_version(2)
    writer.add_custom_alignment(ALIGNMENT)
    writer.add_array("texts", ["a", "bc"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_string("chroma.prediction", "x0")
    for name, tensor in support.published(support.random_weights(config())).items():
        kind = next((k for part, k in kinds.items() if part in name), None) if _in_block(name, tensor) else None
        if kind is not None and kind not in kquants.PACKERS:
            packed = gguf.quants.quantize(tensor.numpy(), gguf.GGMLQuantizationType[kind])
        elif kind is not None and tensor.shape[1] % kquants.PACKERS[kind][0] == 0:
            packed = kquants.quantise(tensor, kind).numpy()
        elif tensor.ndim == 2:
            kind = "BF16"
            packed = tensor.to(torch.bfloat16).view(torch.uint8).numpy()
        else:
            kind, packed = "F32", tensor.numpy()
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _pickled(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def _one(name: str, make: Callable[[Path], bytes]) -> Callable[[Path], Sample]:
    return lambda folder: Sample(name, {name: make(folder)})


SAMPLES: dict[str, Callable[[Path], Sample]] = {
    "bf16": _one("bf16.safetensors", lambda _: safetensors(_plain(), {"format": "pt"})),
    "old fp8": _one("old.safetensors", lambda _: safetensors(_scaled("old"))),
    "fp8": _one("fp8.safetensors", lambda _: safetensors(_scaled("fp8"))),
    "fp8 metadata": _one(
        "meta.safetensors", lambda _: safetensors(_scaled("metadata"), _metadata(_scaled("metadata")))
    ),
    "int8": _one("int8.safetensors", lambda _: safetensors(_scaled("int8"))),
    "nvfp4": _one("nvfp4.safetensors", lambda _: safetensors(_scaled("nvfp4"))),
    "sharded": lambda _: _sharded(),
    "Q8_0": _one("q8.gguf", lambda folder: _gguf({"": "Q8_0"}, folder)),
    "Q4_K": _one("q4k.gguf", lambda folder: _gguf({"": "Q4_K"}, folder)),
    "mixed GGUF": _one("mixed.gguf", lambda f: _gguf({"qkv": "Q5_1", "mlp.2": "Q6_K", "linear1": "Q4_0"}, f)),
    "pth": _one("model.pth", lambda _: _pickled(support.published(support.random_weights(config())))),
    "old pth": _one(
        "old.pth",
        lambda _: _pickled(support.published(support.random_weights(config())), _use_new_zipfile_serialization=False),
    ),
}


# --- mutations -------------------------------------------------------------------------------------------------------


def mutations(sample: Sample, count: int, seed: int) -> Iterator[Mutation]:
    """`count` mutations of a sample: three in four of named fields, evenly by kind of field, the rest of bytes."""
    rng = random.Random(seed)
    by_kind: dict[str, list[Callable[[], Mutation]]] = {}
    for kind, make in _fields(sample, rng):
        by_kind.setdefault(kind, []).append(make)
    for makes in by_kind.values():
        rng.shuffle(makes)
    named = [make for _, make in zip(range(count * 3 // 4), _in_turn(list(by_kind.values())))]
    for make in named:
        yield make()
    for i in range(count - len(named)):
        yield _bytes_mutation(sample, BYTE_KINDS[i % len(BYTE_KINDS)], rng)


def _in_turn(lists: list[list[Any]]) -> Iterator[Any]:
    for i in range(max(map(len, lists), default=0)):
        yield from (items[i] for items in lists if i < len(items))


def _fields(sample: Sample, rng: random.Random) -> Iterator[tuple[str, Callable[[], Mutation]]]:
    for name, raw in sample.files.items():
        if name.endswith(".json"):
            makes = _json_fields("index", json.loads(raw), lambda v, name=name: {name: text_of(v)}, rng)
        elif name.endswith(".safetensors"):
            makes = _safetensors_fields(name, raw, rng)
        elif name.endswith(".gguf"):
            makes = _gguf_fields(name, raw, rng)
        else:
            makes = _pickle_fields(name)
        yield from makes
    if len(sample.files) > 1:
        shards = [name for name in sample.files if name.endswith(".safetensors")]
        for one, other in zip(shards, shards[1:]):
            yield from _made("shard", f"{one} is {other}", lambda one=one, other=other: {one: sample.files[other]})


def _made(kind: str, what: str, make: Callable[[], dict[str, bytes]]) -> Iterator[tuple[str, Callable[[], Mutation]]]:
    yield kind, lambda: Mutation(kind, what[:200], make(), header=not kind.startswith("pickled"))


def _paths(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Places of all values in nested JSON, its keys included as (..., key, "key")."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*path, key))


def _get(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def _set(value: Any, path: tuple, new: Any) -> Any:
    """A copy in which the value at path is new."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _set(value[path[0]], path[1:], new)
    return copy


def _near(old: Any) -> tuple[Any, ...]:
    if type(old) is int:
        return (old + 1, old - 1, 2 * old, old // 2, -old, float(old), str(old), [old], old + 2**32, old + 2**64)
    if isinstance(old, bool):
        return (not old, int(not old), str(old), "no")
    if isinstance(old, str):
        return (old.upper(), old + " ", " " + old, old[:-1], old * 2, [old], old + "\0")
    if isinstance(old, list):
        return (old[::-1], old[:-1], [*old, *old], [*old, 1], [1, *old], [old], {"0": old}, [str(n) for n in old])
    return ()


def _json_fields(kind: str, value: Any, write: Callable[[Any], dict[str, bytes]], rng: random.Random):
    """Each value replaced by a nasty or near one; each key renamed, removed, doubled."""
    for path in _paths(value):
        old = _get(value, path)
        for new in (*rng.sample(NASTY, 3), *rng.sample(_near(old), min(2, len(_near(old))))):
            what = f"{kind} {path} = {new!r:.60}"
            yield from _made(kind, what, lambda path=path, new=new: write(_set(value, path, new)))
        if path and isinstance(_get(value, path[:-1]), dict):
            around, key = _get(value, path[:-1]), path[-1]
            without = {k: v for k, v in around.items() if k != key}
            new = rng.choice((*(n for n in NASTY if isinstance(n, str)), *_near(key), *without))
            if isinstance(new, str):
                renamed = _set(value, path[:-1], {(new if k == key else k): v for k, v in around.items()})
                yield from _made(f"{kind} key", f"{path} renamed to {new!r:.60}", lambda v=renamed: write(v))
            removed = _set(value, path[:-1], without)
            yield from _made(f"{kind} key", f"{path} removed", lambda v=removed: write(v))


def _safetensors_fields(name: str, raw: bytes, rng: random.Random):
    length = struct.unpack("<Q", raw[:8])[0]
    text, data = raw[8 : 8 + length], raw[8 + length :]
    header = json.loads(text)
    tensors = {n: e for n, e in header.items() if n != "__metadata__"}

    def write(value: Any) -> dict[str, bytes]:
        return {name: with_header(value, data)}

    for new in (*UNSIGNED, length - 1, length + 1, length - 8, length + 8, length * 2, len(raw), len(raw) - 8):
        new %= 2**64
        yield from _made("length", f"length {new}", lambda new=new: {name: struct.pack("<Q", new) + raw[8:]})
    for new in (*NASTY, list(header.items()), [header], {"a": header}):
        yield from _made("whole header", f"header {new!r:.60}", lambda new=new: write(new))
    odd = {
        "no JSON": text.replace(b":", b";", 1),
        "UTF-16": text.decode().encode("utf-16"),
        "BOM": b"\xef\xbb\xbf" + text,
        "leading space": b" " * 64 + text,
        "trailing text": text + b"{}",
        "doubled": text.rstrip()[:-1] + b"," + text.lstrip()[1:],
        "comment": text.replace(b"{", b"{/**/", 1),
        "trailing comma": text.rstrip()[:-1] + b",}",
        "zeros behind": text + b"\0" * 8,
        "single quotes": text.replace(b'"', b"'"),
    }
    for what, new in odd.items():
        yield from _made("text", what, lambda new=new: {name: framed(new, data)})
    for new in NASTY:
        yield from _made("metadata", f"metadata {new!r:.60}", lambda v=new: write({**header, "__metadata__": v}))
    if "__metadata__" in header:
        yield from _json_fields("metadata", header["__metadata__"], lambda v: write({**header, "__metadata__": v}), rng)
    inner = (header.get("__metadata__") or {}).get("_quantization_metadata")
    if inner is not None:

        def rewrite(value: Any) -> dict[str, bytes]:
            said = text_of(value).decode("utf-8", "surrogateescape")
            said = said.encode("utf-8", "replace").decode()
            return write({**header, "__metadata__": {"_quantization_metadata": said}})

        yield from _json_fields("quantization metadata", json.loads(inner), rewrite, rng)
    for tensor, e in tensors.items():
        yield from _tensor_fields(tensor, e, header, write, rng)
    same = {}
    for tensor, e in tensors.items():
        same.setdefault((e["dtype"], *e["shape"]), []).append(tensor)
    for names in same.values():
        for one, other in zip(names, names[1:]):
            places = {one: _moved(header[one], header[other]), other: _moved(header[other], header[one])}
            yield from _made("swapped", f"{one} with {other}", lambda p=places: write({**header, **p}))
    for tensor, e in tensors.items():
        if tensor.endswith(".comfy_quant"):
            first, last = e["data_offsets"]
            yield from _marker_fields(name, raw, tensor, json.loads(data[first:last]), rng)


def _moved(e: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {**e, "data_offsets": other["data_offsets"]}


def _tensor_fields(tensor: str, e: dict[str, Any], header: dict[str, Any], write: Any, rng: random.Random):
    def put(kind: str, path: tuple, news: Any):
        for new in news:
            what = f"{tensor} {path} = {new!r:.60}"
            yield from _made(kind, what, lambda new=new: write(_set(header, (tensor, *path), new)))

    yield from put("entry", (), [*rng.sample(NASTY, 3), {**e, "more": 1}, [e["dtype"], e["shape"], e["data_offsets"]]])
    yield from put("entry", (), [{k: v for k, v in e.items() if k != gone} for gone in e])
    yield from put("dtype", ("dtype",), [*rng.sample(NASTY, 2), *rng.sample(DTYPES, 6)])
    yield from put("shape", ("shape",), [*rng.sample(NASTY, 3), *rng.sample(_near(e["shape"]), 4)])
    for i, n in enumerate(e["shape"]):
        yield from put("size", ("shape", i), [*rng.sample(NASTY, 4), *rng.sample(_near(n), 3)])
    if len(e["shape"]) == 2:
        n, k = e["shape"]
        yield from put("shape", ("shape",), [[2 * n, k // 2], [n // 2, 2 * k], [n * k], [n, k, 1], [1, n * k]])
    yield from put("offsets", ("data_offsets",), [*rng.sample(NASTY, 3), *rng.sample(_near(e["data_offsets"]), 4)])
    for i, n in enumerate(e["data_offsets"]):
        yield from put("offset", ("data_offsets", i), [*rng.sample(NASTY, 4), *rng.sample(_near(n), 3)])
    stem = tensor.rpartition(".")[0]
    others = [f"{stem}.{end}" for end in NAMES] + [rng.choice(list(header)), "x" * 100_000, tensor.replace("0", "1")]
    texts = [n for n in NASTY if isinstance(n, str)]
    for new in (*rng.sample(others, 4), *rng.sample(texts, 2), *rng.sample(_near(tensor), 2)):
        if isinstance(new, str):
            renamed = {(new if n == tensor else n): x for n, x in header.items()}
            yield from _made("name", f"{tensor} renamed to {new!r:.60}", lambda v=renamed: write(v))
    removed = {n: x for n, x in header.items() if n != tensor}
    yield from _made("name", f"{tensor} removed", lambda: write(removed))


def _marker_fields(name: str, raw: bytes, tensor: str, marker: dict[str, Any], rng: random.Random):
    """The marker's JSON changed and the file laid out anew around it."""
    length = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]

    def write_text(text: bytes) -> dict[str, bytes]:
        entries = {}
        for n, e in header.items():
            if n != "__metadata__":
                first, last = e["data_offsets"]
                entries[n] = Entry(e["dtype"], tuple(e["shape"]), data[first:last])
        entries[tensor] = Entry("U8", (len(text),), text)
        return {name: safetensors(entries, header.get("__metadata__"))}

    yield from _json_fields("marker", marker, lambda v: write_text(text_of(v)), rng)
    more = (
        *({**marker, "format": f} for f in ("float8_e5m2", "int8_blockwise", "mxfp8", "gguf_q8_0", "nf4", "A" * 3000)),
        *({**marker, "params": p} for p in (None, [], "x", {"convrot": "x"}, {"convrot_groupsize": -1})),
        *({**marker, "full_precision_matrix_mult": p} for p in (None, "no", 1, [], {})),
        *({**marker, "convrot": True, "convrot_groupsize": g} for g in (0, 1, 2, 4, 8, 16, 32, 128, 256, 2**70, True)),
        *({**marker, "format": "convrot_w4a4", "linear_dtype": d} for d in ("int4", None, "int5", [], 7)),
    )
    for new in more:
        yield from _made("marker", f"{tensor}: {new!r:.100}", lambda new=new: write_text(text_of(new)))
    for text in (
        b"",
        b"{",
        b"{}",
        b"null",
        b"\xff" * 9,
        b"\0" * 9,
        b"[]",
        b'"x"',
        b" " * 5000,
        json.dumps(marker).encode()[:-1],
    ):
        yield from _made("marker", f"{tensor}: {text!r:.60}", lambda text=text: write_text(text))


@dataclass
class Field:
    """A place in a GGUF header. form: struct's letter of a number, or None for text."""

    kind: str
    at: int
    size: int
    form: str | None


@dataclass
class GGUFMap:
    fields: list[Field] = field(default_factory=list)
    tensors: list[tuple[int, int]] = field(default_factory=list)  # bytes of each tensor's entry
    entries: list[tuple[int, int]] = field(default_factory=list)  # of each piece of metadata
    end: int = 0


def map_of(raw: bytes) -> GGUFMap:
    """Where everything is in a sound GGUF header, read with the specification and not with the pack's reader."""
    out, at = GGUFMap(), 0

    def number(kind: str, form: str) -> int:
        nonlocal at
        size = struct.calcsize("<" + form)
        value = struct.unpack_from("<" + form, raw, at)[0]
        out.fields.append(Field(kind, at, size, form))
        at += size
        return value

    def text(kind: str) -> None:
        nonlocal at
        size = number(kind + " length", "Q")
        out.fields.append(Field(kind, at, size, None))
        at += size

    def value(kind: int) -> None:
        if kind == gguf.GGUFValueType.STRING:
            text("text")
        elif kind == gguf.GGUFValueType.ARRAY:
            inner = number("array type", "I")
            for _ in range(number("array length", "Q")):
                value(inner)
        else:
            number("number", {4: "I", 5: "i"}[kind])

    out.fields.append(Field("magic", 0, 4, None))
    at = 4
    number("version", "I")
    num_tensors, num_entries = number("tensor count", "Q"), number("metadata count", "Q")
    for _ in range(num_entries):
        start = at
        text("key")
        value(number("value type", "I"))
        out.entries.append((start, at))
    for _ in range(num_tensors):
        start = at
        text("name")
        for _ in range(number("num dims", "I")):
            number("dim", "Q")
        number("type", "I")
        number("offset", "Q")
        out.tensors.append((start, at))
    out.end = at
    return out


def _gguf_fields(name: str, raw: bytes, rng: random.Random):
    found = map_of(raw)
    data = raw[found.end + -found.end % ALIGNMENT :]

    def spliced(*changes: tuple[int, int, bytes]) -> dict[str, bytes]:
        """The header with (from, to, new) replaced, padded again so that the data follow it as before."""
        header = raw[: found.end]
        for first, last, new in sorted(changes, reverse=True):
            header = header[:first] + new + header[last:]
        return {name: header + bytes(-len(header) % ALIGNMENT) + data}

    for f in found.fields:
        old = raw[f.at : f.at + f.size]
        if f.form is None:
            nasty = [b"", b"\xff" * len(old), bytes(len(old)), b"x" * len(old), old[::-1], old[:-1] + b"\xc3"]
            nasty += [b"A" * 100_000, old + b"\n", old.upper(), old + old, b"general.alignment", b"chroma.text_ids"]
            for new in rng.sample(nasty, 5):
                length = (f.at - 8, f.at, struct.pack("<Q", len(new)))
                changes = [(f.at, f.at + f.size, new)] + ([length] if f.kind != "magic" else [])
                yield from _made(f.kind, f"{f.kind} {old!r:.50} -> {new!r:.50}", lambda c=changes: spliced(*c))
            continue
        value = struct.unpack("<" + f.form, old)[0]
        near = (value + 1, value - 1, 2 * value, value // 2, value + 32, value - 32, value + 2**31, value << 8)
        if f.kind in ("type", "value type", "array type"):
            near += tuple(range(42))
        if f.kind == "number":
            near += (16, 64, 8, 4096, 1)
        for new in (*rng.sample(near, min(6, len(near))), *rng.sample(UNSIGNED, 6)):
            new = (new % (1 << 8 * f.size)).to_bytes(f.size, "little")
            what = f"{f.kind} at {f.at}: {value} -> {new.hex()}"
            yield from _made(f.kind, what, lambda f=f, new=new: {name: raw[: f.at] + new + raw[f.at + f.size :]})
    for spans, kind, at in ((found.tensors, "tensor entry", 8), (found.entries, "metadata entry", 16)):
        count = struct.unpack_from("<Q", raw, at)[0]
        for i, (first, last) in enumerate(spans):
            fewer, more = ((at, at + 8, struct.pack("<Q", count + n)) for n in (-1, 1))
            own = raw[first:last]
            yield from _made(kind, f"{kind} {i} removed", lambda c=((first, last, b""), fewer): spliced(*c))
            yield from _made(kind, f"{kind} {i} doubled", lambda c=((first, first, own), more): spliced(*c))
            if i:
                before = spans[i - 1]
                swap = ((before[0], before[1], own), (first, last, raw[before[0] : before[1]]))
                yield from _made(kind, f"{kind} {i} moved", lambda c=swap: spliced(*c))
    for (a, b), (_, d) in zip(found.tensors, found.tensors[1:]):
        swap = ((b - 8, b, raw[d - 8 : d]), (d - 8, d, raw[b - 8 : b]))
        yield from _made("swapped", f"offsets of {raw[a + 8 : a + 60]!r} and the next", lambda s=swap: spliced(*s))
    dims = [f for f in found.fields if f.kind == "dim"]
    for one, other in zip(dims, dims[1:]):
        if other.at == one.at + 8:
            k, n = (struct.unpack_from("<Q", raw, f.at)[0] for f in (one, other))
            for sizes in ((n, k), (k // 2, 2 * n), (2 * k, n // 2), (n * k, 1), (1, n * k)):
                changes = ((one.at, one.at + 16, struct.pack("<QQ", *sizes)),)
                yield from _made("dims", f"({k}, {n}) -> {sizes} at {one.at}", lambda c=changes: spliced(*c))


def _pickle_fields(name: str):
    """Odd but well-formed pickles; what is inside a sound one is damaged byte by byte."""
    weights = support.published(support.random_weights(config()))
    some = "txt_in.weight"
    t = weights[some]
    values = {
        "transposed twice": t.T.contiguous().T,
        "expanded": t[:1].expand(t.shape),
        "sparse": t.to_sparse(),
        "complex": t.to(torch.complex64),
        "bool": t > 0,
        "int64": t.long(),
        "float64": t.double(),
        "meta": t.to("meta"),
        "parameter": torch.nn.Parameter(t),
        "quantised": torch.quantize_per_tensor(t, 0.1, 0, torch.quint8),
        "view": torch.cat((t, t))[: len(t)],
        "empty": t[:0],
        "scalar": torch.tensor(1.0),
        "text": "x",
        "none": None,
        "dict": {"a": t},
        "list": [t],
        "3-D": t[None],
        "transposed": t.T,
    }
    for what, value in values.items():
        yield from _made("pickled value", what, lambda value=value: {name: _pickled({**weights, some: value})})
    for key in (1, None, (1, 2), b"x", "", "x" * 100_000, "\ud800", "a\nb", 1.5, True):
        odd = {**{k: v for k, v in weights.items() if k != some}, key: t}
        yield from _made("pickled key", f"{key!r:.60}", lambda odd=odd: {name: _pickled(odd)})
        both = {**weights, key: t}
        yield from _made("pickled key", f"more: {key!r:.60}", lambda both=both: {name: _pickled(both)})
    markers = (torch.tensor(list(b"{}")), torch.zeros(9, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.uint8))
    for marker in (*markers, torch.zeros(9, dtype=torch.uint8)[::2], torch.zeros(4, dtype=torch.uint8).to("meta")):
        odd = {**weights, "img_in.comfy_quant": marker}
        yield from _made("pickled marker", f"{marker.shape}", lambda odd=odd: {name: _pickled(odd)})
    wholes = (None, 1, "x", [], [t], {}, t, {"state_dict": None}, {"state_dict": {}}, {"model": {"module": weights}})
    for whole in (*wholes, {"state_dict": {"state_dict": {"a": 1}}}, {1: {2: t}}, list(weights.items())):
        yield from _made("pickled whole", f"{type(whole)} {str(whole)[:40]}", lambda w=whole: {name: _pickled(w)})


BYTE_KINDS = (
    *("flip header", "set header", "insert header", "delete header", "copy header"),
    *("flip data", "set data", "insert data", "delete data", "truncate", "append", "zero block"),
)


def weight_spans(name: str, raw: bytes) -> list[tuple[int, int]]:
    """Where the tensors' bytes are; all else says what they mean. Not known for torch's old pickles: all of the file."""
    if name.endswith(".safetensors"):
        return [(8 + struct.unpack("<Q", raw[:8])[0], len(raw))]
    if name.endswith(".gguf"):
        end = map_of(raw).end
        return [(end + -end % ALIGNMENT, len(raw))]
    if not zipfile.is_zipfile(io.BytesIO(raw)):
        return [] if name.endswith(".json") else [(0, len(raw))]
    spans = []
    for entry in zipfile.ZipFile(io.BytesIO(raw)).infolist():
        if "/data/" in entry.filename:
            start = entry.header_offset + 30 + sum(struct.unpack_from("<HH", raw, entry.header_offset + 26))
            spans.append((start, start + entry.file_size))
    return spans


def _bytes_mutation(sample: Sample, kind: str, rng: random.Random) -> Mutation:
    name = rng.choice(list(sample.files))
    raw = sample.files[name]
    weights = weight_spans(name, raw)
    action, _, where = kind.partition(" ")
    borders = [0, *(at for span in weights for at in span), len(raw)]
    others = [span for span in zip(borders[::2], borders[1::2]) if span[0] < span[1]]
    spans = (others if where == "header" else weights) or [(0, len(raw))]
    first, last = rng.choice(spans)
    out, at, n = bytearray(raw), rng.randrange(first, last), rng.randint(1, 64)
    if action == "flip":
        out[at] ^= 1 << rng.randrange(8)
    elif action == "set":
        word = rng.choice(UNSIGNED).to_bytes(8, "little")[: rng.choice((1, 4, 8))]
        out[at : min(at + len(word), last)] = word[: last - at]
    elif action == "insert":
        out[at:at] = rng.randbytes(n)
    elif action == "delete":
        del out[at : min(at + n, last)]
    elif action == "copy":
        other = rng.randrange(first, last)
        piece = raw[other : min(other + n, last)][: last - at]
        out[at : at + len(piece)] = piece
    elif action == "truncate":
        del out[rng.randrange(0, len(raw)) :]
    elif action == "append":
        out += rng.randbytes(n)
    else:
        n = min(n, last - at)
        out[at : at + n] = bytes(n)
    header = spans is not weights and (name.endswith(".json") or bool(weights) and weights != [(0, len(raw))])
    resized = len(out) != len(raw) and not header
    return Mutation(kind, f"{kind} of {name} at {at:,} ({n})", {name: bytes(out)}, header, resized)


# --- loading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """One stored tensor as a loader understands it; values and scales as bytes, scales made float32 first."""

    dtype: torch.dtype
    format: str | None
    shape: tuple[int, ...]
    settings: str
    values: bytes
    scales: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Meaning:
    config: Any
    tensors: dict[str, tuple[Stored, ...]]


def load(path: Path) -> Meaning:
    """What a loader without a host makes of a file. raises: ValueError where it refuses."""
    pack = support.dev.load_pack
    read = pack("loaders.files.read")
    header = read.read_header(path)
    detection = pack("loaders.checkpoint.detect_variant").detect(header)
    pack("loaders.checkpoint.check_shapes").check(header, detection)
    tensors = read.read_tensors(path)
    size = sum(p.stat().st_size for p in path.parent.iterdir())
    used: set[str] = set()
    out = {}
    for name, parts in detection.tensors.items():
        for part in parts:
            tensor, info = tensors[part.file_name], header.tensors[part.file_name]
            assert part.storage.format is not None or tuple(tensor.shape) == info.shape, part
            assert part.file_name not in used
            used.add(part.file_name)
            unpacked(part, tensors)
        out[name] = tuple(_stored(part, tensors) for part in parts)
    assert sum(tensors[n].nbytes for n in used) <= size, "tensors are larger than the file"
    return Meaning(detection.config, out)


def _stored(part: Any, tensors: dict[str, Tensor]) -> Stored:
    scales = tuple((role, _raw(tensors[n].float())) for role, n in sorted(part.scales.items()))
    storage, tensor = part.storage, tensors[part.file_name]
    # How to multiply is no matter of the weights' values, and an uint8 that is viewed as fp8 is the same.
    settings = {k: v for k, v in storage.settings.items() if k != "full_precision_matrix_mult"}
    dtype = tensor.dtype if storage.format is None else torch.uint8
    return Stored(dtype, storage.format, storage.shape, str(sorted(settings.items())), _raw(tensor), scales)


def _raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def unpacked(part: Any, tensors: dict[str, Tensor]) -> Tensor | None:
    """The weight in float32; None for formats that only the host unpacks."""
    storage, tensor = part.storage, tensors[part.file_name]
    format, scale = storage.format, part.scales.get("weight_scale")
    types = support.dev.load_pack("loaders.formats.ggml")
    scaled = support.dev.load_pack("loaders.formats.base.registry").FORMATS.get(format)
    if format is None:
        dense = tensor.float()
    elif format in types.GGML_TYPES:
        dense = types.dequantise(tensor, format, torch.float32)
    elif format.endswith(("_rowwise", "_blockwise")):
        dense = scaled.unpack(tensor, {"weight_scale": tensors[scale]}, {}, torch.float32)
    elif format in ("float8_e4m3fn", "float8_e5m2"):
        dense = tensor.float() * (tensors[scale].float().reshape(()) if scale else 1)
    elif format == "int8_tensorwise":
        dense = tensor.float() * tensors[scale].float().reshape(-1, 1)
    else:
        return None
    assert tuple(dense.shape) == tuple(storage.shape), (part, dense.shape)
    return dense


# Loads that differ from the sound file although no byte of a weight was changed: the damaged header is a sound header of
# another model. Beside these: damage to the weights' own bytes, for which no format but a zip has checksums.
UNDETECTABLE = {
    "swapped": "tensors of one type and shape under each other's names",
    "type of equal size": "bf16 said to be fp16, or e4m3 e5m2 where no marker names the format",
    "settings of a marker": "another sound marker: rotated or not, in groups of another size",
    "marker in the metadata": "the entry or the empty tensor that says how the model predicts is gone or has another name",
}


def difference(sound: Meaning, found: Meaning) -> str | None:
    """How a load differs from the sound one, a key of UNDETECTABLE where it may; None where it does not."""
    if found == sound:
        return None
    if found.config != sound.config:
        changed = {k for k, v in vars(sound.config).items() if getattr(found.config, k) != v}
        return "marker in the metadata" if changed <= {"prediction", "text_ids"} else f"config: {sorted(changed)}"
    if found.tensors.keys() != sound.tensors.keys():
        return "names"
    pairs = [(a, b) for n in sound.tensors for a, b in zip(sound.tensors[n], found.tensors[n])]
    changed = [(a, b) for a, b in pairs if a != b]
    if all((a.values, a.scales, a.shape) == (b.values, b.scales, b.shape) for a, b in changed):
        types = all((a.dtype, a.format) != (b.dtype, b.format) for a, b in changed)
        return "type of equal size" if types else "settings of a marker"
    kept = all((a.dtype, a.format, a.shape, a.settings) == (b.dtype, b.format, b.shape, b.settings) for a, b in changed)
    values = [sorted(stored.values for stored in side) for side in zip(*changed)]
    scales = [sorted(raw for stored in side for _, raw in stored.scales) for side in zip(*changed)]
    if kept and values[0] == values[1] and scales[0] == scales[1]:
        return "swapped"
    return "values"


@contextlib.contextmanager
def guarded(seconds: float = SECONDS, memory: int = MEMORY, silent: bool = True) -> Iterator[None]:
    """Ends what hangs and refuses memory beyond a limit, where the system can. silent: a warning is an error."""

    def stop(*_: Any) -> None:
        raise Hang(f"took more than {seconds} s")

    with contextlib.ExitStack() as stack:
        if hasattr(signal, "setitimer"):
            old = signal.signal(signal.SIGALRM, stop)
            stack.callback(signal.signal, signal.SIGALRM, old)
            stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_REAL, seconds)
        statm = Path("/proc/self/statm")
        if statm.is_file():
            import resource

            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            now = int(statm.read_text().split()[0]) * resource.getpagesize()
            stack.callback(resource.setrlimit, resource.RLIMIT_AS, (soft, hard))
            resource.setrlimit(resource.RLIMIT_AS, (now + memory, hard))
        if silent:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("error")
        yield


class Hang(BaseException):
    """Not an Exception, so that no `except Exception` swallows it."""


def problem_of(message: str, name: str) -> str | None:
    """What is wrong with the text of a refusal."""
    if not message.startswith(f"{name}: "):
        return "does not begin with the file's name"
    if len(message) > MAX_MESSAGE:
        return f"has {len(message):,} characters"
    if not message.isprintable():
        return "holds characters that cannot be shown"
    return None


def write(folder: Path, sample: Sample, mutation: Mutation | None = None) -> Path:
    for name, raw in {**sample.files, **(mutation.files if mutation else {})}.items():
        (folder / name).write_bytes(raw)
    return folder / sample.opened


def outcome(folder, sample, sound, mutation):
    """(what happened, None or why that is wrong)."""
    path = write(folder, sample, mutation)
    try:
        with guarded():
            found = load(path)
    except ValueError as error:
        problems = [problem_of(str(error), name) for name in sample.files]
        return "refused", None if None in problems else f"{problems[0]}: {str(error)[:200]!r}"
    except (Exception, Hang) as error:
        return "crashed", f"{type(error).__name__}: {str(error)[:200]}"
    different = difference(sound, found)
    if different is None:
        return "same", None
    if mutation.resized:
        return different, "bytes came or went unnoticed"
    if mutation.header and different not in UNDETECTABLE:
        return different, f"loads with other {different}"
    return different if mutation.header else "data", None
