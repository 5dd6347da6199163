"""How like two sets of pictures are: PSNR, SSIM, sharpness. Pictures are (H, W, 3) in [0, 1]."""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from demo import judge_things

PEAK = 1.0
WINDOW, K1, K2 = 7, 0.01, 0.03  # of SSIM

COLUMNS: Mapping[str, str] = {"PSNR, dB": ".1f", "worst tenth": ".1f", "SSIM": ".3f", "sharpness": ".2f"}  # with forms
SHARPNESS = "share of fine detail (what a 2x2 mean takes away) in all that varies"
TOLD = (
    "`PSNR`: median and worst tenth of the pictures against the first row's; `SSIM`: median; `sharpness`: "
    f"{SHARPNESS}, relative to the first row's"
)


def figures(pictures: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> dict[str, float]:
    """What COLUMNS tell of them."""
    ratios = sorted(psnr(a, b) for a, b in zip(pictures, exact))
    alike = float(np.median([ssim(a, b) for a, b in zip(pictures, exact)]))
    found = float(np.median(ratios)), ratios[len(ratios) // 10], alike, sharpness(pictures, exact)
    return dict(zip(COLUMNS, found))


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


def sharpness(pictures: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> float:
    """Share of fine detail in all that varies, relative to that in the exact ones."""
    painted, wanted = (torch.from_numpy(np.stack(p)).permute(0, 3, 1, 2).double() for p in (pictures, exact))
    return judge_things.sharpness(painted, wanted)
