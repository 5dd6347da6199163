"""DATA: settings for each published Chroma checkpoint, each with its source; and which of them a file calls for. Pure.

A row's values are those that its sources name first, or in the middle of what they name. What they allow beside is in
`also` and in the ranges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Mapping, Sequence

from ..constants import BY_RESOLUTION, TRAINED

SOURCED, ONE_USER, INTERPOLATED, WEAK, MEASURED = "S", "C", "I", "W", "M"
GRADES = {  # -> in plain words
    SOURCED: "sourced",
    ONE_USER: "one user's finding",
    INTERPOLATED: "our guess between sourced values",
    WEAK: "weakly sourced, the model changes",
    MEASURED: "measured here",
}


@dataclass(frozen=True)
class Reference:
    name: str
    url: str


GUIDE = Reference(
    "levzzz's guide to Chroma, sections 'final model versions', 'official LoRas', 'sampling' and 'scheduling'",
    "https://github.com/maybleMyers/chromaforge/blob/b4ebef299ffe065670e6bdb53e6adab61aae50d3/levzzz_chroma_guide.md",
)
_TEMPLATES = "https://github.com/Comfy-Org/workflow_templates/blob/main/templates"
TEMPLATE = Reference("ComfyUI's template for Chroma", f"{_TEMPLATES}/image_chroma_text_to_image.json")
RADIANCE_TEMPLATE = Reference(
    "ComfyUI's template for Radiance", f"{_TEMPLATES}/image_chroma1_radiance_text_to_image.json"
)
FLUX_TEMPLATE = Reference("ComfyUI's template for FLUX.1 dev", f"{_TEMPLATES}/flux_dev_full_text_to_image.json")
SCHNELL_TEMPLATE = Reference(
    "ComfyUI's template for FLUX.1 schnell", f"{_TEMPLATES}/flux_schnell_full_text_to_image.json"
)
DIFFUSERS = Reference(
    "diffusers 0.39: ChromaPipeline's defaults", "https://huggingface.co/docs/diffusers/v0.39.0/api/pipelines/chroma"
)
TOOLKIT = Reference(
    "ai-toolkit's previews of Chroma1-Base: 25 steps, cfg 4", "https://ai-toolkit-docs.runcomfy.com/models/chroma"
)
DEMO = Reference("benchmarks/results/judge.md of this pack", "demo/README.md")


@dataclass(frozen=True)
class Preset:
    """Settings for one kind of checkpoint.

    size:      of a side of the square picture in pixels; `sizes` is what the checkpoint is good for.
    grade:     of its values; `grades` are those of single fields that differ.
    also:      field -> what else the sources name for it, in words.
    few_steps: made for a few steps at cfg 1 to 1.5.
    """

    steps: int
    cfg: float
    sampler: str
    curve: str
    params: Mapping[str, float]
    size: int
    sizes: tuple[int, int]
    grade: str
    sources: tuple[Reference, ...]
    shift: str = TRAINED
    grades: Mapping[str, str] = field(default_factory=dict)
    also: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    few_steps: bool = False

    def grade_of(self, name: str) -> str:
        return self.grades.get(name, self.grade)


FLUX_SIZES = (320, 1414)  # 0.1 to 2 megapixels, its model card says


def _beta(n: float) -> dict[str, float]:
    return {"alpha": n, "beta": n}


_HD = Preset(
    steps=26,
    cfg=3.5,
    sampler="euler",
    curve="beta",
    params=_beta(0.6),
    size=1024,
    sizes=(512, 1152),
    grade=SOURCED,
    sources=(GUIDE, TEMPLATE),
    also={"sampler": "res_multistep, nearly always better at the same cost", "size": "512 to 1152"},
)
_FLASH = Preset(
    steps=8,
    cfg=1.0,
    sampler="heun",
    curve="beta",
    params=_beta(0.6),
    size=768,
    sizes=(512, 1024),
    grade=SOURCED,
    sources=(GUIDE,),
    grades={"size": INTERPOLATED},
    also={
        "steps": "16 with a multistep sampler such as res_multistep",
        "cfg": "up to 1.5",
        "sampler": "dpmpp_sde, dpmpp_2s_ancestral; each step of these and of heun runs the model twice",
        "size": "512, which it was trained at, to 1024",
    },
    note="short prompts and tags work best with it",
    few_steps=True,
)

HD, QUALITY, AS_DIFFUSERS, BASE = "Chroma1-HD", "Chroma1-HD, quality", "Chroma1-HD, as diffusers", "Chroma1-Base, v48"
DETAIL, OVERFIT, LARGE = "v48-detail-calibrated", "v49, v50", "2k-test, DC-2K"
FLASH, FLASH_HEUN, FLASH_LORA = "Chroma1-Flash", "v47-flash-heun", "any, with a Flash LoRA"
RADIANCE, FLUX, SCHNELL, TOY = "Radiance, x0", "FLUX.1 dev", "FLUX.1 schnell", "chroma-demo"

PRESETS: dict[str, Preset] = {  # the names are saved in workflows: add, never rename
    HD: _HD,
    QUALITY: replace(
        _HD,
        steps=35,
        sampler="chroma_res_2m",
        params=_beta(0.4),
        sources=(GUIDE,),
        grades={"steps": INTERPOLATED},
        also={
            "steps": "30 to 40",
            "cfg": "3 to 4",
            "sampler": "dpmpp_2m, res_multistep",
            "schedule": "bong_tangent, sigmoid_offset",
            "size": "up to 1152",
        },
    ),
    AS_DIFFUSERS: replace(
        _HD,
        steps=35,
        cfg=5.0,
        curve="linear",
        params={},
        sources=(DIFFUSERS,),
        also={"cfg": "its example: 40 steps, cfg 3"},
    ),
    BASE: replace(
        _HD,
        cfg=4.0,
        size=768,
        sizes=(512, 768),
        sources=(GUIDE, TOOLKIT),
        also={"steps": "25 to 28", "sampler": "res_multistep", "size": "512, which it was trained at, to 768"},
    ),
    DETAIL: replace(
        _HD,
        sources=(GUIDE,),
        also={**_HD.also, "cfg": "up to 4", "schedule": "sigmoid_offset", "size": "about 1024"},
    ),
    OVERFIT: replace(
        _HD,
        size=1152,
        sizes=(1024, 1152),
        sources=(GUIDE,),
        also={"sampler": _HD.also["sampler"]},
        note="this checkpoint is overfit on 1024 pixels and not recommended; it may do well at 1152. Chroma1-HD is its successor",
    ),
    LARGE: replace(
        _HD,
        steps=28,
        sampler="chroma_res_2m",
        size=1536,
        sizes=(1024, 2048),
        grade=INTERPOLATED,
        sources=(GUIDE,),
        also={"steps": "26 to 30", "shift": "by resolution (FLUX's)", "size": "up to 2048"},
    ),
    FLASH: _FLASH,
    FLASH_HEUN: replace(_FLASH, also={k: v for k, v in _FLASH.also.items() if k == "size"}),
    FLASH_LORA: replace(
        _FLASH,
        params=_beta(0.45),
        size=1024,
        sizes=(512, 1152),
        grade=ONE_USER,
        grades={},
        also={
            "steps": "8 to 16",
            "cfg": "up to 1.5",
            "sampler": "chroma_res_2s, deis",
            "schedule": "bong_tangent",
        },
        note="for ranks 64 to 96 at strength 1; the lower the rank, the weaker its effect",
    ),
    RADIANCE: replace(
        _HD,
        steps=30,
        params=_beta(0.4),
        sizes=(512, 1024),
        grade=WEAK,
        sources=(RADIANCE_TEMPLATE, GUIDE),
        also={"steps": "25 to 30", "sampler": "res_multistep", "size": "512, which it was trained at, to 1024"},
    ),
    FLUX: replace(
        _HD,
        steps=20,
        cfg=1.0,
        curve="flux_shift",
        params={},
        sizes=FLUX_SIZES,
        grade=INTERPOLATED,
        sources=(FLUX_TEMPLATE,),
        shift=BY_RESOLUTION,
        also={},
        note="FLUX's own settings; with an Approximator in place of its modulation layers they are untried",
    ),
    SCHNELL: replace(
        _HD,
        steps=4,
        cfg=1.0,
        curve="linear",
        params={},
        sizes=FLUX_SIZES,
        grade=INTERPOLATED,
        sources=(SCHNELL_TEMPLATE,),
        also={},
        note="FLUX's own settings; with an Approximator in place of its modulation layers they are untried",
        few_steps=True,
    ),
    TOY: replace(
        _HD,
        steps=20,
        cfg=3.0,
        size=128,
        sizes=(128, 128),
        grade=MEASURED,
        sources=(DEMO,),
        also={},
        note="the demo model of this pack, coloured shapes only",
    ),
}

# --- which row ---------------------------------------------------------------------------------------------------------


def _word(text: str) -> re.Pattern[str]:
    """Between characters that are no letters, or digits where it ends in one: `hd` is in Chroma1-HD and not in shd."""
    return re.compile(rf"(?<![a-z])(?:{text})(?![a-z0-9])")


def _chroma(text: str) -> re.Pattern[str]:
    """The same after `chroma`, at once or anywhere: elsewhere v50 is anything."""
    return re.compile(rf"chroma(?:.*(?<![a-z]))?(?:{text})(?![a-z0-9])")


# Pattern, row, remark. In the order in which they are tried: what is more special first.
FILE_NAMES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (_word("chroma[-_. ]?demo"), TOY, ""),
    (_word("flash[-_. ]?heun"), FLASH_HEUN, ""),
    (_word("(?:chroma)?flash"), FLASH, ""),
    (_word(r"(?:chroma)?radiance|x0(?!\.\d)"), RADIANCE, ""),  # x0.5 is a weight in a merge
    (re.compile(r"(?:(?<![a-z0-9])|(?<=chroma))(?:dc[-_. ]?)?2k(?![a-z0-9])"), LARGE, ""),
    (_word("(?:chroma)?detail[-_. ]?calibrated"), DETAIL, ""),
    (_chroma("v(?:49|50)(?:annealed)?"), OVERFIT, ""),
    (_chroma("v48"), BASE, ""),
    (_word("hd|chromahd"), HD, ""),
    (_word("base|chromabase"), BASE, ""),
    (_chroma("unlocked[-_. ]v[0-9]{1,2}"), BASE, "an earlier step of the same training; v48's settings"),
)
_STEPS = r"low[-_. ]?steps?|(?<!\d)\d{1,2}[-_. ]?steps?"  # 3000 steps are those of a training
# Between `chroma` and such a word, and behind it, there is nothing but names of versions and files: a LoRA of flash
# photography or of hyper-realism is none for few steps.
_OF_CHROMA = r"chroma(?:[-_. \d]|hd|base|unlocked|v\d)*"
_NO_SUBJECT = (
    r"(?=[-_. \d]*(?:$|\.[a-z]+$|(?:lora|heun|delta|alpha|rank|turbo|low|steps?|chroma|flux)(?![a-z])|(?:r|v|fp|bf)\d))"
)
LORA_NAMES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"{_OF_CHROMA}flash{_NO_SUBJECT}|(?<![a-z])flash[-_. ]?(?:heun|delta|r\d|rank)"), ""),
    (
        re.compile(
            rf"{_OF_CHROMA}(?:hyper|turbo|lightning){_NO_SUBJECT}"
            rf"|(?<![a-z])(?:hyper|turbo|lightning)[-_. ]?(?:chroma|flux|sd|alpha)|(?<![a-z])(?:{_STEPS})(?![a-z0-9])"
        ),
        "a LoRA for few steps of another kind; treated as Flash's",
    ),
)
MAYBE_FEW_STEPS = _word(rf"hyper|turbo|lightning|{_STEPS}")
MAYBE_FEW_STEPS_LORA = _word(rf"flash|hyper|turbo|lightning|{_STEPS}")
CHROMA_NAME = re.compile(r"chroma(?=$|[^a-z]|hd|base|flash|radiance|v\d|unlocked|dc|detail|lite|demo)")
OTHER_FAMILY = re.compile(r"(?<!x)xl(?![a-z])|pony|illustrious|(?<![a-z])sd[-_. ]?[123]|polychroma|monochroma")
SHARDED = re.compile(r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?\.safetensors(?:\.index\.json)?$")


FLUXES = (FLUX, SCHNELL)


@dataclass(frozen=True)
class Recognition:
    """Which row, for what reason, and whether that is more than a guess."""

    name: str
    reason: str
    sure: bool = True

    @property
    def preset(self) -> Preset:
        return PRESETS[self.name]


def telling_name(file: str) -> str:
    """The part of a path that says what the model is: the file's name, or its folder's where the name is diffusers'."""
    parts = [part for part in re.split(r"[\\/]+", file) if part]
    if not parts:
        return ""
    if SHARDED.match(parts[-1].lower()) and len(parts) > 1:
        return next((p for p in reversed(parts[:-1]) if p.lower() not in ("transformer", "unet")), parts[-1])
    return parts[-1]


