"""Hadamard rotations of a weight's inputs, which make its numbers similar in size. Source: ConvRot."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

GROUPS = (256, 64, 16)  # sizes that are written; 256 fits every linear of the 8.9B model


def rotation_group(in_features: int) -> int | None:
    """The largest group that divides a layer's inputs, or None if there is none (the layer stays as it is)."""
    return next((g for g in GROUPS if in_features % g == 0), None)


def rotates(columns: int, group: Any) -> bool:
    """Whether a regular Hadamard matrix of this size, a power of 4, can rotate rows of so many inputs."""
    power_of_4 = type(group) is int and group >= 4 and group.bit_count() == 1 and group.bit_length() % 2 == 1
    return power_of_4 and columns % group == 0


def rotate(weight: Tensor, group: int) -> Tensor:
    """(N, K) times a Hadamard matrix on every `group` of columns. Twice gives the weight back.

    group: a power of 4. The matrix is regular, a Kronecker product of 4 x 4 matrices, so that a large number spreads
           evenly over all columns.
    """
    h4 = torch.tensor(
        [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=weight.dtype, device=weight.device
    )
    h = h4
    while len(h) < group:
        h = torch.kron(h, h4)
    return (weight.unflatten(-1, (-1, group)) @ (h / group**0.5)).flatten(-2)
