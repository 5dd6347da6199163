"""What a stopped benchmark keeps, and when it is taken again."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path

from benchmarks import measure
from demo import evaluate


@dataclass(frozen=True)
class Setting:
    steps: int
    blocks: frozenset = frozenset()


class Painted(NamedTuple):
    pictures: np.ndarray
    seconds: float


def test_a_row_is_measured_once_and_a_restarted_table_takes_it_again(results):
    measured = []

    def measure_it():
        measured.append(1)
        return [{"right": 0.5, "PSNR": float("nan")}, (1, 2)]

    kept = measure.Kept("table", ["a prompt", 7])
    first = kept.row(Setting(3), measure_it)
    again = measure.Kept("table", ["a prompt", 7]).row(Setting(3), measure_it)
    assert len(measured) == 1
    assert str(again) == str(first) == "[{'right': 0.5, 'PSNR': nan}, [1, 2]]"  # a fresh row is like a kept one


@pytest.mark.parametrize("change", ["table", "settings", "row", "blocks", "weights"])
def test_what_a_row_depends_on_has_it_measured_anew(results, change):
    measure.Kept("table", {"cfg": 3.0}).row(Setting(3), lambda: "before")
    if change == "weights":
        evaluate.WEIGHTS[2].write_bytes(b"another judge")
    name = "another" if change == "table" else "table"
    kept = measure.Kept(name, {"cfg": 3.5 if change == "settings" else 3.0})
    row = Setting(4 if change == "row" else 3, frozenset({("single", 1)} if change == "blocks" else ()))
    assert kept.row(row, lambda: "anew") == "anew"
    if change == "weights":
        evaluate.WEIGHTS[2].write_bytes(b"judge")
        assert measure.Kept(name, {"cfg": 3.0}).row(row, lambda: "anew") == "before"


def test_equal_settings_are_one_whatever_their_order():
    sets = [frozenset(("single", i) for i in order) for order in (range(9), range(8, -1, -1))]
    assert measure.plain(sets[0]) == measure.plain(sets[1])
    assert measure.plain(Setting(2)) == {"steps": 2, "blocks": []}
    with pytest.raises(TypeError, match="no setting that can be written down"):
        measure.plain({"model": object()})


def test_weights_that_are_not_there_are_named(results):
    evaluate.WEIGHTS[0].unlink()
    with pytest.raises(FileNotFoundError, match="model"):
        measure.Kept("table", [])


def test_pictures_that_rows_are_compared_with_are_kept_to_the_bit(results):
    rng, calls = np.random.default_rng(0), []

    def paint():
        calls.append(1)
        return [Painted(rng.random((2, 4, 4, 3), np.float32), 0.1 * i) for i in range(2)]

    first = measure.Kept("table", []).painted(Painted, "exact", paint)
    again = measure.Kept("table", []).painted(Painted, "exact", paint)
    assert len(calls) == 1 and [one.seconds for one in again] == [0.0, 0.1]
    assert isinstance(again[1].seconds, float)
    assert all(np.array_equal(a.pictures, b.pictures) and b.pictures.dtype == np.float32 for a, b in zip(first, again))
    measure.Kept("table", []).painted(Painted, "another", paint)
    assert len(calls) == 2


def test_a_row_that_is_stopped_leaves_the_others(results):
    kept = measure.Kept("table", [])
    kept.row(1, lambda: "done")

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.row(2, stopped)
    assert measure.Kept("table", []).row(1, stopped) == "done"


def test_a_written_table_leaves_nothing_and_touches_no_other(results):
    others = measure.Kept("table_of_others", [])
    others.row(1, lambda: "kept")
    kept = measure.Kept("table", [])
    kept.row(1, lambda: 1)
    kept.painted(Painted, "exact", lambda: [Painted(np.zeros(2), 1.0)])
    cache = results.parent / "cache"
    assert len(list(cache.iterdir())) == 3
    kept.write("A title", ["| a |", "|---|", "| 1 |"])
    assert (results / "table.md").read_text().startswith("# A title\n\na machine\n\n| a |")
    assert [path.name for path in cache.iterdir()] == ["table_of_others.kept.json"]
