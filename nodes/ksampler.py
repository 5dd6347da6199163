"""Chroma KSampler: shift, schedule, guider and sampler in one node."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import Any, Callable, Mapping

import comfy.samplers
import torch
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced
from torch import Tensor

from ..advice.doctor import warnings
from ..advice.presets import CHOICES
from ..advice.queued_graph import Graph
from ..advice.queued_run import runs
from ..advice.recognise_preset import Recognition
from ..advice.run_costs import savings_text
from ..advice.user_changes import Settings, facts, head_of, settle
from ..constants import AS_TRAINED, BY_RESOLUTION, CUSTOM, FIXED, FROM_MODEL, TRAINED, Lines
from ..host.run.sigma_table import sampling_of
from ..host.sample.apply_preset import applied, known
from ..host.sample.guiders import GuidancePatch, chroma_guider, own_guidance, patch_on
from ..host.sample.shift import CURVE, shifted
from ..samplers.guided_run import Guidance
from ..samplers.run_record import RunRecord
from ..samplers.schedules import CURVES, schedule
from .guidance import wanted
from .preset import recognised
from .shared import before_run
from .shared.checked_node import CheckedNode
from .shared.inputs import (
    CATEGORY,
    SETTINGS,
    cfg_input,
    choice,
    denoise_input,
    latent_size,
    model_input,
    negative_input,
    number_input,
    positive_input,
    seed_input,
    skip_first_steps_input,
    steps_input,
    summary,
)
from .shared.metadata import put
from .shared.report import only_tell, report, running_graph, show, title

SHIFTS = {AS_TRAINED: TRAINED, FIXED: FIXED, BY_RESOLUTION: BY_RESOLUTION, FROM_MODEL: None}
FIXED_SHIFT = dataclasses.replace(CURVES[CURVE[FIXED]].parameters[0], name="value")
SHIFT = (
    "Moves steps towards high noise. 1: none, as Chroma was trained. by resolution: FLUX's, larger for larger pictures. "
    "from the model: what a node before this one has set, else ComfyUI's 3.16."
)
OWN_SHIFT = ("flux_shift", "fixed_shift")  # curves with a shift of their own, beside the node's


def schedules() -> list[str]:
    """Names for the menu: our curves, then the host's schedules of other names."""
    ours = [name for name in CURVES if name not in OWN_SHIFT]
    return [*ours, *(name for name in comfy.samplers.KSampler.SCHEDULERS if name not in CURVES)]


def sampler_input() -> io.Input:
    return io.Combo.Input(
        "sampler",
        options=comfy.samplers.KSampler.SAMPLERS,
        default="res_multistep",
        tooltip="How the steps are computed. Chroma1-HD: res_multistep or euler; Flash: heun, with 8 steps.",
    )


def schedule_input() -> io.Input:
    return io.Combo.Input(
        "schedule",
        options=schedules(),
        default="beta",
        tooltip="How the noise falls over the steps. beta is the usual one; sigmoid_offset, bong_tangent and linear are "
        "good too.",
    )


def sigmas_of(model: Any, name: str, steps: int, denoise: float) -> Tensor:
    """The schedule of this name on the model's own sigmas, as Chroma Scheduler or Basic Scheduler makes it."""
    sampling = sampling_of(model)
    if name in CURVES:
        return schedule(name, steps, {}, sampling.sigmas, denoise=denoise)
    if denoise == 0:
        return torch.empty(0)
    total = steps if denoise == 1 else int(steps / denoise)
    return comfy.samplers.calculate_sigmas(sampling, name, total).cpu()[-(steps + 1) :]


def sigmas_on_cpu(model: Any) -> Tensor:
    """A model that was loaded has its own on its device."""
    return sampling_of(model).sigmas.cpu()


