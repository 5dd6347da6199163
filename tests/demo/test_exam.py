import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path
import torch

from demo import exam, pictures, scenes, things


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


@pytest.mark.host
@pytest.mark.slow
def test_an_edit_is_painted_from_the_picture_that_its_scene_gives(comfy, inference, monkeypatch):
    """The demo of shapes knows no edits; here its model is shown what was painted, and hears the instruction."""
    from demo import evaluate

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
