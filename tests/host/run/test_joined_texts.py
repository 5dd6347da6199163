"""Texts of one forward, by themselves; their way through a network is in test_conds.py."""

import pytest
import support
import torch

joined_texts = support.dev.load_pack("host.run.joined_texts").joined_texts


def test_lengths_become_a_mask_without_a_copy_to_the_device(monkeypatch):
    """A tensor made of numbers is copied to a GPU when all that was given to it before is done."""

    def refuse(*args, **more):
        pytest.fail("a tensor was made of numbers")

    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, refuse)
    made = joined_texts(torch.zeros(2, 4, 3), lengths=(2, 4), negative=torch.zeros(2, 1, 3), segments=(((0, 1),), ()))
    assert made.mask.tolist() == [[True, True, False, False, False], [True] * 4 + [False]]
    assert made.segments == (((4, 1),), ()) and made.starts == (0, 4)
