"""All formats, from the files of `loaders/formats`, and what follows from them: recognising, unpacking, menus."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Sequence

import torch
from torch import Tensor

from ...files.error_text import short
from ...files.read import GGUF_SUFFIX, SAFETENSORS_SUFFIXES
from ...tensor_info import MERGED_LORA, Part, Storage, TensorInfo
from .format import FLOAT_DTYPES, GGUF, SAFETENSORS, SCALE_FLOATS, Format, Weight, dtype_text


def _gathered() -> tuple[Format, ...]:
    """The records of every file of `loaders/formats`, in the order of the files' names."""
    names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parents[1])]) if not m.ispkg)
    modules = (importlib.import_module(f"..{name}", __package__) for name in names)
    return tuple(record for module in modules for record in getattr(module, "FORMATS", ()))


ALL = _gathered()
PLAIN: Mapping[torch.dtype, Format] = {f.dtype: f for f in ALL if f.dtype is not None}
FORMATS: Mapping[str, Format] = {f.name: f for f in ALL if f.dtype is None}
BY_HOST_NAME: Mapping[str, Format] = {f.host_name: f for f in FORMATS.values()}
MARKED: Mapping[str, tuple[torch.dtype, ...]] = {start: dtypes for f in ALL for start, dtypes in f.marked.items()}

# Role -> dtypes that it may have; other roles have SCALE_FLOATS.
_BITS = (torch.uint8, torch.float8_e4m3fn, getattr(torch, "float8_e8m0fnu", torch.uint8), "F8_E8M0")
ROLE_DTYPES: Mapping[str, tuple[Any, ...]] = {
    "weight_scale": (*SCALE_FLOATS, *_BITS),
    **dict.fromkeys(MERGED_LORA, FLOAT_DTYPES),
    "weight_delta": (torch.int8,),
}
FAMILIES = ("float8", "int8")  # other writers' names that begin so are accepted; the stored type decides


# --- recognising and unpacking ---------------------------------------------------------------------------------------


def storage_of(
    label: str,
    info: TensorInfo,
    beside: Mapping[str, TensorInfo],
    marker: Mapping[str, Any] | None,
    old_marker: TensorInfo | None = None,
) -> Storage:
    """Recognises how one weight is stored.

    label:  file and tensor, for messages.
    beside: today's name of a scale (`weight_scale` ...) -> what the header says of it.
    marker: the layer's `comfy_quant` entry, or None.
    old_marker: the file's `scaled_fp8` tensor, if any: 2 values mean full-precision matrix multiplication.
    raises: ValueError for a type that no format knows, or scales that do not fit the weight.
    """
    weight = Weight(label, info, beside, dict(marker or {}), old_marker)
    if weight.named is not None and not isinstance(weight.named, str):
        raise ValueError(
            f"{label} is marked as {short(weight.named)}, expected the name of a format. Download the file again"
        )
    _check_marker(weight)
    storage = next((found for f in ALL if (found := f.recognise(weight)) is not None), None)
    if storage is None:
        raise _unknown(weight)
    if storage.format is not None:
        for role, scale in beside.items():
            if not is_needed(role, scale, storage):
                continue
            if role not in FORMATS[storage.format].beside or scale.dtype not in ROLE_DTYPES.get(role, SCALE_FLOATS):
                raise weight.misfit(scale)
    return storage


def is_needed(role: str, scale: TensorInfo, storage: Storage) -> bool:
    """False for an `input_scale` that the format has no use for, or that is not one number.

    convert_to_quant writes the weight's own scales, of any shape, there in text encoders.
    """
    if role != "input_scale":
        return True
    return scale.numel == 1 and storage.format is not None and role in FORMATS[storage.format].beside


def _check_marker(weight: Weight) -> None:
    """Checks that a marked matrix is stored as marked. The marker of plain numbers or other shapes is ignored."""
    named = weight.named
    if named is None or isinstance(weight.dtype, str) or weight.dtype in FLOAT_DTYPES or len(weight.shape) != 2:
        return
    if named not in BY_HOST_NAME and named not in MARKED and not named.startswith(FAMILIES):
        known = ", ".join(f.host_name for f in FORMATS.values() if f.host_name == f.name)
        raise ValueError(f"{weight.label} is marked as {short(named)}, which is not supported ({known} are)")
    starts = {start: dtypes for start, dtypes in MARKED.items() if named.startswith(start)}
    held = starts[max(starts, key=len)] if starts else None
    if held is not None and weight.dtype not in held:
        raise ValueError(
            f"{weight.label} is marked as {short(named)} but stored as {dtype_text(weight.dtype)}. The file is "
            "damaged; download it again"
        )


