"""The demo's studio with any sampler, schedule, shift and guidance; what a setting paints and costs."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Mapping, NamedTuple

import numpy as np
import torch
from torch import Tensor

BATCH = 16


@dataclass(frozen=True)
class Setting:
    """guidance: values of `samplers/guided_run.Guidance`; none for the host's plain CFG. cache: of `samplers/step_cache`.
    host_cache: name and threshold of one of the host's caches."""

    steps: int
    cfg: float
    sampler: str
    schedule: str  # a curve of ours, or the host's name for one
    params: Mapping[str, float] = field(default_factory=dict)
    shift: float = 1.0
    guidance: Mapping[str, Any] = field(default_factory=dict)
    cache: Mapping[str, Any] = field(default_factory=dict)
    host_cache: tuple[str, float] | None = None

    def schedule_text(self) -> str:
        params = "/".join(f"{v:g}" for v in self.params.values())
        return f"{self.schedule}{' ' + params if params else ''}"

    def text(self) -> str:
        return f"{self.schedule_text()} | {self.shift:.3g}"


class Painting(NamedTuple):
    """Of all questions, in their order. pictures: (B, H, W, 3) in [0, 1]. latents: (B, C, h, w). right: share of them.
    forwards: prompts computed for one picture, those of a forecast step for the share of their blocks. seconds: of one processor for one picture, with decoding."""

    pictures: np.ndarray
    latents: Tensor
    right: float
    forwards: float
    seconds: float


class Painter:
    def __init__(self, studio: Any, asked: list[Any]):
        import dev

        self.studio, self.asked, self.base = studio, asked, studio.model
        self.ours, self.curves = dev.load_pack("host.sample.samplers"), dev.load_pack("samplers.schedules")
        self.guiders, self.guided_run = dev.load_pack("host.sample.guiders"), dev.load_pack("samplers.guided_run")
        self.step_cache, self.caches = dev.load_pack("samplers.step_cache"), dev.load_pack("host.run.step_cache")

    def model(self, s: Setting) -> Any:
        from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

        (model,) = ModelSamplingAuraFlow().patch_aura(self.base, s.shift)
        if s.cache:
            model = self.caches.StepCache(self.step_cache.CacheSettings(**s.cache)).on(model)
        if s.host_cache:
            from comfy_extras import nodes_easycache

            name, threshold = s.host_cache
            model = getattr(nodes_easycache, f"{name}Node").execute(model, threshold, 0.15, 0.95, False).args[0]
        if s.guidance:
            model = self.guiders.GuidancePatch(self.guided_run.Guidance(**s.guidance)).on(model)
        return model

    def sigmas(self, s: Setting) -> Tensor:
        sampling = self.model(s).get_model_object("model_sampling")
        if s.schedule in self.curves.CURVES:
            return self.curves.schedule(s.schedule, s.steps, s.params, sampling.sigmas, keep_steps=True)
        return self.studio.comfy.samplers.calculate_sigmas(sampling, s.schedule, s.steps)

    def sampler(self, name: str) -> Any:
        return (
            self.ours.sampler(name) if name in self.ours.SAMPLERS else self.studio.comfy.samplers.sampler_object(name)
        )

    def paint_all(self, s: Setting) -> Painting:
        latents: list[Tensor] = []

        model = self.model(s)
        sigmas, sampler = self.sigmas(s), self.sampler(s.sampler)

        def paint(texts: list[str], seeds: list[int], cfg: float, **_: Any) -> np.ndarray:
            studio = self.studio
            noise = torch.cat(
                [torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            )
            positive = [[torch.cat([studio.text(text) for text in texts]), {}]]
            latent = studio.comfy.sample.sample_custom(
                model,
                noise,
                cfg,
                sampler,
                sigmas,
                positive,
                [[studio.text(""), {}]],
                torch.zeros_like(noise),
                disable_pbar=True,
                seed=seeds[0],
            )
            latents.append(latent)
            return studio.vae.decode(latent).clamp(0, 1).float().cpu().numpy()

        self.studio.paint = paint
        started = time.process_time()
        with rows_through(model.model.diffusion_model) as rows:
            answers = list(self.studio.answers(self.asked, s.cfg, BATCH, s.steps))
        seconds = (time.process_time() - started) / len(answers)
        right = float(np.mean([question.verdict(picture)["right"] for question, picture in answers]))
        pictures = np.stack([picture for _, picture in answers])
        return Painting(pictures, torch.cat(latents), right, forwards(rows) / len(answers), seconds)


@contextlib.contextmanager
def rows_through(network: Any) -> Iterator[list[int]]:
    """Counts the rows that pass each block of a network."""
    blocks = [*network.double_blocks, *network.single_blocks]
    rows = [0] * len(blocks)

    def hook(i: int) -> Callable[..., None]:
        def count(block: Any, args: Any, kwargs: Mapping[str, Any], out: Any) -> None:
            rows[i] += (out[0] if isinstance(out, tuple) else out).shape[0]

        return count

    handles = [block.register_forward_hook(hook(i), with_kwargs=True) for i, block in enumerate(blocks)]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def forwards(rows: list[int]) -> float:
    """Forwards of one prompt that would have computed as many blocks."""
    return sum(rows) / len(rows)
