import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path

pytest.importorskip("scipy")

from demo import judge, pictures  # noqa: E402


def test_held_out_share_is_about_a_tenth_and_fixed():
    combinations = {c for s in pictures.all_scenes() for c in s.combinations()}
    held_out = {c for c in combinations if pictures.is_held_out(c)}
    assert len(combinations) == 8 * 4 * 7
    assert len(held_out) == 26
    assert ("white", "cross", "blue") in combinations


@pytest.mark.parametrize("size", [64, 96, 128])
def test_judge_is_right_about_drawn_pictures(size):
    rng = np.random.default_rng(3)
    scenes = pictures.all_scenes()
    for i in range(60):
        scene = scenes[rng.integers(len(scenes))] if i % 3 else pictures.random_pair(rng)
        verdict = judge.score(pictures.draw(scene, rng, size), scene)
        assert verdict["right"] and verdict["place"], scene


@pytest.mark.parametrize(
    "part, change",
    [("colour", {"colour": "green"}), ("shape", {"shape": "cross"}), ("place", {"place": "on the right"})],
)
def test_judge_sees_what_is_wrong(part, change):
    import dataclasses

    thing = pictures.Thing("large", "red", "circle", "on the left")
    asked = pictures.Scene((thing,), "white")
    drawn = pictures.Scene((dataclasses.replace(thing, **change),), "white")
    verdict = judge.score(pictures.draw(drawn, np.random.default_rng(0)), asked)
    assert {k for k, v in verdict.items() if not v} - {"right"} == {part}


def test_judge_of_an_empty_or_noisy_picture_is_not_right():
    scene = pictures.all_scenes()[0]
    for picture in (np.ones((128, 128, 3)), np.random.default_rng(0).random((128, 128, 3))):
        assert not judge.score(picture, scene)["right"]


def test_swapped_colours_of_two_things_are_wrong():
    scene = pictures.Scene(
        (pictures.Thing("", "red", "circle", "on the left"), pictures.Thing("", "blue", "square", "on the right")),
        "white",
    )
    swapped = pictures.Scene(
        (pictures.Thing("", "blue", "circle", "on the left"), pictures.Thing("", "red", "square", "on the right")),
        "white",
    )
    assert not judge.score(pictures.draw(swapped, np.random.default_rng(0)), scene)["right"]


def test_prompts_are_the_grammar():
    scene = pictures.Scene((pictures.Thing("large", "red", "circle", "on the left"),), "yellow")
    assert pictures.prompts(scene) == (
        "a large red circle on the left on a yellow background",
        "large red circle, on the left, yellow background",
    )
