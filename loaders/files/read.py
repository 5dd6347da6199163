"""Opens weight files: first the header alone, then the tensors, mapped and not copied. Renames nothing.

Read are safetensors (one file, or shards with their index), GGUF and torch's own files.
"""

from __future__ import annotations

import json
import os
import re
import struct
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..tensor_info import DTYPES, GGML_BLOCKS, TensorInfo
from .gguf import map_gguf, read_gguf_header
from .quoting import name_problem, reason, short

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
GGUF_SUFFIX = ".gguf"
INDEX_SUFFIX = ".safetensors.index.json"
SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}\.safetensors$")  # -> what their index is named after
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_DIMS = 8
MAX_FILE_NAME = 255  # of common file systems

# A marker is a small tensor that holds JSON; it is part of the header's meaning.
MARKER_SUFFIX = ".comfy_quant"
MAX_MARKER_BYTES = 4096
ZIP_HEADER_BYTES, ZIP_LENGTHS_AT = 30, 26  # of a part; the lengths are of what stands before its data
ZIP_DESCRIPTOR = b"PK\x07\x08"  # begins the sizes that may stand behind
GGML_PLAIN = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}


@dataclass(frozen=True)
class Header:
    """Names, dtypes and shapes of a file's tensors, in the file's order, without their values."""

    name: str  # for messages: the file's name, not its path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, Any]
    markers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # tensor name -> the JSON in it
    num_bytes: int = 0  # of all files together


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a weight file, checked against the file's size.

    path: a file, the index of a sharded one (`*.safetensors.index.json`) or one of its shards.
    raises: ValueError if the file is empty, cut short, malformed, of an unknown kind, or a pickle that holds code.
    """
    path = whole(path)
    if not path.is_file():
        raise ValueError(f"{path.name}: there is no such file. Refresh the page to renew the list of models")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name}: the file is empty. Download it again")
    suffix = path.suffix.lower()
    if path.name.endswith(INDEX_SUFFIX):
        return _sharded_header(path)
    if suffix in SAFETENSORS_SUFFIXES:
        return _safetensors_header(path)
    if suffix in PICKLE_SUFFIXES:
        tensors = _load_pickle(path)
        infos = {k: TensorInfo(v.dtype, tuple(v.shape)) for k, v in tensors.items()}
        markers = {k: _marker(path.name, k, v.numpy().tobytes()) for k, v in tensors.items() if _is_marker(k, infos[k])}
        return Header(path.name, infos, {}, markers, path.stat().st_size)
    if suffix == GGUF_SUFFIX:
        tensors, metadata = read_gguf_header(path)
        infos = {k: TensorInfo(GGML_PLAIN.get(t.type_name, t.type_name), t.shape) for k, t in tensors.items()}
        return Header(path.name, infos, metadata, {}, path.stat().st_size)
    known = ", ".join((*SAFETENSORS_SUFFIXES, *PICKLE_SUFFIXES, GGUF_SUFFIX, INDEX_SUFFIX))
    raise ValueError(f"{path.name}: unknown file type {suffix!r} (known: {known})")


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a file that `read_header` accepted, on the CPU, mapped from the file and read when touched.

    GGML's packed types come as uint8 (*shape[:-1], bytes of a row).
    """
    path = whole(path)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return _load_pickle(path)
    if path.suffix.lower() == GGUF_SUFFIX:
        return map_gguf(path, read_gguf_header(path)[0])
    tensors: dict[str, Tensor] = {}
    for file in shards(path) if path.name.endswith(INDEX_SUFFIX) else [path]:
        try:
            with safe_open(file, framework="pt") as f:
                tensors.update({name: f.get_tensor(name) for name in f.keys()})
        except SafetensorError as error:
            raise ValueError(
                f"{file.name}: not a sound safetensors file ({reason(error)}). Download it again"
            ) from error
    return tensors


def whole(path: str | os.PathLike[str]) -> Path:
    """The index beside a shard, where the path is a shard's; else the path itself.

    raises: ValueError for a shard without its index.
    """
    path = Path(path)
    shard = SHARD.match(path.name)
    if shard is None:
        return path
    index = path.with_name(shard.group(1) + INDEX_SUFFIX)
    if not index.is_file():
        raise ValueError(
            f"{path.name}: one part of several, and {index.name}, which lists them, is not beside it. Download the "
            "whole folder, or the model as one file"
        )
    return index


def shards(index: Path) -> list[Path]:
    """The files that an index names, in the order of their names.

    raises: ValueError if the index is malformed, names files elsewhere, or a file is missing.
    """
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index.name}: not an index of shards ({reason(error)}). Download it again") from error
    for name in names:
        plain = isinstance(name, str) and name.isprintable() and len(name.encode()) <= MAX_FILE_NAME
        if not plain or Path(name).name != name or not name.endswith(SAFETENSORS_SUFFIXES):
            raise ValueError(
                f"{index.name}: names {short(name)}, expected safetensors files beside it. Download it again"
            )
        if not index.with_name(name).is_file():
            raise ValueError(
                f"{index.name}: {name}, one of {len(names)} parts, is missing. Download it into the same folder"
            )
    return [index.with_name(name) for name in names]


def _sharded_header(index: Path) -> Header:
    tensors: dict[str, TensorInfo] = {}
    markers: dict[str, Mapping[str, Any]] = {}
    metadata: dict[str, Any] = {}
    size = 0
    for file in shards(index):
        part = _safetensors_header(file)
        twice = tensors.keys() & part.tensors.keys()
        if twice:
            raise ValueError(f"{file.name}: {min(twice)} is in another part as well. Download the whole folder again")
        tensors.update(part.tensors)
        markers.update(part.markers)
        metadata.update(part.metadata)
        size += part.num_bytes
    return Header(index.name, tensors, metadata, markers, size)


