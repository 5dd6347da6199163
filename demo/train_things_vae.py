"""Trains the VAE of the demo of things, both ends; on a GPU if there is one.

Run from the repository's root, in the environment that `python dev.py setup` makes:

    python -m demo.train_things_vae encoder [--out DIR] [--steps N] [--decay N] [--threads 2]
    python -m demo.train_things_vae decoder [--out DIR] ...

The encoder comes first, with a reader at an eighth of the size for a decoder: both begin as 16 principal components of
8x8 blocks and its inverse, and a step costs a tenth of one with TAESD's decoder, which from scratch is no use to the
encoder for a thousand steps. Then the encoder stays as it is, so that latents stay what a transformer learns, and
TAESD's decoder is trained for it, or for the demo's own encoder where none was trained before.

State goes to DIR every few minutes, and the same command goes on from there. --decay N lets the learning rate fall to
nothing over N steps from now on, which also ends the run.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import judge_things, latents, pictures, scenes, things, training, vae
from .muon import Muon

ENCODER_BATCH, DECODER_BATCH = (24, 64), (16, 48)  # pieces and their side in pixels
WARM_UP, PEAK_RATE, WEIGHT_DECAY = 100, 1e-3, 0.01
DECODER_WIDTHS = (64, 64, 48, 32)  # at an eighth, a quarter, half and all of the size
ENCODER_FILE = "encoder.safetensors"  # with the reader that it learnt with
SIZES = (64, 96, 128, 160)  # of the pictures that pieces are cut from
SHAPES_SHARE, PAIR_SHARE = 0.15, 0.3
EMA_HALF_LIFE = 60  # steps
MAX_NOISE = 0.06  # on the latents, of nearly unit variance: the transformer's are not exact either
CLAMP = 3.0  # of TAESD's decoder
FLATTEN, RMS = 1 / 8, 0.4  # of the block code that it begins as: flat colours stay below the clamp
MEAN_SQUARE = 0.7  # of latents
SAVE_SECONDS, LOG_EVERY, JUDGE_EVERY = 240, 50, 250
NUM_JUDGED, JUDGE_SIZE = 24, 128


def is_held_out(thing: str) -> bool:
    """Whether the VAE never sees this thing; its figures are taken on those."""
    return zlib.crc32(f"vae/{thing}".encode()) % 10 == 0


class Ends(nn.Module):
    """Encoder and either decoder."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


def initialise(module: nn.Module) -> None:
    """Every residual block begins as the identity."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    for part in module.modules():
        if isinstance(part, vae.Block):
            nn.init.zeros_(part.conv[4].weight)
            nn.init.zeros_(part.conv[4].bias)


def learner(code: latents.BlockCode) -> Ends:
    """Encoder and reader, both beginning as the block code."""
    net = Ends(vae.Encoder(), vae.Reader())
    for part in (net.encoder, net.decoder):
        initialise(part)
        part.begin_with(code)
    return net


def painter(encoder: vae.Encoder) -> Ends:
    """A finished encoder, and TAESD's decoder from scratch, narrower where pixels are many: less than half the cost."""
    net = Ends(encoder.requires_grad_(False), vae.decoder(DECODER_WIDTHS))
    initialise(net.decoder)
    nn.init.zeros_(net.decoder[-1].weight)
    nn.init.constant_(net.decoder[-1].bias, 0.5)
    return net


def random_scene(rng: np.random.Generator, names: list[str]) -> scenes.Scene:
    return scenes.random_pair(rng, names) if rng.random() < PAIR_SHARE else scenes.random_single(rng, names)


