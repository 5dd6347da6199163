"""Puts a LoRA file on the host's MODEL, through the host's own adapters and patcher. Written for ComfyUI 0.30."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Mapping

import comfy.lora
import comfy.lora_convert
import comfy.weight_adapter
import torch

from ...constants import Lines
from ...loaders.checkpoint.keys import APPROXIMATOR
from ...loaders.files.read import read_header, read_tensors
from ...loaders.lora.adapters import Shape
from ...loaders.lora.layer_names import Rows
from ...loaders.lora.plan import MATCHED, Plan, make_plan, pieces_as_layers, prepare
from ...loaders.lora.report import nothing_matched, summary
from ..run.base_model import IMG_IN, input_width
from .dora import DoRA, load_adapters
from .file_stamp import stamps_of, watch

LOADER = "Load Chroma LoRA"
PREFIX = "diffusion_model."  # of the network in the host's names


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file read for one MODEL. name: the file's. adapters: the host's and `DoRA`, by what they change, as in `key_map`."""

    name: str
    tensors: Mapping[str, torch.Tensor]
    plan: Plan
    adapters: Mapping[Any, Any]
    stamps: Any

    @property
    def ranks(self) -> list[int]:
        """Of its pairs of matrices, each once."""
        plain = (a.weights[0] if isinstance(a, DoRA) else a for a in self.adapters.values())
        pairs = (a for a in plain if isinstance(a, comfy.weight_adapter.LoRAAdapter))
        return sorted({adapter.weights[1].shape[0] for adapter in pairs})

    @property
    def summary(self) -> Lines:
        """What is applied and what is not, in words."""
        return summary(self.plan, self.tensors)


def read_lora(model: Any, path: str | os.PathLike[str]) -> LoraFile:
    """raises: ValueError if the model is not Chroma, the file is damaged, or none of its layers fits the model."""
    shapes = parameter_shapes(model.model.diffusion_model, model.patches)
    if not any(name.startswith(APPROXIMATOR) for name in shapes):
        raise ValueError(
            "the model is not Chroma: it has no distilled_guidance_layer. Connect Load Chroma Model, or use ComfyUI's "
            "own LoRA node"
        )
    header = read_header(path)
    stamps = stamps_of(LOADER, path)
    tensors = pieces_as_layers(comfy.lora_convert.convert_lora(read_tensors(path)))
    try:
        found = make_plan(
            {k: tuple(t.shape) for k, t in tensors.items()}, shapes, host_layers(model.model), header.metadata
        )
    except ValueError as error:
        raise ValueError(f"{header.name}: {error}") from error
    if not found.layers[MATCHED]:
        raise ValueError(nothing_matched(header.name, found, tensors))
    adapters = load_adapters(prepare(tensors, found), key_map(found))
    return LoraFile(header.name, tensors, found, adapters, stamps)


def with_lora(model: Any, lora: LoraFile, strength: float) -> Any:
    """A clone of the MODEL with the LoRA in its weights. raises: ValueError if the host does not take all of it."""
    clone = model.clone()
    watch(clone, lora.stamps)
    refused = lora.adapters.keys() - set(clone.add_patches(lora.adapters, strength))
    if refused or len(lora.adapters) != len(lora.plan.targets):
        raise ValueError(
            f"{lora.name}: ComfyUI took {len(lora.adapters) - len(refused)} of {len(lora.plan.targets)} adapters of this "
            "LoRA. Please report this with the versions of ComfyUI and of this pack"
        )
    return clone


def apply_lora(model: Any, path: str | os.PathLike[str], strength: float) -> tuple[Any, Lines]:
    """A clone of a Chroma MODEL with a LoRA file on it, and what was applied, in words.

    raises: ValueError as `read_lora` and `with_lora`.
    """
    lora = read_lora(model, path)
    return with_lora(model, lora, strength), lora.summary


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
