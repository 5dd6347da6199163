"""DATA: what can be added to a prompt in the form that Chroma learnt, each with its source; and how it is joined.

Chroma's captions are sentences (by Gemini 1.5 flash), then tags, says GUIDE. Nothing is added unasked.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where an addition comes from, and how far it can be trusted."""

    title: str
    url: str
    standing: str


GUIDE = Source(
    "levzzz's guide to Chroma, sections 'prompting' and 'special tags and phrases'",
    "https://github.com/maybleMyers/chromaforge/blob/b4ebef299ffe065670e6bdb53e6adab61aae50d3/levzzz_chroma_guide.md",
    "by a user close to the training; no figures",
)

OURS = Source(
    "this pack's own sentences, in the form of the captions",
    "",
    "what the style looks like, in words; not measured, since that needs the 8.9B model",
)
YOURS = Source("the words that a person wrote", "", "")


@dataclass(frozen=True)
class Addition:
    """Text that may be added. told: what is known of it."""

    text: str
    told: str
    source: Source = GUIDE


@dataclass(frozen=True)
class Style:
    """How tags are joined to the sentences and to each other."""

    separator: str
    told: str
    source: Source = GUIDE


STYLES = {
    "photograph": Style(".", "tags after periods; commas would pull the picture towards a drawing"),
    "drawing": Style(",", "tags after commas, as in the captions of drawings and anime"),
}
NONE = "none"
AESTHETICS = {
    NONE: None,
    **{
        f"aesthetic {score}": Addition(f"aesthetic {score}", f"score {score} of 10 for looks, 10 the best")
        for score in reversed(range(11))
    },
    "aesthetic 11": Addition("aesthetic 11", "marks choice pictures made by AI; other words of the prompt may bleed"),
}
QUALITIES = {
    NONE: None,
    **{
        text: Addition(text, "a usual quality tag; it may work or not")
        for text in ("masterpiece", "best quality", "amazing quality", "low quality", "worst quality")
    },
}
PHOTO_SENTENCE = Addition(
    "The photograph is a .", "an error in the captions; at the end it may make pictures more photographic"
)
OPENINGS = {
    NONE: None,
    "A casual snapshot of": Addition("A casual snapshot of", "looks like an amateur's or a phone's photo"),
}
PLACE = "{prompt}"  # in a style prompt, where the text goes; the mark that prompt stylers of other tools use


def _style(text: str) -> Addition:
    return Addition(text, "a style prompt, merged with the text", OURS)


STYLE_PROMPTS = {
    NONE: None,
    "film photograph": _style("A photograph on 35 mm film. {prompt} Fine grain, muted colors, natural light."),
    "studio photograph": _style("A studio photograph. {prompt} Softbox light, plain backdrop, sharp focus."),
    "black-and-white photograph": _style("A black-and-white photograph. {prompt} Deep shadows, high contrast, grain."),
    "cinema still": _style("A still from a film. {prompt} Wide shot, shallow depth of field, graded colors."),
    "oil painting": _style("An oil painting on canvas. {prompt} Visible brushstrokes, thick paint, warm tones."),
    "watercolor": _style("A watercolor painting on rough paper. {prompt} Loose washes, soft edges, white paper."),
    "ink drawing": _style("A black ink drawing on white paper. {prompt} Clean lines, cross-hatching, no color."),
    "pencil sketch": _style("A graphite pencil sketch. {prompt} Light construction lines, soft shading, paper grain."),
    "anime": _style("A digital illustration in anime style. {prompt} Clean line art, cel shading, vivid colors."),
    "comic": _style("A comic book panel. {prompt} Bold outlines, flat colors, halftone dots."),
    "flat vector": _style("A flat vector illustration. {prompt} Simple shapes, solid colors, no texture."),
    "3D render": _style("A 3D render. {prompt} Smooth materials, soft global illumination, crisp reflections."),
    "pixel art": _style("Pixel art of a 16-bit game. {prompt} Limited palette, hard pixel edges."),
    "clay figure": _style("A photograph of a clay model. {prompt} Fingerprints in the clay, small set, soft light."),
}
MAX_REPEATS = 10
SENTENCE_ENDS = (".", "!", "?", "…", ":", ";", ",")


