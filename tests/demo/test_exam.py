from collections import Counter

import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path
import torch

from demo import edits, evaluate, exam, pictures, scenes, things


@pytest.mark.parametrize("ask", (exam.shapes, exam.shape_pairs, exam.single_things, exam.thing_pairs, exam.thing_edits))
def test_questions_are_the_same_every_time_with_seeds_of_their_own(ask):
    asked = ask()
    assert asked == ask()
    assert len({q.seed for q in asked}) == len(asked)


def test_half_of_the_questions_are_held_out_of_training():
    for asked in (exam.shapes(), exam.single_things()):
        assert sum(q.is_held_out for q in asked) == exam.NUM_HELD_OUT == len(asked) / 2


@pytest.mark.parametrize("every", (2, 5, 8, 25))
def test_any_part_of_the_questions_has_sentences_and_tags(every):
    forms = [q.prompt == pictures.prompts(q.scene)[0] for q in exam.shapes()[::every]]
    assert 0.2 < np.mean(forms) < 0.8


def test_drawn_shapes_are_right_and_another_scene_is_not():
    asked, rng = exam.shapes()[::20], np.random.default_rng(0)
    drawn = [pictures.draw(q.scene, rng, 128) for q in asked]
    assert all(q.verdict(picture)["right"] for q, picture in zip(asked, drawn))
    assert not any(q.verdict(picture)["right"] for q, picture in zip(asked, drawn[1:] + drawn[:1]))


def test_a_thing_is_right_if_it_its_style_and_its_ground_are(sprites, monkeypatch):
    class Sure(torch.nn.Module):
        """Sees one thing in one style, whatever it is shown."""

        def __init__(self, thing, style):
            super().__init__()
            self.seen = things.names().index(thing), things.STYLES.index(style)

        def forward(self, views):
            sizes = len(things.names()), len(things.STYLES)
            return [torch.eye(size)[i].expand(len(views), -1) for size, i in zip(sizes, self.seen)]

    rng = np.random.default_rng(0)
    scene = scenes.Scene((scenes.random_item(rng, "fox", "3D"),), scenes.random_ground(rng, "white"))
    question, picture = exam.Question("a 3D fox on white", 0, scene), scenes.draw([scene], sprites, 64, 64)[0].numpy()
    for seen, right in ((("fox", "3D"), True), (("fox", "flat"), False), (("cat", "3D"), False)):
        monkeypatch.setattr(exam, "judge_of_things", lambda seen=seen: (Sure(*seen), things.names()))
        assert question.verdict(picture)["right"] is right
    monkeypatch.setattr(exam, "judge_of_things", lambda: (Sure("fox", "3D"), things.names()))
    assert not question.verdict(np.clip(picture - 0.5, 0, 1))["right"]  # not on white


@pytest.mark.parametrize(
    "count, parts", [(4, (2, 1, 1, 0)), (12, (6, 3, 2, 1)), (24, (12, 5, 5, 2)), (48, (24, 10, 10, 4))]
)
def test_mixed_questions_have_known_things_held_out_ones_pairs_and_shapes(count, parts):
    asked = exam.mixed(count)
    assert asked == exam.mixed(count) and len({q.seed for q in asked}) == count
    of_things = [q for q in asked if isinstance(q.scene, scenes.Scene)]
    singles = [q for q in of_things if len(q.scene.items) == 1]
    held_out = [q for q in singles if q.is_held_out]
    assert parts == (len(singles) - len(held_out), len(held_out), len(of_things) - len(singles), count - len(of_things))
    styles = Counter(q.scene.items[0].style for q in singles if not q.is_held_out)
    assert max(styles.values()) - min(styles[style] for style in things.STYLES) <= 1
    assert {q.scene for q in asked} >= {q.scene for q in exam.mixed(4)}


def test_edits_of_a_kind_are_a_part_of_all():
    parts = [exam.edits_of(kind) for kind in edits.KINDS]
    assert sorted((q.seed for part in parts for q in part)) == [q.seed for q in exam.thing_edits()]
    assert {len(part) for part in parts} == {exam.NUM_EDITS / len(edits.KINDS)}
    assert all(q.prompt.startswith("move it ") for q in exam.edits_of("place"))


def test_sprites_are_none_where_none_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("CHROMA_PACK_CACHE", str(tmp_path))
    assert things.kept() is None and not list(tmp_path.iterdir())  # and nothing is fetched


