"""A fresh small Chroma, seeded by torch's generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

import dev

from . import text_encoder


@dataclass(frozen=True)
class Sizes:
    width: int
    heads: int
    double: int
    single: int
    approximator_width: int
    approximator_layers: int


@dataclass(frozen=True)
class PixelSizes:
    """Of the head of a model that works on pixels (Radiance)."""

    patch_size: int
    width: int
    blocks: int
    mlp_ratio: int


def build(sizes: Sizes, pixels: PixelSizes | None = None) -> torch.nn.Module:
    model = dev.load_pack("chroma_model")
    ends: dict[str, Any] = {}
    if pixels is not None:
        nerf = model.config.NerfConfig(pixels.width, pixels.blocks, pixels.mlp_ratio, kernel_size=pixels.patch_size)
        ends = {"in_channels": 3, "out_channels": 3, "patch_size": pixels.patch_size, "nerf": nerf, "prediction": "x0"}
    config = model.ChromaConfig(
        context_dim=text_encoder.WIDTH,
        hidden_size=sizes.width,
        num_heads=sizes.heads,
        mlp_hidden_dim=4 * sizes.width,
        num_double_blocks=sizes.double,
        num_single_blocks=sizes.single,
        axes_dim=model.config.rotary_axes(sizes.width // sizes.heads),
        approximator=model.ApproximatorConfig(64, sizes.approximator_width, sizes.width, sizes.approximator_layers),
        **ends,
    )
    net = model.ChromaTransformer(config)
    net.distilled_guidance_layer = model.Approximator(config.approximator)
    for name, p in net.named_parameters():
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=p.shape[1] ** -0.5)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(p)
    torch.nn.init.normal_(net.distilled_guidance_layer.out_proj.weight, std=0.1 * sizes.approximator_width**-0.5)
    if pixels is None:
        torch.nn.init.zeros_(net.final_layer.linear.weight)
    with torch.no_grad():  # gates begin at a half, shifts and scales at zero: one vector for all rows cannot say so,
        net.distilled_guidance_layer.out_proj.bias.fill_(0.1)  # so begin with a small common value
    return net
