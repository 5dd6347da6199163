"""A cache, weights and a folder of results of the test's own, and a painter that needs no host."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path

from benchmarks import measure, painter, two_seeds
from demo import evaluate, exam

SIDE = 12


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder where tables are written; what is measured is kept beside it, in `cache`."""
    monkeypatch.setenv("CHROMA_PACK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "results").mkdir()
    weights = [tmp_path / name for name in ("model", "vae", "judge")]
    for path in weights:
        path.write_bytes(path.name.encode())
    monkeypatch.setattr(evaluate, "WEIGHTS", tuple(weights))
    monkeypatch.setattr(measure, "machine", lambda: "a machine")
    for module in ("measure", "frontier", "presets"):
        monkeypatch.setattr(f"benchmarks.{module}.RESULTS", tmp_path / "results")
    return tmp_path / "results"


class FakePainter:
    """In the place of `painter.Painter`: pictures that follow from setting, question and trust, and a count of settings."""

    def __init__(self, studio, asked):
        self.asked, self.base, self.painted = two_seeds.both(asked), "model", []
        self.guided_run = SimpleNamespace(TRUST=1.0)

    def warm_up(self):
        pass

    def sigmas(self, setting):
        return np.linspace(1, 0, setting.steps + 1)

    def paint_all(self, setting):
        self.painted.append(setting)
        return [self.paint_one(setting, part) for part in self.asked]

    def paint_one(self, setting, part):
        forwards = setting.steps * (1 + (setting.cfg != 1)) * (0.75 if setting.guidance else 1)
        rng = np.random.default_rng([part[0].seed, setting.steps, int(100 * self.guided_run.TRUST), len(str(setting))])
        seen = np.random.default_rng(part[0].seed).random((len(part), SIDE, SIDE, 3)).astype(np.float32)
        off = rng.normal(0, 0.5 / forwards, seen.shape).astype(np.float32)
        verdicts = rng.random((len(part), len(exam.VERDICTS))) < 0.8
        latents = (seen + off).mean(-1)
        return painter.Painting(np.clip(seen + off, 0, 1), verdicts, latents, forwards, 0.01 * forwards)

    paint_once = painter.Painter.paint_once


@pytest.fixture
def painted(results, monkeypatch):
    """Runs a benchmark of one module with the fake painter; gives its table's text and the painter."""
    made = []

    def run(module):
        def make(studio, asked):
            made.append(FakePainter(studio, asked))
            return made[-1]

        monkeypatch.setattr(evaluate, "Studio", lambda *a: None)
        monkeypatch.setattr(module, "Painter", make)
        module.main(1)
        name = module.__name__.rpartition(".")[2]
        return (results / f"{name}.md").read_text(), made[-1]

    return run


@pytest.fixture(name="rows_of")
def rows_of_tables():
    return rows_of


def rows_of(text):
    """Every Markdown table of a text as (head, rows); each row has as many cells as the head."""
    lines, found = text.splitlines(), []
    for i, line in enumerate(lines):
        if re.fullmatch(r"\|[-|]+\|", line):
            cells = [[c.strip() for c in row.strip("|").split("|")] for row in lines[i - 1 :] if row.startswith("|")]
            end = next((n for n, row in enumerate(lines[i - 1 :]) if not row.startswith("|")), len(lines))
            head, _, *rows = cells[:end]
            assert {len(row) for row in rows} == {len(head)}, head
            found.append((head, rows))
    return found
