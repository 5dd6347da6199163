"""Chroma CFG Guider and Chroma Guidance: one set of settings, as a GUIDER and as a patch on MODEL."""

from __future__ import annotations

import functools
from typing import Any

from comfy_api.latest import io

from ..host.sample.guiders import PAIRINGS, GuidancePatch, chroma_guider
from ..samplers.guided_run import Guidance, parse_values
from ..samplers.run_record import RunRecord
from .shared.inputs import cfg_input
from .shared.report import show, title

MAX_STEPS = 10_000
WHOLE, PERCENT, SIGMA = "whole run", "percent", "sigma"
OFF, STOP = "off", "stop when alike"


def _end(text: str) -> io.Float.Input:
    return io.Float.Input("end", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=text)


def settings(cfg: str) -> list[io.Input]:
    """The inputs that both nodes have behind cfg; cfg: what that is called there, in a sentence."""
    at_end = "The cfg of the last step."
    return [
        io.Int.Input(
            "skip_first_steps",
            default=0,
            min=-1,
            max=MAX_STEPS,
            optional=True,
            display_name="skip first steps",
            tooltip="For so many steps at the start only the positive prompt is computed, at half the cost. 0: none; "
            "-1: for all steps.",
        ),
        io.DynamicCombo.Input(
            "interval",
            optional=True,
            tooltip="Where cfg acts; outside only the positive prompt is computed, at half the cost.",
            options=[
                io.DynamicCombo.Option(WHOLE, []),
                io.DynamicCombo.Option(
                    PERCENT,
                    [
                        io.Float.Input(
                            "start", default=0.0, min=0.0, max=1.0, step=0.01, tooltip="Share of the run, 0 to 1."
                        ),
                        io.Float.Input(
                            "end", default=0.7, min=0.0, max=1.0, step=0.01, tooltip="Share of the run, 0 to 1."
                        ),
                    ],
                ),
                io.DynamicCombo.Option(
                    SIGMA,
                    [
                        io.Float.Input(
                            "high",
                            default=1.0,
                            min=0.0,
                            max=1.0,
                            step=0.001,
                            round=False,
                            tooltip="Noise level from which on cfg acts, 1 = noise.",
                        ),
                        io.Float.Input(
                            "low",
                            default=0.3,
                            min=0.0,
                            max=1.0,
                            step=0.001,
                            round=False,
                            tooltip="Noise level down to which cfg acts.",
                        ),
                    ],
                ),
            ],
        ),
        io.DynamicCombo.Input(
            "curve",
            optional=True,
            tooltip="How cfg changes from the first step to the last.",
            options=[
                io.DynamicCombo.Option("constant", []),
                io.DynamicCombo.Option("linear", [_end(at_end)]),
                io.DynamicCombo.Option("cosine", [_end(at_end + " Changes slowly at both ends.")]),
                io.DynamicCombo.Option(
                    "list",
                    [
                        io.String.Input(
                            "values",
                            default="5, 4, 3",
                            tooltip=f"cfg by step, with commas; stretched over the run. {cfg} is not used.",
                        )
                    ],
                ),
            ],
        ),
        io.DynamicCombo.Input(
            "form",
            optional=True,
            tooltip="How the two predictions are combined. plain: as ever. CFG-Zero*: the negative one scaled to fit. APG: "
            "weakens what oversaturates.",
            options=[
                io.DynamicCombo.Option("plain", []),
                io.DynamicCombo.Option("CFG-Zero*", []),
                io.DynamicCombo.Option(
                    "APG",
                    [
                        io.Float.Input(
                            "eta",
                            default=0.0,
                            min=-10.0,
                            max=10.0,
                            step=0.01,
                            tooltip="Share of the difference along the picture that stays; 1 is plain.",
                        ),
                        io.Float.Input(
                            "norm_threshold",
                            default=0.0,
                            min=0.0,
                            max=10_000.0,
                            step=0.1,
                            tooltip="Largest norm of the difference, 0: no limit. Twice as large for a picture of twice the "
                            "width and height.",
                        ),
                        io.Float.Input(
                            "momentum",
                            default=0.0,
                            min=-1.0,
                            max=1.0,
                            step=0.01,
                            tooltip="Of the running average of differences; the paper uses values below 0.",
                        ),
                    ],
                ),
            ],
        ),
        io.Float.Input(
            "rescale",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            advanced=True,
            tooltip="Brings the contrast back to that of the positive prompt alone: 0 not, 1 wholly. Against burnt "
            "pictures at high cfg.",
        ),
        io.Boolean.Input(
            "normalise",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Shortens the result where it is longer than the positive prompt's, place by place.",
        ),
        io.Int.Input(
            "zero_init_steps",
            default=0,
            min=0,
            max=MAX_STEPS,
            optional=True,
            advanced=True,
            display_name="zero-init steps",
            tooltip="So many steps at the start do nothing, at no cost. CFG-Zero* uses 1 of 25. Exact with euler only.",
        ),
        io.DynamicCombo.Input(
            "adaptive",
            optional=True,
            tooltip="Stops computing the negative prompt once both predictions point the same way.",
            options=[
                io.DynamicCombo.Option(OFF, []),
                io.DynamicCombo.Option(
                    STOP,
                    [
                        io.Float.Input(
                            "threshold",
                            default=0.99,
                            min=-1.0,
                            max=1.0,
                            step=0.0001,
                            round=False,
                            tooltip="Cosine of the two predictions above which it stops.",
                        )
                    ],
                ),
            ],
        ),
        io.Boolean.Input(
            "alternate",
            default=False,
            optional=True,
            tooltip="Computes the negative prompt in every second step, and extrapolates its difference in the others: "
            "nearly the same picture for 0.8 of the cost.",
        ),
        io.Combo.Input(
            "pairing",
            options=list(PAIRINGS),
            default="auto",
            optional=True,
            advanced=True,
            tooltip="Both prompts in one forward, or apart: the same picture. auto: paired where that is faster.",
        ),
    ]


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


