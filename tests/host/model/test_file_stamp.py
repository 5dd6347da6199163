"""A file that changes after it was loaded: the next use says so before it touches a weight."""

import dataclasses
import itertools
import os

import pytest
import support
import torch
from host_models import random_t5_weights, sample
from safetensors.torch import save_file

load_pack = support.dev.load_pack
T5 = load_pack("loaders.t5.sizes").T5Config(32_128, 64, 2, 2, 32, 128, gated=True)

pytestmark = pytest.mark.host


@pytest.fixture
def path(tmp_path):
    cfg = support.config()
    return support.write(tmp_path / "tiny.safetensors", support.published(support.random_weights(cfg)))


@pytest.fixture
def model(comfy, inference, path):
    return load_pack("host.model.load").load_chroma(str(path))


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


def told(path, size, loader):
    return (
        f"{path.name} has changed on disk since it was loaded ({size:,} bytes then, {path.stat().st_size:,} now). Queue "
        f"again, so that {loader} reads it anew"
    )


@pytest.mark.parametrize("change", [cut, write_over, replace])
def test_changed_file_is_told_before_the_next_run(comfy, model, path, change):
    cfg = support.config()
    assert torch.isfinite(sample(comfy, model, cfg, steps=1)).all()
    size = path.stat().st_size
    change(path)
    with pytest.raises(ValueError) as error:
        sample(comfy, model.clone(), cfg, steps=1)
    assert str(error.value) == told(path, size, "Load Chroma Model")


@pytest.mark.parametrize("name", ["inode", "changed"])
def test_a_new_inode_or_a_new_mode_alone_is_no_change(comfy, model, path, monkeypatch, name):
    module = load_pack("host.model.file_stamp")
    before, stamp_now, numbers = module.fingerprint("node", path), module.stamp_now, itertools.count()
    monkeypatch.setattr(module, "stamp_now", lambda *of: dataclasses.replace(stamp_now(*of), **{name: next(numbers)}))
    assert module.fingerprint("node", path) == module.fingerprint("node", path) == before
    assert torch.isfinite(sample(comfy, model, support.config(), steps=1)).all()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps files that are mapped")
def test_loader_is_run_anew_for_a_replaced_file(comfy, path):
    module = load_pack("host.model.file_stamp")
    before = module.fingerprint("node", path)
    replace(path)
    assert module.fingerprint("node", path) != before


@pytest.mark.parametrize("change", [cut, write_over])
def test_save_does_not_read_a_changed_file(comfy, model, path, tmp_path, change):
    size = path.stat().st_size
    change(path)
    with pytest.raises(ValueError) as error:
        load_pack("host.model.save").export_model(model.clone(), tmp_path / "out.safetensors", "bf16")
    assert str(error.value) == told(path, size, "Load Chroma Model")
    assert not (tmp_path / "out.safetensors").exists()


def test_changed_lora_is_told_by_the_models_that_have_it(comfy, model, tmp_path):
    cfg = support.config()
    width, file = cfg.hidden_size, tmp_path / "style.safetensors"
    names = "double_blocks.0.img_attn.proj.lora_A.weight", "double_blocks.0.img_attn.proj.lora_B.weight"
    support.write(file, {names[0]: torch.ones(2, width), names[1]: torch.ones(width, 2)})
    size = file.stat().st_size
    with_it, _ = load_pack("host.model.lora").apply_lora(model, str(file), 1.0)
    assert torch.isfinite(sample(comfy, with_it, cfg, steps=1)).all()
    write_over(file)
    with pytest.raises(ValueError) as error:
        sample(comfy, with_it.clone(), cfg, steps=1)
    assert str(error.value) == told(file, size, "Load Chroma LoRA")
    assert torch.isfinite(sample(comfy, model, cfg, steps=1)).all()


@pytest.mark.parametrize("change", [cut, write_over, replace])
@pytest.mark.parametrize("asked", ["exact", "legacy", "the host's node"])
def test_changed_encoder_is_told_before_it_encodes(comfy, inference, tmp_path, change, asked):
    file = tmp_path / "t5.safetensors"
    save_file(random_t5_weights(T5), file)
    clip = load_pack("host.text.t5_clip").load_encoder(str(file), "keep")

    def encode():
        if asked == "the host's node":
            return clip.clone().encode_from_tokens_scheduled(clip.tokenize("a fox"))
        return load_pack("host.text.encode_prompt").encode(clip.clone(), "a fox", asked)[0]

    assert torch.isfinite(encode()[0][0]).all()
    size = file.stat().st_size
    change(file)
    with pytest.raises(ValueError) as error:
        encode()
    assert str(error.value) == told(file, size, "Load Chroma Text Encoder")


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps files that are mapped")
def test_removed_file_stays_mapped(comfy, model, path):
    path.unlink()
    assert torch.isfinite(sample(comfy, model, support.config(), steps=1)).all()


LOADERS = {
    "nodes.loader": ("ChromaDiffusionLoader", "unet_name", "model_path"),
    "nodes.clip": ("ChromaCLIPLoader", "clip_name", "encoder_path"),
    "nodes.lora": ("ChromaLoraLoader", "lora_name", "lora_path"),
}


@pytest.mark.parametrize("name", LOADERS)
def test_loader_is_run_anew_for_a_changed_file(comfy, path, monkeypatch, name):
    module, (node, menu, path_of) = load_pack(name), LOADERS[name]
    monkeypatch.setattr(module, path_of, lambda name: str(path.with_name(name)))
    seen = getattr(module, node).fingerprint_inputs
    before = seen(**{menu: "tiny.safetensors"}, precision="auto")
    assert before == seen(**{menu: "tiny.safetensors"}, precision="keep") and isinstance(before, str)
    write_over(path)
    assert seen(**{menu: "tiny.safetensors"}) != before
    assert seen(**{menu: "none.safetensors"}) == ""


def test_model_is_loaded_anew_for_a_changed_approximator(comfy, path, monkeypatch):
    module = load_pack("nodes.loader")
    monkeypatch.setattr(module, "model_path", lambda name: str(path.with_name(name)))
    assert module.ChromaDiffusionLoader.fingerprint_inputs("tiny.safetensors", approximator="none.gguf") == ""
