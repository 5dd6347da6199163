"""Names of tensors: each map and its inverse, over models of any depth; and what is no name of ours stays as it is."""

import pytest
import support
import torch

pytest.importorskip("hypothesis")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

blocks = support.dev.load_pack("chroma_model.block_lists")
detect_t5, t5_sizes = (support.dev.load_pack(f"loaders.t5.{n}") for n in ("detect_t5", "sizes"))
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


@given(st.booleans(), st.integers(1, 40))
def test_llama_cpps_names_lead_to_every_tensor_of_t5_once(gated, num_layers):
    wanted = t5_sizes.expected_shapes(t5_sizes.T5Config(32128, 8, num_layers, 2, 4, 16, gated))
    stems = [stem for stem in detect_t5.LLAMA_CPP_BLOCK if gated or stem != "ffn_gate"]
    theirs = [
        f"enc.blk.{i}.{stem}.weight" for i in range(num_layers) for stem in stems if stem != "attn_rel_b" or not i
    ]
    theirs += [f"{stem}.weight" for stem in detect_t5.LLAMA_CPP]
    found = [detect_t5.llama_cpp_name(name, gated) for name in theirs]
    assert sorted(found) == sorted(wanted)


@given(st.data(), st.integers(1, 60), st.integers(1, 60), st.sampled_from([", ", ",", " ; ", "，"]))
def test_blocks_are_read_as_they_are_written(data, double, single, separator):
    counts = {"double": double, "single": single}
    numbers = {kind: data.draw(st.sets(st.integers(0, count - 1))) for kind, count in counts.items()}
    every = frozenset((kind, i) for kind, found in numbers.items() for i in found)
    text = blocks.blocks_text(every)
    assert blocks.parse_blocks(text.replace(", ", separator), counts) == every
    for kind, found in numbers.items():
        assert blocks.parse_blocks(blocks.numbers_text(found), counts, kind) == {(kind, i) for i in found}


@given(st.text(max_size=60), st.integers(1, 60), st.sampled_from(["", "double", "single"]))
def test_any_list_of_blocks_is_read_or_refused_in_a_sentence(text, count, kind):
    try:
        found = blocks.parse_blocks(text, {"double": count, "single": count}, kind)
    except ValueError as error:
        assert len(str(error)) < 300 and str(error).isprintable()
        return
    assert all(0 <= i < count for _, i in found)
