"""Save Chroma Quantized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping

from comfy.cli_args import args
from comfy_api.latest import io

from ..host.model.save import export_model
from ..host.sample.apply_preset import own_file
from ..loaders.checkpoint.write_quantised import export_format
from ..loaders.files.kinds import INDEX, is_index
from ..loaders.formats.base.registry import EXPORTS
from .shared.checked_node import CheckedNode
from .shared.files import next_path
from .shared.report import report

MODEL_NAME = "%model%"  # in a prefix, for the name of the model's file


class ChromaSaveQuantized(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaSaveQuantized",
            display_name="Save Chroma Quantized",
            category="advanced/chroma",
            description="Writes a Chroma model with its LoRAs and merges into the output folder, as a safetensors or "
            "GGUF file in a precision of your choice.",
            search_aliases=[
                "ModelSave",
                "save model",
                "quantize",
                "quantise",
                "GGUF",
                "fp8",
                "int8",
                "convert",
                "save gguf",
            ],
            inputs=[
                io.Model.Input("model", tooltip="A Chroma model. LoRAs and merges on it go into the file's weights."),
                io.Combo.Input(
                    "format",
                    options=list(EXPORTS),
                    default="int8_convrot",
                    tooltip="Precision of the blocks' linear layers; the rest stays in 16 or 32 bits. Error of the "
                    "weights and bits per weight: safetensors: int8_convrot 1 %, 8; fp8_scaled 2.7 %, 8; bf16, fp16. "
                    "GGUF: q8_0 0.5 to 0.7 %, 8.5; q5_1 3.8 %, 6; q5_0 4.3 %, 5.5; q4_1 7.8 %, 5; q4_0 8.6 %, 4.5; "
                    "gguf_bf16, gguf_f16.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default=f"diffusion_models/{MODEL_NAME}",
                    display_name="filename prefix",
                    tooltip="Folder below the output folder, and start of the file's name; a number is added. ComfyUI "
                    f"finds models in output/diffusion_models. {MODEL_NAME}: the name of the model's own file, by which its "
                    "settings are recognised.",
                ),
                io.Boolean.Input(
                    "full_precision_matmul",
                    default=True,
                    optional=True,
                    advanced=True,
                    display_name="full precision matmul",
                    tooltip="fp8_scaled: marks the layers to be unpacked for multiplication. Off: ComfyUI's own loader "
                    "multiplies in fp8 on GPUs that can, and casts the inputs without a scale of their own.",
                ),
                io.Float.Input(
                    "max_error",
                    default=0.0,
                    min=0.0,
                    max=0.5,
                    step=0.005,
                    round=False,
                    optional=True,
                    display_name="max error",
                    tooltip="Blocks that are harmed most are written in more bits until the network's output errs by no more: "
                    "0.03 is 3 %. It is measured in float32 by up to ten forwards, each with all weights quantised anew. 0: all blocks in the format.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        format: str,
        filename_prefix: str,
        full_precision_matmul: bool = True,
        max_error: float = 0.0,
    ) -> io.NodeOutput:
        suffix = export_format(format).suffix
        path = next_path(filename_prefix.replace(MODEL_NAME, name_of(model)), suffix)
        metadata = workflow_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        _, text = export_model(model, path, format, full_precision_matmul, metadata, max_error)
        report(cls, text)
        return io.NodeOutput()


def name_of(model: Any) -> str:
    """Of the file that a MODEL is from, without its ending; "chroma" where that is not known."""
    file = own_file(model)
    return (INDEX.sub("", file) if is_index(file) else Path(file).stem) or "chroma"


def workflow_metadata(prompt: Any, extra_pnginfo: Any) -> dict[str, str]:
    """The graph that made the file, under the names of the host's save nodes; empty with --disable-metadata."""
    if args.disable_metadata:
        return {}
    entries = {"prompt": prompt, **(extra_pnginfo if isinstance(extra_pnginfo, Mapping) else {})}
    return {name: json.dumps(value) for name, value in entries.items() if value is not None}
