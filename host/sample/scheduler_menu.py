"""Our schedules in the scheduler menus of the host's own nodes. Written for ComfyUI 0.30."""

from __future__ import annotations

import functools
from typing import Any, Mapping

import comfy.samplers
from torch import Tensor

from ...samplers.schedules import schedule
from ..run.sigma_table import with_own_table

# Name in the menus -> curve and its parameters.
MENU: dict[str, tuple[str, dict[str, float]]] = {
    "sigmoid_offset": ("sigmoid_offset", {}),
    "power_shift": ("power_shift", {}),
    "bong_tangent": ("bong_tangent", {}),
    "beta_0.4": ("beta", {"alpha": 0.4, "beta": 0.4}),
    "beta_0.45": ("beta", {"alpha": 0.45, "beta": 0.45}),
}


def model_schedule(model_sampling: Any, steps: int, curve: str, params: Mapping[str, float]) -> Tensor:
    """A curve as the host's scheduler handlers give it: up to steps + 1 sigmas on the CPU, from the model's own table."""
    return schedule(curve, steps, params, with_own_table(model_sampling).sigmas)


def register() -> list[str]:
    """Puts the names of MENU into the host's registry and its menus, and returns those added.

    A name that is there already, in the registry or in a menu, is left to whoever brought it (RES4LYF has bong_tangent,
    other packs sigmoid_offset and power_shift). Lists are extended in place, since every node's menu is one of them; some
    packs give KSampler a list of its own. Calling it again changes nothing.
    """
    menus = [comfy.samplers.SCHEDULER_NAMES]
    if comfy.samplers.KSampler.SCHEDULERS is not menus[0]:
        menus.append(comfy.samplers.KSampler.SCHEDULERS)
    taken = {*comfy.samplers.SCHEDULER_HANDLERS, *menus[0], *menus[-1]}
    new = [name for name in MENU if name not in taken]
    for name in new:
        curve, params = MENU[name]
        handler = functools.partial(model_schedule, curve=curve, params=params)
        comfy.samplers.SCHEDULER_HANDLERS[name] = comfy.samplers.SchedulerHandler(handler)
        for menu in menus:
            menu.append(name)
    return new
