"""FLUX lite made of FLUX and a patch, as FluxMod did: eight double blocks, one of them from the patch.

FLUX.1 lite leaves out double blocks 5 to 15 of FLUX.1 dev's nineteen, and block 4 takes over for them: the patch holds its
weights. Since January 2025 FluxMod's Approximators of it have 32 inputs and give 212 modulations; those before had 64 and gave
356, all of FLUX's among them, which nothing here reads.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Mapping, NamedTuple

from ..files.read import Header
from ..tensor_info import METADATA_MARKERS
from .keys import FLUX_MODULATION
from .naming import layout_of

BLOCKS = "double_blocks."
PATCHED = 4
DROPPED = range(5, 16)
WHOLE, LITE = 19, 8
IN_DIM = 32  # of its Approximator
OWN_SIGNATURE = "img_attn.qkv.weight"  # of a block that stands alone


class Patched(NamedTuple):
    """header: of the model with its patch. own, theirs: name in it -> name in the model's file, in the patch's."""

    header: Header
    own: Mapping[str, str]
    theirs: Mapping[str, str]


def with_lite_patch(header: Header, patch: Header) -> Patched:
    """raises: ValueError where the patch does not hold one double block, or the model has not nineteen of them."""
    layout, prefix = layout_of(header)
    start = prefix + BLOCKS
    numbers = {name: name.removeprefix(start).split(".")[0] for name in header.tensors if name.startswith(start)}
    count = len(set(numbers.values()))
    if layout == "BFL" and count == LITE:
        raise ValueError(f"{header.name}: is FLUX lite already, with {LITE} double blocks. Choose no lite patch")
    if layout != "BFL" or count != WHOLE:
        raise ValueError(
            f"{header.name}: has {count} double blocks under FLUX's own names, but a lite patch needs {WHOLE}. Choose FLUX.1 as "
            "model, or no lite patch"
        )
    for file in (header, patch):
        if METADATA_MARKERS in file.metadata:
            raise ValueError(
                f"{file.name}: is quantised, and says so in {METADATA_MARKERS}, whose numbers of blocks a lite patch would change. "
                "Take a file in 16 bits; the loader can quantise it"
            )
    own: dict[str, str] = {}
    for name in header.tensors:
        number = int(numbers[name]) if name in numbers else None
        if number == PATCHED or number in DROPPED:
            continue
        if number is not None and number > DROPPED[-1]:
            rest = name.removeprefix(f"{start}{number}")
            own[f"{start}{number - len(DROPPED)}{rest}"] = name
        else:
            own[name] = name
    theirs = {f"{start}{PATCHED}.{name}": file_name for name, file_name in _block_of(patch).items()}
    tensors = {new: header.tensors[name] for new, name in own.items()}
    tensors.update({new: patch.tensors[name] for new, name in theirs.items()})
    markers = {new: header.markers[name] for new, name in own.items() if name in header.markers}
    markers.update({new: patch.markers[name] for new, name in theirs.items() if name in patch.markers})
    whole = replace(
        header,
        name=f"{header.name} with {patch.name}",
        tensors=tensors,
        markers=markers,
        num_bytes=header.num_bytes + patch.num_bytes,
    )
    return Patched(whole, own, theirs)


def check_lite(file: str, in_dim: int) -> None:
    """in_dim: of the Approximator. raises: ValueError for another than FLUX lite's."""
    if in_dim != IN_DIM:
        raise ValueError(
            f"{file}: its Approximator has {in_dim} inputs, that of a lite patch has {IN_DIM}. Choose a modulator of FLUX lite "
            "made since January 2025"
        )


def _block_of(patch: Header) -> dict[str, str]:
    """Name inside of the block -> name in the file, of the one double block that a patch holds."""
    ends = [n for n in patch.tensors if n == OWN_SIGNATURE or n.endswith("." + OWN_SIGNATURE)]
    if len(ends) != 1:
        raise ValueError(
            f"{patch.name}: holds {len(ends) or 'no'} double blocks ({OWN_SIGNATURE}), but a lite patch holds one. Choose "
            "a lite patch, or none"
        )
    prefix = ends[0].removesuffix(OWN_SIGNATURE)
    names = {name.removeprefix(prefix): name for name in patch.tensors if name.startswith(prefix)}
    return {inside: name for inside, name in names.items() if not FLUX_MODULATION.match(f"{BLOCKS}{PATCHED}.{inside}")}
