"""The painter of benchmarks in the real host, on coloured shapes, which need no judge of things."""

import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path

from benchmarks.painter import Painter, Setting
from demo import evaluate, exam

pytestmark = [pytest.mark.host, pytest.mark.slow]


def test_both_seeds_are_painted_in_the_order_of_the_questions_and_forwards_are_counted(comfy, inference):
    asked = [exam.shape_pairs()[0], *exam.shapes()[:2], exam.shape_pairs()[1]]  # of different lengths
    painter, setting = Painter(evaluate.Studio("fp32"), asked), Setting(2, 3.0, "euler", "linear")
    found = painter.paint_all(setting)
    assert [one.pictures.shape for one in found] == [(4, 128, 128, 3)] * 2
    assert [one.forwards for one in found] == [4, 4]  # two steps, both prompts
    assert np.abs(found[0].latents - found[1].latents).mean() > 0.1  # other noise
    for i in (0, 2):
        alone = painter.paint_one(setting, [painter.asked[1][i]])
        np.testing.assert_allclose(found[1].pictures[i], alone.pictures[0], atol=2e-3)  # another batch, fp32
        assert alone.distance(alone) == 0 and alone.sharpness(alone) == 1
    assert painter.paint_one(Setting(3, 1.0, "euler", "linear"), asked[:1]).forwards == 3
    alternating = painter.paint_one(Setting(5, 3.0, "euler", "linear", guidance={"alternate": True}), asked[:1])
    assert alternating.forwards == 9  # of 10, as the fourth step forecasts
