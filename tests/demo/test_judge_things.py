import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path
import torch

from demo import classifier, judge_things, pictures, scenes, things, watch


class Knowing(torch.nn.Module):
    """Gives the answers that it was told, in the order of the views."""

    def __init__(self, names, items):
        super().__init__()
        self.thing = torch.nn.functional.one_hot(torch.tensor([names.index(i.thing) for i in items]), len(names))
        self.style = torch.nn.functional.one_hot(torch.tensor([things.STYLES.index(i.style) for i in items]), 3)

    def forward(self, views):
        assert len(views) == len(self.thing)
        return self.thing, self.style


def test_real_pictures_are_right_in_ground_and_place(sprites):
    rng = np.random.default_rng(0)
    for place in pictures.PLACES:
        asked = [
            scenes.Scene((scenes.random_item(rng, "fox", "drawn", place),), scenes.random_ground(rng, name))
            for name in ("white", "light blue", "brown", "green", "grey")
        ]
        images = scenes.draw(asked, sprites, 64, 64).permute(0, 3, 1, 2)
        knowing = Knowing(sprites.names, [item for scene in asked for item in scene.items])
        for verdict in judge_things.verdicts(images, asked, knowing, sprites.names):
            assert all(verdict.values()), (place, verdict)


@pytest.mark.parametrize("name", scenes.GROUNDS)
def test_every_ground_is_told_from_the_others_with_its_jitter(name):
    rng = np.random.default_rng(1)
    for _ in range(20):
        picture = scenes.draw_ground(scenes.random_ground(rng, name), 32, 32).permute(2, 0, 1).numpy()
        assert judge_things.ground_name(picture) == name


def test_a_wrong_answer_about_one_of_two_is_wrong(sprites):
    asked = [scenes.random_pair(np.random.default_rng(2), sprites.names)]
    images = scenes.draw(asked, sprites, 64, 64).permute(0, 3, 1, 2)
    right = list(asked[0].items)
    assert judge_things.verdicts(images, asked, Knowing(sprites.names, right), sprites.names)[0]["thing"]
    swapped = Knowing(sprites.names, right[::-1])
    assert not judge_things.verdicts(images, asked, swapped, sprites.names)[0]["thing"]


def test_look_says_thing_style_and_ground_of_what_was_not_asked_for(sprites):
    rng = np.random.default_rng(3)
    scene = scenes.Scene((scenes.random_item(rng, "fox", "drawn"),), scenes.random_ground(rng, "pink"))
    images = scenes.draw([scene], sprites, 96, 128).permute(0, 3, 1, 2)
    (found,) = judge_things.look(images, Knowing(sprites.names, scene.items), sprites.names)
    assert found == judge_things.Seen("fox", "drawn", "pink")


def test_sharpness_falls_with_blur():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
    assert judge_things.sharpness(x, x) == 1
    assert judge_things.sharpness(blurred, x) < 0.6


def test_the_watch_asks_for_four_rows_of_things_and_some_shapes():
    asked = watch.scenes_asked()
    assert len(asked) == 4 * watch.COLUMNS and len(watch.questions()) == len(asked) + 6
    held_out = [scene.is_held_out() for scene in asked[2 * watch.COLUMNS : 3 * watch.COLUMNS]]
    assert all(held_out) and classifier.SIDE <= 64
