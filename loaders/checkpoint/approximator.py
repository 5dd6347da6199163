"""Replaces the model's placeholder by a checkpoint's Approximator."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...chroma_model import Approximator, ChromaConfig, ChromaTransformer


def fill_approximator(model: ChromaTransformer, config: ChromaConfig, layers: Any = nn, **factory: Any) -> None:
    """Builds an Approximator of the sizes that the checkpoint implies and fills `distilled_guidance_layer` with it.

    layers:  classes of its layers; they must take float32 inputs with weights of any dtype.
    factory: dtype and device of its parameters. The weights come with the rest of the state dict.
    raises:  ValueError if one is there already.
    """
    if not isinstance(model.distilled_guidance_layer, nn.Identity):
        raise ValueError("distilled_guidance_layer is filled already")
    model.distilled_guidance_layer = Approximator(config.approximator, layers, **factory)
