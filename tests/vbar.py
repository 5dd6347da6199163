"""The host's own code for dynamic VRAM on CPU buffers: only what faults and pins memory on a GPU is replaced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Buffers:
    """room: whether the weight stays in the device's memory after its first use, or is brought anew every time."""

    def __init__(self, monkeypatch: Any, room: bool = True):
        import comfy.pinned_memory
        import comfy_aimdo.model_vbar
        import comfy_aimdo.torch

        monkeypatch.setattr(comfy_aimdo.model_vbar, "vbar_fault", lambda v: 1 if room else None)
        monkeypatch.setattr(comfy_aimdo.model_vbar, "vbar_signature_compare", lambda a, b: a == b and a is not None)
        monkeypatch.setattr(comfy_aimdo.torch, "aimdo_to_tensor", lambda v, device: v)
        monkeypatch.setattr(comfy.pinned_memory, "get_pin", lambda *a, **k: None)
        monkeypatch.setattr(comfy.pinned_memory, "pin_memory", lambda *a, **k: None)
        self.monkeypatch = monkeypatch

    def hold(self, layer: Any, change: Tensor | None = None) -> None:
        """Gives a layer a buffer full of noise, and a LoRA to be added when its weight is brought."""
        import comfy.memory_management as memory
        import comfy.ops

        size = sum(
            memory.vram_aligned_size(t)
            for t in memory.tensors_to_geometries([layer.weight, layer.bias])
            if t is not None
        )
        layer._v = torch.randint(0, 255, (size,), dtype=torch.uint8)
        layer._v_signature, layer.seed_key = None, "layer"
        layer.weight_function, layer.bias_function = [], []
        layer.weight_lowvram_function = None if change is None else Added(change)
        layer.bias_lowvram_function = None

        def cast(
            s,
            input=None,
            dtype=None,
            device=None,
            bias_dtype=None,
            offloadable=False,
            compute_dtype=None,
            want_requant=False,
        ):
            dtype = dtype or (input.params.orig_dtype if hasattr(input, "params") else input.dtype)
            device, bias_dtype = device or input.device, bias_dtype or dtype
            comfy.ops.cast_modules_with_vbar([s], dtype, device, bias_dtype, False)
            out = comfy.ops.resolve_cast_module_with_vbar(s, dtype, device, bias_dtype, compute_dtype, want_requant)
            del s._prefetch
            return (*out, None)

        self.monkeypatch.setattr(comfy.ops, "cast_bias_weight", cast)
        self.monkeypatch.setattr(comfy.ops, "uncast_bias_weight", lambda *a: None)


class Added:
    """A patch as the host hands them over: adds a change to the unpacked weight, in that weight's type."""

    is_lowvram_patch = True

    def __init__(self, change: Tensor):
        self.change = change

    def __call__(self, weight: Tensor) -> Tensor:
        return (weight.float() + self.change).to(weight.dtype)

    def memory_required(self) -> int:
        return 0

    def prepare(self, *_: Any, **__: Any) -> None:
        pass

    clear_prepared = prepare
