"""Chroma Speed: how fast, in a word; steps, sampler and schedule follow from the checkpoint."""

from __future__ import annotations

from typing import Any, Mapping

from comfy_api.latest import io

from ..advice.presets import CHOICES, PRESETS, STANDARD, times_as_fast
from ..advice.queued_graph import Graph
from ..advice.user_changes import as_fast, facts, head_of, settle
from ..constants import TIMES, Lines
from ..host.sample.apply_preset import applied
from ..host.sample.guiders import own_guidance
from ..samplers.run_record import RunRecord
from .doctor import slow_loaders
from .ksampler import with_guidance
from .preset import recognised
from .shared.checked_node import CheckedNode
from .shared.inputs import CATEGORY, LAST_STEPS, SETTINGS, choice, denoise_input, model_input, number, summary
from .shared.report import node_before, only_tell, report, running_graph, show, title

MOST_TIMES = 4.0
BEST_8_BITS = "q8_0"  # as fast as 16 bits on any device


def word_of(speed: Mapping[str, Any]) -> str:
    """The choice of a menu, by its name in `presets`."""
    return times_as_fast(speed["times"]) if speed["speed"] == TIMES else speed["speed"]


def slow_file(model: Any, node_id: str) -> str:
    """How much slower than floats this device multiplies the model's weights as they are stored; empty where it is not."""
    graph = running_graph()
    chain = Graph(graph).model_chain(node_id) if node_id in graph else []
    return slow_loaders(model, graph, node_id).get(chain[-1] if chain else "", "")


class ChromaSpeed(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        times = number("times", 2.0, 1.0, MOST_TIMES, 0.1, "How many times as fast as the preset.", round=0.01)
        return io.Schema(
            node_id="ChromaSpeed",
            display_name="Chroma Speed",
            category=CATEGORY,
            description="Recognises the checkpoint, and takes steps, sampler and schedule for the speed that is wanted. Shows what it "
            "chose, what that saves, and what the run computed.",
            search_aliases=["faster", "draft", "quality", "turbo", "fewer steps", "settings", "times as fast"],
            inputs=[
                model_input("A Chroma model, with its LoRAs on it. It is not changed; the output is a clone."),
                choice(
                    "speed",
                    "standard: half the steps of the checkpoint's preset, with chroma_sigma_2m. draft: a third. quality: all of "
                    f"them with chroma_sigma_3m. flash: for a Flash checkpoint or LoRA. {TIMES}: a share of your own.",
                    {STANDARD: [], **{name: [] for name in CHOICES if name != STANDARD}, TIMES: [times]},
                ),
                denoise_input(LAST_STEPS, optional=True),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the shift, for any sampler."),
                io.Sampler.Output(tooltip="For Sampler Custom."),
                io.Sigmas.Output(tooltip="The schedule, for Sampler Custom."),
                io.Int.Output(display_name="steps", tooltip="Number of steps, for a KSampler."),
                io.Float.Output(display_name="cfg", tooltip="For a guider or a KSampler."),
                SETTINGS.Output(display_name="settings", tooltip="All of them, for Chroma KSampler."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, speed: Mapping[str, Any] | None = None, denoise: float = 1.0) -> io.NodeOutput:
        found = recognised(model, cls.hidden.unique_id)
        settings = settle(found.name, choice=word_of(speed or {"speed": STANDARD}), reason=found.reason)
        clone, sampler, sigmas = applied(model, settings, denoise)
        head = head_of(settings, found, own_guidance(model))
        head += f"\n{as_fast(PRESETS[found.name], settings)}\n{summary(sigmas, settings.steps)}"
        if told_slow := only_tell(title(cls), lambda: slow_file(model, str(cls.hidden.unique_id)), ""):
            head += f"\n{told_slow}. Choose {BEST_8_BITS} as precision in the loader"
        name = title(cls)

        def told(record: RunRecord) -> None:
            show(name, only_tell(name, lambda: node_before("ChromaSpeed", "model")), lambda: record.text(head))

        clone, _ = with_guidance(clone, 0, {}, told, {"settings": facts(settings)})
        report(cls, Lines(head.split("\n")))
        return io.NodeOutput(clone, sampler, sigmas, settings.steps, settings.cfg, settings)
