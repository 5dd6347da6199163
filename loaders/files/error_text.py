"""Quotes of a damaged file for errors: short, on one line, printable only."""

from __future__ import annotations

import reprlib

MAX_NAME = 256  # characters of a tensor's name or a metadata key; published ones have up to 80
MAX_QUOTE = 80
MAX_REASON = 160


def short(found: object) -> str:
    """What was found, as Python writes it, cut to fit a message."""
    cut = reprlib.Repr()
    cut.maxstring = cut.maxother = MAX_QUOTE
    return cut.repr(found)[:MAX_QUOTE]


def reason(error: BaseException) -> str:
    """The first line of another library's error, or its class name if nothing is printable."""
    text = "".join(c for c in str(error).strip().partition("\n")[0] if c.isprintable())
    return text[:MAX_REASON] or type(error).__name__


def name_problem(name: object) -> str | None:
    """Why a tensor's name or a key is refused; None if it is not."""
    if isinstance(name, str) and len(name) <= MAX_NAME and name.isprintable():
        return None
    return f"the name {short(name)}, expected at most {MAX_NAME} characters of text"
