"""Tables of pictures with a fake painter: well formed, with their noise, and what was measured is not measured again."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import support
import torch

from benchmarks import choices, frontier, guidance, judge, measure, presets, savings, terse
from demo import evaluate, exam, pictures

NOISE = r"^Noise, half the difference between the two seeds, root mean square over the rows: .*{}"


def test_frontier_asks_some_hundred_rows_of_which_none_is_asked_twice():
    found = list(frontier.rows())
    assert 100 <= len(found) <= 180
    assert len({measure.Kept.key(SimpleNamespace(table="", settings=[]), s) for _, s in found}) == len(found)
    for sampler in ("euler", "res_multistep", "dpmpp_2m", "chroma_res_2m", "chroma_sigma_2m", "chroma_sigma_3m"):
        steps = {s.steps for name, s in found if name == sampler}
        assert steps == {6, 8, 11, 14, 20, 26, 40} | ({10, 13, 16, 18, 19} if "sigma" in sampler else set())
    assert {s.steps for _, s in found if s.host_cache} == {26, 40}
    assert {s.steps for _, s in found if s.guidance or s.cache} == {14, 20, 26}


def test_frontier_table(painted, rows_of, results):
    text, painter = painted(frontier)
    ((head, rows),) = rows_of(text)
    assert head[1:] == list(frontier.COLUMNS) and len(rows) == len(list(frontier.rows()))
    assert re.search(NOISE.format(r"distance 0\.\d+; PSNR, dB .*right \d+\.\d%"), text, re.M)
    assert any(row[0].startswith("**") for row in rows) and (results / "frontier.svg").is_file()
    assert len(painter.painted) == len(rows) + 2  # and the solution and the plain one
    assert [len(part) for part in painter.asked] == [12, 12]
    assert list((results.parent / "cache").iterdir()) == []


def test_presets_tables(painted, rows_of, results):
    text, painter = painted(presets)
    (costs, rows), (likes, by_curve) = rows_of(text)
    assert costs[-2:] == likes[-2:] == ["thing", "right"] and len(by_curve) == len(presets.BY_CURVE)
    settings = [str(s) for s in painter.painted]
    assert (
        len(settings) == len(set(settings)) < len(rows) + len(by_curve) + 1
    )  # equal presets share a row's measurement
    assert len(re.findall(NOISE.format("right"), text, re.M)) == 2
    assert (results / presets.SHEET).is_file() and [len(part) for part in painter.asked] == [24, 24]


def test_terse_prompts_leave_out_what_they_say():
    (scene,) = {q.scene for q in exam.single_things()[:1]}
    item, ground = scene.items[0], scene.ground.name
    found = [terse.prompt(scene, form) for form in terse.FORMS]
    assert found[0] == exam.single_things()[0].prompt  # as training has it
    assert [item.style in text for text in found] == [True, True, False, False]
    assert [ground in text for text in found] == [True, False, True, False]
    assert all(item.thing in text for text in found)


def test_choices_are_beside_the_preset_that_they_come_from(painted, rows_of):
    text, painter = painted(choices)
    ((head, rows),) = rows_of(text)
    assert head[:4] == ["", "steps", "sampler", "times as fast"] and head[4:] == list(choices.COLUMNS)
    assert [row[:3] for row in rows] == [
        ["the preset", "26", "euler"],
        ["draft", "8", "chroma_sigma_2m"],
        ["standard", "14", "chroma_sigma_2m"],
        ["quality", "26", "chroma_sigma_3m"],
    ]
    assert rows[0][3] == "1.00" and rows[0][6:10] == [""] * 4  # the preset is not like another
    assert [len(part) for part in painter.asked] == [50, 50]
    assert re.search(NOISE.format("distance .*right"), text, re.M)


def test_guidance_tables_are_made_of_lines_that_guidance_takes(results, rows_of):
    settings = support.dev.load_pack("samplers.guided_run").Guidance

    class Bench:
        def paint(self, line, steps):
            settings(**line.guidance)
            rng = np.random.default_rng([steps, len(line.name)])
            return [
                guidance.Painted(rng.random((3, 16, 16, 3), np.float32), rng.random((3, 5)) < 0.5, 2.0)
                for seed in range(2)
            ]

    kept = measure.Kept("guidance", [])
    found = guidance.tables(20)
    text = "\n".join(line for table in found for line in guidance.made(table, Bench(), kept))
    names = [row[0] for _, rows in rows_of(text) for row in rows]
    assert names.count("plain, cfg 3") == 2 and {"alternate", "interval 0 to 0.2", "NAG 5, empty negative"} <= set(
        names
    )
    assert len(re.findall(NOISE.format("right"), text, re.M)) == len(found) == 4
    assert rows_of(text)[0][1][0][:4] == ["plain, cfg 3", "2.00", "", ""]


def test_savings_cells_are_means_with_a_star_where_a_run_kept_uncond():
    one = dict.fromkeys(savings.SETTINGS, [1.0, False, 0.5])
    row = [one, {**one, "alternate": [2.0, True, 1.0]}]
    assert savings.cells(row)[:2] == ["1.50* (0.75)", "1.00 (0.50)"]


def test_savings_are_against_the_same_samplers_plain_picture():
    """A picture is its model's level; half of the prompts are left out with any setting."""

    class Studio:
        model = sampler = None

        def answers(self, asked, cfg, batch):
            level, told = self.model
            told.append(SimpleNamespace(prompts=20 if level else 40, notes=["why"] if level > 3 else []))
            return [(question, np.full((4, 4, 3), level / 255)) for question in asked]

    levels = {None: 0, **{str(values): i + 1 for i, values in enumerate(savings.SETTINGS.values())}}
    found = savings.measured(
        Studio(), lambda values, told: (levels[str(values) if values else None], told), "euler", exam.mixed(4)
    )
    assert [round(cell[0], 6) for cell in found.values()] == [1, 2, 3, 4]
    assert [cell[1:] for cell in found.values()] == [(False, 0.5)] * 3 + [(True, 0.5)]


