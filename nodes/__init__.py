"""The pack's nodes (ComfyUI's V3 schema), one concern a file."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .clip import ChromaCLIPLoader
from .guidance import ChromaCFGGuider, ChromaGuidance
from .loader import ChromaDiffusionLoader
from .lora import ChromaLoraLoader
from .nag import ChromaNAG
from .padding import ChromaPadMask
from .prompt import ChromaPrompt
from .run_report import ChromaRunReport
from .save import ChromaSaveQuantized
from .style import ChromaStyleModelApply
from .text import ChromaTextEncode


class ChromaExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            ChromaDiffusionLoader,
            ChromaCFGGuider,
            ChromaCLIPLoader,
            ChromaGuidance,
            ChromaLoraLoader,
            ChromaNAG,
            ChromaPadMask,
            ChromaPrompt,
            ChromaRunReport,
            ChromaSaveQuantized,
            ChromaStyleModelApply,
            ChromaTextEncode,
        ]
