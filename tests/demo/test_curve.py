import re

import pytest
import support  # noqa: F401  the repository's root on the path

from demo import curve, training


def test_curve_draws_what_a_log_tells(tmp_path):
    log = training.Log(tmp_path / "log.csv")
    for step, loss in ((50, 0.5), (100, 0.4), (150, 0.3)):
        log.hours += 1
        log.write(step, loss64x64=loss, seconds=2.0)
    log.write(150, height=64, width=64, known_thing=0.25, sharpness=0.5)
    found = curve.read(tmp_path / "log.csv")
    assert [value for _, value in found["loss64x64"]] == [0.5, 0.4, 0.3]
    assert [hours for hours, _ in found["loss64x64"]] == pytest.approx([1, 2, 3], abs=0.01)
    assert curve.smooth(found["loss64x64"])[-1][1] == pytest.approx(0.4)
    drawn = curve.draw(found)
    assert all(f">{words}</text>" in drawn for words in ("64 pixels", "thing", "sharpness", "3 h"))
    assert "two things" not in drawn  # of which the log tells nothing
    (line,) = re.findall(r'points="([^"]*)" fill="none" stroke="#0072b2"', drawn.split("share, and")[0])
    heights = [float(point.split(",")[1]) for point in line.split()]
    assert heights == sorted(heights)  # a loss that falls goes down
