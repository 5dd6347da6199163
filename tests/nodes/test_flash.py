"""Chroma Flash: the LoRA, the settings that go with it, and guidance in the first steps of the same run."""

import dataclasses
import json

import pytest
import support
import torch

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack
SEED, RANK = 3, 64
SLOW = {"steps": 26, "cfg": 4.0, "sampler": "euler", "schedule": "linear"}  # the sampler's own, which do not count


@pytest.fixture(scope="module")
def cfg():
    return support.config(double=2, single=3)


@pytest.fixture(scope="module")
def folder(cfg, tmp_path_factory):
    made = tmp_path_factory.mktemp("m")
    support.write(made / "Chroma1-HD.safetensors", support.published(support.random_weights(cfg)))
    generator = torch.Generator().manual_seed(5)
    for name, rank in (("chroma-flash-heun_r64.safetensors", RANK), ("fox.safetensors", 4)):
        pair = {
            "double_blocks.0.img_mlp.0.lora_A.weight": 0.1 * torch.randn(rank, cfg.hidden_size, generator=generator),
            "double_blocks.0.img_mlp.0.lora_B.weight": 0.1 * torch.randn(cfg.mlp_hidden_dim, rank, generator=generator),
        }
        support.write(made / name, pair)
    return made


@pytest.fixture
def model(comfy, inference, folder):
    return load_pack("host.model.load").load_chroma(str(folder / "Chroma1-HD.safetensors"))


@pytest.fixture
def flash(comfy, monkeypatch, folder, caplog):
    """(model, inputs) -> (MODEL, settings, what was told)."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folder)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    node = load_pack("nodes.flash").ChromaFlash.PREPARE_CLASS_CLONE(None)
    caplog.set_level("INFO")

    def run(model, lora_name="chroma-flash-heun_r64.safetensors", strength_model=1.0, steps=0, **start):
        caplog.clear()
        out = node.execute(model, lora_name, strength_model, steps, start or {"start": "at once"})
        return *out.args, "\n".join(r.getMessage() for r in caplog.records if r.getMessage().startswith("Chroma Flash"))

    return run


def painted(model, cfg, settings, info=None):
    from comfy_api.latest import io

    generator = torch.Generator().manual_seed(1)
    positive, negative = ([[torch.randn(1, n, cfg.context_dim, generator=generator), {}]] for n in (9, 6))
    hidden = {"hidden_inputs": {io.Hidden.unique_id: "7", io.Hidden.extra_pnginfo: info}}
    node = load_pack("nodes.ksampler").ChromaKSampler.PREPARE_CLASS_CLONE(hidden)
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    return node.execute(
        model, positive, latent, SEED, **SLOW, shift={"shift": "1 (as trained)"}, negative=negative, settings=settings
    )[0]["samples"]


def test_at_once_is_the_lora_at_cfg_1_with_the_presets_settings(comfy, flash, model, cfg, folder):
    out, settings, told = flash(model)
    assert (settings.steps, settings.cfg, settings.sampler, settings.savings) == (8, 1.0, "heun", {})
    assert "8 steps, cfg 1, heun, beta alpha 0.45 beta 0.45, shift 1" in told and "rank 64" in told
    assert "Warning" not in told and "1 of 1 layers matched" in told
    with_lora, _ = load_pack("host.model.lora").apply_lora(model, folder / "chroma-flash-heun_r64.safetensors", 1.0)
    preset = load_pack("nodes.preset").ChromaPreset.PREPARE_CLASS_CLONE(None).execute(model, "any, with a Flash LoRA")
    torch.testing.assert_close(painted(out, cfg, settings), painted(with_lora, cfg, preset[-1]))


def test_guided_first_is_cfg_without_the_lora_and_then_the_lora_at_cfg_1(comfy, flash, model, cfg, folder):
    """Against two samplings of the host's, each over its part of the same sigmas."""
    from comfy_extras.nodes_custom_sampler import DisableNoise, RandomNoise, SamplerCustomAdvanced

    out, settings, told = flash(model, start="guided first", guided_steps=3, cfg=3.0)
    assert "the first 3 without the LoRA, the others with it at cfg 1" in told
    settings = dataclasses.replace(
        settings, sampler="euler"
    )  # heun's second stage belongs to the noise level it reaches
    info = {}
    found = painted(out, cfg, settings, info)

    applied, guiders = load_pack("host.sample.apply_preset").applied, load_pack("host.sample.guiders")
    with_lora, _ = load_pack("host.model.lora").apply_lora(model, folder / "chroma-flash-heun_r64.safetensors", 1.0)
    generator = torch.Generator().manual_seed(1)
    positive, negative = ([[torch.randn(1, n, cfg.context_dim, generator=generator), {}]] for n in (9, 6))
    latent, noise = {"samples": torch.zeros(1, 16, 8, 8)}, RandomNoise.execute(SEED)[0]
    for source, scale, part in ((model, 3.0, slice(None, 4)), (with_lora, 1.0, slice(3, None))):
        shifted, method, sigmas = applied(source, settings)
        guider = guiders.chroma_guider(shifted, positive, negative, scale)
        latent = SamplerCustomAdvanced.execute(noise, guider, method, sigmas[part], latent)[0]
        noise = DisableNoise.execute()[0]
    torch.testing.assert_close(found, latent["samples"], rtol=1e-4, atol=1e-4)

    (facts,) = info["chroma_run"].values()
    assert json.loads(json.dumps(facts))["settings"]["savings"] == {"guided_steps": 3}
    assert (facts["evaluations"], facts["uncond_computed"]) == (8, 3)


def test_all_steps_guided_are_refused(comfy, flash, model):
    with pytest.raises(
        ValueError, match="8 of 8 steps are guided, so the LoRA would do nothing. Take fewer guided steps"
    ):
        flash(model, start="guided first", guided_steps=8, cfg=3.0)


def test_a_weak_rank_and_a_name_that_does_not_say_flash_are_told(comfy, flash, model):
    told = flash(model, "fox.safetensors")[2]
    assert "Warning: rank 4: weaker than the 64 to 96 that these settings are for" in told
    assert "Warning: nothing in the name fox.safetensors says that it is a LoRA for few steps" in told


def test_a_file_that_is_not_there_is_named(comfy, flash, model):
    with pytest.raises(ValueError, match="none.safetensors: not among the LoRA files"):
        flash(model, "none.safetensors")
