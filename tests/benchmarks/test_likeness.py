"""Figures that tables give of pictures."""

import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path

from benchmarks import likeness

RNG = np.random.default_rng(0)
PICTURE = RNG.random((24, 20, 3)).astype(np.float32)


def test_psnr_of_a_known_error():
    assert likeness.psnr(np.full((8, 8, 3), 0.6), np.full((8, 8, 3), 0.5)) == pytest.approx(20)
    assert likeness.psnr(PICTURE, PICTURE) == pytest.approx(120)  # as many dB as are told


def test_ssim_of_two_flat_pictures_is_their_means_alone():
    a, b = np.full((9, 9, 3), 0.2), np.full((9, 9, 3), 0.6)
    c1 = likeness.K1**2
    assert likeness.ssim(a, b) == pytest.approx((2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1))
    assert likeness.ssim(PICTURE, PICTURE) == pytest.approx(1)
    assert likeness.ssim(PICTURE, 1 - PICTURE) < 0


def test_sharpness_is_the_share_of_fine_detail_relative_to_the_exact_ones():
    """What varies twice as much is no sharper, a pattern without a mean over 2x2 is all fine detail, a blur has less."""
    board = np.indices((8, 8)).sum(0)[..., None].repeat(3, -1) % 2.0
    slope = np.linspace(0, 1, 8)[None, :, None].repeat(8, 0).repeat(3, -1)
    assert likeness.sharpness([board * 0.5], [board]) == pytest.approx(1)
    assert likeness.sharpness([board], [board * 0.5 + slope]) > 1.3
    blurred = (PICTURE + np.roll(PICTURE, 1, 0) + np.roll(PICTURE, 1, 1)) / 3
    assert likeness.sharpness([blurred], [PICTURE]) < 0.8


def test_figures_are_those_of_the_columns():
    near, far = np.clip(PICTURE + 0.01, 0, 1), np.clip(PICTURE + 0.1, 0, 1)
    found = likeness.figures([near] * 9 + [far], [PICTURE] * 10)
    assert list(found) == list(likeness.COLUMNS)
    assert found["PSNR, dB"] == pytest.approx(likeness.psnr(near, PICTURE))
    assert found["worst tenth"] == pytest.approx(likeness.psnr(near, PICTURE))  # one in ten is worse
    assert found["SSIM"] > 0.9 and found["sharpness"] == pytest.approx(1, abs=0.05)
