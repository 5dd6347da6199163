"""Numbers and words on which several folders must agree. Imports nothing; all may import it."""

MAX_TOKENS = 512  # in a prompt, `</s>` included; Chroma's training
SHORT_NEGATIVE = 70  # tokens; a shorter negative prompt does harm; levzzz's guide to Chroma

# What other programs read in a prompt, and T5 reads as words: pattern, and the remedy.
FOREIGN_SYNTAX = (
    (r"<(?:lora|lyco|hypernet):[^<>]*>", "it loads nothing here; use Load Chroma LoRA"),
    (r"\bBREAK\b", "it is read as a word; T5 takes the prompt as one text, so leave it out"),
    (r"(?<!\w)__[\w/*.-]+?__(?!\w)", "no file of wildcards is read; write {one|another} for a choice by chance"),
)
# Letters of scripts that T5's vocabulary, made for English, German, French and Romanian, has no words of.
UNREAD_SCRIPTS = "\u0590-\u08ff\u0900-\u0dff\u0e00-\u0fff\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"

MASK_CHANNELS = 64  # beside a latent (Fill): the 8 x 8 pixels of a mask that belong to one of its pixels

# The Approximator's guidance if a conditioning has none. Chroma was trained with 0, FLUX's own with 3.5.
FLUX_GUIDANCE = 3.5
FLUX_VARIANT, SCHNELL_VARIANT = "FLUX", "FLUX schnell"  # with an Approximator; in files' metadata too
GUIDANCE = {
    "Chroma": 0.0,
    "Chroma lite": 0.0,
    "Radiance": 0.0,
    FLUX_VARIANT: FLUX_GUIDANCE,
    SCHNELL_VARIANT: FLUX_GUIDANCE,
}
SHIFTS = {SCHNELL_VARIANT: 0.0}  # exponent of the timestep shift at loading, where that of Chroma is not right

# Menu texts, saved in workflows: never renamed.
TRAINED, FIXED, BY_RESOLUTION = "shift 1", "fixed", "by resolution"  # Chroma Timestep Shift, Chroma Preset
AS_TRAINED, FROM_MODEL = "1 (as trained)", "from the model"  # Chroma KSampler, beside FIXED and BY_RESOLUTION
FROM_PRESET = "from the preset"  # Chroma Preset
AT_ONCE, GUIDED_FIRST = "at once", "guided first"  # Chroma Flash
TIMES = "times as fast"  # Chroma Speed
CUSTOM = "custom"  # Chroma KSampler's quality: what its own widgets say

# The host's key in a conditioning for a style model's mask over text and image tokens.
STYLE_MASK = "attention_mask_img_shape"

# Levels of a report's lines, the most serious last.
LEVELS = INFO, WARNING, ERROR = ("info", "warning", "error")


SELF = ""  # a line's node: the one that tells it


def counted(number: int, noun: str) -> str:
    """ "1 step", "1,024 tokens"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class Line(str):
    """One line of a report that stands out: its head is shown in the colour of its level.

    node: the node that it is about, by its id in the graph, to which a click goes; SELF for the node that tells it.
    fix:  (input, value) of that node, which the page offers to set.
    insert: a node that the page offers to insert, an `advice.finding.Insert`.
    """

    def __new__(
        cls,
        head: str,
        level: str = INFO,
        rest: str = "",
        node: str | None = None,
        fix: "tuple[tuple[str, object], ...]" = (),
        insert: object | None = None,
    ) -> "Line":
        line = super().__new__(cls, head + rest)
        line.head, line.level, line.node, line.fix, line.insert = head, level, node, fix, insert
        return line


class Lines(str):
    """A report as text, which keeps its lines; a `Line` among them keeps its level."""

    def __new__(cls, lines: "list[str] | str") -> "Lines":
        lines = lines.split("\n") if isinstance(lines, str) else lines
        text = super().__new__(cls, "\n".join(lines))
        text.lines = [one for line in lines for one in (line.lines if isinstance(line, Lines) else [line])]
        return text
