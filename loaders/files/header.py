"""The header that every reader of weight files gives, and the markers in it: small tensors that hold JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping

import torch

from ..tensor_info import METADATA_MARKERS, QUANT_MARKER, TensorInfo
from .error_text import reason, short

MAX_MARKER_BYTES = 4096
# Beyond these a header is refused before it takes long: published ones have some thousand tensors and some megabytes.
MAX_TENSORS = 1 << 16
MAX_HEADER_BYTES = 1 << 25


@dataclass(frozen=True)
class Header:
    """Names, dtypes and shapes of a file's tensors, in the file's order, without their values."""

    name: str  # for messages: the file's name, not its path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, Any]
    markers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # tensor name -> the JSON in it
    num_bytes: int = 0  # of all files together


def check_count(file: str, count: int) -> None:
    """raises: ValueError for more tensors than any model has that is loaded here."""
    if count > MAX_TENSORS:
        raise ValueError(
            f"{file}: its header tells of {count:,} tensors, at most {MAX_TENSORS:,} are read. Take an unmodified checkpoint"
        )


def is_quant_marker(name: str, info: TensorInfo) -> bool:
    return name.endswith(f".{QUANT_MARKER}") and info.dtype == torch.uint8 and 0 < info.numel <= MAX_MARKER_BYTES


def read_marker(file: str, name: str, raw: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: the marker {name} is damaged ({reason(error)}). Download the file again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: the marker {name} holds {short(raw)}, expected an object. Download the file again")
    return found


def read_layers(file: str, text: Any) -> dict[str, dict[str, Any]]:
    """Layer -> how it is quantised, from the entry METADATA_MARKERS of a header's metadata."""
    try:
        return {layer: dict(entry) for layer, entry in json.loads(text)["layers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: {METADATA_MARKERS} is damaged ({reason(error)}). Download it again") from error
