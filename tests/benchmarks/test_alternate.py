"""The table of how far `alternate` may follow its line, with a fake painter; it is stopped and goes on."""

import re

import pytest
import support  # noqa: F401  the repository's root on the path

from benchmarks import alternate, two_seeds

NOISE = r"^Noise, .* over the rows: .*{}"


def test_a_stopped_table_goes_on_where_it_stopped(painted, monkeypatch, results):
    whole, _ = painted(alternate)
    limit, measured = 20, alternate.measured

    def stopped(*args):
        nonlocal limit
        limit -= 1
        if limit < 0:
            raise KeyboardInterrupt
        return measured(*args)

    monkeypatch.setattr(alternate, "measured", stopped)
    with pytest.raises(KeyboardInterrupt):
        painted(alternate)
    limit = 40
    text, painter = painted(alternate)
    assert limit == 0 and text == whole  # 20 of the 60 rows were there
    assert not any(s.steps == alternate.STEPS[0] and s.sampler == "euler" for s in painter.painted)


def test_alternate_table_compares_with_as_many_forwards(painted, rows_of):
    text, painter = painted(alternate)
    (_, by_trust), (head, rows) = rows_of(text)
    assert [row[0] for row in by_trust] == ["0", "0.25", "0.5", "0.75", "1"] and len(rows) == 60
    assert [alternate.steps_of(n) for n in (13, 19, 40.0000001, 26)] == [7, 10, 20, 13]
    assert painter.guided_run.TRUST == 1.0  # put back
    assert re.search(r"^It pays with .+ steps; nearest over these: [\d.]+; in samplers/guided_run.py: 1\.$", text, re.M)
    assert len(re.findall(NOISE.format("ratio"), text, re.M)) == 2


def test_the_nearest_trust_is_of_where_it_pays():
    worst = {
        (s, n, t): [{"ratio": 2 + t}] * 2 for s in alternate.SAMPLERS for n in alternate.STEPS for t in alternate.TRUSTS
    }
    pays = {("euler", 26, t): [{"ratio": 1.2 - 0.4 * t}] * 2 for t in alternate.TRUSTS}
    assert alternate.nearest(worst | pays) == (1.0, ["euler 26"])


def test_mean_ratio_is_geometric():
    found = alternate.mean_ratio([[{"ratio": 0.5}, {"ratio": 1.0}], [{"ratio": 2.0}, {"ratio": 1.0}]])
    assert two_seeds.cells(found, {"ratio": ".2f"}) == ["1.00"]
