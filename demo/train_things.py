"""Trains the demo's Chroma and Radiance of things, on a GPU if there is one: flow matching on pictures drawn as it goes.

Run from the repository's root, in the environment that `python dev.py setup` makes, after `python -m demo.things`:

    python -m demo.train_things [chroma|radiance] [--out DIR] [--steps N] [--hours H] [--decay N] [--threads 2]
    python -m demo.train_things [chroma|radiance] --from WEIGHTS.safetensors

State goes to DIR every few minutes and when it is stopped, and the same command goes on from there; every step's batch, noise and rate follow
from its number. --from begins with averaged weights where the state was lost, at the step that they name; of the other
kind it takes what fits, the blocks and what reads the text, and begins at step 0. --decay N
lets the rate fall to nothing over N steps from now on, which ends the run. DIR/KIND-demo.safetensors is the averaged
model in float16, DIR/log.csv has hours, loss and seconds a step, DIR/sheet-STEP.png shows the same prompts every time.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import exam, lessons, network, scenes, things, training, vae, watch, words
from .muon import Muon


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is trained: its sizes, and what it shows at which step. pixels: it works on pictures, not on latents.
    time_mean: of timesteps before the sigmoid."""

    title: str
    sizes: network.Sizes
    phases: Sequence[lessons.Phase]
    pixels: network.PixelSizes | None = None
    time_mean: float = 0.9  # at this size what a thing is and where is decided above 0.5, and learnt last

    def build(self) -> nn.Module:
        return network.build(self.sizes, self.pixels)


SIZES = network.Sizes(width=256, heads=4, double=4, single=8, approximator_width=192, approximator_layers=3)
FEWER = dataclasses.replace(SIZES, double=3, single=6)  # with five bits a weight the file is below 10 MB
KINDS = {
    "chroma": Kind("demo Chroma of things", SIZES, lessons.PHASES),
    "radiance": Kind(
        "demo Radiance of things",
        FEWER,
        lessons.PIXEL_PHASES,
        network.PixelSizes(patch_size=16, width=16, blocks=2, mlp_ratio=2),
        time_mean=1.8,  # a token of 768 pixels shows through more noise than one of 64 numbers of a latent
    ),
}
WARM_UP, PEAK_RATE, WEIGHT_DECAY = 100, 2e-3, 0.01
EMA_HALF_LIFE = 300  # steps
SAVE_SECONDS, LOG_EVERY, SHEET_EVERY = 240, 50, 500


