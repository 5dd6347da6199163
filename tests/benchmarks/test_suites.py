"""Which tests are flaky, from runs of suites; and the rows of what was tried, where nothing is known."""

import support  # noqa: F401  the repository's root on the path

from benchmarks import reliability, suites


def run(passed, commit="a", frontend="pinned"):
    return {"suite": "host", "host": "pinned", "frontend": frontend, "commit": commit, "passed": passed}


def test_flaky_is_what_passes_and_fails_on_the_same_commit_host_and_page():
    assert suites.flaky([run({"x": True, "y": False}), run({"x": False, "y": False})]) == ["x"]
    assert suites.flaky([run({"x": True}), run({"x": False}, "b"), run({"x": False}, frontend="1.58.1")]) == []


def test_a_row_of_a_table_that_is_not_there_has_dashes(monkeypatch, tmp_path):
    monkeypatch.setattr(reliability, "RESULTS", tmp_path)
    for made in (reliability.suites_run(), reliability.readers_tried(), reliability.mutants_killed()):
        assert made.split(" | ")[1:3] == ["-", "-"]
    table = "| area | changes | tried | alive | share |\n|---|---|---|---|---|\n| keys | 11 | 11 | 0 | 0.0% |\n| res | 99 | 50 | 3 | 6% |\n"
    (tmp_path / "mutants.md").write_text(table)
    assert reliability.mutants_killed().split(" | ")[1:3] == ["61", "3"]
    (tmp_path / "soak.md").write_text("| 1 | 22 | 1030 / 1073 / 1146 |\n| 2 | 24 | 1 / 1200 / 2 |\n")
    assert reliability.memory_curve().split(" | ")[1] == "1073 -> 1200 -> -"
