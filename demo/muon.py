"""Muon for matrices: momentum, then the nearest orthogonal matrix by Newton-Schulz.

torch.optim.Muon iterates in bfloat16, one matrix at a time; on a processor without bfloat16 that takes longer than the
step itself. Here it is done in float32, for all matrices of one shape at once, on their Gram matrices: of (m, n) with
m <= n only the (m, m) products are iterated.
Source: K. Jordan et al., Muon, and torch.optim.Muon, whose updates these are up to its rounding.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
EPS = 1e-7
MOMENTUM = 0.95


def orthogonalise(stack: Tensor) -> Tensor:
    """(N, m, n) -> the same, singular values of each matrix brought near 1 (0.7 to 1.2)."""
    if stack.shape[1] > stack.shape[2]:
        return orthogonalise(stack.mT).mT
    x = stack / stack.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    gram = x @ x.mT  # (N, m, m)
    a, b, c = COEFFICIENTS
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    total = identity
    for i in range(ITERATIONS):
        # One iteration is x <- p x with p = a + b G + c G^2, so G <- p G p; all of these commute.
        p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        total = p @ total if i else p
        if i < ITERATIONS - 1:
            gram = p @ (gram @ p)
    return total @ x


class Muon(torch.optim.Optimizer):
    """For parameters with two or more dimensions; those behind the first count as one."""

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.shape[0], p[0].numel()].append(p)
            for shape, params in by_shape.items():
                updates = orthogonalise(torch.stack([self._momentum(p).reshape(shape) for p in params]))
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))  # as large as AdamW's updates
                for p, update in zip(params, updates):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.reshape(p.shape), alpha=-rate)

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p.grad)
        state["momentum"].lerp_(p.grad, 1 - MOMENTUM)
        return p.grad.lerp(state["momentum"], MOMENTUM)  # Nesterov's
