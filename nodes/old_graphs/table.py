"""DATA: nodes of FluxMod that this pack does not have under their ids, and the node of ours in the place of each.

source: lodestone-rock/ComfyUI_FluxMod, every version from November 2024 to May 2025. Its other ids are nodes of this pack:
ChromaDiffusionLoader, ChromaStyleModelApply, FluxModSamplerWrapperNode and KSamplerMod, with the same inputs in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping


@dataclass(frozen=True)
class Replacement:
    """One old node. Each has one output, which is the first of ours.

    connected, typed: name of an input there -> here, None for one that did nothing. `typed` are those with a widget, all of
               them and in their order: a saved page holds their values by place, without names.
    added:     inputs that our node needs and the old one had not, with the values that do the same.
    early:     inputs that the first versions of the old node had not, with the values that do what those did.
    """

    old: str
    new: str
    connected: Mapping[str, str] = field(default_factory=dict)
    typed: Mapping[str, str | None] = field(default_factory=dict)
    added: Mapping[str, Any] = field(default_factory=dict)
    early: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, str]:
        return {old: new for old, new in {**self.connected, **self.typed}.items() if new is not None}


LOADER = "ChromaDiffusionLoader"
QUANT_MODE = {"quant_mode": "quant_mode"}  # whose old texts are aliases of ours
TABLE = (
    Replacement("ChromaCheckpointLoader", LOADER, typed={"ckpt_name": "unet_name", **QUANT_MODE}),
    Replacement(
        "ChromaPaddingRemoval",
        "ChromaPadMask",
        connected={"conditioning": "conditioning"},
        added={"pad_tokens": 1},
    ),
    Replacement(
        "FluxModCheckpointLoader",
        LOADER,
        typed={"ckpt_name": "unet_name", "guidance_name": "approximator", **QUANT_MODE},
        early={"quant_mode": "bf16"},
    ),
    Replacement(
        "FluxModCheckpointLoaderMini",
        LOADER,
        typed={
            "ckpt_name": "unet_name",
            "guidance_name": "approximator",
            **QUANT_MODE,
            "lite_patch_ckpt_name": "lite_patch",
        },
    ),
    Replacement(
        "FluxModDiffusionLoader",
        LOADER,
        typed={"unet_name": "unet_name", "guidance_name": "approximator", **QUANT_MODE},
    ),
    Replacement(
        "FluxModDiffusionLoaderMini",
        LOADER,
        typed={
            "unet_name": "unet_name",
            "guidance_name": "approximator",
            **QUANT_MODE,
            "lite_patch_unet_name": None,  # its file was not read: the model had the eight blocks of FLUX lite itself
        },
    ),
    Replacement(
        "FluxModSamplerWrapper",
        "FluxModSamplerWrapperNode",
        connected={"sampler": "sampler"},
        typed={"activation_casting": "activation_casting"},
    ),
    Replacement(
        "SkipLayerForward",
        "ChromaSkipBlocks",
        connected={"model": "model"},
        typed={"skip_mmdit_layers": "double_blocks", "skip_dit_layers": "single_blocks"},
    ),
)
# Our node -> optional inputs that FluxMod's NO_FILE may stand in: in queued graphs, and in menus that the page has filled from
# an old node. Left out, they are at their default, which is no other file too.
NO_FILE = "None"
MAY_BE_NO_FILE: Mapping[str, tuple[str, ...]] = {LOADER: ("approximator",)}
