"""Inputs that coverage-guided fuzzing has found (benchmarks/fuzz_readers.py), and the sound ones that it begins with."""

import json

import pytest
import support  # noqa: F401  the repository's root on the path

from benchmarks import fuzz_readers

FOUND = sorted(path for path in fuzz_readers.CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_broke_a_reader_is_refused_well(path, tmp_path):
    assert fuzz_readers.problem(path.parent.name, path.read_bytes(), tmp_path) is None


@pytest.fixture(scope="module")
def seeds():
    return fuzz_readers.seeds()


@pytest.mark.parametrize("reader", fuzz_readers.READERS)
def test_every_reader_has_sound_inputs_and_stands_cut_ones(reader, seeds, tmp_path):
    assert seeds[reader]
    for raw in seeds[reader]:
        for part in (raw, raw[: len(raw) // 2], raw[:9], b"", raw[1:], raw * 2):
            assert fuzz_readers.problem(reader, part, tmp_path) is None


def test_a_reader_that_breaks_is_told(monkeypatch, tmp_path):
    def broken(path):
        raise KeyError("weight_map")

    monkeypatch.setitem(fuzz_readers.READERS, "index", ("x.json", bytes, broken))
    assert fuzz_readers.problem("index", json.dumps({}).encode(), tmp_path) == "KeyError: 'weight_map'"
    monkeypatch.setitem(fuzz_readers.READERS, "index", ("x.json", bytes, lambda path: json.loads("x.json: {")))
    assert fuzz_readers.problem("index", b"", tmp_path).startswith("JSONDecodeError: ")  # another library's, as it came


@pytest.mark.parametrize("reader", ["csv", "jsonl", "prompts", "wildcards", "workflow", "ledger", "picture"])
def test_readers_of_the_tools_take_a_sound_input(reader, seeds, tmp_path):
    """So that what is fuzzed is more than a refusal."""
    name, make, read = fuzz_readers.READERS[reader]
    (tmp_path / name).write_bytes(make(seeds[reader][0]))
    if reader == "jsonl":
        (tmp_path / "x.txt").write_text("red", encoding="utf-8")
    read(tmp_path / name)
