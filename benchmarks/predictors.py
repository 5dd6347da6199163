"""What others forecast a step with, in the place of the line of `samplers/step_cache.py`: rows of the frontier.

All stand on one seam, what the blocks after the first have added, and on one plan, so that only the forecast differs.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Iterator
from unittest import mock

import torch
from torch import Tensor

DEGREE, RIDGE, SHARE = 4, 0.1, 0.5  # of Spectrum's fit: its defaults; SHARE is the fit's, the line has the rest


def held(sigmas: list[float], sigma: float) -> Tensor:
    """The last one as it was: First Block Cache (ParaAttention) and MagCache (arXiv:2506.09045) in a step that they leave out."""
    weights = torch.zeros(len(sigmas), dtype=torch.float64)
    weights[-1] = 1.0
    return weights


def taylor(order: int, sigmas: list[float], sigma: float) -> Tensor:
    """The polynomial through the last order + 1, or as many as there are: TaylorSeer (arXiv:2503.06923) over sigma."""
    used = sigmas[-order - 1 :]
    weights = torch.zeros(len(sigmas), dtype=torch.float64)
    for i, here in enumerate(used, start=len(sigmas) - len(used)):
        weights[i] = 1.0
        for other in used:
            if other != here:
                weights[i] *= (sigma - other) / (here - other)
    return weights


def chebyshev(sigmas: list[float], sigma: float) -> Tensor:
    """A ridge fit of Chebyshev's polynomials to all of them, mixed with the line: Spectrum (arXiv:2603.01623)."""
    basis = polynomials(torch.tensor(sigmas, dtype=torch.float64))
    normal = basis.T @ basis + RIDGE * torch.eye(DEGREE + 1, dtype=torch.float64)
    fit = polynomials(torch.tensor([sigma], dtype=torch.float64)) @ torch.linalg.solve(normal, basis.T)
    return SHARE * fit[0] + (1 - SHARE) * taylor(1, sigmas, sigma)


def polynomials(sigmas: Tensor) -> Tensor:
    """(n,) in [0, 1] -> (n, DEGREE + 1): T_0 to T_DEGREE of 2 sigma - 1."""
    x = 2 * sigmas - 1
    return torch.stack([torch.cos(k * torch.arccos(x.clamp(-1, 1))) for k in range(DEGREE + 1)], dim=1)


# name -> how much of each computed step's residual, (n,), is in the forecast; given all their sigmas and the one that is asked
PREDICTORS = {
    "hold": held,
    "Taylor 2": lambda sigmas, sigma: taylor(2, sigmas, sigma),
    "Chebyshev": chebyshev,
}


@contextlib.contextmanager
def predicting(step_cache: Any, name: str) -> Iterator[None]:
    """Runs in it forecast by this one of PREDICTORS; by our own line where it is empty."""
    if not name:
        yield
        return
    weigh = PREDICTORS[name]

    @dataclass
    class Stream(step_cache.Stream):
        """past: every computed step."""

        past: list[tuple[float, Tensor]] = field(default_factory=list)

        def keep(self, sigma: float, residual: Tensor) -> None:
            self.past.append((sigma, residual))
            super().keep(sigma, residual)

        def forecast(self, sigma: float) -> Tensor:
            weights = weigh([s for s, _ in self.past], sigma)
            found = torch.zeros_like(self.past[-1][1], dtype=torch.float32)
            for weight, (_, residual) in zip(weights.tolist(), self.past):
                found.add_(residual, alpha=weight)
            return found

    with mock.patch.object(step_cache, "Stream", Stream):
        yield
