"""DATA: settings for each published Chroma checkpoint, each with its source.

A row's values are those that its sources name first, or the middle of a range. What else they allow is in `also` and in
the ranges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Mapping

from ..constants import BY_RESOLUTION, CUSTOM, TRAINED
from .speed import sampler_for, share_of

SOURCED, ONE_USER, INTERPOLATED, WEAK, MEASURED, ON_DEMO = "S", "C", "I", "W", "M", "D"
GRADES = {  # -> in plain words
    SOURCED: "sourced",
    ONE_USER: "one user's finding",
    INTERPOLATED: "our guess between sourced values",
    WEAK: "weakly sourced, the model changes",
    MEASURED: "measured here",
    ON_DEMO: "measured on this pack's demo model",
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
TRAINER = Reference(
    "the trainer's previews: train_radiance.json (20 steps, cfg 3, 512 pixels), FLUX's get_schedule and Euler in "
    "train_chroma.py",
    "https://github.com/lodestone-rock/flow/blob/ab6abbccc8d676708f8fabec0a8579aaf2bc1472/train_radiance.json",
)
DEMO = Reference("benchmarks/results/judge.md of this pack", "demo/README.md")
CHOSEN = Reference("benchmarks/results/frontier.md of this pack", "benchmarks/frontier.py")


@dataclass(frozen=True)
class Preset:
    """Settings for one kind of checkpoint.

    size:      side of the square picture in pixels; the checkpoint is good for `sizes`.
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
AS_PREVIEWS = "any, as the trainer's previews"
DETAIL, OVERFIT, LARGE = "v48-detail-calibrated", "v49, v50", "2k-test, DC-2K"
FLASH, FLASH_HEUN, FLASH_LORA = "Chroma1-Flash", "v47-flash-heun", "any, with a Flash LoRA"
RADIANCE, FLUX, SCHNELL, TOY = "Radiance, x0", "FLUX.1 dev", "FLUX.1 schnell", "chroma-demo"
FLUXES = (FLUX, SCHNELL)
FLASHES = (FLASH, FLASH_HEUN, FLASH_LORA)

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
    AS_PREVIEWS: replace(
        _HD,
        steps=20,
        cfg=3.0,
        curve="flux_shift",
        params={},
        size=512,
        sources=(TRAINER,),
        also={},
        note="to compare with pictures from the training; Chroma was trained without the shift that they are sampled with",
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
        also={
            "steps": "25 to 30",
            "sampler": "res_multistep",
            "shift": "up to 3 for complex scenes",
            "size": "512, which it was trained at, to 1024",
        },
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
        note="the demo model of this pack, a hundred things",
    ),
}


@dataclass(frozen=True)
class Choice:
    """One word for quality: how it changes the preset of the checkpoint that was recognised.

    A preset for few steps stays as it is: nothing is known of it with other numbers of steps.
    share:    of the preset's steps; the sampler is the one for so many.
    only_few: refused for every other checkpoint.
    """

    share: float = 1.0
    only_few: bool = False

    def of(self, preset: Preset) -> Preset:
        if preset.few_steps or self.only_few:
            return preset
        steps = share_of(preset.steps, self.share)
        names = ("steps", "sampler")
        return replace(
            preset,
            steps=steps,
            sampler=sampler_for(steps),
            grades={**preset.grades, **dict.fromkeys(names, ON_DEMO)},
            also={k: v for k, v in preset.also.items() if k not in names},
            sources=(*preset.sources, CHOSEN),
        )


DRAFT, STANDARD, BEST, FEW = "draft", "standard", "quality", "flash"

CHOICES: dict[str, Choice] = {  # the names are saved in workflows: add, never rename
    DRAFT: Choice(8 / 26),
    STANDARD: Choice(14 / 26),
    BEST: Choice(),
    FEW: Choice(only_few=True),
}
NOT_FLASH = (
    "quality is flash, and the model is {}, which needs more steps than that. Load a Flash checkpoint or put a Flash LoRA "
    "on it, or choose standard"
)


def times_as_fast(times: float) -> str:
    """The choice of about this speed, by its name."""
    return f"about {times:g} times as fast"


def choice_named(choice: str) -> Choice | None:
    """A row of CHOICES, or one that `times_as_fast` names; None for another word."""
    if found := re.fullmatch(r"about (\d+(?:\.\d+)?) times as fast", choice):
        return Choice(1 / max(1.0, float(found[1])))
    return CHOICES.get(choice)


def of_choice(name: str, choice: str | None = None, reason: str = "") -> Preset:
    """The preset of a row, as it is without a choice. reason: why the row was taken, for the error.

    raises: ValueError for a row or choice that is not known, or flash for a checkpoint that is not made for few steps.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not known. Choose one of: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if choice is None:
        return preset
    how = choice_named(choice)
    if how is None:
        raise ValueError(f"quality {choice!r} is not known. Choose one of: {', '.join((CUSTOM, *CHOICES))}")
    if how.only_few and not (preset.few_steps and name in FLASHES):
        raise ValueError(NOT_FLASH.format(name + (f" ({reason})" if reason else "")))
    return how.of(preset)
