"""Files that a script gives to `host/api.py`. Pictures are compared in tests/server/test_api.py."""

import pytest
import support
import torch

pytestmark = pytest.mark.host
PAGE = b"<!DOCTYPE html><title>Sign in</title>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 335304388\n"


@pytest.mark.parametrize("raw, told", [(PAGE, "a web page"), (POINTER, "a pointer of Git LFS"), (b"", "is empty")])
def test_what_was_saved_in_place_of_a_vae_is_told(comfy, tmp_path, raw, told):
    path = tmp_path / "ae.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"^ae.safetensors: .*{told}"):
        support.dev.load_pack("host.api").load_vae(path)


def test_vae_that_is_cut_short_is_told(comfy, tmp_path):
    path = support.write(tmp_path / "ae.safetensors", {"decoder.conv_in.weight": torch.ones(8, 16, 3, 3)})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="^ae.safetensors: the file is cut short"):
        support.dev.load_pack("host.api").load_vae(path)


def test_file_that_a_link_no_longer_leads_to_is_told_by_every_loader(comfy, inference, tmp_path):
    """A list still has it where the cache that it led to was emptied."""
    load = support.dev.load_pack("host.model.load").load_chroma
    weights = support.published(support.random_weights(support.config()))
    model = load(str(support.write(tmp_path / "m.safetensors", weights)))
    loaders = {
        "model": load,
        "encoder": support.dev.load_pack("host.text.t5_clip").load_encoder,
        "lora": lambda path: support.dev.load_pack("host.model.lora").apply_lora(model, path, 1.0),
    }
    for loader in loaders.values():
        with pytest.raises(ValueError, match="^gone.gguf: there is no such file"):
            loader(str(tmp_path / "gone.gguf"))
