import dataclasses

import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path
import torch

from demo import edits, scenes

SAME = {  # what each kind of edit may change
    "style": lambda s: dataclasses.replace(s, items=tuple(dataclasses.replace(i, style="") for i in s.items)),
    "ground": lambda s: dataclasses.replace(s, ground=None),
    "place": lambda s: dataclasses.replace(
        s, items=tuple(dataclasses.replace(i, place="", column=0, row=0) for i in s.items)
    ),
}


@pytest.mark.parametrize("kind", edits.KINDS)
def test_an_edit_changes_what_it_says_and_nothing_else(kind, sprites):
    rng = np.random.default_rng(0)
    for _ in range(40):
        edit = edits.KINDS[kind](rng, sprites.names)
        assert edit.before != edit.after
        assert not edit.before.is_held_out() and not edit.after.is_held_out()
        if kind == "thing":
            assert edit.before.ground == edit.after.ground and edit.before.items[0] in edit.after.items
        else:
            assert SAME[kind](edit.before) == SAME[kind](edit.after)


def test_an_added_thing_leaves_the_first_as_it_was(sprites):
    edit = edits.add(np.random.default_rng(3), sprites.names)
    before, after = scenes.draw([edit.before, edit.after], sprites, 64, 64)
    (new,) = set(edit.after.items) - set(edit.before.items)
    half = slice(32, None) if new.place in ("on the left", "at the top") else slice(None, 32)
    if new.place.startswith("on"):
        before, after = before.transpose(0, 1), after.transpose(0, 1)
    assert torch.equal(before[half], after[half])
    assert (
        new.thing in edit.instruction and edit.instruction.startswith("add a") and edit.instruction.endswith(new.place)
    )


def test_instructions_are_plain_words(sprites):
    rng = np.random.default_rng(1)
    said = {edits.random_edit(rng, sprites.names).instruction for _ in range(1000)}
    assert {"make it flat", "move it to the left", "change the background to light blue"} <= said
