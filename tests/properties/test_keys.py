"""Names of tensors: each map and its inverse, over models of any depth; and what is no name of ours stays as it is."""

import pytest
import support
import torch

pytest.importorskip("hypothesis")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

keys, to_write = (support.dev.load_pack(f"loaders.checkpoint.{n}") for n in ("keys", "tensors_to_write"))
with torch.device("meta"):
    NAMES = [list(support.build(support.config(**more)).state_dict()) for more in ({}, support.RADIANCE)]


@st.composite
def names(draw, radiance=True):
    """A name of the model's own, its block numbered anew."""
    name = draw(st.sampled_from(NAMES[0] + (NAMES[1] if radiance else [])))
    return keys._INDEX.sub(str(draw(st.integers(0, 99))), name, count=1)


@given(names())
def test_a_published_name_is_read_as_the_models_own(name):
    assert keys.model_name(to_write.file_name(name)) == name == keys.model_name(name)


@given(names(radiance=False))
def test_diffusers_names_lead_back_to_ours_with_all_parts_in_order(name):
    theirs = keys.diffusers_names(name)
    found = [keys.published_name(their) for their in theirs]
    assert {own for own, _ in found} == {name}
    assert [part for _, part in found] == ([None] if len(theirs) == 1 else list(range(len(theirs))))


@given(st.sampled_from(keys.DIFFUSERS), st.integers(0, 99), st.sampled_from(["weight", "bias"]))
def test_our_names_lead_back_to_diffusers(rename, number, last):
    their = f"{rename.theirs.replace('{i}', str(number))}.{last}"
    own, part = keys.published_name(their)
    assert keys.diffusers_names(own)[part or 0] == their


@given(st.text(st.characters(categories=("L", "N", "P")), max_size=60))
def test_any_text_is_given_back_or_renamed_once(name):
    once = keys.model_name(name)
    assert keys.model_name(once) == once
    assert keys.published_name(name)[0] == name or name.rpartition(".")[0] != ""
    keys.block_of(name)
    keys.is_flag(name)
    keys.other_model([name])
