"""How much of a damaged file an error may quote: little, on one line, and only what can be shown."""

from __future__ import annotations

import reprlib

MAX_NAME = 256  # characters of a tensor's name or a metadata key; published ones have up to 80
MAX_QUOTE = 80
MAX_REASON = 160


def short(found: object) -> str:
    """What was found, as Python writes it, cut to what a message has room for."""
    cut = reprlib.Repr()
    cut.maxstring = cut.maxother = MAX_QUOTE
    return cut.repr(found)[:MAX_QUOTE]


def shortened(name: str) -> str:
    """A name without its middle, where it is longer than a message has room for."""
    half = MAX_REASON // 2
    return name if len(name) <= MAX_REASON else f"{name[:half]}...{name[-half:]}"


def reason(error: BaseException) -> str:
    """The first line of another library's error, or its kind where it says nothing that can be shown."""
    text = "".join(c for c in str(error).strip().partition("\n")[0] if c.isprintable())
    return text[:MAX_REASON] or type(error).__name__


def name_problem(name: object) -> str | None:
    """Why a tensor's name or a key can not be one, or None where it can."""
    if isinstance(name, str) and len(name) <= MAX_NAME and name.isprintable():
        return None
    return f"the name {short(name)}, expected at most {MAX_NAME} characters of text"
