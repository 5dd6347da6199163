"""Chroma Text Encode."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.text.encode_prompt import encode
from ..prompts.tokens import LIMITS, MODES, ROLES, prompt_report
from .shared.checked_node import CheckedNode
from .shared.report import report


class ChromaTextEncode(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaTextEncode",
            display_name="Chroma Text Encode",
            category="conditioning/chroma",
            description="Encodes a prompt exactly as in Chroma's training: T5 with its attention mask, the prompt's "
            "tokens and one pad. Shows how many of the 512 tokens are used.",
            search_aliases=["CLIPTextEncode", "prompt", "text", "T5TokenizerOptions", "padding", "negative prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="Any CLIP with a T5 in it. Chroma needs T5-XXL v1.1 or flan-T5-xxl."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt, up to 512 tokens. (word:1.2) strengthens, (word:0.8) weakens, (word) means "
                    "1.1; write \\( and \\) for real parentheses.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="exact",
                    optional=True,
                    tooltip="exact: as trained. as diffusers: the same, except that the pad sees the prompt. The "
                    "other modes are for old seeds. one pad: a pad that T5 sees. no pad: none at all, as ComfyUI "
                    "does by itself. legacy: ComfyUI's own encoder with T5 Tokenizer Options 1 and 0. The shorter "
                    "the prompt, the more the modes differ.",
                ),
                io.Combo.Input(
                    "over_limit",
                    options=list(LIMITS),
                    default="truncate",
                    optional=True,
                    advanced=True,
                    display_name="above 512 tokens",
                    tooltip="truncate: the rest is dropped, and the node names its first words. chunk and "
                    "concatenate: each 512 tokens are encoded alone, and the model sees all of them, for which it "
                    "was not trained. error: the run stops.",
                ),
                io.Combo.Input(
                    "used_as",
                    options=list(ROLES),
                    default="positive",
                    optional=True,
                    advanced=True,
                    display_name="used as",
                    tooltip="What the prompt is for. Changes only the node's report: a negative prompt works best "
                    "empty, or with 70 tokens or more.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt for a sampler or guider. It needs no padding node.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, clip: Any, text: str, mode: str = "exact", over_limit: str = "truncate", used_as: str = "positive"
    ) -> io.NodeOutput:
        conditioning, prompt = encode(clip, text, mode, over_limit)
        report(cls, lambda: prompt_report(prompt, mode, used_as, text))
        return io.NodeOutput(conditioning)
