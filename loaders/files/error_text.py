"""What an error or a log may quote of a file and its name: little, on one line, and only what can be shown."""

from __future__ import annotations

import reprlib
import sys

MAX_NAME = 256  # characters of a tensor's name or a metadata key; published ones have up to 80
MAX_QUOTE = 80
MAX_REASON = 160


def short(found: object) -> str:
    """What was found, as Python writes it, cut to fit a message."""
    cut = reprlib.Repr()
    cut.maxstring = cut.maxother = MAX_QUOTE
    return cut.repr(found)[:MAX_QUOTE]


def encodable(text: str, *encodings: str) -> str:
    """A text as these encodings can hold it, with \\N for the rest; without any, as the terminal can.

    A name may be no text at all (bytes that are not UTF-8), and a terminal's encoding may be ASCII. ComfyUI's queue ends for
    good where such a thing is logged.
    """
    for encoding in encodings or [getattr(s, "encoding", None) or "utf-8" for s in (sys.stdout, sys.stderr)]:
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    return text


def shortened(name: str) -> str:
    """A name without its middle, where it is longer than a message has room for."""
    half = MAX_REASON // 2
    return name if len(name) <= MAX_REASON else f"{name[:half]}...{name[-half:]}"


def reason(error: BaseException) -> str:
    """The first line of another library's error, or its class name if nothing is printable."""
    text = "".join(c for c in str(error).strip().partition("\n")[0] if c.isprintable())
    return text[:MAX_REASON] or type(error).__name__


def name_problem(name: object) -> str | None:
    """Why a tensor's name or a key is refused; None if it is not."""
    if isinstance(name, str) and len(name) <= MAX_NAME and name.isprintable():
        return None
    return f"the name {short(name)}, expected at most {MAX_NAME} characters of text"
