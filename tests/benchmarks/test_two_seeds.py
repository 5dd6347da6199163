"""The mean of two seeds and the noise that their difference tells."""

import math

import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path

from benchmarks import two_seeds
from demo import exam, pictures

FORMS = {"PSNR, dB": ".1f", "right": ".1%"}


def test_cells_are_means_and_empty_where_a_seed_has_none():
    assert two_seeds.cells([{"PSNR, dB": 30.0, "right": 0.5}, {"PSNR, dB": 31.0, "right": 0.75}], FORMS) == [
        "30.5",
        "62.5%",
    ]
    assert two_seeds.cells([{"right": 1.0}, {"right": math.nan, "PSNR, dB": 3.0}], FORMS) == ["", ""]


def test_noise_is_half_the_difference_root_mean_square_over_rows():
    rows = [[{"right": 0.5}, {"right": 0.7}], [{"right": 0.5}, {"right": 0.5}], [{}, {}]]
    assert two_seeds.noise(rows, "right") == pytest.approx(math.sqrt((0.1**2 + 0) / 2))
    assert math.isnan(two_seeds.noise(rows, "PSNR, dB"))
    assert two_seeds.noise_line(rows, FORMS).endswith("over the rows: right 7.1%.")


def test_noise_is_the_standard_error_of_a_cell():
    """Of a thousand rows whose figures vary by 1, and whose cells so by the root of a half."""
    rng = np.random.default_rng(0)
    rows = [[{"a": float(v)} for v in rng.standard_normal(2)] for _ in range(1000)]
    assert two_seeds.noise(rows, "a") == pytest.approx(
        np.std([np.mean([f["a"] for f in row]) for row in rows]), rel=0.1
    )


def test_questions_are_asked_twice_with_seeds_that_nothing_else_has():
    one, other = two_seeds.both(exam.mixed(24))
    assert [q.prompt for q in one] == [q.prompt for q in other]
    everything = [*exam.shapes(), *exam.single_things(), *exam.thing_pairs(), *exam.thing_edits()]
    assert not {q.seed for q in other} & {q.seed for q in [*one, *everything]}


def test_answers_are_in_the_order_of_the_questions_whatever_order_they_are_painted_in():
    class Studio:
        def answers(self, asked, cfg, **more):
            assert (cfg, more) == (3.0, {"steps": 4})
            rng = np.random.default_rng(0)
            yield from ((q, pictures.draw(q.scene, rng)) for q in reversed(asked))

    asked = exam.shapes()[::50]
    found = two_seeds.answers(Studio(), asked, 3.0, steps=4)
    assert found.pictures.shape == (4, 128, 128, 3) and found.verdicts.shape == (4, len(exam.VERDICTS))
    assert found.shares() == {"thing": 1.0, "right": 1.0}
    verdicts = [question.verdict(picture) for question, picture in zip(asked, found.pictures)]
    assert all(verdict["right"] for verdict in verdicts)