@dataclass(frozen=True)
class Choice:
    """What a person chose: keys of the tables above; tags and own_style are the person's own text."""

    style: str = "photograph"
    opening: str = NONE
    aesthetic: str = NONE
    quality: str = NONE
    tags: str = ""
    photo_sentences: int = 0
    style_prompt: str = NONE
    own_style: str = ""


def build(text: str, choice: Choice) -> tuple[str, list[Addition]]:
    """The prompt with what was chosen, and what was added. With nothing chosen it is the text itself.

    A tag that the text already has is not added again.
    raises: ValueError for a choice that the tables do not have.
    """
    if choice.style not in STYLES:
        raise ValueError(f"style {choice.style!r} is not known (known: {', '.join(STYLES)})")
    separator = STYLES[choice.style].separator
    additions = [
        _chosen(name, table, key)
        for name, table, key in (
            ("aesthetic", AESTHETICS, choice.aesthetic),
            ("quality", QUALITIES, choice.quality),
            ("opening", OPENINGS, choice.opening),
            ("style prompt", STYLE_PROMPTS, choice.style_prompt),
        )
    ]
    style_prompt, opening = additions.pop(), additions.pop()
    used = [addition for addition in additions if addition and not _has(text, addition.text)]
    own = [tag for tag in choice.tags.replace("\n", ",").split(",") if tag.strip() and not _has(text, tag)]
    tags = [*(tag.strip().rstrip(".") for tag in own), *(addition.text for addition in used)]

    out = text
    if opening and not text.lstrip().lower().startswith(opening.text.lower()):
        used.insert(0, opening)
        out = f"{opening.text} {text.lstrip()}"
    if style_prompt:
        used.append(style_prompt)
        out = merged(style_prompt.text, out)
    if choice.own_style.strip():
        used.append(Addition(choice.own_style.strip(), "your own style prompt, merged with the text", YOURS))
        out = merged(choice.own_style, out)
    if tags:
        end = separator if separator == "." else ""
        out = _joined(out, separator, f"{separator} ".join(tags) + end)
    if choice.photo_sentences:
        used.append(PHOTO_SENTENCE)
        out = _joined(out, ".", " ".join([PHOTO_SENTENCE.text] * choice.photo_sentences))
    return out, used


def merged(style_prompt: str, text: str) -> str:
    """The text in the place of `{prompt}` in the style prompt; after the text's sentence, if it has no such place.

    A sentence that follows is parted from the text by a period where the text ends without one.
    """
    before, place, after = style_prompt.strip().partition(PLACE)
    if not place:
        before, after = "", f" {before}"
    out = before + (text.strip() if before else text)
    after = after.replace(PLACE, "").rstrip()
    if not after:
        return out
    more = after.lstrip()
    begins_a_sentence = not place or (more != after and not more[0].islower())
    return _joined(out, ".", more) if begins_a_sentence else out.rstrip() + after


def _chosen(name: str, table: dict[str, Addition | None], key: str) -> Addition | None:
    if key not in table:
        raise ValueError(f"{name} {key!r} is not known (known: {', '.join(table)})")
    return table[key]


def _has(text: str, tag: str) -> bool:
    """Whether the text has this tag as whole words."""
    folded, words = text.lower(), tag.strip().lower()
    at = folded.find(words)
    while at >= 0:
        before, after = folded[at - 1 : at], folded[at + len(words) : at + len(words) + 1]
        if not (before.isalnum() or after.isalnum()):
            return True
        at = folded.find(words, at + 1)
    return False


def _joined(text: str, separator: str, more: str) -> str:
    body = text.rstrip()
    if not body:
        return more
    return f"{body} {more}" if body.endswith(SENTENCE_ENDS) else f"{body}{separator} {more}"
