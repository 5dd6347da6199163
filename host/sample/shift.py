"""A MODEL with another timestep shift. Written for ComfyUI 0.30."""

from __future__ import annotations

import math
from typing import Any

import comfy.model_base
import comfy.model_sampling

from ...constants import BY_RESOLUTION, FIXED, TRAINED
from ...samplers.schedules import CURVES, PIXELS_PER_TOKEN, check_parameters, flux_mu

CURVE = {TRAINED: None, FIXED: "fixed_shift", BY_RESOLUTION: "flux_shift"}  # mode -> whose parameters it takes


class ShiftedFlow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """sigma = s t / (1 + (s - 1) t), 1000 sigmas; as the host's ModelSamplingAuraFlow."""


class FluxFlow(comfy.model_sampling.ModelSamplingFlux, comfy.model_sampling.CONST):
    """sigma = e^mu / (e^mu + 1/t - 1), 10000 sigmas; as the host's ModelSamplingFlux."""


def shifted(model: Any, mode: str, **params: float) -> tuple[Any, float]:
    """A clone of the model with another shift, and that shift. Its network gets t in [0, 1], as Chroma needs it.

    params: those of the mode's curve; those left out have their defaults.
    raises: ValueError for a mode that is not known, bad parameters, and a model that is not Chroma or a kin of FLUX.
    """
    if mode not in CURVE:
        raise ValueError(f"mode {mode!r} is not known. Choose one of: {', '.join(CURVE)}")
    if not isinstance(model.model, comfy.model_base.Flux):
        raise ValueError(
            f"the model is {type(model.model).__name__}; this node is for Chroma, whose network takes times from 0 to 1. "
            "Use ComfyUI's own ModelSampling nodes for other models"
        )
    curve = CURVE[mode]
    if curve is not None:
        params = {**CURVES[curve].defaults, **params}
        check_parameters(curve, params)
    if mode == BY_RESOLUTION:
        tokens = params["width"] * params["height"] / PIXELS_PER_TOKEN
        mu = flux_mu(tokens, params["base_shift"], params["max_shift"])
        sampling, shift = FluxFlow(model.model.model_config), math.exp(mu)
        sampling.set_parameters(shift=mu)
    else:
        shift = params["shift"] if mode == FIXED else 1.0
        sampling = ShiftedFlow(model.model.model_config)
        sampling.set_parameters(shift=shift, multiplier=1.0)  # Chroma multiplies by 1000 itself
    noise_scale = getattr(model.get_model_object("model_sampling"), "noise_scale", None)
    if noise_scale is not None:
        sampling.noise_scale = noise_scale
    clone = model.clone()
    clone.add_object_patch("model_sampling", sampling)
    return clone, shift
