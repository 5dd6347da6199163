"""Nodes that give SIGMAS: one for each of the usual curves, and one for all."""

from __future__ import annotations

import math
from typing import Any, Mapping

from comfy_api.latest import io
from torch import Tensor

from ..samplers.sigmas import CURVES, MAX_STEPS, Parameter, schedule
from .report import report

CATEGORY = "sampling/chroma"
TOKEN_SIDE = 16  # pixels of a side that one image token stands for


def number_input(p: Parameter) -> io.Input:
    """The widget of a curve's parameter."""
    numbers = dict(default=p.default, min=p.low, max=p.high, step=p.step, tooltip=p.meaning)
    return io.Int.Input(p.name, **numbers) if p.is_integer else io.Float.Input(p.name, round=False, **numbers)


def parameters(curve: str) -> list[io.Input]:
    return [number_input(p) for p in CURVES[curve].parameters]


def model_input() -> io.Input:
    return io.Model.Input("model", tooltip="Its own sigmas, with its shift, are what the schedule is taken from.")


def steps_input() -> io.Input:
    return io.Int.Input("steps", default=26, min=1, max=MAX_STEPS, tooltip="Number of steps. Chroma1-HD: 26 to 40.")


def switches() -> list[io.Input]:
    return [
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="Below 1: the last steps of a longer schedule of steps / denoise, for a picture to start from. As in "
            "ComfyUI's Basic Scheduler.",
        ),
        io.Boolean.Input(
            "pin_first",
            default=False,
            optional=True,
            display_name="pin first",
            tooltip="Start at the model's greatest sigma. sigmoid_offset starts at 0.982 without it, where the model "
            "expects 1.8 % of a picture already; most others start at the greatest anyhow.",
        ),
        io.Boolean.Input(
            "keep_steps",
            default=False,
            optional=True,
            display_name="keep steps",
            tooltip="Give exactly as many steps as asked for. Without it a long schedule loses steps at its ends, where "
            "neighbours are the same sigma of the model. Has an effect on beta, sigmoid_offset and power_shift.",
        ),
    ]


def sigmas_output() -> io.Output:
    return io.Sigmas.Output(tooltip="For Sampler Custom and Chroma Sigmas Plot.")


def summary(sigmas: Tensor, steps: int) -> str:
    """A line on a schedule, for whoever asked for so many steps."""
    if len(sigmas) < 2:
        return "no steps (denoise 0)"
    num = len(sigmas) - 1
    line = f"{num} steps, sigma {sigmas[0]:.3f} to {sigmas[-2]:.3f}, {int((sigmas[:-1] > 0.5).sum())} above 0.5"
    if num < steps:
        line += f" ({steps - num} repeats dropped; keep steps keeps them)"
    return line


def make(
    node: type[io.ComfyNode],
    model: Any,
    curve: str,
    steps: int,
    params: Mapping[str, float],
    **options: Any,
) -> io.NodeOutput:
    """The node's output, with a line on it shown on the node."""
    table = model.get_model_object("model_sampling").sigmas
    sigmas = schedule(curve, steps, params, table, **options)
    report(node, summary(sigmas, steps))
    return io.NodeOutput(sigmas)


class ChromaSigmoidOffsetScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaSigmoidOffsetScheduler",
            display_name="Chroma Sigmoid Offset Scheduler",
            category=CATEGORY,
            description="A schedule along a logistic curve, with more steps at both ends than in the middle.",
            search_aliases=["sigmoid_offset", "SigmoidOffsetScheduler", "sigmas"],
            inputs=[model_input(), steps_input(), *parameters("sigmoid_offset"), *switches()],
            outputs=[sigmas_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        steps: int,
        square_k: float,
        base_c: float,
        denoise: float = 1.0,
        pin_first: bool = False,
        keep_steps: bool = False,
    ) -> io.NodeOutput:
        params = {"square_k": square_k, "base_c": base_c}
        options = dict(denoise=denoise, pin_first=pin_first, keep_steps=keep_steps)
        return make(cls, model, "sigmoid_offset", steps, params, **options)


class ChromaBetaScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaBetaScheduler",
            display_name="Chroma Beta Scheduler",
            category=CATEGORY,
            description="ComfyUI's beta schedule with alpha, beta and denoise, and the number of steps kept if wanted.",
            search_aliases=["BetaSamplingScheduler", "beta57", "sigmas"],
            inputs=[model_input(), steps_input(), *parameters("beta"), *switches()],
            outputs=[sigmas_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        steps: int,
        alpha: float,
        beta: float,
        denoise: float = 1.0,
        pin_first: bool = False,
        keep_steps: bool = False,
    ) -> io.NodeOutput:
        params = {"alpha": alpha, "beta": beta}
        options = dict(denoise=denoise, pin_first=pin_first, keep_steps=keep_steps)
        return make(cls, model, "beta", steps, params, **options)


def latent_size(model: Any, latent: Mapping[str, Any]) -> dict[str, int]:
    """Width and height in pixels of the picture that a LATENT stands for, whole tokens."""
    ratio = latent.get("downscale_ratio_spacial") or model.get_model_object("latent_format").spacial_downscale_ratio
    height, width = (math.ceil(n * ratio / TOKEN_SIDE) * TOKEN_SIDE for n in latent["samples"].shape[-2:])
    return {"width": width, "height": height}


class ChromaScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        more = {
            "flux_shift": [
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Where connected, the size of its picture replaces width and height.",
                )
            ]
        }
        return io.Schema(
            node_id="ChromaScheduler",
            display_name="Chroma Scheduler",
            category=CATEGORY,
            description="A schedule along a curve of your choice, each with its own parameters.",
            search_aliases=["sigmas", "bong_tangent", "power_shift", "karras", "exponential", "linear", "flux shift"],
            inputs=[
                model_input(),
                io.DynamicCombo.Input(
                    "curve",
                    options=[io.DynamicCombo.Option(name, [*parameters(name), *more.get(name, [])]) for name in CURVES],
                    tooltip="; ".join(f"{name}: {curve.meaning[:-1]}" for name, curve in CURVES.items()),
                ),
                steps_input(),
                *switches(),
            ],
            outputs=[sigmas_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        curve: Mapping[str, Any] | str | None = None,  # no dict where the key is not known to the host
        steps: int = 26,
        denoise: float = 1.0,
        pin_first: bool = False,
        keep_steps: bool = False,
    ) -> io.NodeOutput:
        values = dict(curve) if isinstance(curve, Mapping) else {"curve": curve}
        name = values.pop("curve", None)
        latent = values.pop("latent", None)
        if latent is not None:
            values.update(latent_size(model, latent))
        options = dict(denoise=denoise, pin_first=pin_first, keep_steps=keep_steps)
        return make(cls, model, name, steps, values, **options)
