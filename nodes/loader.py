"""Load Chroma Model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.model.file_stamp import fingerprint
from ..host.model.load import LOADER, load_chroma
from ..host.model.report import model_report
from ..loaders.checkpoint.detect_variant import PREDICTIONS, TEXT_IDS
from ..loaders.formats.base.registry import ALIASES, QUANT_MODES
from .shared.checked_node import CheckedNode
from .shared.files import APPROXIMATOR_FILE, LITE_PATCH, model_files, model_path, refused
from .shared.report import report

OWN_APPROXIMATOR = "from the model file"
NO_PATCH = "none"


class ChromaDiffusionLoader(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaDiffusionLoader",
            display_name=LOADER,
            category="loaders/chroma",
            description="Loads a Chroma diffusion model of nearly any kind (safetensors, GGUF, sharded, all-in-one; any "
            "precision) at its own sizes, and keeps or changes the precision of its weights.",
            search_aliases=[
                "UNETLoader",
                "Load Diffusion Model",
                "Unet Loader (GGUF)",
                "Chroma",
                "Radiance",
                "FluxMod",
                "approximator",
                "distilled_guidance_layer",
            ],
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=model_files(),
                    display_name="model",
                    tooltip="A file with Chroma's weights from models/diffusion_models (.safetensors, .gguf, .pth; the "
                    ".index.json of a sharded one), or an all-in-one checkpoint from models/checkpoints.",
                ),
                io.Combo.Input(
                    "quant_mode",
                    options=list(QUANT_MODES),
                    default="auto",
                    display_name="precision",
                    tooltip="How the weights are kept. auto: as in the file, but in 8 bits where 16 do not fit. "
                    "keep: as in the file. bf16, fp16, fp32: unpacked. Error of the weights and bits per weight: "
                    "q8_0 0.5 to 0.7 %, 8.5; int8_convrot 1 %, 8; fp8_scaled and mxfp8 2.7 %, 8; q5_1 3.8 %, 6; q4_1 "
                    "7.8 %, 5; nvfp4 9.5 %, 4.5. These change the linear layers of the blocks only.",
                ),
                io.Combo.Input(
                    "approximator",
                    options=[OWN_APPROXIMATOR, *model_files(APPROXIMATOR_FILE)],
                    default=OWN_APPROXIMATOR,
                    optional=True,
                    advanced=True,
                    tooltip="Takes the Approximator (distilled_guidance_layer) from another file. Needed to run FLUX "
                    "as FluxMod does.",
                ),
                io.Combo.Input(
                    "prediction",
                    options=list(PREDICTIONS),
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="What the network predicts: v, the velocity, or x0, the picture. auto: as the file's "
                    "marker says. Set it where a converter has lost the marker and pictures are noise.",
                ),
                io.Combo.Input(
                    "text_ids",
                    options=list(TEXT_IDS),
                    default="auto",
                    optional=True,
                    advanced=True,
                    display_name="text positions",
                    tooltip="Position ids of text tokens: zeros, or sequential as in Radiance since May 2026. auto: as "
                    "the file's marker says.",
                ),
                io.Boolean.Input(
                    "full_precision_matmul",
                    default=False,
                    optional=True,
                    advanced=True,
                    display_name="full precision matmul",
                    tooltip="Unpacks 8- and 4-bit weights for multiplication even where the device could multiply "
                    "them as they are. Slower, but the output error falls: fp8 from 3.8 to 2.7 %, int8_convrot from "
                    "1.3 to 1 %.",
                ),
                io.Combo.Input(
                    "lite_patch",
                    options=[NO_PATCH, *model_files(LITE_PATCH)],
                    default=NO_PATCH,
                    optional=True,
                    advanced=True,
                    display_name="lite patch",
                    tooltip="FluxMod's lite patch: the one double block that makes FLUX.1 lite, with eight, of FLUX.1, with "
                    "nineteen. Only with FLUX as model and an Approximator of FLUX lite.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for any sampler or model node.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, quant_mode: Any = None, unet_name: Any = None, approximator: Any = None, lite_patch: Any = None
    ) -> bool | str:
        """The host does not check inputs that are named here: names of other packs (ALIASES) pass too."""
        if isinstance(quant_mode, str) and quant_mode not in QUANT_MODES and quant_mode not in ALIASES:
            return f"precision {quant_mode!r} is not known. Choose one of: {', '.join(QUANT_MODES)}"
        names = [unet_name, *(name for name in (approximator, lite_patch) if name not in (OWN_APPROXIMATOR, NO_PATCH))]
        return next((told for name in names if (told := refused(name, model_path))), True)

    @classmethod
    def fingerprint_inputs(
        cls, unet_name: Any = None, approximator: Any = OWN_APPROXIMATOR, lite_patch: Any = NO_PATCH, **_: Any
    ) -> str:
        """Differs when a file has changed on disk, so that the model is loaded anew."""
        try:
            return fingerprint(LOADER, model_path(unet_name), *paths_of(approximator, lite_patch))
        except (ValueError, OSError):  # `execute` raises it
            return ""

    @classmethod
    def execute(
        cls,
        unet_name: str,
        quant_mode: str,
        approximator: str = OWN_APPROXIMATOR,
        prediction: str = "auto",
        text_ids: str = "auto",
        full_precision_matmul: bool = False,
        lite_patch: str = NO_PATCH,
    ) -> io.NodeOutput:
        other, patch = paths_of(approximator, lite_patch)
        model = load_chroma(
            model_path(unet_name), quant_mode, other, prediction, text_ids, full_precision_matmul, patch
        )
        report(cls, lambda: model_report(model))
        return io.NodeOutput(model)


def paths_of(approximator: str, lite_patch: str) -> tuple[str | None, str | None]:
    """The files that the model is put together with; None where there is none."""
    return (
        None if approximator == OWN_APPROXIMATOR else model_path(approximator),
        None if lite_patch == NO_PATCH else model_path(lite_patch),
    )
