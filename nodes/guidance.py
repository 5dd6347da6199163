"""Chroma CFG Guider and Chroma Guidance: one set of settings, as a GUIDER and as a patch on MODEL."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..advice.queued_graph import Graph
from ..host.sample.guiders import NO_NEGATIVE, PAIRINGS, GuidancePatch, chroma_guider
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
from .shared.report import node_before, only_tell, running_graph, show, title

WHOLE, PERCENT, SIGMA = "whole run", "percent", "sigma"
OFF, STOP = "off", "stop when alike"
OPTIONAL = {"optional": True}
ADVANCED = {"optional": True, "advanced": True}


# --- inputs ----------------------------------------------------------------------------------------------------------


def settings(cfg: str) -> list[io.Input]:
    """The inputs that both nodes have after cfg. cfg: what tooltips call the cfg that acts there."""
    return [
        skip_first_steps_input(**OPTIONAL),
        interval_input(),
        curve_input(cfg),
        form_input(),
        share(
            "rescale",
            0.0,
            "Brings the contrast back to that of the positive prompt alone: 0 not at all, 1 fully. Helps against burnt "
            "pictures at high cfg.",
            **ADVANCED,
        ),
        io.Boolean.Input(
            "normalise",
            default=False,
            tooltip="Limits the result's norm at each position to that of the positive prompt's prediction.",
            **ADVANCED,
        ),
        zero_init_input(),
        adaptive_input(),
        io.Boolean.Input(
            "alternate",
            default=False,
            tooltip="Computes the negative prompt in every second step, and extrapolates the difference of the two "
            "predictions in the others: nearly the same picture for 0.8 of the cost.",
            **OPTIONAL,
        ),
        io.Combo.Input(
            "pairing",
            options=list(PAIRINGS),
            default="auto",
            tooltip="paired: both prompts in one forward. apart: each in its own. The picture is the same. auto: "
            "paired where that is faster. Without effect on models of ComfyUI's own loaders.",
            **ADVANCED,
        ),
    ]


def interval_input() -> io.Input:
    high = number("high", 1.0, 0.0, 1.0, 0.001, "cfg acts from this noise level on, 1 = noise.", round=False)
    low = number("low", 0.3, 0.0, 1.0, 0.001, "cfg acts down to this noise level.", round=False)
    return choice(
        "interval",
        "Where in the run cfg acts; elsewhere only the positive prompt is computed, at half the cost.",
        {WHOLE: [], PERCENT: [share("start", 0.0), share("end", 0.7)], SIGMA: [high, low]},
        **OPTIONAL,
    )


def curve_input(cfg: str) -> io.Input:
    def end(tooltip: str) -> io.Input:
        return number("end", 1.0, 0.0, 100.0, 0.1, tooltip, round=0.01)

    at_end = "The cfg of the last step."
    by_step = f"cfg for each step, separated by commas; stretched over the run. {cfg} is not used."
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
    eta = "How much stays of the difference's part along the positive prediction; 1: all, as in plain CFG."
    norm = "Largest norm of the difference; 0: no limit. For a picture of twice the width and height, double it."
    momentum = "Momentum of the running average of differences; the paper uses values below 0."
    apg = [
        number("eta", 0.0, -10.0, 10.0, 0.01, eta),
        number("norm_threshold", 0.0, 0.0, 10_000.0, 0.1, norm),
        number("momentum", 0.0, -1.0, 1.0, 0.01, momentum),
    ]
    return choice(
        "form",
        "How the two predictions are combined. plain: standard CFG. CFG-Zero*: scales the negative one to fit the "
        "positive one. APG: weakens the part that oversaturates.",
        {"plain": [], "CFG-Zero*": [], "APG": apg},
        **OPTIONAL,
    )


def zero_init_input() -> io.Input:
    tooltip = "This many steps at the start do nothing, at no cost. CFG-Zero* uses 1 of 25. Exact with euler only."
    return number("zero_init_steps", 0, 0, MAX_STEPS, None, tooltip, display_name="zero-init steps", **ADVANCED)


def adaptive_input() -> io.Input:
    above = "Stops once the cosine of the two predictions is above this."
    return choice(
        "adaptive",
        "Stops computing the negative prompt once both predictions point the same way.",
        {OFF: [], STOP: [number("threshold", 0.99, -1.0, 1.0, 0.0001, above, round=False)]},
        **OPTIONAL,
    )


# --- inputs as a Guidance --------------------------------------------------------------------------------------------


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


def patch_of(node: type[io.ComfyNode], role: str, pairing: str, options: dict[str, Any]) -> GuidancePatch:
    """The node's guidance, which shows each run's record on the node of this class that the run is made with.

    role: of what the node gives, "guider" or "model".
    """
    name, kind = title(node), (node.SCHEMA or node.define_schema()).node_id

    def told(record: RunRecord) -> None:
        show(name, only_tell(name, lambda: node_before(kind, role)), record.text)

    return GuidancePatch(guidance_of(**options), pairing, told)


LAZY = (
    "model",
    "positive",
    "negative",
    "latent",
    "settings",
)  # what files are read for; asked for once the node's values are known


def wanted(node: type[io.ComfyNode], given: dict[str, Any]) -> list[str]:
    """For `check_lazy_status`: the inputs that are still to be computed.

    raises: ValueError before any file is read, where cfg needs a negative prompt and none is connected.
    """
    cfg, skip = given.get("cfg"), given.get("skip_first_steps")
    if isinstance(cfg, (int, float)) and cfg != 1 and "negative" not in given and skip != -1:
        graph, node_id = Graph(running_graph()), str(node.hidden.unique_id)
        models = graph.model_chain(node_id) if node_id in graph.nodes else []
        if not any("skip_first_steps" in graph.inputs(one) for one in models):  # which may leave it out in every step
            raise ValueError(NO_NEGATIVE.format(cfg))
    return [name for name in LAZY if name in given and given[name] is None]


# --- nodes -----------------------------------------------------------------------------------------------------------


class ChromaCFGGuider(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaCFGGuider",
            display_name="Chroma CFG Guider",
            category=CATEGORY,
            description="Guides a run by a positive and a negative prompt, and leaves the negative one out where it "
            "is not needed. For SamplerCustomAdvanced. Shows what the run cost.",
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
                model_input("The model to sample with.", lazy=True),
                positive_input(lazy=True),
                negative_input(lazy=True),
                cfg_input(),
                *settings("cfg above"),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def check_lazy_status(cls, **given: Any) -> list[str]:
        return wanted(cls, given)

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
        return io.NodeOutput(
            chroma_guider(patch_of(cls, "guider", pairing, options).on(model), positive, negative, cfg)
        )


class ChromaGuidance(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaGuidance",
            display_name="Chroma Guidance",
            category=CATEGORY,
            description="The settings of Chroma CFG Guider for a KSampler. Connect it between the model and the "
            "sampler; the sampler keeps its own cfg and prompts. Shows what the run cost.",
            search_aliases=["cfg", "adaptive guidance", "APG", "CFG-Zero*", "skip_first_steps", "rescale cfg"],
            inputs=[model_input("The model to sample with."), *settings("The sampler's cfg")],
            outputs=[io.Model.Output(tooltip="The same model, guided by these settings.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, pairing: str = "auto", **options: Any) -> io.NodeOutput:
        return io.NodeOutput(patch_of(cls, "model", pairing, options).on(model))
