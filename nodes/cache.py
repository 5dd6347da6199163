"""Chroma Cache: a MODEL of whose steps some are forecast instead of computed."""

from __future__ import annotations

from typing import Any, Mapping

from comfy_api.latest import io

from ..host.run.step_cache import StepCache
from ..samplers.step_cache import CacheRecord, CacheSettings
from .shared.checked_node import CheckedNode
from .shared.inputs import CATEGORY, choice, model_input, share
from .shared.report import node_before, only_tell, show, title

PLAN, GATE = "planned", "where little changes"


class ChromaCache(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaCache",
            display_name="Chroma Cache",
            category=CATEGORY,
            description="Computes only some of the steps. In the others the first block runs, and what the other blocks would add is "
            "carried on along a line. Tells how far off that was, and stops where it is too far.",
            search_aliases=[
                "TeaCache",
                "EasyCache",
                "LazyCache",
                "MagCache",
                "First Block Cache",
                "WaveSpeed",
                "TaylorSeer",
                "speed",
            ],
            inputs=[
                model_input("A Chroma or FLUX model, with its LoRAs. It is not changed; the output is a clone."),
                choice(
                    "forecast",
                    f"{PLAN}: a share of the steps, evenly spread, so that the time is known beforehand. {GATE}: steps before which "
                    "the first block's result has hardly changed.",
                    {
                        PLAN: [
                            share("compute", 0.8, "Share of the steps that are computed, at least about two thirds.")
                        ],
                        GATE: [
                            share(
                                "threshold",
                                0.1,
                                "Change since the last computed step up to which a step is forecast. Higher: more.",
                            )
                        ],
                    },
                ),
                share(
                    "max_error",
                    0.0,
                    "Forecasts end in a run once one was found to be further off than this, relative. 0: no limit.",
                    display_name="max error",
                    optional=True,
                    advanced=True,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for any sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, forecast: Mapping[str, Any], max_error: float = 0.0) -> io.NodeOutput:
        name = title(cls)

        def told(record: CacheRecord) -> None:
            show(name, only_tell(name, lambda: node_before("ChromaCache", "model")), record.text)

        settings = CacheSettings(
            compute=forecast["compute"] if forecast["forecast"] == PLAN else None,
            threshold=forecast.get("threshold", 0.0),
            max_error=max_error,
        )
        return io.NodeOutput(StepCache(settings, told).on(model))
