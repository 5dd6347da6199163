"""torch's own files: weights only, mapped where the kind allows it. What could run code is refused."""

from __future__ import annotations

import struct
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from .error_text import name_problem, reason

ZIP_HEADER_BYTES, ZIP_LENGTHS_AT = 30, 26  # of a part; the lengths of its name and extra field
ZIP_DESCRIPTOR = b"PK\x07\x08"  # begins the sizes that may follow


def load_pickle(path: Path) -> dict[str, Tensor]:
    """Its tensors by name. raises: ValueError if it is damaged, or holds more than plain tensors."""
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
                    if f.read(1):  # that format has no checksums; added bytes show only at its end
                        raise ValueError("bytes are left over at its end")
    except Exception as error:  # a damaged pickle raises any of two dozen kinds
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
    """Checks a zipped pickle: checksums of all parts but the weights, and every part's place.

    torch checks neither when it maps a file. raises: anything, if the file is damaged.
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
