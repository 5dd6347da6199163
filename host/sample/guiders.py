"""Guidance in the host's sampling: a run's own wrappers and functions, which end with the run.

A MODEL carries one wrapper around each run and nothing else; whatever the run needs is put into the copy of its options
that the host makes for it. Written for ComfyUI 0.30.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Callable

import comfy.samplers
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...samplers.guided_run import Guidance, Run, Step
from ..run.conds import PAIRING

KEY = "chroma_guidance"  # of our wrappers on a MODEL and in a run
PAIRINGS = ("auto", "paired", "apart")


@dataclass
class ReadOut:
    """What a run cost and did. Filled while it runs; `finished` is False if it was stopped or failed."""

    cfg: float
    steps: int
    run: Run | None = None
    prompts: int = 0  # conditionings that went through the network
    uncond_prompts: int = 0
    calls: int = 0  # of the network; several prompts may share one
    seconds: float = 0.0
    finished: bool = False
    plain: int | None = None  # prompts that plain CFG computes; None where several conditionings share a side
    notes: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For a picture's metadata: numbers and lists only."""
        run = self.run
        out = {
            "cfg": self.cfg,
            "steps": self.steps,
            "prompts_computed": self.prompts,
            "uncond_computed": self.uncond_prompts,
            "network_calls": self.calls,
            "seconds": round(self.seconds, 3),
            "finished": self.finished,
        }
        if run is not None:
            out |= {
                "evaluations": run.evaluations,
                "steps_zeroed": run.zeroed,
                "uncond_skipped": run.skipped,
                "uncond_extrapolated": run.extrapolated,
                "uncond_stopped_at_step": run.stopped,
                "cosines": [[step, round(value, 5) if math.isfinite(value) else None] for step, value in run.cosines],
            }
        if self.notes:
            out["notes"] = self.notes
        return out

    def text(self) -> str:
        """For a person, on the node."""
        run = self.run
        lines = []
        if run is not None and run.evaluations:
            line = f"{self.steps} steps, cfg {self.cfg:g}: {self.prompts} prompts computed in {self.calls} forwards"
            lines.append(line + (f"; plain CFG computes {self.plain}" if self.plain is not None else ""))
            saved = [
                f"{count} {what}"
                for count, what in (
                    (run.zeroed, "evaluations zeroed"),
                    (run.skipped, "uncond skipped"),
                    (run.extrapolated, "uncond extrapolated"),
                )
                if count
            ]
            if saved:
                lines.append(", ".join(saved))
            if run.stopped is not None:
                lines.append(f"cond and uncond alike from step {run.stopped + 1} on")
            if run.cosines:
                values = [float(value) for _, value in run.cosines]
                lines.append(f"cosine of cond and uncond {values[0]:.3f} to {values[-1]:.3f}, least {min(values):.3f}")
        lines.append(f"{self.seconds:.1f} s, {self.seconds / max(self.steps, 1):.2f} s a step")
        if not self.finished:
            lines.append("stopped before its end")
        return "\n".join([*lines, *self.notes])


class Guided:
    """Guidance on a MODEL. Its wrapper makes a `Run` for every sampling run and takes it away afterwards."""

    def __init__(
        self,
        guidance: Guidance,
        pairing: str = "auto",
        report: Callable[[ReadOut], None] | None = None,
    ):
        """pairing: one of PAIRINGS. report: is told of every run at its end, also of one that fails."""
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing is {pairing!r}; it must be one of {', '.join(PAIRINGS)}")
        self.guidance = guidance
        self.pairing = pairing
        self.report = report
        self.last: ReadOut | None = None

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
        read_out = ReadOut(guider.cfg, len(sigmas) - 1)
        run = Run(self.guidance, sigmas.tolist(), guider.cfg, self.interval(guider.model_patcher))
        read_out.run = run
        own = type(guider).predict_noise
        if own is comfy.samplers.CFGGuider.predict_noise:
            _GuidedRun(run, guider).install(read_out)
        elif self.guidance != Guidance():
            read_out.notes.append(
                f"{type(guider).__name__} combines its prompts by itself: these settings do nothing with it. Use "
                "Chroma CFG Guider"
            )
        if self.pairing != "auto":
            for conds in guider.conds.values():
                for cond in conds:
                    cond[PAIRING] = self.pairing
        counter = counting(read_out)
        add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, counter, guider.model_options, is_model_options=True)
        started = time.perf_counter()
        try:
            out = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            read_out.finished = True
            return out
        finally:
            read_out.seconds = time.perf_counter() - started
            run.cosines = [(step, float(value)) for step, value in run.cosines]  # no tensor outlives the run
            run.known, run.average = [], None
            self.last = read_out
            if self.report is not None:
                self.report(read_out)

    def interval(self, patcher: Any) -> tuple[float, float] | None:
        """Upper and lower sigma between which the scale acts."""
        if self.guidance.percent is None:
            return self.guidance.sigmas
        sampling = patcher.get_model_object("model_sampling")
        start, end = self.guidance.percent
        return float(sampling.percent_to_sigma(start)), float(sampling.percent_to_sigma(end))


