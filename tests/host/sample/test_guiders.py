"""Guidance in the host's own sampling: equal to its CFG with everything off, and what each setting computes."""

import pytest
import support
import torch
from host_models import lora_on, sample

pytestmark = pytest.mark.host

STEPS, SCALE = 6, 3.0
LIMIT = 1e-5  # relative L2 after a run in float32, whose sums may be in another order


@pytest.fixture(scope="module")
def cfg():
    return support.config()


@pytest.fixture(scope="module")
def file(cfg, tmp_path_factory):
    weights = support.published(support.random_weights(cfg))
    return support.write(tmp_path_factory.mktemp("m") / "m.safetensors", weights)


@pytest.fixture
def model(comfy, inference, file):
    return support.dev.load_pack("host.model.load").load_chroma(str(file))


def pack():
    return support.dev.load_pack("host.sample.guiders"), support.dev.load_pack("samplers.guided_run").Guidance


def guided(model, pairing="auto", **settings):
    """The model under these settings, and the list that its read-outs are put on."""
    guiders, guidance = pack()
    told = []
    return guiders.GuidancePatch(guidance(**settings), pairing, told.append).on(model), told


def run(comfy, model, cfg, **more):
    return sample(comfy, model, cfg, **{"steps": STEPS, "scale": SCALE, **more})


def counts(read_out):
    return read_out.prompts - read_out.uncond_prompts, read_out.uncond_prompts


@pytest.mark.parametrize(
    "sampler", ["euler", "heun", "dpmpp_2m", "res_multistep", "euler_cfg_pp", "euler_ancestral", "dpm_2"]
)
@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_everything_off_is_the_hosts_cfg_to_the_last_bit(comfy, model, cfg, sampler, scale):
    ours, _ = guided(model)
    given = {"sampler": sampler, "scale": scale, "scheduler": "beta"}
    assert torch.equal(run(comfy, ours, cfg, **given), run(comfy, model, cfg, **given))


def test_the_guider_is_the_hosts_cfg_guider_to_the_last_bit(comfy, model, cfg):
    guiders, _ = pack()
    positive, negative = texts(cfg)
    noise, sigmas = torch.randn(1, 16, 16, 16), torch.linspace(1, 0, STEPS + 1)
    theirs = comfy.samplers.CFGGuider(model)
    theirs.set_conds(positive, negative)
    theirs.set_cfg(SCALE)
    ours = guiders.chroma_guider(guided(model)[0], positive, negative, SCALE)
    results = [
        g.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=1
        )
        for g in (theirs, ours)
    ]
    assert torch.equal(*results)


def texts(cfg, lengths=(11, 7), batch=1):
    generator = torch.Generator().manual_seed(2)
    return [[[torch.randn(batch, n, cfg.context_dim, generator=generator), {}]] for n in lengths]


@pytest.mark.parametrize(
    "settings, more, wanted",
    [
        ({}, {}, (6, 6)),
        ({}, {"scale": 1.0}, (6, 0)),
        ({"skip_first_steps": 2}, {}, (6, 4)),
        ({"skip_first_steps": 6}, {}, (6, 0)),
        ({"skip_first_steps": -1}, {}, (6, 0)),
        ({"skip_first_steps": 1}, {"sampler": "euler_cfg_pp"}, (6, 6)),  # which looks at uncond itself
        ({"alternate": True}, {"sampler": "res_multistep_cfg_pp"}, (6, 6)),
        ({"sigmas": (0.9, 0.5)}, {"scheduler": "linear"}, (6, 3)),  # 1, 5/6, 4/6, 3/6, 2/6, 1/6
        ({"percent": (0.0, 0.5)}, {"scheduler": "linear"}, (6, 4)),
        ({"zero_init_steps": 2}, {}, (4, 4)),
        ({"zero_init_steps": 1, "skip_first_steps": 2}, {}, (5, 4)),
        ({"stop_above": -1.0}, {}, (6, 1)),
        ({"stop_above": 1.0}, {}, (6, 6)),
        ({"alternate": True}, {}, (6, 4)),  # steps 0, 1, 2, 4
        ({"curve": "linear", "end": 1.0}, {}, (6, 5)),  # at 1, the host leaves uncond out
        ({"curve": "list", "values": (5, 4, 3)}, {"scale": 1.0}, (6, 6)),
        ({"curve": "list", "values": (3, 1, 1, 2, 1, 1)}, {"scale": 1.0}, (6, 2)),
        ({"form": "APG"}, {}, (6, 6)),
        ({"skip_first_steps": 2}, {"sampler": "heun"}, (11, 8)),  # 2n - 1 evaluations, those at sigma 0 and 1 alone
    ],
    ids=str,
)
def test_prompts_computed_are_as_counted_by_hand(comfy, model, cfg, settings, more, wanted):
    ours, told = guided(model, **settings)
    if more.get("scheduler") == "linear":
        more = {**more, "scheduler": "simple", "sigmas": torch.linspace(1, 0, STEPS + 1)}
        ours = shift_one(ours)
    run(comfy, ours, cfg, **more)
    assert counts(told[0]) == wanted
    assert told[0].finished and told[0].steps == STEPS


