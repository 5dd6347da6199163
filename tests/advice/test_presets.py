"""The table of presets, which row a file calls for, and what a person changes."""

import pytest
import support

constants = support.dev.load_pack("constants")
presets = support.dev.load_pack("advice.presets")
recognition = support.dev.load_pack("advice.recognise_preset")
settings = support.dev.load_pack("advice.user_changes")
sigmas = support.dev.load_pack("samplers.schedules")
PRESETS = presets.PRESETS

# steps, cfg, sampler, curve and its parameters, shift: the table that this pack was planned with, row by row.
TABLE = {
    "Chroma1-HD": (26, 3.5, "euler", "beta", (0.6, 0.6), "shift 1"),
    "Chroma1-HD, quality": (35, 3.5, "chroma_res_2m", "beta", (0.4, 0.4), "shift 1"),
    "Chroma1-HD, as diffusers": (35, 5.0, "euler", "linear", (), "shift 1"),
    "any, as the trainer's previews": (20, 3.0, "euler", "flux_shift", (), "shift 1"),
    "Chroma1-Base, v48": (26, 4.0, "euler", "beta", (0.6, 0.6), "shift 1"),
    "v48-detail-calibrated": (26, 3.5, "euler", "beta", (0.6, 0.6), "shift 1"),
    "v49, v50": (26, 3.5, "euler", "beta", (0.6, 0.6), "shift 1"),
    "2k-test, DC-2K": (28, 3.5, "chroma_res_2m", "beta", (0.6, 0.6), "shift 1"),
    "Chroma1-Flash": (8, 1.0, "heun", "beta", (0.6, 0.6), "shift 1"),
    "v47-flash-heun": (8, 1.0, "heun", "beta", (0.6, 0.6), "shift 1"),
    "any, with a Flash LoRA": (8, 1.0, "heun", "beta", (0.45, 0.45), "shift 1"),
    "Radiance, x0": (30, 3.5, "euler", "beta", (0.4, 0.4), "shift 1"),
    "FLUX.1 dev": (20, 1.0, "euler", "flux_shift", (), "by resolution"),
    "FLUX.1 schnell": (4, 1.0, "euler", "linear", (), "shift 1"),
    "chroma-demo": (20, 3.0, "euler", "beta", (0.6, 0.6), "shift 1"),
}


@pytest.mark.parametrize("name", TABLE)
def test_row_has_the_values_of_the_table(name):
    p = PRESETS[name]
    assert (p.steps, p.cfg, p.sampler, p.curve, tuple(p.params.values()), p.shift) == TABLE[name]


def test_the_files_of_v47_flash_heun_are_told_of_sizes_alone():
    assert PRESETS[presets.FLASH_HEUN].also == {"size": PRESETS[presets.FLASH].also["size"]}


@pytest.mark.parametrize(
    "path, name",
    [
        ("MyModel/diffusion_pytorch_model.safetensors", "MyModel"),
        ("a/MyModel/transformer/diffusion_pytorch_model.safetensors", "MyModel"),
        ("unet/transformer/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors"),
        ("a\\b.safetensors", "b.safetensors"),
        ("", ""),
    ],
)
def test_the_folder_tells_where_the_files_name_is_diffusers(path, name):
    assert recognition.telling_name(path) == name


@pytest.mark.parametrize("name", PRESETS)
def test_every_row_can_be_run_and_names_its_source(name):
    p = PRESETS[name]
    assert p.sources and all(s.name and s.url for s in p.sources)
    assert {p.grade, *p.grades.values()} <= presets.GRADES.keys()
    assert {*p.grades, *p.also} <= {f.name for f in settings.FIELDS}
    assert p.size % 16 == 0 and p.sizes[0] <= p.size <= p.sizes[1]
    assert p.shift in (constants.TRAINED, constants.BY_RESOLUTION)
    schedule = sigmas.schedule(p.curve, p.steps, p.params, keep_steps=True)
    assert len(schedule) == p.steps + 1 and schedule[0] == pytest.approx(1.0) and schedule[-1] == 0


