"""Chooses a model's preset by the loader's report, the file's name and its LoRAs. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Sequence

from ..constants import FLUX_VARIANT, SCHNELL_VARIANT
from .presets import (
    BASE,
    DETAIL,
    FLASH,
    FLASH_HEUN,
    FLASH_LORA,
    FLUX,
    HD,
    LARGE,
    OVERFIT,
    PRESETS,
    RADIANCE,
    SCHNELL,
    TOY,
    Preset,
)


def _word(text: str) -> re.Pattern[str]:
    """With no letter before it, and no letter or digit after it: `hd` is in Chroma1-HD and not in shd."""
    return re.compile(rf"(?<![a-z])(?:{text})(?![a-z0-9])")


def _chroma(text: str) -> re.Pattern[str]:
    """The same after `chroma`, at once or later: elsewhere v50 is anything."""
    return re.compile(rf"chroma(?:.*(?:(?<![a-z])|(?<=unlocked)))?(?:{text})(?![a-z0-9])")


_FLASH = "(?:chroma)?(?:hd)?flash"  # v10HDFlash

# Pattern, row, remark; tried in this order, the more specific first.
FILE_NAMES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (_word("chroma[-_. ]?(?:radiance[-_. ]?)?demo"), TOY, ""),
    (_word(f"{_FLASH}[-_. ]?heun"), FLASH_HEUN, ""),
    (_word(_FLASH), FLASH, ""),
    (_word(r"(?:chroma)?radiance|x0(?!\.\d)"), RADIANCE, ""),  # x0.5 is a weight in a merge
    (re.compile(r"(?:(?<![a-z0-9])|(?<=chroma))(?:dc[-_. ]?)?2k(?![a-z0-9])"), LARGE, ""),
    (_word("(?:chroma)?detail[-_. ]?calibrated"), DETAIL, ""),
    (_chroma("v(?:49|50)(?:annealed)?"), OVERFIT, ""),
    (_chroma("v48"), BASE, ""),
    (_word("hd|chromahd"), HD, ""),
    (_word("base|chromabase"), BASE, ""),
    (_chroma("unlocked[-_. ]?v[0-9]{1,2}"), BASE, "an earlier step of the same training; v48's settings"),
)
_STEPS = r"low[-_. ]?steps?|(?<!\d)\d{1,2}[-_. ]?steps?"  # 3000 steps are training steps
# Only names of versions and files may stand between `chroma` and such a word, or after it: a LoRA for flash photography
# or hyper-realism is not for few steps.
_OF_CHROMA = r"chroma(?:[-_. \d]|hd|base|unlocked|v\d)*"
_NO_SUBJECT = (
    r"(?=[-_. \d]*(?:$|\.[a-z]+$|(?:lora|heun|delta|alpha|rank|turbo|low|steps?|chroma|flux)(?![a-z])|(?:r|v|fp|bf)\d))"
)
LORA_NAMES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"{_OF_CHROMA}flash{_NO_SUBJECT}|(?<![a-z])(?:hd)?flash[-_. ]?(?:heun|delta|r\d|rank)"), ""),
    (
        re.compile(
            rf"{_OF_CHROMA}(?:hyper|turbo|lightning){_NO_SUBJECT}"
            rf"|(?<![a-z])(?:hyper|turbo|lightning)[-_. ]?(?:chroma|flux|sd|alpha)|(?<![a-z])(?:{_STEPS})(?![a-z0-9])"
        ),
        "another kind of LoRA for few steps; treated as Flash's",
    ),
)
MAYBE_FEW_STEPS = _word(rf"hyper|turbo|lightning|{_STEPS}")
MAYBE_FEW_STEPS_LORA = _word(rf"{_FLASH}|hyper|turbo|lightning|{_STEPS}")
CHROMA_NAME = re.compile(r"chroma(?=$|[^a-z]|hd|base|flash|radiance|v\d|unlocked|dc|detail|lite|demo)")
FLUX_2 = re.compile(r"flux[-_. ]?2(?!\d)")
OTHER_FAMILY = re.compile(
    r"(?<!x)xl(?![a-z])|pony|illustrious|(?<![a-z])sd[-_. ]?[123]|polychroma|monochroma"
    # Zeta-Chroma is built on Z-Image and Chroma2 on FLUX.2; 2k is a size
    rf"|zeta[-_. ]?chroma|(?<![a-z])chroma[-_. ]?2(?![k\d])|kaleidoscope|{FLUX_2.pattern}"
)
SHARDED = re.compile(r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?\.safetensors(?:\.index\.json)?$")


@dataclass(frozen=True)
class Recognition:
    """Which row, for what reason, and whether that is more than a guess. is_analogy: the row is that of a kin."""

    name: str
    reason: str
    sure: bool = True
    is_analogy: bool = False

    @property
    def preset(self) -> Preset:
        return PRESETS[self.name]


def telling_name(file: str) -> str:
    """The part of a path that says what the model is: the file's name, or its folder's for diffusers' names."""
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
    """The row of PRESETS for a model; if nothing tells, Chroma1-HD, not sure.

    variant: what the loader found in the file: "Chroma", "Chroma lite", "Radiance", "FLUX" or "FLUX schnell"; None
             if it was not ours.
    file:    the checkpoint's name or path, or empty.
    loras:   names of the LoRA files on it.
    """
    name = telling_name(file).lower()
    if variant == SCHNELL_VARIANT:
        return Recognition(SCHNELL, "from the loader's report")
    is_flux = "flux" in name and "chroma" not in name and not FLUX_2.search(name)
    if variant == FLUX_VARIANT or (variant is None and is_flux):
        row, by_name = (SCHNELL, True) if "schnell" in name else (FLUX, variant is None)
        return Recognition(row, f"by the name {telling_name(file)}" if by_name else "from the loader's report")
    if variant is None and OTHER_FAMILY.search(name):
        reason = f"the name {telling_name(file)} is that of another kind of model: Chroma1-HD's settings"
        return Recognition(HD, reason, sure=False)
    for lora in loras:
        for pattern, remark in LORA_NAMES:
            if pattern.search(telling_name(lora).lower()):
                return _told(FLASH_LORA, f"by its LoRA {telling_name(lora)}", remark)
    found = _by_model(variant, file, name)
    if maybe := [lora for lora in loras if MAYBE_FEW_STEPS_LORA.search(telling_name(lora).lower())]:
        return in_doubt(found, f"its LoRA {telling_name(maybe[0])} may be one for few steps")
    if MAYBE_FEW_STEPS.search(name) and not found.preset.few_steps:
        return in_doubt(found, "the name may also be that of a model for few steps")
    return found


def in_doubt(found: Recognition, why: str) -> Recognition:
    """The same row, no longer sure."""
    return replace(found, reason=f"{found.reason}; but {why}", sure=False)


def _told(row: str, reason: str, remark: str) -> Recognition:
    return Recognition(row, f"{reason}: {remark}" if remark else reason, is_analogy=bool(remark))


def _by_model(variant: str | None, file: str, name: str) -> Recognition:
    """The row, LoRAs aside. name: `telling_name` in lower case."""
    if variant == "Radiance":
        return Recognition(RADIANCE, "from the loader's report")
    found = [(row, remark) for pattern, row, remark in FILE_NAMES if pattern.search(name)]
    if variant == "Chroma lite":
        return Recognition(HD, "Chroma lite, which nobody has published settings for: Chroma1-HD's", sure=False)
    if found:
        row, remark = found[0]
        return _told(row, f"by the name {telling_name(file)}", remark)
    what = f"the name {telling_name(file)} does not tell what it is" if name else "the model's file is not known"
    return Recognition(HD, f"{what}: Chroma1-HD's settings", sure=False)
