"""TAESD's layers, as the host's VAELoader takes them, with an encoder that costs little.

Up to the last stride the encoder gathers pixels (48 channels at a quarter of the size: an exact copy), so that only the
strided convolution, three residual blocks and the last convolution are learnt, all at an eighth of the size.
Shapes: B batch, H rows, W columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from . import latents

GATHERED = 48  # channels after two strides: 4x4 pixels of 3 colours
DEMO = Path(__file__).parent / "weights" / "chroma-demo-vae.safetensors"  # on whose latents the demo was trained
# The host's FLUX latent format; with these in the file, latents inside the model are the encoder's own.
VAE_SCALE, VAE_SHIFT = 0.3611, 0.1159


class Block(nn.Module):
    """TAESD's residual block: three convolutions, rectified sum."""

    def __init__(self, width: int):
        super().__init__()
        conv = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def decoder(widths: Sequence[int] = (latents.WIDTH,) * 4) -> nn.Sequential:
    """TAESD's decoder, (B, 16, H, W) -> (B, 3, 8H, 8W) in [0, 1]; names as in the host's `taesd_decoder.*`.

    widths: channels at an eighth, a quarter, half and all of the size; TAESD has 64 throughout, see `widened`.
    """
    layers: list[nn.Module] = [Clamp(), nn.Conv2d(latents.CHANNELS, widths[0], 3, padding=1), nn.ReLU()]
    for width, after in zip(widths, widths[1:]):
        layers += [Block(width) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, after, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, Block(widths[-1]), nn.Conv2d(widths[-1], 3, 3, padding=1))


