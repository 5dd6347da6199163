"""DATA and rules: how a prompt becomes Chroma's text tokens, and what a person is told of it. Pure: no host, no weight.

Training gave T5 512 tokens; the transformer then saw the valid tokens and one pad. T5's mask was the outer product of the
tokens' mask with itself: a valid token attends to the valid ones, and a pad, with nothing left to attend to, to all 512
alike. transformers and diffusers mask the keys alone, so there the pad attends to the valid tokens.
Either way no valid token sees the pads and all pads are equal, so T5 computes only the valid tokens and one pad. Counts
of tokens include `</s>`, as the 512 do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Sequence

from ..constants import FOREIGN_SYNTAX, INFO, MAX_TOKENS, SHORT_NEGATIVE, WARNING, Line, Lines, counted

MAX_CHOICES = 20  # that stand in each other
BAR_CELLS = 20
NUM_TOLD = 8  # most words or weights that a line names

# A token of T5's tokenizer: its number, or the vector from an `embedding:` file; and its weight.
Token = tuple[Any, float]


@dataclass(frozen=True)
class Mode:
    """mask: of T5's attention, one of the three below. num_pads: rows after the valid ones. told: the mode in words."""

    mask: str
    num_pads: int
    told: str

    @property
    def masked(self) -> bool:
        """Whether valid tokens do not see the pad."""
        return self.mask != UNMASKED


LEGACY = "legacy"
OUTER, KEYS, UNMASKED = "outer product", "keys", "none"
MODES: dict[str, Mode | None] = {
    "exact": Mode(OUTER, 1, "exact: T5 with its mask, one pad, as trained"),
    "as diffusers": Mode(KEYS, 1, "as diffusers: as trained but for the pad, which attends to the prompt"),
    "one pad": Mode(UNMASKED, 1, "one pad: T5 without its mask, so the pad is in every token's embedding"),
    "no pad": Mode(UNMASKED, 0, "no pad: the valid tokens alone"),
    LEGACY: None,  # the host's own encoder, with one pad
}
LEGACY_TOLD = "legacy: ComfyUI's own encoder and its padding, min_padding 1"
LIMITS = ("truncate", "chunk and concatenate", "error")
ROLES = ("positive", "negative")


@dataclass(frozen=True)
class Prompt:
    """What became of a prompt.

    num_tokens: of the whole text, with `</s>`.
    chunks:     number of runs of T5.
    dropped:    number of tokens cut off; `first_dropped` is their first word.
    falls_off:  more of them, for the page.
    unknown:    number of tokens unknown to T5.
    weights:    words and weight of every run of tokens whose weight is not 1.
    """

    num_tokens: int
    chunks: int = 1
    dropped: int = 0
    first_dropped: str = ""
    unknown: int = 0
    weights: tuple[tuple[str, float], ...] = ()
    falls_off: str = ""


CHOICE = re.compile(r"(?<!\\)\{([^{}]*)\}")  # {one|another}, which the page resolves by chance when it queues


def longest(text: str) -> str:
    """The text with the longest of each choice by chance, of which a run gets any."""
    for _ in range(MAX_CHOICES):
        text, found = CHOICE.subn(lambda match: max(match[1].split("|"), key=len), text)
        if not found:
            break
    return text


def chunks(starts: Sequence[bool], size: int) -> list[slice]:
    """Consecutive runs of at most `size` tokens. A run ends before a word if one begins in it.

    starts: for each token whether a word begins with it.
    returns: at least one run, even if empty.
    """
    out, begin = [], 0
    while len(starts) - begin > size:
        end = next((i for i in range(begin + size, begin, -1) if starts[i]), begin + size)
        out.append(slice(begin, end))
        begin = end
    return [*out, slice(begin, len(starts))]


def fit(tokens: Sequence[Token], starts: Sequence[bool], limit: str) -> list[list[Token]]:
    """The tokens of each run of T5, without the `</s>` that each run gets. All others are dropped.

    starts: for each token whether a word begins with it.
    limit:  one of LIMITS. truncate: cut after 511 tokens, in a word or not, as Chroma's training and diffusers do.
    raises: ValueError if the limit is not known, or is `error` and the prompt is too long.
    """
    size = MAX_TOKENS - 1
    if limit not in LIMITS:
        raise ValueError(f"above 512 tokens: {limit!r} is not known (known: {', '.join(LIMITS)})")
    if limit == "error" and len(tokens) > size:
        raise ValueError(
            f"the prompt has {len(tokens) + 1:,} tokens, Chroma takes {MAX_TOKENS}. Shorten it by {len(tokens) - size:,}, or "
            "choose truncate, or chunk and concatenate"
        )
    if limit == "chunk and concatenate":
        return [list(tokens[run]) for run in chunks(starts, size)]
    return [list(tokens[:size])]


def word_start(starts: Sequence[bool], index: int) -> int:
    """The token that begins the word to which token `index` belongs."""
    return next((i for i in range(index, -1, -1) if starts[i]), index)


def bar(num_tokens: int) -> str:
    """How full the prompt is, in text; one cell at least, since `</s>` is always there."""
    full = min(BAR_CELLS, max(1, round(BAR_CELLS * num_tokens / MAX_TOKENS)))
    return "█" * full + "░" * (BAR_CELLS - full)


def foreign_syntax(text: str) -> list[tuple[str, str]]:
    """What in a prompt is meant for another program, with the remedy; once for each kind."""
    found = ((re.search(pattern, text), remedy) for pattern, remedy in FOREIGN_SYNTAX)
    return [(match[0], remedy) for match, remedy in found if match]


def prompt_report(prompt: Prompt, mode: str, role: str, text: str = "") -> Lines:
    """What a person is told. mode: one of MODES. role: one of ROLES; only a hint depends on it. text: the prompt."""
    count, kind = prompt.num_tokens, MODES[mode]
    lines = [f"{bar(count)} {count:,} of {MAX_TOKENS} tokens", kind.told if kind else LEGACY_TOLD]
    if prompt.weights:
        told = ", ".join(f"{words} {weight:g}" for words, weight in prompt.weights[:NUM_TOLD])
        more = len(prompt.weights) - NUM_TOLD
        lines.append(f"weights: {told}" + (f" and {more} more" if more > 0 else ""))
    if prompt.chunks > 1:
        lines.append(
            f"in {prompt.chunks} chunks, each encoded alone. Chroma has not learnt more than {MAX_TOKENS} tokens"
        )
    if prompt.dropped:
        lines.append(
            Line(
                "WARNING: ",
                WARNING,
                f"the last {counted(prompt.dropped, 'token')} {'is' if prompt.dropped == 1 else 'are'} dropped, from “{prompt.first_dropped}” on. Shorten the prompt",
            )
        )
    if kind is None and count > MAX_TOKENS:
        lines.append(
            Line(
                "WARNING: ",
                WARNING,
                f"{counted(count - MAX_TOKENS, 'token')} more than Chroma has learnt; legacy has no limit",
            )
        )
    if prompt.unknown:
        lines.append(
            Line(
                "WARNING: ",
                WARNING,
                f"T5 does not know the characters of {prompt.unknown} of the tokens, which all look alike to the model; "
                "write English",
            )
        )
    lines += [Line("hint: ", INFO, f"“{found}”: {remedy}") for found, remedy in foreign_syntax(text)]
    if role == "negative" and 1 < count < SHORT_NEGATIVE:
        lines.append(
            Line(
                "hint: ",
                INFO,
                f"a negative prompt does best empty, or with {SHORT_NEGATIVE} tokens or more; this has {count}",
            )
        )
    return Lines(lines)
