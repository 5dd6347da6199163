"""Each row of the tables that the Doctor and its reader of graphs use, and both sides of each threshold.

A rule is asked alone here, so that a row counts whatever the other rules say of the same graph.
"""

import math

import pytest
import support
from queued_graphs import HARM, HINT, IDLE, LONG, between, change, clean, custom, ksampler, node

queued = support.dev.load_pack("advice.queued_graph")
queued_run = support.dev.load_pack("advice.queued_run")
shifts = support.dev.load_pack("advice.queued_shift")
finding = support.dev.load_pack("advice.finding")
presets = support.dev.load_pack("advice.presets")
recognition = support.dev.load_pack("advice.recognise_preset")
settings = support.dev.load_pack("advice.user_changes")
on_models = support.dev.load_pack("advice.rules.models")
on_prompts = support.dev.load_pack("advice.rules.prompts")
on_schedules = support.dev.load_pack("advice.rules.schedules")

FLASH, NATIVE = "Chroma1-Flash.safetensors", "UNETLoader"


def the_run(graph):
    (run,) = queued_run.runs(queued.Graph(graph), {})
    return run


def found_by(rule, graph, **tokens):
    """A rule's findings on a graph. tokens: prompt -> how many it has."""
    return list(rule(queued.Graph(graph), the_run(graph), finding.Facts(tokens)))


def severities(rule, graph, **tokens):
    return [f.severity for f in found_by(rule, graph, **tokens)]


def own_schedule(curve, **params):
    """Chroma Scheduler in place of the host's; params: the widgets of its curve."""
    inputs = {f"curve.{name}": value for name, value in params.items()}
    return custom() | {"23": node("ChromaScheduler", model=["4", 0], curve=curve, steps=4, denoise=1.0, **inputs)}


# --- schedules and shifts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheduler, follows",
    [
        *((name, True) for name in ("simple", "sgm_uniform", "normal", "ddim_uniform", "kl_optimal")),
        *((name, True) for name in ("beta", "beta_0.4", "beta_0.45", "sigmoid_offset", "power_shift")),
        *((name, False) for name in ("linear", "bong_tangent", "flux_shift", "fixed_shift", "from elsewhere", "")),
    ],
)
def test_shift_acts_on_schedules_from_the_models_table(scheduler, follows):
    assert shifts.follows_shift(scheduler) == follows
    unshifted = change(clean(scheduler=scheduler), "10", model=["1", 0])
    assert severities(on_schedules.shift_not_set, unshifted) == [HINT] * follows


SIZE = {"width": 1024, "height": 1024, "base_shift": 0.5, "max_shift": 1.15}