def widened(narrow: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same map as a narrower decoder's, with TAESD's widths: the added channels are zero."""
    wide = {k: torch.zeros_like(v) for k, v in decoder().state_dict().items()}
    for name, tensor in narrow.items():
        wide[name][tuple(slice(n) for n in tensor.shape)] = tensor
    return wide


class Encoder(nn.Module):
    """The learnt part of the encoder, pixels gathered without convolutions; (B, 3, 8H, 8W) -> (B, 16, H, W)."""

    def __init__(self, width: int = latents.WIDTH):
        super().__init__()
        self.gathered = nn.Conv2d(GATHERED, width, 3, stride=2, padding=1, bias=False)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(3)))
        self.last = nn.Conv2d(width, latents.CHANNELS, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.blocks(self.gathered(nn.functional.pixel_unshuffle(images, 4))))

    def begin_with(self, code: latents.BlockCode) -> None:
        """Sets weights that compute the block code; channels that it does not use stay random."""
        taesd = latents.encoder_state_dict(code)
        used = 2 * latents.CHANNELS
        with torch.no_grad():
            self.gathered.weight[:used] = taesd["10.weight"][:used, :GATHERED][:, _order().argsort()]
            for block in self.blocks:
                block.conv[4].weight.zero_()
                block.conv[4].bias.zero_()
            self.last.weight.mul_(0.01)
            self.last.weight[:, :used] = taesd["14.weight"][:, :used]
            self.last.bias.copy_(taesd["14.bias"])

    @classmethod
    def from_taesd(cls, sd: dict[str, Tensor]) -> "Encoder":
        """The inverse of `taesd`."""
        encoder = cls()
        mine = {"gathered.weight": sd["10.weight"][:, :GATHERED][:, _order().argsort()]}
        for name in encoder.state_dict():
            part, _, rest = name.partition(".")
            if part == "blocks":
                mine[name] = sd[f"{11 + int(rest[0])}{rest[1:]}"]
            elif part == "last":
                mine[name] = sd[f"14.{rest}"]
        encoder.load_state_dict(mine)
        return encoder

    def taesd(self) -> dict[str, Tensor]:
        """The same map as weights of TAESD's encoder, keys as in the host's `taesd_encoder.*`."""
        width = latents.WIDTH
        block = latents.BlockCode(torch.zeros(192), torch.zeros(192, latents.CHANNELS))
        sd = latents.encoder_state_dict(block)  # the layers that gather
        sd["10.weight"] = torch.zeros(width, width, 3, 3)
        sd["10.weight"][:, :GATHERED] = self.gathered.weight.detach()[:, _order()]
        sd |= {f"{11 + int(k[0])}{k[1:]}": v.detach() for k, v in self.blocks.state_dict().items()}
        sd |= {f"14.{k}": v.detach() for k, v in self.last.state_dict().items()}
        return sd


class Reader(nn.Module):
    """A decoder that works at an eighth of the size, ten times cheaper than TAESD's: the encoder learns with it, and a
    transformer in training is watched through it. (B, 16, H, W) -> (B, 3, 8H, 8W)."""

    def __init__(self, width: int = 128):
        super().__init__()
        self.first = nn.Conv2d(latents.CHANNELS, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(3)))
        self.last = nn.Conv2d(width, 3 * latents.BLOCK**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.last(self.blocks(torch.relu(self.first(Clamp()(z)))))
        return nn.functional.pixel_shuffle(x, latents.BLOCK)

    def begin_with(self, code: latents.BlockCode) -> None:
        """Sets weights that undo the block code as its least-squares inverse does; unused channels stay random."""
        used, n = latents.CHANNELS, latents.BLOCK
        back = torch.linalg.pinv(code.weight).T.view(n, n, 3, used).permute(2, 0, 1, 3).reshape(-1, used)
        eye = torch.eye(used)
        with torch.no_grad():
            self.first.weight[: 2 * used] = 0
            self.first.weight[: 2 * used, :, 1, 1] = torch.cat([eye, -eye])
            self.first.bias.zero_()
            self.last.weight.mul_(0.01)
            self.last.weight[:, : 2 * used] = 0
            self.last.weight[:, : 2 * used, 1, 1] = torch.cat([back, -back], 1)
            self.last.bias.copy_(code.mean.view(n, n, 3).permute(2, 0, 1).reshape(-1))


def _order() -> Tensor:
    """For each channel that the strided layers gather, in the order of `latents.encoder_state_dict`
    (dy2, dx2, dy1, dx1, colour), the channel of pixel_unshuffle (colour, row, column) with the same pixel."""
    index = torch.arange(GATHERED).view(3, 2, 2, 2, 2)  # colour dy2 dy1 dx2 dx1
    return index.permute(1, 3, 2, 4, 0).reshape(-1)


def checkpoint(encoder: dict[str, Tensor], decoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file for the host's VAELoader, from TAESD's names."""
    sd = {f"taesd_decoder.{k}": v for k, v in decoder.items()} | {f"taesd_encoder.{k}": v for k, v in encoder.items()}
    sd |= {"vae_scale": torch.tensor(VAE_SCALE), "vae_shift": torch.tensor(VAE_SHIFT)}
    return {k: (v if k.startswith("vae_") else v.half()).cpu().contiguous() for k, v in sd.items()}


def load(path: Path) -> tuple[Encoder, nn.Sequential]:
    """Both ends from a file that `checkpoint` wrote, float32, not to be trained."""
    parts: dict[str, dict[str, Tensor]] = {"taesd_encoder": {}, "taesd_decoder": {}}
    for name, tensor in load_file(path).items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = tensor.float()
    decoded = decoder()
    decoded.load_state_dict(parts["taesd_decoder"])
    encoder = Encoder.from_taesd(parts["taesd_encoder"])
    return encoder.eval().requires_grad_(False), decoded.eval().requires_grad_(False)


def load_encoder(path: Path) -> tuple[Encoder, Reader]:
    """An encoder and the reader that it learnt with, as `train_things_vae` keeps them; float32, not to be trained."""
    sd = {k: v.float() for k, v in load_file(path).items()}
    encoder, reader = Encoder(), Reader()
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in sd.items() if k.startswith("encoder.")})
    reader.load_state_dict({k.removeprefix("decoder."): v for k, v in sd.items() if k.startswith("decoder.")})
    return encoder.eval().requires_grad_(False), reader.eval().requires_grad_(False)
