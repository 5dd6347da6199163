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


def test_sharpness_is_change_from_pixel_to_pixel():
    board = np.indices((8, 8)).sum(0)[..., None].repeat(3, -1) % 2.0
    assert likeness.sharpness([board]) == 2  # one in each direction
    assert likeness.sharpness([board * 0.5, board, board * 0.25]) == 1  # the median


def test_cells_are_those_of_the_columns():
    pictures = [PICTURE, np.clip(PICTURE + 0.1, 0, 1)]
    found = likeness.cells(pictures, [PICTURE, PICTURE])
    assert len(found) == len(likeness.COLUMNS) == len(likeness.cells(pictures, pictures))
    assert likeness.cells(pictures, pictures)[-1] == "1.00" and float(found[1]) < 25 < float(found[0])
