"""How many patches Radiance's head paints at a time, by the memory that is free."""

from __future__ import annotations

import comfy.model_management
from torch import Tensor

from ...chroma_model import ChromaConfig
from ...chroma_model.radiance import TILE_PIXELS, patch_bytes

SHARE = 0.5  # of the free memory, for one tile
SMALLEST = 8  # patches; fewer would save no memory that a step needs elsewhere, and cost a launch each


def fitting_tile(config: ChromaConfig, x: Tensor) -> int:
    """Patches a tile that fit into the free memory of the device of x: a power of two, at most the host's 512 of 16x16.

    Powers of two, so that a compiled network meets few sizes. The result of the head does not depend on it.
    """
    largest = max(SMALLEST, TILE_PIXELS // config.patch_size**2)
    room = SHARE * comfy.model_management.get_free_memory(x.device) / patch_bytes(config, x.element_size())
    tile = SMALLEST
    while tile * 2 <= min(room, largest):
        tile *= 2
    return tile
