"""From a header to what the file is: layout, variant, sizes, storage of each weight. Pure: no weight is read."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping

import torch

from ...chroma_model import ApproximatorConfig, ChromaConfig, NerfConfig
from ...chroma_model.config import rotary_axes
from ..files.quoting import reason, short
from ..files.read import Header
from ..formats.record import FLOAT_DTYPES
from ..formats.table import storage_of
from ..tensor_info import Part
from .keys import (
    APPROXIMATOR,
    BITSANDBYTES,
    FLAGS,
    FLUX_MODULATION,
    OLD_MARKER,
    OLD_SCALES,
    OTHER_COMPONENTS,
    OTHER_MODELS,
    QUANT_MARKER,
    SCALES,
    SIGNATURES,
    diffusers_names,
    model_name,
    published_name,
)

PATCH_SIZE = 2
LITE_IN_DIM = 32  # of the Approximator of Chroma lite; the others have 64
HEADS = {"conv": "nerf_final_layer_conv.conv", "linear": "nerf_final_layer.linear"}  # of Radiance
HALF_SIZE_KERNEL = 16
METADATA_PREFIX = "chroma."  # of what this pack writes into files that can not hold markers
METADATA_MARKERS = "_quantization_metadata"
PREDICTIONS = ("auto", "v", "x0")
TEXT_IDS = ("auto", "zeros", "sequential")


@dataclass(frozen=True)
class Detection:
    """What a file holds.

    variant: "Chroma", "Chroma lite", "Radiance" or "FLUX" (with an Approximator from elsewhere).
    layout:  "BFL" or "diffusers".
    dtype:   of most of the plain weights.
    tensors: the model's own name -> the stored tensors whose rows make it up, in their order; one, but for layers that
             diffusers splits.
    formats: format -> number of weights stored so, without plain ones.
    dropped: names in the file that are not used, because the Approximator replaces them.
    """

    variant: str
    layout: str
    config: ChromaConfig
    prefix: str
    dtype: torch.dtype
    tensors: Mapping[str, tuple[Part, ...]]
    formats: Mapping[str, int]
    dropped: tuple[str, ...]
    num_parameters: int


def detect(header: Header, prediction: str = "auto", text_ids: str = "auto") -> Detection:
    """Recognises a Chroma transformer.

    prediction, text_ids: what to assume instead of the file's markers, which some converters lose.
    raises: ValueError that names the file, what was found and what to do: not Chroma, no Approximator, a gap in the
            block numbers, a missing tensor that sizes are read from, or a storage type that is not supported.
    """
    layout, prefix = layout_of(header)
    names = _names(header, prefix)
    refuse_bitsandbytes(header)
    flags = {FLAGS[name] for name in names if name in FLAGS}
    old_marker = header.tensors.get(names.get(OLD_MARKER, ""))
    markers = layer_markers(header, names, prefix)
    dropped = tuple(file_name for name, file_name in names.items() if FLUX_MODULATION.match(name))
    plain, scales = split_scales(names)
    if not any(name.startswith(APPROXIMATOR) for name in plain):
        what = "FLUX, which has modulation layers of its own" if dropped else "a model of FLUX's kind"
        raise ValueError(
            f"{header.name}: has no distilled_guidance_layer.* tensors, which hold Chroma's Approximator; it looks like "
            f"{what}. Take a complete Chroma checkpoint, or choose a file with an Approximator for it in the loader"
        )

    found: dict[str, dict[int | None, Part]] = {}
    for name, file_name in plain.items():
        stem = name.removesuffix(".weight")
        if FLUX_MODULATION.match(name):
            scales.pop(stem, None)
            continue
        own = scales.pop(stem, {}) if name.endswith(".weight") else {}
        storage = storage_of(
            f"{header.name}: tensor {file_name}",
            header.tensors[file_name],
            {role: header.tensors[n] for role, n in own.items()},
            markers.get(stem) if name.endswith(".weight") else None,
            old_marker,
        )
        published, part = published_name(name) if layout == "diffusers" else (name, None)
        parts = found.setdefault(model_name(published), {})
        if part in parts or (parts and None in (part, *parts)):
            other = next(iter(parts.values())).file_name
            raise ValueError(f"{header.name}: {other} and {file_name} are the same tensor. Remove one of them")
        parts[part] = Part(file_name, storage, own)
    lost = [n for own in scales.values() for n in own.values()]
    if lost:
        raise ValueError(f"{header.name}: {lost[0]} is a scale without its weight. The file is incomplete")

    tensors = {name: _ordered(header.name, name, parts) for name, parts in found.items()}
    shapes = {name: _shape(header.name, name, parts) for name, parts in tensors.items()}
    config = _config(header.name, shapes, flags)
    config = _with_flags(header.name, config, flags, header.metadata, prediction, text_ids)
    every = [part for parts in tensors.values() for part in parts]
    sizes = Counter[torch.dtype]()
    for part in every:
        info = header.tensors[part.file_name]
        if info.dtype in FLOAT_DTYPES:
            sizes[info.dtype] += info.numel
    return Detection(
        variant=_variant(config, bool(dropped)),
        layout=layout,
        config=config,
        prefix=prefix,
        dtype=sizes.most_common(1)[0][0] if sizes else torch.bfloat16,
        tensors=tensors,
        formats=Counter(part.storage.format for part in every if part.storage.format is not None),
        dropped=dropped,
        num_parameters=sum(_numel(shape) for shape in shapes.values()),
    )


def with_approximator(header: Header, approximator: Header) -> Header:
    """A header that also holds the Approximator of another file, as FluxMod does it for FLUX.

    Tensors of the Approximator stand under the first file's prefix; `source_names` tells what they are called in theirs.
    """
    _, prefix = layout_of(header)
    renamed = {prefix + name: file_name for name, file_name in source_names(approximator).items()}
    tensors = {n: t for n, t in header.tensors.items() if not n.removeprefix(prefix).startswith(APPROXIMATOR)}
    tensors.update({name: approximator.tensors[file_name] for name, file_name in renamed.items()})
    markers = {n: m for n, m in header.markers.items() if n in tensors}
    markers.update({name: approximator.markers[n] for name, n in renamed.items() if n in approximator.markers})
    return replace(
        header,
        name=f"{header.name} with {approximator.name}",
        tensors=tensors,
        markers=markers,
        num_bytes=header.num_bytes + approximator.num_bytes,
    )


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


def layout_of(header: Header) -> tuple[str, str]:
    """(layout, prefix), read off the place of a layer that every such transformer has."""
    for layout, signature in SIGNATURES.items():
        ends = [n for n in header.tensors if n == signature or n.endswith("." + signature)]
        # `single_transformer_blocks` and other components must not pass for a prefix.
        prefixes = {n.removesuffix(signature) for n in ends if not n.startswith(OTHER_COMPONENTS)}
        if prefixes:
            counts = {p: sum(name.startswith(p) for name in header.tensors) for p in prefixes}
            return layout, min(prefixes, key=lambda p: (-counts[p], len(p)))
    if any(APPROXIMATOR in name for name in header.tensors):
        raise ValueError(
            f"{header.name}: block double_blocks.0 is missing (no tensor ends in {SIGNATURES['BFL']}). "
            "The file is incomplete; download it again"
        )
    if {"in_proj.weight", "out_proj.weight"} <= header.tensors.keys():
        raise ValueError(
            f"{header.name}: holds an Approximator alone. Choose it as approximator in the loader, and FLUX as model"
        )
    sample = ", ".join(list(header.tensors)[:3]) or "no tensors"
    raise ValueError(
        f"{header.name}: not a Chroma checkpoint{_hint(header) or f' (it begins with {sample})'}. Choose a file with "
        "double_blocks.* and distilled_guidance_layer.* tensors"
    )


def _hint(header: Header) -> str:
    for part, what in OTHER_MODELS:
        if any(part in name for name in header.tensors):
            return f"; it looks like {what}"
    return ""


def _names(header: Header, prefix: str) -> dict[str, str]:
    """Name without prefix -> name in the file, of the transformer's tensors."""
    names: dict[str, str] = {}
    for file_name in header.tensors:
        if file_name.startswith(OTHER_COMPONENTS) and not (prefix and file_name.startswith(prefix)):
            continue
        if file_name.startswith(prefix):
            name = file_name.removeprefix(prefix)
        elif file_name in FLAGS or file_name == OLD_MARKER:
            name = file_name
        else:
            raise ValueError(
                f"{header.name}: tensor {file_name} does not begin with {prefix!r} like the rest. Two models may have "
                "been merged into one file; take an unmodified checkpoint"
            )
        names[name] = file_name
    return names


