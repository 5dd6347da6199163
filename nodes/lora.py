"""Load Chroma LoRA."""

from __future__ import annotations

from typing import Any

import folder_paths
from comfy_api.latest import io

from ..host.model.file_stamp import fingerprint
from ..host.model.lora import LOADER, apply_lora
from .shared.checked_node import CheckedNode
from .shared.files import HOW_TO_ADD, lora_files, names_in, refused
from .shared.report import report


def lora_path(name: str) -> str:
    """raises: ValueError if the name is not one of the listed files."""
    path = folder_paths.get_full_path("loras", name) if name in names_in("loras") else None
    if path is None:
        raise ValueError(f"{name}: not among the LoRA files. {HOW_TO_ADD.format(folder='loras')}")
    return path


def lora_fingerprint(name: Any) -> str:
    """Differs when the file has changed on disk, so that the LoRA is read anew."""
    try:
        return fingerprint(LOADER, lora_path(name))
    except (ValueError, OSError):  # `execute` raises it
        return ""


class ChromaLoraLoader(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaLoraLoader",
            display_name=LOADER,
            category="loaders/chroma",
            description="Applies a LoRA from models/loras to a Chroma model and tells which of its layers fit. The "
            "LoRA may be made for Chroma or FLUX.1, in any trainer's layout.",
            search_aliases=["LoraLoaderModelOnly", "LoRA", "load lora", "LyCORIS", "LoKr", "LoHa", "DoRA"],
            inputs=[
                io.Model.Input("model", tooltip="A Chroma model; it may have LoRAs already."),
                io.Combo.Input(
                    "lora_name",
                    options=lora_files(),
                    display_name="LoRA",
                    tooltip="A file from models/loras: LoRA, DoRA, LoHa, LoKr, GLoRA, OFT or BOFT.",
                ),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    display_name="strength",
                    tooltip="How strongly the LoRA acts: 1 as trained, 0 not at all, negative the opposite.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the LoRA on it. The input stays as it was.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, lora_name: Any = None) -> bool | str:
        return refused(lora_name, lora_path) or True

    @classmethod
    def fingerprint_inputs(cls, lora_name: Any = None, **_: Any) -> str:
        return lora_fingerprint(lora_name)

    @classmethod
    def execute(cls, model: Any, lora_name: str, strength_model: float) -> io.NodeOutput:
        if strength_model == 0:
            report(cls, "strength 0: the model is unchanged")
            return io.NodeOutput(model)
        clone, text = apply_lora(model, lora_path(lora_name), strength_model)
        report(cls, text)
        return io.NodeOutput(clone)
