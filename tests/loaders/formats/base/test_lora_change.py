import pytest
import support
import torch

lora_change = support.dev.load_pack("loaders.formats.base.lora_change")


@pytest.mark.parametrize("rank", [1, 4, 32, 60, 200])
def test_low_rank_change_comes_back_at_its_own_rank(rank):
    kept = torch.randn(512, 640) * 0.02
    change = torch.randn(512, rank) @ torch.randn(rank, 640) * 1e-4
    found = lora_change.change_between(kept + change, kept)
    assert found.delta is None
    assert found.up.shape == (512, rank) and found.down.shape == (rank, 640)
    # fp32: the sum was rounded to 2^-24 of the weight, which is 10 to 100 times the change
    assert support.relative(found.up @ found.down, change) < 1e-3


def test_change_made_in_16_bits_is_found_beneath_its_rounding():
    kept = (torch.randn(512, 640) * 0.02).bfloat16()
    change = torch.randn(512, 8) @ torch.randn(8, 640) * 1e-3
    found = lora_change.change_between((kept.float() + change).bfloat16(), kept)
    # bf16 rounds the sum by 0.17 % of the weight, a tenth of this change; most of that is not of low rank and is left out
    assert support.relative(found.up.float() @ found.down.float(), change) < 0.1


def test_change_of_full_rank_comes_back_in_int8():
    kept, change = torch.randn(512, 640) * 0.02, torch.randn(512, 640) * 1e-3
    found = lora_change.change_between(kept + change, kept)
    assert found.up is None and found.delta.dtype == torch.int8
    # 640 Gaussian numbers reach 3.2 deviations: step 3.2 / 127, error step / sqrt(12) = 0.73 %
    assert support.relative(found.delta * found.delta_scale, change) < 0.009


def test_no_change_gives_zero():
    kept = torch.randn(512, 640)
    found = lora_change.change_between(kept.clone(), kept)
    total = found.up @ found.down if found.up is not None else found.delta * found.delta_scale
    assert not total.any()


@pytest.mark.parametrize("shape", [(8, 8), (16, 640), (640, 16)])
def test_small_weights_work_too(shape):
    kept, change = torch.randn(shape), torch.randn(shape) * 0.01
    found = lora_change.change_between(kept + change, kept)
    total = found.up @ found.down if found.up is not None else found.delta * found.delta_scale
    assert support.relative(total, change) < 0.012


@pytest.mark.parametrize("rows, is_factored", [(40, False), (41, True)])
def test_factors_are_tried_where_rank_32_and_8_more_are_less_than_the_matrix(rows, is_factored):
    kept = torch.randn(rows, 640) * 0.02
    found = lora_change.change_between(kept + torch.randn(rows, 4) @ torch.randn(4, 640) * 1e-3, kept)
    assert (found.up is not None) == is_factored


def test_ranks_grow_to_256():
    assert lora_change.RANKS == (32, 64, 128, 256)
