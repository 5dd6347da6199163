"""A preset's settings as the host's objects: a MODEL with the shift, a SAMPLER, SIGMAS. Written for ComfyUI 0.30."""

from __future__ import annotations

from typing import Any, Mapping

import comfy.model_base
import comfy.samplers
import comfy.supported_models
from torch import Tensor

from ...advice.user_changes import Settings
from ...constants import FLUX_VARIANT, SCHNELL_VARIANT
from ...samplers.schedules import CURVES, schedule
from ..run.sigma_table import sampling_of
from . import samplers as comfy_samplers
from .shift import CURVE, shifted

SIZE = ("width", "height")  # parameters of curves that get the picture's size
HOST_VARIANTS = {  # by the class itself: FLUX.2 is a subclass of FLUX, with another VAE and text encoder
    comfy.model_base.ChromaRadiance: "Radiance",
    comfy.model_base.Chroma: "Chroma",
    comfy.model_base.Flux: FLUX_VARIANT,
}


def applied(model: Any, settings: Settings, denoise: float = 1.0) -> tuple[Any, Any, Tensor]:
    """A clone of the MODEL with the settings' shift, their SAMPLER, and their SIGMAS on that clone.

    raises: ValueError for a sampler, curve or shift that is not known.
    """
    shift_params = with_size(CURVE.get(settings.shift), settings.shift_params, settings.width, settings.height)
    clone, _ = shifted(model, settings.shift, **shift_params)
    return clone, sampler_of(settings.sampler), sigmas_of(clone, settings, denoise)


def known(model: Any) -> tuple[str | None, str]:
    """A MODEL's variant, as our loader calls it, and its file's name; None and "" if they are not known."""
    loaded = vars(model.model.model_config).get("loaded")
    if loaded is not None:
        return loaded.detection.variant, loaded.file
    variant = HOST_VARIANTS.get(type(model.model))
    is_schnell = variant == FLUX_VARIANT and isinstance(model.model.model_config, comfy.supported_models.FluxSchnell)
    return SCHNELL_VARIANT if is_schnell else variant, ""


def own_file(model: Any) -> str:
    """The name of the file that our loader made a MODEL of, without those that gave parts of it; "" if it is not known."""
    loaded = vars(model.model.model_config).get("loaded")
    return loaded.own_file if loaded is not None else ""


def sampler_of(name: str) -> Any:
    """A SAMPLER by its name in the host's menus, ours included.

    raises: ValueError for an unknown name.
    """
    if name in comfy_samplers.SAMPLERS:
        return comfy_samplers.sampler(name)
    if name not in comfy.samplers.SAMPLER_NAMES:
        raise ValueError(f"sampler {name!r} is not known. Choose one of: {', '.join(comfy.samplers.SAMPLER_NAMES)}")
    return comfy.samplers.sampler_object(name)


def with_size(curve: str | None, params: Mapping[str, float], width: int, height: int) -> dict[str, float]:
    """A curve's parameters, with the picture's size added if the curve has one."""
    names = {p.name for p in CURVES[curve].parameters} if curve else set()
    return {**params, **{k: v for k, v in zip(SIZE, (width, height)) if k in names}}


def sigmas_of(model: Any, settings: Settings, denoise: float) -> Tensor:
    """The settings' schedule on a MODEL that has their shift.

    It has exactly their number of steps, unless the model has too few noise levels for that.
    """
    curve = settings.curve if settings.curve in CURVES else None
    params = with_size(curve, settings.params, settings.width, settings.height)
    table = sampling_of(model).sigmas
    keep = settings.steps <= len(table) * denoise
    return schedule(settings.curve, settings.steps, params, table, denoise=denoise, keep_steps=keep)
