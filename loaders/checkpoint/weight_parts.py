"""From names and a header to weights: each with its stored parts, their scales and markers. For Chroma and T5 alike."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, Mapping

import torch

from ..files.header import read_layers
from ..files.read import Header
from ..formats.base.format import FLOAT_DTYPES, dtype_text
from ..formats.base.registry import is_needed, storage_of
from ..tensor_info import METADATA_MARKERS, QUANT_MARKER, Part
from .foreign import refuse_foreign
from .keys import OLD_MARKERS, OLD_SCALES, SCALES, is_flag

Place = Callable[[str], "tuple[str, int | None]"]  # name of a stored tensor -> the weight's own, and which part it is


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The weights of a file.

    dtype:   of most of the plain weights.
    tensors: the model's own name -> the stored tensors whose rows make it up, in their order; one, except for layers
             that diffusers splits.
    shapes:  of each whole, unpacked weight.
    formats: format -> number of stored tensors, without plain ones.
    """

    dtype: torch.dtype
    tensors: Mapping[str, tuple[Part, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    formats: Mapping[str, int]

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


class Names:
    """A file's names, split into weights, scales and markers.

    plain:   weight's name without prefix -> name in the file.
    scales:  stem -> role -> name in the file.
    markers: stem -> the layer's `comfy_quant` entry.
    """

    def __init__(self, header: Header, names: Mapping[str, str], prefix: str):
        """names: name without prefix -> name in the file. raises: ValueError for a foreign quantiser's file or a damaged marker."""
        refuse_foreign(header, names)
        self.markers = _layer_markers(header, names, prefix)
        self.plain, self.scales = _split_scales(names)

    def without(self, is_dropped: Callable[[str], Any]) -> None:
        """Forgets weights and their scales."""
        for name in [name for name in self.plain if is_dropped(name)]:
            del self.plain[name]
            self.scales.pop(name.removesuffix(".weight"), None)


def collect(
    header: Header,
    names: Names,
    old_marker: Any,
    place: Place = lambda name: (name, None),
    split: Callable[[str], list[str]] = lambda name: [],
) -> Collected:
    """How each weight is stored.

    old_marker: what the header says of the file's `scaled_fp8` tensor; None without one.
    place:      where a stored tensor belongs.
    split:      a weight's own name -> the stored names of all its parts, in the order of rows.
    raises:     ValueError for an unknown storage, two tensors for one place, or a missing part or weight.
    """
    scales = dict(names.scales)
    found: dict[str, dict[int | None, Part]] = {}
    for name, file_name in names.plain.items():
        stem = name.removesuffix(".weight")
        is_weight = name.endswith(".weight")
        own = scales.pop(stem, {}) if is_weight else {}
        beside = {role: header.tensors[n] for role, n in own.items()}
        storage = storage_of(
            f"{header.name}: tensor {file_name}",
            header.tensors[file_name],
            beside,
            names.markers.get(stem) if is_weight else None,
            old_marker,
        )
        weight, part = place(name)
        parts = found.setdefault(weight, {})
        if part in parts or (parts and None in (part, *parts)):
            other = next(iter(parts.values())).file_name
            raise ValueError(f"{header.name}: {other} and {file_name} are the same tensor. Remove one of them")
        needed = {role: n for role, n in own.items() if is_needed(role, beside[role], storage)}
        parts[part] = Part(file_name, storage, needed)
    lost = [n for own in scales.values() for n in own.values()]
    if lost:
        raise ValueError(f"{header.name}: {lost[0]} is a scale without its weight. The file is incomplete")

    tensors = {name: _ordered(header.name, parts, split(name)) for name, parts in found.items()}
    every = [part for parts in tensors.values() for part in parts]
    sizes = Counter[torch.dtype]()
    for part in every:
        info = header.tensors[part.file_name]
        if info.dtype in FLOAT_DTYPES:
            sizes[info.dtype] += info.numel
    return Collected(
        dtype=sizes.most_common(1)[0][0] if sizes else torch.bfloat16,
        tensors=tensors,
        shapes={name: _shape(header.name, name, parts) for name, parts in tensors.items()},
        formats=Counter(part.storage.format for part in every if part.storage.format is not None),
    )


def _layer_markers(header: Header, names: Mapping[str, str], prefix: str) -> dict[str, Mapping[str, Any]]:
    """Stem -> the layer's `comfy_quant` entry, from tensors and from the file's metadata."""
    markers: dict[str, Mapping[str, Any]] = {}
    text = header.metadata.get(METADATA_MARKERS)
    if text is not None:
        markers = {stem.removeprefix(prefix): entry for stem, entry in read_layers(header.name, text).items()}
    for name, file_name in names.items():
        if name.endswith("." + QUANT_MARKER):
            if file_name not in header.markers:
                info = header.tensors[file_name]
                raise ValueError(
                    f"{header.name}: {file_name} is a marker of {info.numel} values of {dtype_text(info.dtype)}, expected "
                    "a short text as uint8. The file is damaged"
                )
            markers[name.removesuffix("." + QUANT_MARKER)] = header.markers[file_name]
    return markers


def _split_scales(names: Mapping[str, str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """(the model's tensors, stem -> scales by today's role); markers and flags are left out."""
    plain: dict[str, str] = {}
    scales: dict[str, dict[str, str]] = {}
    for name, file_name in names.items():
        stem, _, last = name.rpartition(".")
        role = OLD_SCALES.get(last, last)
        if is_flag(name) or name in OLD_MARKERS or last == QUANT_MARKER:
            continue
        if role in SCALES and stem:
            scales.setdefault(stem, {})[role] = file_name
        else:
            plain[name] = file_name
    return plain, scales


def _ordered(file: str, parts: Mapping[int | None, Part], published: list[str]) -> tuple[Part, ...]:
    if None in parts:
        return (parts[None],)
    for i, missing in enumerate(published):
        if i not in parts:
            raise ValueError(f"{file}: tensor {missing} is missing. The file is incomplete; download it again")
    return tuple(parts[i] for i in range(len(published)))


def _shape(file: str, name: str, parts: tuple[Part, ...]) -> tuple[int, ...]:
    first = parts[0].storage.shape
    for part in parts[1:]:
        if part.storage.shape[1:] != first[1:] or not part.storage.shape:
            raise ValueError(
                f"{file}: {part.file_name} of shape {part.storage.shape} does not fit {parts[0].file_name} of shape "
                f"{first}, with which it makes up {name}. The file is damaged"
            )
    return first if len(parts) == 1 else (sum(part.storage.shape[0] for part in parts), *first[1:])