def counting(read_out: ReadOut) -> Callable[..., Any]:
    """A DIFFUSION_MODEL wrapper: counts the network's calls and the prompts in each. Put last, it lies inside of caches."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = next((a for a in (*args, *kwargs.values()) if isinstance(a, dict) and "cond_or_uncond" in a), {})
        prompts = options.get("cond_or_uncond", [0])
        read_out.calls += 1
        read_out.prompts += len(prompts)
        read_out.uncond_prompts += sum(p == 1 for p in prompts)
        return executor(*args, **kwargs)

    return wrapper


class _GuidedRun:
    """The functions of one run: they share what the current evaluation is to do."""

    def __init__(self, run: Run, guider: Any):
        self.run = run
        self.guider = guider
        self.now: Step | None = None
        self.sigma = 0.0
        self.read_out: ReadOut | None = None
        negative = guider.conds.get("negative")
        # Whether there is anything to leave out.
        self.guides = negative is not None and (guider.cfg != 1 or run.guidance.curve != "constant")
        self.single = len(guider.conds["positive"]) == 1 and (not self.guides or len(negative) == 1)

    def install(self, read_out: ReadOut) -> None:
        self.read_out = read_out
        read_out.plain = 0 if self.guides and self.single else None
        options = self.guider.model_options
        self.compute = options.get("sampler_calc_cond_batch_function") or compute
        options["sampler_calc_cond_batch_function"] = self.predictions
        changes = self.run.guidance.changes
        if changes:
            if "sampler_cfg_function" in options:
                read_out.notes.append(f"{changes} takes the place of another node's CFG (there can be one): remove one")
            options["sampler_cfg_function"] = self.combined
        add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, self.predict_noise, options, is_model_options=True)

    def predict_noise(self, executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A PREDICT_NOISE wrapper: the host's own CFG, at the scale of this evaluation."""
        self.run.evaluations += 1
        if self.read_out.plain is not None:
            self.read_out.plain += 2
        self.sigma = float(timestep[0])  # waits for the device; once an evaluation
        self.now = now = self.run.step(self.sigma)
        if now.zero:
            self.run.zeroed += 1
            return self.unmoved(x, timestep, args[0] if args else kwargs.get("model_options", {}))
        start = self.guider.cfg  # another node may have set it for this step
        if now.uncond == "skip":
            self.guider.cfg = 1.0
        elif self.run.guidance.curve != "constant":
            self.guider.cfg = now.scale
        try:
            return executor(x, timestep, *args, **kwargs)
        finally:
            self.guider.cfg = start

    def unmoved(self, x: Tensor, timestep: Tensor, options: dict[str, Any]) -> Tensor:
        """x as its own prediction, so that the velocity is 0; a sampler that looks at uncond is shown the same."""
        name = "sampler_post_cfg_function"
        of_nodes = self.guider.model_options.get(name, [])
        of_sampler = {name: [f for f in options.get(name, []) if f not in of_nodes]}
        return comfy.samplers.cfg_function(self.guider.inner_model, x, x, 1.0, x, timestep, of_sampler)

    def predictions(self, args: dict[str, Any]) -> list[Tensor]:
        """A sampler_calc_cond_batch_function: [cond, uncond] denoised; without uncond, cond in its place."""
        run, now, x = self.run, self.now, args["input"]
        cond, uncond = args["conds"]
        wanted = uncond is not None
        if now.uncond != "compute":
            uncond = None
        out = self.compute({**args, "conds": [cond, uncond]})
        if uncond is not None:
            run.learn(now, *out, x, self.sigma)
            return out
        if now.uncond == "extrapolate" and wanted:
            run.extrapolated += 1
            return [out[0], run.uncond(out[0], x, self.sigma)]
        run.skipped += self.guides
        return [out[0], out[0]]

    def combined(self, args: dict[str, Any]) -> Tensor:
        """A sampler_cfg_function: x - denoised."""
        x, cond, uncond = args["input"], args["cond_denoised"], args["uncond_denoised"]
        if self.now.uncond == "skip":
            return x - cond
        return x - self.run.combine(cond, uncond, args["cond_scale"], x, self.sigma)


def compute(args: dict[str, Any]) -> list[Tensor]:
    """What the host does where no node has put its own function."""
    return comfy.samplers.calc_cond_batch(
        args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
    )


class ChromaGuider(comfy.samplers.CFGGuider):
    """The host's CFG guider over a MODEL that carries `Guided`; the negative prompt may be missing at cfg 1."""

    def __init__(self, model: Any, positive: list[Any], negative: list[Any] | None, cfg: float):
        """raises: ValueError where cfg needs a negative prompt and there is none."""
        super().__init__(model)
        found = guided_of(model)
        needs = cfg != 1 or (found is not None and found.guidance.curve != "constant")
        if negative is None and needs and (found is None or found.guidance.skip_first_steps != -1):
            raise ValueError(
                f"cfg is {cfg:g} and there is no negative prompt. Connect one, an empty one if need be, or set cfg to 1"
            )
        self.inner_set_conds(
            {"positive": positive} if negative is None else {"positive": positive, "negative": negative}
        )
        self.set_cfg(cfg)


def guided_of(source: Any) -> Guided | None:
    """The guidance that a MODEL or GUIDER carries."""
    patcher = getattr(source, "model_patcher", source)
    for wrapper in patcher.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        return wrapper.__self__
    return None
