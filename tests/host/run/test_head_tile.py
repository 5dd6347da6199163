"""Radiance's head paints as many patches at a time as fit into the free memory."""

import pytest
import support
import torch
from host_models import sample

pytestmark = pytest.mark.host


@pytest.fixture
def head_tile(comfy):
    return support.dev.load_pack("host.run.head_tile")


@pytest.mark.parametrize(
    "free, patch_size, tile",
    [(2**34, 16, 512), (2**34, 32, 128), (200e6, 16, 64), (50e6, 16, 16), (0, 16, 8), (0, 64, 8)],
)
def test_tile_fits_into_half_of_the_free_memory(head_tile, monkeypatch, free, patch_size, tile):
    """At the published sizes, in bf16: a patch of 16 x 16 pixels takes 0.8 MB."""
    nerf = support.model.NerfConfig(kernel_size=16)
    cfg = support.config(channels=3, patch_size=patch_size, nerf=nerf)
    monkeypatch.setattr(head_tile.comfy.model_management, "get_free_memory", lambda device: free)
    assert head_tile.fitting_tile(cfg, torch.zeros(1, 3, 64, 64, dtype=torch.bfloat16)) == tile


@pytest.mark.parametrize("chosen", [None, 3])
def test_little_memory_makes_small_tiles_and_the_same_picture(head_tile, inference, monkeypatch, tmp_path, chosen):
    """What the host's ChromaRadianceOptions chooses wins."""
    cfg = support.config(**support.RADIANCE)
    path = support.write(tmp_path / "r.safetensors", support.published(support.random_weights(cfg)))
    model = support.dev.load_pack("host.model.load").load_chroma(str(path))
    if chosen is not None:
        model.model_options["transformer_options"] = {"chroma_radiance_options": {"nerf_tile_size": chosen}}
    seen = []
    model.model.diffusion_model.nerf_blocks[0].register_forward_hook(lambda m, args, out: seen.append(len(out)))

    def paint():
        seen.clear()
        return sample(head_tile.comfy, model, cfg, latent=torch.zeros(1, 3, 48, 56), scale=1.5)

    at_once = paint()
    assert max(seen) == (chosen or 2 * 42)  # both prompts, 6 x 7 patches
    monkeypatch.setattr(head_tile, "SHARE", 0.0)
    in_tiles = paint()
    assert max(seen) == (chosen or head_tile.SMALLEST)
    assert support.relative(in_tiles, at_once) < 1e-5
