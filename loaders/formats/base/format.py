"""What is known of one stored format: one record, a `Format`. Shapes: N output rows, K inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import torch
from torch import Tensor

from ...files.error_text import short
from ...tensor_info import MERGED_LORA, Storage, TensorInfo

OWN_LAYOUT = "ChromaPackedLayout"  # this pack's, for what the host's layouts do not hold
SAFETENSORS, GGUF = "safetensors", "gguf"  # containers of a file that is written
FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SCALE_FLOATS = (*FLOAT_DTYPES, torch.float64)  # of numbers beside a weight; they are rounded to float32

Roles = Mapping[str, Tensor]  # tensors beside a weight, by today's names: `weight_scale`, `input_scale` ...
Settings = Mapping[str, Any]  # what else unpacking needs, under the host's names


@dataclass(frozen=True)
class Weight:
    """What a header shows of one weight.

    label:      file and tensor, for messages.
    beside:     what stands beside it, by role.
    marker:     its `comfy_quant` entry; empty without one.
    old_marker: the file's `scaled_fp8` tensor, if any.
    """

    label: str
    info: TensorInfo
    beside: Mapping[str, TensorInfo]
    marker: Mapping[str, Any]
    old_marker: TensorInfo | None = None

    @property
    def dtype(self) -> torch.dtype | str:
        return self.info.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape

    @property
    def scale(self) -> TensorInfo | None:
        return self.beside.get("weight_scale")

    @property
    def named(self) -> str | None:
        """The format that its marker names."""
        return self.marker.get("format")

    def setting(self, name: str, default: Any = None) -> Any:
        """A value of the marker, at its top or in its `params`."""
        params = self.marker.get("params")
        return self.marker.get(name, params.get(name, default) if isinstance(params, Mapping) else default)

    def unpadded(self, rows: int, columns: int, multiple: int) -> tuple[int, int]:
        """The weight's own shape by its marker, where a writer filled rows and columns up to whole blocks.

        convert_to_quant does so, as the host's quantisers do: Radiance's embedder of pixels has 67 inputs.
        """
        shape = self.setting("orig_shape")
        stored = [rows, columns]
        if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
            return rows, columns
        return tuple(shape) if [round_up(n, multiple) for n in shape] == stored else (rows, columns)  # type: ignore[return-value]

    def misfit(self, beside: TensorInfo) -> ValueError:
        return ValueError(
            f"{self.label} of shape {self.shape}, {dtype_text(self.dtype)}, has scales of shape {beside.shape}, "
            f"{dtype_text(beside.dtype)}, which fit no known format. Take another version of the file"
        )

    def lacks(self, said: str, role: str) -> ValueError:
        return ValueError(f"{self.label} {said} but has no {role}. Download the file again")


@dataclass(frozen=True)
class Held:
    """A packed weight (N, K): the parts of a quantised tensor of its layout.

    fields: of the layout's Params, except the shape and the type to unpack to.
    """

    format: str
    data: Tensor
    shape: tuple[int, ...]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Matmul:
    """How a device multiplies a format as it is stored. Each device is tried once.

    name:      in reports.
    options:   of the layout's quantiser, for the trial.
    inputs:    the layout that inputs are given in; None where the operation rounds them itself.
    limit:     largest relative error of a product of Gaussian matrices; above it the operation counts as broken.
    supported: name of the host's own check in `comfy.model_management`, if it has one; needs: the text if it fails.
    scaled_here: this pack scales the inputs by their own largest value; the host's default scale is 1.
    """

    name: str
    options: Settings = field(default_factory=dict)
    inputs: str | None = None
    limit: float = 0.1
    supported: str = ""
    needs: str = ""
    scaled_here: bool = False


class Mode(NamedTuple):
    """A choice of the loader's quant_mode.

    place:     in the menu. options: of the layout's quantiser.
    alias:     a text of other packs' workflows, not in the menu.
    encoder:   offered for text encoders too.
    """

    name: str
    place: int
    options: Settings = {}
    alias: bool = False
    encoder: bool = False


class Export(NamedTuple):
    """A choice of what to write. type: safetensors' name of a dtype, or ggml's of a type. file_type: GGUF's number."""

    name: str
    place: int
    container: str
    type: str
    file_type: int = 0


Pack = Callable[[Tensor, Tensor, "int | None"], tuple[Tensor, "Tensor | None"]]


