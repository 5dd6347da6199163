"""Made-up sprites in place of the fetched ones."""

import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path

from demo import things

SIZES = (64, 32)


@pytest.fixture(scope="session")
def sprites():
    """Discs: the thing's number is its red, the style its green; all in the middle half of the sprite."""
    names = things.names()
    levels = {}
    for size in SIZES:
        place = (np.arange(size) + 0.5) / size - 0.5
        disc = np.hypot(place[:, None], place[None]) < 0.484  # SPRITE less its margins
        levels[size] = np.zeros((len(names), len(things.STYLES), size, size, 4), np.uint8)
        for j in range(len(things.STYLES)):
            colour = np.stack([np.arange(len(names)) % 256, np.full(len(names), 80 * j)], -1)
            levels[size][:, j, ..., :2] = disc[..., None] * colour[:, None, None]
            levels[size][:, j, ..., 3] = disc * 255
    return things.Sprites(names, levels)
