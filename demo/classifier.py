"""A judge of things and styles: a small convolutional network, trained on the real pictures only.

    python -m demo.classifier [--out DIR] [--steps 4000] [--threads 2]

trains it on scenes of the fetched sprites, all (thing, style) pairs, and never on anything that a model made. It looks at
one thing at a time: `views` cuts out the part of a picture where a scene has each of its things.
Shapes: B batch, N things.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import pictures, scenes, things, training
from .muon import Muon

SIDE = 64  # pixels of what it looks at
WIDTHS = (32, 64, 128, 256)  # each after a stride of two
BATCH, WARM_UP, PEAK_RATE = 64, 100, 1.5e-3
SIZES = (64, 96, 128)  # of the pictures that are drawn
PAIR_SHARE = 0.4
MAX_NOISE, MAX_BLUR = 0.05, 0.6  # models paint with a little of both
SAVE_SECONDS, LOG_EVERY, NUM_JUDGED = 240, 50, 512


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv(x))


class Classifier(nn.Module):
    """(B, 3, SIDE, SIDE) in [0, 1] -> logits of things (B, N) and of styles (B, 3)."""

    def __init__(self, num_things: int):
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in WIDTHS:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [Residual(width)]
            before = width
        self.body = nn.Sequential(*layers)
        self.thing, self.style = nn.Linear(before, num_things), nn.Linear(before, len(things.STYLES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x - 0.5).mean((2, 3))
        return self.thing(x), self.style(x)


def views(images: Tensor, found: Sequence[scenes.Scene]) -> tuple[Tensor, list[tuple[int, scenes.Item]]]:
    """The picture for a thing alone, for one of two the square half-size part where it stands.

    images:  (B, 3, H, W), at least SIDE a side.
    returns: (V, 3, SIDE, SIDE), and for each the scene's number and the item that should be seen.
    """
    height, width = images.shape[2:]
    parts, asked = [], []
    for i, scene in enumerate(found):
        for item in scene.items:
            row = column = 0
            h, w = height, width
            if len(scene.items) > 1:  # where such scenes put their things, not where this one's were drawn
                direction = pictures.PLACES[item.place]
                h, w = int(0.56 * height), int(0.56 * width)
                row = int((height - h) * (0.5 + direction[1] / 2))
                column = int((width - w) * (0.5 + direction[0] / 2))
            part = images[i : i + 1, :, row : row + h, column : column + w]
            parts.append(nn.functional.interpolate(part, (SIDE, SIDE), mode="bilinear", antialias=True))
            asked.append((i, item))
    return torch.cat(parts), asked


def batch(rng: np.random.Generator, names: list[str], sprites: things.Sprites, size: int) -> tuple[Tensor, Tensor]:
    """Views of drawn scenes and, for each, the numbers of thing and style (V, 2); held-out pairs are among them."""
    make = scenes.random_pair if rng.random() < PAIR_SHARE else scenes.random_single
    found = [make(rng, names, None) for _ in range(BATCH)]
    seen, asked = views(scenes.draw(found, sprites, size, size).permute(0, 3, 1, 2), found)
    picks = rng.permutation(len(asked))[:BATCH]
    labels = [(names.index(asked[i][1].thing), things.STYLES.index(asked[i][1].style)) for i in picks]
    return seen[picks], torch.tensor(labels)


def spoil(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Some blur and noise, different for each picture."""
    share = torch.from_numpy(rng.uniform(0, MAX_BLUR, (len(x), 1, 1, 1)).astype(np.float32))
    blurred = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = rng.standard_normal(x.shape, np.float32) * rng.uniform(0, MAX_NOISE, (len(x), 1, 1, 1))
    return torch.lerp(x, blurred, share) + torch.from_numpy(noise.astype(np.float32))


def load(path: Path) -> tuple[Classifier, list[str]]:
    """The classifier and the names of its things."""
    sd = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    net = Classifier(len(sd["thing.weight"]))
    net.load_state_dict(sd)
    return net.eval().requires_grad_(False), things.names()[: len(sd["thing.weight"])]


@torch.inference_mode()
def accuracy(net: Classifier, seen: Tensor, labels: Tensor) -> dict[str, float]:
    thing, style = net(seen)
    return {
        "thing": (thing.argmax(1) == labels[:, 0]).float().mean().item(),
        "style": (style.argmax(1) == labels[:, 1]).float().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=things.folder() / "classifier")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    sprites, names = things.load(), things.names()[: things.NUM_FIRST]
    rng = np.random.default_rng([7, 0])
    judged = [batch(rng, names, sprites, 96) for _ in range(NUM_JUDGED // BATCH)]
    unseen = torch.cat([b[0] for b in judged]), torch.cat([b[1] for b in judged])

    torch.manual_seed(0)
    net = Classifier(len(names)).to(memory_format=torch.channels_last)
    filters = [p for p in net.parameters() if p.ndim == 4]
    others = [p for p in net.parameters() if p.ndim != 4]
    optimisers = [Muon(filters, lr=PEAK_RATE, weight_decay=0.01), torch.optim.AdamW(others, lr=PEAK_RATE)]
    state, log, step = args.out / "state.pt", training.Log(args.out / "log.csv"), 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        net.load_state_dict(saved["net"])
        for optimiser, kept in zip(optimisers, saved["optimisers"]):
            optimiser.load_state_dict(kept)
        step, log.hours = saved["step"], saved["hours"]
    losses, saved_at, stop = [], time.time(), training.StopRequest()
    while step < args.steps and not stop:
        rng = np.random.default_rng([8, step])
        training.set_rate(optimisers, PEAK_RATE * training.rate(step, WARM_UP, (args.steps // 2, args.steps // 2)))
        seen, labels = batch(rng, names, sprites, int(rng.choice(SIZES)))
        with training.autocast(seen.device):
            thing, style = net(spoil(seen, rng).contiguous(memory_format=torch.channels_last))
        loss = nn.functional.cross_entropy(thing.float(), labels[:, 0]) + nn.functional.cross_entropy(
            style.float(), labels[:, 1]
        )
        net.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        losses.append(loss.item())
        if step % LOG_EVERY == 0:
            log.write(step, loss=float(np.mean(losses)))
            losses = []
        if time.time() - saved_at > SAVE_SECONDS or step == args.steps or stop:
            net.eval()
            log.write(step, **{f"unseen_{k}": v for k, v in accuracy(net, *unseen).items()})
            net.train()
            kept = {"net": net.state_dict(), "optimisers": [o.state_dict() for o in optimisers], "step": step}
            training.save(kept | {"hours": log.tick()}, state)
            half = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
            save_file({k: v.contiguous() for k, v in half.items()}, args.out / "chroma-demo-judge.safetensors")
            saved_at = time.time()


if __name__ == "__main__":
    main()
