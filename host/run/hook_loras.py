"""ComfyUI's hook LoRAs on a model with quantised weights: added at each use of a layer, as the host does while it streams.

The host's patcher puts such a LoRA into the weights, and their copies back, in place. A packed weight can be neither: its scales
are not copied with its values, and the host's list of weights stumbles over the scales' names. So this takes over what hooks
change, while the host still decides when each acts and how strongly. A model of plain weights is left to the host.
Written for ComfyUI 0.30.
"""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, Mapping

import comfy.lora
import comfy.utils
import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from .late_lora import SEVERAL_GPUS

KEY = "chroma_hook_loras"  # of what is kept on a patcher
KINDS = ("weight", "bias")  # parameters that the host's layers let functions change
MAX_KEPT = 16  # combinations of strengths; keyframes have few, interpolated ones many

Patches = Mapping[str, list[tuple]]  # parameter -> the host's patches of it


class HookPatch:
    """What the hooks in force do to one parameter. layer, kind: where it is; key: its name in the model."""

    def __init__(self, layer: torch.nn.Module, kind: str, key: str, patches: list[tuple]):
        self.layer, self.kind, self.key, self.patches = layer, kind, key, patches

    def __call__(self, weight: Tensor) -> Tensor:
        """weight: unpacked, a copy of the layer's own."""
        own = {self.key: [(getattr(self.layer, self.kind), None)]}  # a model as LoRA is its difference to that
        return comfy.lora.calculate_weight(
            self.patches, weight, self.key, intermediate_dtype=weight.dtype, original_weights=own
        )


class HookLoras:
    """Of a patcher, by the reference that clones of a hook share."""

    def __init__(self, by_hook: Mapping[Any, Patches]):
        self.by_hook = by_hook
        self._made: dict[tuple, list[HookPatch]] = {}  # the same objects for a compiled network

    def patches(self, model: torch.nn.Module, hooks: Any) -> list[HookPatch]:
        """What a group of hooks changes with its strengths of now."""
        combination = tuple((hook.hook_ref, hook.strength) for hook in hooks.hooks)
        if combination not in self._made:
            if len(self._made) >= MAX_KEPT:
                self._made.clear()
            together: dict[str, list[tuple]] = {}
            for ref, strength in combination:
                for key, patches in self.by_hook.get(ref, {}).items():
                    scaled = [(patch[0] * strength, *patch[1:]) for patch in patches]
                    acting = [patch for patch in scaled if patch[0] != 0 or patch[2] != 1]
                    if acting:
                        together.setdefault(key, []).extend(acting)
            self._made[combination] = [HookPatch(*layer_of(model, key), key, p) for key, p in together.items()]
        return self._made[combination]


def layer_of(model: torch.nn.Module, key: str) -> tuple[torch.nn.Module, str]:
    stem, _, kind = key.rpartition(".")
    return comfy.utils.get_attr(model, stem) if stem else model, kind


def has_quantised(model: torch.nn.Module) -> bool:
    return any(isinstance(parameter, QuantizedTensor) for parameter in model.parameters())


def take_over(patcher: Any, *_: Any) -> None:
    """An ON_REGISTER_ALL_HOOK_PATCHES callback: of a model with quantised weights, keeps what hooks change for itself."""
    if not has_quantised(patcher.model):
        return
    known = patcher.get_attachment(KEY)
    kept = {ref: p for ref, p in known.by_hook.items() if ref in patcher.hook_patches} if known else {}
    for ref, patches in patcher.hook_patches.items():
        ours = {key: p for key, p in patches.items() if is_taken(patcher.model, key)}
        if ours:
            kept[ref] = ours
            patcher.hook_patches[ref] = {key: p for key, p in patches.items() if key not in ours}
    for own in (patcher, *patcher.get_additional_models_with_key(SEVERAL_GPUS)):
        own.set_attachments(KEY, HookLoras(kept))


def refuse_encoder(patcher: Any, *_: Any) -> None:
    """The same callback for a text encoder, whose LoRAs by hook work on plain weights only.

    raises: ValueError if hooks change a quantised encoder.
    """
    if not has_quantised(patcher.model):
        return
    for ref, patches in patcher.hook_patches.items():
        changed = [key for key, p in patches.items() if any(patch[0] != 0 for patch in p)]
        if changed:
            raise ValueError(
                f"a hook LoRA changes {len(changed)} weights of the text encoder, such as {changed[0]}, and the encoder is "
                "quantised, where hooks cannot. Load the text encoder with precision bf16, or set strength_clip of the hook to 0"
            )
        patcher.hook_patches[ref] = {}


def is_taken(model: torch.nn.Module, key: str) -> bool:
    layer, kind = layer_of(model, key)
    return kind in KINDS and hasattr(layer, f"{kind}_function")


@contextlib.contextmanager
def acting(model: Any) -> Iterator[None]:
    """While it lasts, the hooks that the host has put in force change what the layers multiply with."""
    patcher = model.current_patcher
    kept = patcher.get_attachment(KEY) if patcher is not None else None
    patches = kept.patches(model, patcher.current_hooks) if kept and patcher.current_hooks is not None else []
    before = []
    try:
        for patch in patches:
            name = f"{patch.kind}_function"
            functions = getattr(patch.layer, name)
            before.append((patch.layer, name, functions))
            setattr(patch.layer, name, [*functions, patch])
        yield
    finally:
        for layer, name, functions in before:
            setattr(layer, name, functions)
