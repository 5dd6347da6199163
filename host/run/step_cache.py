"""Forecast steps in the host's runs, through its block replacement: on a clone, around what other packs have put there.

Written for ComfyUI 0.30.
"""

from __future__ import annotations

from typing import Any, Callable

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...chroma_model.ops import clamp_fp16
from ...samplers.step_cache import CachedRun, CacheRecord, CacheSettings
from .conds import prompts_of
from .overflow import clamp
from .ranges import acting, add_ranges_of_prompts
from .skip_blocks import num_blocks, replacements

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
        blocks = [(f"{kind}_block", i) for kind, count in counts.items() for i in range(count)]
        for block in blocks:
            patch = CachedBlock(block == blocks[0], block == blocks[-1], before(there.get(block)))
            model.set_model_patch_replace(patch, "dit", *block)
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


def before(patch: Any) -> Any:
    """What stood in a block's place, without an earlier cache."""
    return patch.before if isinstance(patch, CachedBlock) else patch


class Call:
    """One forward: its step, whether it is forecast, and the image's rows after the first block, to which the host's own network
    adds a ControlNet's residuals in place."""

    def __init__(self, step: int | None, sigma: float, keys: tuple[Any, ...], forecast: bool, img: Tensor):
        self.step, self.sigma, self.keys, self.forecast, self.img = step, sigma, keys, forecast, img.clone()


class CachedBlock:
    """The replacement of one block; in a forecast step only the first one runs."""

    def __init__(self, is_first: bool, is_last: bool, before: Any):
        self.is_first, self.is_last, self.before = is_first, is_last, before

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        options = args.get("transformer_options") or {}
        run: CachedRun | None = options.get(CACHE)
        call: Call | None = options.get(NOW)
        if run is None or (call is None and not self.is_first):
            return self.compute(args, extra)
        if self.is_first:
            before = run.sampled(args["img"])
            out = self.compute(args, extra)
            keys = prompts_of(options) or ("one",)
            sigma = float(options["sigmas"][0])
            step, forecast = run.decide(sigma, keys, before, out["img"], acting(options, sigma))
            options[NOW] = Call(step, sigma, keys, forecast, out["img"])
            return out
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

    def compute(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return extra["original_block"](args) if self.before is None else self.before(args, extra)


def image_rows(joint: Tensor, options: dict[str, Any]) -> Tensor:
    """A view of the image's tokens, those of references among them, in text and image together."""
    return joint[:, options["img_slice"][0] :]
