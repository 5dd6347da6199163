"""DoRA with a magnitude for each row, as PEFT and LyCORIS train it. Written for ComfyUI 0.30.

W' = m (W + dW) / |W + dW|, the norm of each row. The host's own maths divide by |W|, the norm without the change (its pull request
15458), which is off by what the change makes rows longer. Magnitudes of columns the host divides as they are trained.
Sources: PEFT's tuners/lora/dora.py, LyCORIS' wd_on_out (its issue 216), OneTrainer's pull request 813.
"""

from __future__ import annotations

from typing import Any, Mapping

import comfy.lora
import comfy.model_management
import torch
from comfy.weight_adapter import WeightAdapterBase
from comfy.weight_adapter.base import pad_tensor_to_shape
from torch import Tensor

from ...loaders.lora.layer_names import DORA

ROW = "." + DORA


class DoRA(WeightAdapterBase):
    """One of the host's adapters, (N, K), and the magnitudes of the rows of what it makes of the weight, (N, 1)."""

    name = "dora"

    def __init__(self, loaded_keys: set[str], weights: tuple[WeightAdapterBase, Tensor]):
        self.loaded_keys, self.weights = loaded_keys, weights

    def calculate_shape(self, key: str) -> tuple[int, ...] | None:
        return self.weights[0].calculate_shape(key)

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """weight: (N, K), changed in place. A strength between 0 and 1 is that part of the way, as for the host's DoRA."""
        adapter, magnitude = self.weights
        made = adapter.calculate_weight(
            weight.clone(), key, 1.0, strength_model, offset, function, intermediate_dtype, original_weight
        ).float()
        norm = made.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        made *= comfy.model_management.cast_to_device(magnitude, weight.device, torch.float32) / norm
        if made.shape != weight.shape:  # the adapter has widened it
            weight = pad_tensor_to_shape(weight, made.shape)
        weight += (strength * (made - weight)).to(weight.dtype)
        return weight


def load_adapters(tensors: Mapping[str, Tensor], keys: Mapping[str, Any]) -> dict[Any, Any]:
    """comfy.lora.load_lora, with rows' magnitudes as they are trained. tensors: under the names that `keys` has."""
    rows = {
        name.removesuffix(ROW): t
        for name, t in tensors.items()
        if name.endswith(ROW) and t.shape[1:].numel() == 1 and t.shape[0] > 1
    }
    others = {name: t for name, t in tensors.items() if name.removesuffix(ROW) not in rows or not name.endswith(ROW)}
    adapters = comfy.lora.load_lora(others, keys, log_missing=False)
    for layer, magnitude in rows.items():
        adapter = adapters.get(keys[layer])
        if isinstance(adapter, WeightAdapterBase):
            adapters[keys[layer]] = DoRA(adapter.loaded_keys | {layer + ROW}, (adapter, magnitude))
    return adapters