def _no_marker(shape: Sequence[int], full_precision: bool) -> None:
    return None


@dataclass(frozen=True, eq=False)
class Format:
    """One way to store a weight.

    name:      in reports; markers call it `host_name`, the same unless said.
    bits:      per weight, with scales, for 3072 inputs.
    error:     relative (Frobenius), of Gaussian weights with 12288 inputs; None if not measured. Source:
               benchmarks/precision.py; for GGML's K types ggml's own quantisers (`ggml.ERRORS`).
    recognise: what a header shows -> how it is stored; None where it is another format, ValueError where it is this one
               and does not fit.
    unpack:    (stored, beside, settings, dtype) -> (N, K) in dtype.
    hold:      (stored, beside, storage) -> `Held`; beside is without the scales of inputs.
    fuse:      joins several weights by rows without unpacking; None if that is not possible.
    beside:    the roles that may stand beside the weight.
    marked:    beginning of a marker's format -> dtypes that the weight may have.
    layout:    the host's, or OWN_LAYOUT.
    has_rows:  rows can be unpacked on their own; not so if the layout stores scales in tiles.
    unpacked_here: if not multiplied as stored, our layers unpack it; the host's layers would round the inputs too.
    pack:      (rows float32, the tensor's largest number, seed or None for rounding to nearest) -> stored, scale; rows
               may be some of a tensor's. None where it is only read.
    fits:      whether rows of K inputs make whole blocks.
    marker:    (shape, full_precision) -> what a written file's marker says; None without one.
    has_row_scales: `pack` gives a scale a row, (N, 1); else one for all, ().
    rewritten: packed anew when a LoRA changes it; others keep their values and carry the change beside them.
    dtype:     of plain numbers, which need no unpacking.
    """

    name: str
    bits: float
    error: float | None
    recognise: Callable[[Weight], Storage | None]
    unpack: Callable[[Tensor, Roles, Settings, torch.dtype], Tensor]
    hold: Callable[[Tensor, dict[str, Tensor], Storage], Held] | None = None
    fuse: Callable[[Sequence[Held]], Held | None] = lambda parts: None
    beside: tuple[str, ...] = ("weight_scale", "input_scale", *MERGED_LORA)
    marked: Mapping[str, tuple[torch.dtype, ...]] = field(default_factory=dict)
    layout: str = OWN_LAYOUT
    host_name: str = ""
    has_rows: bool = True
    unpacked_here: bool = False
    matmul: Matmul | None = None
    modes: tuple[Mode, ...] = ()
    exports: tuple[Export, ...] = ()
    pack: Pack | None = None
    fits: Callable[[int], bool] = lambda columns: True
    marker: Callable[[Sequence[int], bool], dict[str, Any] | None] = _no_marker
    has_row_scales: bool = True
    rewritten: bool = False
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if not self.host_name:
            object.__setattr__(self, "host_name", self.name)

    @property
    def shown(self) -> str:
        """Its name in reports."""
        return self.name.lower()


def hold_own(data: Tensor, beside: dict[str, Tensor], storage: Storage) -> Held:
    """A weight of OWN_LAYOUT: its scale, if it has one, and the LoRA that was saved with it."""
    scale = beside.get("weight_scale")
    fields = {role.removeprefix("weight_"): beside[role] for role in MERGED_LORA if role in beside}
    return Held(storage.format, data, storage.shape, {"scale": None if scale is None else scale.float(), **fields})


def is_changed(held: Held) -> bool:
    """Whether a LoRA was saved with it."""
    return any(held.fields.get(role.removeprefix("weight_")) is not None for role in MERGED_LORA)


def joined_rows(parts: Sequence[Held], **fields: Any) -> Held:
    """The parts' stored values joined by rows, with the first part's fields except those given."""
    first = parts[0]
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    return Held(first.format, torch.cat([part.data for part in parts]), shape, {**first.fields, **fields})


def scale_per_row(parts: Sequence[Held]) -> Tensor:
    """(N, 1) of parts that have one scale, or one a row."""
    return torch.cat([part.fields["scale"].reshape(-1, 1).expand(part.shape[0], 1) for part in parts])


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def dtype_text(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")


def marker_text(weight: Weight) -> str:
    return f"is marked as {short(weight.named)}" if weight.named else f"has {', '.join(weight.beside)}"
