"""Writes a Chroma model in a format of choice, layer by layer, to safetensors or GGUF. Plain torch, without a host.

Names are the published ones, so that the host's own loaders and other packs' read the files.
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

import torch
from torch import Tensor

from ..files.gguf import ORIGINAL_SHAPE
from ..files.read import read_header, read_tensors
from ..files.write import GGUFFile, SafetensorsFile, Stored, whole_file
from ..formats.kept import FLOAT32_PARTS, KEPT_PARTS, is_quantised
from ..formats.record import GGUF, SAFETENSORS
from ..formats.table import BY_TYPE, EXPORTS, SUFFIXES, ExportFormat, dense, joined
from ..formats.tiles import CHUNK
from .check import check, expected_shapes
from .detect import METADATA_MARKERS, METADATA_PREFIX, Detection, detect
from .keys import NORMS, QUANT_MARKER

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
# Metadata that described the source file and not the model.
OUTDATED = (METADATA_MARKERS, METADATA_PREFIX, ORIGINAL_SHAPE, "modelspec.hash_sha256", "sshs_", "split.")
GGUF_OWN = ("general.architecture", "general.quantization_version", "general.file_type", "general.alignment")

Progress = Callable[[int, int, str], None]  # weights written, weights in all, name of the tensor that comes next


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

    num_linears: linear layers of the blocks that are in the format.
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
    variant: str

    def text(self) -> str:
        """For people."""
        kept = [part.rstrip("._") for part in KEPT_PARTS[self.variant] if part.rstrip("._")]
        lines = [
            f"{self.path}",
            f"{self.num_bytes / 1e6:,.1f} MB, {8 * self.num_bytes / self.num_parameters:.2f} bits a weight",
            f"{self.num_linears} linear layers in {self.format}, error of their weights {self.error:.3%}",
            f"in 16 or 32 bits: {', '.join(kept)}, norms, biases",
        ]
        lines += [
            f"{count} layers of input width {width} are in 16 bits too: no block of this format fits that width"
            for width, count in self.skipped.items()
        ]
        if self.variant == "FLUX":
            lines.append(
                "without FLUX's own modulation: it will load as Chroma, so set its guidance, usually 3.5, by node"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Item:
    """One tensor of the model, and how it is written.

    type: see `Stored`. marker: the host's description of a quantised layer.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    in_block: bool
    marker: Mapping[str, Any] | None

    @property
    def marker_bytes(self) -> Tensor:
        return torch.tensor(list(json.dumps(self.marker).encode()), dtype=torch.uint8)

    @property
    def stored(self) -> dict[str, Stored]:
        """Role -> tensor of the file: the weight, and in safetensors what stands beside a quantised one."""
        stem = self.name.removesuffix(".weight")
        weight = Stored(file_name(self.name), self.type, self.shape)
        if self.marker is None:
            return {"weight": weight}
        scale = (self.shape[0], 1) if BY_TYPE[self.type].has_row_scales else ()
        return {
            "weight": weight,
            "weight_scale": Stored(f"{stem}.weight_scale", "F32", scale),
            QUANT_MARKER: Stored(f"{stem}.{QUANT_MARKER}", "U8", tuple(self.marker_bytes.shape)),
        }


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

    format_name: a key of EXPORTS.
    full_precision: mark fp8 layers so that the host unpacks them for multiplication. Without the mark it multiplies in
                 fp8 where the device can, and then casts the inputs with a bare scale of 1.
    metadata:    more of it, beside the source's and this pack's own `chroma.*`.
    progress:    called before each tensor; what it raises ends the writing.
    raises:      ValueError for an unknown format, a name of another ending, a file that exists already, too little
                 space, NaN or infinite weights, or weights that do not fit the format.
    """
    format = export_format(format_name, path)
    detection = source.detection
    items = plan(detection, format, full_precision)
    stored = [s for item in items for s in item.stored.values()]
    # The empty tensors are what other programs look for; in a GGUF, where some drop them, the metadata tells it too.
    stored += [Stored(name, "F32", (0,)) for name in detection.config.markers]
    record = {
        **kept_metadata(source.metadata, format.container),
        **(metadata or {}),
        **settings(source, format_name, full_precision),
    }
    if format.container == GGUF:
        title = str(record.pop("general.name", path.stem))
        file: Any = GGUFFile(stored, record, title, int(format.file_type))
    else:
        file = SafetensorsFile(stored, {key: str(value) for key, value in record.items()})
    squares = torch.zeros(2, dtype=torch.float64)
    done = 0
    with whole_file(path, file.nbytes, overwrite) as partial, file.open(partial):
        for item in items:
            if progress is not None:
                progress(done, detection.num_parameters, item.name)
            roles, found = coded(f"{source.name}: tensor {item.name}", source.dense(item.name), item)
            if item.in_block:
                squares += found
            for role, s in item.stored.items():
                file.write(s.name, roles[role])
            done += math.prod(item.shape)
        for name in detection.config.markers:
            file.write(name, torch.empty(0))
    linears = [item for item in items if item.in_block]
    skipped = [item for item in linears if item.type != format.type]
    return Written(
        path,
        format_name,
        path.stat().st_size,
        detection.num_parameters,
        len(linears) - len(skipped),
        float((squares[0] / squares[1]).sqrt()) if squares[1] else 0.0,
        Counter(item.shape[1] for item in skipped),
        detection.variant,
    )


def export_format(name: str, path: Path | None = None) -> ExportFormat:
    """raises: ValueError for an unknown name, or for a path whose ending is of another container."""
    if name not in EXPORTS:
        raise ValueError(f"format {name!r} is not known (known: {', '.join(EXPORTS)})")
    choice = EXPORTS[name]
    if path is not None and not path.name.lower().endswith(SUFFIXES[choice.container]):
        raise ValueError(
            f"{path.name}: {name} is written as {choice.container}, so the name must end in "
            f"{' or '.join(SUFFIXES[choice.container])}"
        )
    return choice


def plan(detection: Detection, choice: ExportFormat, full_precision: bool = True) -> list[Item]:
    """What each tensor becomes, in the source's order.

    The linears of the blocks take the format; other matrices 16 bits (fp16 if the source's are), `FLOAT32_PARTS` and,
    in a GGUF, vectors and kernels 32: other readers take the sizes of 4-D tensors from bytes unless they are F32 or F16.
    """
    half = "F16" if detection.dtype == torch.float16 else "BF16"
    half = choice.type if choice.type in ("F16", "BF16") else half
    items = []
    shapes = expected_shapes(detection.config)
    for name in detection.tensors:
        shape = shapes[name]
        in_block = is_quantised(name, len(shape), detection.variant)
        if name.startswith(FLOAT32_PARTS) or (choice.container == GGUF and len(shape) != 2):
            kind = "F32"
        else:
            kind = choice.type if in_block and BY_TYPE[choice.type].fits(shape[1]) else half
        marker = BY_TYPE[kind].marker(shape, full_precision) if choice.container == SAFETENSORS else None
        items.append(Item(name, shape, kind, in_block, marker))
    return items


def coded(label: str, weight: Tensor, item: Item) -> tuple[dict[str, Tensor], Tensor]:
    """A tensor's values as they are stored, on the CPU, by role, and the sums of squares (2,) of error and weight.

    label:  for messages. weight: of any floating dtype, on any device.
    raises: ValueError if it holds NaN or infinity, or more than fp16 holds where that is its type.
    """
    if tuple(weight.shape) != item.shape:
        raise ValueError(
            f"{label} has become {tuple(weight.shape)}, expected {item.shape}. Take off what changed its size"
        )
    low, high = weight.aminmax()
    peak = torch.maximum(-low, high).float()
    if not bool(torch.isfinite(peak)):
        raise ValueError(f"{label} holds NaN or infinite weights. Download the file again, or take off the last LoRA")
    if item.type == "F16" and peak > torch.finfo(torch.float16).max:
        raise ValueError(f"{label} holds {float(peak):g}, more than fp16 can. Choose a format in bf16")
    format, settings = BY_TYPE[item.type], item.marker or {}
    rows = weight.reshape(-1, item.shape[-1])
    roles: dict[str, Tensor] = {QUANT_MARKER: item.marker_bytes} if item.marker is not None else {}
    squares = torch.zeros(2, dtype=torch.float64)
    height = max(1, CHUNK // item.shape[-1])
    for start in range(0, len(rows), height):
        part = rows[start : start + height].float()
        codes, scale = format.pack(part, peak, None)
        beside = {} if scale is None else {"weight_scale": scale}
        error = format.unpack(codes, beside, settings, torch.float32).sub(part)
        squares += torch.stack([x.square().sum() for x in (error, part)]).cpu()  # chunks are short enough for float32
        for role, values in {"weight": codes, **beside}.items():
            if not values.ndim:  # one scale for all rows
                roles[role] = values.cpu()
                continue
            if role not in roles:
                roles[role] = torch.empty(len(rows), values.shape[1], dtype=values.dtype)
            roles[role][start : start + height] = values.cpu()
    return roles, squares


def file_name(name: str) -> str:
    """The published name of one of the model's tensors: norms end in `.scale`."""
    published = name.removesuffix(".weight") + ".scale"
    return published if name.endswith(".weight") and NORMS.search(published) else name


def kept_metadata(metadata: Mapping[str, Any], container: str) -> dict[str, Any]:
    """What a source's metadata says of the model, as the container can hold it; arrays are left out."""
    left_out = (*OUTDATED, *GGUF_OWN) if container == GGUF else (*OUTDATED, *GGUF_OWN, "comfy.gguf.")
    return {
        key: value
        for key, value in metadata.items()
        if not key.startswith(left_out) and isinstance(value, (str, bool, int, float))
    }


def settings(source: Weights, format_name: str, full_precision: bool) -> dict[str, str]:
    """The record of how a file was made, and what the model's markers say."""
    config = source.detection.config
    entries = {
        "writer": f"chroma-pack {version()}",
        "source": source.name,
        "format": format_name,
        "kept": ", ".join(KEPT_PARTS[source.detection.variant]),
        "prediction": config.prediction,
        "text_ids": config.text_ids,
    }
    matmul = EXPORTS[format_name].format.matmul
    if matmul is not None and matmul.scaled_here:
        entries["full_precision_matrix_mult"] = str(full_precision).lower()
    return {METADATA_PREFIX + key: value for key, value in entries.items()}


@functools.lru_cache
def version() -> str:
    """This pack's."""
    found = re.search(r'^version = "(.+)"', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(1) if found else "of unknown version"
