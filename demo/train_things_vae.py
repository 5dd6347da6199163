"""Trains the VAE of the demo of things, both ends; on a GPU if there is one.

Run from the repository's root, in the environment that `python dev.py setup` makes:

    python -m demo.train_things_vae --out DIR [--steps 3000] [--threads 2] [--decay 500] [--only-decoder]

The encoder begins as 16 principal components of 8x8 blocks. State goes to DIR every few minutes, and the same command
goes on from there. --decay N lets the learning rate fall to nothing over N steps from now on, which also ends the run.
--only-decoder keeps the encoder as it is from now on, so that latents stay what a transformer has learnt.
"""

from __future__ import annotations

import argparse
import math
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import dev

from . import latents, pictures, scenes, things, training, vae
from .muon import Muon

BATCH, CROP, WARM_UP, PEAK_RATE, WEIGHT_DECAY = 16, 48, 50, 1.5e-3, 0.01
SIZES = (64, 96, 128, 160)  # of the pictures that pieces are cut from
SHAPES_SHARE, PAIR_SHARE = 0.15, 0.3
EMA_HALF_LIFE = 60  # steps
MAX_NOISE = 0.1  # on the latents, of unit variance: the transformer's are not exact either
SAVE_SECONDS, LOG_EVERY, JUDGE_EVERY = 240, 50, 250
NUM_JUDGED, JUDGE_SIZE = 24, 128


def is_held_out(thing: str) -> bool:
    """Whether the VAE never sees this thing; its figures are taken on those."""
    return zlib.crc32(f"vae/{thing}".encode()) % 10 == 0


class Ends(nn.Module):
    """Encoder and decoder."""

    def __init__(self, code: latents.BlockCode):
        super().__init__()
        self.encoder, self.decoder = vae.Encoder(), vae.decoder()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, vae.Block):
                nn.init.zeros_(module.conv[4].weight)
        self.encoder.begin_with(code)
        nn.init.zeros_(self.decoder[-1].weight)
        nn.init.constant_(self.decoder[-1].bias, 0.5)


def random_scene(rng: np.random.Generator, names: list[str]) -> scenes.Scene:
    return scenes.random_pair(rng, names) if rng.random() < PAIR_SHARE else scenes.random_single(rng, names)


def crops(rng: np.random.Generator, names: list[str], sprites: things.Sprites) -> Tensor:
    """(BATCH, 3, CROP, CROP): pieces of pictures of one size, on the block grid, around one of the things."""
    size = int(rng.choice(SIZES))
    if rng.random() < SHAPES_SHARE:
        drawn = [pictures.all_scenes()[rng.integers(len(pictures.all_scenes()))] for _ in range(BATCH)]
        images = torch.from_numpy(np.stack([pictures.draw(scene, rng, size) for scene in drawn]))
        centres = np.full((BATCH, 2), 0.5)
    else:
        scene_list = [random_scene(rng, names) for _ in range(BATCH)]
        images = scenes.draw(scene_list, sprites, size, size)
        items = [scene.items[rng.integers(len(scene.items))] for scene in scene_list]
        centres = np.array([(i.row, i.column) for i in items])
        centres += np.array([i.size for i in items])[:, None] * rng.uniform(-0.4, 0.4, (BATCH, 2))
    corners = ((centres * size - CROP / 2).clip(0, size - CROP) / latents.BLOCK).round().astype(int) * latents.BLOCK
    return torch.stack(
        [image[y : y + CROP, x : x + CROP] for image, (y, x) in zip(images, corners.tolist())]
    ).permute(0, 3, 1, 2)


