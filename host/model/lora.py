"""Puts a LoRA file on the host's MODEL, through the host's own adapters and patcher. Written for ComfyUI 0.30."""

from __future__ import annotations

import os
from typing import Any, Mapping

import comfy.lora
import comfy.lora_convert
import torch

from ...loaders.checkpoint.keys import APPROXIMATOR
from ...loaders.files.read import read_header, read_tensors
from ...loaders.lora.adapters import Shape
from ...loaders.lora.layer_names import Rows
from ...loaders.lora.plan import MATCHED, Plan, make_plan, pieces_as_layers, prepare
from ...loaders.lora.report import nothing_matched, summary
from ..run.base_model import IMG_IN, input_width

PREFIX = "diffusion_model."  # of the network in the host's names


def apply_lora(model: Any, path: str | os.PathLike[str], strength: float) -> tuple[Any, str]:
    """A clone of a Chroma MODEL with a LoRA file on it, and what was applied, in words.

    raises: ValueError if the model is not Chroma, the file is damaged, or none of its layers fits the model.
    """
    shapes = parameter_shapes(model.model.diffusion_model, model.patches)
    if not any(name.startswith(APPROXIMATOR) for name in shapes):
        raise ValueError(
            "the model is not Chroma: it has no distilled_guidance_layer. Connect Load Chroma Model, or use ComfyUI's "
            "own LoRA node"
        )
    header = read_header(path)
    tensors = pieces_as_layers(comfy.lora_convert.convert_lora(read_tensors(path)))
    try:
        found = make_plan(
            {k: tuple(t.shape) for k, t in tensors.items()}, shapes, host_layers(model.model), header.metadata
        )
    except ValueError as error:
        raise ValueError(f"{header.name}: {error}") from error
    if not found.layers[MATCHED]:
        raise ValueError(nothing_matched(header.name, found, tensors))
    clone = model.clone()
    adapters = comfy.lora.load_lora(prepare(tensors, found), key_map(found), log_missing=False)
    refused = adapters.keys() - set(clone.add_patches(adapters, strength))
    if refused or len(adapters) != len(found.targets):
        raise ValueError(
            f"{header.name}: ComfyUI took {len(adapters) - len(refused)} of {len(found.targets)} adapters of this "
            "LoRA. Please report this with the versions of ComfyUI and of this pack"
        )
    return clone, summary(found, tensors)


def key_map(found: Plan) -> dict[str, Any]:
    """The plan's targets as the host's LoRA loader wants them: a parameter, or a parameter and (dim, start, length)."""
    return {
        key: PREFIX + t.parameter if t.rows is None else (PREFIX + t.parameter, (0, *t.rows))
        for key, t in found.targets.items()
    }


def parameter_shapes(network: torch.nn.Module, patches: Mapping[str, Any] = {}) -> dict[str, Shape]:
    """Parameter's name -> shape. A linear layer's is read off its sizes, since its weight may be stored packed.

    patches: of the MODEL; a control LoRA among them widens img_in.
    """
    shapes = {}
    for name, module in network.named_modules():
        for kind, parameter in module.named_parameters(name, recurse=False):
            shapes[kind] = tuple(parameter.shape)
        sizes = (getattr(module, "out_features", None), getattr(module, "in_features", None))
        if f"{name}.weight" in shapes and None not in sizes:
            shapes[f"{name}.weight"] = sizes
    if IMG_IN in patches:
        rows = shapes[IMG_IN.removeprefix(PREFIX)][0]
        shapes[IMG_IN.removeprefix(PREFIX)] = (rows, input_width(network, patches))
    return shapes


def host_layers(model: Any) -> dict[str, tuple[str, Rows | None]]:
    """The layers that the host has names for: name in LoRAs -> parameter, rows."""
    layers = {}
    for name, key in comfy.lora.model_lora_keys_unet(model, {}).items():
        parameter, offset, *function = (key, None) if isinstance(key, str) else key
        if parameter.endswith(".weight") and not function:  # a function exchanges halves of FLUX's last modulation
            layers[name] = (parameter.removeprefix(PREFIX), None if offset is None else tuple(offset[1:]))
    return layers
