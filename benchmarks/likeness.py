"""How like two sets of pictures are: PSNR, SSIM, sharpness. Pictures are (H, W, 3) in [0, 1]."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import torch
from torch import Tensor, nn

PEAK = 1.0
WINDOW, K1, K2 = 7, 0.01, 0.03  # of SSIM

COLUMNS = ("PSNR, dB", "worst tenth", "SSIM", "sharpness")
TOLD = (
    "`PSNR`: median and worst tenth of the pictures against the first row's; `SSIM`: median; `sharpness`: mean change from "
    "pixel to pixel, relative to the first row's"
)


def cells(pictures: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> list[str]:
    """A table's cells under COLUMNS; empty for the exact pictures themselves, whose sharpness is 1."""
    if pictures is exact:
        return ["", "", "", "1.00"]
    ratios = sorted(psnr(a, b) for a, b in zip(pictures, exact))
    alike = np.median([ssim(a, b) for a, b in zip(pictures, exact)])
    sharp = sharpness(pictures) / sharpness(exact)
    return [f"{np.median(ratios):.1f}", f"{ratios[len(ratios) // 10]:.1f}", f"{alike:.3f}", f"{sharp:.2f}"]


def psnr(picture: np.ndarray, exact: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(PEAK**2 / max(float(np.mean((picture - exact) ** 2)), 1e-12)))


def ssim(picture: np.ndarray, exact: np.ndarray) -> float:
    """Structural similarity, mean over colours and windows of WINDOW x WINDOW.

    source: Wang et al., Image quality assessment (2004), with a uniform window.
    """
    a, b = (torch.from_numpy(p).permute(2, 0, 1).double() for p in (picture, exact))

    def mean(x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, WINDOW, 1)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, both = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = K1**2, K2**2
    return float(
        ((2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()
    )


def sharpness(pictures: Sequence[np.ndarray]) -> float:
    """Median over the pictures of the mean change from pixel to pixel."""
    return float(np.median([sum(np.abs(np.diff(p, axis=axis)).mean() for axis in (0, 1)) for p in pictures]))
