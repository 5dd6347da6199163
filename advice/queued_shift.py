"""The timestep shift that nodes of a queued graph give a model, and which schedules follow it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..constants import AS_TRAINED, BY_RESOLUTION, CUSTOM, FIXED, FROM_MODEL, TRAINED
from ..samplers.schedules import CURVES, PIXELS_PER_TOKEN, flux_mu
from .queued_graph import OUR_SAMPLER, PRESET_NODE, SPEED_NODE, Graph

HOST_SHIFT = math.exp(1.15)  # what ComfyUI gives Chroma and FLUX.1 dev unless a node changes it


@dataclass(frozen=True)
class Shift:
    """value: the factor, None where a node computes it. node: sets it; None for the host's own."""

    value: float | None
    node: str | None


def shift_of(graph: Graph, node: str) -> tuple[bool, float | None]:
    """Whether a node sets the model's shift, and to what."""
    kind, number = graph.kind(node), lambda name: graph.number(node, name)
    if kind in ("ModelSamplingAuraFlow", "ModelSamplingSD3"):
        return True, number("shift")
    if kind == "ChromaTimestepShift":
        mode = graph.value(node, "mode")
        if mode == BY_RESOLUTION:
            return True, by_resolution(*(number(f"mode.{n}") for n in ("width", "height", "base_shift", "max_shift")))
        return True, number("mode.shift") if mode == FIXED else 1.0 if mode == TRAINED else None
    if kind == OUR_SAMPLER:
        if link := graph.link(node, "settings"):
            return True, shift_of(graph, link[0])[1]
        if graph.value(node, "quality") not in (None, CUSTOM) or graph.is_hidden(node, "quality"):
            return True, None  # the preset's
        mode = graph.value(node, "shift")
        return mode != FROM_MODEL, number("shift.value") if mode == FIXED else 1.0 if mode == AS_TRAINED else None
    if kind == "ModelSamplingFlux":
        return True, by_resolution(*(number(n) for n in ("width", "height", "base_shift", "max_shift")))
    if kind == PRESET_NODE:
        mode = graph.value(node, "shift")
        return True, number("shift.value") if mode == FIXED else 1.0 if mode == TRAINED else None
    if kind == SPEED_NODE:
        return True, None  # the preset's
    return "modelsampling" in kind.lower().replace(" ", "") or "shift" in kind.lower(), None


def by_resolution(width: float | None, height: float | None, base: float | None, most: float | None) -> float | None:
    """FLUX's shift for a size in pixels, as a factor; None where something is not known."""
    if None in (width, height, base, most):
        return None
    try:
        return math.exp(flux_mu(width * height / PIXELS_PER_TOKEN, base, most))
    except ValueError:  # the node itself refuses it
        return None


def effective_shift(graph: Graph, models: list[str], loaded: float = HOST_SHIFT) -> Shift:
    """The shift of the nearest node that sets one.

    models: the node where it acts, then its model's chain. loaded: what the model has if no node sets one.
    """
    for node in models:
        sets, value = shift_of(graph, node)
        if sets:
            return Shift(value, node)
    return Shift(None, models[-1]) if graph.is_open(models[1:]) else Shift(loaded, None)


def follows_shift(scheduler: str) -> bool:
    """Whether the model's shift acts on a schedule, ours or the host's."""
    if scheduler in CURVES:
        return CURVES[scheduler].from_table
    return scheduler in FOLLOWING


# The host's schedules that are taken from the model's sigmas, and those that this pack adds to them.
FOLLOWING = (
    "simple",
    "sgm_uniform",
    "normal",
    "ddim_uniform",
    "beta_0.4",
    "beta_0.45",
    "kl_optimal",
)
