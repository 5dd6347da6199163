"""Opens weight files: first the header alone, then the tensors, mapped and not copied. Renames nothing.

Reads safetensors (one file, or shards with their index), GGUF and torch's own files.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any, Callable, Mapping, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..tensor_info import GGML_PLAIN, METADATA_MARKERS, TensorInfo
from .error_text import encodable, reason, short
from .gguf import map_gguf, read_gguf_header
from .header import Header, check_count, is_quant_marker, read_layers, read_marker
from .kinds import (
    ALONE,
    GGUF_SUFFIX,
    INDEX_SUFFIX,
    OTHER_PART,
    PICKLE_SUFFIXES,
    SAFETENSORS_SUFFIXES,
    index_names,
    is_index,
    refuse_other_kinds,
)
from .pickle import load_pickle
from .safetensors import safetensors_header

Found = TypeVar("Found")
MAX_FILE_NAME = 255  # of common file systems
MAX_INDEX_BYTES = 1 << 23  # a line for each of the most tensors


def told(read: Callable[..., Found]) -> Callable[..., Found]:
    """Decorator of readers: an error of the disk becomes a sentence with the file's name, which the system's may lack."""

    @functools.wraps(read)
    def wrapped(path: str | os.PathLike[str]) -> Found:
        try:
            return read(path)
        except OSError as error:
            raise unreadable(encodable(Path(error.filename or path).name), error) from error

    return wrapped


def unreadable(name: str, error: OSError) -> ValueError:
    """What to raise where the disk fails. name: of the file."""
    return ValueError(
        f"{name}: it cannot be read ({error.strerror or error}). Look at the disk, and whether ComfyUI may read the file"
    )


@told
def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a weight file, checked against the file's size.

    path: a file, the index of a sharded one (`*.safetensors.index.json`, `*.safetensors.index.VARIANT.json`) or one of its shards.
    raises: ValueError if the file is empty, cut short, malformed, of an unknown kind, or a pickle that holds code.
    """
    path = whole(path)
    if not path.is_file():
        raise ValueError(f"{path.name}: there is no such file. Refresh the page to renew the list of models")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name}: the file is empty. Download it again")
    suffix = path.suffix.lower()
    if suffix != GGUF_SUFFIX and encodable(str(path), "utf-8") != str(path):
        raise ValueError(
            f"{encodable(path.name)}: its name or folder has bytes that are not UTF-8, with which neither safetensors' nor "
            "torch's reader opens a file. Rename it"
        )
    refuse_other_kinds(path)
    if is_index(path.name):
        return _sharded_header(path)
    if suffix in SAFETENSORS_SUFFIXES:
        return safetensors_header(path)
    if suffix in PICKLE_SUFFIXES:
        tensors = load_pickle(path)
        infos = {k: TensorInfo(v.dtype, tuple(v.shape)) for k, v in tensors.items()}
        markers = {
            k: read_marker(path.name, k, v.numpy().tobytes())
            for k, v in tensors.items()
            if is_quant_marker(k, infos[k])
        }
        return Header(encodable(path.name), infos, {}, markers, path.stat().st_size)
    if suffix == GGUF_SUFFIX:
        tensors, metadata = read_gguf_header(path)
        infos = {k: TensorInfo(GGML_PLAIN.get(t.type_name, t.type_name), t.shape) for k, t in tensors.items()}
        return Header(encodable(path.name), infos, metadata, {}, path.stat().st_size)
    known = ", ".join((*SAFETENSORS_SUFFIXES, *PICKLE_SUFFIXES, GGUF_SUFFIX, INDEX_SUFFIX))
    raise ValueError(f"{path.name}: unknown file type {suffix!r} (known: {known})")


@told
def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a file that `read_header` accepted, on the CPU, mapped from the file and read when touched.

    GGML's packed types come as uint8 (*shape[:-1], bytes of a row).
    """
    path = whole(path)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return load_pickle(path)
    if path.suffix.lower() == GGUF_SUFFIX:
        return map_gguf(path, read_gguf_header(path)[0])
    tensors: dict[str, Tensor] = {}
    for file in shards(path) if is_index(path.name) else [path]:
        try:
            with safe_open(file, framework="pt") as f:
                tensors.update({name: f.get_tensor(name) for name in f.keys()})
        except SafetensorError as error:
            raise ValueError(
                f"{file.name}: not a sound safetensors file ({reason(error)}). Download it again"
            ) from error
    return tensors


def whole(path: str | os.PathLike[str]) -> Path:
    """The index beside it if the path is a shard; else the path itself.

    raises: ValueError for a shard without its index, and for a part of another kind of file.
    """
    path = Path(path)
    if OTHER_PART.search(path.name):
        raise ValueError(
            f"{path.name}: one part of several, which are put together only where they are safetensors files. Take the "
            "model as one file, or as safetensors"
        )
    names = index_names(path.name)
    index = next((index for name in names if (index := path.with_name(name)).is_file()), None)
    if names and index is None and not path.name.endswith(ALONE):
        raise ValueError(
            f"{path.name}: one part of several, and {' or '.join(names)}, which lists them, is not beside it. Download "
            "the whole folder, or the model as one file"
        )
    return index or path


def shards(index: Path) -> list[Path]:
    """The files that an index names, in the order of their names.

    raises: ValueError if the index is malformed, names files elsewhere, or a file is missing.
    """
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"{index.stat().st_size:,} bytes, at most {MAX_INDEX_BYTES:,} are read")
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


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """The files that hold what `read_header` reads of a path: the index and all its parts, or the one file.

    raises: ValueError as `whole` and `shards`.
    """
    path = whole(path)
    return [path, *(shards(path) if is_index(path.name) else ())]


def _sharded_header(index: Path) -> Header:
    tensors: dict[str, TensorInfo] = {}
    markers: dict[str, Mapping[str, Any]] = {}
    metadata: dict[str, Any] = {}
    layers: dict[str, dict[str, Any]] = {}  # what the parts' metadata say of how each is quantised
    size = 0
    for file in shards(index):
        refuse_other_kinds(file)
        part = safetensors_header(file)
        twice = tensors.keys() & part.tensors.keys()
        if twice:
            raise ValueError(f"{file.name}: {min(twice)} is in another part as well. Download the whole folder again")
        tensors.update(part.tensors)
        markers.update(part.markers)
        metadata.update(part.metadata)
        if METADATA_MARKERS in part.metadata:
            own = read_layers(file.name, part.metadata[METADATA_MARKERS])
            other = sorted(layer for layer in own if layers.get(layer, own[layer]) != own[layer])
            if other:
                raise ValueError(
                    f"{file.name}: its {METADATA_MARKERS} describes {short(other[0])} otherwise than another part. "
                    "Download the whole folder again"
                )
            layers.update(own)
            metadata[METADATA_MARKERS] = json.dumps({**json.loads(part.metadata[METADATA_MARKERS]), "layers": layers})
        size += part.num_bytes
        check_count(index.name, len(tensors))
    lost = sorted(json.loads(index.read_text(encoding="utf-8"))["weight_map"].keys() - tensors.keys())
    if lost:
        raise ValueError(
            f"{encodable(index.name)}: {short(lost[0])}, one of {len(lost)} tensors that it lists, is in none of its parts. Download the "
            "whole folder again"
        )
    return Header(encodable(index.name), tensors, metadata, markers, size)