def check_choices(node: type[io.ComfyNode]) -> None:
    """The host drops a dynamic choice that it does not know, as if it had not been made.

    raises: ValueError naming it and the choices.
    """
    asked = (node.hidden.prompt or {}).get(node.hidden.unique_id, {}).get("inputs", {})
    for one in settings(""):
        if isinstance(one, io.DynamicCombo.Input):
            known = [option.key for option in one.options]
            if isinstance(asked.get(one.id), str) and asked[one.id] not in known:
                raise ValueError(f"{one.id} is {asked[one.id]!r}; it must be one of {', '.join(known)}")


def patch_of(node: type[io.ComfyNode], pairing: str, options: dict[str, Any]) -> GuidancePatch:
    """Guidance that shows each run's record on the node that it was set on."""
    check_choices(node)

    def told(name: str, node_id: str | None, record: RunRecord) -> None:
        show(name, node_id, record.text())

    return GuidancePatch(guidance_of(**options), pairing, functools.partial(told, title(node), node.hidden.unique_id))


class ChromaCFGGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaCFGGuider",
            display_name="Chroma CFG Guider",
            category="sampling/chroma",
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
                io.Model.Input("model", tooltip="The model to sample with."),
                io.Conditioning.Input("positive", tooltip="What the picture shall show."),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="What it shall not show; may be left out at cfg 1."
                ),
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


class ChromaGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaGuidance",
            display_name="Chroma Guidance",
            category="sampling/chroma",
            description="The settings of Chroma CFG Guider for a KSampler: connect it between the model and the sampler, which "
            "keeps its cfg and prompts. Shows what the run cost.",
            search_aliases=["cfg", "adaptive guidance", "APG", "CFG-Zero*", "skip_first_steps", "rescale cfg"],
            inputs=[io.Model.Input("model", tooltip="The model to sample with."), *settings("The sampler's cfg")],
            outputs=[io.Model.Output(tooltip="The same model, guided by these settings.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def execute(cls, model: Any, pairing: str = "auto", **options: Any) -> io.NodeOutput:
        return io.NodeOutput(patch_of(cls, pairing, options).on(model))
