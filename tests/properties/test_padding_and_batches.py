"""Dropping text tokens is masking them, and n pictures at once are n pictures alone, for prompts and sizes of any length."""

import functools

import pytest
import support
import torch

pytest.importorskip("hypothesis")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

latents, padding, radiance = (support.dev.load_pack(f"chroma_model.{n}") for n in ("latents", "padding", "radiance"))
CLOSE = 2e-5  # relative; float32, six blocks, another order of sums, and pictures of a single pixel


@functools.cache
def net(kind="latents"):
    built = support.build(support.config(**({} if kind == "latents" else support.RADIANCE)))
    built.load_state_dict(support.random_weights(built.config))
    return built


@st.composite
def batches(draw, most=3):
    """x, timesteps and context of some pictures, and a mask of their valid tokens, in any places."""
    cfg, batch, tokens = net().config, draw(st.integers(1, most)), draw(st.integers(1, 20))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    data = support.inputs(cfg, batch, height, width, tokens, seed=draw(st.integers(0, 99)))
    data["timesteps"] = torch.tensor(draw(st.lists(st.floats(0, 1, width=32), min_size=batch, max_size=batch)))
    row = st.lists(st.booleans(), min_size=tokens, max_size=tokens).filter(any)
    return data, torch.tensor(draw(st.lists(row, min_size=batch, max_size=batch)))


def alone(data, row):
    return {name: tensor[row : row + 1] for name, tensor in data.items()}


@given(batches(), st.integers(0, 3))
def test_dropped_tokens_are_masked_tokens(batch, num_pads):
    data, valid = batch
    kinds = padding.padding_mask(data["context"], valid)
    tokens, kept = padding.trim_padding(data["context"], kinds, num_pads)
    wanted = (valid.sum(1) + (~valid).sum(1).clamp(max=num_pads)).tolist()
    assert (kept != padding.HIDDEN).sum(1).tolist() == wanted and tokens.shape[1] == max(wanted)
    seen = valid | ((~valid) & ((~valid).cumsum(1) <= num_pads))
    with torch.no_grad():
        masked = net()(**data, context_mask=seen)
        dropped = net()(data["x"], data["timesteps"], tokens, context_mask=kept != padding.HIDDEN)
    assert support.relative(dropped, masked) < CLOSE


@given(batches(), st.integers(0, 3))
def test_what_was_treated_is_treated_again_without_a_change(batch, num_pads):
    data, valid = batch
    tokens, kinds = padding.trim_padding(data["context"], padding.padding_mask(data["context"], valid), num_pads)
    again, same = padding.trim_padding(tokens, padding.padding_mask(tokens, kinds), num_pads)
    assert torch.equal(again, tokens) and torch.equal(same, kinds)


@given(batches())
def test_pictures_at_once_are_the_pictures_alone(batch):
    data, valid = batch
    with torch.no_grad():
        together = net()(**data, context_mask=valid)
        assert bool(together.isfinite().all()) and together.shape == data["x"].shape
        for row in range(len(valid)):
            single = net()(**alone(data, row), context_mask=valid[row : row + 1])
            assert support.relative(together[row : row + 1], single) < CLOSE


@given(st.integers(1, 2), st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_pictures_of_pixels_at_once_are_the_pictures_alone(batch, height, width, seed):
    data = support.inputs(net("pixels").config, batch, height, width, 5, seed)
    with torch.no_grad():
        together = net("pixels")(**data)
        tiled = net("pixels")(**data, nerf_tile=1)
        for row in range(batch):
            assert support.relative(together[row : row + 1], net("pixels")(**alone(data, row))) < CLOSE
    assert support.relative(tiled, together) < CLOSE


@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.data())
def test_patches_are_the_picture_they_were_cut_from(batch, channels, height, width, patch_size, data):
    # A picture that is smaller than its padding cannot be continued by itself; a latent of a patch of 2 never is.
    side = st.integers(patch_size - 1 or 1, 40)
    height, width = max(height, data.draw(side)), max(width, data.draw(side))
    picture = torch.arange(batch * channels * height * width, dtype=torch.float32).reshape(
        batch, channels, height, width
    )
    tokens = latents.patchify(picture, patch_size)
    rows, columns = latents.grid_size(height, width, patch_size)
    assert tokens.shape == (batch, rows * columns, channels * patch_size**2)
    assert torch.equal(latents.unpatchify(tokens, height, width, patch_size), picture)
    padded = radiance.pad_to_patches(picture, patch_size)
    assert torch.equal(latents.patchify(padded, patch_size), tokens)


@given(batches(), st.integers(0, 3), st.data())
def test_the_order_of_pictures_changes_none_of_them(batch, num_pads, data):
    given_, valid = batch
    order = data.draw(st.permutations(range(len(valid))))
    with torch.no_grad():
        first = net()(**given_, context_mask=valid)
        other = net()(**{name: tensor[order] for name, tensor in given_.items()}, context_mask=valid[order])
    assert support.relative(other, first[order]) < CLOSE
