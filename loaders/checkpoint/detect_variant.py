"""Detects from a header what a file is: layout, variant, sizes, storage of each weight. Pure: no weight is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Mapping

from ...chroma_model import ChromaConfig
from ...chroma_model.block_lists import Block, parse_blocks
from ...constants import FLUX_VARIANT, SCHNELL_VARIANT
from ..files.error_text import short
from ..files.read import Header
from .detect_sizes import config_of
from .keys import (
    APPROXIMATOR,
    FLAGS,
    FLUX_MODULATION,
    LEFT_OUT,
    METADATA_PREFIX,
    OLD_MARKER,
    PRUNED,
    VARIANT,
    diffusers_names,
    model_name,
    other_model,
    published_name,
)
from .naming import layout_of, names_of
from .weight_parts import Collected, Names, collect

LITE_IN_DIM = 32  # of Chroma lite's Approximator; that of the others is 64
MAX_BLOCKS = 1000  # of a kind, that a number may name
PREDICTIONS = ("auto", "v", "x0")
TEXT_IDS = ("auto", "zeros", "sequential")


@dataclass(frozen=True, kw_only=True)
class Detection(Collected):
    """What a file holds.

    variant: "Chroma", "Chroma lite", "Radiance", or "FLUX" or "FLUX schnell" (with an Approximator from another file).
             `dropped` says nothing about it: merges of Chroma may still have some of FLUX's modulation.
    layout:  "BFL" or "diffusers".
    dropped: names in the file that are not used, because the Approximator replaces them.
    """

    variant: str
    layout: str
    config: ChromaConfig
    prefix: str
    dropped: tuple[str, ...]


def detect(header: Header, prediction: str = "auto", text_ids: str = "auto") -> Detection:
    """Recognises a Chroma transformer.

    prediction, text_ids: what to assume instead of the file's markers, which some converters lose.
    raises: ValueError that names the file, what was found and what to do: not Chroma, no Approximator, a gap in the
            block numbers, a missing tensor that sizes are read from, or a storage type that is not supported.
    """
    layout, prefix = layout_of(header)
    by_name = names_of(header, prefix)
    names = Names(header, by_name, prefix)
    dropped = tuple(file_name for name, file_name in by_name.items() if FLUX_MODULATION.match(name))
    if not any(name.startswith(APPROXIMATOR) for name in names.plain):
        kind = "FLUX, which has modulation layers of its own" if dropped else "a model of FLUX's kind"
        other = other_model(by_name)
        more = (
            ""
            if other
            else ", or choose a file that holds an Approximator (FluxMod's modulator) as approximator in the loader"
        )
        raise ValueError(
            f"{header.name}: has no distilled_guidance_layer.* tensors, which hold Chroma's Approximator; it looks "
            f"like {other or kind}. Take a complete Chroma checkpoint{more}"
        )
    names.without(FLUX_MODULATION.match)
    old_marker = header.tensors.get(by_name.get(OLD_MARKER, ""))
    collected = collect(header, names, old_marker, PLACES[layout], diffusers_names)
    flags = {FLAGS[name] for name in by_name if name in FLAGS}
    config = config_of(header.name, collected.shapes, flags, _left_out(header, by_name))
    config = _with_flags(header.name, config, flags, header.metadata, prediction, text_ids)
    return Detection(
        **vars(collected),
        variant=_variant(config, header.metadata),
        layout=layout,
        config=config,
        prefix=prefix,
        dropped=dropped,
    )


def _place_of_diffusers(name: str) -> tuple[str, int | None]:
    published, part = published_name(name)
    return model_name(published), part


PLACES = {"BFL": lambda name: (model_name(name), None), "diffusers": _place_of_diffusers}


def _with_flags(
    file: str, config: ChromaConfig, flags: set[str], metadata: Mapping[str, Any], prediction: str, text_ids: str
) -> ChromaConfig:
    """The user's choice counts first, then the file's metadata, then its markers."""
    found = {
        "prediction": "x0" if "x0" in flags else "v",
        "text_ids": "sequential" if "sequential" in flags else "zeros",
    }
    for name, asked, known in (("prediction", prediction, PREDICTIONS), ("text_ids", text_ids, TEXT_IDS)):
        if asked not in known:
            raise ValueError(f"{name} {asked!r} is not known (known: {', '.join(known)})")
        said = metadata.get(METADATA_PREFIX + name)
        if asked != "auto":
            found[name] = asked
        elif said is not None:
            if not isinstance(said, str) or said not in known[1:]:
                raise ValueError(
                    f"{file}: its metadata say that {METADATA_PREFIX}{name} is {short(said)} "
                    f"(known: {', '.join(known[1:])}). Choose {name} in the loader, or download the file again"
                )
            found[name] = said
    return replace(config, **found)


def _left_out(header: Header, names: Mapping[str, str]) -> frozenset[Block]:
    """The blocks that a pruned file says it leaves out, in empty tensors and in its metadata."""
    found = {(match[1], int(match[2])) for match in map(LEFT_OUT.fullmatch, names) if match}
    said = header.metadata.get(PRUNED, "")
    try:
        return parse_blocks(said, dict.fromkeys(("double", "single"), MAX_BLOCKS)) | found
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{header.name}: its metadata say {PRUNED} is {short(said)}, expected a list such as double 3, single 0-9. "
            "Download the file again"
        ) from error


def _variant(config: ChromaConfig, metadata: Mapping[str, Any]) -> str:
    """The sizes tell every variant but FLUX, which has Chroma's; `with_approximator` and this pack's files name it."""
    if config.nerf is not None:
        return "Radiance"
    if metadata.get(VARIANT) in (FLUX_VARIANT, SCHNELL_VARIANT):
        return metadata[VARIANT]
    return "Chroma lite" if config.approximator.in_dim == LITE_IN_DIM else "Chroma"
