"""Writes a Chroma model in a format of choice, layer by layer, to safetensors or GGUF. Plain torch, without a host.

Names are the published ones, so that the host's own loaders and other packs' read the files. FORMATS.md 6.
Shapes: N output rows, K inputs.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Protocol

import gguf
import torch
from torch import Tensor

from . import gguf_types
from .convert import check, expected_shapes
from .dense import CHUNK, dense, joined, rotate
from .detect import METADATA_MARKERS, METADATA_PREFIX, Detection, detect
from .gguf_read import ORIGINAL_SHAPE
from .keys import NORMS, QUANT_MARKER
from .quant import FLOAT32_PARTS, KEPT_PARTS, is_quantised, rotation_group
from .read import DTYPES, GGUF_SUFFIX, SAFETENSORS_SUFFIXES, read_header, read_tensors
from .writers import GGUFFile, SafetensorsFile, Stored, whole_file

SAFETENSORS, GGUF = "safetensors", "gguf"
SUFFIXES = {SAFETENSORS: SAFETENSORS_SUFFIXES, GGUF: (GGUF_SUFFIX,)}
INT8_MAX = 127
PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
# Metadata that described the source file and not the model.
OUTDATED = (METADATA_MARKERS, METADATA_PREFIX, ORIGINAL_SHAPE, "modelspec.hash_sha256", "sshs_", "split.", "GGUF.")
GGUF_OWN = ("general.architecture", "general.quantization_version", "general.file_type", "general.alignment")

Progress = Callable[[int, int, str], None]  # weights written, weights in all, name of the tensor that comes next


@dataclass(frozen=True)
class ExportFormat:
    """One choice of what to write.

    container: SAFETENSORS or GGUF.
    linears:   type of the blocks' linears: safetensors' name of a dtype, or ggml's of a type.
    file_type: GGUF's number for a file of mostly that type.
    error:     of the linears' weights, relative (Frobenius), Gaussian ones. Source: FORMATS.md 5.1.
    """

    container: str
    linears: str
    error: float
    file_type: int = 0

    @property
    def suffix(self) -> str:
        return SUFFIXES[self.container][0]


FORMATS: dict[str, ExportFormat] = {
    "int8_convrot": ExportFormat(SAFETENSORS, "I8", 0.00927),
    "fp8_scaled": ExportFormat(SAFETENSORS, "F8_E4M3", 0.02646),
    "bf16": ExportFormat(SAFETENSORS, "BF16", 0.00166),
    "fp16": ExportFormat(SAFETENSORS, "F16", 0.00021),
    "q8_0": ExportFormat(GGUF, "Q8_0", 0.00535, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q5_1": ExportFormat(GGUF, "Q5_1", 0.0379, gguf.LlamaFileType.MOSTLY_Q5_1),
    "q5_0": ExportFormat(GGUF, "Q5_0", 0.0427, gguf.LlamaFileType.MOSTLY_Q5_0),
    "q4_1": ExportFormat(GGUF, "Q4_1", 0.0783, gguf.LlamaFileType.MOSTLY_Q4_1),
    "q4_0": ExportFormat(GGUF, "Q4_0", 0.0859, gguf.LlamaFileType.MOSTLY_Q4_0),
    "gguf_bf16": ExportFormat(GGUF, "BF16", 0.00166, gguf.LlamaFileType.MOSTLY_BF16),
    "gguf_f16": ExportFormat(GGUF, "F16", 0.00021, gguf.LlamaFileType.MOSTLY_F16),
}


class Weights(Protocol):
    """A model to be written.

    name:     of its file, for messages and for the record.
    metadata: of that file.
    """

    name: str
    detection: Detection
    metadata: Mapping[str, Any]

    def dense(self, name: str) -> Tensor:
        """A tensor by the model's own name, unpacked, of any floating dtype, on any device. Never written to."""


class FileWeights:
    """A file of any layout that loads here."""

    def __init__(self, path: Path, prediction: str = "auto", text_ids: str = "auto", device: str = "cpu"):
        """raises: ValueError naming the file, what was found and the remedy."""
        header = read_header(path)
        self.name, self.metadata = header.name, header.metadata
        self.detection = detect(header, prediction, text_ids)
        check(header, self.detection)
        self.tensors = read_tensors(path)
        self.device = device

    def dense(self, name: str) -> Tensor:
        parts = self.detection.tensors[name]
        names = [n for part in parts for n in (part.file_name, *part.scales.values())]
        tensors = {n: self.tensors[n].to(self.device) for n in names}
        return joined([dense(part, tensors) for part in parts])