def _is_marker(name: str, info: TensorInfo) -> bool:
    return name.endswith(MARKER_SUFFIX) and info.dtype == torch.uint8 and 0 < info.numel <= MAX_MARKER_BYTES


def _marker(file: str, name: str, raw: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: the marker {name} is damaged ({reason(error)}). Download the file again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: the marker {name} holds {short(raw)}, expected an object. Download the file again")
    return found


def _safetensors_header(path: Path) -> Header:
    """safetensors: 8 bytes of length, that much JSON, then the tensors' bytes. Source: the format's specification."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            if start.lstrip()[:1] == b"<":
                raise ValueError(
                    f"{path.name}: this is a web page, not a model: the site wanted a log-in or a consent. Open the link "
                    "in a browser, and download the file there"
                )
            raise ValueError(
                f"{path.name}: not a safetensors file, or cut short: its first bytes announce a header of {length:,} "
                f"bytes, the file has {size:,}. Download it again"
            )
        raw = f.read(length)
        try:
            entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
            metadata = entries.pop("__metadata__", {})
            if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
                raise ValueError(f"metadata {short(metadata)}")
            tensors = {name: _tensor_info(name, entry) for name, entry in entries.items()}
            spans = sorted(_span(name, entry, tensors[name]) for name, entry in entries.items())
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise ValueError(
                f"{path.name}: the safetensors header is damaged ({reason(error)}). Download the file again"
            ) from error
        end = 0
        for first, last, name in spans:
            if first != end:
                raise ValueError(
                    f"{path.name}: the safetensors header is damaged ({name} begins at {first:,}, expected {end:,}). "
                    "Download the file again"
                )
            end = last
        if size != 8 + length + end:
            problem = "cut short" if size < 8 + length + end else "longer than its header says"
            raise ValueError(
                f"{path.name}: the file is {problem}: {size:,} bytes of {8 + length + end:,}. Download it again"
            )
        markers = {}
        for first, last, name in spans:
            if _is_marker(name, tensors[name]):
                f.seek(8 + length + first)
                markers[name] = _marker(path.name, name, f.read(last - first))
    return Header(path.name, tensors, metadata, markers, size)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names all differ; where they do not, readers disagree on which counts."""
    out = dict(pairs)
    if len(out) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{short(twice)} comes twice")
    return out


def _tensor_info(name: str, entry: dict) -> TensorInfo:
    if name_problem(name):
        raise ValueError(name_problem(name))
    shape, dtype = entry["shape"], entry["dtype"]
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{name} has the shape {short(shape)}")
    if not isinstance(dtype, str) or name_problem(dtype) or dtype in GGML_BLOCKS.keys() - DTYPES.keys():
        raise ValueError(f"{name} has the type {short(dtype)}")
    return TensorInfo(DTYPES.get(dtype, short(dtype).strip("'")), tuple(shape))


def _span(name: str, entry: dict, info: TensorInfo) -> tuple[int, int, str]:
    """(first byte, one past the last, name), checked against the tensor's shape and type."""
    first, last = entry["data_offsets"]
    if type(first) is not int or type(last) is not int or not 0 <= first <= last:
        raise ValueError(f"{name} has offsets {short(entry['data_offsets'])}")
    if isinstance(info.dtype, torch.dtype) and last - first != info.numel * info.dtype.itemsize:
        raise ValueError(f"{name} takes {last - first:,} bytes, its shape {short(info.shape)} needs others")
    return first, last, name


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:
        mapped = zipfile.is_zipfile(path)  # only the zipped kind, torch's since 1.6, can be mapped
        if mapped:
            _check_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of old kinds of tensors; those are refused below
            if mapped:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            else:
                with open(path, "rb") as f:
                    loaded = torch.load(f, map_location="cpu", weights_only=True)
                    if f.read(1):  # that format has no checksums; bytes that came in show at its end only
                        raise ValueError("bytes are left over at its end")
    except Exception as error:  # a damaged pickle ends in any of two dozen kinds
        raise ValueError(
            f"{path.name}: refused, it is damaged or holds more than weights, which could run code on this machine "
            f"({reason(error)}). Take the model's .safetensors file instead"
        ) from error
    for wrapper in ("state_dict", "model", "module"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    tensors = {k: v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, dict) else {}
    if not tensors:
        raise ValueError(f"{path.name}: holds no named tensors. Take the model's .safetensors file")
    for name, tensor in tensors.items():
        if name_problem(name):
            raise ValueError(f"{path.name}: holds {name_problem(name)}. Take the model's .safetensors file")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise ValueError(f"{path.name}: {name} is no plain tensor. Take the model's .safetensors file")
    return tensors


def _check_zip(path: Path) -> None:
    """A zipped pickle's parts but the weights against their checksums, and the places of all.

    torch looks at neither where it maps a file. raises: anything, if the file is damaged.
    """
    with zipfile.ZipFile(path) as archive, open(path, "rb") as f:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        ends = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
        for entry, end in zip(entries, ends):
            with archive.open(entry) as part:  # compares the two copies of the name
                if "/data/" not in entry.filename:
                    part.read()
            f.seek(entry.header_offset + ZIP_LENGTHS_AT)
            start = entry.header_offset + ZIP_HEADER_BYTES + sum(struct.unpack("<HH", f.read(4)))
            last = start + entry.compress_size
            f.seek(last)
            if not (last == end or (last < end <= last + ZIP_HEADER_BYTES and f.read(4) == ZIP_DESCRIPTOR)):
                raise ValueError(f"{entry.filename} is out of place")
