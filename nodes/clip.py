"""Load Chroma Text Encoder."""

from __future__ import annotations

from typing import Any

import folder_paths
from comfy_api.latest import io

from ..host.model.file_stamp import fingerprint
from ..host.text.t5_clip import DEVICES, LOADER, PRECISIONS, encoder_report, load_encoder
from .shared.checked_node import CheckedNode
from .shared.files import encoder_files, encoder_path, refused
from .shared.report import report


class ChromaCLIPLoader(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaCLIPLoader",
            display_name=LOADER,
            category="loaders/chroma",
            description="Loads a T5 text encoder for Chroma of any kind (safetensors, GGUF, sharded, whole or encoder "
            "alone; any precision) at its own sizes, and keeps or changes the precision of its weights.",
            search_aliases=["CLIPLoader", "Load CLIP", "CLIPLoader (GGUF)", "T5", "t5xxl", "flan", "text encoder"],
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=encoder_files(),
                    display_name="text encoder",
                    tooltip="A file with T5's weights from models/text_encoders (.safetensors, .gguf; the "
                    ".index.json of a sharded one). Chroma needs T5-XXL v1.1 (t5xxl) or flan-T5-xxl.",
                ),
                io.Combo.Input(
                    "device",
                    options=list(DEVICES),
                    default="default",
                    optional=True,
                    advanced=True,
                    tooltip="Where the encoder runs. default: ComfyUI decides. cpu: slower, but leaves the GPU to the "
                    "model.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="How the weights are kept. auto: as in the file, but 32 bits as 16. keep: as in the file. "
                    "bf16, fp16, fp32: unpacked. Error of the weights and bits per weight: q8_0 0.5 to 0.7 %, 8.5; "
                    "fp8_scaled 2.7 %, 8. These two change the linear layers only. The encoder always computes in "
                    "float32.",
                ),
            ],
            outputs=[io.Clip.Output(tooltip="The text encoder, for any node that takes a CLIP.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, clip_name: Any = None) -> bool | str:
        return refused(clip_name, encoder_path) or True

    @classmethod
    def fingerprint_inputs(cls, clip_name: Any = None, **_: Any) -> str:
        """Differs when a file has changed on disk, so that the encoder is loaded anew."""
        try:
            return fingerprint(LOADER, encoder_path(clip_name))
        except (ValueError, OSError):  # `execute` raises it
            return ""

    @classmethod
    def execute(cls, clip_name: str, device: str = "default", precision: str = "auto") -> io.NodeOutput:
        clip = load_encoder(encoder_path(clip_name), precision, device, folder_paths.get_folder_paths("embeddings"))
        report(cls, lambda: encoder_report(clip))
        return io.NodeOutput(clip)
