"""First and last layers of Chroma1-Radiance, which works on pixels: a convolution, and a small network per patch.

After the last block each patch's token becomes the weights of an MLP (a NeRF). It makes each pixel of the patch from
the noisy pixel and its position. Names and formulas are the trainer's (lodestone-rock/flow).

Shapes: B batch, C channels, H rows, W columns, P patch size, L patches, D width of the blocks, N patches of one tile,
S width of the head (nerf.hidden_size), F cosines per axis (nerf.num_freqs).
"""

from __future__ import annotations

import math
from typing import Any, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import ChromaConfig
from .latents import grid_size
from .modulation import RMS_NORM_EPS
from .ops import clamp_fp16

TILE_PIXELS = 512 * 16 * 16  # per tile: 512 patches of 16 x 16, as in the host, or 128 of 32 x 32
MIN_TIME = 1e-4  # below the last step of every schedule; the velocity at 0 is undefined


def pad_to_patches(x: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> the same, padded circularly to whole patches; any size, however small."""
    height, width = x.shape[2:]
    rows, columns = grid_size(height, width, patch_size)
    if (rows * patch_size, columns * patch_size) == (height, width):
        return x
    down = torch.arange(rows * patch_size, device=x.device) % height
    right = torch.arange(columns * patch_size, device=x.device) % width
    return x[:, :, down[:, None], right]


def patch_conv(config: ChromaConfig, layers: Any, **factory: Any) -> nn.Module:
    """Pixels to tokens: (B, C, rows*P, columns*P) -> (B, D, rows, columns).

    An old model with patch 32 has a kernel of 16 and sees only every second pixel of the picture, which is a dilation
    of 2.
    """
    kernel = config.nerf.kernel_size
    strides = {"stride": config.patch_size, "dilation": config.patch_size // kernel}
    return layers.Conv2d(config.in_channels, config.hidden_size, kernel_size=kernel, bias=True, **strides, **factory)


def cosine_features(patch_size: int, num_freqs: int, device: torch.device | None = None) -> Tensor:
    """Where each pixel lies in its patch: products of a cosine across and a cosine down, as in a JPEG block.

    returns: (P*P, F*F) float32; pixels row by row, features by frequency across, then down.
    """
    position = torch.linspace(0, 1, patch_size, dtype=torch.float32, device=device)
    freqs = torch.arange(num_freqs, dtype=torch.float32, device=device)
    wave = torch.cos(position[:, None] * freqs * torch.pi)  # (P, F)
    damping = 1 / (1 + freqs[:, None] * freqs)  # (F, F)
    features = wave[None, :, :, None] * wave[:, None, None, :] * damping  # (P down, P across, F across, F down)
    return features.flatten(2).flatten(0, 1)


class NerfEmbedder(nn.Module):
    """Pixels and their places as vectors. Stored and computed in float32, as in training and in published files."""

    def __init__(self, config: ChromaConfig, layers: Any, **factory: Any):
        super().__init__()
        self.num_freqs = config.nerf.num_freqs
        features = config.in_channels + self.num_freqs**2
        factory = {**factory, "dtype": torch.float32}
        self.embedder = nn.Sequential(layers.Linear(features, config.nerf.hidden_size, bias=True, **factory))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, P*P, C) -> (N, P*P, S) in the dtype of pixels."""
        places = cosine_features(math.isqrt(pixels.shape[1]), self.num_freqs, pixels.device)
        x = torch.cat((pixels.float(), places.expand(len(pixels), -1, -1)), dim=-1)
        return self.embedder(x).to(pixels.dtype)


def unit_columns(matrices: Tensor) -> Tensor:
    """(N, rows, columns) -> the same with columns of norm 1; one of zeros stays so, in float16 too, where torch's eps is 0."""
    limits = torch.finfo(matrices.dtype)
    return F.normalize(matrices, dim=-2, eps=max(1e-12, limits.tiny * limits.eps))  # the least number above 0


class NerfBlock(nn.Module):
    """A gated MLP. A linear makes its three matrices from the patch's token; each column has norm 1."""

    def __init__(self, config: ChromaConfig, layers: Any, **factory: Any):
        super().__init__()
        self.mlp_ratio = config.nerf.mlp_ratio
        num_weights = 3 * self.mlp_ratio * config.nerf.hidden_size**2
        self.param_generator = layers.Linear(config.hidden_size, num_weights, bias=True, **factory)
        self.norm = layers.RMSNorm(config.nerf.hidden_size, eps=RMS_NORM_EPS, **factory)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x (N, P*P, S), tokens (N, D) -> (N, P*P, S)."""
        width = x.shape[-1]
        gate, value, out = self.param_generator(tokens).chunk(3, dim=-1)  # each (N, S * S * mlp_ratio)
        gate = unit_columns(gate.unflatten(-1, (width, -1)))  # (N, S, S * mlp_ratio)
        value = unit_columns(value.unflatten(-1, (width, -1)))
        out = unit_columns(out.unflatten(-1, (-1, width)))  # (N, S * mlp_ratio, S)
        h = self.norm(x)
        return x + (F.silu(h @ gate) * (h @ value)) @ out


class NerfFinalConv(nn.Module):
    """A 3x3 convolution to colours, which sees across patch borders."""

    def __init__(self, config: ChromaConfig, layers: Any, **factory: Any):
        super().__init__()
        width = config.nerf.hidden_size
        self.norm = layers.RMSNorm(width, eps=RMS_NORM_EPS, **factory)
        self.conv = layers.Conv2d(width, config.out_channels, kernel_size=3, padding=1, bias=True, **factory)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x (B*L, P*P, S), grid (rows, columns) of patches -> (B, C_out, H, W)."""
        return self.conv(join_patches(self.norm(x), grid))


class NerfFinalLinear(nn.Module):
    """A linear layer to colours; the first models have it."""

    def __init__(self, config: ChromaConfig, layers: Any, **factory: Any):
        super().__init__()
        self.norm = layers.RMSNorm(config.nerf.hidden_size, eps=RMS_NORM_EPS, **factory)
        self.linear = layers.Linear(config.nerf.hidden_size, config.out_channels, bias=True, **factory)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x (B*L, P*P, S), grid (rows, columns) of patches -> (B, C_out, H, W)."""
        return join_patches(self.linear(self.norm(x)), grid)


# config.nerf.final -> the layer's name in the model and its class
FINAL_LAYERS = {"conv": ("nerf_final_layer_conv", NerfFinalConv), "linear": ("nerf_final_layer", NerfFinalLinear)}


def join_patches(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B*L, P*P, C) -> (B, C, H, W); grid is (rows, columns) of patches."""
    rows, columns = grid
    p = math.isqrt(x.shape[1])
    return rearrange(x, "(b h w) (p q) c -> b c (h p) (w q)", h=rows, w=columns, p=p)


def patch_bytes(config: ChromaConfig, element_size: int) -> int:
    """Memory that one patch takes in the head at its peak, in bytes, roughly: its matrices and its pixels' vectors.

    element_size: of the dtype that the head computes in. The embedder's inputs are float32.
    """
    nerf, num_pixels = config.nerf, config.patch_size**2
    matrices = 2 * 3 * nerf.mlp_ratio * nerf.hidden_size**2  # as generated, and with columns of norm 1
    vectors = num_pixels * nerf.hidden_size * (3 * nerf.mlp_ratio + 4)  # gate, value, their product; x, its norm, sums
    return (matrices + vectors) * element_size + 4 * num_pixels * (config.in_channels + nerf.num_freqs**2)


def paint(
    x: Tensor,
    tokens: Tensor,
    patch_size: int,
    embedder: NerfEmbedder,
    blocks: Sequence[NerfBlock],
    final: NerfFinalConv | NerfFinalLinear,
    tile: int | None = None,
) -> Tensor:
    """The head's output for a noisy picture and its patches' tokens.

    x:       (B, C, H, W) noisy picture; any size.
    tokens:  (B, L, D) from the last block.
    tile:    patches to work on at a time; memory is proportional to it. In the published model a patch's weights alone
             are 49,152 numbers. None for TILE_PIXELS, 0 for all at once; the result is the same.
    returns: (B, C_out, H, W).
    """
    height, width = x.shape[2:]
    pixels = rearrange(pad_to_patches(x, patch_size), "b c (h p) (w q) -> (b h w) (p q) c", p=patch_size, q=patch_size)
    tokens = tokens.flatten(0, 1)  # (B, L, D) -> (B*L, D)
    tile = max(1, TILE_PIXELS // patch_size**2) if tile is None else tile
    tile = tile if tile > 0 else len(tokens)

    painted = []
    for some_pixels, some_tokens in zip(pixels.split(tile), tokens.split(tile)):
        h = embedder(some_pixels)
        for block in blocks:
            h = block(h, some_tokens)
        painted.append(h)
    return final(torch.cat(painted), grid_size(height, width, patch_size))[:, :, :height, :width]


def velocity_from_data(data: Tensor, x: Tensor, timesteps: Tensor) -> Tensor:
    """The flow's velocity, noise - data, of a network that predicts the picture itself (x0 prediction).

    data, x:   (B, C, H, W) predicted picture and noisy picture x = (1 - t) * data + t * noise.
    timesteps: (B,) in [0, 1]; clamped to at least MIN_TIME, so that a run's end is finite.
    returns:   (B, C, H, W) in the dtype of x.
    """
    t = timesteps.float().clamp(min=MIN_TIME).view(-1, 1, 1, 1)
    return clamp_fp16(((x.float() - data.float()) / t).to(x.dtype))


def number_text(ids: Tensor, num_txt: int) -> Tensor:
    """Position ids (L, 3) with the text tokens numbered from 0 in the first column, where others have zero."""
    ids = ids.clone()
    ids[:num_txt, 0] = torch.arange(num_txt, dtype=ids.dtype, device=ids.device)
    return ids