def prompt_in_two_parts(model, cfg):
    (first, second), (negative,) = texts(cfg, (11, 9)), texts(cfg, (7,))
    first[0][1]["end_percent"] = second[0][1]["start_percent"] = 0.45
    return model, {"positive": first + second, "negative": negative}


def block_skipped_for_a_part(model, cfg):
    module = support.dev.load_pack("host.run.skip_blocks")
    return module.SkippedBlocks(frozenset({("single", 1)}), (0.0, 0.45)).on(model), texts_given(cfg)


@pytest.mark.parametrize("other", [prompt_in_two_parts, block_skipped_for_a_part])
def test_alternate_computes_uncond_where_something_else_begins_to_act(comfy, model, cfg, other):
    """In steps 0, 1 and 2, and again in the two from step 3 on: the first line says nothing of what acts then."""
    patched, given = other(model, cfg)
    ours, told = guided(patched, alternate=True)
    run(comfy, ours, cfg, **given)
    assert [step for step, _ in told[0].cosines] == [0, 1, 2, 3, 4] and told[0].extrapolated == 1


def shift_one(model):
    from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

    return ModelSamplingAuraFlow().patch_aura(model, 1.0)[0]


def reference_loop(net, cfg, noise, positive, negative, scale, steps, first):
    """The loop of flow and mlx: linear sigmas, Euler, and no guidance in the first steps, or, with -1, in none."""
    x = noise
    sigmas = torch.linspace(1, 0, steps + 1)
    zero = torch.zeros(1)
    for i in range(steps):
        t = sigmas[i : i + 1]
        velocity = net(x, t, positive, zero)
        if first != -1 and i >= first:
            other = net(x, t, negative, zero)
            velocity = other + scale * (velocity - other)
        x = x + (sigmas[i + 1] - sigmas[i]) * velocity
    return x


@pytest.mark.parametrize("first", [0, 4, -1])
def test_skipping_first_steps_is_the_loop_of_flow_and_mlx(comfy, model, cfg, first):
    positive, negative = texts(cfg)
    noise = torch.randn(1, 16, 16, 16)
    wanted = reference_loop(model.model.diffusion_model, cfg, noise, positive[0][0], negative[0][0], 4.0, 8, first)
    ours = shift_one(guided(model, skip_first_steps=first)[0])
    result = guided_run_on(comfy, ours, noise, positive, negative, 4.0, torch.linspace(1, 0, 9))
    assert support.relative(result, model.model.process_latent_out(wanted)) < LIMIT


def guided_run_on(comfy, model, noise, positive, negative, scale, sigmas, sampler="euler"):
    return comfy.sample.sample_custom(
        model,
        noise,
        scale,
        comfy.samplers.sampler_object(sampler),
        sigmas,
        positive,
        negative,
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=1,
    )


