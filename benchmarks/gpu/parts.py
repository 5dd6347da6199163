"""The parts in order of worth: what each asks, how long it may take, and what of it no rehearsal can run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One question and its result file, NAME.json.

    module:      of this package; its `cases(rig)` gives (name, function) pairs, each function a dict of figures.
    seconds:     allowed for all of it, the start of its process included.
    only_device: what a rehearsal on a CPU does not run.
    dynamic:     with ComfyUI's dynamic VRAM, as ComfyUI itself runs on a card.
    host:        whether ComfyUI is needed in the process.
    """

    name: str
    question: str
    module: str
    seconds: int
    only_device: tuple[str, ...] = ()
    dynamic: bool = False
    host: bool = True


PARTS = (
    Part(
        "tests",
        "Do the tests that need a card pass?",
        "card_tests",
        75,
        ("the device: the same tests run on the CPU", "dynamic VRAM: tests/vbar.py stands in for it"),
        host=False,
    ),
    Part(
        "correctness",
        "Is the full model right on a card, in every format, with a LoRA, with every attention, in fp16?",
        "correctness",
        100,
        (
            "kernels of a card: fp8, int8, mxfp8 and nvfp4 products, rotary embedding",
            "attention kernels that the machine lacks: flash, sage, xformers",
            "the size: width 128 at full depth instead of 3072",
        ),
    ),
    Part(
        "speed",
        "How long are a forward and a picture: ours, ComfyUI's, diffusers', by format, size, and compiled?",
        "speed",
        230,
        (
            "Inductor and Triton: compiled code runs on the `eager` backend",
            "a network compiled as a whole",
            "SageAttention",
            "device memory",
        ),
    ),
    Part(
        "streaming",
        "What does a card of 8, 12 or 16 GB cost, and does dynamic VRAM change the picture?",
        "streaming",
        90,
        ("dynamic VRAM: tests/vbar.py stands in for it", "the ballast that leaves 8, 12 or 16 GB free"),
        dynamic=True,
    ),
    Part(
        "loading",
        "How long until the first step from a file in the page cache?",
        "loading",
        60,
        ("dynamic VRAM", "the copy to a device"),
        dynamic=True,
    ),
    Part(
        "pairing",
        "Do cond and uncond cost less in one forward than in two? The rule of `auto` follows.",
        "pairing",
        50,
        ("the size: width 128 instead of 3072",),
    ),
    Part(
        "kernels",
        "What would fused kernels save of a forward: comfy-kitchen's, and Inductor's in Triton?",
        "kernels",
        60,
        (
            "kernels of comfy-kitchen for a card: its plain PyTorch ones run",
            "those that only newer versions have",
            "Inductor and Triton: compiled code runs on the `eager` backend",
        ),
    ),
    Part(
        "training",
        "How fast does the demo train, and its next minutes of training.",
        "training",
        120,
        ("the trainer's own sprites, words and encoder: two steps of a toy run instead", "bfloat16 autocast"),
        host=False,
    ),
)
BY_NAME = {part.name: part for part in PARTS}