class AsPixels(nn.Module):
    """In the place of a VAE's encoder: (B, 3, H, W) in [0, 1] -> [-1, 1], as the host's `pixel_space` does."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 2 - 1


class FromPixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 1) / 2


def loss_of(
    net: nn.Module,
    z: Tensor,
    rows: Tensor,
    mask: Tensor,
    generator: torch.Generator,
    source: Tensor | None = None,
    time_mean: float = 0.0,
) -> Tensor:
    """Flow matching: velocity = noise - data, timesteps logit-normal. The draws are the same on every device.

    z, source: (B, C, h, w) data, and what is shown beside it as reference. time_mean: of timesteps before the sigmoid.
    """
    noise = torch.randn(z.shape, generator=generator).to(z.device)
    t = torch.sigmoid(time_mean + torch.randn(len(z), generator=generator)).to(z.device)
    noisy = torch.lerp(z, noise, t.view(-1, 1, 1, 1))
    with training.autocast(z.device):
        velocity = net(noisy, t, rows, context_mask=mask, **watch.shown(source))
    return nn.functional.mse_loss(velocity.float(), noise - z)


class Trainer:
    """Everything that one step needs. state_dict() and load_state_dict() make a restarted run the unbroken one."""

    def __init__(self, kind: Kind, sprites: things.Sprites, encoder: nn.Module, text: words.TextEncoder, tokenize: Any):
        self.kind = kind
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        self.net = kind.build().to(self.device)
        self.ema = {k: v.clone() for k, v in self.net.state_dict().items()}
        named = list(self.net.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "_blocks." in name]
        others = [p for name, p in named if not (p.ndim == 2 and "_blocks." in name)]
        self.optimisers = [
            Muon(matrices, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY),
            torch.optim.AdamW(others, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.sprites, self.encoder, self.text, self.tokenize = sprites, encoder.to(self.device), text, tokenize
        self.step, self.began, self.decay = 0, 0, None  # began: where the warm-up of these optimisers began

    def rows(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        rows, mask = self.text.encode(self.tokenize(captions))
        return rows.to(self.device), mask.to(self.device)

    def latents(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) in [0, 1] -> (B, C, h, w), or (B, 3, H, W) of a model that works on pictures."""
        return self.encoder(images.permute(0, 3, 1, 2).to(self.device))

    def advance(self) -> float:
        """One step; gives its loss."""
        share = training.rate(self.step, WARM_UP, self.decay, self.began)
        training.set_rate(self.optimisers, PEAK_RATE * share)
        lesson = lessons.lesson(self.step, self.sprites, self.kind.phases)
        with torch.no_grad():
            z, source = self.latents(lesson.images), None if lesson.sources is None else self.latents(lesson.sources)
            rows, mask = self.rows(lesson.captions)
        generator = torch.Generator().manual_seed(1_000_003 + self.step)
        with training.quick_attention(self.device):
            loss = loss_of(self.net, z, rows, mask, generator, source, self.kind.time_mean)
            self.net.zero_grad(set_to_none=True)
            loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        training.average(self.ema, self.net.state_dict(), self.step, EMA_HALF_LIFE)
        return loss.item()

    def averaged(self) -> nn.Module:
        """The model of averaged weights."""
        net = self.kind.build().to(self.device).requires_grad_(False)
        net.load_state_dict(self.ema)
        return net

    def begin_with(self, path: Path) -> None:
        """Weights alone, as `save_weights` wrote them; of another kind what fits."""
        own = self.net.state_dict()
        sd = {k: v.float().to(self.device) for k, v in load_file(path).items()}
        sd = {k: v for k, v in sd.items() if k in own and v.shape == own[k].shape}
        self.net.load_state_dict({**own, **sd})
        self.ema = {k: v.clone() for k, v in self.net.state_dict().items()}
        if sd.keys() == own.keys():
            with safe_open(path, "pt") as f:
                self.step = self.began = int((f.metadata() or {})["steps"])

    def save_weights(self, path: Path) -> None:
        half = {k: v.half().cpu().contiguous() for k, v in self.ema.items()}
        half |= {name: torch.empty(0, dtype=torch.float16) for name in self.net.config.markers}
        metadata = {"title": self.kind.title, "license": "Apache-2.0", "steps": str(self.step)}
        save_file(half, path.with_suffix(".partial"), metadata=metadata)
        path.with_suffix(".partial").replace(path)

    def state_dict(self) -> dict[str, Any]:
        kept = {"net": self.net.state_dict(), "ema": self.ema, "optimisers": [o.state_dict() for o in self.optimisers]}
        return kept | {"step": self.step, "began": self.began, "decay": self.decay}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.net.load_state_dict(saved["net"])
        for optimiser, kept in zip(self.optimisers, saved["optimisers"]):
            optimiser.load_state_dict(kept)
        self.ema, self.step, self.began = saved["ema"], saved["step"], saved["began"]
        self.decay = saved["decay"] and tuple(saved["decay"])


