"""Chroma Studio: one node for the usual ways to a picture, which expands into the nodes that exist."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

import nodes

from ..advice.presets import CHOICES, STANDARD
from ..advice.studio import (
    EDIT,
    ENLARGE,
    INPAINT,
    MAX_LORAS,
    NO_LORAS,
    OUTPAINT,
    OWN_APPROXIMATOR,
    PICTURE,
    TEXT,
    StudioGraph,
    studio_graph,
)
from ..constants import AS_TRAINED, BY_RESOLUTION, CUSTOM, FROM_MODEL
from .clip import ChromaCLIPLoader
from .ksampler import SHIFT, sampler_input, schedule_input
from .loader import ChromaDiffusionLoader
from .lora import ChromaLoraLoader
from .shared.checked_node import CheckedNode
from .shared.files import HOW_TO_ADD, encoder_files, lora_files, model_files, vae_files, vae_names
from .shared.inputs import CATEGORY, cfg_input, choice, number, seed_input, steps_input
from .shared.report import report

RAW = {"lazy": True, "raw_link": True}  # a link goes on as it is: what a value makes in the expansion is never cached
MAX_SIDE = 16384
AREA = (
    "Area at which it is painted: 1 is that of 1024 x 1024 pixels. 0: the picture as it is; in edit, the nearest of the "
    "seventeen sizes of FLUX.1 Kontext."
)
LOADERS = {one.__name__: one for one in (ChromaDiffusionLoader, ChromaCLIPLoader, ChromaLoraLoader)}


def picture(**more: Any) -> io.Input:
    tooltip = "The picture to begin with, from Load Image. In enlarge it is what is enlarged, in place of a first pass."
    return io.Image.Input("image", tooltip=tooltip, **RAW, **more)


def side(name: str, default: int) -> io.Input:
    return number(name, default, 16, MAX_SIDE, 16, f"{name.capitalize()} of the picture in pixels, in steps of 16.")


def added(name: str, default: int = 0) -> io.Input:
    return number(name, default, 0, MAX_SIDE, 16, "Pixels that are added at this side, in steps of 16.")


def denoise(default: float) -> io.Input:
    tooltip = "How much is made anew: 0.3 keeps nearly all, 0.6 the composition, 0.9 little."
    return number("denoise", default, 0.0, 1.0, 0.01, tooltip)


def megapixels(default: float = 1.0, low: float = 0.0) -> io.Input:
    return number("megapixels", default, low, 16.0, 0.01, AREA)


def modes() -> dict[str, list[io.Input]]:
    """The inputs of each mode, with one tooltip for all that have the same name. Saved workflows know widgets by their
    position: a new one would move those behind the mode, so it becomes a last input of the node."""
    context = (
        "How much the model sees around the mask: width and height of what is cut out, as a multiple of the mask's."
    )
    return {
        TEXT: [side("width", 1024), side("height", 1024)],
        PICTURE: [picture(), denoise(0.6), megapixels()],
        INPAINT: [
            picture(),
            io.Mask.Input("mask", tooltip="1 where the picture is made anew, from Load Image.", **RAW),
            denoise(0.8),
            megapixels(low=0.01),
            number("context", 1.5, 1.0, 10.0, 0.05, context),
        ],
        OUTPAINT: [
            picture(),
            added("left"),
            added("top"),
            added("right", 256),
            added("bottom"),
            number("feathering", 40, 0, MAX_SIDE, 1, "Pixels of the picture over which old and new are blended."),
            megapixels(),
        ],
        ENLARGE: [
            side("width", 768),
            side("height", 768),
            number("factor", 1.5, 1.0, 4.0, 0.05, "How much wider and higher the second pass is."),
            denoise(0.45),
            picture(optional=True),
        ],
        EDIT: [
            picture(),
            megapixels(0.0),
            number("guidance", 2.5, 0.0, 100.0, 0.1, "For FLUX.1 Kontext: 2.5. 0: none, for Chroma."),
        ],
    }


def custom() -> list[io.Input]:
    shifts = [AS_TRAINED, BY_RESOLUTION, FROM_MODEL]
    shift = io.Combo.Input("shift", options=shifts, default=AS_TRAINED, tooltip=SHIFT)
    return [steps_input(), cfg_input(), sampler_input(), schedule_input(), shift]


def loras(count: int) -> list[io.Input]:
    out: list[io.Input] = []
    for i in range(1, count + 1):
        files = lora_files()
        out.append(
            io.Combo.Input(f"lora_{i}", options=files, tooltip="A LoRA from models/loras, for Chroma or FLUX.1.")
        )
        strength = "How strongly it acts: 1 as trained, 0 not at all."
        out.append(number(f"strength_{i}", 1.0, -100.0, 100.0, 0.01, strength))
    return out


class ChromaStudio(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        models = model_files()
        optional = {"optional": True}
        return io.Schema(
            node_id="ChromaStudio",
            display_name="Chroma Studio",
            category=CATEGORY,
            description="Text to image, image to image, inpaint, outpaint, enlarge and edit in one node, which shows the "
            "inputs of the chosen mode alone. It loads the files, with up to three LoRAs, and takes settings that fit the "
            "checkpoint. Open as nodes puts the same graph on the canvas.",
            search_aliases=[
                "all in one",
                "txt2img",
                "img2img",
                "inpaint",
                "outpaint",
                "upscale",
                "edit",
                "kontext",
                "easy",
            ],
            inputs=[
                choice("mode", "What is done. The node shows the inputs that this needs.", modes()),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the picture shows; in edit, what changes.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    display_name="negative prompt",
                    tooltip="What the picture should not show. It works best empty, or with 70 tokens or more.",
                ),
                seed_input(),
                choice(
                    "quality",
                    "standard: half the steps of the recognised checkpoint's preset, with chroma_sigma_2m. draft: a third. "
                    "quality: all of them with chroma_sigma_3m. flash: for a Flash checkpoint or LoRA. custom: values of your "
                    "own.",
                    {STANDARD: [], **{name: [] for name in CHOICES if name != STANDARD}, CUSTOM: custom()},
                ),
                io.Combo.Input(
                    "unet_name",
                    options=models,
                    display_name="model file",
                    tooltip="A file with Chroma's weights, as in Load Chroma Model. Does nothing if a model is connected.",
                    **optional,
                ),
                io.Combo.Input(
                    "clip_name",
                    options=encoder_files(),
                    display_name="text encoder",
                    tooltip="A file with T5's weights, as in Load Chroma Text Encoder. Does nothing if a clip is connected.",
                    **optional,
                ),
                io.Combo.Input(
                    "vae_name",
                    options=vae_files(vae_names()),
                    display_name="VAE file",
                    tooltip="FLUX's VAE, ae.safetensors; pixel_space for Radiance. Does nothing if a vae is connected.",
                    **optional,
                ),
                choice(
                    "loras",
                    "How many LoRAs are put on the model, one after another.",
                    {NO_LORAS: [], **{str(n): loras(n) for n in range(1, MAX_LORAS + 1)}},
                    **optional,
                ),
                io.Combo.Input(
                    "approximator",
                    options=[OWN_APPROXIMATOR, *models],
                    default=OWN_APPROXIMATOR,
                    tooltip="Takes the Approximator from another file, to run FLUX.1 or FLUX.1 Kontext.",
                    advanced=True,
                    **optional,
                ),
                io.Model.Input("model", tooltip="A model, in place of the model file.", **RAW, **optional),
                io.Clip.Input("clip", tooltip="A text encoder, in place of the file.", **RAW, **optional),
                io.Vae.Input("vae", tooltip="A VAE, in place of the file.", **RAW, **optional),
            ],
            outputs=[io.Image.Output(tooltip="The finished picture.")],
            hidden=[io.Hidden.unique_id],
            enable_expand=True,
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool:
        """Has the host leave the files to the loaders, whose sentences say where to put them; who links needs none.

        The host looks for `loras.lora_1` among the names here, which no parameter can have, so all values are taken;
        `execute` checks them.
        """
        return True

    @classmethod
    def fingerprint_inputs(cls, **values: Any) -> str:
        """Differs when a file has changed on disk: the loaders are not asked while this node comes from the cache."""
        try:
            made = studio_graph(values).nodes.values()
        except ValueError:  # `execute` raises it
            return ""
        asked = ((LOADERS[node["class_type"]], node["inputs"]) for node in made if node["class_type"] in LOADERS)
        return "; ".join(loader.fingerprint_inputs(**inputs) for loader, inputs in asked)

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        graph = studio_graph(values, GraphBuilder.alloc_prefix())
        check(graph)
        report(cls, lambda: in_short(values, graph), parts={key: title_of(node) for key, node in graph.nodes.items()})
        return io.NodeOutput(graph.output, expand=graph.nodes)


def check(graph: StudioGraph) -> None:
    """raises: ValueError for a node or a VAE that is not there; the host has no sentence of its own for them."""
    for node in graph.nodes.values():
        if node["class_type"] not in nodes.NODE_CLASS_MAPPINGS:
            raise ValueError(f"this ComfyUI has no node {node['class_type']}, which this mode needs. Update ComfyUI")
        name = node["inputs"].get("vae_name")
        if name is not None and name not in vae_names():
            raise ValueError(f"{name}: not among the VAE files. {HOW_TO_ADD.format(folder='vae')}")


def title_of(node: dict[str, Any]) -> str:
    own = node.get("_meta", {}).get("title")
    return own or nodes.NODE_DISPLAY_NAME_MAPPINGS.get(node["class_type"], node["class_type"])


def in_short(values: dict[str, Any], graph: StudioGraph) -> str:
    mode, quality = (dict(values[name])[name] for name in ("mode", "quality"))
    return f"{mode}, {quality}: {len(graph.nodes)} nodes"