def test_verdicts_of_shapes_and_of_things_have_the_same_names(sprites, monkeypatch):
    monkeypatch.setattr(exam, "judge_of_things", lambda: (torch.nn.Identity(), things.names()))
    monkeypatch.setattr(exam.judge_things, "verdicts", lambda *a: [dict.fromkeys(exam.VERDICTS[:-1], True)])
    for question in (exam.shapes()[0], exam.single_things()[0], exam.thing_pairs()[0]):
        real = question.real(sprites)
        assert real.shape == (128, 128, 3) and tuple(question.verdict(real)) == exam.VERDICTS
        assert question.verdict(real)["right"]
    red = pictures.Scene((pictures.Thing("", "red", "circle", ""),), "blue")
    seen = pictures.Scene((pictures.Thing("", "green", "circle", ""),), "blue")
    found = exam.Question("", 0, red).verdict(exam.Question("", 0, seen).real(None))
    assert found == {"thing": True, "style": False, "ground": True, "place": True, "right": False}


class FakeStudio(evaluate.Studio):
    """Paints the question's seed as a grey level; the host is not there."""

    def __init__(self):
        self.loaded, self.model, self.sampler = "loaded", "patched", "heun"
        self.heard, self._sources = [], {}

    def text(self, prompt):
        return torch.zeros(1, len(prompt.split()), 1)

    def paint(self, prompts, seeds, cfg, **more):
        self.heard.append((prompts, cfg, more))
        return np.stack([np.full((128, 128, 3), (seed % 7) / 7) for seed in seeds])


def test_the_source_of_an_edit_is_painted_once_the_same_way_for_all_settings():
    studio, asked = FakeStudio(), exam.edits_of("ground")[:2]
    for cfg in (1.0, 5.0):
        list(studio.answers(asked, cfg, steps=3))
    sources = [h for h in studio.heard if h[2].get("model") == "loaded"]
    assert [h[:2] for h in sources] == [([scenes.caption(q.before)], evaluate.SOURCE_CFG) for q in asked]
    assert all(h[2] == {"model": "loaded", "sampler": "euler"} for h in sources)
    others = [h for h in studio.heard if "model" not in h[2]]
    assert [h[:2] for h in others] == [([q.prompt], cfg) for cfg in (1.0, 5.0) for q in asked]
    assert all(
        h[2]["steps"] == 3 and h[2]["shown"].mean() == pytest.approx(studio.source(q).mean())
        for h, q in zip(others, asked * 2)
    )


def test_scores_tell_how_many_edits_of_right_sources_are_right(monkeypatch):
    """Of four edits two begin with a right picture, of which one is right in the end; a third is right by luck."""
    asked = exam.edits_of("style")[:4]
    rights = {q.before: r for q, r in zip(asked, (True, True, False, False))}
    rights |= {q.scene: r for q, r in zip(asked, (True, False, True, False))}
    verdict = lambda self, picture: dict.fromkeys(exam.VERDICTS, rights[self.scene])  # noqa: E731
    monkeypatch.setattr(exam.Question, "verdict", verdict)
    found = evaluate.scores(FakeStudio(), asked, 3.0)
    assert (found["count"], found["right"], found["right_of_right"]) == (4, 0.5, 0.5)
    assert np.isnan(found["sharpness"])  # without sprites


@pytest.mark.host
@pytest.mark.slow
def test_an_edit_is_painted_from_the_picture_that_its_scene_gives(comfy, inference, monkeypatch):
    """The demo of shapes knows no edits; here its model is shown what was painted, and hears the instruction."""
    studio, question, heard = evaluate.Studio("fp32"), exam.thing_edits()[0], []
    paint = studio.paint

    def watched(prompts, seeds, cfg, **more):
        heard.append((prompts, more.get("shown")))
        return paint(prompts, seeds, cfg, **more)

    monkeypatch.setattr(studio, "paint", watched)
    ((asked, picture),) = studio.answers([question], 1.0, steps=3)
    (first, nothing), (second, shown) = heard
    assert asked is question and first == [scenes.caption(question.before)] and nothing is None
    assert second == [question.prompt] and shown.shape == (1, 128, 128, 3)
    without = paint(second, [question.seed + 1], 1.0, steps=3)[0]
    assert np.abs(picture - without).mean() > 1e-3