def with_shift(model: Any, latent: Mapping[str, Any], label: str, value: float) -> tuple[Any, str]:
    """A clone with the shift that a label of SHIFTS means, or the model itself; and a line about the shift."""
    mode = SHIFTS[label]
    if mode is None:
        return model, "the model's own shift"
    params = {"shift": value} if mode == FIXED else latent_size(model, latent) if mode == BY_RESOLUTION else {}
    clone, shift = shifted(model, mode, **params)
    line = f"shift {shift:.3f}"
    if "model_sampling" in model.object_patches:
        # an equal one is none; where that cannot be told, nothing is said
        is_equal = only_tell("Chroma KSampler", lambda: torch.equal(*map(sigmas_on_cpu, (model, clone))))
        if not is_equal:
            line += f", in place of the shift of a node before this one; to keep that one, choose {FROM_MODEL!r}"
    return clone, line


def with_guidance(
    model: Any,
    skip_first_steps: int,
    savings: Mapping[str, Any],
    told: Callable[[RunRecord], None],
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Any, GuidancePatch]:
    """A clone with the model's own guidance, and that guidance. told: is called with each run's record.

    skip_first_steps: replaces that of the guidance, unless it is 0.
    savings:          fields of Guidance, for a model that has none.
    facts:            what the records say beside what was computed, plain values only.
    """
    found = patch_on(model)
    guidance = Guidance(**savings) if found is None else found.guidance
    if skip_first_steps:
        guidance = dataclasses.replace(guidance, skip_first_steps=skip_first_steps)

    def tell(record: RunRecord) -> None:
        told(record)
        if found is not None:  # from a node before this one, which shows the run as well
            found.last = record
            if found.report is not None:
                found.report(record)

    patch = GuidancePatch(guidance, "auto" if found is None else found.pairing, tell, facts)
    return patch.on(model), patch


def warned(node: type[io.ComfyNode], model: Any) -> list[str]:
    """What the Doctor's rules say on the running node's own values."""
    graph, node_id = running_graph(), str(node.hidden.unique_id)
    variant, file = known(model)
    return warnings(graph, {"node": node_id, "variant": variant, "file": file}, node_id) if node_id in graph else []


def cfg_of_graph(node: type[io.ComfyNode]) -> float | None:
    """The running node's cfg as far as the graph tells before a file is read; None where it does not surely."""
    node_id = str(node.hidden.unique_id)
    run = next((run for run in runs(Graph(running_graph()), {}) if run.node == node_id), None)
    return run.cfg if run is not None and run.found.sure else None


def settings_of(
    node: type[io.ComfyNode], model: Any, latent: Mapping[str, Any], quality: str
) -> tuple[Settings, Recognition]:
    """The settings of a choice of quality for a MODEL, and what it was recognised as.

    raises: ValueError for flash, where the model is not made for few steps.
    """
    found = recognised(model, node.hidden.unique_id)
    return settle(found.name, choice=quality, reason=found.reason, **latent_size(model, latent)), found


def keep(
    node: type[io.ComfyNode],
    model: Any,
    latent: Mapping[str, Any],
    record: RunRecord,
    sampler: str,
    cfg: float,
    savings: Mapping[str, Any],
    skip_first_steps: int,
) -> None:
    """Keeps what a run has cost, for what is told before the next one."""
    before_run.keep(
        running_graph(),
        str(node.hidden.unique_id),
        model,
        record,
        **latent_size(model, latent),
        batch=len(latent["samples"]),
        sampler=sampler,
        guided=cfg != 1,
        savings=savings_text(savings, skip_first_steps, record.steps),
    )


