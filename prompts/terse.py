"""DATA: what a terse prompt lacks, and what may be put in its place. Rules and templates: nothing is added unasked.

Chroma's captions are long: sentences on what is seen, where, in what light and how the picture is made. A few words leave
all that open, and pictures of them vary and blur. The sentences here are this pack's own and name nothing that the prompt
does not call for; what they do was not measured, since that needs the 8.9B model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_WORDS = 14  # of a terse prompt; captions have some hundred
SOURCE = "levzzz's guide to Chroma, 'prompting': long sentences; a negative prompt of 70 tokens or more"
CFG = 4.0  # the upper end of the guide's 3 to 4 for Chroma1-HD
ARTICLES = re.compile(r"^(?:an?|the|some|two|three|four|many|several|\d+)\b", re.I)


@dataclass(frozen=True)
class Part:
    """Something that a caption tells. words: any of them tells it. sentence: for what the prompt leaves open, by style."""

    name: str
    words: re.Pattern[str]
    sentence: dict[str, str]


def _words(text: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{text})\b", re.I)


PHOTOGRAPH, DRAWING = "photograph", "drawing"  # keys of tags.STYLES
MEDIUM = Part(
    "medium",
    _words(
        r"photo\w*|picture|painting|painted|drawing|drawn|illustrat\w+|render\w*|sketch\w*|watercolou?r|anime|manga|comic|"
        r"pixel art|vector|still|film|snapshot|oil|ink|pencil|poster|logo|3d|cgi|sculpture|engraving|cartoon"
    ),
    {PHOTOGRAPH: "A photograph of ", DRAWING: "A detailed digital illustration of "},
)
PLACE = Part(
    "place",
    _words(
        r"in|on|at|under|beside|near|inside|outside|behind|between|among|above|over|background|backdrop|indoors?|outdoors?|"
        r"street|forest|room|beach|city|garden|field|sky|studio|kitchen|mountains?|sea|lake|river|desert|space"
    ),
    {
        PHOTOGRAPH: "It stands out from a softly blurred background that suits it.",
        DRAWING: "The background is simple and suits it.",
    },
)
LIGHT = Part(
    "light",
    _words(
        r"light\w*|lit|sun\w*|shadow\w*|dark\w*|bright\w*|glow\w*|night|dawn|dusk|neon|candle\w*|lamps?|overcast|moon\w*|"
        r"backlit|golden hour|fog\w*|mist\w*|noon|morning|evening"
    ),
    {
        PHOTOGRAPH: "Soft daylight falls from the side and leaves gentle shadows.",
        DRAWING: "The light is soft and even, with gentle shading.",
    },
)
PARTS = (MEDIUM, PLACE, LIGHT)
DETAIL = {
    PHOTOGRAPH: "Sharp focus on the subject, fine textures, natural colors.",
    DRAWING: "Clean lines, careful details, harmonious colors.",
}
NEGATIVE = {  # 70 tokens and more each, since shorter ones do harm; a test counts them
    PHOTOGRAPH: "This is a low-quality image. It is blurry and out of focus, with heavy noise, compression artifacts and "
    "smeared textures. The colors are oversaturated and the lighting is flat and harsh. The subject is distorted, with bad "
    "anatomy, extra limbs, fused fingers and an asymmetrical face. The composition is cluttered and cropped badly. There is "
    "a watermark, a signature and unreadable text over the picture.",
    DRAWING: "This is a low-quality drawing. The lines are rough and broken, the shading is muddy and the colors clash. The "
    "subject is distorted, with bad anatomy, extra limbs, fused fingers and a misshapen face. The perspective is wrong and "
    "the background is unfinished. The image is blurry, with compression artifacts and jagged edges. There is a watermark, "
    "a signature and unreadable text over the picture.",
}


@dataclass(frozen=True)
class Offer:
    """For a terse prompt: what it leaves open, a long form of it, a negative prompt and a cfg."""

    lacks: tuple[str, ...]
    long: str
    negative: str
    cfg: float = CFG


def offer(text: str, style: str = PHOTOGRAPH) -> Offer | None:
    """What may be put in the place of a prompt; None for one that is not terse.

    style: one of tags.STYLES.
    """
    plain = text.strip()
    num_words = len(re.findall(r"\w+", plain))
    lacks = [part for part in PARTS if not part.words.search(plain)]
    if not num_words or num_words > MAX_WORDS or len(lacks) < 2:
        return None
    style = style if style in DETAIL else PHOTOGRAPH
    subject = plain.rstrip(" .,;")
    if MEDIUM in lacks:
        first = subject[:1].lower() + subject[1:] if ARTICLES.match(subject) else subject
        subject = MEDIUM.sentence[style] + first
    rest = [part.sentence[style] for part in lacks if part is not MEDIUM]
    long = " ".join([f"{subject[:1].upper()}{subject[1:]}.", *rest, DETAIL[style]])
    return Offer(tuple(part.name for part in lacks), long, NEGATIVE[style])
