"""Nodes that give SIGMAS: one for each of the usual curves, and one for all."""

from __future__ import annotations

from typing import Any, Mapping

from comfy_api.latest import io

from ..host.run.sigma_table import sampling_of
from ..samplers.schedules import CURVES, schedule
from .shared.checked_node import CheckedNode
from .shared.inputs import (
    CATEGORY,
    choice,
    latent_size,
    model_input,
    parameters,
    sigmas_output,
    steps_input,
    summary,
    switches,
)
from .shared.report import report


def make(
    node: type[io.ComfyNode],
    model: Any,
    curve: str,
    steps: int,
    params: Mapping[str, float],
    **options: Any,
) -> io.NodeOutput:
    """The node's output. Shows a line about the schedule on the node."""
    table = sampling_of(model).sigmas
    sigmas = schedule(curve, steps, params, table, **options)
    report(node, lambda: summary(sigmas, steps))
    return io.NodeOutput(sigmas)


class ChromaSigmoidOffsetScheduler(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaSigmoidOffsetScheduler",
            display_name="Chroma Sigmoid Offset Scheduler",
            category=CATEGORY,
            description="A schedule along a logistic curve, with more steps at both ends than in the middle.",
            search_aliases=["sigmoid_offset", "SigmoidOffsetScheduler", "sigmas"],
            inputs=[model_input(), steps_input(), *parameters("sigmoid_offset"), *switches()],
            outputs=[sigmas_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        steps: int,
        square_k: float,
        base_c: float,
        denoise: float = 1.0,
        pin_first: bool = False,
        keep_steps: bool = False,
    ) -> io.NodeOutput:
        params = {"square_k": square_k, "base_c": base_c}
        options = dict(denoise=denoise, pin_first=pin_first, keep_steps=keep_steps)
        return make(cls, model, "sigmoid_offset", steps, params, **options)


class ChromaBetaScheduler(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaBetaScheduler",
            display_name="Chroma Beta Scheduler",
            category=CATEGORY,
            description="ComfyUI's beta schedule with alpha, beta and denoise; it can keep the exact number of steps.",
            search_aliases=["BetaSamplingScheduler", "beta57", "sigmas"],
            inputs=[model_input(), steps_input(), *parameters("beta"), *switches()],
            outputs=[sigmas_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        steps: int,
        alpha: float,
        beta: float,
        denoise: float = 1.0,
        pin_first: bool = False,
        keep_steps: bool = False,
    ) -> io.NodeOutput:
        params = {"alpha": alpha, "beta": beta}
        options = dict(denoise=denoise, pin_first=pin_first, keep_steps=keep_steps)
        return make(cls, model, "beta", steps, params, **options)


class ChromaScheduler(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        size = io.Latent.Input(
            "latent", optional=True, tooltip="If connected, the size of its picture replaces width and height."
        )
        return io.Schema(
            node_id="ChromaScheduler",
            display_name="Chroma Scheduler",
            category=CATEGORY,
            description="A schedule along a curve of your choice, each with its own parameters.",
            search_aliases=["sigmas", "bong_tangent", "power_shift", "karras", "exponential", "linear", "flux shift"],
            inputs=[
                model_input(),
                choice(
                    "curve",
                    "; ".join(f"{name}: {curve.meaning[:-1]}" for name, curve in CURVES.items()),
                    {name: [*parameters(name), *([size] if name == "flux_shift" else [])] for name in CURVES},
                ),
                steps_input(),
                *switches(),
            ],
            outputs=[sigmas_output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        curve: Mapping[str, Any] | str | None = None,  # no mapping if the host does not know the key
        steps: int = 26,
        denoise: float = 1.0,
        pin_first: bool = False,
        keep_steps: bool = False,
    ) -> io.NodeOutput:
        values = dict(curve) if isinstance(curve, Mapping) else {"curve": curve}
        name = values.pop("curve", None)
        latent = values.pop("latent", None)
        if latent is not None:
            values.update(latent_size(model, latent))
        options = dict(denoise=denoise, pin_first=pin_first, keep_steps=keep_steps)
        return make(cls, model, name, steps, values, **options)