def loss_of(out: Tensor, images: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute and squared error, absolute error of the slopes (fine detail), and the latents' mean square near 1;
    second, the squared error alone."""
    error = out - images
    slopes = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    spread = (z.square().mean() - 1).square() + z.mean((0, 2, 3)).square().mean()
    square = error.square().mean()
    return error.abs().mean() + 4 * square + 0.5 * slopes + 0.1 * spread, square


def detail(images: Tensor) -> Tensor:
    """Energy of each picture (B, 3, H, W) above half of the finest frequency: what a 2x2 mean takes away."""
    coarse = nn.functional.interpolate(nn.functional.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    return (images - coarse).square().mean((1, 2, 3))


@torch.inference_mode()
def judge(net: Ends, images: Tensor) -> tuple[dict[str, float], Tensor]:
    """Figures on pictures of held-out things, and the decoded pictures."""
    z = net.encoder(images)
    out = net.decoder(z).clamp(0, 1)
    error = (out - images).square().mean((1, 2, 3))
    return {
        "psnr": -10 * math.log10(error.mean().item()),
        "psnr_of_each": float((-10 * error.log10()).mean()),
        "detail": float(detail(out).sum() / detail(images).sum()),
        "rms": z.square().mean().sqrt().item(),
        "highest": z.abs().max().item(),
    }, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=dev.cache_dir() / "things" / "vae")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--decay", type=int)
    parser.add_argument("--only-decoder", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)

    sprites = things.load()
    names = [n for n in things.names() if not is_held_out(n)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rng = np.random.default_rng([5, 0])
    sample = scenes.draw([random_scene(rng, names) for _ in range(300)], sprites, latents.FIT_SIZE, latents.FIT_SIZE)
    unseen = [n for n in things.names() if is_held_out(n)]
    judged = [random_scene(rng, unseen) for _ in range(NUM_JUDGED)]
    real = scenes.draw(judged, sprites, JUDGE_SIZE, JUDGE_SIZE).permute(0, 3, 1, 2).to(device)

    torch.manual_seed(0)
    net = Ends(latents.components(sample.numpy())).to(device, memory_format=torch.channels_last)
    ema = {k: v.clone() for k, v in net.state_dict().items()}
    filters = [p for p in net.parameters() if p.ndim == 4 and p.shape[0] == p.shape[1]]
    others = [p for p in net.parameters() if not (p.ndim == 4 and p.shape[0] == p.shape[1])]
    optimisers = [
        Muon(filters, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    log, state, step, decay = training.Log(args.out / "log.csv"), args.out / "state.pt", 0, None
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=device)
        net.load_state_dict(saved["net"])
        for optimiser, kept in zip(optimisers, saved["optimisers"]):
            optimiser.load_state_dict(kept)
        ema, step, decay, log.hours = saved["ema"], saved["step"], saved["decay"], saved["hours"]
    if args.only_decoder:  # the encoder that goes into the file is the averaged one
        net.encoder.load_state_dict({k[8:]: v for k, v in ema.items() if k.startswith("encoder.")})
        net.encoder.requires_grad_(False)
    if args.decay and decay is None:
        decay = (step, args.decay)
    last = min(args.steps, sum(decay)) if decay else args.steps
    shown = Ends(latents.BlockCode(torch.zeros(192), torch.zeros(192, 16))).to(device)

    losses, squares, saved_at = [], [], time.time()
    while step < last:
        rng = np.random.default_rng([3, step])  # a restart sees what an unbroken run would have seen
        training.set_rate(optimisers, PEAK_RATE * training.rate(step, WARM_UP, decay))
        images = crops(rng, names, sprites).contiguous(memory_format=torch.channels_last).to(device)
        z = net.encoder(images)
        noise = rng.standard_normal(z.shape, np.float32) * rng.uniform(0, MAX_NOISE, (BATCH, 1, 1, 1))
        out = net.decoder(z + torch.from_numpy(noise.astype(np.float32)).to(device))
        loss, square = loss_of(out, images, z)
        net.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        training.average(ema, net.state_dict(), step, EMA_HALF_LIFE)
        losses.append(loss.item())
        squares.append(square.item())
        if step % LOG_EVERY == 0:
            before = log.hours
            seconds = (log.tick() - before) * 3600 / len(losses)
            log.write(step, loss=float(np.mean(losses)), psnr=-10 * math.log10(np.mean(squares)), seconds=seconds)
            losses, squares = [], []
        if step % JUDGE_EVERY == 0 or step == last:
            shown.load_state_dict(ema)
            figures, decoded = judge(shown, real)
            log.write(step, **{f"held_out_{k}": v for k, v in figures.items()})
            show(real, decoded, args.out / "sheet.png")
        if time.time() - saved_at > SAVE_SECONDS or step == last:
            kept = {
                "net": net.state_dict(),
                "optimisers": [o.state_dict() for o in optimisers],
                "ema": ema,
                "step": step,
                "decay": decay,
                "hours": log.tick(),
            }
            training.save(kept, state)
            shown.load_state_dict(ema)
            save_file(
                vae.checkpoint(shown.encoder.taesd(), shown.decoder.state_dict()),
                args.out / "chroma-demo-vae.safetensors",
                metadata={"title": "demo VAE of things, TAESD layout", "license": "Apache-2.0", "steps": str(step)},
            )
            saved_at = time.time()


def show(real: Tensor, decoded: Tensor, path: Path) -> None:
    """Real pictures above decoded ones, twelve in a row."""
    from PIL import Image

    rows = [torch.cat(list(part), 2) for i in range(0, len(real), 12) for part in (real[i : i + 12], decoded[i : i + 12])]
    sheet = (torch.cat(rows, 1).permute(1, 2, 0).clamp(0, 1) * 255).round().byte()
    Image.fromarray(sheet.cpu().numpy()).save(path)


if __name__ == "__main__":
    main()