FILES = {
    "Chroma1-HD.safetensors": presets.HD,
    "Chroma1-HD-fp8mixed.safetensors": presets.HD,
    "chroma_hd_q8_0.gguf": presets.HD,
    "ChromaHD.gguf": presets.HD,
    "Chroma1-HD_v2.safetensors": presets.HD,
    "Chroma1-HD/transformer/diffusion_pytorch_model.safetensors.index.json": presets.HD,
    "flash\\Chroma1-HD.safetensors": presets.HD,
    "Chroma1-Base.safetensors": presets.BASE,
    "chroma-unlocked-v48.safetensors": presets.BASE,
    "chroma-unlocked-v35-Q8_0.gguf": presets.BASE,
    "chroma-unlocked-v48-detail-calibrated_float8_e4m3fn.safetensors": presets.DETAIL,
    "chroma-unlocked-v34-detail-calibrated-Q4_0.gguf": presets.DETAIL,
    "chroma-unlocked-v49.safetensors": presets.OVERFIT,
    "chroma-unlocked-v50-annealed_float8_e4m3fn_scaled_learned_svd.safetensors": presets.OVERFIT,
    "chroma-2k-test.safetensors": presets.LARGE,
    "Chroma-DC-2K-T2-SL4-Q8_0.gguf": presets.LARGE,
    "Chroma1-Flash.safetensors": presets.FLASH,
    "Chroma1-HD-Flash.safetensors": presets.FLASH,
    "chroma-unlocked-v47-flash-heun-Q8_0.gguf": presets.FLASH_HEUN,
    "Chroma1-Radiance-v0.4.safetensors": presets.RADIANCE,
    "chroma-radiance-x0.safetensors": presets.RADIANCE,
    "chroma-x0.safetensors": presets.RADIANCE,
    "chromaRadiance_x0.gguf": presets.RADIANCE,
    "ChromaFlash.safetensors": presets.FLASH,
    "chroma2k.safetensors": presets.LARGE,
    "chromaDetailCalibrated.safetensors": presets.DETAIL,
    "chroma_v48DetailCalibrated.safetensors": presets.DETAIL,
    "chroma_v50Annealed.safetensors": presets.OVERFIT,
    "chromaV50.safetensors": presets.OVERFIT,
    "Chroma_HD_x0.5_merge.safetensors": presets.HD,
    "Chroma1-HD_12000steps.safetensors": presets.HD,
    "chroma-demo.safetensors": presets.TOY,
    "chroma-radiance-demo.gguf": presets.TOY,
    "chroma_v10HDFlash.safetensors": presets.FLASH,
    "ChromaHDFlash.gguf": presets.FLASH,
    "Chroma1HDFlashHeun.safetensors": presets.FLASH_HEUN,
    "chroma_v47FlashHeun.safetensors": presets.FLASH_HEUN,
    "chroma_v10HD.safetensors": presets.HD,
    "chroma_unlockedV35.safetensors": presets.BASE,
    "chroma_unlockedV48.safetensors": presets.BASE,
    "chroma_unlockedV50.safetensors": presets.OVERFIT,
}


@pytest.mark.parametrize("file", FILES)
def test_file_name_is_recognised(file):
    found = recognition.recognise("Chroma", file)
    assert (found.name, found.sure) == (FILES[file], True)
    assert recognition.telling_name(file) in found.reason


@pytest.mark.parametrize(
    "file",
    [
        "",
        "my-merge-v48.safetensors",
        "flashy.safetensors",
        "chroma_HDFlashPhotography.safetensors",
        "uhdflash.gguf",
        "model.safetensors",
        "shd2kx.gguf",
    ],
)
def test_unknown_name_gives_hd_and_says_so(file):
    found = recognition.recognise("Chroma", file)
    assert (found.name, found.sure) == (presets.HD, False)
    assert "Chroma1-HD's settings" in found.reason and (not file or file in found.reason)


