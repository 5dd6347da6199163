"""Opens GGUF files: the header, bounds-checked, then the tensors, mapped and not copied. Renames nothing.

Source: the GGUF specification (ggml, MIT). Why not gguf-py's reader: a damaged file makes it hang, fill the memory or
raise anything; here every damage is one ValueError.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

import numpy as np
import torch
from torch import Tensor

from ..tensor_info import GGML_CODES, GGML_PLAIN
from .error_text import name_problem, short
from .header import MAX_HEADER_BYTES, check_count

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # laid out alike; 1 had shorter counts
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_DEPTH = 4  # of arrays in arrays
MAX_TEXT_BYTES = 1 << 20  # of a metadata entry
MAX_TEXTS = 1 << 20  # in arrays; the largest tokenizers have 800,000 tokens and merges
ARRAY_COST = 16  # an array in an array takes as long to read as so many texts
MIN_TENSOR_BYTES = 24  # of a header entry: length of the name, count of sizes, type, offset
MIN_ENTRY_BYTES = 13  # of a metadata entry: length of the key, type, the smallest value
MIN_ARRAY_BYTES = 12
UNKNOWN_TYPE = "type "  # + its number
ODD_BYTES = {
    0xDC00 + i: f"\\x{i:02x}" for i in range(0x80, 0x100)
}  # as Python keeps them in a text -> as they are shown
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # + tensor's name: sizes before city96's converter regrouped them

U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
# Number of a metadata value's type -> struct's letter, numpy's name.
NUMBERS: dict[int, tuple[struct.Struct, str]] = {
    0: (struct.Struct("<B"), "u1"),
    1: (struct.Struct("<b"), "i1"),
    2: (struct.Struct("<H"), "<u2"),
    3: (struct.Struct("<h"), "<i2"),
    4: (U32, "<u4"),
    5: (struct.Struct("<i"), "<i4"),
    6: (struct.Struct("<f"), "<f4"),
    7: (struct.Struct("<?"), "?"),
    10: (U64, "<u8"),
    11: (struct.Struct("<q"), "<i8"),
    12: (struct.Struct("<d"), "<f8"),
}
UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9

BLOCK_ALIGNMENT = 2  # blocks hold fp16 numbers


@dataclass(frozen=True)
class GGUFTensor:
    """What a header says of one tensor.

    type_name: ggml's, or "type 123" for a number that is not known here.
    shape:     of the weights, in torch's order.
    offset:    of the first byte, from the file's start.
    nbytes:    0 for a type that is not known.
    """

    type_name: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_gguf_header(path: str | os.PathLike[str]) -> tuple[dict[str, GGUFTensor], dict[str, object]]:
    """Names, types, shapes and places of a file's tensors, in the file's order, and its metadata.

    Metadata: numbers, bools and texts are Python's, arrays of numbers numpy's, arrays of texts or arrays lists. A text
    that is no UTF-8 keeps its odd bytes as \\xNN; one of more than a megabyte is None. `comfy.gguf.orig_shape.NAME` becomes the tensor's shape if it holds as
    many weights in whole blocks.

    raises: ValueError if the file is missing, empty, cut short, damaged, big-endian or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path.name}: there is no such file. Refresh the page to renew the list of models")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path.name}: the file is empty. Download it again")
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        cursor = _Cursor(buffer, path.name)
        count, num_entries = _counts(cursor)
        metadata: dict[str, object] = {}
        kinds: dict[str, int] = {}
        for _ in range(num_entries):
            key = cursor.name("metadata key", metadata)
            kinds[key] = cursor.number(U32)
            metadata[key] = _value(cursor, kinds[key], key)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if kinds.get("general.alignment", UINT32) != UINT32 or alignment < 1 or alignment & (alignment - 1):
            raise cursor.damaged(f"its alignment is {short(alignment)}, which is no power of two")
        tensors: dict[str, GGUFTensor] = {}
        for _ in range(count):
            name = cursor.name("tensor name", tensors)
            tensors[name] = _tensor(cursor, name, metadata)
        start = -(-cursor.at // alignment) * alignment
    placed = {name: GGUFTensor(t.type_name, t.shape, start + t.offset, t.nbytes) for name, t in tensors.items()}
    _check_places(placed, start, size, alignment, path.name)
    return placed, metadata


def map_gguf(path: str | os.PathLike[str], tensors: Mapping[str, GGUFTensor]) -> dict[str, Tensor]:
    """Tensors that `read_gguf_header` named, on the CPU, mapped from the file and read when touched.

    Writing into a tensor never reaches the file. On Windows, where views are read-only (writable ones take page file),
    it ends the process: clone first. A tensor whose offset is not aligned to its dtype is copied.

    returns: F64, F32, F16, BF16, I64, I32, I16 and I8 as that dtype in the tensor's shape; all else as uint8
             (..., K // block_size * type_size).
    raises:  ValueError for a type whose size is not known, or if the file has become shorter.
    """
    path = Path(path)
    sizes = {name: (block_size, type_size) for name, block_size, type_size in GGML_CODES.values()}
    out: dict[str, Tensor] = {}
    with open(path, "rb") as f, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        buffer = _map(f.fileno())
        for name, t in tensors.items():
            if t.type_name not in sizes:
                raise ValueError(f"{path.name}: {name} has tensor {t.type_name}, which is not known. Take another file")
            if t.nbytes and t.offset + t.nbytes > len(buffer):
                raise ValueError(f"{path.name}: the file has become shorter. Download it again")
            dtype, shape, alignment = GGML_PLAIN.get(t.type_name), t.shape, BLOCK_ALIGNMENT
            if dtype is None:
                block_size, type_size = sizes[t.type_name]
                dtype, shape = torch.uint8, (*shape[:-1], shape[-1] // block_size * type_size)
            else:
                alignment = dtype.itemsize
            if t.nbytes == 0:
                out[name] = torch.empty(shape, dtype=dtype)
            elif t.offset % alignment:
                piece = bytearray(buffer[t.offset : t.offset + t.nbytes])
                out[name] = torch.frombuffer(piece, dtype=dtype).view(shape)
            else:
                count = t.nbytes // dtype.itemsize
                out[name] = torch.frombuffer(buffer, dtype=dtype, count=count, offset=t.offset).view(shape)
    return out


def _map(file: int) -> mmap.mmap:
    if os.name == "nt":
        return mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    # Pages that are never written need no swap behind them.
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(file, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


class _Cursor:
    """A position that cannot leave the header."""

    def __init__(self, buffer: mmap.mmap, file_name: str):
        self.buffer, self.file_name, self.at = buffer, file_name, 0
        self.end = min(len(buffer), MAX_HEADER_BYTES)
        self.texts_left = MAX_TEXTS

    def damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.file_name}: the GGUF header is damaged or cut short: {what}. Download it again")

    def skip(self, count: int) -> int:
        """Moves on by count bytes; returns where they start."""
        start = self.at
        if count > self.end - start:
            if count > len(self.buffer) - start:
                size = len(self.buffer)
                raise self.damaged(f"it goes on for {count:,} bytes at byte {start:,}, the file ends at {size:,}")
            raise self.damaged(f"it is longer than {MAX_HEADER_BYTES:,} bytes")
        self.at += count
        return start

    def number(self, form: struct.Struct):
        return form.unpack_from(self.buffer, self.skip(form.size))[0]

    def count(self, min_bytes: int, what: str) -> int:
        """A count of things that take at least min_bytes each."""
        count = self.number(U64)
        if count * min_bytes > self.end - self.at:
            raise self.damaged(f"it announces {count:,} {what} in a file of {len(self.buffer):,} bytes")
        return count

    def text(self) -> bytes:
        count = self.number(U64)
        start = self.skip(count)
        return self.buffer[start : start + count]

    def value(self) -> str | None:
        """A text of the metadata."""
        raw = self.text()
        if len(raw) > MAX_TEXT_BYTES:
            return None
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("utf-8", "surrogateescape").translate(ODD_BYTES)

    def spend(self, texts: int) -> None:
        self.texts_left -= texts
        if self.texts_left < 0:
            raise ValueError(
                f"{self.file_name}: its metadata holds more than {MAX_TEXTS:,} texts or arrays. Take an unmodified checkpoint"
            )

    def name(self, what: str, known: Mapping[str, object]) -> str:
        raw = self.text()
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged(f"a {what} is no UTF-8 text ({raw[:40]!r})") from None
        if name_problem(name):
            raise self.damaged(f"a {what} is {name_problem(name)}")
        if name in known:
            raise self.damaged(f"the {what} {name!r} comes twice")
        return name


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """Numbers of tensors and of metadata entries."""
    name = cursor.file_name
    found = cursor.buffer[: len(MAGIC)]
    if found != MAGIC:
        raise ValueError(f"{name}: not a GGUF file: it starts with {found!r}, not {MAGIC!r}. Download it again")
    cursor.skip(len(MAGIC))
    version = cursor.number(U32)
    if version and not version & 0xFFFF:
        raise ValueError(f"{name}: a big-endian GGUF file, made for other processors. Take the little-endian one")
    if version not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise ValueError(f"{name}: GGUF version {version} is not known ({known} are). Download a newer file")
    counts = cursor.count(MIN_TENSOR_BYTES, "tensors"), cursor.count(MIN_ENTRY_BYTES, "metadata entries")
    check_count(name, max(counts))
    return counts


def _value(cursor: _Cursor, kind: int, key: str, depth: int = 0) -> object:
    if kind in NUMBERS:
        return cursor.number(NUMBERS[kind][0])
    if kind == STRING:
        return cursor.value()
    if kind != ARRAY or depth == MAX_DEPTH:
        found = f"of type {kind}" if kind != ARRAY else f"an array in more than {MAX_DEPTH} others"
        raise cursor.damaged(f"the value of {key!r} is {found}, which is not known")
    kind = cursor.number(U32)
    if kind in NUMBERS:
        form, numpy_name = NUMBERS[kind]
        count = cursor.count(form.size, f"values of {key!r}")
        start = cursor.skip(count * form.size)
        raw = cursor.buffer[start : start + count * form.size]
        return np.frombuffer(raw, "u1") != 0 if kind == BOOL else np.frombuffer(raw, numpy_name)
    count = cursor.count(U64.size if kind == STRING else MIN_ARRAY_BYTES, f"values of {key!r}")
    cursor.spend(count if kind == STRING else ARRAY_COST * count)
    if kind == STRING:
        return [cursor.value() for _ in range(count)]
    return [_value(cursor, kind, key, depth + 1) for _ in range(count)]


def _tensor(cursor: _Cursor, name: str, metadata: Mapping[str, object]) -> GGUFTensor:
    """One entry; its offset counts from the end of the header, which is not known yet."""
    num_dims = cursor.number(U32)
    if num_dims > MAX_DIMS:
        raise cursor.damaged(f"{name!r} has {num_dims:,} sizes, at most {MAX_DIMS} are known")
    shape = tuple(cursor.number(U64) for _ in range(num_dims))[::-1]
    code, offset = cursor.number(U32), cursor.number(U64)
    if 0 in shape and len(shape) > 1:
        raise cursor.damaged(f"{name!r} has the shape {list(shape)}")
    numel = math.prod(shape)
    type_name, block_size, type_size = GGML_CODES.get(code, (f"{UNKNOWN_TYPE}{code}", 1, 0))
    if numel >= 1 << 63 or (block_size > 1 and (not shape or shape[-1] % block_size)):
        raise cursor.damaged(f"{name!r} of type {type_name} has the shape {list(shape)}")
    original = metadata.get(ORIGINAL_SHAPE + name)
    if isinstance(original, np.ndarray) and original.dtype == np.int32 and (original > 0).all() and len(original):
        sizes = tuple(original.tolist())
        if math.prod(sizes) == numel and sizes[-1] % block_size == 0:
            shape = sizes
    return GGUFTensor(type_name, shape, offset, numel // block_size * type_size)


def _check_places(tensors: Mapping[str, GGUFTensor], start: int, size: int, alignment: int, file_name: str) -> None:
    """Tensors follow each other in the header's order, do not overlap, and fill the file up to padding.

    ggml demands the same. This check finds a wrong size, type or place, and bytes that were lost or added.
    """
    end, last = start, "the header"  # end None: unknown, after a tensor of unknown type
    for name, t in tensors.items():
        if t.type_name.startswith(UNKNOWN_TYPE):
            end, last = None, name
        if not t.nbytes:
            continue
        if t.offset + t.nbytes > size:
            raise ValueError(
                f"{file_name}: damaged or cut short: {name!r} ends at byte {t.offset + t.nbytes:,} of {size:,}. "
                "Download it again"
            )
        if end is not None and t.offset < end:
            raise ValueError(f"{file_name}: damaged: {name!r} lies inside or before {last!r}. Download it again")
        if end is not None and t.offset - end >= alignment:
            gap = t.offset - end
            raise ValueError(
                f"{file_name}: damaged: {gap:,} bytes before {name!r} are unaccounted for. Download it again"
            )
        end, last = t.offset + t.nbytes, name
    if tensors and end is not None and size not in (end, -(-end // alignment) * alignment):
        raise ValueError(
            f"{file_name}: damaged: the file has {size:,} bytes, its last tensor {last!r} ends at byte {end:,}. "
            "Download it again"
        )
