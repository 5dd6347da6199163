"""Latents to token sequences and back. B batch, C channels, H rows, W columns, P patch size."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def grid_size(height: int, width: int, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches that cover a latent of this size."""
    return -(-height // patch_size), -(-width // patch_size)


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, rows*columns, C*P*P); an odd size is first padded circularly."""
    rows, columns = grid_size(x.shape[2], x.shape[3], patch_size)
    pad = (0, columns * patch_size - x.shape[3], 0, rows * patch_size - x.shape[2])
    if any(pad):
        x = F.pad(x, pad, mode="circular")
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=patch_size, q=patch_size)


def unpatchify(tokens: Tensor, height: int, width: int, patch_size: int) -> Tensor:
    """(B, rows*columns, C*P*P) -> (B, C, H, W), cropping what `patchify` padded."""
    rows, columns = grid_size(height, width, patch_size)
    x = rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=columns, p=patch_size, q=patch_size)
    return x[:, :, :height, :width]