def test_report_goes_before_the_name():
    assert recognition.recognise("Radiance", "Chroma1-HD.safetensors").name == presets.RADIANCE
    assert recognition.recognise("FLUX", "flux1-dev.safetensors").name == presets.FLUX
    assert recognition.recognise("FLUX", "flux1-schnell.gguf").name == presets.SCHNELL
    found = recognition.recognise("FLUX schnell", "flux1.safetensors")
    assert (found.name, found.reason, found.sure) == (presets.SCHNELL, "from the loader's report", True)
    assert recognition.recognise(None, "flux1-dev.safetensors").name == presets.FLUX
    assert recognition.recognise("Chroma", "chroma-from-flux.safetensors").name == presets.HD
    for other in ("flux-2-klein-4b.safetensors", "flux2_dev_fp8mixed.safetensors", "FLUX.2-dev.gguf"):
        assert recognition.recognise(None, other).name == presets.HD and not recognition.recognise(None, other).sure
    assert recognition.recognise(None, "flux-2024.safetensors").name == presets.FLUX
    lite = recognition.recognise("Chroma lite", "chroma-lite.safetensors")
    assert (lite.name, lite.sure) == (presets.HD, False) and "nobody" in lite.reason


@pytest.mark.parametrize(
    "lora, flash",
    [
        ("chroma-flash-heun_r64-fp32.safetensors", True),
        ("chroma/Chroma_Flash_rank96.safetensors", True),
        ("Hyper-Chroma-low-step-LoRA.safetensors", True),
        ("ChromaFlash_r64.safetensors", True),
        ("Chroma1-HD-Flash.safetensors", True),
        ("chroma-unlocked-v47-flash-heun_r32.safetensors", True),
        ("flash-heun_r64.safetensors", True),
        ("HDFlash_r64.safetensors", True),
        ("chroma_v10HDFlash.safetensors", True),
        ("HDFlash-photography.safetensors", False),
        ("chroma_HDFlashPhotography.safetensors", False),
        ("Chroma-Flash-LoRA-v2.safetensors", True),
        ("Hyper-Chroma-Turbo-Alpha-16steps-lora.safetensors", True),
        ("FLUX.1-Turbo-Alpha.safetensors", True),  # on Chroma
        ("chroma_turbo.safetensors", True),
        ("flashlight.safetensors", False),
        ("flash_photography_style.safetensors", False),
        ("camera-flash-photo.safetensors", False),
        ("chroma_camera-flash.safetensors", False),
        ("chroma-flash-photography.safetensors", False),
        ("hyper-realism.safetensors", False),
        ("chroma_hyper-realism.safetensors", False),
        ("hyper-realism_chroma.safetensors", False),
        ("lightning-bolts_chroma.safetensors", False),
        ("mystyle_3000steps.safetensors", False),
        ("flash/style.safetensors", False),
        ("hypergraphic.safetensors", False),
    ],
)
def test_flash_lora_is_recognised_by_its_name(lora, flash):
    found = recognition.recognise("Chroma", "Chroma1-HD.safetensors", ["style.safetensors", lora])
    assert (found.name == presets.FLASH_LORA) == flash
    assert not flash or recognition.telling_name(lora) in found.reason


@pytest.mark.parametrize("lora", ["flash_photography_style.safetensors", "chroma_hyper-realism.safetensors"])
def test_lora_that_may_be_for_few_steps_gives_the_models_row_in_doubt(lora):
    found = recognition.recognise("Chroma", "Chroma1-HD.safetensors", [lora])
    assert (found.name, found.sure) == (presets.HD, False)
    assert found.reason.endswith(f"but its LoRA {lora} may be one for few steps")


@pytest.mark.parametrize("variant", ["FLUX", None])
def test_few_step_lora_on_flux_leaves_fluxs_row(variant):
    assert (
        recognition.recognise(variant, "flux1-dev.safetensors", ["FLUX.1-Turbo-Alpha.safetensors"]).name == presets.FLUX
    )


@pytest.mark.parametrize("file", ["Chroma1-HD-turbo-8step.safetensors", "Chroma1-Base-hyper.gguf"])
def test_checkpoint_that_may_be_for_few_steps_is_in_doubt(file):
    found = recognition.recognise("Chroma", file)
    assert (found.name in (presets.HD, presets.BASE), found.sure) == (True, False)
    assert "few steps" in found.reason
    assert recognition.recognise("Chroma", "Chroma1-Flash-8steps.safetensors").sure


