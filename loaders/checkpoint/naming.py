"""Finds the transformer's names in a file by layout and prefix; adds an Approximator from another file."""

from __future__ import annotations

from dataclasses import replace

from ...constants import FLUX_VARIANT, SCHNELL_VARIANT
from ..files.read import Header
from .foreign import refuse_foreign
from .keys import (
    APPROXIMATOR,
    APPROXIMATOR_ALONE,
    GUIDANCE_EMBEDDING,
    OLD_MARKERS,
    OTHER_COMPONENTS,
    SIGNATURES,
    TIME_EMBEDDING,
    VARIANT,
    is_flag,
    other_model,
)


def layout_of(header: Header) -> tuple[str, str]:
    """(layout, prefix), from the name of a layer that every such transformer has."""
    for layout, signature in SIGNATURES.items():
        found = [signature.search(n) for n in header.tensors if not n.startswith(OTHER_COMPONENTS)]
        prefixes = {match.string[: match.start()] for match in found if match}
        if prefixes:
            counts = {p: sum(name.startswith(p) for name in header.tensors) for p in prefixes}
            return layout, min(prefixes, key=lambda p: (-counts[p], len(p)))
    refuse_foreign(header)
    if any(APPROXIMATOR in name for name in header.tensors):
        raise ValueError(
            f"{header.name}: the double blocks are missing (no tensor ends in double_blocks.0.img_attn.qkv.weight). "
            "The file is incomplete; download it again"
        )
    if APPROXIMATOR_ALONE <= header.tensors.keys():
        raise ValueError(
            f"{header.name}: holds an Approximator alone. Choose it as approximator in the loader, and FLUX as model"
        )
    what = other_model(header.tensors)
    sample = ", ".join(list(header.tensors)[:3]) or "no tensors"
    told = f"; it looks like {what}" if what else f" (it begins with {sample})"
    raise ValueError(
        f"{header.name}: not a Chroma checkpoint{told}. Choose a file of Chroma, "
        "as Chroma1-HD.safetensors: with double_blocks.* and distilled_guidance_layer.* tensors"
    )


def names_of(header: Header, prefix: str) -> dict[str, str]:
    """Name without prefix -> name in the file, of the transformer's tensors."""
    names: dict[str, str] = {}
    for file_name in header.tensors:
        if file_name.startswith(OTHER_COMPONENTS) and not (prefix and file_name.startswith(prefix)):
            continue
        if file_name.startswith(prefix):
            name = file_name.removeprefix(prefix)
        elif is_flag(file_name) or file_name in OLD_MARKERS:
            name = file_name
        else:
            raise ValueError(
                f"{header.name}: tensor {file_name} does not begin with {prefix!r} like the rest. Two models may have "
                "been merged into one file; take an unmodified checkpoint"
            )
        names[name] = file_name
    return names


def with_approximator(header: Header, approximator: Header) -> Header:
    """A header that also holds the Approximator of another file, as FluxMod does it for FLUX.

    A file without an Approximator of its own is FLUX, dev or schnell, and its metadata say so from then on.
    Tensors of the Approximator stand under the first file's prefix; `source_names` tells what they are called in theirs.
    """
    _, prefix = layout_of(header)
    renamed = {prefix + name: file_name for name, file_name in source_names(approximator).items()}
    tensors = {n: t for n, t in header.tensors.items() if not n.removeprefix(prefix).startswith(APPROXIMATOR)}
    is_flux = len(tensors) == len(header.tensors)
    tensors.update({name: approximator.tensors[file_name] for name, file_name in renamed.items()})
    markers = {n: m for n, m in header.markers.items() if n in tensors}
    markers.update({name: approximator.markers[n] for name, n in renamed.items() if n in approximator.markers})
    return replace(
        header,
        name=f"{header.name} with {approximator.name}",
        tensors=tensors,
        metadata={**header.metadata, **({VARIANT: flux_variant(header, prefix)} if is_flux else {})},
        markers=markers,
        num_bytes=header.num_bytes + approximator.num_bytes,
    )


def flux_variant(header: Header, prefix: str) -> str:
    """FLUX without guidance is schnell. A file without all embeddings, as FluxMod's pruned ones, is taken for dev."""
    names = [name.removeprefix(prefix) for name in header.tensors]
    has_time, has_guidance = (
        any(name.startswith(parts) for name in names) for parts in (TIME_EMBEDDING, GUIDANCE_EMBEDDING)
    )
    return SCHNELL_VARIANT if has_time and not has_guidance else FLUX_VARIANT


def source_names(approximator: Header) -> dict[str, str]:
    """`distilled_guidance_layer.*` -> name in a file that holds an Approximator, alone or within a checkpoint.

    raises: ValueError if there is none.
    """
    marks = [name for name in approximator.tensors if name.endswith("in_proj.weight")]
    own = [name for name in marks if name.endswith(APPROXIMATOR + "in_proj.weight")] or marks
    if len(own) != 1:
        raise ValueError(
            f"{approximator.name}: holds {len(own) or 'no'} Approximators (in_proj.weight), expected one. Choose a Chroma "
            "checkpoint or a file with in_proj, layers, norms and out_proj"
        )
    prefix = own[0].removesuffix("in_proj.weight")
    return {APPROXIMATOR + name.removeprefix(prefix): name for name in approximator.tensors if name.startswith(prefix)}