def names_chroma(file: str) -> bool:
    """Whether a file's name says that it is a model of Chroma's kind; its folders do not count."""
    name = telling_name(file).lower()
    return bool(CHROMA_NAME.search(name)) and not OTHER_FAMILY.search(name)


def recognise(variant: str | None = None, file: str = "", loras: Sequence[str] = ()) -> Recognition:
    """The row of PRESETS for a model; Chroma1-HD, and not sure, where nothing tells.

    variant: what the loader found in the file: "Chroma", "Chroma lite", "Radiance" or "FLUX"; None if it was not ours.
    file:    the checkpoint's name or path, or empty.
    loras:   names of the LoRA files on it.
    """
    name = telling_name(file).lower()
    if variant == "FLUX" or (variant is None and "flux" in name and "chroma" not in name):
        row, by_name = (SCHNELL, True) if "schnell" in name else (FLUX, variant is None)
        return Recognition(row, f"by the name {telling_name(file)}" if by_name else "from the loader's report")
    for lora in loras:
        for pattern, remark in LORA_NAMES:
            if pattern.search(telling_name(lora).lower()):
                return Recognition(FLASH_LORA, f"by its LoRA {telling_name(lora)}" + (f": {remark}" if remark else ""))
    found = _by_model(variant, file, name)
    if maybe := [lora for lora in loras if MAYBE_FEW_STEPS_LORA.search(telling_name(lora).lower())]:
        return in_doubt(found, f"its LoRA {telling_name(maybe[0])} may be one for few steps")
    if MAYBE_FEW_STEPS.search(name) and not found.preset.few_steps:
        return in_doubt(found, "the name may also be that of a model for few steps")
    return found


