"""Checks a file's tensors against the model that they are meant for. Nothing may be missing, left over or misshapen."""

from __future__ import annotations

from typing import Mapping, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from ...chroma_model import ChromaConfig, ChromaTransformer
from ..files.read import Header
from .approximator import fill_approximator
from .detect_variant import Detection
from .keys import is_flag
from .weight_parts import Collected

NUM_NAMED = 5  # how many offending tensors an error names


def expected_shapes(config: ChromaConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a model of these sizes, from the model itself."""
    with torch.device("meta"):
        model = ChromaTransformer(config)
        fill_approximator(model, config)
    return {name: tuple(p.shape) for name, p in model.state_dict().items() if not is_flag(name)}


class Words(NamedTuple):
    """The words of errors on one family of models: for unknown tensors, and for wrong shapes."""

    unknown: str
    misshapen: str


CHROMA = Words(
    "not part of Chroma. The file holds more than one model or a variant that this version does not know; take an "
    "unmodified checkpoint",
    "The file is damaged or was edited; take an unmodified checkpoint",
)


def check(header: Header, detection: Detection) -> None:
    """Raises ValueError for the first kind of mismatch between a file and the model that its sizes imply."""
    check_shapes(header.name, expected_shapes(detection.config), detection, CHROMA)


def check_shapes(file: str, expected: Mapping[str, tuple[int, ...]], found: Collected, words: Words) -> None:
    """Raises ValueError where weights are missing, unknown or of another shape than expected."""
    missing = [name for name in expected if name not in found.tensors]
    if missing:
        raise ValueError(f"{file}: {listed(missing)} missing. The file is incomplete; download it again")
    unknown = [p.file_name for name, parts in found.tensors.items() if name not in expected for p in parts]
    if unknown:
        raise ValueError(f"{file}: {listed(unknown)} {words.unknown}")
    for name, shape in expected.items():
        if found.shapes[name] != shape:
            raise ValueError(
                f"{file}: tensor {' + '.join(p.file_name for p in found.tensors[name])} has shape {found.shapes[name]}, "
                f"expected {shape} beside the other tensors of this file. {words.misshapen}"
            )


def non_finite(tensors: Mapping[str, Tensor], sample: bool) -> list[str]:
    """Names of tensors that hold NaN or infinity.

    sample: look at vectors and at the first, middle and last row of each matrix only, so that a mapped file of many
            gigabytes is not read for it.
    """
    bad = []
    for name, tensor in tensors.items():
        part = tensor
        if type(tensor) is not Tensor and type(tensor) is not Parameter:
            if sample:
                continue  # packed: its bytes say nothing, and unpacking a whole model takes as long as a run
            part = tensor.dequantize()
        if sample and tensor.ndim == 2 and tensor.shape[0] > 2:
            part = tensor[[0, tensor.shape[0] // 2, -1]]
        if not part.is_floating_point():
            continue
        part = part.float()  # isfinite lacks some types
        if not torch.isfinite(part.sum()) and not torch.isfinite(part).all():
            bad.append(name)
    return bad


def unwritten(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of matrices whose first, middle and last row are zero bytes. tensors: as they are stored, of any type.

    A download that reserves the whole file first and is broken off leaves such places, and so does a disk without power.
    """
    found = []
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or tensor.numel() == 0:
            continue
        rows = (tensor[i].contiguous().view(-1).view(torch.uint8) for i in (0, len(tensor) // 2, -1))
        if not any(bool(row.any()) for row in rows):
            found.append(name)
    return found


def listed(names: list[str]) -> str:
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    plural = "tensors" if len(names) > 1 else "tensor"
    verb = "are" if len(names) > 1 else "is"
    return f"{plural} {', '.join(names[:NUM_NAMED])}{more} {verb}"
