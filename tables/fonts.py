"""Fonts of labels in pictures: Pillow's own, or one of the system's where that lacks a character."""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

OWN = ""  # Pillow's: ASCII and little more
FACES = (
    OWN,
    *("DejaVuSans.ttf", "LiberationSans-Regular.ttf", "segoeui.ttf", "Arial.ttf"),  # Latin, Greek, Cyrillic
    *("NotoSansCJK-Regular.ttc", "NotoSansCJK-VF.ttc", "NotoSansCJKsc-Regular.otf"),  # Linux
    *("wqy-zenhei.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf"),
    *("msyh.ttc", "msgothic.ttc", "malgun.ttf", "simsun.ttc"),  # Windows
    *("Arial Unicode.ttf", "Hiragino Sans GB.ttc", "PingFang.ttc", "AppleSDGothicNeo.ttc"),  # macOS
)
TRIED_SIZE = 16
UNDRAWN = ("Cc", "Cs")  # control characters, halves of surrogate pairs
NO_CHARACTER = "\uffff"  # fonts draw for it what they draw for all that they lack


@dataclass(frozen=True)
class Face:
    """A font in any size. name: of its file, one of FACES."""

    name: str

    def font(self, size: float) -> FreeTypeFont:
        return opened(self.name, round(size))

    def shown(self, text: str) -> str:
        """The text with escapes in place of what the font lacks, so that labels still differ; lines stay lines."""
        lines = ("".join(self._shown(c) for c in line) for line in text.split("\n"))
        return "\n".join(lines)

    def _shown(self, character: str) -> str:
        if has(self.name, character):
            return character
        return " " if character.isspace() else ascii(character)[1:-1]


def face_for(*texts: str) -> Face:
    """The first that has every character of the texts; where none has, the one that lacks fewest."""
    chars = sorted({c for text in texts for c in text if not c.isspace()})
    fewest, best = len(chars) + 1, OWN
    for name in FACES:
        lacking = sum(not has(name, c) for c in chars)
        if lacking < fewest:
            fewest, best = lacking, name
        if not lacking:
            break
    return Face(best)


@functools.lru_cache(maxsize=256)
def opened(name: str, size: int) -> FreeTypeFont | None:
    """None for a font that this system has not."""
    from PIL import ImageFont

    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


@functools.lru_cache(maxsize=1 << 16)
def has(name: str, character: str) -> bool:
    font = opened(name, TRIED_SIZE)
    if font is None or unicodedata.category(character) in UNDRAWN:
        return False
    box, mask = (font.getmask(c) for c in (NO_CHARACTER, character))
    return (mask.size, bytes(mask)) != (box.size, bytes(box))
