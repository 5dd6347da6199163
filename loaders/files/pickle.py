"""torch's own files: weights only, mapped where the kind allows it. What could run code is refused."""

from __future__ import annotations

import errno
import io
import re
import struct
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from .error_text import name_problem, reason, short
from .header import check_count

ZIP_HEADER_BYTES, ZIP_LENGTHS_AT = 30, 26  # of a part; the lengths are of what stands before its data
ZIP_DESCRIPTOR = b"PK\x07\x08"  # begins the sizes that may stand behind
MAX_BYTES = 1 << 23  # of all but the weights; some 500 bytes a tensor

# PyTorch's reader of weights alone could be made to run code before (CVE-2025-32434, 2.6; CVE-2026-24747, 2.10).
SAFE_TORCH = (2, 10)

CLASS = re.compile(r"GLOBAL ([\w.]+)")  # in torch's refusal: what the file wants to be made of
READ = re.compile(r"read\(\): fd \d+ failed with (.+)")  # in torch's own words for an error of the disk
QUANTISERS = (
    "torchao",
    "optimum.quanto",
    "bitsandbytes",
    "sdnq",
    "hqq",
)  # packages whose tensors are classes of their own


def load_pickle(path: Path) -> dict[str, Tensor]:
    """Its tensors by name.

    raises: ValueError if it is damaged, holds more than plain tensors, or PyTorch is too old to tell; OSError if the disk fails.
    """
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < SAFE_TORCH:
        raise ValueError(
            f"{path.name}: not read, since a file of this kind could run code on this machine with PyTorch {torch.__version__}. "
            f"Take the model's .safetensors file, or update PyTorch to {'.'.join(map(str, SAFE_TORCH))} or newer"
        )
    try:
        mapped = zipfile.is_zipfile(path)  # only the zipped kind, torch's since 1.6, can be mapped
        if mapped:
            _check_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of old kinds of tensors; those are refused below
            if mapped:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            else:
                with _Limited(path) as f:
                    loaded = torch.load(f, map_location="cpu", weights_only=True)
                    if f.read(1):  # that format has no checksums; added bytes show only at its end
                        raise ValueError("bytes are left over at its end")
    except Exception as error:  # a damaged pickle ends in any of two dozen kinds
        failed = _of_the_disk(error)
        if failed is not None:
            raise failed from None
        wanted = CLASS.search(str(error))
        quantiser = next((name for name in QUANTISERS if wanted and wanted[1].startswith(name)), None)
        if quantiser is not None:
            raise ValueError(
                f"{path.name}: quantised by {quantiser}, whose classes are not supported. Take a GGUF, "
                "fp8 or 16-bit version of the model"
            ) from error
        cause = f"it needs {short(wanted[1])}" if wanted else reason(error)
        raise ValueError(
            f"{path.name}: refused, it is damaged or holds more than weights, which could run code on this machine "
            f"({cause}). Take the model's .safetensors file instead"
        ) from error
    for wrapper in ("state_dict", "model", "module"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    named = loaded.items() if isinstance(loaded, dict) else ()
    # Detached: what is computed of a parameter would be kept for its gradient, a whole model in the end.
    tensors = {k: v.detach() for k, v in named if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f"{path.name}: holds no named tensors. Take the model's .safetensors file")
    check_count(path.name, len(tensors))
    for name, tensor in tensors.items():
        if name_problem(name):
            raise ValueError(f"{path.name}: holds {name_problem(name)}. Take the model's .safetensors file")
        plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
        if not plain or tensor.untyped_storage().nbytes() < tensor.nbytes:  # fewer bytes: one number for many
            raise ValueError(f"{path.name}: {name} is no plain tensor. Take the model's .safetensors file")
    return tensors


def _of_the_disk(error: Exception) -> OSError | None:
    """The system's error behind one of torch or zipfile; None for that of a damaged file, which leads to no place in it (EINVAL)."""
    found = error if isinstance(error, OSError) else error.__context__
    if isinstance(found, OSError) and found.errno not in (None, errno.EINVAL):
        return found
    said = READ.search(str(error))
    return OSError(said[1]) if said else None


class _Limited(io.BufferedReader):
    """A file whose reading ends with an error where more is read of it than a sound one has beside its weights."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self.left = MAX_BYTES

    def read(self, size: int | None = -1) -> bytes:
        wanted = self.left + 1 if size is None or size < 0 else min(size, self.left + 1)
        found = super().read(wanted)
        self.left -= len(found)
        if self.left < 0:
            raise ValueError(f"more than {MAX_BYTES:,} bytes beside its weights")
        return found


def _check_zip(path: Path) -> None:
    """A zipped pickle's parts but the weights against their checksums, and the places of all; none may be compressed.

    torch looks at neither where it maps a file, and writes none compressed: one could expand for ever.
    raises: anything, if the file is damaged.
    """
    with _Limited(path) as limited, zipfile.ZipFile(limited) as archive, open(path, "rb") as f:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        ends = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
        for entry, end in zip(entries, ends):
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename} is compressed")
            with archive.open(entry) as part:  # compares the two copies of the name
                if "/data/" not in entry.filename:
                    part.read()
            f.seek(entry.header_offset + ZIP_LENGTHS_AT)
            start = entry.header_offset + ZIP_HEADER_BYTES + sum(struct.unpack("<HH", f.read(4)))
            last = start + entry.compress_size
            f.seek(last)
            if not (last == end or (last < end <= last + ZIP_HEADER_BYTES and f.read(4) == ZIP_DESCRIPTOR)):
                raise ValueError(f"{entry.filename} is out of place")