def refuse_bitsandbytes(header: Header) -> None:
    for name in header.tensors:
        if name.endswith(tuple("." + part for part in BITSANDBYTES)):
            raise ValueError(
                f"{header.name}: stored as nf4 or fp4 of bitsandbytes ({name}), which is not supported. Take a GGUF, "
                "fp8 or 16-bit version of the model"
            )


def layer_markers(header: Header, names: Mapping[str, str], prefix: str) -> dict[str, Mapping[str, Any]]:
    """Stem -> the layer's `comfy_quant` entry, from tensors and from the file's metadata."""
    markers: dict[str, Mapping[str, Any]] = {}
    text = header.metadata.get(METADATA_MARKERS)
    if text is not None:
        try:
            layers = json.loads(text)["layers"].items()
            markers = {stem.removeprefix(prefix): dict(entry) for stem, entry in layers}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{header.name}: {METADATA_MARKERS} is damaged ({reason(error)}). Download it again"
            ) from error
    for name, file_name in names.items():
        if name.endswith("." + QUANT_MARKER):
            if file_name not in header.markers:
                info = header.tensors[file_name]
                raise ValueError(
                    f"{header.name}: {file_name} is a marker of {info.numel} values of {_text(info.dtype)}, expected "
                    "a short text as uint8. The file is damaged"
                )
            markers[name.removesuffix("." + QUANT_MARKER)] = header.markers[file_name]
    return markers


