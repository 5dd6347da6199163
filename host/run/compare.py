"""The activations of MODELs in runs of the host: written down, and compared with another MODEL's or a file's.

Written for ComfyUI 0.30.
"""

from __future__ import annotations

from typing import Any, Mapping

import comfy.utils
import torch
from torch import Tensor

from ...chroma_model.block_lists import Block
from ...chroma_model.padding import is_text_mask, padding_mask, pull_together
from ...constants import STYLE_MASK
from ...loaders.checkpoint.activations import GUIDANCE, OUTPUT, Differences, block_name
from ...loaders.checkpoint.run_weights import Sink
from .probe import Predict, Replacement, in_run, sigmas_of, trajectory
from .skip_blocks import num_blocks


class RecordedBlock:
    """The replacement of one block: what is there runs as before, and what it gives is told."""

    def __init__(self, block: Block, is_first: bool, before: Any, sink: Sink):
        self.block, self.is_first, self.before, self.sink = block, is_first, before, sink

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        kind, index = self.block
        if self.is_first and kind == "double":
            self.sink("embed.img", args["img"])
            self.sink("embed.txt", args["txt"])
        out = extra["original_block"](args) if self.before is None else self.before(args, extra)
        img, txt = out["img"], out.get("txt")
        if kind == "single":
            num_txt = args["transformer_options"]["img_slice"][0]
            img, txt = img[:, num_txt:], img[:, :num_txt]
        self.sink(block_name(kind, index, "img"), img)
        self.sink(block_name(kind, index, "txt"), txt)
        return out


# In a conditioning: what the network is given beside latent, text and guidance.
BESIDE = {
    "reference_latents": "references",
    "concat_latent_image": "a picture beside the latent",
    "control": "a ControlNet",
}


def recording(model: Any, sink: Sink) -> dict[Block, Replacement]:
    """Replacements of all blocks of a MODEL that tell what each gives."""
    blocks = [(kind, i) for kind, count in num_blocks(model).items() for i in range(count)]
    return {b: lambda before, b=b: RecordedBlock(b, b[1] == 0, before, sink) for b in blocks}


def shown_text(text: Tensor, options: Mapping[str, Any]) -> Tensor:
    """The first prompt's tokens that its mask lets the network see, (1, L, K)."""
    text, mask = text[:1], options.get("attention_mask")
    if mask is None or STYLE_MASK in options or not is_text_mask(mask, text):
        return text
    return pull_together(text, padding_mask(text, mask[:1] if mask.ndim > 1 else mask))[0]


def record(
    model: Any, positive: list[Any], latent: Mapping[str, Any], steps: int, seed: int
) -> list[dict[str, Tensor]]:
    """Inputs and activations of a MODEL at each step of an Euler run from noise, on the CPU in the type it computes in.

    The text of the inputs is what the first entry of the conditioning holds.
    """

    text = shown_text(*positive[0]).float().cpu()
    guidance = positive[0][1].get("guidance", getattr(model.model, "default_guidance", None))

    levels = sigmas_of(model, steps)

    def work(predict: Predict, x: Tensor) -> list[dict[str, Tensor]]:
        bar, out = comfy.utils.ProgressBar(steps), []
        for at, sigma, _ in trajectory(predict, x, levels):
            point = {"input.x": at.cpu(), "input.timestep": torch.tensor([sigma])}
            point["input.context"] = text
            if guidance is not None:
                point[GUIDANCE] = torch.tensor([float(guidance)])

            def keep(name: str, value: Tensor, point: dict[str, Tensor] = point) -> None:
                point[name] = value.detach().to("cpu", copy=True)

            keep(OUTPUT, predict(at, sigma, recording(model, keep)))
            out.append(point)
            bar.update(1)
        return out

    return in_run(model, positive, latent, seed, levels, work)


def check_alone(model: Any, positive: list[Any]) -> None:
    """raises: ValueError where the network is given more than a file of activations holds."""
    config = getattr(model.model.diffusion_model, "config", None)
    more = [what for name, what in BESIDE.items() if name in positive[0][1]]
    if config is not None and config.channels != config.latent_channels:
        more.append("a picture beside the latent")
    if more:
        raise ValueError(
            f"the model is given {more[0]}, which files of activations do not hold. Compare it with a reference, without a file"
        )


def compare(model: Any, positive: list[Any], points: list[Mapping[str, Tensor]], seed: int = 0) -> Differences:
    """How far a MODEL's activations are from those of `points`, given the same x, timestep and text.

    positive: the text; points: from `record` of another MODEL, or one from a file.
    """

    def work(predict: Predict, noise: Tensor) -> Differences:
        found = Differences()
        bar = comfy.utils.ProgressBar(len(points))
        for point in points:

            def tell(name: str, value: Tensor, point: Mapping[str, Tensor] = point) -> None:
                if name in point:
                    found.add(name, value, point[name])

            x = point["input.x"].to(noise)
            tell(OUTPUT, predict(x, float(point["input.timestep"]), recording(model, tell)))
            bar.update(1)
        return found

    size = {"samples": torch.zeros_like(points[0]["input.x"], dtype=torch.float32)}
    levels = sorted((float(point["input.timestep"]) for point in points), reverse=True)
    return in_run(model, positive, size, seed, levels, work)