@pytest.mark.parametrize(
    "file, chroma",
    [
        ("Chroma1-HD.safetensors", True),
        ("UncannyChroma_v48.gguf", True),
        ("chroma-unlocked-v9.safetensors", True),
        ("chroma.safetensors", True),
        ("chromaV50.safetensors", True),
        ("chroma1-hd-t5xxl.safetensors", True),
        ("Radiance and others/chroma_radiance_x0.safetensors", True),
        ("Chroma1-HD/transformer/diffusion_pytorch_model.safetensors", True),
        ("sdxl/polychromatic_v3.safetensors", False),
        ("radianceXL_v2.safetensors", False),
        ("CHROMAtica-pony.safetensors", False),
        ("chroma-keyXL.safetensors", False),
        ("chroma/flux1-dev.safetensors", False),
        ("zeta-chroma-base-x0-pixel-dino-distance.safetensors", False),
        ("ZetaChroma_v1.safetensors", False),
        ("Chroma2-Kaleidoscope-base.safetensors", False),
        ("chroma-2_kaleidoscope.gguf", False),
        ("chroma-flux2-merge.safetensors", False),
        ("chroma-2k-test.safetensors", True),
        ("Chroma2K.safetensors", True),
        ("Chroma-DC-2K-T2-SL4-Q8_0.gguf", True),
        ("chroma-2025-10.safetensors", True),
        ("MyChroma2.safetensors", True),
        ("", False),
    ],
)
def test_name_says_whether_it_is_chroma(file, chroma):
    assert recognition.names_chroma(file) == chroma


@pytest.mark.parametrize("lora", [[], ["chroma-flash-heun_r64.safetensors"]], ids=["", "lora"])
@pytest.mark.parametrize(
    "file", ["zeta-chroma-base-x0-pixel-dino-distance.safetensors", "Chroma2-Kaleidoscope-base.safetensors"]
)
def test_model_that_is_chroma_by_name_alone_gets_no_row_of_its_own(file, lora):
    found = recognition.recognise(None, file, lora)
    assert (found.name, found.sure) == (presets.HD, False)
    assert found.reason == f"the name {file} is that of another kind of model: Chroma1-HD's settings"
    assert recognition.recognise("Chroma", file).sure  # a loader that has looked into the file goes before its name


def test_nothing_set_is_the_preset():
    s, p = settings.settle(presets.HD), PRESETS[presets.HD]
    assert (s.steps, s.cfg, s.sampler, s.curve, s.params, s.shift) == (26, 3.5, "euler", "beta", p.params, "shift 1")
    assert (s.width, s.height, s.changed) == (1024, 1024, frozenset())


def test_what_is_set_replaces_the_preset_and_is_told():
    s = settings.settle(
        presets.HD, steps=40, cfg=4.0, sampler="heun", curve="beta", params={"alpha": 0.4, "beta": 0.4}, shift="fixed",
        shift_params={"shift": 2.0}, width=1216, height=832,
    )  # fmt: skip
    assert s.changed == {f.name for f in settings.FIELDS}
    text = settings.tell(s, recognition.recognise("Chroma", "Chroma1-HD.safetensors"))
    for line in (
        "Chroma1-HD: recognised by the name Chroma1-HD.safetensors",
        "steps 40: set by you; the preset has 26 (sourced)",
        "cfg 4: set by you; the preset has 3.5 (sourced)",
        "sampler heun: set by you; the preset has euler (sourced)",
        "schedule beta alpha 0.4 beta 0.4: set by you; the preset has beta alpha 0.6 beta 0.6 (sourced)",
        "fixed shift 2: set by you; the preset has shift 1 (sourced)",
        "size 1216 x 832: set by you; the preset has 1024 x 1024 (sourced)",
    ):
        assert line in text.splitlines()
    assert "outside" not in text  # as many pixels as 1006 x 1006


def test_setting_the_presets_own_values_changes_nothing():
    s = settings.settle(presets.HD, steps=26, cfg=3.5, curve="beta", params={"alpha": 0.6, "beta": 0.6}, width=1024)
    assert s.changed == frozenset()


def test_grades_are_told_in_words():
    quality = settings.tell(settings.settle(presets.QUALITY), recognition.recognise(), chosen=True)
    assert "chosen by you" in quality
    assert "steps 35: our guess between sourced values; also 30 to 40" in quality.splitlines()
    lora = settings.tell(settings.settle(presets.FLASH_LORA), recognition.recognise())
    assert "cfg 1: one user's finding; also up to 1.5" in lora.splitlines()
    assert "outside of the 512 to 1152" in settings.tell(
        settings.settle(presets.HD, width=1536, height=1536), recognition.recognise()
    )
    assert "overfit" in settings.tell(settings.settle(presets.OVERFIT), recognition.recognise())


