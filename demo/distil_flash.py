"""Distils the demo's Chroma of things: a LoRA that reaches in 6 steps at cfg 1 where its own 18 steps with guidance lead.

Run from the repository's root, in the environment that `python dev.py setup` makes:

    python -m demo.distil_flash [--weights demo/weights/chroma-demo.safetensors] [--out DIR] [--steps 300] [--threads 2]

Each coarse step of the student is FINE steps of the teacher under cfg; the student learns the straight line from where
the teacher begins it to where it ends. Only captions are needed for it, no pictures. State goes to DIR every few minutes and when it is stopped, and the same command
goes on from there. DIR/chroma-demo-flash.safetensors is the LoRA.
Shapes: B pictures, L text rows, D width of the text.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import dev

from . import latents, lessons, network, pictures, scenes, things, train_things, training, words

STEPS, SCHEDULE, BETA = 6, "beta", {"alpha": 0.45, "beta": 0.45}
FINE, CFG = 3, 3.0
RANK, BATCH, SIDE = 16, 12, 128
SHAPES_SHARE, PAIR_SHARE = 0.1, 0.3  # of the captions
PEAK_RATE, WARM_UP = 1e-3, 20
SAVE_SECONDS, LOG_EVERY = 240, 10
FILE = "chroma-demo-flash.safetensors"


def captions(step: int) -> list[str]:
    """What this step's pictures are asked for: things that the model is to know, alone or two beside each other, in styles
    that training showed, and some coloured shapes. No edits: without the picture that they begin with they say nothing."""
    rng, names = np.random.default_rng([5, step]), things.names()[: things.NUM_FIRST]
    found = []
    for _ in range(BATCH):
        kind = rng.random()
        if kind < SHAPES_SHARE:
            found.append(pictures.prompts(lessons.random_shapes(rng))[int(rng.integers(2))])
        else:
            make = scenes.random_pair if kind < SHAPES_SHARE + PAIR_SHARE else scenes.random_single
            found.append(scenes.caption(make(rng, names), rng))
    return found


def sigmas() -> Tensor:
    return dev.load_pack("samplers.schedules").schedule(SCHEDULE, STEPS, BETA, keep_steps=True)


class Lora(nn.Module):
    """Two matrices beside each linear layer of the blocks, the second zero at first; they act while `on` is True."""

    def __init__(self, net: nn.Module, rank: int = RANK):
        super().__init__()
        self.on, self.rank = True, rank
        layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Linear) and "_blocks." in n}
        self.names = list(layers)
        self.down = nn.ParameterList(torch.randn(rank, m.in_features) * m.in_features**-0.5 for m in layers.values())
        self.up = nn.ParameterList(torch.zeros(m.out_features, rank) for m in layers.values())
        for layer, down, up in zip(layers.values(), self.down, self.up):
            layer.register_forward_hook(self._hook(down, up))

    def _hook(self, down: Tensor, up: Tensor) -> Callable[..., Tensor | None]:
        def hook(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
            return out + args[0] @ down.T @ up.T if self.on else None

        return hook

    def file(self) -> dict[str, Tensor]:
        """As a LoRA file, with an alpha that changes nothing."""
        out = {}
        for name, down, up in zip(self.names, self.down, self.up):
            parts = {"lora_A.weight": down, "lora_B.weight": up, "alpha": torch.tensor(float(self.rank))}
            out |= {f"diffusion_model.{name}.{k}": v.detach().half().contiguous() for k, v in parts.items()}
        return out


@torch.no_grad()
def teach(
    net: nn.Module, cond: tuple[Tensor, Tensor], uncond: tuple[Tensor, Tensor], noise: Tensor, levels: Sequence[float]
) -> list[Tensor]:
    """The teacher's states at every level, from the noise on: Euler under cfg, FINE steps from one level to the next.

    cond: rows (B, L, D) and mask; uncond: the same for one empty prompt.
    """
    states = [noise]
    for begin, end in zip(levels, levels[1:]):
        x = states[-1]
        fine = np.linspace(begin, end, FINE + 1).tolist()
        for s, s_next in zip(fine, fine[1:]):
            v = velocity(net, x, s, cond)
            empty = velocity(net, x, s, tuple(part.expand(len(x), *part.shape[1:]) for part in uncond))
            x = x + (s_next - s) * (empty + CFG * (v - empty))
        states.append(x)
    return states


def velocity(net: nn.Module, x: Tensor, sigma: float | Tensor, cond: tuple[Tensor, ...]) -> Tensor:
    t = sigma if torch.is_tensor(sigma) else torch.full((len(x),), sigma)
    return net(x, t, cond[0], context_mask=cond[1])


class Distiller:
    """One LoRA on one net. text: captions -> rows and mask."""

    def __init__(self, net: nn.Module, text: Callable[[list[str]], tuple[Tensor, Tensor]]):
        self.net, self.text = net.requires_grad_(False), text
        torch.manual_seed(0)
        self.lora = Lora(net)
        self.optimiser = torch.optim.AdamW(self.lora.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        self.step, self.levels = 0, sigmas().tolist()

    def advance(self, steps: int, side: int = SIDE) -> float:
        """One step of so many; gives its loss: the mean square of what the student's line misses."""
        rate = training.rate(self.step, WARM_UP, (steps // 2, steps - steps // 2))
        training.set_rate([self.optimiser], PEAK_RATE * rate)
        cond, uncond = self.text(captions(self.step)), self.text([""])
        generator = torch.Generator().manual_seed(2_000_003 + self.step)
        shape = (BATCH, latents.CHANNELS, side // latents.BLOCK, side // latents.BLOCK)
        self.lora.on = False
        states = teach(self.net, cond, uncond, torch.randn(shape, generator=generator), self.levels)
        self.lora.on = True
        total = 0.0
        self.optimiser.zero_grad(set_to_none=True)
        for (begin, end), x, wanted in zip(zip(self.levels, self.levels[1:]), states, states[1:]):
            line = (wanted - x) / (end - begin)
            loss = nn.functional.mse_loss(velocity(self.net, x, begin, cond), line) / STEPS
            loss.backward()
            total += loss.item()
        self.optimiser.step()
        self.step += 1
        return total

    def state_dict(self) -> dict[str, Any]:
        return {"lora": self.lora.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.lora.load_state_dict(saved["lora"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step = saved["step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=dev.ROOT / "demo" / "weights" / "chroma-demo.safetensors")
    parser.add_argument("--out", type=Path, default=things.folder() / "flash")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)

    net = network.build(train_things.KINDS["chroma"].sizes)
    net.load_state_dict({k: v.float() for k, v in load_file(args.weights).items()})
    encoder, tokenize = words.TextEncoder(), words.tokenizer()
    distiller = Distiller(net, lambda texts: encoder.encode(tokenize(texts)))
    log, state = training.Log(args.out / "log.csv"), args.out / "state.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        distiller.load_state_dict(saved["distiller"])
        log.hours = saved["hours"]
    losses, saved_at, stop = [], time.time(), training.StopRequest()
    while distiller.step < args.steps and not stop:
        losses.append(distiller.advance(args.steps))
        if distiller.step % LOG_EVERY == 0:
            log.write(distiller.step, loss=float(np.mean(losses)))
            losses = []
        if time.time() - saved_at > SAVE_SECONDS or distiller.step == args.steps or stop:
            training.save({"distiller": distiller.state_dict(), "hours": log.tick()}, state)
            metadata = {"title": "demo Flash LoRA of things", "license": "Apache-2.0", "steps": str(distiller.step)}
            save_file(distiller.lora.file(), args.out / FILE, metadata=metadata)
            saved_at = time.time()


if __name__ == "__main__":
    main()