@pytest.mark.parametrize("form", ["CFG-Zero*", "APG", "rescale", "normalise"])
def test_each_form_is_its_formula_in_an_euler_loop(comfy, model, cfg, form):
    maths = support.dev.load_pack("samplers.guidance")
    positive, negative = texts(cfg)
    x = noise = torch.randn(1, 16, 16, 16)
    net, zero, average = model.model.diffusion_model, torch.zeros(1), None
    sigmas = torch.linspace(1, 0, 5)
    for i in range(4):
        t = sigmas[i : i + 1]
        cond, uncond = (net(x, t, text[0][0], zero) for text in (positive, negative))
        if form == "APG":
            denoised, average = maths.apg(x - t * cond, x - t * uncond, SCALE, average, 0.2, 10.0, -0.5)
            velocity = (x - denoised) / t
        elif form == "CFG-Zero*":
            velocity = maths.cfg_zero_star(cond, uncond, SCALE)
        elif form == "rescale":
            velocity = maths.rescale(maths.cfg(cond, uncond, SCALE), cond, 0.7)
        else:
            velocity = maths.normalise(maths.cfg(cond, uncond, SCALE), cond)
        x = x + (sigmas[i + 1] - sigmas[i]) * velocity
    settings = {
        "APG": {"form": "APG", "eta": 0.2, "norm_threshold": 10.0, "momentum": -0.5},
        "CFG-Zero*": {"form": "CFG-Zero*"},
        "rescale": {"rescale": 0.7},
        "normalise": {"normalise": True},
    }[form]
    ours = shift_one(guided(model, **settings)[0])
    result = guided_run_on(comfy, ours, noise, positive, negative, SCALE, sigmas)
    assert support.relative(result, model.model.process_latent_out(x)) < LIMIT
    plain = guided_run_on(comfy, shift_one(model), noise, positive, negative, SCALE, sigmas)
    assert support.relative(result, plain) > 1e-3


@pytest.mark.parametrize("settings", [{}, {"form": "APG"}, {"skip_first_steps": 2}, {"alternate": True}], ids=str)
@pytest.mark.parametrize("lengths", [(11, 7), (9, 9)], ids=str)
def test_paired_and_apart_give_one_picture(comfy, model, cfg, settings, lengths):
    positive, negative = texts(cfg, lengths)
    results, calls = [], []
    for pairing in ("paired", "apart"):
        ours, told = guided(model, pairing, **settings)
        results.append(run(comfy, ours, cfg, positive=positive, negative=negative))
        calls.append(told[0].calls)
        assert told[0].prompts == sum(counts(told[0]))
    assert support.relative(*results) < LIMIT
    both = sum(step != "skip" for step in ["compute"] * counts(told[0])[1])
    assert calls == [STEPS, STEPS + both]


def test_the_negative_prompt_is_extrapolated_close_to_itself(comfy, model, cfg):
    plain = run(comfy, model, cfg, steps=12)
    errors = {}
    for name, settings in {"alternate": {"alternate": True}, "left out": {"skip_first_steps": -1}}.items():
        ours, _ = guided(model, **settings)
        errors[name] = support.relative(run(comfy, ours, cfg, steps=12), plain)
    assert errors["alternate"] < errors["left out"]


@pytest.mark.parametrize("sampler", ["exp_heun_2_x0", "seeds_2", "dpmpp_sde", "heun", "dpm_2"])
def test_extrapolation_stays_bounded_with_samplers_of_several_stages(comfy, model, cfg, sampler):
    plain = run(comfy, model, cfg, steps=10, sampler=sampler)
    ours, told = guided(model, alternate=True)
    assert support.relative(run(comfy, ours, cfg, steps=10, sampler=sampler), plain) < 0.2
    assert told[0].extrapolated > 0


@pytest.mark.parametrize("sampler", ["res_multistep_cfg_pp", "gradient_estimation_cfg_pp", "dpm_fast", "dpm_adaptive"])
def test_samplers_that_need_uncond_or_leave_the_schedule_get_it_in_every_step(comfy, model, cfg, sampler):
    """Their picture is that of plain CFG, and the report says why nothing was saved."""
    plain = run(comfy, model, cfg, steps=10, sampler=sampler)
    ours, told = guided(model, alternate=True)
    assert torch.equal(run(comfy, ours, cfg, steps=10, sampler=sampler), plain)
    assert told[0].extrapolated == 0 and len(told[0].notes) == 1
    assert ("uses the negative prompt itself" in told[0].notes[0]) == sampler.endswith("_cfg_pp")


