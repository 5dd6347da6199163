"""Chroma Timestep Shift."""

from __future__ import annotations

import math
from typing import Any, Mapping

from comfy_api.latest import io

from ..host.sample.shift import CURVE, shifted
from .shared.inputs import parameters
from .shared.report import report


class ChromaTimestepShift(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaTimestepShift",
            display_name="Chroma Timestep Shift",
            category="sampling/chroma",
            description="Sets the model's timestep shift. Chroma was trained with 1, which is none; ComfyUI gives it 3.16.",
            search_aliases=["ModelSamplingAuraFlow", "ModelSamplingFlux", "ModelSamplingSD3", "flow shift", "mu"],
            inputs=[
                io.Model.Input("model", tooltip="A Chroma model. It is not changed; a clone of it is."),
                io.DynamicCombo.Input(
                    "mode",
                    options=[
                        io.DynamicCombo.Option(mode, parameters(curve) if curve else [])
                        for mode, curve in CURVE.items()
                    ],
                    tooltip="shift 1: none, as Chroma was trained. fixed: a number. by resolution: FLUX's, larger for "
                    "larger pictures.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with that shift, for schedulers and samplers.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, mode: Mapping[str, Any] | str | None = None) -> io.NodeOutput:
        values = dict(mode) if isinstance(mode, Mapping) else {"mode": mode}
        name = values.pop("mode", None)
        clone, shift = shifted(model, name, **values)
        report(cls, f"shift {shift:.3f} (mu {math.log(shift):.3f})")
        return io.NodeOutput(clone)
