import numpy as np
import pytest
import support  # noqa: F401  the repository's root on the path
import torch

from demo import latents, pictures, train_things_vae, vae


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return train_things_vae.learner(latents.fit(100)).requires_grad_(False)


def test_encoder_and_reader_begin_as_the_block_code(net):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(np.stack([pictures.draw(pictures.all_scenes()[i * 97], rng) for i in range(4)]))
    code = latents.fit(100)
    z = code.encode(images)
    assert support.relative(net.encoder(images.permute(0, 3, 1, 2)), z) < 0.1  # spare channels are random and small
    flat = z.clamp(-0.5, 0.5)  # where the clamp changes little
    found = net.decoder(flat).permute(0, 2, 3, 1)
    assert (found - code.decode(flat)).abs().mean() < 0.05


@pytest.mark.host
def test_encoder_is_the_same_map_in_the_hosts_layers(comfy, net):
    from comfy.taesd.taesd import TAESD

    theirs = TAESD(latent_channels=16).taesd_encoder
    theirs.load_state_dict(net.encoder.taesd())
    images = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), net.encoder(images), atol=1e-4, rtol=1e-4)  # fp32


def test_file_gives_both_ends_back(net, tmp_path):
    from safetensors.torch import save_file

    painted = vae.widened(train_things_vae.painter(net.encoder).decoder.state_dict())
    save_file(vae.checkpoint(net.encoder.taesd(), painted), tmp_path / "vae.safetensors")
    encoder, decoder = vae.load(tmp_path / "vae.safetensors")
    for mine, kept in ((encoder, net.encoder.state_dict()), (decoder, painted)):
        for name, tensor in mine.state_dict().items():
            assert torch.equal(tensor, kept[name].half().float()), name


def test_a_narrower_decoder_is_the_same_map_in_taesds_widths():
    torch.manual_seed(0)
    narrow, wide = vae.decoder((24, 16, 16, 8)), vae.decoder()
    wide.load_state_dict(vae.widened(narrow.state_dict()))
    z = torch.randn(1, latents.CHANNELS, 3, 4)
    with torch.inference_mode():
        torch.testing.assert_close(wide(z), narrow(z), atol=1e-5, rtol=1e-5)  # fp32


def test_stored_vae_loads_and_its_latents_are_of_nearly_unit_spread():
    encoder, decoder = vae.load(vae.DEMO)
    with torch.inference_mode():
        z = encoder(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
        assert decoder(z).shape == (2, 3, 64, 96)
    assert z.shape == (2, 16, 8, 12) and torch.isfinite(z).all() and 0.1 < float(z.std()) < 3
