"""A file that changes after it was loaded: the next run says so before it touches a weight."""

import os

import pytest
import support
import torch
from host_models import sample

pytestmark = pytest.mark.host


@pytest.fixture
def path(tmp_path):
    cfg = support.config()
    return support.write(tmp_path / "tiny.safetensors", support.published(support.random_weights(cfg)))


@pytest.fixture
def model(comfy, inference, path):
    return support.dev.load_pack("host.model.load").load_chroma(str(path))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def write_over(path):
    with open(path, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")
    os.utime(path, ns=(0, 10**18))


def replace(path):
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    os.replace(other, path)


@pytest.mark.parametrize("change", [cut, write_over, replace])
def test_changed_file_is_told_before_the_next_run(comfy, model, path, change):
    cfg = support.config()
    assert torch.isfinite(sample(comfy, model, cfg, steps=1)).all()
    size = path.stat().st_size
    change(path)
    with pytest.raises(ValueError) as error:
        sample(comfy, model.clone(), cfg, steps=1)
    assert str(error.value) == (
        f"tiny.safetensors has changed on disk since it was loaded ({size:,} bytes then, {path.stat().st_size:,} now). Queue "
        "again, so that Load Chroma Model reads it anew"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps files that are mapped")
def test_removed_file_stays_mapped(comfy, model, path):
    path.unlink()
    assert torch.isfinite(sample(comfy, model, support.config(), steps=1)).all()


def test_loader_is_run_anew_for_a_changed_file(comfy, path, monkeypatch):
    module = support.dev.load_pack("nodes.loader")
    monkeypatch.setattr(module, "model_path", lambda name: str(path.with_name(name)))
    seen = module.ChromaDiffusionLoader.fingerprint_inputs
    before = seen(unet_name="tiny.safetensors", quant_mode="auto")
    assert before == seen(unet_name="tiny.safetensors", quant_mode="keep") and isinstance(before, str)
    write_over(path)
    assert seen(unet_name="tiny.safetensors") != before
    assert seen(unet_name="none.safetensors") == seen(unet_name="tiny.safetensors", approximator="none.gguf") == ""
