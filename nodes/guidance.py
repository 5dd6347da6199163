"""Chroma CFG Guider and Chroma Guidance: one set of settings, as a GUIDER and as a patch on MODEL."""

from __future__ import annotations

import functools
from typing import Any

from comfy_api.latest import io

from ..host.sample.guiders import PAIRINGS, GuidancePatch, chroma_guider
from ..samplers.guided_run import Guidance, parse_values
from ..samplers.run_record import RunRecord
from ..samplers.schedules import MAX_STEPS
from .shared.checked_node import CheckedNode
from .shared.inputs import (
    CATEGORY,
    cfg_input,
    choice,
    model_input,
    negative_input,
    number,
    positive_input,
    share,
    skip_first_steps_input,
)
from .shared.report import show, title

WHOLE, PERCENT, SIGMA = "whole run", "percent", "sigma"
OFF, STOP = "off", "stop when alike"
OPTIONAL = {"optional": True}
ADVANCED = {"optional": True, "advanced": True}


# --- inputs ----------------------------------------------------------------------------------------------------------


def settings(cfg: str) -> list[io.Input]:
    """The inputs that both nodes have behind cfg; cfg: what that is called there, in a sentence."""
    return [
        skip_first_steps_input(**OPTIONAL),
        interval_input(),
        curve_input(cfg),
        form_input(),
        share(
            "rescale",
            0.0,
            "Brings the contrast back to that of the positive prompt alone: 0 not, 1 wholly. Against burnt pictures at high "
            "cfg.",
            **ADVANCED,
        ),
        io.Boolean.Input(
            "normalise",
            default=False,
            tooltip="Shortens the result where it is longer than the positive prompt's, place by place.",
            **ADVANCED,
        ),
        zero_init_input(),
        adaptive_input(),
        io.Boolean.Input(
            "alternate",
            default=False,
            tooltip="Computes the negative prompt in every second step, and extrapolates its difference in the others: "
            "nearly the same picture for 0.8 of the cost.",
            **OPTIONAL,
        ),
        io.Combo.Input(
            "pairing",
            options=list(PAIRINGS),
            default="auto",
            tooltip="Both prompts in one forward, or apart: the same picture. auto: paired where that is faster.",
            **ADVANCED,
        ),
    ]


def interval_input() -> io.Input:
    high = number("high", 1.0, 0.0, 1.0, 0.001, "Noise level from which on cfg acts, 1 = noise.", round=False)
    low = number("low", 0.3, 0.0, 1.0, 0.001, "Noise level down to which cfg acts.", round=False)
    return choice(
        "interval",
        "Where cfg acts; outside only the positive prompt is computed, at half the cost.",
        {WHOLE: [], PERCENT: [share("start", 0.0), share("end", 0.7)], SIGMA: [high, low]},
        **OPTIONAL,
    )


def curve_input(cfg: str) -> io.Input:
    def end(tooltip: str) -> io.Input:
        return number("end", 1.0, 0.0, 100.0, 0.1, tooltip, round=0.01)

    at_end = "The cfg of the last step."
    by_step = f"cfg by step, with commas; stretched over the run. {cfg} is not used."
    return choice(
        "curve",
        "How cfg changes from the first step to the last.",
        {
            "constant": [],
            "linear": [end(at_end)],
            "cosine": [end(at_end + " Changes slowly at both ends.")],
            "list": [io.String.Input("values", default="5, 4, 3", tooltip=by_step)],
        },
        **OPTIONAL,
    )


def form_input() -> io.Input:
    eta = "Share of the difference along the picture that stays; 1 is plain."
    norm = "Largest norm of the difference, 0: no limit. Twice as large for a picture of twice the width and height."
    momentum = "Of the running average of differences; the paper uses values below 0."
    apg = [
        number("eta", 0.0, -10.0, 10.0, 0.01, eta),
        number("norm_threshold", 0.0, 0.0, 10_000.0, 0.1, norm),
        number("momentum", 0.0, -1.0, 1.0, 0.01, momentum),
    ]
    return choice(
        "form",
        "How the two predictions are combined. plain: as ever. CFG-Zero*: the negative one scaled to fit. APG: weakens what "
        "oversaturates.",
        {"plain": [], "CFG-Zero*": [], "APG": apg},
        **OPTIONAL,
    )


