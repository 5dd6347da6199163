"""From a header to what the file is: prefix, sizes, storage type. Pure: no weight is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Mapping

import torch

from ..chroma_model import ApproximatorConfig, ChromaConfig
from ..chroma_model.config import rotary_axes
from .keys import (
    APPROXIMATOR,
    CHROMA_SIGNATURES,
    OTHER_COMPONENTS,
    OTHER_MODELS,
    PREFIXES,
    QUANT_EXTRAS,
    QUANT_MARKER,
    model_name,
)
from .read import Header, TensorInfo

PATCH_SIZE = 2
FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BYTE_DTYPES = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)  # weights with a marker beside them


@dataclass(frozen=True)
class Detection:
    """What a file holds. `names` maps each of the model's own names to the file's; `extras` does so for the markers
    and scales of weights that the host has saved quantised."""

    config: ChromaConfig
    prefix: str
    dtype: torch.dtype  # of most of the weights that are plain floats
    names: Mapping[str, str]
    extras: Mapping[str, str]
    num_parameters: int


def detect(header: Header) -> Detection:
    """Recognises a Chroma transformer.

    raises: ValueError that names the file, what was found and what to do: not Chroma, no Approximator, a gap in the
            block numbers, a missing tensor that sizes are read from, or a storage type that is not supported.
    """
    prefix = _prefix(header)
    tensors, names = _under_prefix(header, prefix)
    if not any(name.startswith(APPROXIMATOR) for name in tensors):
        raise ValueError(
            f"{header.name}: has FLUX's blocks but no distilled_guidance_layer.* tensors, which hold Chroma's "
            f"Approximator{_hint(header)}. Take a complete Chroma checkpoint"
        )
    extras = {name: names.pop(name) for name in list(names) if name.endswith(QUANT_EXTRAS)}
    tensors = {name: info for name, info in tensors.items() if name not in extras}
    for name, info in tensors.items():
        marked = name.removesuffix("weight") + QUANT_MARKER in extras and info.dtype in BYTE_DTYPES
        if info.dtype not in FLOAT_DTYPES and not marked:
            raise ValueError(
                f"{header.name}: tensor {names[name]} is stored as {_text(info.dtype)}; this version reads float32, "
                "bfloat16 and float16. Take a 16-bit checkpoint and choose the precision with quant_mode"
            )
    sizes = Counter[torch.dtype]()
    for info in tensors.values():
        sizes[info.dtype] += info.numel
    plain = next(dtype for dtype, _ in sizes.most_common() if dtype in FLOAT_DTYPES)
    return Detection(_config(header.name, tensors), prefix, plain, names, extras, sum(sizes.values()))


def _prefix(header: Header) -> str:
    for prefix in PREFIXES:
        if any(prefix + signature in header.tensors for signature in CHROMA_SIGNATURES):
            return prefix
    if any(APPROXIMATOR in name for name in header.tensors):
        raise ValueError(
            f"{header.name}: block double_blocks.0 is missing (no tensor ends in {CHROMA_SIGNATURES[0]}). "
            "The file is incomplete; download it again"
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


def _under_prefix(header: Header, prefix: str) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The transformer's tensors by the model's own names, and those names' names in the file."""
    tensors: dict[str, TensorInfo] = {}
    names: dict[str, str] = {}
    for file_name, info in header.tensors.items():
        if not file_name.startswith(prefix) or (prefix == "" and file_name.startswith(OTHER_COMPONENTS)):
            if file_name.startswith(OTHER_COMPONENTS):
                continue
            raise ValueError(
                f"{header.name}: tensor {file_name} does not begin with {prefix!r} like the rest. Two models may have "
                "been merged into one file; take an unmodified checkpoint"
            )
        name = model_name(file_name.removeprefix(prefix))
        if name in tensors:
            raise ValueError(f"{header.name}: {names[name]} and {file_name} are the same tensor. Remove one of them")
        tensors[name], names[name] = info, file_name
    return tensors, names


def _config(file: str, tensors: Mapping[str, TensorInfo]) -> ChromaConfig:
    def shape(name: str, ndim: int) -> tuple[int, ...]:
        if name not in tensors:
            raise ValueError(f"{file}: tensor {name} is missing. The file is incomplete; download it again")
        found = tensors[name].shape
        if len(found) != ndim or 0 in found:
            raise ValueError(f"{file}: tensor {name} has shape {found}, expected {ndim} sizes. The file is damaged")
        return found

    def count(stem: str) -> int:
        indices = {
            int(n.split(".")[stem.count(".") + 1])
            for n in tensors
            if n.startswith(stem + ".") and n.split(".")[stem.count(".") + 1].isdigit()
        }
        for i in range(len(indices)):
            if i not in indices:
                raise ValueError(
                    f"{file}: block {stem}.{i} is missing, but {stem}.{max(indices)} is there. "
                    "The file is incomplete; download it again"
                )
        return len(indices)

    hidden_size, in_channels = shape("img_in.weight", 2)
    (head_dim,) = shape("double_blocks.0.img_attn.norm.key_norm.weight", 1)
    if hidden_size % head_dim:
        raise ValueError(
            f"{file}: width {hidden_size} (img_in.weight) is not a multiple of the head size {head_dim} "
            "(double_blocks.0.img_attn.norm.key_norm). The file is damaged"
        )
    hidden_dim, in_dim = shape(APPROXIMATOR + "in_proj.weight", 2)
    try:
        return ChromaConfig(
            in_channels=in_channels,
            out_channels=shape("final_layer.linear.weight", 2)[0],
            context_dim=shape("txt_in.weight", 2)[1],
            hidden_size=hidden_size,
            num_heads=hidden_size // head_dim,
            mlp_hidden_dim=shape("double_blocks.0.img_mlp.0.weight", 2)[0],
            num_double_blocks=count("double_blocks"),
            num_single_blocks=count("single_blocks"),
            axes_dim=rotary_axes(head_dim),
            qkv_bias="double_blocks.0.img_attn.qkv.bias" in tensors,
            patch_size=PATCH_SIZE,
            approximator=ApproximatorConfig(
                in_dim=in_dim,
                hidden_dim=hidden_dim,
                out_dim=shape(APPROXIMATOR + "out_proj.weight", 2)[0],
                num_layers=count(APPROXIMATOR + "layers"),
            ),
        )
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(file) else f"{file}: {error}") from error


def _text(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")