class ChromaKSampler(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaKSampler",
            display_name="Chroma KSampler",
            category=CATEGORY,
            description="Makes a picture with settings that suit Chroma: timestep shift, schedule, guidance and "
            "sampler in one node. Shows what the run cost, and writes it into the saved picture.",
            search_aliases=["KSampler", "sample", "txt2img", "img2img", "skip_first_steps", "shift"],
            inputs=[
                model_input("A Chroma model. It is not changed.", lazy=True),
                positive_input(lazy=True),
                negative_input(lazy=True),
                io.Latent.Input(
                    "latent", tooltip="An empty latent, or a picture to start from, with or without a mask.", lazy=True
                ),
                seed_input(),
                steps_input(),
                cfg_input(),
                sampler_input(),
                schedule_input(),
                choice(
                    "shift",
                    SHIFT,
                    {label: [number_input(FIXED_SHIFT)] if label == FIXED else [] for label in SHIFTS},
                ),
                denoise_input(),
                skip_first_steps_input(),
                io.Combo.Input(
                    "quality",
                    options=[CUSTOM, *CHOICES],
                    default=CUSTOM,
                    optional=True,
                    tooltip="custom: the values above. The others take steps, cfg, sampler, schedule and shift from the "
                    "checkpoint that is recognised. standard: half of its preset's steps with chroma_sigma_2m. draft: a "
                    "third. quality: all of them with chroma_sigma_3m. flash: for a Flash checkpoint or LoRA.",
                ),
                SETTINGS.Input(
                    "settings",
                    optional=True,
                    tooltip="From Chroma Preset, Chroma Speed or Chroma Flash: their values in place of those above.",
                    lazy=True,
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The finished latent, for VAE Decode.")],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def check_lazy_status(cls, **given: Any) -> list[str]:
        if given.get("quality", CUSTOM) != CUSTOM or "settings" in given:
            given["cfg"] = only_tell(title(cls), lambda: cfg_of_graph(cls), "")
        return wanted(cls, given)

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list[Any],
        latent: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler: str,
        schedule: str,
        shift: Mapping[str, Any] | str | None = None,  # no mapping if the host does not know the key
        denoise: float = 1.0,
        skip_first_steps: int = 0,
        negative: list[Any] | None = None,
        quality: str = CUSTOM,
        settings: Settings | None = None,
    ) -> io.NodeOutput:
        advice = only_tell(title(cls), lambda: Lines(warned(cls, model)), "")
        if advice:
            show(title(cls), cls.hidden.unique_id, advice)  # now, while the run lasts
        loaded, found = model, None
        if settings is None and quality != CUSTOM:
            settings, found = settings_of(cls, model, latent, quality)
        if settings is None:
            values = dict(shift) if isinstance(shift, Mapping) else {"shift": shift}
            label = values.get("shift")
            model, shift_line = with_shift(model, latent, label, values.get("value", FIXED_SHIFT.default))
            sigmas = sigmas_of(model, schedule, steps, denoise)
            head = f"{schedule}: {summary(sigmas, steps)}; {shift_line}"
            if schedule in CURVES and not CURVES[schedule].from_table and label not in (AS_TRAINED, FROM_MODEL):
                head += f". {schedule} does not use the shift; simple and beta do"
            method, name, savings, more = comfy.samplers.sampler_object(sampler), sampler, {}, {}
        else:
            head = head_of(settings, found, own_guidance(model))
            model, method, sigmas = applied(model, settings, denoise)
            name, cfg, savings = settings.sampler, settings.cfg, settings.savings
            more = {"settings": facts(settings)}
            head += f"\n{summary(sigmas, settings.steps)}"
        head = Lines([advice, *head.split("\n")]) if advice else head

        def told(record: RunRecord) -> None:
            report(cls, lambda: record.text(head))
            # `loaded`, not the model that holds this function: a circle of references looks like a leak to the host
            only_tell(title(cls), lambda: keep(cls, loaded, latent, record, name, cfg, savings, skip_first_steps))

        model, patch = with_guidance(model, skip_first_steps, savings, told, more)
        guider = chroma_guider(model, positive, negative, cfg)
        noise = RandomNoise.execute(seed)[0]
        out = SamplerCustomAdvanced.execute(noise, guider, method, sigmas, latent)[0]
        if patch.last is None:
            report(cls, head)
        else:
            only_tell(title(cls), lambda: put(cls.hidden.extra_pnginfo, cls.hidden.unique_id, patch.last.facts()))
        return io.NodeOutput(out)
