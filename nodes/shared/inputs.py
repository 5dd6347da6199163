"""Inputs that several nodes have, each written once."""

from __future__ import annotations

import math
from typing import Any, Mapping

from comfy_api.latest import io
from torch import Tensor

from ...samplers.schedules import CURVES, MAX_STEPS, Parameter

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


def cfg_input() -> io.Float.Input:
    return io.Float.Input(
        "cfg",
        default=3.5,
        min=0.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip="How strongly the picture is moved from the negative prompt to the positive one. 1: not at all, "
        "at half the cost. Chroma1-HD: 3 to 4; Flash: 1.",
    )


def latent_size(model: Any, latent: Mapping[str, Any]) -> dict[str, int]:
    """Width and height in pixels of the picture that a LATENT stands for, whole tokens."""
    ratio = latent.get("downscale_ratio_spacial") or model.get_model_object("latent_format").spacial_downscale_ratio
    height, width = (math.ceil(n * ratio / TOKEN_SIDE) * TOKEN_SIDE for n in latent["samples"].shape[-2:])
    return {"width": width, "height": height}


def summary(sigmas: Tensor, steps: int) -> str:
    """A line on a schedule, for whoever asked for so many steps."""
    if len(sigmas) < 2:
        return "no steps (denoise 0)"
    num = len(sigmas) - 1
    line = f"{num} steps, sigma {sigmas[0]:.3f} to {sigmas[-2]:.3f}, {int((sigmas[:-1] > 0.5).sum())} above 0.5"
    if num < steps:
        line += f" ({steps - num} repeats dropped; keep steps keeps them)"
    return line