def crops(rng: np.random.Generator, names: list[str], sprites: things.Sprites, batch: int, crop: int) -> Tensor:
    """(batch, 3, crop, crop): pieces of pictures of one size, on the block grid, around one of the things."""
    size = int(rng.choice(SIZES))
    if rng.random() < SHAPES_SHARE:
        drawn = [pictures.all_scenes()[rng.integers(len(pictures.all_scenes()))] for _ in range(batch)]
        images = torch.from_numpy(np.stack([pictures.draw(scene, rng, size) for scene in drawn]))
        centres = np.full((batch, 2), 0.5)
    else:
        scene_list = [random_scene(rng, names) for _ in range(batch)]
        images = scenes.draw(scene_list, sprites, size, size)
        items = [scene.items[rng.integers(len(scene.items))] for scene in scene_list]
        centres = np.array([(i.row, i.column) for i in items])
        centres += np.array([i.size for i in items])[:, None] * rng.uniform(-0.4, 0.4, (batch, 2))
    corners = ((centres * size - crop / 2).clip(0, size - crop) / latents.BLOCK).round().astype(int) * latents.BLOCK
    pieces = [image[y : y + crop, x : x + crop] for image, (y, x) in zip(images, corners.tolist())]
    return torch.stack(pieces).permute(0, 3, 1, 2)


