"""Every size of the model from its weights' shapes."""

from __future__ import annotations

import math
from typing import Callable, Mapping

from ...chroma_model import ApproximatorConfig, ChromaConfig, NerfConfig
from ...chroma_model.block_lists import Block
from ...chroma_model.config import rotary_axes
from .keys import APPROXIMATOR

PATCH_SIZE = 2
HEADS = {"conv": "nerf_final_layer_conv.conv", "linear": "nerf_final_layer.linear"}  # of Radiance
HALF_SIZE_KERNEL = 16


def config_of(
    file: str, shapes: Mapping[str, tuple[int, ...]], flags: set[str], left_out: frozenset[Block] = frozenset()
) -> ChromaConfig:
    """The sizes of a model of these weights' shapes, whose file says which blocks it leaves out.

    raises: ValueError where one is missing or they do not fit.
    """

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
        indices = {i for kind, i in left_out if stem == f"{kind}_blocks"}
        indices |= {int(p[place]) for p in parts if len(p) > place and p[place].isdecimal() and len(p[place]) < 6}
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
    num_double = count("double_blocks")
    first_block = f"double_blocks.{next((i for i in range(num_double) if ('double', i) not in left_out), 0)}"
    (head_dim,) = shape(f"{first_block}.img_attn.norm.key_norm.weight", 1)
    if hidden_size % head_dim:
        raise ValueError(
            f"{file}: width {hidden_size} ({first}) is not a multiple of the head size {head_dim} "
            f"({first_block}.img_attn.norm.key_norm). The file is damaged"
        )
    hidden_dim, in_dim = shape(APPROXIMATOR + "in_proj.weight", 2)
    try:
        return ChromaConfig(
            **ends,
            nerf=nerf,
            context_dim=shape("txt_in.weight", 2)[1],
            hidden_size=hidden_size,
            num_heads=hidden_size // head_dim,
            mlp_hidden_dim=shape(f"{first_block}.img_mlp.0.weight", 2)[0],
            num_double_blocks=num_double,
            num_single_blocks=count("single_blocks"),
            axes_dim=rotary_axes(head_dim),
            qkv_bias=f"{first_block}.img_attn.qkv.bias" in shapes,
            left_out=left_out,
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
    """(sizes of the head, channels and patch size) of a model that works on pixels."""
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
