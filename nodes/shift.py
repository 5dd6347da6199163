"""Chroma Timestep Shift."""

from __future__ import annotations

import math
from typing import Any, Mapping

from comfy_api.latest import io

from ..host.sample.shift import CURVE, shifted
from .shared.checked_node import CheckedNode
from .shared.inputs import CATEGORY, choice, model_input, parameters
from .shared.report import report


class ChromaTimestepShift(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaTimestepShift",
            display_name="Chroma Timestep Shift",
            category=CATEGORY,
            description="Sets the model's timestep shift. Chroma was trained with 1, which is none; ComfyUI gives it 3.16.",
            search_aliases=["ModelSamplingAuraFlow", "ModelSamplingFlux", "ModelSamplingSD3", "flow shift", "mu"],
            inputs=[
                model_input("A Chroma model. It is not changed; a clone of it is."),
                choice(
                    "mode",
                    "shift 1: none, as Chroma was trained. fixed: a number. by resolution: FLUX's, larger for larger "
                    "pictures.",
                    {mode: parameters(curve) if curve else [] for mode, curve in CURVE.items()},
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