def zero_init_input() -> io.Input:
    tooltip = "So many steps at the start do nothing, at no cost. CFG-Zero* uses 1 of 25. Exact with euler only."
    return number("zero_init_steps", 0, 0, MAX_STEPS, None, tooltip, display_name="zero-init steps", **ADVANCED)


def adaptive_input() -> io.Input:
    above = "Cosine of the two predictions above which it stops."
    return choice(
        "adaptive",
        "Stops computing the negative prompt once both predictions point the same way.",
        {OFF: [], STOP: [number("threshold", 0.99, -1.0, 1.0, 0.0001, above, round=False)]},
        **OPTIONAL,
    )


# --- what they mean --------------------------------------------------------------------------------------------------


def guidance_of(
    skip_first_steps: int = 0,
    interval: dict[str, Any] | None = None,
    curve: dict[str, Any] | None = None,
    form: dict[str, Any] | None = None,
    rescale: float = 0.0,
    normalise: bool = False,
    zero_init_steps: int = 0,
    adaptive: dict[str, Any] | None = None,
    alternate: bool = False,
) -> Guidance:
    """The settings of a node as a Guidance.

    raises: ValueError naming the input, its value, and what is allowed.
    """
    interval, curve = interval or {"interval": WHOLE}, curve or {"curve": "constant"}
    form, adaptive = form or {"form": "plain"}, adaptive or {"adaptive": OFF}
    for name, value, known in (
        ("interval", interval["interval"], (WHOLE, PERCENT, SIGMA)),
        ("adaptive", adaptive["adaptive"], (OFF, STOP)),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
    return Guidance(
        form=form["form"],
        eta=form.get("eta", 0.0),
        norm_threshold=form.get("norm_threshold", 0.0),
        momentum=form.get("momentum", 0.0),
        rescale=rescale,
        normalise=normalise,
        curve=curve["curve"],
        end=curve.get("end", 1.0),
        values=parse_values(curve.get("values", "")),
        skip_first_steps=skip_first_steps,
        zero_init_steps=zero_init_steps,
        percent=(interval["start"], interval["end"]) if interval["interval"] == PERCENT else None,
        sigmas=(interval["high"], interval["low"]) if interval["interval"] == SIGMA else None,
        stop_above=adaptive["threshold"] if adaptive["adaptive"] == STOP else None,
        alternate=alternate,
    )


def patch_of(node: type[io.ComfyNode], pairing: str, options: dict[str, Any]) -> GuidancePatch:
    """Guidance that shows each run's record on the node that it was set on."""

    def told(name: str, node_id: str | None, record: RunRecord) -> None:
        show(name, node_id, record.text)

    return GuidancePatch(guidance_of(**options), pairing, functools.partial(told, title(node), node.hidden.unique_id))


# --- nodes -----------------------------------------------------------------------------------------------------------


class ChromaCFGGuider(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaCFGGuider",
            display_name="Chroma CFG Guider",
            category=CATEGORY,
            description="Guides a run by a positive and a negative prompt, and leaves the negative one out where it is not "
            "needed. For SamplerCustomAdvanced. Shows what the run cost.",
            search_aliases=[
                "cfg",
                "guidance",
                "adaptive guidance",
                "APG",
                "CFG-Zero*",
                "skip_first_steps",
                "rescale cfg",
            ],
            inputs=[
                model_input("The model to sample with."),
                positive_input(),
                negative_input(),
                cfg_input(),
                *settings("cfg above"),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: list[Any],
        cfg: float,
        negative: list[Any] | None = None,
        pairing: str = "auto",
        **options: Any,
    ) -> io.NodeOutput:
        return io.NodeOutput(chroma_guider(patch_of(cls, pairing, options).on(model), positive, negative, cfg))


class ChromaGuidance(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaGuidance",
            display_name="Chroma Guidance",
            category=CATEGORY,
            description="The settings of Chroma CFG Guider for a KSampler: connect it between the model and the sampler, which "
            "keeps its cfg and prompts. Shows what the run cost.",
            search_aliases=["cfg", "adaptive guidance", "APG", "CFG-Zero*", "skip_first_steps", "rescale cfg"],
            inputs=[model_input("The model to sample with."), *settings("The sampler's cfg")],
            outputs=[io.Model.Output(tooltip="The same model, guided by these settings.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def execute(cls, model: Any, pairing: str = "auto", **options: Any) -> io.NodeOutput:
        return io.NodeOutput(patch_of(cls, pairing, options).on(model))
