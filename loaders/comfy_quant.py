"""Quantising at load, layer by layer, with the host's own quantised tensors."""

from __future__ import annotations

import json
import logging
from collections import Counter

import comfy.model_management
import comfy.quant_ops
import comfy.utils
import torch
from torch import Tensor

from .quant import QuantMode, is_quantised, rotation_group

QUANTISE_WORKSPACE = 6  # bytes that quantising takes on the device, in float32 copies of the largest weight


def quantise(weights: dict[str, Tensor], mode: QuantMode, device: torch.device) -> dict[str, Tensor]:
    """The blocks' linears as the host's quantised tensors, layer by layer; all other tensors as they are.

    returns: a state dict in the host's own layout (`weight`, `weight_scale`, `comfy_quant` for each layer).
    """
    layout = comfy.quant_ops.QUANT_ALGOS[mode.format]["comfy_tensor_layout"]
    names = [name for name, w in weights.items() if is_quantised(name, w.ndim)]
    if device.type in ("cuda", "xpu"):
        largest = max(weights[name].numel() for name in names) * torch.float32.itemsize
        comfy.model_management.free_memory(QUANTISE_WORKSPACE * largest, device)
    else:
        device = torch.device("cpu")
    progress = comfy.utils.ProgressBar(len(names))
    out = {name: w for name, w in weights.items() if not is_quantised(name, w.ndim)}
    skipped = Counter[int]()
    for name in names:
        weight = weights.pop(name)
        extra = dict(mode.quantise)
        settings = {"format": mode.format, **mode.settings}
        if mode.rotated:
            group = rotation_group(weight.shape[1])
            if group is None:
                skipped[weight.shape[1]] += 1
                out[name] = weight
                continue
            extra["convrot_groupsize"] = group
            settings |= {"convrot": True, "convrot_groupsize": group}
        packed = comfy.quant_ops.QuantizedTensor.from_float(weight.to(device, torch.float32), layout, **extra)
        out.update({k: v.cpu() for k, v in packed.state_dict(name).items()})
        marker = json.dumps(settings).encode()
        out[name.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(marker), dtype=torch.uint8)
        progress.update(1)
    if device.type != "cpu":
        comfy.model_management.soft_empty_cache()
    for width, count in skipped.items():
        logging.warning("%d layers of input width %d stay unquantised: no rotation fits that width", count, width)
    return out