def test_patches_that_look_at_uncond_keep_the_savings(comfy, model, cfg):
    """A node's function after CFG, as SAG, PAG and Mahiro set it, is not the sampler's."""
    other = model.clone()
    other.set_model_sampler_post_cfg_function(lambda args: args["denoised"], disable_cfg1_optimization=True)
    ours, told = guided(other, alternate=True)
    run(comfy, ours, cfg)
    assert told[0].extrapolated == 2 and not told[0].notes


def test_a_sampler_of_the_table_computes_uncond_in_every_step(comfy, model, cfg, monkeypatch):
    module = support.dev.load_pack("samplers.guided_run")
    monkeypatch.setattr(module, "ROUGH_SAMPLERS", frozenset({"euler"}))
    ours, told = guided(model, alternate=True)
    assert torch.equal(run(comfy, ours, cfg), run(comfy, model, cfg))
    assert told[0].extrapolated == 0 and told[0].notes == [module.ROUGH]


def test_every_sampler_in_the_table_of_rough_ones_is_the_hosts(comfy):
    module = support.dev.load_pack("samplers.guided_run")
    assert set(comfy.samplers.SAMPLER_NAMES) >= module.ROUGH_SAMPLERS
    guiders, _ = pack()
    named = {name: guiders.sampler_name(comfy.samplers.sampler_object(name)) for name in module.ROUGH_SAMPLERS}
    assert all(name == found for name, found in named.items())


@pytest.mark.parametrize(
    "sampler", ["euler_cfg_pp", "res_multistep_cfg_pp", "dpmpp_2m_cfg_pp", "gradient_estimation_cfg_pp"]
)
def test_zero_init_works_with_samplers_that_look_at_uncond(comfy, model, cfg, sampler):
    ours, told = guided(model, zero_init_steps=1)
    assert bool(run(comfy, ours, cfg, sampler=sampler).isfinite().all()) and told[0].zeroed == 1


@pytest.mark.parametrize("sampler", ["euler", "euler_cfg_pp"])
def test_a_zeroed_step_leaves_the_noise_as_it_was(comfy, model, cfg, sampler):
    positive, negative = texts(cfg)
    noise, sigmas = torch.randn(1, 16, 16, 16), torch.linspace(1, 0, 6)
    ours = guided_run_on(comfy, guided(model, zero_init_steps=2)[0], noise, positive, negative, SCALE, sigmas, sampler)
    # The same noise, taken for what the run has at the third step.
    scaled = noise / sigmas[2]
    later = guided_run_on(comfy, model, scaled, positive, negative, SCALE, sigmas[2:], sampler)
    assert support.relative(ours, later) < LIMIT


# --- several conditionings


def many(cfg, kind):
    """(positive, negative, picture size) of each kind that the host knows."""
    positive, negative = texts(cfg, (11, 11))
    other, _ = texts(cfg, (8, 8))
    other[0][0] = other[0][0] * 0.5
    with_options = lambda cond, **options: [[cond[0][0], options]]  # noqa: E731
    return {
        "combined": (positive + other, negative),
        "several negatives": (positive, negative + other),
        "area": (positive + with_options(other, area=(8, 8, 0, 4), strength=1.0), negative),
        "masked": (positive + with_options(other, mask=torch.ones(1, 16, 20).tril(), mask_strength=0.8), negative),
        "steps": (
            with_options(positive, start_percent=0.0, end_percent=0.5)
            + with_options(other, start_percent=0.5, end_percent=1.0),
            negative,
        ),
        "batch": (texts(cfg, (11,), batch=2)[0], negative),
    }[kind]


KINDS = ("combined", "several negatives", "area", "masked", "steps", "batch")


