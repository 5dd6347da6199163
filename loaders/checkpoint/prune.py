"""Leaves blocks out of a model that is to be written. Those that stay keep their numbers, so that their modulations, which
the Approximator makes from the number, and LoRAs still are theirs."""

from __future__ import annotations

from dataclasses import replace

from ...chroma_model.block_lists import Block
from .detect_variant import Detection
from .keys import block_of


def pruned(detection: Detection, left_out: frozenset[Block]) -> Detection:
    """The same without these blocks. raises: ValueError if there is no such block, or no double block is left."""
    kept = [name for name in detection.tensors if block_of(name) not in left_out]
    return replace(
        detection,
        tensors={name: detection.tensors[name] for name in kept},
        shapes={name: detection.shapes[name] for name in kept},
        config=replace(detection.config, left_out=detection.config.left_out | left_out),
    )
