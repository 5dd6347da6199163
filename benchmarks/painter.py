"""The demo's studio with any sampler, schedule, shift and guidance; what a setting paints and costs."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor

from demo import exam

from . import two_seeds
from .likeness import sharpness
from .measure import Kept
from .predictors import predicting

BATCH = 16


@dataclass(frozen=True)
class Setting:
    """guidance: values of `samplers/guided_run.Guidance`; none for the host's plain CFG. cache: of `samplers/step_cache`.
    predictor: of `predictors.py`, in the place of its line.
    host_cache: name and threshold of one of the host's caches."""

    steps: int
    cfg: float
    sampler: str
    schedule: str  # a curve of ours, or the host's name for one
    params: Mapping[str, float] = field(default_factory=dict)
    shift: float = 1.0
    guidance: Mapping[str, Any] = field(default_factory=dict)
    cache: Mapping[str, Any] = field(default_factory=dict)
    predictor: str = ""
    host_cache: tuple[str, float] | None = None

    def schedule_text(self) -> str:
        params = "/".join(f"{v:g}" for v in self.params.values())
        return f"{self.schedule}{' ' + params if params else ''}"

    def text(self) -> str:
        return f"{self.schedule_text()} | {self.shift:.3g}"


class Painting(NamedTuple):
    """Of all questions with one seed, in their order. pictures, verdicts: see `two_seeds.Answers`. latents: (B, C, h, w).
    forwards: prompts computed for one picture, those of a forecast step for the share of their blocks. seconds: of one
    processor for one picture, with decoding."""

    pictures: np.ndarray
    verdicts: np.ndarray
    latents: np.ndarray
    forwards: float
    seconds: float

    def shares(self) -> dict[str, float]:
        return two_seeds.Answers(self.pictures, self.verdicts).shares()

    def distance(self, exact: Painting) -> float:
        """Of the latents to other ones, relative; the mean over the pictures."""
        off, size = ((a.reshape(len(a), -1)) for a in (self.latents - exact.latents, exact.latents))
        return float((np.linalg.norm(off, axis=1) / np.linalg.norm(size, axis=1)).mean())

    def sharpness(self, exact: Painting) -> float:
        return sharpness(self.pictures, exact.pictures)


class Painter:
    """Paints what is asked with both seeds."""

    def __init__(self, studio: Any, asked: Sequence[exam.Question]):
        import dev

        self.studio, self.asked, self.base = studio, two_seeds.both(asked), studio.model
        self.ours, self.curves = dev.load_pack("host.sample.samplers"), dev.load_pack("samplers.schedules")
        self.guiders, self.guided_run = dev.load_pack("host.sample.guiders"), dev.load_pack("samplers.guided_run")
        self.step_cache, self.caches = dev.load_pack("samplers.step_cache"), dev.load_pack("host.run.step_cache")

    def model(self, s: Setting) -> Any:
        from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

        (model,) = ModelSamplingAuraFlow().patch_aura(self.base, s.shift)
        if s.cache:
            model = self.caches.StepCache(self.step_cache.CacheSettings(**s.cache)).on(model)
        if s.host_cache:
            from comfy.patcher_extension import WrappersMP
            from comfy_extras import nodes_easycache

            name, threshold = s.host_cache
            model = model.clone()
            model.add_wrapper(WrappersMP.DIFFUSION_MODEL, with_input_of_its_own)  # around the cache's
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

    def paint_all(self, s: Setting) -> list[Painting]:
        """Of both seeds."""
        return [self.paint_one(s, asked) for asked in self.asked]

    def paint_one(self, s: Setting, asked: list[exam.Question]) -> Painting:
        latents: list[Tensor] = []
        model, sigmas, sampler = self.model(s), self.sigmas(s), self.sampler(s.sampler)

        def paint(texts: list[str], seeds: list[int], cfg: float, steps: int, size: int) -> np.ndarray:
            studio, side = self.studio, size // 8
            noise = torch.cat(
                [torch.randn(1, 16, side, side, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
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

        started = time.process_time()
        with rows_through(model.model.diffusion_model) as rows, predicting(self.step_cache, s.predictor):
            found = dict(self.studio.answers(asked, s.cfg, BATCH, paint=paint))
        seconds = (time.process_time() - started) / len(asked)
        painted = list(found)
        order = [painted.index(question) for question in asked]
        answers = two_seeds.judged(asked, found)
        return Painting(*answers, torch.cat(latents).numpy()[order], forwards(rows) / len(asked), seconds)

    def warm_up(self) -> None:
        """Encodes the prompts and loads the model."""
        self.paint_all(Setting(1, 2.0, "euler", "linear"))

    def paint_once(self, kept: Kept, s: Setting) -> list[Painting]:
        """`paint_all`, from the cache if it was painted before: what rows are compared with."""
        return kept.painted(Painting, s, lambda: self.paint_all(s))


def with_input_of_its_own(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """EasyCache adds to its input in place, which in float32 is the tensor that the denoised is then taken from; in 16 bits the
    host has made a copy, and so does this."""
    return executor(x.clone(), *args, **kwargs)


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
