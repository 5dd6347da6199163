"""Forecast steps in the host's runs, through its block replacement: on a clone, around what other packs have put there.

Written for ComfyUI 0.30.
"""

from __future__ import annotations

import copy
from typing import Any, Callable

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...chroma_model.ops import clamp_fp16
from ...samplers.step_cache import CachedRun, CacheRecord, CacheSettings
from .conds import prompts_of
from .overflow import clamp
from .ranges import acting, add_ranges_of_prompts
from .skip_blocks import chain, is_left_out, num_blocks, replacements

CACHE = "chroma_step_cache"  # in transformer_options for a run: its CachedRun; also the key of the wrapper
NOW = "chroma_step_cache_now"  # in transformer_options for a forward: its Call


class StepCache:
    def __init__(self, settings: CacheSettings, report: Callable[[CacheRecord], None] | None = None):
        """report: gets every run's record at its end, also if the run fails."""
        self.settings, self.report = settings, report

    def on(self, model: Any) -> Any:
        """A clone of the MODEL. raises: ValueError if it is no Chroma or FLUX."""
        counts = num_blocks(model)
        model = model.clone()
        there = replacements(model)
        pruned = getattr(getattr(model.model.diffusion_model, "config", None), "left_out", frozenset())
        blocks = [(kind, i) for kind, count in counts.items() for i in range(count)]
        for kind, i in blocks:
            name = f"{kind}_block"
            patch = CachedBlock((kind, i) == blocks[-1], without_cache(there.get((name, i))), (kind, i) in pruned)
            model.set_model_patch_replace(patch, "dit", name, i)
        model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, CACHE)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, CACHE, self.sample_wrapper)
        return model

    def sample_wrapper(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """An OUTER_SAMPLE wrapper: the state is this run's own, and gone after it."""
        function = getattr(sampler, "sampler_function", None)
        run = CachedRun(self.settings, sigmas.tolist(), getattr(function, "__name__", ""))
        options = executor.class_obj.model_options.setdefault("transformer_options", {})
        options[CACHE] = run
        add_ranges_of_prompts(executor.class_obj)
        try:
            return executor(noise, latent, sampler, sigmas, *args, **kwargs)
        finally:
            options.pop(CACHE, None)
            run.end()
            if self.report is not None:
                self.report(run.record)


def without_cache(patch: Any) -> Any:
    """What stands in a block's place, without an earlier cache, which others of ours may stand around."""
    if not any(isinstance(p, CachedBlock) for p in chain(patch)):
        return patch
    if isinstance(patch, CachedBlock):
        return without_cache(patch.before)
    patch = copy.copy(patch)
    patch.before = without_cache(patch.before)
    return patch


class Call:
    """One forward: its step, whether it is forecast, and the image's rows after the first block, to which the host's own network
    adds a ControlNet's residuals in place."""

    def __init__(self, step: int | None, sigma: float, keys: tuple[Any, ...], forecast: bool, img: Tensor):
        self.step, self.sigma, self.keys, self.forecast, self.img = step, sigma, keys, forecast, img.clone()


class CachedBlock:
    """The replacement of one block; in a forecast step only the first one that is not left out runs."""

    def __init__(self, is_last: bool, before: Any, is_pruned: bool = False):
        self.is_last, self.before, self.is_pruned = is_last, before, is_pruned

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        options = args.get("transformer_options") or {}
        run: CachedRun | None = options.get(CACHE)
        call: Call | None = options.get(NOW)
        if run is None:
            return self.compute(args, extra)
        if call is None:
            return self.begin(run, options, args, extra)
        if not call.forecast:
            out = self.compute(args, extra)
            if self.is_last:
                run.learn(call.step, call.sigma, call.keys, clamp_fp16(image_rows(out["img"], options) - call.img))
            return out
        if not self.is_last:
            return {name: args[name] for name in ("img", "txt") if name in args}
        joint = args["img"].clone()
        img = call.img + run.forecast(call.sigma, call.keys)  # float32
        image_rows(joint, options).copy_(clamp(img.to(joint.dtype), options))
        return {"img": joint}

    def begin(
        self, run: CachedRun, options: dict[str, Any], args: dict[str, Any], extra: dict[str, Any]
    ) -> dict[str, Any]:
        """Before any block has run."""
        if self.is_last or self.is_pruned or is_left_out(self.before, options, extra):
            return self.compute(args, extra)
        before = run.sampled(image_rows(args["img"], options))
        out = self.compute(args, extra)
        keys = prompts_of(options) or ("one",)
        sigma, img = float(options["sigmas"][0]), image_rows(out["img"], options)
        step, forecast = run.decide(sigma, keys, before, img, acting(options, sigma))
        options[NOW] = Call(step, sigma, keys, forecast, img)
        return out

    def compute(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return extra["original_block"](args) if self.before is None else self.before(args, extra)


def image_rows(tokens: Tensor, options: dict[str, Any]) -> Tensor:
    """A view of the image's tokens, those of references among them; in single blocks they follow the text's."""
    return tokens[:, options["img_slice"][0] :] if options["block_type"] == "single" else tokens
