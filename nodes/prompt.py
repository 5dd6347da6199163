"""Chroma Prompt."""

from __future__ import annotations

from comfy_api.latest import io

from ..constants import Lines
from ..prompts.tags import AESTHETICS, MAX_REPEATS, NONE, OPENINGS, QUALITIES, STYLE_PROMPTS, STYLES, Choice, build
from .shared.checked_node import CheckedNode
from .shared.report import report
from .shared.text_ahead import terse_lines


class ChromaPrompt(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaPrompt",
            display_name="Chroma Prompt",
            category="conditioning/chroma",
            description="Merges a style prompt with a prompt, and adds quality and aesthetic tags, in the form that "
            "Chroma's captions have: sentences first, tags at the end. Adds only what you choose. The longer form that it "
            "offers for a terse text is advice; its effect was not measured.",
            search_aliases=[
                "prompt builder",
                "prompt styler",
                "style prompt",
                "aesthetic",
                "quality tags",
                "masterpiece",
                "text",
                "tags",
            ],
            inputs=[
                io.String.Input(
                    "text", multiline=True, dynamic_prompts=True, tooltip="What the picture shows, in sentences."
                ),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default="photograph",
                    tooltip="How tags are joined. photograph: with periods. drawing: with commas, which pull towards "
                    "drawings and anime.",
                ),
                io.Combo.Input(
                    "aesthetic",
                    options=list(AESTHETICS),
                    default=NONE,
                    optional=True,
                    tooltip="The captions' score for looks, 0 to 10. 11 marks selected pictures made by AI; with it "
                    "the prompt's words may bleed into each other.",
                ),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITIES),
                    default=NONE,
                    optional=True,
                    tooltip="A common quality tag. It may have no effect.",
                ),
                io.String.Input(
                    "tags",
                    default="",
                    optional=True,
                    tooltip="Tags of your own, separated by commas; the style decides how they are joined.",
                ),
                io.Combo.Input(
                    "opening",
                    options=list(OPENINGS),
                    default=NONE,
                    optional=True,
                    advanced=True,
                    tooltip="Words before the text. A casual snapshot of: for the look of an amateur's or phone's "
                    "photo.",
                ),
                io.Int.Input(
                    "photo_sentences",
                    default=0,
                    min=0,
                    max=MAX_REPEATS,
                    optional=True,
                    advanced=True,
                    display_name="photo sentences",
                    tooltip="How many times 'The photograph is a .' is added at the end, 0 to 10. The sentence is a "
                    "mistake in the captions, said to make photos more realistic. Each costs 7 tokens.",
                ),
                io.Combo.Input(
                    "style_prompt",
                    options=list(STYLE_PROMPTS),
                    default=NONE,
                    optional=True,
                    display_name="style prompt",
                    tooltip="Sentences that say how the picture is made, merged with the text. The node shows them.",
                ),
                io.String.Input(
                    "own_style",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    display_name="own style prompt",
                    tooltip="A style prompt of your own. {prompt} stands for the text; without it the sentences follow "
                    "the text.",
                ),
            ],
            outputs=[io.String.Output(display_name="prompt", tooltip="The prompt, for a text encode node.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        text: str,
        style: str = "photograph",
        aesthetic: str = NONE,
        quality: str = NONE,
        tags: str = "",
        opening: str = NONE,
        photo_sentences: int = 0,
        style_prompt: str = NONE,
        own_style: str = "",
    ) -> io.NodeOutput:
        choice = Choice(style, opening, aesthetic, quality, tags, photo_sentences, style_prompt, own_style)
        prompt, rules = build(text, choice)
        lines = [prompt if prompt != text else "nothing added"]
        lines += [f"{rule.text} — {rule.told}" for rule in rules]
        report(cls, lambda: Lines([*lines, *terse_lines(text, vars(choice))]))
        return io.NodeOutput(prompt)
