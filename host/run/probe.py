"""Forwards of a MODEL that make no picture: inside of a run of the host, so that loading, offload, LoRAs, hooks and wrappers are
those of any run. For ComfyUI 0.30."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...chroma_model.block_lists import Block
from .conds import GUIDANCE
from .sigma_table import sampling_of
from .skip_blocks import SkippedBlock, SkippedBlocks, num_blocks, skipped_on
from .step_cache import CACHE

Replacement = Callable[[Any], Any]  # what stands in for a block already, or None -> what shall
# (x (B, C, H, W), sigma, block -> its replacement) -> velocity (B, C, H, W)
Predict = Callable[..., Tensor]


def in_run(
    model: Any,
    positive: list[Any],
    latent: Mapping[str, Any],
    seed: int,
    levels: Sequence[float],
    work: Callable[[Predict, Tensor], Any],
) -> Any:
    """What `work` gives, which is called once inside of a run at cfg 1, with a `Predict` and noise (B, C, H, W).

    latent: a LATENT, of which the size counts alone.
    levels: the run's sigmas, by which a LoRA that begins within a run knows when. Guidance and forecasts on the MODEL, which
            would decide what is computed, are left out.
    """
    found = []
    model = model.clone()
    for key in (GUIDANCE, CACHE):
        model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, key)

    def sampler(network: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
        def predict(x: Tensor, sigma: float, replace: Mapping[Block, Replacement] = {}) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
            there = options.get("transformer_options", {}).get("patches_replace", {}).get("dit", {})
            for (kind, index), made in replace.items():
                name = f"{kind}_block"
                options = comfy.model_patcher.set_model_options_patch_replace(
                    options, made(there.get((name, index))), "dit", name, index
                )
            denoised = network(x, x.new_full((x.shape[0],), sigma), **{**extra_args, "model_options": options})
            return (x - denoised) / sigma

        found.append(work(predict, x))
        return x

    ratio = latent.get("downscale_ratio_spacial")
    empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros_like(latent["samples"][:1]), ratio)
    noise = comfy.sample.prepare_noise(empty, seed)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    sigmas = torch.tensor([*levels[: -1 if levels[-1] == 0 else None], 0.0])
    guider.sample(noise, empty, comfy.samplers.KSAMPLER(sampler), sigmas, disable_pbar=True, seed=seed)
    return found[0]


def sigmas_of(model: Any, count: int) -> list[float]:
    """The sigmas at which `count` steps of the model's own schedule begin."""
    return comfy.samplers.calculate_sigmas(sampling_of(model), "simple", count).tolist()


def trajectory(predict: Predict, x: Tensor, sigmas: list[float]) -> list[tuple[Tensor, float, Tensor]]:
    """(x, sigma, velocity) of each step from noise on, by Euler's method: what a network sees in a real run."""
    out = []
    for sigma, following in zip(sigmas, sigmas[1:]):
        velocity = predict(x, sigma)
        out.append((x, sigma, velocity))
        x = x + (following - sigma) * velocity
    return out


def relative(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance of a from b."""
    b = b.float()
    return float((a.float() - b).norm() / b.norm().clamp_min(torch.finfo(torch.float32).tiny))


def skip_all(blocks: frozenset[Block]) -> dict[Block, Replacement]:
    skipped = SkippedBlocks(blocks)
    return {block: lambda before: SkippedBlock(skipped, before) for block in blocks}


def measure_blocks(
    model: Any, positive: list[Any], latent: Mapping[str, Any], steps: int, seed: int, count: int = 0
) -> tuple[dict[Block, float], float]:
    """How much each block of a MODEL matters: the relative change of the velocity when it alone is left out.

    steps:   the mean is taken over the x and sigmas of an Euler run of so many.
    count:   of how many of the least to measure the change when all of them are left out together.
    returns: block -> mean relative L2 change, without blocks that are left out already; and that of the least together.
    """
    counts = num_blocks(model)
    gone = skipped_on(model)[0] | getattr(getattr(model.model.diffusion_model, "config", None), "left_out", frozenset())
    blocks = [b for kind in counts for i in range(counts[kind]) if (b := (kind, i)) not in gone]

    levels = sigmas_of(model, steps)

    def work(predict: Predict, x: Tensor) -> tuple[dict[Block, float], float]:
        points = trajectory(predict, x, levels)
        bar = comfy.utils.ProgressBar(len(blocks))

        def change(left_out: frozenset[Block]) -> float:
            replace = skip_all(left_out)
            return sum(relative(predict(x, sigma, replace), v) for x, sigma, v in points) / len(points)

        found = {}
        for block in blocks:
            found[block] = change(frozenset({block}))
            bar.update(1)
        least = least_of(found, count)
        return found, change(least) if least else 0.0

    return in_run(model, positive, latent, seed, levels, work)


def least_of(changes: Mapping[Block, float], count: int) -> frozenset[Block]:
    """The blocks that matter least."""
    return frozenset(sorted(changes, key=lambda block: (changes[block], block))[:count])