@pytest.mark.parametrize("with_sprites", (False, True))
def test_judge_table_has_edits_by_kind_and_says_where_sprites_lack(results, rows_of, monkeypatch, with_sprites):
    class Studio:
        """Paints shapes as they are asked for, and things as plain grounds."""

        def __init__(self, file):
            assert file in (evaluate.MODEL, evaluate.RADIANCE)

        def source(self, question):
            return np.ones((1, 128, 128, 3), np.float32)

        def answers(self, asked, cfg):
            rng = np.random.default_rng(0)
            for q in asked:
                is_shape = isinstance(q.scene, pictures.Scene)
                yield q, pictures.draw(q.scene, rng) if is_shape else rng.random((128, 128, 3)).astype(np.float32)

    def never_sure(views):
        return torch.zeros(len(views), 100), torch.zeros(len(views), 3)

    monkeypatch.setattr(exam, "judge_of_things", lambda: (never_sure, ["cat"] * 100))
    monkeypatch.setattr(evaluate, "Studio", Studio)
    monkeypatch.setattr("demo.things.kept", lambda: "sprites" if with_sprites else None)
    monkeypatch.setattr(exam.Question, "real", lambda self, sprites: np.random.default_rng(1).random((128, 128, 3)))
    monkeypatch.setattr(judge, "OF_LISTS", {"shapes": 50, "things": 25, "pairs": 10})
    judge.main(1)
    text = (results / "judge.md").read_text()
    ((head, rows),) = rows_of(text)
    assert head[2:] == list(judge.COLUMNS)
    assert [row[:3] for row in rows[:4]] == [["one shape (4)", f"{cfg}", "100.0%"] for cfg in (1, 2, 3, 5)]
    assert [row[:2] for row in rows[20:24]] == [
        [f"edit of {k} (10)", "3"] for k in ("style", "ground", "place", "thing")
    ]
    assert [row[:2] for row in rows[24:26]] == [["Radiance: one shape (4)", cfg] for cfg in ("1", "3")]
    assert len(rows) == 34
    assert all((row[-1] != "") is (with_sprites or "shape" in row[0]) for row in rows)
    assert all(row[head.index("right of right sources")] == "" for row in rows)  # no source was right
    assert ("python -m demo.things" in text) is not with_sprites
