"""Chroma Flash: a LoRA for few steps, with the settings that fit it."""

from __future__ import annotations

from typing import Any, Mapping

from comfy_api.latest import io

from ..advice.flash import flash_settings, told
from ..constants import AT_ONCE, GUIDED_FIRST, Lines
from ..host.model.file_stamp import watch
from ..host.model.lora import read_lora, with_lora
from ..host.run.late_lora import LateLora, sides_of
from ..samplers.schedules import MAX_STEPS
from .lora import lora_fingerprint, lora_path
from .shared.checked_node import CheckedNode
from .shared.files import lora_files, refused
from .shared.inputs import CATEGORY, SETTINGS, choice, model_input, number
from .shared.report import report


class ChromaFlash(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaFlash",
            display_name="Chroma Flash",
            category=CATEGORY,
            description="Puts a Flash LoRA on a Chroma model and gives the settings that fit it to Chroma KSampler: few steps "
            "at cfg 1. On request the first steps are guided by the negative prompt, without the LoRA.",
            search_aliases=["Flash", "turbo", "lightning", "few steps", "8 steps", "low step LoRA", "speed"],
            inputs=[
                model_input("A Chroma model. It is not changed; the output is a clone."),
                io.Combo.Input(
                    "lora_name",
                    options=lora_files("flash"),
                    display_name="LoRA",
                    tooltip="A Flash LoRA from models/loras. Settings are known for ranks 64 to 96; lower ranks act more "
                    "weakly.",
                ),
                number("strength_model", 1.0, 0.0, 10.0, 0.01, "How strongly the LoRA acts.", display_name="strength"),
                number("steps", 0, 0, MAX_STEPS, None, "Number of steps. 0: the preset's, 8."),
                choice(
                    "start",
                    f"{AT_ONCE}: every step at cfg 1 with the LoRA. {GUIDED_FIRST}: the first steps with cfg and without the "
                    "LoRA, which decide what is where; each costs two prompts.",
                    {
                        AT_ONCE: [],
                        GUIDED_FIRST: [
                            number(
                                "guided_steps",
                                2,
                                1,
                                MAX_STEPS,
                                None,
                                "How many first steps are guided.",
                                display_name="guided steps",
                            ),
                            number("cfg", 3.5, 1.0, 100.0, 0.1, "cfg of the guided steps.", round=0.01),
                        ],
                    },
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the LoRA."),
                SETTINGS.Output(display_name="settings", tooltip="For Chroma KSampler."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, lora_name: Any = None, start: Any = None) -> bool | str:
        """start: unused; the host hands on every choice with inputs of its own, whether or not it is asked for."""
        return refused(lora_name, lora_path) or True

    @classmethod
    def fingerprint_inputs(cls, lora_name: Any = None, **_: Any) -> str:
        return lora_fingerprint(lora_name)

    @classmethod
    def execute(
        cls, model: Any, lora_name: str, strength_model: float, steps: int, start: Mapping[str, Any]
    ) -> io.NodeOutput:
        lora, guided = read_lora(model, lora_path(lora_name)), start["start"] == GUIDED_FIRST
        if guided:
            settings = flash_settings(steps, start["guided_steps"], start["cfg"])
            sides = sides_of(lora.name, lora.adapters, strength_model, model.model.get_dtype_inference())
            out = LateLora(sides, start["guided_steps"]).on(model)
            watch(out, lora.stamps)
        else:
            settings, out = flash_settings(steps), with_lora(model, lora, strength_model)
        report(cls, Lines([told(settings, lora_name, lora.ranks), lora.summary]))
        return io.NodeOutput(out, settings)