@dataclass(frozen=True)
class Written:
    """What was written.

    error:   relative Frobenius error of the blocks' linears, all together.
    skipped: inputs of linears that the format does not fit -> how many; they are in 16 bits.
    """

    path: Path
    format: str
    num_bytes: int
    num_parameters: int
    num_linears: int
    error: float
    skipped: Mapping[int, int]
    kept: tuple[str, ...]

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.path}",
            f"{self.num_bytes / 1e6:,.1f} MB, {8 * self.num_bytes / self.num_parameters:.2f} bits a weight",
            f"{self.num_linears} linear layers in {self.format}, error of their weights {self.error:.3%}; "
            f"in 16 or 32 bits: {', '.join(self.kept)}, norms, biases",
        ]
        lines += [
            f"{count} layers of input width {width} are in 16 bits too: no block of this format fits that width"
            for width, count in self.skipped.items()
        ]
        return "\n".join(lines)


def write_model(
    source: Weights,
    path: Path,
    format_name: str,
    *,
    full_precision: bool = True,
    overwrite: bool = False,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Written:
    """Writes a model; the file appears under its name when it is whole, and nothing stays if it does not get there.

    format_name: a key of FORMATS.
    full_precision: mark fp8 layers so that the host unpacks them for multiplication. Without the mark it multiplies in
                 fp8 where the device can, and then casts the inputs with a bare scale of 1.
    metadata:    more of it, beside the source's and this pack's own `chroma.*`.
    progress:    called before each tensor; what it raises ends the writing.
    raises:      ValueError for an unknown format, a name of another ending, a file that exists already, too little
                 space, NaN or infinite weights, or weights that do not fit the format.
    """
    format = export_format(format_name, path)
    detection = source.detection
    types = _types(detection, format)
    marks = {name: _marker(types[name], shape, full_precision) for name, shape in shapes_of(detection).items()}
    stored = [s for name, shape in shapes_of(detection).items() for s in _stored(name, types[name], shape, marks[name])]
    # Where the format lost them, programs that know the empty tensors still find them; we read the metadata too.
    stored += [Stored(name, "F32", (0,)) for name in detection.config.markers]
    record = {
        **_kept_metadata(source.metadata, format.container),
        **(metadata or {}),
        **_record(source, format_name, full_precision),
    }
    if format.container == GGUF:
        name = str(record.pop("general.name", path.stem))
        file: Any = GGUFFile(stored, record, name, int(format.file_type))
    else:
        file = SafetensorsFile(stored, record)
    squares = torch.zeros(2, dtype=torch.float64)  # of the linears' errors, of their weights
    done = 0
    with whole_file(path, file.nbytes, overwrite) as partial, file.open(partial):
        for name, shape in shapes_of(detection).items():
            if progress is not None:
                progress(done, detection.num_parameters, name)
            coded, found = _coded(f"{source.name}: {name}", source.dense(name), types[name], shape)
            if is_quantised(name, len(shape), detection.variant):
                squares += found
            scale = coded.get("weight_scale")
            for s in _stored(name, types[name], shape, marks[name]):
                role = s.name.rpartition(".")[2]
                values = {"weight_scale": scale, QUANT_MARKER: marks[name]}.get(role)
                file.write(s.name, coded[""] if values is None else values)
            done += math.prod(shape)
        for name in detection.config.markers:
            file.write(name, torch.empty(0))
    linears = [n for n, shape in shapes_of(detection).items() if is_quantised(n, len(shape), detection.variant)]
    skipped = [n for n in linears if types[n] != format.linears]
    return Written(
        path,
        format_name,
        path.stat().st_size,
        detection.num_parameters,
        len(linears) - len(skipped),
        float((squares[0] / squares[1]).sqrt()) if squares[1] else 0.0,
        Counter(shapes_of(detection)[n][1] for n in skipped),
        KEPT_PARTS[detection.variant],
    )
