"""Travels as `av`: ComfyUI imports PyAV for its types of video nodes, no part uses it, and it is 25 MiB of codecs."""

from __future__ import annotations

import sys
import types
from typing import Any


class Names(types.ModuleType):
    """A module that has a class of every name."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


for place in ("", ".container", ".subtitles", ".subtitles.stream", ".video", ".video.reformatter"):
    sys.modules[__name__ + place] = Names(__name__ + place)