def split_scales(names: Mapping[str, str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """(the model's tensors, stem -> scales by today's role); markers and flags are left out."""
    plain: dict[str, str] = {}
    scales: dict[str, dict[str, str]] = {}
    for name, file_name in names.items():
        stem, _, last = name.rpartition(".")
        role = OLD_SCALES.get(last, last)
        if name in FLAGS or name == OLD_MARKER or last == QUANT_MARKER:
            continue
        if role in SCALES and stem:
            scales.setdefault(stem, {})[role] = file_name
        else:
            plain[name] = file_name
    return plain, scales


def _ordered(file: str, name: str, parts: dict[int | None, Part]) -> tuple[Part, ...]:
    if None in parts:
        return (parts[None],)
    published = diffusers_names(name)
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


def _config(file: str, shapes: Mapping[str, tuple[int, ...]], flags: set[str]) -> ChromaConfig:
    def shape(name: str, ndim: int) -> tuple[int, ...]:
        if name not in shapes:
            raise ValueError(f"{file}: tensor {name} is missing. The file is incomplete; download it again")
        found = shapes[name]
        if len(found) != ndim or 0 in found:
            raise ValueError(f"{file}: tensor {name} has shape {found}, expected {ndim} sizes. The file is damaged")
        return found

    def count(stem: str) -> int:
        place = stem.count(".") + 1
        parts = [n.split(".") for n in shapes if n.startswith(stem + ".")]
        indices = {int(p[place]) for p in parts if len(p) > place and p[place].isdecimal() and len(p[place]) < 6}
        for i in range(len(indices)):
            if i not in indices:
                raise ValueError(
                    f"{file}: block {stem}.{i} is missing, but {stem}.{max(indices)} is there. "
                    "The file is incomplete; download it again"
                )
        return len(indices)

    nerf, first = None, "img_in.weight"
    if "img_in_patch.weight" in shapes:
        first = "img_in_patch.weight"
        final = next((f for f, stem in HEADS.items() if f"{stem}.weight" in shapes), "conv")
        nerf, ends = _radiance(file, shape, count, final, "32x32" in flags)
    else:
        in_channels = shape(first, 2)[1]
        out_channels = shape("final_layer.linear.weight", 2)[0]
        ends = {"in_channels": in_channels, "out_channels": out_channels, "patch_size": PATCH_SIZE}
    hidden_size = shape(first, 2 if nerf is None else 4)[0]
    (head_dim,) = shape("double_blocks.0.img_attn.norm.key_norm.weight", 1)
    if hidden_size % head_dim:
        raise ValueError(
            f"{file}: width {hidden_size} ({first}) is not a multiple of the head size {head_dim} "
            "(double_blocks.0.img_attn.norm.key_norm). The file is damaged"
        )
    hidden_dim, in_dim = shape(APPROXIMATOR + "in_proj.weight", 2)
    try:
        return ChromaConfig(
            **ends,
            nerf=nerf,
            context_dim=shape("txt_in.weight", 2)[1],
            hidden_size=hidden_size,
            num_heads=hidden_size // head_dim,
            mlp_hidden_dim=shape("double_blocks.0.img_mlp.0.weight", 2)[0],
            num_double_blocks=count("double_blocks"),
            num_single_blocks=count("single_blocks"),
            axes_dim=rotary_axes(head_dim),
            qkv_bias="double_blocks.0.img_attn.qkv.bias" in shapes,
            approximator=ApproximatorConfig(
                in_dim=in_dim,
                hidden_dim=hidden_dim,
                out_dim=shape(APPROXIMATOR + "out_proj.weight", 2)[0],
                num_layers=count(APPROXIMATOR + "layers"),
            ),
        )
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(file) else f"{file}: {error}") from error


def _radiance(
    file: str, shape: Callable[[str, int], tuple[int, ...]], count: Callable[[str], int], final: str, half_size: bool
) -> tuple[NerfConfig, dict[str, int]]:
    """(sizes of the head, sizes of the picture's side) of a model that works on pixels."""
    _, channels, kernel, across = shape("img_in_patch.weight", 4)
    width, features = shape("nerf_image_embedder.embedder.0.weight", 2)
    num_weights = shape("nerf_blocks.0.param_generator.weight", 2)[0]
    ratio, rest = divmod(num_weights, 3 * width**2)
    num_freqs = math.isqrt(max(features - channels, 0))
    if kernel != across or rest or not ratio or num_freqs**2 + channels != features:
        raise ValueError(
            f"{file}: the NeRF layers do not fit together (kernel {kernel} x {across}, {features} features, "
            f"{num_weights} generated weights for width {width}). The file is damaged"
        )
    out_channels = shape(f"{HEADS[final]}.weight", 4 if final == "conv" else 2)[0]
    # Two kinds of model carry this marker: one with a real kernel of 32, one that sees patches of 32 at half size.
    doubled = half_size and kernel == HALF_SIZE_KERNEL
    patch_size = 2 * kernel if doubled else kernel
    nerf = NerfConfig(width, count("nerf_blocks"), ratio, num_freqs, final, kernel)
    return nerf, {"in_channels": channels, "out_channels": out_channels, "patch_size": patch_size}


def _with_flags(
    file: str, config: ChromaConfig, flags: set[str], metadata: Mapping[str, Any], prediction: str, text_ids: str
) -> ChromaConfig:
    """The user's word counts before the file's metadata, and that before its markers."""
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
                    f"{file}: its metadata say {METADATA_PREFIX}{name} is {short(said)} "
                    f"(known: {', '.join(known[1:])}). Choose {name} in the loader, or download the file again"
                )
            found[name] = said
    return replace(config, **found)


def _variant(config: ChromaConfig, has_modulation: bool) -> str:
    if config.nerf is not None:
        return "Radiance"
    if has_modulation:
        return "FLUX"
    return "Chroma lite" if config.approximator.in_dim == LITE_IN_DIM else "Chroma"


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _text(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")
