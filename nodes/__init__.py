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
    """What is put into the host's lists and routes beside nodes. module: with a function `register`."""

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
    Feature("clip", ("ChromaCLIPLoader",), ("models", "text encoders")),
    Feature("doctor", ("ChromaDoctor",), ("models", "prompts", "samplers", "schedules", "advice")),
    Feature("ksampler", ("ChromaKSampler",), ("guidance", "schedules", "sampling")),
    Feature("lora", ("ChromaLoraLoader",), ("LoRAs",)),
    Feature("compare_models", ("ChromaCompareModels",), ("models", "blocks", "saving")),
    Feature("measure_blocks", ("ChromaMeasureBlocks",), ("models", "blocks")),
    Feature("nag", ("ChromaNAG",), ("models", "NAG")),
    Feature("padding", ("ChromaPadMask",), ("prompts",)),
    Feature("preset", ("ChromaPreset",), ("samplers", "schedules", "advice")),
    Feature("prompt", ("ChromaPrompt",), ("prompts",)),
    Feature("run_report", ("ChromaRunReport",), ("guidance",)),
    Feature("save", ("ChromaSaveQuantized",), ("LoRAs", "saving")),
    Feature("plot", ("ChromaSigmasPlot",), ("schedules",)),
    Feature("skip_blocks", ("ChromaSkipBlocks",), ("models", "blocks")),
    Feature("style", ("ChromaStyleModelApply",), ("prompts",)),
    Feature("text", ("ChromaTextEncode",), ("prompts",)),
    Feature("shift", ("ChromaTimestepShift",), ("schedules",)),
    Feature("fluxmod", ("FluxModSamplerWrapperNode", "KSamplerMod"), ("FluxMod's nodes",)),
)
REGISTRATIONS = (
    Registration("..host.sample.scheduler_menu", "schedules in KSampler's menus", ("schedules",)),
    Registration("..host.sample.samplers", "samplers in KSampler's menus", ("samplers",)),
    Registration(".shared.scheduler_curve", "the curve on scheduler nodes", ("curve",)),
)


def lacks_of(needs: tuple[str, ...], load: Callable[[], None]) -> str:
    """What the host lacks for a feature; empty where it could be loaded.

    raises: ModuleNotFoundError for a package that is not the host's: then nothing of this pack works.
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
        "Chroma Pack: %s not available, since this ComfyUI lacks something (%s). Update ComfyUI and this pack, and restart",
        what,
        lacks,
    )


class ChromaExtension(ComfyExtension):
    def __init__(self) -> None:
        self.nodes: list[type[io.ComfyNode]] | None = None  # once they have been asked for

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
            from .shared.report import with_encodable_errors  # here: it needs what an old host may lack

            module = importlib.import_module(f".{feature.module}", __name__)
            found = [getattr(module, name) for name in feature.nodes]
            for node in found:
                node.execute = classmethod(with_encodable_errors(node.execute.__func__))
                node.GET_SCHEMA()  # the host asks one by one, and would keep the nodes before one that fails
            nodes.extend(found)

        lost: dict[str, list[str]] = {}  # what is lacking -> the nodes that need it: one line for all of them
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
