"""Trains the demo VAE's decoder, on a GPU if there is one; its encoder is known in closed form (`latents.py`).

    python -m demo.train_vae --out DIR [--steps 2500] [--threads 2]

The file has TAESD's layout, so the host's VAELoader takes it. Every SAVE_EVERY steps all state goes to DIR; the same
command goes on from there.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from . import latents, pictures
from .vae import checkpoint, decoder

BATCH, CROP, WARM_UP, PEAK_RATE = 12, 48, 50, 2e-3
EMA_HALF_LIFE = 50  # steps
SAVE_EVERY, LOG_EVERY = 250, 50
LATENT_NOISE = 0.03  # the transformer's latents are not exact either


def crops(rng: np.random.Generator, scenes: list[pictures.Scene]) -> Tensor:
    """(BATCH, CROP, CROP, 3): pieces of drawn pictures on the block grid, most of them with an edge in sight."""
    found = []
    while len(found) < BATCH:
        scene = scenes[rng.integers(len(scenes))] if rng.random() > 0.25 else pictures.random_pair(rng)
        picture = pictures.draw(scene, rng, latents.FIT_SIZE)
        for _ in range(4):
            y, x = rng.integers((latents.FIT_SIZE - CROP) // latents.BLOCK + 1, size=2) * latents.BLOCK
            piece = picture[y : y + CROP, x : x + CROP]
            if piece.std(axis=(0, 1)).max() > 0.02 or rng.random() < 0.05:
                found.append(piece)
    return torch.from_numpy(np.stack(found[:BATCH]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = decoder().to(device, memory_format=torch.channels_last)
    ema = {k: v.clone() for k, v in net.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    code, scenes = latents.fit(), pictures.all_scenes()
    state, step = args.out / "vae_state.pt", 0
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=device)
        net.load_state_dict(saved["net"])
        optimiser.load_state_dict(saved["optimiser"])
        ema, step = saved["ema"], saved["step"]

    began, losses = time.time(), []
    while step < args.steps:
        rng = np.random.default_rng([3, step])
        rate = PEAK_RATE * min(1.0, (step + 1) / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        images = crops(rng, scenes)
        z = code.encode(images)
        z = z + LATENT_NOISE * torch.from_numpy(rng.standard_normal(z.shape).astype(np.float32))
        z, images = z.to(device), images.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            out = net(z.contiguous(memory_format=torch.channels_last))
        error = out.float() - images.permute(0, 3, 1, 2)
        loss = error.abs().mean() + 4 * error.square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            keep = 0.5 ** (1 / min(EMA_HALF_LIFE, 1 + step / 10))
            for k, v in net.state_dict().items():
                ema[k].lerp_(v, 1 - keep)
        losses.append(error.detach().square().mean().item())
        if step % LOG_EVERY == 0:
            psnr = -10 * math.log10(np.mean(losses))
            print(f"step {step} PSNR {psnr:.2f} dB, {(time.time() - began) / len(losses):.2f} s", flush=True)
            began, losses = time.time(), []
        if step % SAVE_EVERY == 0 or step == args.steps:
            torch.save(
                {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "ema": ema, "step": step},
                state.with_suffix(".partial"),
            )
            state.with_suffix(".partial").replace(state)
            save_file(
                checkpoint(latents.encoder_state_dict(code), ema),
                args.out / "chroma-demo-vae.safetensors",
                metadata={"title": "demo VAE of coloured shapes, TAESD layout", "license": "Apache-2.0"},
            )


if __name__ == "__main__":
    main()
