"""The settings of Chroma Flash: those of the preset for a Flash LoRA, and where guidance comes first. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

from ..constants import GUIDED_FIRST, WARNING, Line, Lines
from .presets import FLASH_LORA
from .queued_graph import Graph
from .recognise_preset import recognise
from .user_changes import Settings, in_short, settle

KNOWN_RANKS = (64, 96)  # that the preset's settings were found with


def flash_settings(steps: int = 0, guided_steps: int = 0, cfg: float = 0.0) -> Settings:
    """steps: 0 for the preset's. guided_steps: first ones, with cfg and without the LoRA.

    raises: ValueError if no step is left for the LoRA.
    """
    settings = settle(FLASH_LORA, steps=steps, cfg=cfg if guided_steps else 0.0)
    if guided_steps >= settings.steps:
        raise ValueError(
            f"{guided_steps} of {settings.steps} steps are guided, so the LoRA would do nothing. Take fewer guided steps, or "
            "more steps"
        )
    return replace(settings, savings={"guided_steps": guided_steps}) if guided_steps else settings


def settings_in_graph(graph: Graph, node: str) -> Settings | None:
    """What a Chroma Flash of a queued graph gives; None where a link hides it, or where it will refuse."""
    if any(graph.is_hidden(node, name) for name in ("steps", "start", "start.guided_steps", "start.cfg")):
        return None
    guided = graph.value(node, "start") == GUIDED_FIRST
    steps, first, cfg = (graph.number(node, n) or 0 for n in ("steps", "start.guided_steps", "start.cfg"))
    try:
        return flash_settings(int(steps), int(first) if guided else 0, cfg)
    except ValueError:
        return None


def told(settings: Settings, lora: str, ranks: Sequence[int]) -> Lines:
    """What the node says of its settings and of the file. ranks: of its matrices."""
    guided = settings.savings.get("guided_steps", 0)
    head = in_short(replace(settings, savings={}))
    if guided:
        head += f": the first {guided} without the LoRA, the others with it at cfg 1"
    lines: list[str] = [head]
    if not guided and settings.preset.also:
        lines.append("also " + "; ".join(f"{name} {text}" for name, text in settings.preset.also.items()))
    if ranks:
        low, high = ranks[0], ranks[-1]
        rank = f"rank {low}" if low == high else f"ranks {low} to {high}"
        if high < KNOWN_RANKS[0]:
            text = f"{rank}: weaker than the {KNOWN_RANKS[0]} to {KNOWN_RANKS[1]} that these settings are for"
            lines.append(Line("Warning: ", WARNING, f"{text}; more steps or a higher strength may help"))
        else:
            lines.append(rank)
    if recognise(file="", loras=[lora]).name != FLASH_LORA:
        lines.append(Line("Warning: ", WARNING, f"nothing in the name {lora} says that it is a LoRA for few steps"))
    return Lines(lines)
