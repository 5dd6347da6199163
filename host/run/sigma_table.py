"""A model's sampling with the table of its own shift. Written for ComfyUI 0.30."""

from __future__ import annotations

import copy
from typing import Any

import comfy.model_sampling
import torch

FLOWS = (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.ModelSamplingFlux)


def sampling_of(model: Any) -> Any:
    """The sampling of a MODEL, see `with_own_table`."""
    return with_own_table(model.get_model_object("model_sampling"))


def with_own_table(sampling: Any) -> Any:
    """A copy whose `sigmas` are made anew from its shift, on the CPU; the sampling itself if it is not of the host's flow kinds.

    With dynamic VRAM the host writes the table of one clone into the sampling of another when it loads that one
    (Comfy-Org/ComfyUI#16490).
    """
    if getattr(type(sampling), "set_parameters", None) not in [flow.set_parameters for flow in FLOWS]:
        return sampling
    count = len(sampling.sigmas)
    own = copy.copy(sampling)
    own._buffers = {
        **sampling._buffers,
        "sigmas": sampling.sigma(sampling.timestep(torch.arange(1, count + 1) / count)),
    }
    return own
