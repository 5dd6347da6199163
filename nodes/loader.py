"""Load Chroma Model."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..loaders.comfy_model import describe, load_chroma
from ..loaders.quant import ALIASES, QUANT_MODES
from .report import report

FOLDERS = ("diffusion_models", "unet_gguf")  # the second exists where a GGUF pack has registered it


def model_files() -> list[str]:
    names = [n for f in FOLDERS if f in folder_paths.folder_names_and_paths for n in folder_paths.get_filename_list(f)]
    return sorted(set(names), key=str.lower)


def model_path(name: str) -> str:
    """raises: ValueError if the name is not one of the listed files."""
    if name in model_files():
        for folder in FOLDERS:
            path = folder in folder_paths.folder_names_and_paths and folder_paths.get_full_path(folder, name)
            if path:
                return path
    raise ValueError(
        f"{name}: not among the model files. Put it into ComfyUI/models/diffusion_models and refresh the page"
    )


class ChromaDiffusionLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaDiffusionLoader",
            display_name="Load Chroma Model",
            category="loaders/chroma",
            description="Loads a Chroma diffusion model from models/diffusion_models, at its own sizes, "
            "and keeps or changes the precision of its weights.",
            search_aliases=["UNETLoader", "Load Diffusion Model", "Chroma", "FluxMod"],
            inputs=[
                io.Combo.Input(
                    "unet_name",
                    options=model_files(),
                    display_name="model",
                    tooltip="A file from models/diffusion_models with Chroma's weights (.safetensors).",
                ),
                io.Combo.Input(
                    "quant_mode",
                    options=list(QUANT_MODES),
                    default="auto",
                    display_name="precision",
                    tooltip="How the weights are kept. auto: 16-bit files as they are. int8_convrot: half of bf16's "
                    "memory, weight error about 1 %. fp8_scaled: half of bf16's memory, weight error about "
                    "2.7 %. bf16, fp16, fp32: plain weights of that type. 8-bit modes change the linear layers "
                    "of the blocks only.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for any sampler or model node.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, quant_mode: str) -> bool | str:
        # Named here so that texts of other packs' workflows pass, which are not in the list.
        if quant_mode in QUANT_MODES or quant_mode in ALIASES:
            return True
        return f"precision {quant_mode!r} is not known. Choose one of: {', '.join(QUANT_MODES)}"

    @classmethod
    def execute(cls, unet_name: str, quant_mode: str) -> io.NodeOutput:
        model = load_chroma(model_path(unet_name), quant_mode)
        report(cls, describe(model))
        return io.NodeOutput(model)