def test_choice_against_the_recognised_row_is_told():
    found = recognition.recognise("Chroma", "Chroma1-Flash.safetensors")
    text = settings.tell(settings.settle(presets.HD), found, chosen=True)
    assert "The model looks like Chroma1-Flash (by the name Chroma1-Flash.safetensors)" in text


def test_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="preset 'HD' is not known. Choose one of: Chroma1-HD, "):
        settings.settle("HD")


# --- one choice ------------------------------------------------------------------------------------------------------

CHOSEN = {  # row, choice -> steps, cfg, sampler, alpha of beta
    ("Chroma1-HD", None): (26, 3.5, "euler", 0.6),
    ("Chroma1-HD", "standard"): (14, 3.5, "chroma_sigma_2m", 0.6),
    ("Chroma1-HD", "draft"): (8, 3.5, "chroma_sigma_2m", 0.6),
    ("Chroma1-HD", "quality"): (26, 3.5, "chroma_sigma_3m", 0.6),
    ("Chroma1-Base, v48", "quality"): (26, 4.0, "chroma_sigma_3m", 0.6),
    ("Chroma1-HD, quality", "standard"): (19, 3.5, "chroma_sigma_2m", 0.4),
    ("2k-test, DC-2K", "draft"): (9, 3.5, "chroma_sigma_2m", 0.6),
    ("chroma-demo", "draft"): (6, 3.0, "chroma_sigma_2m", 0.6),
    ("FLUX.1 dev", "quality"): (20, 1.0, "chroma_sigma_3m", None),
    **{("Chroma1-Flash", choice): (8, 1.0, "heun", 0.6) for choice in (None, *presets.CHOICES)},
    ("any, with a Flash LoRA", "flash"): (8, 1.0, "heun", 0.45),
}


@pytest.mark.parametrize("name, choice", CHOSEN)
def test_choice_gives_the_values_of_the_table(name, choice):
    p = presets.of_choice(name, choice)
    assert (p.steps, p.cfg, p.sampler, p.params.get("alpha")) == CHOSEN[name, choice]
    assert p.size == PRESETS[name].size


def test_what_a_choice_puts_in_place_of_the_preset_has_a_source_of_its_own():
    text = settings.tell(settings.settle(presets.HD, choice="standard"), recognition.recognise())
    lines = text.splitlines()
    assert "steps 14: measured on this pack's demo model" in lines
    assert "sampler chroma_sigma_2m: measured on this pack's demo model" in lines
    assert "cfg 3.5: sourced" in lines and "benchmarks/results/frontier.md" in lines[-1]


@pytest.mark.parametrize("name", [presets.HD, presets.SCHNELL, presets.RADIANCE])
def test_flash_is_refused_for_a_model_without_flash(name):
    with pytest.raises(ValueError, match=f"quality is flash, and the model is {name} .why.* Load a Flash checkpoint"):
        settings.settle(name, choice="flash", reason="why")


def test_choice_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="quality 'fine' is not known. Choose one of: custom, draft, standard"):
        settings.settle(presets.HD, choice="fine")


def test_what_a_choice_takes_is_told_and_can_be_saved():
    import json

    s = settings.settle(presets.HD, choice="draft")
    assert settings.in_short(s) == "8 steps, cfg 3.5, chroma_sigma_2m, beta alpha 0.6 beta 0.6, shift 1"
    assert not s.changed  # nobody has changed the choice's own values
    found = recognition.recognise(None, "Chroma1-HD.safetensors")
    assert settings.head_of(s, found).startswith("draft: Chroma1-HD, recognised by the name Chroma1-HD.safetensors\n")
    assert settings.head_of(s, None).startswith("settings of the node before: Chroma1-HD\n")
    facts = json.loads(json.dumps(settings.facts(s)))
    assert facts["quality"] == "draft" and facts["schedule"] == {"curve": "beta", "alpha": 0.6, "beta": 0.6}
