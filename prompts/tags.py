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
MAX_REPEATS = 10
SENTENCE_ENDS = (".", "!", "?", "…", ":", ";", ",")


@dataclass(frozen=True)
class Choice:
    """What a person chose: keys of the tables above; tags is the person's own text."""

    style: str = "photograph"
    opening: str = NONE
    aesthetic: str = NONE
    quality: str = NONE
    tags: str = ""
    photo_sentences: int = 0


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
        )
    ]
    opening = additions.pop()
    used = [addition for addition in additions if addition and not _has(text, addition.text)]
    own = [tag for tag in choice.tags.replace("\n", ",").split(",") if tag.strip() and not _has(text, tag)]
    tags = [*(tag.strip().rstrip(".") for tag in own), *(addition.text for addition in used)]

    out = text
    if opening and not text.lstrip().lower().startswith(opening.text.lower()):
        used.insert(0, opening)
        out = f"{opening.text} {text.lstrip()}"
    if tags:
        end = separator if separator == "." else ""
        out = _joined(out, separator, f"{separator} ".join(tags) + end)
    if choice.photo_sentences:
        used.append(PHOTO_SENTENCE)
        out = _joined(out, ".", " ".join([PHOTO_SENTENCE.text] * choice.photo_sentences))
    return out, used


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
