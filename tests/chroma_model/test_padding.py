import pytest
import support
import torch

padding = support.dev.load_pack("chroma_model.padding")
HIDDEN, VALID, PAD = padding.HIDDEN, padding.VALID, padding.PAD


def zeroed(length, *counts):
    """Random tokens (B, length, 4), zero from each row's count on."""
    tokens = torch.randn(len(counts), length, 4)
    return tokens * (torch.arange(length) < torch.tensor(counts)[:, None])[..., None]


def test_mask_keeps_valid_tokens_and_exactly_one_pad():
    tokens = torch.randn(1, 10, 4)
    kinds = padding.padding_mask(tokens, torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]))
    kept, kinds = padding.trim_padding(tokens, kinds)
    assert torch.equal(kept, tokens[:, :4])
    assert kinds.tolist() == [[VALID, VALID, VALID, PAD]]


@pytest.mark.parametrize("num_pads, expected", [(0, 3), (1, 4), (5, 8), (99, 10)])
def test_number_of_pads_is_as_asked(num_pads, expected):
    tokens = torch.randn(1, 10, 4)
    kept, _ = padding.trim_padding(tokens, torch.arange(10)[None] < 3, num_pads)
    assert kept.shape[1] == expected


NEGATIVE = torch.finfo(torch.float16).min
MASKS = {  # of 3 valid tokens among 6
    "int": torch.tensor([[1, 1, 1, 0, 0, 0]]),
    "bool": torch.tensor([[True, True, True, False, False, False]]),
    "float": torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]),
    "float16 weights": torch.tensor([[0.5, 1.2, 2.0, 0.0, 0.0, 0.0]], dtype=torch.float16),
    "other integers": torch.tensor([[7, 7, 7, 0, 0, 0]], dtype=torch.int32),
    "added": torch.tensor([[0.0, 0.0, 0.0, NEGATIVE, NEGATIVE, NEGATIVE]], dtype=torch.float16),
    "added, infinite": torch.tensor([[0.0, 0.0, 0.0, -torch.inf, -torch.inf, -torch.inf]]),
    "no batch": torch.tensor([1, 1, 1, 0, 0, 0]),
    "heads": torch.tensor([1, 1, 1, 0, 0, 0])[None, None, None],
    "longer than the text": torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 0]]),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("batch", [1, 2])
def test_mask_of_every_kind_is_read(name, batch):
    tokens = torch.randn(batch, 6, 4)
    kinds = padding.padding_mask(tokens, MASKS[name])
    assert kinds.tolist() == [[VALID] * 3 + [HIDDEN] * 3] * batch


def test_mask_to_be_added_that_hides_nothing_is_all_valid():
    assert padding.padding_mask(torch.randn(1, 4, 4), torch.zeros(1, 4)).tolist() == [[VALID] * 4]


def test_zero_rows_at_the_end_count_as_pads():
    assert padding.padding_mask(zeroed(8, 5), None).tolist() == [[VALID] * 5 + [HIDDEN] * 3]


def test_pads_between_two_joined_prompts_are_removed_but_for_one():
    tokens = torch.cat((zeroed(6, 3), zeroed(5, 2)), dim=1)
    kept, kinds = padding.trim_padding(tokens, padding.padding_mask(tokens, None))
    assert kinds.tolist() == [[VALID] * 3 + [PAD] + [VALID] * 2]
    assert torch.equal(kept, tokens[:, [0, 1, 2, 3, 6, 7]])


def test_mask_of_the_first_of_two_joined_prompts_leaves_the_second():
    tokens = torch.cat((torch.randn(1, 6, 4), zeroed(5, 2)), dim=1)
    kinds = padding.padding_mask(tokens, torch.tensor([[1, 1, 1, 0, 0, 0]]))
    assert kinds.tolist() == [[VALID] * 3 + [HIDDEN] * 3 + [VALID] * 2 + [HIDDEN] * 3]


def test_tokens_of_another_prompt_averaged_into_zeroed_pads_are_valid():
    tokens = 0.5 * zeroed(8, 3) + 0.5 * zeroed(8, 5)
    kinds = padding.padding_mask(tokens, (torch.arange(8) < 3).long())
    assert kinds.tolist() == [[VALID] * 5 + [HIDDEN] * 3]


def test_prompt_of_zeros_alone_is_not_padding():
    assert padding.padding_mask(torch.zeros(1, 6, 4), None) is None


def test_tokens_without_any_sign_of_padding_give_none():
    assert padding.padding_mask(torch.randn(1, 6, 4), None) is None


def test_rows_of_a_batch_are_as_long_as_the_longest_and_start_at_the_first_column():
    tokens = torch.cat((zeroed(6, 3), zeroed(4, 1)), dim=1).repeat(2, 1, 1)
    tokens[1, 4:] = 0
    tokens[0, 1:3] = 0  # valid: 1 and 1 in the first row, 3 in the second
    kept, kinds = padding.trim_padding(tokens, padding.padding_mask(tokens, None))
    assert kinds.tolist() == [[VALID, PAD, VALID, HIDDEN], [VALID, VALID, VALID, PAD]]
    assert torch.equal(kept[0, :3], tokens[0, [0, 1, 6]])
    assert torch.equal(kept[1], tokens[1, :4])
    assert not kept[0, 3].any()


@pytest.mark.parametrize("num_pads", [0, 1, 3])
def test_trimming_twice_is_trimming_once(num_pads):
    tokens = torch.randn(2, 10, 4)
    once = padding.trim_padding(
        tokens, padding.padding_mask(tokens, torch.arange(10) < torch.tensor([[2], [6]])), num_pads
    )
    twice = padding.trim_padding(once[0], padding.padding_mask(*once), num_pads)
    assert once[0].shape[1] == 6 + num_pads
    assert all(torch.equal(a, b) for a, b in zip(once, twice))


@pytest.mark.parametrize("shape", [(), (2, 6), (1, 6, 6), (3, 6)])
def test_mask_that_is_none_for_text_is_an_error(shape):
    with pytest.raises(ValueError, match=r"attention mask \(.*\) does not fit the text tokens \(1, 6, 4\)"):
        padding.padding_mask(torch.randn(1, 6, 4), torch.ones(shape))
