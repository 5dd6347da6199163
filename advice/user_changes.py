"""A preset with a person's changes, and the text on each value and its source. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Mapping

from ..constants import counted
from .presets import GRADES, Preset, of_choice
from .recognise_preset import Recognition
from .speed import num_prompts


@dataclass(frozen=True)
class Settings:
    """A run's settings; `changed` names the FIELDS that a person set differently from the preset.

    choice:  of quality, as `presets.of_choice`; None for the preset as it is.
    savings: fields of `samplers.guided_run.Guidance`.
    """

    name: str
    steps: int
    cfg: float
    sampler: str
    curve: str
    params: Mapping[str, float]
    shift: str
    shift_params: Mapping[str, float]
    width: int
    height: int
    changed: frozenset[str] = frozenset()
    choice: str | None = None
    savings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def preset(self) -> Preset:
        return of_choice(self.name, self.choice)


@dataclass(frozen=True)
class Field:
    """One setting: its value in a preset and in Settings, and that value's text."""

    name: str
    of_preset: Callable[[Preset], Any]
    of_settings: Callable[[Settings], Any]
    text: Callable[[Any], str] = str


def schedule_text(curve: str, params: Mapping[str, float]) -> str:
    return " ".join([curve, *(f"{k} {v:g}" for k, v in params.items())])


FIELDS = (
    Field("steps", lambda p: p.steps, lambda s: s.steps),
    Field("cfg", lambda p: p.cfg, lambda s: s.cfg, "{:g}".format),
    Field("sampler", lambda p: p.sampler, lambda s: s.sampler),
    Field(
        "schedule",
        lambda p: (p.curve, dict(p.params)),
        lambda s: (s.curve, dict(s.params)),
        lambda v: schedule_text(*v),
    ),
    Field("shift", lambda p: (p.shift, {}), lambda s: (s.shift, dict(s.shift_params)), lambda v: schedule_text(*v)),
    Field("size", lambda p: (p.size, p.size), lambda s: (s.width, s.height), lambda v: f"{v[0]} x {v[1]}"),
)


def settle(
    name: str,
    *,
    steps: int = 0,
    cfg: float = 0.0,
    sampler: str | None = None,
    curve: str | None = None,
    params: Mapping[str, float] | None = None,
    shift: str | None = None,
    shift_params: Mapping[str, float] | None = None,
    width: int = 0,
    height: int = 0,
    choice: str | None = None,
    reason: str = "",
) -> Settings:
    """A preset, under a choice of quality, with a person's settings; 0 and None take the preset's.

    If a person chose the curve or shift, its params replace the preset's.
    raises: ValueError as `presets.of_choice`, which says what `reason` is.
    """
    p = of_choice(name, choice, reason)
    settings = Settings(
        name=name,
        steps=steps or p.steps,
        cfg=cfg or p.cfg,
        sampler=sampler or p.sampler,
        curve=curve or p.curve,
        params=dict(params or {}) if curve else dict(p.params),
        shift=shift or p.shift,
        shift_params=dict(shift_params or {}) if shift else {},
        width=width or p.size,
        height=height or p.size,
        choice=choice,
    )
    return replace(settings, changed=frozenset(f.name for f in FIELDS if f.of_preset(p) != f.of_settings(settings)))


def tell(settings: Settings, found: Recognition, chosen: bool = False) -> str:
    """Every value with where it is from, for the node. chosen: a person chose the row; found is what auto would take."""
    preset = settings.preset
    if chosen:
        head = f"{settings.name}: chosen by you"
        if found.sure and found.name != settings.name:
            head += f". The model looks like {found.name} ({found.reason})"
    else:
        head = f"{settings.name}: {'recognised ' if found.sure else ''}{found.reason}"
    lines = [head]
    for f in FIELDS:
        value = f.text(f.of_settings(settings))
        line, grade = value if f.name == "shift" else f"{f.name} {value}", GRADES[preset.grade_of(f.name)]
        if f.name in settings.changed:
            line += f": set by you; the preset has {f.text(f.of_preset(preset))} ({grade})"
        else:
            line += f": {grade}" + (f"; also {preset.also[f.name]}" if f.name in preset.also else "")
        lines.append(line)
    if preset.note:
        lines.append(preset.note)
    low, high = preset.sizes
    side = (settings.width * settings.height) ** 0.5
    if not low <= side <= high and "size" in settings.changed:
        lines.append(
            f"{settings.width} x {settings.height} is outside of the {low} to {high} pixels that this checkpoint is good for"
        )
    lines.append("source: " + "; ".join(source.name for source in preset.sources))
    return "\n".join(lines)


def in_short(settings: Settings) -> str:
    """What a run takes, in one line: "26 steps, cfg 3.5, euler, beta alpha 0.6 beta 0.6, shift 1"."""
    values = (settings.sampler, schedule_text(settings.curve, settings.params))
    values = (*values, schedule_text(settings.shift, settings.shift_params), *settings.savings)
    return ", ".join((counted(settings.steps, "step"), f"cfg {settings.cfg:g}", *values))


def as_fast(preset: Preset, settings: Settings) -> str:
    """What settings save beside the checkpoint's preset, in prompts that go through the network."""
    plain, found = (num_prompts(s.steps, s.cfg != 1) for s in (preset, settings))
    if found == plain:
        return f"{found} prompts to compute, as in the preset"
    times = f"about {plain / found:.1f} times as fast" if found < plain else f"{found / plain:.1f} times as long"
    return f"{found} prompts to compute instead of {plain}: {times}"


def head_of(settings: Settings, found: Recognition | None, own: Mapping[str, Any] | None = None) -> str:
    """What a sampler takes and why. found: None where a node before it, such as Chroma Preset, has chosen them.

    own: the values of guidance that the model has from another node, in place of the savings.
    """
    if found is None:
        head = f"settings of the node before: {settings.name}"
    else:
        head = f"{settings.choice}: {settings.name}, {'recognised ' if found.sure else ''}{found.reason}"
    lines = [head, in_short(settings)]
    if own is not None and any(own.get(name) != value for name, value in settings.savings.items()):
        lines.append(f"{', '.join(settings.savings)} left out, since the model has guidance of a node before this one")
    return "\n".join(lines)


def facts(settings: Settings) -> dict[str, Any]:
    """For a picture's metadata: plain values only."""
    return {
        "preset": settings.name,
        **({} if settings.choice is None else {"quality": settings.choice}),
        "steps": settings.steps,
        "cfg": settings.cfg,
        "sampler": settings.sampler,
        "schedule": {"curve": settings.curve, **settings.params},
        "shift": {"mode": settings.shift, **settings.shift_params},
        "savings": dict(settings.savings),
        "changed": sorted(settings.changed),
    }
