"""Guidance in the host's sampling: wrappers and functions that belong to one run and end with it.

A MODEL carries only one wrapper, around each run. All else goes into the copy of the model's options that the host
makes for the run. Written for ComfyUI 0.30.
"""

from __future__ import annotations

import functools
import time
from typing import Any, Callable, Mapping

import comfy.samplers
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...samplers.guided_run import COMPUTE, CONSTANT, EXTRAPOLATE, SHOW, Guidance, GuidedRun
from ...samplers.run_record import RunRecord
from ..run.conds import GUIDANCE as KEY
from ..run.conds import PAIRING
from ..run.ranges import acting, add_ranges_of_prompts, prompts_at
from .peak_memory import PeakMemory

PAIRINGS = ("auto", "paired", "apart")
NO_NEGATIVE = "cfg is {:g} and there is no negative prompt. Connect one, an empty one if need be, or set cfg to 1"
NO_NEGATIVE_OF_CURVE = (
    "cfg follows the curve {} and there is no negative prompt. Connect one, an empty one if need be, or set curve to {}"
)
POST_CFG, NO_CFG1 = "sampler_post_cfg_function", "disable_cfg1_optimization"  # ComfyUI's, in model_options


class GuidancePatch:
    """Guidance on a MODEL. Its wrapper makes a `GuidedRun` for every sampling run, and ends it afterwards."""

    def __init__(
        self,
        guidance: Guidance,
        pairing: str = "auto",
        report: Callable[[RunRecord], None] | None = None,
        facts: Mapping[str, Any] | None = None,
    ):
        """pairing: one of PAIRINGS. report: gets every run's record at its end, also if the run fails.

        facts: what the records say beside what was computed, plain values only.
        """
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing is {pairing!r}; it must be one of {', '.join(PAIRINGS)}")
        self.guidance = guidance
        self.pairing = pairing
        self.report = report
        self.facts = dict(facts or {})
        self.last: RunRecord | None = None

    def on(self, model: Any) -> Any:
        """A clone of the MODEL with this guidance in place of any that it has."""
        model = model.clone()
        model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self.sample_wrapper)
        return model

    def sample_wrapper(
        self,
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """An OUTER_SAMPLE wrapper: `guider.model_options` and `guider.conds` are this run's own copies."""
        guider = executor.class_obj
        interval = self.interval(guider.model_patcher)
        started = time.perf_counter()
        run = GuidedRun(self.guidance, sigmas.tolist(), guider.cfg, interval, sampler_name(sampler))
        record = run.record
        record.more = self.facts
        if type(guider).predict_noise is comfy.samplers.CFGGuider.predict_noise:
            install(run, guider, started)
        elif self.guidance != Guidance():
            record.notes.append(
                f"{type(guider).__name__} combines its prompts by itself: these settings do nothing with it. Use "
                "Chroma CFG Guider"
            )
        if self.pairing != "auto":
            for conds in guider.conds.values():
                for cond in conds:
                    cond[PAIRING] = self.pairing
        counter = functools.partial(count, record)
        add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, counter, guider.model_options, is_model_options=True)
        memory = PeakMemory(guider.model_patcher)
        args, kwargs = with_steps_counted(record, started, memory.look, args, kwargs)
        try:
            out = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            record.finished = True
            return out
        finally:
            record.seconds, record.memory = time.perf_counter() - started, memory.look()
            run.end()
            self.last = record
            if self.report is not None:
                self.report(record)

    def interval(self, patcher: Any) -> tuple[float, float] | None:
        """Upper and lower sigma between which the scale acts."""
        if self.guidance.percent is None:
            return self.guidance.sigmas
        sampling = patcher.get_model_object("model_sampling")
        start, end = self.guidance.percent
        return float(sampling.percent_to_sigma(start)), float(sampling.percent_to_sigma(end))