@pytest.mark.parametrize(
    "class_type, inputs, sets, value",
    [
        ("ModelSamplingAuraFlow", {"shift": 2.0}, True, 2.0),
        ("ModelSamplingSD3", {"shift": 3.0}, True, 3.0),
        ("ModelSamplingFlux", SIZE, True, math.exp(1.15)),
        ("ModelSamplingFlux", {**SIZE, "height": ["90", 0]}, True, None),
        ("ChromaTimestepShift", {"mode": "shift 1"}, True, 1.0),
        ("ChromaTimestepShift", {"mode": "fixed", "mode.shift": 2.0}, True, 2.0),
        ("ChromaTimestepShift", {"mode": "by resolution"} | {f"mode.{k}": v for k, v in SIZE.items()}, True, math.exp(1.15)),
        ("ChromaTimestepShift", {"mode": "another"}, True, None),
        ("ChromaKSampler", {"shift": "1 (as trained)"}, True, 1.0),
        ("ChromaKSampler", {"shift": "fixed", "shift.value": 2.0}, True, 2.0),
        ("ChromaKSampler", {"shift": "by resolution"}, True, None),
        ("ChromaKSampler", {"shift": "from the model"}, False, None),
        ("ChromaPreset", {"shift": "shift 1"}, True, 1.0),
        ("ChromaPreset", {"shift": "fixed", "shift.value": 2.0}, True, 2.0),
        ("ChromaPreset", {"shift": "from the preset"}, True, None),
        ("ModelSamplingStableCascade", {"shift": 2.0}, True, None),
        ("Model Sampling (X)", {}, True, None),
        ("Any Shift", {}, True, None),
        ("KSampler", {"shift": 2.0}, False, None),
    ],
)  # fmt: skip
def test_nodes_shift_is_read(class_type, inputs, sets, value):
    graph = queued.Graph({"1": node(class_type, **inputs), "90": node("MathInt", a=1, b=2)})
    is_set, given = shifts.shift_of(graph, "1")
    assert is_set == sets
    assert given == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    "scheduler, steps, shift, told",
    [
        ("simple", 6, 2.0, True),  # 2 / (5 + 2) = 0.286 to the last step
        ("simple", 7, 2.0, False),  # 0.25
        ("sgm_uniform", 6, 2.0, True),
        ("beta", 6, 2.0, False),
        ("simple", 2, 1.3, True),
        ("simple", 2, 1.2, False),
        ("simple", 1, 2.0, False),
    ],
)
def test_last_step_of_a_shifted_schedule(scheduler, steps, shift, told):
    graph = change(clean(scheduler=scheduler, steps=steps), "4", shift=shift)
    assert severities(on_schedules.few_steps_of_a_shifted_schedule, graph) == [HINT] * told


@pytest.mark.parametrize(
    "curve, params, told",
    [
        ("fixed_shift", {"shift": 3.0}, True),
        ("fixed_shift", {"shift": 1.0}, False),
        ("flux_shift", SIZE, True),
        ("flux_shift", {**SIZE, "latent": ["9", 0]}, False),
    ],
)
def test_curves_own_shift_counts(curve, params, told):
    rule = on_schedules.few_steps_of_a_shifted_schedule
    assert severities(rule, own_schedule(curve, **params)) == [HINT] * told


@pytest.mark.parametrize(
    "class_type",
    [
        "KarrasScheduler",
        "ExponentialScheduler",
        "PolyexponentialScheduler",
        "LaplaceScheduler",
        "VPScheduler",
        "SDTurboScheduler",
        "AlignYourStepsScheduler",
        "GITSScheduler",
    ],
)
def test_each_schedule_of_another_model_does_harm(class_type):
    (one,) = found_by(on_schedules.schedule_of_another_model, custom() | {"23": node(class_type, steps=26)})
    assert (one.severity, one.title) == (HARM, f"the schedule {class_type} with Chroma")
    assert "Stable Diffusion" in one.text


@pytest.mark.parametrize(
    "class_type, harmful",
    [
        ("ModelSamplingSD3", True),
        ("ModelSamplingDiscrete", True),
        ("ModelSamplingContinuousEDM", True),
        ("ModelSamplingContinuousV", True),
        ("ModelSamplingStableCascade", True),
        ("ModelSamplingAuraFlow", False),
        ("ModelSamplingFlux", False),
    ],
)
def test_each_shift_of_another_model_does_harm(class_type, harmful):
    graph = change(clean(), "4", class_type=class_type)
    assert severities(on_schedules.shift_of_another_model, graph) == [HARM] * harmful


@pytest.mark.parametrize("steps, told", [(1, True), (11, True), (12, False), (0, False)])
def test_few_steps_are_fewer_than_12(steps, told):
    assert severities(on_schedules.few_steps, clean(steps=steps)) == [HINT] * told


@pytest.mark.parametrize(
    "sampler, steps, told", [("2m", 5, True), ("2m", 6, False), ("2m_sde", 6, False), ("3m", 8, True)]
)
def test_few_steps_of_the_sampler_that_is_near_with_them_are_fewer_than_6(sampler, steps, told):
    graph = ksampler(clean(), sampler=f"chroma_sigma_{sampler}", steps=steps)
    assert severities(on_schedules.few_steps, graph) == [HINT] * told


