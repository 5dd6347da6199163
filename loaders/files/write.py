"""Writes weight files tensor by tensor: safetensors and GGUF. It needs the memory of one tensor.

A file is written under a temporary name beside its place, and gets its own name when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import re
import secrets
import shutil
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import gguf
import numpy as np
import torch
from torch import Tensor

from ..tensor_info import DTYPES, packed_shape
from .error_text import reason, shortened

# The package tells the file's path in the log, which not every terminal can show.
logging.getLogger("gguf.gguf_writer").setLevel(logging.WARNING)

PARTIAL = ".partial"  # end of the temporary name, which no loader lists
# A number, name, suffix. The number is random, since containers that share a folder share process ids too. It comes first,
# so that the host's save nodes, which look for the next number of a name, do not count it; older versions had it behind.
OUR_PARTIAL = re.compile(r"\d+\..+\.(?:safetensors|sft|gguf)\.partial|.+\.(?:safetensors|sft|gguf)\.\d+\.partial")
OLD = 3600  # seconds without a write, after which its process is dead
NUMBER_BITS = 48
KEPT_OF_NAME = 32  # characters, in the temporary one: it may be no longer than the file's own
HEADER_ALIGNMENT = 8  # so that the first tensor can be mapped as any type
GGUF_HEADER_RESERVE = 4096  # the package's own metadata and the rounding at its end
MAX_INT64 = (1 << 63) - 1
GGUF_ENTRY_BYTES = 128  # of a tensor's entry and of the padding behind its data, at most
SAFETENSORS_TYPES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Stored:
    """One tensor of a file to be written.

    type:  safetensors' name of a dtype, or ggml's of a type.
    shape: of its weights before packing.
    """

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        if self.type in DTYPES:
            return math.prod(self.shape) * DTYPES[self.type].itemsize
        return math.prod(packed_shape(self.shape, self.type))


@contextlib.contextmanager
def whole_file(path: Path, needed: int, overwrite: bool = False) -> Iterator[Path]:
    """A temporary name to write to; it becomes `path` at the end, or is removed if the writing fails.

    needed: bytes that the file will take.
    raises: ValueError if path exists and may not be overwritten, its folder is missing or not writable, the name is too
            long, or the disk has no room.
    """
    try:
        _check_place(path, overwrite)
        _clear(path.parent)
        _check_room(path, needed)
        partial = path.with_name(f"{secrets.randbits(NUMBER_BITS)}.{path.stem[:KEPT_OF_NAME]}{path.suffix}{PARTIAL}")
        try:
            yield partial
            with open(partial, "rb+") as f:
                os.fsync(f.fileno())
            if path.exists() and not overwrite:
                raise ValueError(f"{path.name}: has been made by something else meanwhile. Choose another name")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(not_written(path, error)) from error


def _check_place(path: Path, overwrite: bool) -> None:
    if path.is_dir() or (path.exists() and not overwrite):
        raise ValueError(f"{path.name}: exists already in {path.parent}. Choose another name, or allow overwriting")
    if not path.parent.is_dir():
        raise ValueError(f"{path.name}: there is no folder {path.parent}. Make it first")


def _check_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise ValueError(
            f"{path.name}: needs {needed / 1e9:.2f} GB, but {path.parent} has {free / 1e9:.2f} GB free. Make room there, "
            "write to another disk, or choose a smaller format"
        )


def _clear(folder: Path) -> None:
    """Removes what killed processes have left of theirs."""
    for path in folder.iterdir():
        if OUR_PARTIAL.fullmatch(path.name):
            with contextlib.suppress(OSError):  # somebody else's, or gone by now
                if time.time() - path.stat().st_mtime > OLD:
                    path.unlink()


WHY = {
    errno.EACCES: "ComfyUI may not write there. Choose another folder, or allow it; a model that is loaded cannot be replaced",
    errno.EROFS: "that disk is read-only. Choose another folder",
    errno.EEXIST: "a file, or a link that leads nowhere, is in the folder's place. Take it away, or choose another folder",
    errno.ENAMETOOLONG: "that name is too long. Choose a shorter one",
    errno.ENOSPC: "that disk is full. Make room there, write to another disk, or choose a smaller format",
    errno.EFBIG: "that disk does not take files so large. Write to another disk, or choose a smaller format",
}
WHY |= {errno.EPERM: WHY[errno.EACCES], getattr(errno, "EDQUOT", errno.ENOSPC): WHY[errno.ENOSPC]}


def not_written(path: Path, error: OSError) -> str:
    """Why a file could not be written and what helps, in a sentence each."""
    why = WHY.get(error.errno, f"{error.strerror or reason(error)}. Look at the disk and the folder's permissions")
    return f"{shortened(path.name)}: could not be written to {shortened(str(path.parent))}: {why}"


class SafetensorsFile:
    """A safetensors file of known names, types and shapes. Tensors may come in any order.

    Larger element types lie first, so that every tensor is aligned to its own type and can be mapped.
    """

    def __init__(self, tensors: Sequence[Stored], metadata: Mapping[str, str]):
        ordered = sorted(tensors, key=lambda t: -DTYPES[t.type].itemsize)  # stable: the file's order otherwise
        entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        self.places: dict[str, tuple[int, Stored]] = {}
        end = 0
        for t in ordered:
            entries[t.name] = {"dtype": t.type, "shape": list(t.shape), "data_offsets": [end, end + t.nbytes]}
            self.places[t.name] = (end, t)
            end += t.nbytes
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % HEADER_ALIGNMENT)
        self.header = struct.pack("<Q", len(text)) + text
        self.nbytes = len(self.header) + end

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator["SafetensorsFile"]:
        with open(path, "wb") as self.file:
            self.file.truncate(self.nbytes)
            self.file.write(self.header)
            yield self

    def write(self, name: str, tensor: Tensor) -> None:
        start, stored = self.places[name]
        data = _bytes(tensor)
        if data.nbytes != stored.nbytes or SAFETENSORS_TYPES[tensor.dtype] != stored.type:
            raise ValueError(f"{name}: {tensor.dtype} of {data.nbytes:,} bytes, expected {stored}")
        self.file.seek(len(self.header) + start)
        self.file.write(data)


class GGUFFile:
    """A GGUF file of known names, types and shapes, by the gguf package. Tensors must come in their order."""

    def __init__(self, tensors: Sequence[Stored], metadata: Mapping[str, Any], name: str, file_type: int):
        """metadata: texts, numbers and truth values; name: `general.name`; file_type: a `gguf.LlamaFileType`."""
        self.tensors = list(tensors)
        self.metadata = dict(metadata)
        self.name, self.file_type = name, file_type
        texts = sum(len(key) + len(str(value).encode()) + 32 for key, value in self.metadata.items())
        entries = sum(t.nbytes + len(t.name) + GGUF_ENTRY_BYTES for t in self.tensors)
        self.nbytes = GGUF_HEADER_RESERVE + texts + entries  # a little more than it will take

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator["GGUFFile"]:
        # No program knows an architecture "chroma"; readers of Chroma want "flux" and look at the tensors.
        self.writer = gguf.GGUFWriter(path, arch="flux")
        self.writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        self.writer.add_file_type(self.file_type)
        self.writer.add_name(self.name)
        for key, value in self.metadata.items():  # not by add_string, which leaves out an empty text
            self.writer.add_key_value(key, value, _kind_of(value))
        for t in self.tensors:
            kind = gguf.GGMLQuantizationType[t.type]
            # Shapes in bytes, which the package converts back; numpy has no bfloat16.
            self.writer.add_tensor_info(t.name, packed_shape(t.shape, t.type), np.dtype(np.uint8), t.nbytes, kind)
        self.left = iter(self.tensors)
        try:
            self.writer.write_header_to_file()
            self.writer.write_kv_data_to_file()
            self.writer.write_ti_data_to_file()
            yield self
        finally:
            self.writer.close()

    def write(self, name: str, tensor: Tensor) -> None:
        stored = next(self.left)
        data = _bytes(tensor)
        if data.nbytes != stored.nbytes or name != stored.name:
            raise ValueError(f"{name}: {tensor.dtype} of {data.nbytes:,} bytes, expected {stored}")
        self.writer.write_tensor_data(data.view(_Written))


def _kind_of(value: Any) -> gguf.GGUFValueType:
    kinds = gguf.GGUFValueType
    if type(value) is int:
        return kinds.UINT64 if value > MAX_INT64 else kinds.INT64
    return {bool: kinds.BOOL, float: kinds.FLOAT64}.get(type(value), kinds.STRING)


class _Written(np.ndarray):
    """Bytes that are written by Python, which tells why the system takes no more; numpy tells only how many it took."""

    def tofile(self, file: Any, sep: str = "", format: str = "%s") -> None:
        file.write(self)


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