def with_steps_counted(
    record: RunRecord, started: float, look: Callable[[], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of OUTER_SAMPLE after the sigmas (denoise_mask, callback, ...), with a callback that counts steps.

    look: called at the end of each.
    """
    given = args[1] if len(args) > 1 else kwargs.get("callback")

    def callback(step: int, *more: Any) -> Any:
        record.step_done(step, time.perf_counter() - started)
        look()
        return None if given is None else given(step, *more)

    if len(args) > 1:
        return (args[0], callback, *args[2:]), kwargs
    return args, {**kwargs, "callback": callback}


def sampler_name(sampler: Any) -> str:
    """ComfyUI's name of a sampler object: that of its function without `sample_`."""
    function = getattr(sampler, "sampler_function", None)
    return getattr(function, "__name__", "").removeprefix("sample_")


# --- functions of one run, which the host calls; they share `run` ----------------------------------------------------


def install(run: GuidedRun, guider: Any, started: float) -> None:
    """Puts a run's functions into the guider's options, which are this run's own copy. started: by the clock of `time`."""
    negative = guider.conds.get("negative")
    run.guides = negative is not None and (guider.cfg != 1 or run.guidance.curve != "constant")
    single = len(guider.conds["positive"]) == 1 and (not run.guides or len(negative) == 1)
    run.record.plain = 0 if run.guides and single else None
    add_ranges_of_prompts(guider)
    options = guider.model_options
    base = options.get("sampler_calc_cond_batch_function") or compute
    options["sampler_calc_cond_batch_function"] = functools.partial(predictions, run, base)
    changes = run.guidance.changes
    if changes:
        if "sampler_cfg_function" in options:
            run.record.notes.append(
                f"{changes} takes the place of another node's CFG, since a model can have only one. Remove one of them"
            )
        options["sampler_cfg_function"] = functools.partial(combined, run)
    wrapper = functools.partial(predict_noise, run, guider, started)
    add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, wrapper, options, is_model_options=True)


def predict_noise(
    run: GuidedRun, guider: Any, started: float, executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """A PREDICT_NOISE wrapper: the host's own CFG, at the scale of this evaluation."""
    options = args[0] if args else kwargs.get("model_options", {})
    sigma = float(timestep[0])  # waits for the device; once an evaluation
    acts = prompts_at(guider, sigma), acting(options.get("transformer_options", {}), sigma)
    now = run.begin(sigma, uses_uncond(guider, options), acts)
    run.record.evaluation_begins(time.perf_counter() - started)
    if now.zero:
        return unmoved(guider, x, timestep, options)
    start = guider.cfg  # another node may have set it for this step
    if now.alone:
        guider.cfg = 1.0
    elif run.guidance.curve != "constant":
        guider.cfg = now.scale
    try:
        return executor(x, timestep, *args, **kwargs)
    finally:
        guider.cfg = start


def of_sampler(guider: Any, options: dict[str, Any]) -> list[Any]:
    """The functions after CFG that the sampler itself has added, without those of MODEL patches."""
    of_nodes = guider.model_options.get(POST_CFG, [])
    return [f for f in options.get(POST_CFG, []) if f not in of_nodes]


def uses_uncond(guider: Any, options: dict[str, Any]) -> bool:
    """Whether the sampler itself uses uncond, as those with `_cfg_pp` do; patches that use it do not count."""
    asks = options.get(NO_CFG1, False) and not guider.model_options.get(NO_CFG1, False)
    return bool(asks or of_sampler(guider, options))


def unmoved(guider: Any, x: Tensor, timestep: Tensor, options: dict[str, Any]) -> Tensor:
    """Gives x as the prediction, so that the velocity is 0; a sampler that uses uncond gets x for it too."""
    shown = {POST_CFG: of_sampler(guider, options)}
    return comfy.samplers.cfg_function(guider.inner_model, x, x, 1.0, x, timestep, shown)


def predictions(run: GuidedRun, base: Callable[[dict[str, Any]], list[Tensor]], args: dict[str, Any]) -> list[Tensor]:
    """A sampler_calc_cond_batch_function: [cond, uncond] denoised; without uncond, cond in its place.

    base: the function that computes them, the host's or another node's.
    """
    now, x = run.now, args["input"]
    cond, uncond = args["conds"]
    if uncond is not None and now.uncond in (COMPUTE, SHOW):
        out = base(args)
        run.learn(now, *out, x, run.sigma)
        return out
    out = base({**args, "conds": [cond, None]})
    if uncond is not None and now.uncond == EXTRAPOLATE:
        run.record.extrapolated += 1
        return [out[0], run.expected(out[0], run.sigma)]
    run.record.skipped += run.guides
    return [out[0], out[0]]


def combined(run: GuidedRun, args: dict[str, Any]) -> Tensor:
    """A sampler_cfg_function: x - denoised."""
    x, cond, uncond = args["input"], args["cond_denoised"], args["uncond_denoised"]
    if run.now.alone:
        return x - cond
    return x - run.combine(cond, uncond, args["cond_scale"], x, run.sigma)


def count(record: RunRecord, executor: Any, *args: Any, **kwargs: Any) -> Any:
    """A DIFFUSION_MODEL wrapper: counts the network's calls and their prompts. Added last, it runs inside of caches."""
    options = next((a for a in (*args, *kwargs.values()) if isinstance(a, dict) and "cond_or_uncond" in a), {})
    prompts = options.get("cond_or_uncond", [0])
    record.calls += 1
    record.prompts += len(prompts)
    record.uncond_prompts += sum(p == 1 for p in prompts)
    return executor(*args, **kwargs)


def compute(args: dict[str, Any]) -> list[Tensor]:
    """What the host does if no node has set a function of its own."""
    return comfy.samplers.calc_cond_batch(
        args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
    )


# --- what nodes use --------------------------------------------------------------------------------------------------


def chroma_guider(model: Any, positive: list[Any], negative: list[Any] | None, cfg: float) -> comfy.samplers.CFGGuider:
    """The host's CFG guider for a MODEL that may carry a `GuidancePatch`; negative may be missing at cfg 1.

    raises: ValueError where cfg needs a negative prompt and there is none.
    """
    patch = patch_on(model)
    curve = CONSTANT if patch is None else patch.guidance.curve
    if negative is None and (patch is None or patch.guidance.skip_first_steps != -1):
        if cfg != 1:
            raise ValueError(NO_NEGATIVE.format(cfg))
        if curve != CONSTANT:
            raise ValueError(NO_NEGATIVE_OF_CURVE.format(curve, CONSTANT))
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive} if negative is None else {"positive": positive, "negative": negative})
    guider.set_cfg(cfg)
    return guider


def own_guidance(model: Any) -> dict[str, Any] | None:
    """The values of the guidance that a MODEL carries, or None."""
    patch = patch_on(model)
    return None if patch is None else vars(patch.guidance)


def patch_on(source: Any) -> GuidancePatch | None:
    """The guidance that a MODEL or GUIDER carries, or None."""
    patcher = getattr(source, "model_patcher", source)
    for wrapper in patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        return wrapper.__self__
    return None