@pytest.mark.parametrize(
    "class_type, scheduler",
    [
        ("BetaSamplingScheduler", "beta"),
        ("ChromaBetaScheduler", "beta"),
        ("ChromaSigmoidOffsetScheduler", "sigmoid_offset"),
        ("SigmoidOffsetScheduler", "sigmoid_offset"),
        ("FromElsewhere", "FromElsewhere"),
    ],
)
def test_schedule_nodes_have_a_name(class_type, scheduler):
    assert the_run(custom() | {"23": node(class_type, model=["4", 0], steps=26)}).scheduler == scheduler


@pytest.mark.parametrize(
    "class_type, sampler",
    [
        ("SamplerDPMPP_SDE", "dpmpp_sde"),
        ("SamplerDPMPP_2S_Ancestral", "dpmpp_2s_ancestral"),
        ("SamplerSEEDS2", "seeds_2"),
        ("SamplerDPMAdaptative", "dpm_adaptive"),
        ("SamplerEulerAncestralCFGPP", "euler_ancestral_cfg_pp"),
        ("SamplerFromElsewhere", ""),
    ],
)
def test_sampler_nodes_have_a_name(class_type, sampler):
    assert the_run(custom() | {"22": node(class_type)}).sampler == sampler


@pytest.mark.parametrize(
    "inputs, is_part",
    [
        ({"start_at_step": 0, "end_at_step": 26}, False),
        ({"start_at_step": 0, "end_at_step": 10000}, False),
        ({"start_at_step": 1, "end_at_step": 26}, True),
        ({"start_at_step": 0, "end_at_step": 25}, True),
        ({"add_noise": "enable"}, False),
        ({"add_noise": "disable"}, True),
        ({"add_noise": False}, True),
    ],
)
def test_part_of_a_run(inputs, is_part):
    assert the_run(change(clean(), "10", class_type="KSamplerAdvanced", **inputs)).is_part == is_part


# --- sizes, files, nodes on the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "side, severity",
    [(400, HINT), (416, None), (512, None), (1152, None), (1168, HINT), (1440, HINT), (1456, HARM)],
)
def test_size_for_chroma1_hd(side, severity):
    """Good from 512 to 1152; told below 512 / 1.25 = 409.6, and as harm above 1152 * 1.25 = 1440."""
    graph = change(clean(), "9", width=side, height=side)
    assert severities(on_models.size_for_another_checkpoint, graph) == [severity] * (severity is not None)


@pytest.mark.parametrize("width, fit", [(1008, None), (1001, 1008), (1023, 1024), (7, 16), (16, None), (0, None)])
def test_size_is_rounded_to_steps_of_16(width, fit):
    remedies = [f.remedy for f in found_by(on_models.size_in_steps_of_16, change(clean(), "9", width=width))]
    assert remedies == ([f"Use {fit} x 1024."] if fit else [])


@pytest.mark.parametrize("denoise, told", [(0.0, False), (0.01, True), (0.99, True), (1.0, False)])
def test_denoise_between_0_and_1_needs_a_picture(denoise, told):
    assert severities(on_models.denoise_without_a_picture, clean(denoise=denoise)) == [HARM] * told


