"""Numbers and words on which several folders must agree. Imports nothing; all may import it."""

MAX_TOKENS = 512  # of a prompt, with its `</s>`: Chroma's training
SHORT_NEGATIVE = 70  # tokens below which a negative prompt does harm; levzzz's guide to Chroma

# Menu texts, saved in workflows: never renamed.
TRAINED, FIXED, BY_RESOLUTION = "shift 1", "fixed", "by resolution"  # Chroma Timestep Shift, Chroma Preset
AS_TRAINED, FROM_MODEL = "1 (as trained)", "from the model"  # Chroma KSampler, beside FIXED and BY_RESOLUTION
FROM_PRESET = "from the preset"  # Chroma Preset

# The host's key in a conditioning: a style model's mask, over its text and image tokens, is there.
STYLE_MASK = "attention_mask_img_shape"

# How much a line of a report stands out, the gravest last.
LEVELS = INFO, WARNING, ERROR = ("info", "warning", "error")


class Line(str):
    """One line of a report that stands out: its head is shown in the colour of its level."""

    def __new__(cls, head: str, level: str = INFO, rest: str = "") -> "Line":
        line = super().__new__(cls, head + rest)
        line.head, line.level = head, level
        return line


class Lines(str):
    """A report as text, which keeps its lines: a `Line` among them says by itself that it stands out."""

    def __new__(cls, lines: "list[str] | str") -> "Lines":
        lines = lines.split("\n") if isinstance(lines, str) else lines
        text = super().__new__(cls, "\n".join(lines))
        text.lines = [one for line in lines for one in (line.lines if isinstance(line, Lines) else [line])]
        return text