@pytest.mark.parametrize("pairing", ["auto", "paired"])
@pytest.mark.parametrize("kind", KINDS)
def test_many_conditionings_work_as_in_the_host(comfy, model, cfg, kind, pairing):
    positive, negative = many(cfg, kind)
    given = {"positive": positive, "negative": negative, "batch": 2 if kind == "batch" else 1}
    ours, _ = guided(model, pairing)
    assert support.relative(run(comfy, ours, cfg, **given), run(comfy, model, cfg, **given)) < LIMIT


def test_a_controlnet_on_one_conditioning_works_as_in_the_host(comfy, model, cfg):
    import comfy.controlnet

    class Residuals(comfy.controlnet.ControlBase):
        """A ControlNet that answers with the same residuals for every forward."""

        def get_control(self, x, t, cond, batched_number, transformer_options):
            self.calls.append(x.shape[0])
            shape = (1, x.shape[2] * x.shape[3] // 4, cfg.hidden_size)
            rows = torch.randn(shape, generator=torch.Generator().manual_seed(3)).expand(x.shape[0], -1, -1)
            return {"input": [rows], "output": [rows]}

        def copy(self):
            return self

    positive, negative = texts(cfg)
    control = Residuals()
    control.calls = []
    positive[0][1].update(control=control, control_apply_to_uncond=False)
    given = {"positive": positive, "negative": negative}
    ours, _ = guided(model)
    result = run(comfy, ours, cfg, **given)
    assert torch.equal(result, run(comfy, model, cfg, **given))
    assert control.calls == [1] * 2 * STEPS
    assert support.relative(result, run(comfy, model, cfg, **texts_given(cfg))) > 1e-3
    alike = texts(cfg, (9, 9))
    for side in alike:
        side[0][1].update(control=control, control_apply_to_uncond=False)
    calls = []
    for pairing in ("auto", "apart"):
        ours, told = guided(model, pairing)
        run(comfy, ours, cfg, positive=alike[0], negative=alike[1])
        calls.append(told[0].calls)
    assert calls == [STEPS, 2 * STEPS]


@pytest.mark.parametrize("kind", KINDS)
def test_many_conditionings_are_skipped_too(comfy, model, cfg, kind):
    positive, negative = many(cfg, kind)
    given = {"positive": positive, "negative": negative, "batch": 2 if kind == "batch" else 1}
    ours, told = guided(model, skip_first_steps=-1)
    assert support.relative(run(comfy, ours, cfg, **given), run(comfy, model, cfg, scale=1.0, **given)) < LIMIT
    assert told[0].uncond_prompts == 0


def test_a_lora_hook_on_one_conditioning_works_as_in_the_host(comfy, model, cfg):
    import comfy.hooks

    positive, negative = texts(cfg)
    lora = lora_on(model.model.diffusion_model.state_dict(), "double_blocks.0.img_attn.qkv")
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 1.0)
    positive = comfy.hooks.set_hooks_for_conditioning(positive, hooks)
    given = {"positive": positive, "negative": negative}
    results = []
    for ours in (guided(model)[0], model):
        ours = ours.clone()
        ours.register_all_hook_patches(hooks, comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model))
        results.append(run(comfy, ours, cfg, **given))
    assert torch.equal(*results)
    assert support.relative(results[0], run(comfy, model, cfg, **texts_given(cfg))) > 1e-4


def texts_given(cfg):
    positive, negative = texts(cfg)
    return {"positive": positive, "negative": negative}


# --- beside others


def test_the_hosts_cfg_override_stays_in_force(comfy, model, cfg):
    from comfy_extras.nodes_custom_sampler import CFGOverride

    override = CFGOverride.execute(model, 1.0, 0.0, 0.5).args[0]
    wanted = run(comfy, override, cfg)
    assert support.relative(wanted, run(comfy, model, cfg)) > 1e-3
    before, after = guided(override)[0], CFGOverride.execute(guided(model)[0], 1.0, 0.0, 0.5).args[0]
    assert torch.equal(run(comfy, before, cfg), wanted) and torch.equal(run(comfy, after, cfg), wanted)


