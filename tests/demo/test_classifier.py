import numpy as np
import support  # noqa: F401  the repository's root on the path
import torch

from demo import classifier, scenes


def test_a_view_holds_the_thing_that_is_asked_for(sprites):
    """Two discs of different colours: each view is filled by its own."""
    rng = np.random.default_rng(0)
    for _ in range(12):
        scene = scenes.random_pair(rng, sprites.names)
        picture = scenes.draw([scene], sprites, 64, 64).permute(0, 3, 1, 2)
        seen, asked = classifier.views(picture, [scene])
        assert seen.shape == (2, 3, classifier.SIDE, classifier.SIDE)
        for view, (number, item) in zip(seen, asked):
            alone = scenes.draw([scenes.Scene((item,), scene.ground)], sprites, 64, 64).permute(0, 3, 1, 2)
            lone = scenes.Scene((item, item), scene.ground)
            (expected, _), _ = classifier.views(alone, [lone])
            assert number == 0
            middle = slice(20, 44)
            torch.testing.assert_close(view[:, middle, middle], expected[:, middle, middle], atol=2e-2, rtol=0)


def test_labels_are_those_of_the_views(sprites):
    seen, labels = classifier.batch(np.random.default_rng(0), sprites.names, sprites, 64)
    assert len(seen) == len(labels) == classifier.BATCH
    assert labels[:, 0].max() < len(sprites.names) and set(labels[:, 1].tolist()) == {0, 1, 2}


def test_judge_comes_back_from_its_file(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = classifier.Classifier(5).eval()
    save_file({k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}, tmp_path / "judge")
    again, names = classifier.load(tmp_path / "judge")
    x = torch.rand(2, 3, 64, 64)
    assert len(names) == 5
    torch.testing.assert_close(again(x)[0], net(x)[0], atol=2e-2, rtol=2e-2)  # float16 weights
