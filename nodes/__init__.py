"""The pack's nodes (ComfyUI's V3 schema), one concern a file."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..host.sample import samplers as comfy_samplers
from ..host.sample import schedulers as comfy_schedulers
from .clip import ChromaCLIPLoader
from .doctor import ChromaDoctor
from .fluxmod import FluxModSamplerWrapperNode, KSamplerMod
from .guidance import ChromaCFGGuider, ChromaGuidance
from .ksampler import ChromaKSampler
from .loader import ChromaDiffusionLoader
from .lora import ChromaLoraLoader
from .nag import ChromaNAG
from .padding import ChromaPadMask
from .plot import ChromaSigmasPlot
from .preset import ChromaPreset
from .prompt import ChromaPrompt
from .run_report import ChromaRunReport
from .save import ChromaSaveQuantized
from .schedule import ChromaBetaScheduler, ChromaScheduler, ChromaSigmoidOffsetScheduler
from .shared import curve_route
from .shift import ChromaTimestepShift
from .style import ChromaStyleModelApply
from .text import ChromaTextEncode


class ChromaExtension(ComfyExtension):
    async def on_load(self) -> None:
        comfy_schedulers.register()
        comfy_samplers.register()
        curve_route.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            ChromaDiffusionLoader,
            ChromaBetaScheduler,
            ChromaCFGGuider,
            ChromaCLIPLoader,
            ChromaDoctor,
            ChromaGuidance,
            ChromaKSampler,
            ChromaLoraLoader,
            ChromaNAG,
            ChromaPadMask,
            ChromaPreset,
            ChromaPrompt,
            ChromaRunReport,
            ChromaSaveQuantized,
            ChromaScheduler,
            ChromaSigmasPlot,
            ChromaSigmoidOffsetScheduler,
            ChromaStyleModelApply,
            ChromaTextEncode,
            ChromaTimestepShift,
            FluxModSamplerWrapperNode,
            KSamplerMod,
        ]