def test_forwards_that_a_cache_saves_are_not_counted(comfy, model, cfg):
    from comfy_extras.nodes_easycache import EasyCacheNode

    cached = EasyCacheNode.execute(model, 1.0, 0.0, 1.0, False).args[0]
    ours, told = guided(cached)
    run(comfy, ours, cfg, steps=10)
    assert 0 < told[0].prompts < told[0].plain == 20


def test_functions_of_other_nodes_stay_in_force(comfy, model, cfg):
    seen = []
    other = model.clone()
    other.set_model_sampler_pre_cfg_function(lambda args: [seen.append("pre"), args["conds_out"]][1])
    other.set_model_sampler_post_cfg_function(lambda args: [seen.append("post"), args["denoised"]][1])
    other.set_model_sampler_cfg_function(
        lambda args: [
            seen.append(args["cond_scale"]),
            args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"],
        ][1]
    )
    ours, told = guided(other, curve="linear", end=2.0)
    result = run(comfy, ours, cfg, steps=3)
    assert seen == ["pre", 3.0, "post", "pre", 2.5, "post", "pre", 2.0, "post"]
    plain, _ = guided(model, curve="linear", end=2.0)
    assert support.relative(result, run(comfy, plain, cfg, steps=3)) < LIMIT


def test_the_hosts_own_guidance_nodes_get_cond_where_uncond_is_left_out(comfy, model, cfg):
    """With uncond skipped, what compares both finds them equal instead of a picture of zeros."""
    from comfy_extras.nodes_cfg import CFGZeroStar

    other = CFGZeroStar.execute(model).args[0]
    ours, _ = guided(other, skip_first_steps=-1)
    wanted = run(comfy, model, cfg, scale=1.0)
    assert support.relative(run(comfy, ours, cfg, scale=1.0), wanted) < LIMIT


def test_a_form_that_replaces_another_nodes_function_says_so(comfy, model, cfg):
    other = model.clone()
    other.set_model_sampler_cfg_function(lambda args: args["cond"])
    ours, told = guided(other, form="APG")
    run(comfy, ours, cfg, steps=2)
    assert "APG takes the place of another node's CFG" in told[0].text()


def test_a_guider_with_its_own_way_is_named(comfy, model, cfg):
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    positive, negative = texts(cfg)
    ours, told = guided(model, skip_first_steps=2)
    guider = Guider_DualCFG(ours)
    guider.set_conds(positive, negative, negative)
    guider.set_cfg(2.0, 2.0)
    noise = torch.randn(1, 16, 16, 16)
    guider.sample(
        noise,
        torch.zeros_like(noise),
        comfy.samplers.sampler_object("euler"),
        torch.linspace(1, 0, 3),
        disable_pbar=True,
        seed=1,
    )
    assert "Guider_DualCFG" in told[0].text() and "do nothing" in told[0].text()


def test_a_second_guidance_takes_the_place_of_the_first(comfy, model, cfg):
    first, told_first = guided(model, skip_first_steps=-1)
    second, told = guided(first)
    run(comfy, second, cfg, steps=2)
    assert not told_first and counts(told[0]) == (2, 2)


def test_a_second_model_of_ours_in_one_graph_is_untouched(comfy, model, cfg):
    ours, told = guided(model, skip_first_steps=-1)
    before = run(comfy, model, cfg)
    run(comfy, ours, cfg)
    assert torch.equal(run(comfy, model, cfg), before) and len(told) == 1


# --- nothing is left behind


class Fault(Exception):
    pass


