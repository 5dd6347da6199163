"""Writes a Chroma model in a format of choice, layer by layer, to safetensors or GGUF. Plain torch, without a host.

Names are the published ones, so that the host's own loaders and other packs' read the files.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Protocol

import torch
from torch import Tensor

from ...chroma_model.block_lists import Block, blocks_text, parse_blocks
from ...constants import FLUX_VARIANT, SCHNELL_VARIANT
from ..files.error_text import encodable
from ..files.read import read_header, read_tensors, unreadable
from ..files.write import GGUFFile, SafetensorsFile, Stored, whole_file
from ..formats.base.format import GGUF
from ..formats.base.kept_layers import KEPT_PARTS
from ..formats.base.registry import EXPORTS, SUFFIXES, ExportFormat, dense, joined
from .check_shapes import check
from .detect_variant import Detection, detect
from .keys import block_of
from .metadata import kept_metadata, own_metadata
from .mixed import Mixture, mixture
from .prune import pruned
from .tensors_to_write import coded, items_of, prefix_of

Progress = Callable[[int, int, str], None]  # weights written, weights in all, name of the tensor that comes next


class Weights(Protocol):
    """A model to be written.

    name:     of its file, for messages and for the record.
    metadata: of that file.
    device:   where to compute.
    """

    name: str
    detection: Detection
    metadata: Mapping[str, Any]
    device: Any

    def dense(self, name: str) -> Tensor:
        """A tensor by the model's own name, unpacked, of any floating dtype, on any device. Never written to."""


class FileWeights:
    """A file of any layout that loads here."""

    def __init__(
        self,
        path: Path,
        prediction: str = "auto",
        text_ids: str = "auto",
        device: str = "cpu",
        left_out: str = "",
    ):
        """left_out: blocks to leave out, as "double 3, single 0-9".

        raises: ValueError naming the file, what was found and the remedy.
        """
        header = read_header(path)
        self.name, self.metadata = header.name, header.metadata
        self.detection = detect(header, prediction, text_ids)
        check(header, self.detection)
        blocks = parse_blocks(left_out, self.detection.config.num_blocks)
        self.detection = pruned(self.detection, blocks)
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
    error:   relative Frobenius error of those, all together.
    skipped: input width that the format does not fit -> number of linears, in 16 bits.
    left_out: blocks that the file does not have.
    mixture: of formats, where a largest error was asked for.
    """

    path: Path
    format: str
    num_bytes: int
    num_parameters: int
    num_linears: int
    error: float
    skipped: Mapping[int, int]
    variant: str
    left_out: frozenset[Block] = frozenset()
    mixture: Mixture | None = None

    def text(self) -> str:
        """For people."""
        kept = [part.rstrip("._") for part in KEPT_PARTS[self.variant] if part.rstrip("._")]
        lines = [
            f"{self.path}",
            f"{self.num_bytes / 1e6:,.1f} MB, {8 * self.num_bytes / self.num_parameters:.2f} bits a weight",
            f"{self.num_linears} linear layers in {self.format}, error of their weights {self.error:.3%}",
            f"in 16 or 32 bits: {', '.join(kept)}, norms, biases",
        ]
        if self.mixture is not None:
            blocks, of = self.mixture.blocks, self.mixture.format.format.shown
            told = (
                f"{len(blocks)} block{'s' * (len(blocks) > 1)} in {of}: {blocks_text(blocks)}"
                if blocks
                else "no block needs more bits"
            )
            lines.append(f"{told}; the output errs by {self.mixture.error:.2%}, {self.mixture.plain:.2%} without")
        if self.left_out:
            lines.append(
                f"pruned: without the blocks {blocks_text(self.left_out)}; Load Chroma Model reads it, other loaders refuse it"
            )
        lines += [
            f"{count} layers of input width {width} are in 16 bits too: no block of this format fits that width"
            for width, count in self.skipped.items()
        ]
        if self.variant in (FLUX_VARIANT, SCHNELL_VARIANT):
            lines.append(
                "without FLUX's own modulation: other loaders take it for Chroma; set its guidance, usually 3.5, by node "
                "there"
            )
        return "\n".join(lines)


def write_model(
    source: Weights,
    path: Path,
    format_name: str,
    *,
    full_precision: bool = True,
    overwrite: bool = False,
    metadata: Mapping[str, str] | None = None,
    max_error: float = 0.0,
    inputs: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> Written:
    """Writes a model. The file gets its name when it is whole; if the writing fails, nothing stays.

    format_name: a key of EXPORTS.
    full_precision: mark fp8 layers so that the host unpacks them for multiplication. Without the mark it multiplies in
                 fp8 where the device can, and then casts the inputs with a bare scale of 1.
    max_error:   of the output, relative: blocks take more bits until it is met. 0: no matter. inputs: see `mixture`.
    metadata:    added to the source's and this pack's own `chroma.*`.
    progress:    called before each tensor; what it raises ends the writing.
    raises:      ValueError for an unknown format, a name of another ending, a file that exists already, too little
                 space, NaN or infinite weights, weights that do not fit the format, or a disk that fails.
    """
    format = export_format(format_name, path)
    detection = source.detection
    mixed = None
    if max_error:
        tell = (lambda name: progress(0, detection.num_parameters, name)) if progress else (lambda name: None)
        mixed = mixture(source, format, max_error, inputs, tell)
    items = items_of(detection, format, full_precision, mixed and (mixed.blocks, mixed.format))
    stored = [s for item in items for s in item.stored.values()]
    # Other programs look for these empty tensors. Some drop them from a GGUF, so the metadata says it too.
    markers = [prefix_of(detection.config) + name for name in detection.config.markers]
    stored += [Stored(name, "F32", (0,)) for name in markers]
    record = {
        **kept_metadata(source.metadata, format.container),
        **(metadata or {}),
        **own_metadata(source.name, detection, format_name, full_precision, mixed.blocks if mixed else ()),
    }
    record = {key: encodable(value, "utf-8") if isinstance(value, str) else value for key, value in record.items()}
    if format.container == GGUF:
        title = str(record.pop("general.name", encodable(path.stem, "utf-8")))
        file: Any = GGUFFile(stored, record, title, int(format.file_type))
    else:
        file = SafetensorsFile(stored, {key: str(value) for key, value in record.items()})
    more_bits = mixed.blocks if mixed else frozenset()
    linears = [item for item in items if item.in_block and block_of(item.name) not in more_bits]
    skipped = [item for item in linears if item.type != format.type]
    counted = {item.name for item in linears if item.type == format.type}
    squares = torch.zeros(2, dtype=torch.float64)
    done = 0
    with whole_file(path, file.nbytes, overwrite) as partial, file.open(partial):
        for item in items:
            if progress is not None:
                progress(done, detection.num_parameters, item.name)
            try:
                weight = source.dense(item.name)
            except OSError as error:  # else it would be told of the file that is written
                raise unreadable(source.name, error) from error
            roles, found = coded(f"{source.name}: tensor {item.name}", weight, item)
            if item.name in counted:
                squares += found
            for role, s in item.stored.items():
                file.write(s.name, roles[role])
            done += math.prod(item.shape)
        for name in markers:
            file.write(name, torch.empty(0))
    return Written(
        path,
        format_name,
        path.stat().st_size,
        detection.num_parameters,
        len(linears) - len(skipped),
        float((squares[0] / squares[1]).sqrt()) if squares[1] else 0.0,
        Counter(item.shape[1] for item in skipped),
        detection.variant,
        detection.config.left_out,
        mixed,
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
