import pytest
import support
import torch

latents = support.dev.load_pack("chroma_model.latents")


@pytest.mark.parametrize("height, width", [(8, 6), (7, 5), (1, 1), (2, 9)])
def test_odd_latent_is_padded_and_cropped_back(height, width):
    x = torch.randn(2, 16, height, width)
    tokens = latents.patchify(x, 2)
    assert tokens.shape == (2, -(-height // 2) * -(-width // 2), 64)
    assert torch.equal(latents.unpatchify(tokens, height, width, 2), x)


def test_patch_order_is_channel_row_column():
    x = torch.arange(2 * 2 * 4, dtype=torch.float32).view(1, 2, 2, 4)
    tokens = latents.patchify(x, 2)
    assert tokens[0, 0].tolist() == [0, 1, 4, 5, 8, 9, 12, 13]
    assert tokens[0, 1].tolist() == [2, 3, 6, 7, 10, 11, 14, 15]


def test_padding_wraps_round():
    x = torch.arange(3, dtype=torch.float32).view(1, 1, 1, 3).expand(1, 1, 2, 3)
    assert latents.patchify(x, 2)[0, 1].tolist() == [2, 0, 2, 0]
