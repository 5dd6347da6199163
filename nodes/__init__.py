"""The pack's nodes (ComfyUI's V3 schema), one concern a file, imported feature by feature."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import Callable

from comfy_api.latest import ComfyExtension, io

from ..host import required_names


@dataclass(frozen=True)
class Feature:
    """Nodes that come or go together.

    module: of their classes, in this folder. needs: keys of `required_names.NEEDED`.
    """

    module: str
    nodes: tuple[str, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Registration:
    """What the pack adds to the host's lists or routes beside nodes. module: has a function `register`."""

    module: str
    what: str
    needs: tuple[str, ...]


SHARED = ("nodes",)
FEATURES = (
    Feature("loader", ("ChromaDiffusionLoader",), ("models",)),
    Feature(
        "schedule",
        ("ChromaBetaScheduler", "ChromaScheduler", "ChromaSigmoidOffsetScheduler"),
        ("schedules",),
    ),
    Feature("guidance", ("ChromaCFGGuider", "ChromaGuidance"), ("guidance",)),
    Feature("cache", ("ChromaCache",), ("models", "blocks")),
    Feature("clip", ("ChromaCLIPLoader",), ("models", "text encoders")),
    Feature("controlnet", ("ChromaControlNetApply",), ("ControlNets",)),
    Feature("doctor", ("ChromaDoctor",), ("models", "prompts", "samplers", "schedules", "advice")),
    Feature("flash", ("ChromaFlash",), ("LoRAs", "advice")),
    Feature("inpaint_crop", ("ChromaInpaintCrop", "ChromaInpaintStitch"), ("pictures",)),
    Feature("kontext", ("ChromaKontextSize",), ("pictures",)),
    Feature("ksampler", ("ChromaKSampler",), ("guidance", "samplers", "schedules", "sampling", "advice")),
    Feature("lora", ("ChromaLoraLoader",), ("LoRAs",)),
    Feature("compare_models", ("ChromaCompareModels",), ("models", "blocks", "saving")),
    Feature("compare_pictures", ("ChromaComparePictures",), ("tables",)),
    Feature("measure_blocks", ("ChromaMeasureBlocks",), ("models", "blocks")),
    Feature("nag", ("ChromaNAG",), ("models", "NAG")),
    Feature("padding", ("ChromaPadMask",), ("prompts",)),
    Feature("preset", ("ChromaPreset",), ("samplers", "schedules", "advice")),
    Feature("picture_grid", ("ChromaPictureGrid",), ("tables",)),
    Feature("prompt", ("ChromaPrompt",), ("prompts",)),
    Feature("prompt_list", ("ChromaPromptList", "ChromaRowValue"), ("tables",)),
    Feature("rope_scaling", ("ChromaRoPEScaling",), ("models",)),
    Feature("run_report", ("ChromaRunReport",), ("guidance",)),
    Feature("save", ("ChromaSaveQuantized",), ("LoRAs", "saving")),
    Feature("plot", ("ChromaSigmasPlot",), ("schedules",)),
    Feature("size", ("ChromaSize",), ("samplers", "schedules", "advice")),
    Feature("skip_blocks", ("ChromaSkipBlocks",), ("models", "blocks")),
    Feature("speed", ("ChromaSpeed",), ("guidance", "samplers", "schedules", "advice")),
    Feature(
        "studio",
        ("ChromaStudio",),
        (
            "models",
            "text encoders",
            "LoRAs",
            "prompts",
            "guidance",
            "samplers",
            "schedules",
            "sampling",
            "advice",
            "Studio",
        ),
    ),
    Feature("style", ("ChromaStyleModelApply",), ("prompts",)),
    Feature("text", ("ChromaTextEncode",), ("prompts",)),
    Feature("shift", ("ChromaTimestepShift",), ("schedules",)),
    Feature("xy_plot", ("ChromaXYPlot", "ChromaXYPlotCell"), ("tables", "XY plots")),
    Feature("fluxmod", ("FluxModSamplerWrapperNode", "KSamplerMod"), ("FluxMod's nodes",)),
)
REGISTRATIONS = (
    Registration("..host.sample.scheduler_menu", "schedules in KSampler's menus", ("schedules",)),
    Registration("..host.sample.samplers", "samplers in KSampler's menus", ("samplers",)),
    Registration(".shared.report", "reports on nodes of several workflows", ("reports",)),
    Registration(".taken_names", "a word on nodes of our names by another pack", ("old graphs",)),
    Registration(".shared.scheduler_curve", "the curve on scheduler nodes", ("curve",)),
    Registration(".shared.settings_ahead", "settings shown before a run", ("curve", "models", "sampling", "schedules")),
    Registration(".shared.studio_graph", "Chroma Studio opened as nodes", ("Studio",)),
    Registration(".shared.text_ahead", "prompts counted while they are typed", ("prompts",)),
    Registration(".old_graphs.registration", "nodes in the place of FluxMod's old ones", ("old graphs",)),
)


def lacks_of(needs: tuple[str, ...], load: Callable[[], None]) -> str:
    """Names what the host lacks for a feature; empty if the feature was loaded.

    raises: ModuleNotFoundError for a package that is not the host's; without it nothing of this pack works.
    """
    lacks = required_names.lacking((*SHARED, *needs))
    if lacks:
        return ", ".join(lacks)
    try:
        load()
    except (ImportError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in required_names.PACKAGES:
            raise
        logging.debug("Chroma Pack", exc_info=True)
        return str(error)
    return ""


def tell(what: str, lacks: str) -> None:
    logging.warning(
        "Chroma Pack: %s not available, since this ComfyUI lacks something (%s). Update ComfyUI and this pack, and "
        "restart",
        what,
        lacks,
    )


class ChromaExtension(ComfyExtension):
    def __init__(self) -> None:
        self.nodes: list[type[io.ComfyNode]] | None = None  # set by the first get_node_list

    async def on_load(self) -> None:
        for r in REGISTRATIONS:
            lacks = lacks_of(r.needs, lambda r=r: importlib.import_module(r.module, __name__).register())
            if lacks:
                tell(r.what, lacks)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes of all features that this host can run.

        raises: AttributeError if there is none.
        """
        if self.nodes is not None:
            return self.nodes
        nodes: list[type[io.ComfyNode]] = []

        def load(feature: Feature) -> None:
            from .shared.report import reporting  # not at the top: an old host may lack what it needs

            module = importlib.import_module(f".{feature.module}", __name__)
            found = [getattr(module, name) for name in feature.nodes]
            for node in found:
                reporting(node)
                node.GET_SCHEMA()  # now, so that a feature whose schema fails is left out whole
            nodes.extend(found)

        lost: dict[str, list[str]] = {}  # what is lacking -> the nodes that need it, for one line in the log
        for feature in FEATURES:
            lacks = lacks_of(feature.needs, lambda feature=feature: load(feature))
            if lacks:
                lost.setdefault(lacks, []).extend(feature.nodes)
        if not nodes:
            raise AttributeError("; ".join(lost))
        for lacks, names in lost.items():
            tell(", ".join(names), lacks)
        self.nodes = nodes
        return nodes
