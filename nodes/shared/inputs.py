"""Inputs that several nodes have, each written once."""

from __future__ import annotations

import math
from typing import Any, Mapping

from comfy_api.latest import io
from torch import Tensor

from ...constants import counted
from ...samplers.schedules import CURVES, MAX_STEPS, Parameter

CATEGORY = "sampling/chroma"
SETTINGS = io.Custom("CHROMA_SETTINGS")  # an `advice.user_changes.Settings`
TOKEN_SIDE = 16  # an image token is 16 x 16 pixels
MAX_SEED = 2**64 - 1
SHARE = "Share of the run, 0 to 1."
NOISE = "Chooses the noise: the same seed and settings give the same picture."
STEPS = "Number of steps. Chroma1-HD: 26 to 40."
CFG = (
    "How strongly the picture is moved from the negative prompt to the positive one. 1: not at all, at half the cost. "
    "Chroma1-HD: 3 to 4; Flash: 1."
)
LAST_STEPS = (
    "Below 1: only the last steps of a longer schedule (steps / denoise), to start from a picture. As in ComfyUI's "
    "Basic Scheduler."
)
MADE_ANEW = "Below 1: how much of the picture in the latent is made anew."


# --- kinds of inputs -------------------------------------------------------------------------------------------------


def number(
    name: str, default: float, low: float, high: float, step: float | None, tooltip: str, **more: Any
) -> io.Input:
    """A number's widget; for whole numbers if the default is an int."""
    kind = io.Int if isinstance(default, int) else io.Float
    return kind.Input(name, default=default, min=low, max=high, step=step, tooltip=tooltip, **more)


def number_input(p: Parameter) -> io.Input:
    """The widget of a curve's parameter."""
    more = {} if p.is_integer else {"round": False}
    return number(p.name, p.default, p.low, p.high, p.step, p.meaning, **more)


def parameters(curve: str) -> list[io.Input]:
    return [number_input(p) for p in CURVES[curve].parameters]


def choice(name: str, tooltip: str, options: Mapping[str, list[io.Input]], **more: Any) -> io.Input:
    """A menu whose choices have their own inputs."""
    made = [io.DynamicCombo.Option(key, inputs) for key, inputs in options.items()]
    return io.DynamicCombo.Input(name, options=made, tooltip=tooltip, **more)


def share(name: str, default: float, tooltip: str = SHARE, **more: Any) -> io.Input:
    """A number from 0 to 1, such as where in a run something starts or ends."""
    return number(name, default, 0.0, 1.0, 0.01, tooltip, **more)


# --- inputs ----------------------------------------------------------------------------------------------------------


def model_input(
    tooltip: str = "The schedule is taken from this model's own sigmas, with its shift.", **more: Any
) -> io.Input:
    return io.Model.Input("model", tooltip=tooltip, **more)


def positive_input(**more: Any) -> io.Input:
    return io.Conditioning.Input("positive", tooltip="What the picture should show.", **more)


def negative_input(**more: Any) -> io.Input:
    return io.Conditioning.Input(
        "negative", optional=True, tooltip="What the picture should not show; may be left out at cfg 1.", **more
    )


def seed_input(tooltip: str = NOISE, **more: Any) -> io.Input:
    return number("seed", 0, 0, MAX_SEED, None, tooltip, control_after_generate=True, **more)


def steps_input(default: int = 26, tooltip: str = STEPS) -> io.Input:
    return number("steps", default, 1, MAX_STEPS, None, tooltip)


def cfg_input(default: float = 3.5, tooltip: str = CFG) -> io.Input:
    return number("cfg", default, 0.0, 100.0, 0.1, tooltip, round=0.01)


def denoise_input(tooltip: str = MADE_ANEW, **more: Any) -> io.Input:
    return share("denoise", 1.0, tooltip, **more)


def skip_first_steps_input(**more: Any) -> io.Input:
    tooltip = "In this many first steps only the positive prompt is computed, at half the cost. 0: none; -1: all steps."
    return number("skip_first_steps", 0, -1, MAX_STEPS, None, tooltip, display_name="skip first steps", **more)


def switches() -> list[io.Input]:
    """The inputs that all schedulers end with."""
    return [
        denoise_input(LAST_STEPS, optional=True),
        io.Boolean.Input(
            "pin_first",
            default=False,
            optional=True,
            display_name="pin first",
            tooltip="Starts at the model's largest sigma. Without it sigmoid_offset starts at 0.982, where the model "
            "already expects 1.8 % of a picture; most other curves start at the largest anyway.",
        ),
        io.Boolean.Input(
            "keep_steps",
            default=False,
            optional=True,
            display_name="keep steps",
            tooltip="Gives exactly as many steps as asked for. Without it a long schedule loses steps at its ends, "
            "where neighbours fall on the same sigma of the model. Has an effect on beta, sigmoid_offset and "
            "power_shift.",
        ),
    ]


def sigmas_output() -> io.Output:
    return io.Sigmas.Output(tooltip="For Sampler Custom and Chroma Sigmas Plot.")


# --- what several nodes compute ---------------------------------------------------------------------------------------


def latent_size(model: Any, latent: Mapping[str, Any]) -> dict[str, int]:
    """Width and height in pixels of a LATENT's picture, rounded up to whole tokens."""
    ratio = latent.get("downscale_ratio_spacial") or model.get_model_object("latent_format").spacial_downscale_ratio
    height, width = (math.ceil(n * ratio / TOKEN_SIDE) * TOKEN_SIDE for n in latent["samples"].shape[-2:])
    return {"width": width, "height": height}


def summary(sigmas: Tensor, steps: int) -> str:
    """A line about a schedule. steps: the number that was asked for."""
    if len(sigmas) < 2:
        return "no steps (denoise 0)"
    num = len(sigmas) - 1
    line = (
        f"{counted(num, 'step')}, sigma {sigmas[0]:.3f} to {sigmas[-2]:.3f}, {int((sigmas[:-1] > 0.5).sum())} above 0.5"
    )
    if num < steps:
        line += f" ({steps - num} repeats dropped; keep steps keeps them)"
    return line