def look(trainer: Trainer, decoder: nn.Module, size: tuple[int, int], path: Path, judge: Path) -> dict[str, float]:
    """Paints the sheet, with two rows of edits once they are taught; gives its figures if there is a judge."""
    net, figures = trainer.averaged(), {}
    empty = trainer.rows([""])
    with torch.inference_mode():
        images = decoder(watch.paint(net, trainer.rows(watch.questions()), empty, size)).float().cpu()
        if judge.exists():
            figures = watch.figures(images, judge)
        if lessons.phase_of(trainer.step, trainer.kind.phases).edits:
            asked = watch.edits_asked()
            sources = scenes.draw([edit.before for edit in asked], trainer.sprites, *size)
            cond = trainer.rows([edit.instruction for edit in asked])
            edited = decoder(watch.paint(net, cond, empty, size, source=trainer.latents(sources))).float().cpu()
            if judge.exists():
                figures |= watch.edit_figures(edited, judge)
            images = torch.cat([images, images.new_ones(-len(images) % watch.COLUMNS, *images.shape[1:])])
            images = torch.cat([images, sources.permute(0, 3, 1, 2), edited])
    watch.sheet(images, path)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=list(KINDS), default="chroma")
    parser.add_argument("--out", type=Path, help="by default a folder of that name in the cache")
    parser.add_argument("--vae", type=Path, default=vae.DEMO)
    parser.add_argument("--judge", type=Path, default=exam.JUDGE)
    parser.add_argument("--from", dest="weights", type=Path)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--hours", type=float, default=float("inf"), help="of this run")
    parser.add_argument("--decay", type=int)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out = args.out or things.folder() / args.kind
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)

    kind = KINDS[args.kind]
    encoder, decoder = vae.load(args.vae) if kind.pixels is None else (AsPixels(), FromPixels())
    fingerprint = hashlib.sha256(b"".join(v.numpy().tobytes() for v in encoder.state_dict().values())).hexdigest()[:16]
    trainer = Trainer(kind, things.load(), encoder, words.TextEncoder(), words.tokenizer())
    log, state = training.Log(args.out / "log.csv"), args.out / "state.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=trainer.device)
        if saved["encoder"] != fingerprint:
            raise ValueError(
                f"the encoder of {args.vae} is {fingerprint}, but {state} was trained on latents of {saved['encoder']}. "
                "Give the VAE of that run, or another --out"
            )
        trainer.load_state_dict(saved["trainer"])
        log.hours = saved["hours"]
    elif args.weights:
        trainer.begin_with(args.weights)
    if args.decay and trainer.decay is None:
        trainer.decay = (trainer.step, args.decay)
    last = min(args.steps, sum(trainer.decay)) if trainer.decay else args.steps
    print(f"{sum(p.numel() for p in trainer.net.parameters()):,} parameters, from step {trainer.step}", flush=True)

    losses: dict[str, list[float]] = {}
    saved_at, until, stop = time.time(), log.hours + args.hours, training.StopRequest()
    while trainer.step < last and log.tick() < until and not stop:
        before = log.tick()
        size = lessons.size_of(trainer.step, kind.phases)
        losses.setdefault(f"loss{size[0]}x{size[1]}", []).append(trainer.advance())
        losses.setdefault("seconds", []).append((log.tick() - before) * 3600)
        if trainer.step % LOG_EVERY == 0:
            log.write(trainer.step, **{k: float(np.mean(v)) for k, v in sorted(losses.items())})
            losses = {}
        if trainer.step % SHEET_EVERY == 0 or trainer.step == last:
            largest = lessons.common_size(trainer.step, kind.phases)
            figures = look(trainer, decoder, largest, args.out / f"sheet-{trainer.step}.png", args.judge)
            log.write(trainer.step, height=largest[0], width=largest[1], **figures)
        if time.time() - saved_at > SAVE_SECONDS or trainer.step == last or log.tick() >= until or stop:
            kept = {"trainer": trainer.state_dict(), "encoder": fingerprint, "hours": log.tick()}
            training.save(kept, state)
            trainer.save_weights(args.out / f"{args.kind}-demo.safetensors")
            saved_at = time.time()


if __name__ == "__main__":
    main()
