"""/chroma/curve: a schedule's numbers for the front end, which draws them on the nodes while a slider is dragged.

GET tells the page once which nodes have a curve, and which widgets set it; POST gives the numbers for their values.
"""

from __future__ import annotations

import math
from typing import Any, Mapping

import comfy.model_sampling
from aiohttp import web
from torch import Tensor

from ...host.sample.shift import CURVE
from ...samplers.schedules import CURVES, PIXELS_PER_TOKEN, check_parameters, curve_points, flux_mu
from .routes import add_route, answering, checked_object

PATH = "/chroma/curve"
MAX_DRAWN = 1000  # steps; a node is some hundred pixels wide
MAX_COMPUTED = 10_000  # limit of steps / denoise, the length of the whole schedule: 10 ms of a slider's drag
SWITCHES = ("pin_first", "keep_steps")
OPTIONS = ("steps", "denoise", *SWITCHES)  # beside the curve: the names of widgets, and keys of a query
KEYS = ("curve", "params", *OPTIONS, "shift")
MODELS = ("fixed_shift", "flux_shift")  # a model's own sigmas are one of these curves
# Nodes that give the model that they get with its sigmas unchanged, and nodes that hold one number for an input.
PASSING = (
    *(
        "ChromaCache",
        "ChromaFlash",
        "ChromaGuidance",
        "ChromaLoraLoader",
        "ChromaNAG",
        "ChromaRoPEScaling",
        "ChromaSkipBlocks",
    ),
    *("LoraLoader", "LoraLoaderModelOnly", "TorchCompileModel"),
)
CONSTANTS = ("PrimitiveInt", "PrimitiveFloat", "PrimitiveBoolean")


def fixed(curve: str) -> dict[str, Any]:
    """The one curve of a node, with the names of the widgets that are its parameters."""
    return {"curve": curve, "params": [p.name for p in CURVES[curve].parameters]}


def table() -> dict[str, Any]:
    """What the page needs to know of nodes to make a query for `drawn`.

    nodes:     class -> its curve: as from `fixed`, or the name of a `combo` widget, whose value is the curve's name and
               whose further widgets, COMBO.NAME, are the parameters.
    options:   further widgets that change the curve.
    shifts:    class of a node that gives a MODEL -> the model's sigmas, as in `nodes`. `modes`: a combo's values, each
               with its curve and with the parameters that have no widget.
    passing, constants: see PASSING and CONSTANTS.
    """
    modes = {
        mode: {"curve": curve} if curve else {"curve": "fixed_shift", "shift": 1.0} for mode, curve in CURVE.items()
    }
    return {
        "nodes": {
            "ChromaScheduler": {"combo": "curve"},
            "ChromaBetaScheduler": fixed("beta"),
            "ChromaSigmoidOffsetScheduler": fixed("sigmoid_offset"),
        },
        "options": list(OPTIONS),
        "shifts": {
            "ChromaDiffusionLoader": {"curve": "flux_shift", "params": []},  # the host's for Chroma
            "ChromaTimestepShift": {"combo": "mode", "modes": modes},
            "ModelSamplingAuraFlow": fixed("fixed_shift"),
            "ModelSamplingFlux": fixed("flux_shift"),
        },
        "passing": list(PASSING),
        "constants": list(CONSTANTS),
    }


def drawn(query: Any) -> dict[str, Any]:
    """The numbers that the front end draws.

    query:     `curve` and `steps`; optional: `params`, `denoise`, `pin_first`, `keep_steps` as in `schedules.schedule`,
               and `shift`, the model's: a curve of MODELS with its parameters, {"curve": "fixed_shift", "shift": 3}.
    returns:   `sigmas`, a list as from `schedules.schedule`, and `shift`, the model's as a number, or None for a curve
               that does not follow it.
    raises:    ValueError in one line for anything else.
    """
    checked_object("the query", query, KEYS)
    name, steps, denoise = query.get("curve"), query.get("steps"), query.get("denoise", 1.0)
    if not isinstance(name, str) or name not in CURVES:
        raise ValueError(f"curve {name!r} is not known. Choose one of: {', '.join(CURVES)}")
    params = checked_object(f"{name}: params", query.get("params", {}), CURVES[name].defaults)
    switches = {key: query.get(key, False) for key in SWITCHES}
    for key, value in switches.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name}: {key} is {value!r}; allowed is true or false")
    if _is_number(steps) and _is_number(denoise) and denoise > 0:
        if steps > MAX_DRAWN or (steps > 0 and steps / denoise > MAX_COMPUTED):
            raise ValueError(
                f"{steps} steps at denoise {denoise} are not drawn here: at most {MAX_DRAWN}, and {MAX_COMPUTED} * "
                "denoise"
            )
    sigmas, shift = model_sigmas(query.get("shift"))
    points = curve_points(name, steps, params, sigmas, denoise=denoise, **switches)
    return {"sigmas": points, "shift": shift if CURVES[name].from_table else None}


def model_sigmas(shift: Any) -> tuple[Tensor, float]:
    """The rising sigmas that the host makes for a model of this shift, and the shift as a number.

    shift:     None for a model as Chroma was trained, else as in `drawn`.
    raises:    ValueError in one line.
    """
    if shift is None:
        shift = {"curve": "fixed_shift", "shift": 1.0}
    if not isinstance(shift, Mapping) or shift.get("curve") not in MODELS:
        raise ValueError(f"shift is {shift!r}; allowed is an object whose curve is one of: {', '.join(MODELS)}")
    name = shift["curve"]
    params = {**CURVES[name].defaults, **shift}
    del params["curve"]
    checked_object(f"shift: {name}", params, CURVES[name].defaults)
    check_parameters(name, params)
    if name == "fixed_shift":
        sampling, value = comfy.model_sampling.ModelSamplingDiscreteFlow(), params["shift"]
        sampling.set_parameters(shift=value, multiplier=1.0)
    else:
        tokens = params["width"] * params["height"] / PIXELS_PER_TOKEN
        mu = flux_mu(tokens, params["base_shift"], params["max_shift"])
        sampling, value = comfy.model_sampling.ModelSamplingFlux(), math.exp(mu)
        sampling.set_parameters(shift=mu)
    return sampling.sigmas, value


async def tell(request: web.Request) -> web.Response:
    """`table` over HTTP."""
    return web.json_response(table())


answer = answering(drawn)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def register() -> None:
    """Adds both routes to the server."""
    add_route(PATH, answer, tell)
