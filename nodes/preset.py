"""Chroma Preset: settings that fit the checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import comfy.samplers
from comfy_api.latest import io

from ..advice.presets import PRESETS
from ..advice.queued_graph import Graph
from ..advice.queued_run import recognise_chain
from ..advice.recognise_preset import Recognition
from ..advice.user_changes import settle, tell
from ..constants import FROM_PRESET
from ..host.sample import samplers as comfy_samplers
from ..host.sample.apply_preset import SIZE, applied, known
from ..host.sample.shift import CURVE
from ..samplers.schedules import CURVES, MAX_STEPS
from .shared.checked_node import CheckedNode
from .shared.inputs import CATEGORY, SETTINGS, number_input, summary
from .shared.report import report, running_graph

AUTO = "auto"
VALUE = "value"  # key of a shift's number in the menu `shift`, where the key `shift` has the choice
MAX_SIDE = 16384


def own_parameters(curve: str) -> list[io.Input]:
    """The widgets of a curve's parameters, without the picture's size."""
    return [
        number_input(dataclasses.replace(p, name=VALUE) if p.name == "shift" else p)
        for p in CURVES[curve].parameters
        if p.name not in SIZE
    ]


def recognised(model: Any, node_id: str | None) -> Recognition:
    """The preset for a MODEL, for the node of this id. Only the graph that is executed has the names of LoRAs, and the file of
    a model from the host's loader."""
    variant, file = known(model)
    graph, node = Graph(running_graph()), str(node_id)
    chain = graph.model_chain(node) if node in graph.nodes else []
    path = graph.file(chain)  # with the folder
    return recognise_chain(graph, chain, variant, path if path.endswith(file) else file)


def choice(value: Mapping[str, Any] | str | None, name: str) -> tuple[str | None, dict[str, Any]]:
    """A DynamicCombo's choice and its values; the choice is None for FROM_PRESET."""
    values = dict(value) if isinstance(value, Mapping) else {name: value}
    chosen = values.pop(name, None)
    if VALUE in values:
        values["shift"] = values.pop(VALUE)
    return (None if chosen == FROM_PRESET else chosen), values


class ChromaPreset(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        samplers = dict.fromkeys([FROM_PRESET, *comfy_samplers.SAMPLERS, *comfy.samplers.SAMPLER_NAMES])
        return io.Schema(
            node_id="ChromaPreset",
            display_name="Chroma Preset",
            category=CATEGORY,
            description="Recognises the checkpoint and gives settings that fit it, each with its source: steps, cfg, "
            "sampler, schedule, shift and size. Change any of them here.",
            search_aliases=["settings", "recommended", "defaults", "flash", "steps", "sampler", "sigmas", "resolution"],
            inputs=[
                io.Model.Input("model", tooltip="A Chroma model, with its LoRAs on it."),
                io.Combo.Input(
                    "preset",
                    options=[AUTO, *PRESETS],
                    default=AUTO,
                    tooltip="auto: recognised by the loader's report, the LoRAs and the file's name; the node shows "
                    "which preset and why. Or choose one.",
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=MAX_STEPS, optional=True, tooltip="Number of steps. 0: the preset's."
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    optional=True,
                    tooltip="How strongly the picture follows the prompt; 1: no guidance, in half the time. 0: the "
                    "preset's.",
                ),
                io.Combo.Input(
                    "sampler",
                    options=list(samplers),
                    default=FROM_PRESET,
                    optional=True,
                    tooltip="How the steps are computed. chroma_res_2m and chroma_res_2s are of second order.",
                ),
                io.DynamicCombo.Input(
                    "schedule",
                    optional=True,
                    options=[
                        io.DynamicCombo.Option(FROM_PRESET, []),
                        *(io.DynamicCombo.Option(name, own_parameters(name)) for name in CURVES),
                    ],
                    tooltip="How the noise level falls from step to step; see Chroma Scheduler.",
                ),
                io.DynamicCombo.Input(
                    "shift",
                    optional=True,
                    options=[
                        io.DynamicCombo.Option(FROM_PRESET, []),
                        *(io.DynamicCombo.Option(m, own_parameters(c) if c else []) for m, c in CURVE.items()),
                    ],
                    tooltip="The model's timestep shift; see Chroma Timestep Shift. shift 1: none, as Chroma was "
                    "trained.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=MAX_SIDE,
                    step=16,
                    optional=True,
                    tooltip="Width of the picture in pixels, in steps of 16. 0: the preset's.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=MAX_SIDE,
                    step=16,
                    optional=True,
                    tooltip="Height of the picture in pixels, in steps of 16. 0: the preset's.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Below 1: only the last steps of a longer schedule (steps / denoise), to start from a "
                    "picture.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the shift, for a guider or sampler."),
                io.Sampler.Output(tooltip="For Sampler Custom."),
                io.Sigmas.Output(tooltip="The schedule, for Sampler Custom."),
                io.Int.Output(display_name="steps", tooltip="Number of steps, for a KSampler."),
                io.Float.Output(display_name="cfg", tooltip="For Chroma CFG Guider or a KSampler."),
                io.Int.Output(display_name="width", tooltip="For an empty latent, in pixels."),
                io.Int.Output(display_name="height", tooltip="For an empty latent, in pixels."),
                SETTINGS.Output(display_name="settings", tooltip="All of them but the size, for Chroma KSampler."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        preset: str = AUTO,
        steps: int = 0,
        cfg: float = 0.0,
        sampler: str = FROM_PRESET,
        schedule: Mapping[str, Any] | str | None = None,
        shift: Mapping[str, Any] | str | None = None,
        width: int = 0,
        height: int = 0,
        denoise: float = 1.0,
    ) -> io.NodeOutput:
        found = recognised(model, cls.hidden.unique_id)
        curve, params = choice(schedule, "schedule")
        mode, shift_params = choice(shift, "shift")
        settings = settle(
            found.name if preset == AUTO else preset,
            steps=steps,
            cfg=cfg,
            sampler=None if sampler == FROM_PRESET else sampler,
            curve=curve,
            params=params,
            shift=mode,
            shift_params=shift_params,
            width=width,
            height=height,
        )
        clone, sampler_object, sigmas = applied(model, settings, denoise)
        report(cls, lambda: f"{tell(settings, found, chosen=preset != AUTO)}\n{schedule_line(sigmas, settings.steps)}")
        size = (settings.width, settings.height)
        return io.NodeOutput(clone, sampler_object, sigmas, settings.steps, settings.cfg, *size, settings)


def schedule_line(sigmas: Any, steps: int) -> str:
    line = summary(sigmas, num_steps := max(len(sigmas) - 1, 0))
    if 0 < num_steps < steps:
        line += f"; the model has too few noise levels there for {steps}"
    return line
