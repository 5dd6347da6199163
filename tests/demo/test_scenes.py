"""Named things and their scenes, with tiny made-up sprites in place of the fetched ones."""

import dataclasses

import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path
import torch

from demo import lessons, pictures, scenes, things


def plain(column=0.5, row=0.5, size=0.5, **more):
    item = scenes.Item("fox", "3D", "", column, row, size, 0.0, False, (1.0, 1.0, 1.0, 1.0))
    return dataclasses.replace(item, **more)


def scene(*items, ground=(1.0, 1.0, 1.0)):
    return scenes.Scene(items, scenes.Ground("white", ground, 0.0, 0.0))


def test_names_are_unique_and_fit_the_grammar():
    names = things.names()
    assert len(set(names)) == len(names) == 866
    assert not any("," in name or name != name.strip() for name in names)
    assert all(n in names[: things.NUM_FIRST] for n in ("fox", "red apple", "car", "robot", "banana"))


def test_held_out_share_is_about_a_tenth_and_fixed():
    pairs = [(n, s) for n in things.names()[: things.NUM_FIRST] for s in things.STYLES]
    held_out = [p for p in pairs if things.is_held_out(*p)]
    assert len(held_out) == 33
    assert held_out[:2] == [("dog", "drawn"), ("cow", "3D")]


def test_training_scenes_never_show_what_is_held_out():
    rng = np.random.default_rng(0)
    names = things.names()
    for _ in range(300):
        assert not scenes.random_single(rng, names).is_held_out()
        assert not scenes.random_pair(rng, names).is_held_out()
        assert scenes.random_single(rng, names, held_out=True).is_held_out()


def test_captions_are_the_grammar():
    ground = scenes.Ground("light green", (0, 0, 0), 0.0, 0.0)
    apple = plain(thing="red apple", style="flat", place="on the left")
    assert scenes.caption(scenes.Scene((plain(),), ground)) == "a 3D fox on a light green background"
    assert (
        scenes.caption(scenes.Scene((apple, plain(place="on the right")), ground))
        == "a flat red apple on the left and a 3D fox on the right on a light green background"
    )
    rng = np.random.default_rng(0)
    said = {scenes.caption(scenes.Scene((plain(thing="owl", size=0.9),), ground), rng) for _ in range(200)}
    assert {"a large 3D owl on light green", "an owl on light green", "3D owl, light green background"} <= said


def test_a_thing_stands_where_its_scene_says(sprites):
    height, width = 64, 96
    picture = scenes.draw([scene(plain(column=0.25, row=0.75, size=0.25))], sprites, height, width)[0]
    rows, columns = torch.nonzero(picture[..., 2] < 0.5, as_tuple=True)
    assert (rows.float().mean() + 0.5) / height == pytest.approx(0.75, abs=0.01)
    assert (columns.float().mean() + 0.5) / width == pytest.approx(0.25, abs=0.01)
    assert rows.max() - rows.min() + 1 == pytest.approx(0.25 * height, abs=1)  # of the shorter side


def test_turn_and_mirror_are_those_of_the_sprite():
    """A dot at the right edge: mirrored it is on the left, turned by 20 degrees it is lower."""
    sprite = np.zeros((1, 3, 32, 32, 4), np.uint8)
    sprite[:, :, 14:18, 26:30] = 255
    dots = things.Sprites(["fox"], {32: sprite})

    def centre(**change):
        drawn = scenes.draw([scene(plain(size=1.0, **change), ground=(0.0, 0.0, 0.0))], dots, 32, 32)[0, ..., 0]
        rows, columns = torch.nonzero(drawn > 0.5, as_tuple=True)
        return columns.float().mean().item() - 15.5, rows.float().mean().item() - 15.5

    (x, y), (mirrored, _), (turned_x, turned_y) = centre(), centre(mirror=True), centre(turn=20.0)
    assert x == pytest.approx(12, abs=1) and y == pytest.approx(0, abs=0.5)
    assert mirrored == pytest.approx(-x, abs=0.5)
    assert np.degrees(np.arctan2(turned_y, turned_x)) == pytest.approx(20, abs=3)


def test_drawing_is_deterministic_and_in_range(sprites):
    def drawn():
        rng = np.random.default_rng(5)
        found = [scenes.random_pair(rng, sprites.names) for _ in range(4)]
        return scenes.draw(found, sprites, 32, 48)

    first = drawn()
    assert first.shape == (4, 32, 48, 3) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, drawn())


def test_a_changed_scene_differs_only_where_it_was_changed(sprites):
    before = scene(plain(column=0.25, size=0.3), plain(column=0.75, size=0.3, thing="car"))
    after = dataclasses.replace(before, items=(dataclasses.replace(before.items[0], style="flat"), before.items[1]))
    one, other = scenes.draw([before, after], sprites, 64, 64)
    assert torch.equal(one[:, 32:], other[:, 32:]) and not torch.equal(one[:, :32], other[:, :32])


def test_lessons_follow_from_the_step(sprites):
    kinds = set()
    for step in range(12):
        one, other = lessons.lesson(step, sprites), lessons.lesson(step, sprites)
        assert torch.equal(one.images, other.images) and one.captions == other.captions
        assert one.images.shape[1:] == (*lessons.size_of(step), 3)
        kinds |= {c.split(" background")[0] for c in one.captions}
    assert "" in kinds


def test_some_lessons_are_edits_of_a_picture_that_is_shown(sprites, monkeypatch):
    monkeypatch.setattr(lessons, "MAX_BATCH", 4)
    first = next(phase.first_step for phase in lessons.PHASES if phase.edits)
    assert all(lessons.lesson(step, sprites).sources is None for step in range(first - 20, first))
    taught = [lessons.lesson(step, sprites) for step in range(first, first + 60)]
    shown = [lesson for lesson in taught if lesson.sources is not None]
    assert len(shown) / len(taught) == pytest.approx(lessons.phase_of(first).edits, abs=0.1)
    for lesson in shown:
        assert lesson.sources.shape == lesson.images.shape and not torch.equal(lesson.sources, lesson.images)
        assert all(c.split()[0] in ("make", "change", "move", "add") for c in lesson.captions if c)


def test_shapes_of_the_lessons_are_never_held_out():
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert not any(pictures.is_held_out(c) for c in lessons.random_shapes(rng).combinations())


def test_scenes_of_no_variety_show_the_same_pose_and_a_half_half_of_the_turn():
    names, still = things.names(), []
    for seed in range(40):
        (item,) = scenes.random_single(np.random.default_rng(seed), names, variety=0).items
        still.append((item.place, item.size, item.turn, item.mirror, item.light))
    assert {s[0] for s in still} == {""} and {s[1] for s in still} == {scenes.PLAIN_SIZE}
    assert all(turn == 0 and not mirror and light == (1, 1, 1, 1) for _, _, turn, mirror, light in still)
    turns = [
        [scenes.random_item(np.random.default_rng(s), "fox", "3D", variety=v).turn for s in range(9)] for v in (0.5, 1)
    ]
    assert np.allclose(np.multiply(turns[0], 2), turns[1])