def loss_of(out: Tensor, images: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute and squared error, absolute error of the slopes (fine detail) and of the strength of fine detail, which
    without that fades where it cannot be known exactly; the latents' mean square. Second, the squared error alone."""
    error = out - images
    slopes = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    spread = (z.square().mean() - MEAN_SQUARE).square() + z.mean((0, 2, 3)).square().mean()
    spread = spread + (z.abs() - CLAMP).clamp(min=0).square().mean()  # beyond it the decoder sees no difference
    square = error.square().mean()
    strength = (fine_strength(out) - fine_strength(images)).abs().mean()
    return 0.5 * error.abs().mean() + 8 * square + 0.5 * slopes + strength + 0.1 * spread, square


def fine_strength(images: Tensor) -> Tensor:
    """Root mean square of the pictures' finest part, over all colours, in each piece of 4x4 pixels."""
    energy = judge_things.fine(images).square().mean(1, keepdim=True)
    return (nn.functional.avg_pool2d(energy, 4) + 1e-6).sqrt()


@torch.inference_mode()
def judge(net: Ends, images: Tensor) -> tuple[dict[str, float], Tensor]:
    """Figures on pictures of held-out things, and the decoded pictures."""
    z = net.encoder(images)
    out = net.decoder(z).clamp(0, 1)
    error = (out - images).square().mean((1, 2, 3))
    return {
        "psnr": -10 * math.log10(error.mean().item()),
        "psnr_of_each": float((-10 * error.log10()).mean()),
        "detail": float(judge_things.detail(out).sum() / judge_things.detail(images).sum()),
        "rms": z.square().mean().sqrt().item(),
        "highest": z.abs().max().item(),
    }, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("encoder", "decoder"))
    parser.add_argument("--out", type=Path, default=things.folder() / "vae")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--decay", type=int)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)

    sprites = things.load()
    names = [n for n in things.names() if not is_held_out(n)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rng = np.random.default_rng([5, 0])
    unseen = [n for n in things.names() if is_held_out(n)]
    judged = [random_scene(rng, unseen) for _ in range(NUM_JUDGED)]
    real = scenes.draw(judged, sprites, JUDGE_SIZE, JUDGE_SIZE).permute(0, 3, 1, 2).to(device)

    torch.manual_seed(0)
    file = args.out / ENCODER_FILE
    if args.part == "encoder":
        sample = [random_scene(rng, names) for _ in range(300)]
        images = scenes.draw(sample, sprites, latents.FIT_SIZE, latents.FIT_SIZE)
        net, batch, crop = learner(latents.components(images.numpy(), FLATTEN, RMS)), *ENCODER_BATCH
    else:
        encoder, _ = vae.load_encoder(file) if file.exists() else vae.load(vae.DEMO)
        net, batch, crop = painter(encoder), *DECODER_BATCH
    net = net.to(device, memory_format=torch.channels_last)
    ema = {k: v.clone() for k, v in net.state_dict().items()}
    trained = [p for p in net.parameters() if p.requires_grad]
    filters = [p for p in trained if p.ndim == 4 and p.shape[0] == p.shape[1]]
    others = [p for p in trained if not (p.ndim == 4 and p.shape[0] == p.shape[1])]
    optimisers = [
        Muon(filters, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    state = args.out / f"{args.part}-state.pt"
    log, step, decay = training.Log(args.out / f"{args.part}-log.csv"), 0, None
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=device)
        net.load_state_dict(saved["net"])
        for optimiser, kept in zip(optimisers, saved["optimisers"]):
            optimiser.load_state_dict(kept)
        ema, step, decay, log.hours = saved["ema"], saved["step"], saved["decay"], saved["hours"]
    if args.decay and (decay is None or step >= sum(decay)):
        decay = (step, args.decay)
    last = min(args.steps, sum(decay)) if decay else args.steps

    losses, squares, seconds, saved_at = [], [], [], time.time()
    stop = training.StopRequest()
    while step < last and not stop:
        began = time.time()
        rng = np.random.default_rng([3, step])  # a restart sees what an unbroken run would have seen
        training.set_rate(optimisers, PEAK_RATE * training.rate(step, WARM_UP, decay))
        images = crops(rng, names, sprites, batch, crop).contiguous(memory_format=torch.channels_last).to(device)
        with training.autocast(device):
            z = net.encoder(images).float()
        noise = rng.standard_normal(z.shape, np.float32) * rng.uniform(0, MAX_NOISE, (batch, 1, 1, 1))
        with training.autocast(device):
            out = net.decoder(z + torch.from_numpy(noise.astype(np.float32)).to(device)).float()
        loss, square = loss_of(out, images, z)
        net.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        training.average(ema, net.state_dict(), step, EMA_HALF_LIFE)
        losses.append(loss.item())
        squares.append(square.item())
        seconds.append(time.time() - began)
        if step % LOG_EVERY == 0:
            psnr = -10 * math.log10(np.mean(squares))
            log.write(step, loss=float(np.mean(losses)), psnr=psnr, seconds=float(np.mean(seconds)))
            losses, squares, seconds = [], [], []
        if step % JUDGE_EVERY == 0 or step == last:
            shown = with_weights(net, ema)
            figures, decoded = judge(shown, real)
            log.write(step, **{f"held_out_{k}": v for k, v in figures.items()})
            show(real, decoded, args.out / f"{args.part}-sheet.png")
        if time.time() - saved_at > SAVE_SECONDS or step == last or stop:
            kept = {"net": net.state_dict(), "optimisers": [o.state_dict() for o in optimisers], "ema": ema}
            training.save(kept | {"step": step, "decay": decay, "hours": log.tick()}, state)
            shown = with_weights(net, ema)
            if args.part == "encoder":
                save_file({k: v.half().contiguous() for k, v in shown.state_dict().items()}, file)
            else:
                save_file(
                    vae.checkpoint(shown.encoder.taesd(), vae.widened(shown.decoder.state_dict())),
                    args.out / "chroma-demo-vae.safetensors",
                    metadata={"title": "demo VAE of things, TAESD layout", "license": "Apache-2.0", "steps": str(step)},
                )
            saved_at = time.time()


def with_weights(net: Ends, weights: dict[str, Tensor]) -> Ends:
    """A copy with other weights."""
    shown = copy.deepcopy(net).requires_grad_(False)
    shown.load_state_dict(weights)
    return shown


def show(real: Tensor, decoded: Tensor, path: Path) -> None:
    """Real pictures above decoded ones, twelve in a row."""
    from PIL import Image

    rows = [torch.cat(list(x[i : i + 12]), 2) for i in range(0, len(real), 12) for x in (real, decoded)]
    sheet = (torch.cat(rows, 1).permute(1, 2, 0).clamp(0, 1) * 255).round().byte()
    Image.fromarray(sheet.cpu().numpy()).save(path)


if __name__ == "__main__":
    main()
