"""What the demo VAE's encoder begins as, in closed form: 16 principal components of 8x8 pixel blocks.

The same affine map is written into TAESD's convolutions (`encoder_state_dict`), where strided convolutions gather the
block, pairs of rectified channels carry the sign, and every residual block passes its input through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import pictures

BLOCK = 8
CHANNELS = 16
FIT_SIZE = 96  # pixels a side of the pictures that the components are taken from
RMS = 0.7  # of all latents: flat colours then stay inside the range that TAESD passes unclamped (3)
WIDTH = 64  # TAESD's
FLATTEN = 1 / 4  # standard deviation of a component is its eigenvalue to this power: 1/2 would be plain PCA, 0 white


@dataclass(frozen=True)
class BlockCode:
    """latent = (block - mean) @ weight, blocks as (rows, columns, colours) flattened; weight (192, 16)."""

    mean: Tensor
    weight: Tensor

    def encode(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) in [0, 1] -> (B, 16, H/8, W/8)."""
        b, h, w, _ = images.shape
        blocks = images.view(b, h // BLOCK, BLOCK, w // BLOCK, BLOCK, 3).transpose(2, 3).flatten(3)
        return ((blocks - self.mean) @ self.weight).permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """The least-squares inverse: blocky, but good enough to watch a training run."""
        blocks = latents.permute(0, 2, 3, 1) @ torch.linalg.pinv(self.weight) + self.mean
        b, h, w, _ = blocks.shape
        blocks = blocks.view(b, h, w, BLOCK, BLOCK, 3).transpose(2, 3)
        return blocks.reshape(b, h * BLOCK, w * BLOCK, 3)


def fit(num_pictures: int = 1500, seed: int = 0) -> BlockCode:
    """Principal components of the blocks of seeded pictures."""
    rng = np.random.default_rng(seed)
    scenes = pictures.all_scenes()
    images = np.stack([pictures.draw(scenes[rng.integers(len(scenes))], rng, FIT_SIZE) for _ in range(num_pictures)])
    return components(images)


def components(images: np.ndarray, flatten: float = FLATTEN, rms: float = RMS) -> BlockCode:
    """The block code of pictures (N, side, side, 3) in [0, 1]."""
    n = images.shape[1] // BLOCK
    blocks = images.reshape(-1, n, BLOCK, n, BLOCK, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, BLOCK * BLOCK * 3)
    mean = blocks.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(blocks.T.astype(np.float64)))
    values, vectors = values[::-1][:CHANNELS], vectors[:, ::-1][:, :CHANNELS]
    vectors = vectors * np.sign(vectors.sum(0))  # eigenvectors have no sign of their own
    std = (values / values[0]) ** flatten
    std *= rms / np.sqrt((std**2).mean())
    weight = vectors * (std / np.sqrt(values))
    return BlockCode(torch.from_numpy(mean).float(), torch.from_numpy(weight.copy()).float())


def encoder_state_dict(code: BlockCode) -> dict[str, Tensor]:
    """The block code as the weights of TAESD's encoder, keys as in the host's `taesd_encoder.*`.

    Layer numbers of the host's encoder: 0 conv, 1 block, 2 stride, 3-5 blocks, 6 stride, 7-9, 10 stride, 11-13, 14 conv.
    """
    sd: dict[str, Tensor] = {}
    for i in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
        for j in (0, 2, 4):
            sd[f"{i}.conv.{j}.weight"] = torch.zeros(WIDTH, WIDTH, 3, 3)
            sd[f"{i}.conv.{j}.bias"] = torch.zeros(WIDTH)
    sd["0.weight"], sd["0.bias"] = torch.zeros(WIDTH, 3, 3, 3), torch.zeros(WIDTH)
    for c in range(3):
        sd["0.weight"][c, c, 1, 1] = 1.0
    # A 3x3 convolution of stride 2 and padding 1 sees rows 2i-1, 2i, 2i+1: taps 1 and 2 are the pair 2i, 2i+1.
    gathered = 3
    for layer in (2, 6):
        weight = torch.zeros(WIDTH, WIDTH, 3, 3)
        for dy in range(2):
            for dx in range(2):
                for c in range(gathered):
                    weight[(dy * 2 + dx) * gathered + c, c, 1 + dy, 1 + dx] = 1.0
        sd[f"{layer}.weight"] = weight
        gathered *= 4
    # Channel order after two gatherings: (dy2, dx2, dy1, dx1, colour), row = 4*dy3 + 2*dy2 + dy1, column likewise.
    components = code.weight.view(2, 2, 2, 2, 2, 2, 3, CHANNELS)  # dy3 dy2 dy1 dx3 dx2 dx1 colour component
    taps = components.permute(7, 1, 4, 2, 5, 6, 0, 3).reshape(CHANNELS, gathered, 2, 2)
    last = torch.zeros(WIDTH, WIDTH, 3, 3)
    last[:CHANNELS, :gathered, 1:, 1:] = taps
    last[CHANNELS : 2 * CHANNELS, :gathered, 1:, 1:] = -taps
    sd["10.weight"] = last
    sd["14.weight"], sd["14.bias"] = torch.zeros(CHANNELS, WIDTH, 3, 3), -(code.mean @ code.weight)
    for c in range(CHANNELS):
        sd["14.weight"][c, c, 1, 1] = 1.0
        sd["14.weight"][c, CHANNELS + c, 1, 1] = -1.0
    return sd
