import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path
import torch

from demo import latents, pictures


@pytest.fixture(scope="module")
def code():
    return latents.fit(100)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    scenes = pictures.all_scenes()
    return torch.from_numpy(np.stack([pictures.draw(scenes[i * 97], rng) for i in range(8)]))


def test_latents_have_the_stated_spread(code, images):
    assert code.encode(images).square().mean().sqrt().item() == pytest.approx(latents.RMS, rel=0.3)


def test_block_code_keeps_the_picture(code, images):
    error = (code.decode(code.encode(images)) - images).square().mean()
    assert -10 * torch.log10(error) > 27  # dB, with 16 of 192 components


@pytest.mark.host
def test_convolutions_of_taesd_compute_the_block_code(comfy, code, images):
    """The closed form, carried out by the host's own encoder class."""
    from comfy.taesd.taesd import TAESD

    vae = TAESD(latent_channels=16)
    vae.taesd_encoder.load_state_dict(latents.encoder_state_dict(code))
    with torch.inference_mode():
        z = vae.taesd_encoder(images.permute(0, 3, 1, 2))
    torch.testing.assert_close(z, code.encode(images), atol=1e-4, rtol=1e-4)  # fp32, sums of 192 products


@pytest.mark.host
def test_decoder_has_the_layout_of_taesd(comfy):
    from comfy.taesd.taesd import TAESD

    from demo import vae

    theirs, ours = TAESD(latent_channels=16).taesd_decoder, vae.decoder()
    theirs.load_state_dict(ours.state_dict())
    z = torch.randn(1, 16, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(z), ours(z))
