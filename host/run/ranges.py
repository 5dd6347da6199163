"""Which patches and conditionings of a run act at a noise level.

Whatever acts for a part of a run only writes its range into the run's options. What looks back over steps, such as forecasts,
begins anew where another set acts. Written for ComfyUI 0.30.
"""

from __future__ import annotations

import math
from typing import Any, Iterator, Mapping

import torch

from ...samplers.guided_run import SLACK

RANGES = "chroma_ranges"  # in transformer_options for a run: who acts -> its Range
Range = tuple[float, float]  # upper and lower sigma between which something acts, both included


def with_slack(upper: float, lower: float) -> Range:
    """As our own patches compare: sigmas of a run were rounded to float32."""
    return upper * (1 + SLACK), lower * (1 - SLACK)


def as_host(upper: float, lower: float) -> Range:
    """As the host compares: in float32."""
    upper, lower = torch.tensor((upper, lower), dtype=torch.float32).tolist()
    return upper, lower


def holds(sigma: float, sigmas: Range) -> bool:
    return sigmas[1] <= sigma <= sigmas[0]


def add_ranges(options: dict[str, Any], ranges: Mapping[Any, Range]) -> None:
    """To the transformer_options of a run."""
    options[RANGES] = {**options.get(RANGES, {}), **ranges}


def add_ranges_of_prompts(guider: Any) -> None:
    """To a guider's options, which are this run's own: the ranges of ControlNets and of scheduled LoRAs in its conditionings."""
    to_sigma = guider.model_patcher.get_model_object("model_sampling").percent_to_sigma
    found = {}
    for cond in (cond for conds in guider.conds.values() for cond in conds):
        for control in controls_of(cond):
            start, end = control.timestep_percent_range
            found[id(control)] = as_host(to_sigma(start), to_sigma(end))
        for hook in getattr(cond.get("hooks"), "hooks", ()):
            for keyframe in hook.hook_keyframe.keyframes:
                found[id(keyframe)] = as_host(to_sigma(keyframe.start_percent), -math.inf)
    add_ranges(guider.model_options.setdefault("transformer_options", {}), found)


def prompts_at(guider: Any, sigma: float) -> frozenset[Any]:
    """Which conditionings of a guider in a run act at this noise level."""
    return frozenset(
        (name, i)
        for name, conds in guider.conds.items()
        for i, cond in enumerate(conds)
        if holds(sigma, as_host(cond.get("timestep_start", math.inf), cond.get("timestep_end", -math.inf)))
    )


def controls_of(cond: Mapping[str, Any]) -> Iterator[Any]:
    """The ControlNets of a conditioning."""
    control = cond.get("control")
    while control is not None:
        yield control
        control = control.previous_controlnet


def acting(options: Mapping[str, Any], sigma: float) -> frozenset[Any]:
    """Who acts at this noise level, by the transformer_options of a run."""
    return frozenset(who for who, sigmas in options.get(RANGES, {}).items() if holds(sigma, sigmas))
