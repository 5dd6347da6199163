import pytest
import support
import torch

padding = support.dev.load_pack("chroma_model.padding")


def test_mask_keeps_valid_tokens_and_exactly_one_pad():
    tokens = torch.randn(1, 10, 4)
    valid = padding.padding_mask(tokens, torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]))
    kept, keep = padding.trim_padding(tokens, valid)
    assert torch.equal(kept, tokens[:, :4])
    assert bool(keep.all())


@pytest.mark.parametrize("num_pads, expected", [(0, 3), (1, 4), (5, 8), (99, 10)])
def test_number_of_pads_is_as_asked(num_pads, expected):
    tokens = torch.randn(1, 10, 4)
    kept, _ = padding.trim_padding(tokens, torch.arange(10)[None] < 3, num_pads)
    assert kept.shape[1] == expected


def test_zero_rows_at_the_end_count_as_pads():
    tokens = torch.randn(1, 8, 4)
    tokens[:, 5:] = 0
    valid = padding.padding_mask(tokens, None)
    assert valid.tolist() == [[True] * 5 + [False] * 3]


def test_zero_row_inside_the_prompt_is_kept():
    tokens = torch.randn(1, 6, 4)
    tokens[:, 2] = 0
    assert padding.padding_mask(tokens, None) is None


def test_tokens_without_any_sign_of_padding_give_none():
    assert padding.padding_mask(torch.randn(1, 6, 4), None) is None


def test_batch_of_different_lengths_keeps_what_any_row_needs():
    tokens = torch.randn(2, 10, 4)
    valid = torch.arange(10) < torch.tensor([[3], [6]])
    kept, keep = padding.trim_padding(tokens, valid)
    assert kept.shape == (2, 7, 4)
    assert keep.sum(1).tolist() == [4, 7]


def test_mask_of_another_length_is_an_error():
    with pytest.raises(ValueError, match=r"attention mask \(1, 5\) does not fit the text tokens \(1, 6, 4\)"):
        padding.padding_mask(torch.randn(1, 6, 4), torch.ones(1, 5))