def _unknown(weight: Weight) -> ValueError:
    if isinstance(weight.dtype, str):
        known = ", ".join([*("F32", "F16", "BF16"), *(f.name for f in FORMATS.values() if f.name.isupper())])
        return ValueError(
            f"{weight.label} is stored as {weight.dtype}, which is not supported ({known} are). Take a file in one of "
            "those"
        )
    return ValueError(
        f"{weight.label} is stored as {dtype_text(weight.dtype)} of shape {weight.shape}, which no known format of "
        "Chroma uses. Take another version of the file"
    )


def dense(part: Part, tensors: Mapping[str, Tensor]) -> Tensor:
    """One stored tensor, unpacked to float32; a plain one keeps its type.

    tensors: the file's tensors by their names in it; only read.
    raises:  ValueError for a plain weight with a scale beside it that is not 1.
    """
    data = tensors[part.file_name]
    beside = {role: tensors[name] for role, name in part.scales.items()}
    storage = part.storage
    if storage.format is None:
        for role, scale in beside.items():
            if not bool((scale.float() == 1).all()):
                raise ValueError(
                    f"{part.file_name} is stored in 16 or 32 bits, but {part.scales[role]} beside it is "
                    f"{scale.flatten()[0].item():g}, expected 1. The file is damaged; take another version"
                )
        return data
    weight = FORMATS[storage.format].unpack(data, beside, storage.settings, torch.float32).view(storage.shape)
    if "weight_up" in beside:  # a LoRA that was saved beside it, see `lora_change.Change`
        weight = torch.addmm(weight, beside["weight_up"].float(), beside["weight_down"].float())
    if "weight_delta" in beside:
        weight = torch.addcmul(weight, beside["weight_delta"].float(), beside["weight_delta_scale"].float())
    return weight


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Joins the rows of a layer that a file stores in parts."""
    if len(parts) == 1:
        return parts[0]
    same = len({part.dtype for part in parts}) == 1
    return torch.cat(list(parts) if same else [part.float() for part in parts])


# --- menus -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuantMode:
    """One choice of the loader's quant_mode.

    dtype:  storage type of all weights, or None to keep the file's.
    format: storage of the blocks' linears (a key of FORMATS), or None.
    quantise: arguments of the layout's quantiser.
    """

    dtype: torch.dtype | None = None
    format: str | None = None
    quantise: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keeps(self) -> bool:
        return self.dtype is None and self.format is None


SUFFIXES = {SAFETENSORS: SAFETENSORS_SUFFIXES, GGUF: (GGUF_SUFFIX,)}


def _modes(alias: bool, encoder: bool = False) -> dict[str, QuantMode]:
    found = [(m, f) for f in ALL for m in f.modes if m.alias == alias and (m.encoder or not encoder)]
    return {
        m.name: QuantMode(f.dtype, None if f.dtype is not None else f.name, m.options)
        for m, f in sorted(found, key=lambda pair: pair[0].place)
    }


KEEPING = {"auto": QuantMode(), "keep": QuantMode()}
QUANT_MODES: dict[str, QuantMode] = {**KEEPING, **_modes(alias=False)}
ENCODER_MODES: dict[str, QuantMode] = {**KEEPING, **_modes(alias=False, encoder=True)}
ALIASES: dict[str, QuantMode] = _modes(alias=True)  # texts of other packs' workflows


@dataclass(frozen=True)
class ExportFormat:
    """One choice of what to write.

    container: SAFETENSORS or GGUF.
    type:      of the blocks' linears: safetensors' name of a dtype, or ggml's of a type.
    file_type: GGUF's number for a file of mostly that type.
    """

    container: str
    type: str
    file_type: int
    format: Format

    @property
    def suffix(self) -> str:
        return SUFFIXES[self.container][0]

    @property
    def error(self) -> float | None:
        """Of the linears' weights."""
        return self.format.error


_CHOICES = sorted(((e, f) for f in ALL for e in f.exports), key=lambda pair: pair[0].place)
EXPORTS: dict[str, ExportFormat] = {e.name: ExportFormat(e.container, e.type, e.file_type, f) for e, f in _CHOICES}
BY_TYPE: dict[str, Format] = {"F32": PLAIN[torch.float32], **{e.type: e.format for e in EXPORTS.values()}}


def quant_mode(name: str) -> QuantMode:
    """raises: ValueError for an unknown name, listing the known ones."""
    mode = QUANT_MODES.get(name) or ALIASES.get(name)
    if mode is None:
        raise ValueError(f"quant_mode {name!r} is not known (known: {', '.join([*QUANT_MODES, *ALIASES])})")
    return mode