def in_doubt(found: Recognition, why: str) -> Recognition:
    """The same row, no longer sure of."""
    return replace(found, reason=f"{found.reason}; but {why}", sure=False)


def _by_model(variant: str | None, file: str, name: str) -> Recognition:
    """The row without LoRAs. name: the telling part of the file's."""
    if variant == "Radiance":
        return Recognition(RADIANCE, "from the loader's report")
    found = [(row, remark) for pattern, row, remark in FILE_NAMES if pattern.search(name)]
    if variant == "Chroma lite":
        return Recognition(HD, "Chroma lite, which nobody has published settings for: Chroma1-HD's", sure=False)
    if found:
        row, remark = found[0]
        return Recognition(row, f"by the name {telling_name(file)}" + (f": {remark}" if remark else ""))
    what = f"the name {telling_name(file)} does not tell what it is" if name else "the model's file is not known"
    return Recognition(HD, f"{what}: Chroma1-HD's settings", sure=False)


# --- a person's changes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What a run is to have; `changed` names the FIELDS that differ from the preset by a person's will."""

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


@dataclass(frozen=True)
class Field:
    """One setting: what a preset and a person's settings have for it, and how that is said."""

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
) -> Settings:
    """A preset with what a person has set; 0 and None are what the preset says.

    A curve or shift of a person's choice takes params and shift_params in place of the preset's.
    raises: ValueError for a preset that is not known.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not known. Choose one of: {', '.join(PRESETS)}")
    p = PRESETS[name]
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
    )
    return replace(settings, changed=frozenset(f.name for f in FIELDS if f.of_preset(p) != f.of_settings(settings)))


def tell(settings: Settings, found: Recognition, chosen: bool = False) -> str:
    """Every value with where it is from, for the node. chosen: a person chose the row; found is what auto would take."""
    preset = PRESETS[settings.name]
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