TWICE = (
    *("heun", "heunpp2", "dpm_2", "dpm_2_ancestral", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_sde"),
    *("seeds_2", "seeds_3", "res_2s", "res_3s", "res_5s", "chroma_res_2s", "sa_solver_pece", "midpoint", "rk2", "rk9"),
)
ONCE = (
    *("euler", "euler_ancestral", "lms", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "ddpm", "ddim", "lcm", "uni_pc"),
    *("ipndm", "deis", "res_multistep", "chroma_res_2m", "sa_solver", "er_sde", "gradient_estimation", ""),
)


@pytest.mark.parametrize("sampler, twice", [*((s, True) for s in TWICE), *((s, False) for s in ONCE)])
def test_samplers_that_run_the_model_twice(sampler, twice):
    graph = between(clean(sampler_name=sampler, steps=8), "EasyCache")
    assert severities(on_models.cache_with_a_two_stage_sampler, graph) == [HARM] * twice
    assert severities(on_models.cache_with_few_steps, graph) == [HINT] * (not twice)


@pytest.mark.parametrize(
    "class_type, known",
    [
        ("EasyCache", True),
        ("LazyCache", True),
        ("DBCache", True),
        ("TeaCache", False),
        ("ApplyFBCacheOnModel", False),
        ("FirstBlockCache", False),
        ("TaylorSeer", False),
        ("WaveSpeed", False),
    ],
)
@pytest.mark.parametrize("steps, few", [(12, True), (13, False)])
def test_each_cache(class_type, known, steps, few):
    graph = between(clean(steps=steps), class_type)
    assert severities(on_models.cache_with_few_steps, graph) == [HINT] * few
    assert severities(on_models.cache_that_does_not_know_chroma, graph) == [IDLE] * (not known)


@pytest.mark.parametrize("steps, harmful", [(25, True), (26, False), (27, True)])
def test_magcache_is_for_26_steps(steps, harmful):
    rule = on_models.cache_that_does_not_know_chroma
    assert severities(rule, between(clean(steps=steps, loader="UNETLoader"), "MagCache")) == [HARM] * harmful
    assert severities(rule, between(clean(steps=steps), "MagCache")) == []  # there it does not work at all


@pytest.mark.parametrize(
    "class_type, severity",
    [
        ("MagCache", HARM),
        ("CLIPNegPip", HARM),
        ("ApplyPulidFlux", IDLE),
        ("PulidFluxOptions", IDLE),
        ("DyPE_FLUX", None),
        ("EasyCache", None),
    ],
)
def test_each_patch_of_the_hosts_own_chroma(class_type, severity):
    rule = on_models.patch_of_the_hosts_own_chroma
    assert severities(rule, between(clean(), class_type)) == [severity] * (severity is not None)
    assert severities(rule, between(clean(loader="UNETLoader"), class_type)) == []


@pytest.mark.parametrize(
    "class_type, severity, only_native",
    [
        ("PerturbedAttentionGuidance", IDLE, False),
        ("UNetSelfAttentionMultiply", IDLE, False),
        ("PatchModelAddDownscale", IDLE, False),
        ("FreeU_V2", HARM, False),
        ("SelfAttentionGuidance", HARM, False),
        ("TomePatchModel", HARM, False),
        ("ScaleROPE", IDLE, True),
        ("FluxKVCache", IDLE, True),
        ("ReferenceLatent", IDLE, True),
    ],
)
def test_each_node_without_effect(class_type, severity, only_native):
    rule = on_models.node_without_effect
    assert severities(rule, between(clean(loader=NATIVE), class_type)) == [severity]
    assert severities(rule, between(clean(), class_type)) == [severity] * (not only_native)


# --- prompts and guidance ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfg, harmful", [(1.5, False), (2.0, False), (2.01, True)])
def test_cfg_above_2_with_flash_does_harm(cfg, harmful):
    assert severities(on_prompts.flash_with_high_cfg, clean(FLASH, cfg=cfg, steps=8)) == [HARM] * harmful


@pytest.mark.parametrize("cfg, told", [(0.99, False), (1.0, True), (1.01, False)])
def test_cfg_1_without_distillation_is_told(cfg, told):
    assert severities(on_prompts.undistilled_at_cfg_1, clean(cfg=cfg)) == [HINT] * told
    assert severities(on_prompts.negative_prompt_at_cfg_1, change(clean(cfg=cfg), "6", text=LONG)) == [IDLE] * told


@pytest.mark.parametrize("words, told", [(511, False), (512, True)])
def test_words_are_at_least_one_token_each_and_the_end_is_one(words, told):
    graph = change(clean(), "5", text=" ".join(["fox"] * words))
    assert severities(on_prompts.prompt_too_long, graph) == [HARM] * told


@pytest.mark.parametrize("tokens, told", [(512, False), (513, True)])
def test_counted_tokens_go_before_the_estimate(tokens, told):
    assert severities(on_prompts.prompt_too_long, change(clean(), "5", text="fox"), fox=tokens) == [HARM] * told


@pytest.mark.parametrize("tokens, told", [(69, True), (70, False)])
def test_negative_prompt_is_short_below_70_tokens(tokens, told):
    graph = change(clean(), "6", text="blurry")
    assert severities(on_prompts.short_negative_prompt, graph, blurry=tokens) == [HINT] * told


@pytest.mark.parametrize(
    "text, least, most",
    [
        ("one two", 3, 5),  # 2 words: 2 * 1 + 1, ceil(2 * 1.8) + 1
        ("one, two", 3, 7),  # a comma may be a token: ceil(3 * 1.8) + 1
        ("a", 2, 2),  # no more tokens than letters, and the end
        ("", 1, 1),
        ("counted", 9, 9),
    ],
)
def test_estimate_of_tokens(text, least, most):
    facts = finding.Facts({"counted": 9})
    assert (facts.least(text), facts.most(text)) == (least, most)


@pytest.mark.parametrize(
    "type_, padded",
    [
        *((type_, True) for type_ in ("sd3", "flux", "mochi", "stable_diffusion", "hidream")),
        *((type_, False) for type_ in ("chroma", "wan", "ltxv", None)),
    ],
)
def test_each_type_of_text_encoder(type_, padded):
    assert severities(on_prompts.padded_text_encoder, change(clean(), "2", type=type_)) == [HARM] * padded


@pytest.mark.parametrize("class_type", ["FluxGuidance", "CLIPTextEncodeFlux"])
@pytest.mark.parametrize("guidance, harmful", [(0.0, False), (0.1, True)])
def test_flux_guidance_other_than_0_does_harm(class_type, guidance, harmful):
    graph = change(between(clean(), class_type, name="positive"), "50", guidance=guidance)
    assert severities(on_prompts.flux_guidance, graph) == [HARM] * harmful


# --- presets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, size, sizes, grade, few_steps",
    [
        ("Chroma1-HD", 1024, (512, 1152), "S", False),
        ("Chroma1-HD, quality", 1024, (512, 1152), "S", False),
        ("Chroma1-HD, as diffusers", 1024, (512, 1152), "S", False),
        ("any, as the trainer's previews", 512, (512, 1152), "S", False),
        ("Chroma1-Base, v48", 768, (512, 768), "S", False),
        ("v48-detail-calibrated", 1024, (512, 1152), "S", False),
        ("v49, v50", 1152, (1024, 1152), "S", False),
        ("2k-test, DC-2K", 1536, (1024, 2048), "I", False),
        ("Chroma1-Flash", 768, (512, 1024), "S", True),
        ("v47-flash-heun", 768, (512, 1024), "S", True),
        ("any, with a Flash LoRA", 1024, (512, 1152), "C", True),
        ("Radiance, x0", 1024, (512, 1024), "W", False),
        ("FLUX.1 dev", 1024, (320, 1414), "I", False),
        ("FLUX.1 schnell", 1024, (320, 1414), "I", True),
        ("chroma-demo", 128, (128, 128), "M", False),
    ],
)
def test_sizes_and_grade_of_each_preset(name, size, sizes, grade, few_steps):
    p = presets.PRESETS[name]
    assert (p.size, p.sizes, p.grade, p.few_steps) == (size, sizes, grade, few_steps)


@pytest.mark.parametrize("side, outside", [(496, True), (512, False), (1152, False), (1168, True)])
def test_size_outside_of_the_presets_is_told(side, outside):
    chosen = settings.settle(presets.HD, width=side, height=side)
    assert ("is outside of the 512 to 1152 pixels" in settings.tell(chosen, recognition.recognise())) == outside