def shape_of(value):
    """Keys and functions, through dicts and lists."""
    if isinstance(value, dict):
        return {key: shape_of(v) for key, v in value.items()}
    return [shape_of(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("pairing", ["auto", "paired"])
@pytest.mark.parametrize("fault", ["wrapped node", "interrupt"])
def test_a_failed_run_leaves_no_trace(comfy, model, cfg, fault, pairing):
    settings = {"form": "APG", "momentum": -0.5, "alternate": True, "curve": "list", "values": (3.0, 2.0)}
    ours, told = guided(model, pairing, **settings)
    fresh = run(comfy, ours, cfg)
    calls = []
    broken = ours.clone()

    def wrapper(apply, args):
        calls.append(1)
        if len(calls) == 4:
            if fault == "interrupt":
                raise comfy.model_management.InterruptProcessingException
            raise Fault
        return apply(args["input"], args["timestep"], **args["c"])

    broken.set_model_unet_function_wrapper(wrapper)
    before = [(shape_of(m.model_options), shape_of(m.wrappers)) for m in (model, ours, broken)]
    modules = dict(model.model.diffusion_model.named_modules())
    attributes = {name: set(vars(module)) for name, module in modules.items()}
    with pytest.raises((Fault, comfy.model_management.InterruptProcessingException)):
        run(comfy, broken, cfg)
    assert told[-1].finished is False and "before its end" in told[-1].text()
    assert [(shape_of(m.model_options), shape_of(m.wrappers)) for m in (model, ours, broken)] == before
    assert {name: set(vars(module)) for name, module in model.model.diffusion_model.named_modules()} == attributes
    assert torch.equal(run(comfy, ours, cfg), fresh)
    assert all(not isinstance(value, torch.Tensor) for value in vars(told[-1]).values())
    assert all(type(value) is float for _, value in told[-1].cosines)


# --- read-out


def test_the_read_out_says_what_was_computed(comfy, model, cfg):
    import json

    ours, told = guided(model, skip_first_steps=2)
    run(comfy, ours, cfg)
    facts = told[0].facts()
    assert json.loads(json.dumps(facts)) == facts
    assert {k: facts[k] for k in ("steps", "evaluations", "prompts_computed", "uncond_computed", "uncond_skipped")} == {
        "steps": 6,
        "evaluations": 6,
        "prompts_computed": 10,
        "uncond_computed": 4,
        "uncond_skipped": 2,
    }
    assert [step for step, _ in facts["cosines"]] == [2, 3, 4, 5]
    assert "10 prompts computed" in told[0].text() and "plain CFG computes 12" in told[0].text()


def test_a_run_that_ends_in_nan_can_still_be_told(comfy, model, cfg):
    """JSON has no NaN: one would make the server's whole history unreadable for a browser."""
    import json

    ours, told = guided(model)
    positive, negative = texts(cfg)
    positive[0][0][:] = float("nan")
    run(comfy, ours, cfg, positive=positive, negative=negative)
    assert {value for _, value in json.loads(json.dumps(told[0].facts(), allow_nan=False))["cosines"]} == {None}


def test_what_plain_cfg_computes_is_said_only_where_it_is_known(comfy, model, cfg):
    positive, negative = texts(cfg)
    for given, wanted in (({}, 12), ({"scale": 1.0}, None), ({"positive": positive * 2, "negative": negative}, None)):
        ours, told = guided(model)
        run(comfy, ours, cfg, **given)
        assert told[0].plain == wanted and ("plain CFG" in told[0].text()) is (wanted is not None)


def test_a_guider_without_a_negative_prompt_needs_cfg_one(comfy, model, cfg):
    guiders, _ = pack()
    positive, _ = texts(cfg)
    with pytest.raises(ValueError, match="cfg is 3.*no negative prompt.*Connect one"):
        guiders.chroma_guider(guided(model)[0], positive, None, 3.0)
    noise = torch.randn(1, 16, 16, 16)
    result = guiders.chroma_guider(guided(model)[0], positive, None, 1.0).sample(
        noise,
        torch.zeros_like(noise),
        comfy.samplers.sampler_object("euler"),
        torch.linspace(1, 0, 3),
        disable_pbar=True,
        seed=1,
    )
    assert bool(result.isfinite().all())


def test_a_curve_without_a_negative_prompt_is_told_as_what_it_is(comfy, model, cfg):
    guiders, _ = pack()
    positive, _ = texts(cfg)
    patched, _ = guided(model, curve="linear", end=3.0)
    with pytest.raises(
        ValueError, match="cfg follows the curve linear and there is no negative prompt.*set curve to constant"
    ):
        guiders.chroma_guider(patched, positive, None, 1.0)
