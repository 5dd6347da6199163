"""Opens weight files: first the header alone, then the tensors, mapped and not copied. Renames nothing."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
MAX_HEADER_BYTES = 100_000_000  # the format's own limit

# safetensors' name -> torch's. What torch lacks is left as text, so that an error can name it.
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor."""

    dtype: torch.dtype | str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        count = 1
        for n in self.shape:
            count *= n
        return count


@dataclass(frozen=True)
class Header:
    """Names, dtypes and shapes of a file's tensors, in the file's order, without their values."""

    name: str  # for messages: the file's name, not its path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a weight file, checked against the file's size.

    raises: ValueError if the file is empty, cut short, malformed, of an unknown kind, or a pickle that holds code.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path.name}: there is no such file. Refresh the page to renew the list of models")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name}: the file is empty. Download it again")
    suffix = path.suffix.lower()
    if suffix in SAFETENSORS_SUFFIXES:
        return _safetensors_header(path)
    if suffix in PICKLE_SUFFIXES:
        tensors = _load_pickle(path)
        return Header(path.name, {k: TensorInfo(v.dtype, tuple(v.shape)) for k, v in tensors.items()}, {})
    if suffix == ".gguf":
        raise ValueError(f"{path.name}: GGUF files are not read by this version. Take the model's .safetensors file")
    known = ", ".join(SAFETENSORS_SUFFIXES + PICKLE_SUFFIXES)
    raise ValueError(f"{path.name}: unknown file type {suffix!r} (known: {known})")


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a file that `read_header` accepted, on the CPU, mapped from the file and read when touched."""
    path = Path(path)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return _load_pickle(path)
    try:
        with safe_open(path, framework="pt") as f:
            return {name: f.get_tensor(name) for name in f.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path.name}: not a sound safetensors file ({error}). Download it again") from error


def _safetensors_header(path: Path) -> Header:
    """safetensors: 8 bytes of length, that much JSON, then the tensors' bytes. Source: the format's specification."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(
                f"{path.name}: not a safetensors file, or cut short: its first bytes announce a header of {length:,} "
                f"bytes, the file has {size:,}. Download it again"
            )
        raw = f.read(length)
    try:
        entries = json.loads(raw)
        metadata = entries.pop("__metadata__", {}) or {}
        tensors = {name: _tensor_info(entry) for name, entry in entries.items()}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path.name}: the safetensors header is damaged ({error}). Download the file again"
        ) from error
    if size < 8 + length + end:
        raise ValueError(
            f"{path.name}: the file is cut short: {size:,} bytes of {8 + length + end:,}. Download it again"
        )
    return Header(path.name, tensors, metadata)


def _tensor_info(entry: dict) -> TensorInfo:
    shape = tuple(entry["shape"])
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"shape {entry['shape']}")
    return TensorInfo(DTYPES.get(entry["dtype"], entry["dtype"]), shape)


def _load_pickle(path: Path) -> dict[str, Tensor]:
    try:  # only the zipped kind, torch's since 1.6, can be mapped
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path.name}: refused, it is damaged or holds more than weights, which could run code on this machine "
            f"({reason}). Take the model's .safetensors file instead"
        ) from error
    for wrapper in ("state_dict", "model", "module"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    tensors = {k: v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, dict) else {}
    if not tensors:
        raise ValueError(f"{path.name}: holds no named tensors. Take the model's .safetensors file")
    return tensors
