"""The header of a safetensors file, bounds-checked. Source: the format's specification."""

from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ..tensor_info import DTYPES, GGML_BLOCKS, TensorInfo
from .error_text import encodable, name_problem, reason, short
from .header import MAX_HEADER_BYTES, MAX_TENSORS, Header, is_quant_marker, read_marker

MAX_LENGTH = 100_000_000  # of a header: the format's own limit
MAX_DIMS = 8
MAX_NUMBER = 1 << 63  # of a size or place
MAX_TEXTS = 6 * MAX_TENSORS  # five texts tell of a tensor, two of a metadata entry
MAX_LISTS = 8 * MAX_TENSORS  # brackets: three tell of a tensor; texts of metadata have some too


def safetensors_header(path: Path) -> Header:
    """Layout: 8 bytes of length, that much JSON, the tensors' bytes.

    raises: ValueError if the file is cut short, damaged or something else.
    """
    size = path.stat().st_size
    with open(path, "rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_LENGTH, size - 8):
            raise ValueError(
                f"{path.name}: not a safetensors file, or cut short: its first bytes announce a header of {length:,} "
                f"bytes, the file has {size:,}. Download it again"
            )
        if length > MAX_HEADER_BYTES:
            raise ValueError(
                f"{path.name}: its header has {length:,} bytes, at most {MAX_HEADER_BYTES:,} are read. Take a file with "
                "less metadata"
            )
        raw = f.read(length)
        _check_counts(path.name, raw)
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
            if is_quant_marker(name, tensors[name]):
                f.seek(8 + length + first)
                markers[name] = read_marker(path.name, name, f.read(last - first))
    return Header(encodable(path.name), tensors, metadata, markers, size)


def _check_counts(file: str, raw: bytes) -> None:
    """Counts before anything is made of it. A quote is a text's end unless an odd number of backslashes is before it."""
    plain = raw.replace(b"\\\\", b"")
    texts = (plain.count(b'"') - plain.count(b'\\"')) // 2
    lists = raw.count(b"[") + raw.count(b"{")
    if texts > MAX_TEXTS or lists > MAX_LISTS:
        raise ValueError(
            f"{file}: its header holds {texts:,} texts and {lists:,} lists, more than any model's. Take an unmodified "
            "checkpoint"
        )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without repeated names, since readers disagree on which one counts."""
    out = dict(pairs)
    if len(out) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{short(twice)} comes twice")
    return out


def _tensor_info(name: str, entry: dict) -> TensorInfo:
    if name_problem(name):
        raise ValueError(name_problem(name))
    shape, dtype = entry["shape"], entry["dtype"]
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMS
        or not all(type(n) is int and 0 <= n < MAX_NUMBER for n in shape)
    ):
        raise ValueError(f"{name} has the shape {short(shape)}")
    if not isinstance(dtype, str) or name_problem(dtype) or dtype in GGML_BLOCKS.keys() - DTYPES.keys():
        raise ValueError(f"{name} has the type {short(dtype)}")
    return TensorInfo(DTYPES.get(dtype, short(dtype).strip("'")), tuple(shape))


def _span(name: str, entry: dict, info: TensorInfo) -> tuple[int, int, str]:
    """(first byte, one past the last, name), checked against the tensor's shape and type."""
    first, last = entry["data_offsets"]
    if type(first) is not int or type(last) is not int or not 0 <= first <= last < MAX_NUMBER:
        raise ValueError(f"{name} has offsets {short(entry['data_offsets'])}")
    if isinstance(info.dtype, torch.dtype) and last - first != info.numel * info.dtype.itemsize:
        raise ValueError(f"{name} takes {last - first:,} bytes, not what its shape {short(info.shape)} needs")
    return first, last, name
