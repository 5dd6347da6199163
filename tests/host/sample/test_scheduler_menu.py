"""Schedules against the host's own functions, in its menus and nodes, and the model's shift; in this process."""

import importlib
import math

import pytest
import support
import torch
from host_models import native_patcher, sample, through_host

pytestmark = pytest.mark.host

STEPS = range(1, 101)
MENU = ["sigmoid_offset", "power_shift", "bong_tangent", "beta_0.4", "beta_0.45"]
sigmas = support.dev.load_pack("samplers.schedules")
schedule = sigmas.schedule


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    cfg = support.config()
    weights = support.random_weights(cfg)
    return cfg, weights, support.write(tmp_path_factory.mktemp("model") / "m.safetensors", support.published(weights))


@pytest.fixture
def model(comfy, inference, case):
    return support.dev.load_pack("host.model.load").load_chroma(str(case[2]))


@pytest.fixture
def sampling(comfy):
    """The host's samplings: Chroma's default, and the one with shift 1."""
    import comfy.model_sampling

    default, trained = comfy.model_sampling.ModelSamplingFlux(), comfy.model_sampling.ModelSamplingDiscreteFlow()
    trained.set_parameters(shift=1.0, multiplier=1.0)
    return {"default": default, "shift 1": trained}


@pytest.fixture
def registry(comfy, monkeypatch):
    """The host's menus as they were, with other lists; what is put there is gone after the test."""
    samplers = comfy.samplers
    names = [n for n in samplers.SCHEDULER_NAMES if n not in MENU]
    handlers = {n: h for n, h in samplers.SCHEDULER_HANDLERS.items() if n not in MENU}
    monkeypatch.setattr(samplers, "SCHEDULER_NAMES", names)
    monkeypatch.setattr(samplers.KSampler, "SCHEDULERS", names)
    monkeypatch.setattr(samplers, "SCHEDULER_HANDLERS", handlers)
    return samplers


@pytest.fixture
def register(registry):
    return support.dev.load_pack("host.sample.scheduler_menu").register


@pytest.fixture
def said(comfy, monkeypatch):
    lines = []
    for name in ("schedule", "shift"):  # no server is running here
        module = support.dev.load_pack(f"nodes.{name}")
        monkeypatch.setattr(module, "report", lambda node, text: lines.append(text() if callable(text) else text))
    return lines


@pytest.fixture
def nodes_of(said):
    return lambda name: support.dev.load_pack(f"nodes.{name}")


# --- against the host's functions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "shift 1"])
@pytest.mark.parametrize("alpha, beta", [(0.6, 0.6), (0.4, 0.4), (0.45, 0.45), (0.5, 0.7), (2.0, 5.0)])
def test_beta_is_the_hosts(comfy, sampling, name, alpha, beta):
    ms = sampling[name]
    for n in STEPS:
        expected = comfy.samplers.beta_scheduler(ms, n, alpha=alpha, beta=beta)
        assert torch.equal(schedule("beta", n, {"alpha": alpha, "beta": beta}, ms.sigmas), expected)


def test_linear_is_the_hosts_simple_at_shift_1(comfy, sampling):
    for n in (n for n in STEPS if 1000 % n == 0):  # else simple rounds to its table
        expected = comfy.samplers.simple_scheduler(sampling["shift 1"], n)
        assert torch.allclose(schedule("linear", n), expected, rtol=0, atol=6e-8)  # one float32 rounding at 1


@pytest.mark.parametrize("width, height", [(512, 512), (1024, 1024), (832, 1248), (2048, 1536)])
def test_flux_shift_is_the_hosts_model_sampling(comfy, model, width, height):
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    ms = ModelSamplingFlux().patch(model, 1.15, 0.5, width, height)[0].get_model_object("model_sampling")
    for n in STEPS:
        times = (n - torch.arange(n)) / n
        found = schedule("flux_shift", n, {"width": width, "height": height})
        assert torch.allclose(found[:-1], ms.sigma(times), rtol=0, atol=3e-7)  # the host reckons in float32


@pytest.mark.parametrize("shift", [1.0, 1.73, 3.0, 0.5])
def test_fixed_shift_is_the_hosts_model_sampling(comfy, model, shift):
    from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

    ms = ModelSamplingAuraFlow().patch_aura(model, shift)[0].get_model_object("model_sampling")
    for n in STEPS:
        found = schedule("fixed_shift", n, {"shift": shift})[:-1]
        assert torch.allclose(found, ms.sigma((n - torch.arange(n)) / n), rtol=0, atol=3e-7)  # as above


def test_karras_and_exponential_are_the_hosts_between_1_and_their_least(comfy):
    import comfy.k_diffusion.sampling as k

    for n in STEPS:
        least = 1 / n
        near = dict(rtol=2e-5, atol=0)  # the host's float32 to the 7th power
        assert torch.allclose(schedule("karras", n), k.get_sigmas_karras(n, least, 1.0), **near)
        assert torch.allclose(schedule("exponential", n), k.get_sigmas_exponential(n, least, 1.0), **near)
        found = schedule("karras", n, {"rho": 3.0, "sigma_min": 0.02})
        assert torch.allclose(found, k.get_sigmas_karras(n, 0.02, 1.0, 3.0), **near)


# --- the menus -------------------------------------------------------------------------------------------------------


def test_names_are_put_once_into_the_hosts_own_lists(registry, register):
    names = registry.SCHEDULER_NAMES
    before = list(names)
    assert register() == MENU
    assert names == [*before, *MENU] and names is registry.SCHEDULER_NAMES is registry.KSampler.SCHEDULERS
    assert register() == []
    assert names == [*before, *MENU]


def test_names_of_other_packs_are_left_to_them(registry, register):
    theirs = registry.SchedulerHandler(lambda ms, n: torch.linspace(1, 0, n + 1))
    registry.SCHEDULER_HANDLERS["bong_tangent"] = theirs  # RES4LYF, loaded before
    registry.SCHEDULER_NAMES.append("bong_tangent")
    registry.SCHEDULER_NAMES.append("sigmoid_offset")  # in the menu only, as packs do that replace calculate_sigmas
    assert register() == ["power_shift", "beta_0.4", "beta_0.45"]
    assert registry.SCHEDULER_HANDLERS["bong_tangent"] is theirs
    assert "sigmoid_offset" not in registry.SCHEDULER_HANDLERS
    assert all(registry.SCHEDULER_NAMES.count(name) == 1 for name in MENU)


def test_a_samplers_own_list_is_extended_too(registry, register, monkeypatch):
    monkeypatch.setattr(registry.KSampler, "SCHEDULERS", [*registry.SCHEDULER_NAMES, "theirs"])
    register()
    for menu in (registry.SCHEDULER_NAMES, registry.KSampler.SCHEDULERS):
        assert menu[-len(MENU) :] == MENU


@pytest.mark.parametrize("name", MENU)
def test_menu_gives_the_schedule_from_the_models_table(registry, register, sampling, name):
    register()
    curve, params = {
        "beta_0.4": ("beta", {"alpha": 0.4, "beta": 0.4}),
        "beta_0.45": ("beta", {"alpha": 0.45, "beta": 0.45}),
    }.get(name, (name, {}))
    for ms in sampling.values():
        for n in STEPS:
            found = registry.calculate_sigmas(ms, name, n)
            assert torch.equal(found, schedule(curve, n, params, ms.sigmas))
            assert found[-1] == 0 and (found[1:] < found[:-1]).all()


@pytest.mark.parametrize("name", MENU)
def test_basic_scheduler_gives_what_our_denoise_gives(registry, register, model, name):
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    register()
    curve, params = support.dev.load_pack("host.sample.scheduler_menu").MENU[name]
    table = model.get_model_object("model_sampling").sigmas
    for denoise in (1.0, 0.99, 0.75, 0.5, 0.3, 0.05, 0.0):
        for steps in (1, 8, 26):
            expected = BasicScheduler.execute(model, name, steps, denoise)[0]
            assert torch.equal(schedule(curve, steps, params, table, denoise=denoise), expected)


@pytest.mark.parametrize("name", MENU)
def test_ksampler_runs_along_the_schedule(comfy, registry, register, model, case, name):
    """The host's KSampler falls back silently to its first scheduler, so the sigmas that it walks are compared."""
    register()
    seen = []

    def look(args):
        seen.append(args["sigma"].flatten()[0].item())
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(look)
    out = sample(comfy, model, case[0], steps=6, scheduler=name)
    curve, params = support.dev.load_pack("host.sample.scheduler_menu").MENU[name]
    assert seen == schedule(curve, 6, params, model.get_model_object("model_sampling").sigmas)[:-1].tolist()
    assert bool(out.isfinite().all())


# --- the nodes -------------------------------------------------------------------------------------------------------


def test_scheduler_nodes_give_the_curve_from_the_models_table(nodes_of, model, said):
    node = nodes_of("schedule")
    table = model.get_model_object("model_sampling").sigmas
    found = node.ChromaSigmoidOffsetScheduler.execute(model, 20, 1.5, 0.6, 0.7, True, True)[0]
    options = dict(denoise=0.7, pin_first=True, keep_steps=True)
    assert torch.equal(found, schedule("sigmoid_offset", 20, {"square_k": 1.5, "base_c": 0.6}, table, **options))
    found = node.ChromaBetaScheduler.execute(model, 30, 0.4, 0.4)[0]
    assert torch.equal(found, schedule("beta", 30, {"alpha": 0.4, "beta": 0.4}, table))
    last = found[-2].item()
    assert said[1] == f"30 steps, sigma 1.000 to {last:.3f}, {int((found > 0.5).sum())} above 0.5"
    found = node.ChromaBetaScheduler.execute(model, 2000, 0.4, 0.4)[0]
    assert said[2].endswith(f"({2001 - len(found)} repeats dropped; keep steps keeps them)")
    assert len(node.ChromaBetaScheduler.execute(model, 30, 0.4, 0.4, denoise=0.0)[0]) == 0
    assert said[3] == "no steps (denoise 0)"


@pytest.mark.parametrize("name", sigmas.CURVES)
def test_each_curve_of_the_choice_has_its_own_inputs(nodes_of, model, name):
    node = nodes_of("schedule").ChromaScheduler
    curve = sigmas.CURVES[name]
    live = {f"curve.{p.name}": p.default + p.step for p in curve.parameters}
    live = {"model": model, "curve": name, "steps": 12, "denoise": 0.8, **live}
    values, known = through_host(node, live)
    assert {k for k in known if k.startswith("curve.")} - {"curve.latent"} == {
        f"curve.{p.name}" for p in curve.parameters
    }
    for p in curve.parameters:
        kind, options = known[f"curve.{p.name}"]
        assert kind == ("INT" if p.is_integer else "FLOAT")
        assert (options["default"], options["min"], options["max"]) == (p.default, p.low, p.high)
        assert options["tooltip"] == p.meaning
    found = node.execute(**values)[0]
    params = {p.name: p.default + p.step for p in curve.parameters}
    table = model.get_model_object("model_sampling").sigmas
    assert torch.equal(found, schedule(name, 12, params, table, denoise=0.8))


def test_latent_replaces_width_and_height(comfy, nodes_of, model):
    node = nodes_of("schedule").ChromaScheduler
    live = {"model": model, "curve": "flux_shift", "steps": 9, "curve.width": 64, "curve.height": 64}
    live |= {"curve.base_shift": 0.5, "curve.max_shift": 1.15}
    expected = schedule("flux_shift", 9, {"width": 512, "height": 768})
    for latent in (
        {"samples": torch.zeros(1, 16, 96, 64)},
        {"samples": torch.zeros(1, 16, 95, 63)},  # the model pads it to whole tokens
        {"samples": torch.zeros(1, 3, 768, 512), "downscale_ratio_spacial": 1},
    ):
        values, _ = through_host(node, {**live, "curve.latent": latent})
        assert torch.equal(node.execute(**values)[0], expected)
    values, _ = through_host(node, live)
    assert torch.equal(node.execute(**values)[0], schedule("flux_shift", 9, {"width": 64, "height": 64}))


def test_latent_of_radiance_is_in_pixels(comfy, inference, nodes_of, tmp_path):
    weights = support.random_weights(support.config(**support.RADIANCE))
    path = support.write(tmp_path / "r.safetensors", support.published(weights))
    radiance = support.dev.load_pack("host.model.load").load_chroma(str(path))
    size = nodes_of("schedule").latent_size(radiance, {"samples": torch.zeros(1, 3, 770, 512)})
    assert size == {"width": 512, "height": 784}


def test_unknown_choices_are_refused_with_the_known_ones(nodes_of, model):
    schedules, shifts = nodes_of("schedule"), nodes_of("shift")
    for curve in (None, {"curve": "sigmoid"}):
        with pytest.raises(ValueError, match="curve is .*; it must be one of beta, sigmoid_offset"):
            schedules.ChromaScheduler.execute(model, curve)
    for mode in (None, {"mode": "shift 2"}):
        with pytest.raises(ValueError, match="mode is .*; it must be one of shift 1, fixed, by resolution"):
            shifts.ChromaTimestepShift.execute(model, mode)


@pytest.mark.parametrize(
    "module, name",
    [
        ("schedule", "ChromaSigmoidOffsetScheduler"),
        ("schedule", "ChromaBetaScheduler"),
        ("schedule", "ChromaScheduler"),
        ("shift", "ChromaTimestepShift"),
        ("plot", "ChromaSigmasPlot"),
    ],
)
def test_every_node_has_tooltips_help_and_an_index(comfy, module, name):
    schema = getattr(support.dev.load_pack(f"nodes.{module}"), name).GET_SCHEMA()
    assert schema.node_id == name
    inputs = [*schema.inputs, *(i for d in schema.inputs for o in getattr(d, "options", None) or [] for i in of(o))]
    assert all(i.tooltip for i in [*inputs, *schema.outputs])
    page = (support.ROOT / "web" / "docs" / f"{name}.md").read_text()
    for given in inputs:
        assert (given.display_name or given.id) in page


def of(option):
    return getattr(option, "inputs", [])


def test_tooltip_of_base_c_tells_the_truth(comfy):
    schema = support.dev.load_pack("nodes.schedule").ChromaSigmoidOffsetScheduler.define_schema()
    tooltip = next(i for i in schema.inputs if i.id == "base_c").tooltip
    assert "Raising it gives MORE steps at low sigma" in tooltip


# --- the model's shift -----------------------------------------------------------------------------------------------

SHIFTS = {
    "shift 1": ({"mode": "shift 1"}, "ModelSamplingAuraFlow", "patch_aura", (1.0,)),
    "fixed": ({"mode": "fixed", "shift": 1.73}, "ModelSamplingAuraFlow", "patch_aura", (1.73,)),
    "by resolution": (
        {"mode": "by resolution", "width": 832, "height": 1248, "base_shift": 0.5, "max_shift": 1.15},
        "ModelSamplingFlux",
        "patch",
        (1.15, 0.5, 832, 1248),
    ),
}


def timesteps_of(comfy, model, case, **options):
    """A run's picture, and the timesteps that reached the network."""
    seen = []

    def look(executor, *args, **kwargs):
        seen.append(args[1].clone())
        return executor(*args, **kwargs)

    model = model.clone()
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    model.add_wrapper_with_key(kind, "test", look)
    return sample(comfy, model, case[0], **options), torch.cat(seen)


@pytest.mark.parametrize("native", [False, True], ids=["our model", "the host's"])
@pytest.mark.parametrize("mode", SHIFTS)
def test_shift_is_the_hosts_to_the_bit(comfy, nodes_of, model, case, mode, native):
    model = native_patcher(comfy, *case[:2]) if native else model
    given, host_node, method, args = SHIFTS[mode]
    host_node = getattr(importlib.import_module("comfy_extras.nodes_model_advanced"), host_node)()
    before = model.get_model_object("model_sampling")
    ours = nodes_of("shift").ChromaTimestepShift.execute(model, given)[0]
    theirs = getattr(host_node, method)(model, *args)[0]
    assert model.get_model_object("model_sampling") is before
    ms, expected = ours.get_model_object("model_sampling"), theirs.get_model_object("model_sampling")
    assert torch.equal(ms.sigmas, expected.sigmas)
    times = torch.linspace(0.01, 1, 50)
    assert torch.equal(ms.sigma(times), expected.sigma(times)) and torch.equal(ms.timestep(times), times)
    assert [ms.percent_to_sigma(p / 10) for p in range(11)] == [expected.percent_to_sigma(p / 10) for p in range(11)]
    if native:  # its number of modulations is fixed, so that these weights do not run in it
        return
    a, seen = timesteps_of(comfy, ours, case, steps=4, scheduler="beta")
    b, reference = timesteps_of(comfy, theirs, case, steps=4, scheduler="beta")
    assert torch.equal(a, b) and torch.equal(seen, reference)
    assert 0 < seen.min() < seen.max() == 1


def test_shift_1_gives_the_linear_schedule_in_the_hosts_menu(comfy, nodes_of, model, said):
    import comfy.samplers

    shifted = nodes_of("shift").ChromaTimestepShift.execute(model, {"mode": "shift 1"})[0]
    found = comfy.samplers.calculate_sigmas(shifted.get_model_object("model_sampling"), "simple", 20)
    assert torch.allclose(found, schedule("linear", 20), rtol=0, atol=6e-8)  # float32
    assert said == ["shift 1.000 (mu 0.000)"]


def test_shift_through_the_hosts_executor_takes_the_modes_inputs(nodes_of, model, said):
    node = nodes_of("shift").ChromaTimestepShift
    values, known = through_host(node, {"model": model, "mode": "fixed", "mode.shift": 3.0})
    assert set(known) == {"model", "mode", "mode.shift"}
    node.execute(**values)
    live = {"mode.width": 1024, "mode.height": 1024, "mode.base_shift": 0.5, "mode.max_shift": 1.15}
    values, _ = through_host(node, {"model": model, "mode": "by resolution", **live})
    node.execute(**values)
    assert said == ["shift 3.000 (mu 1.099)", f"shift {math.exp(1.15):.3f} (mu 1.150)"]


def test_shift_repairs_a_wrong_multiplier_and_keeps_the_noise_scale(comfy, nodes_of, model):
    from comfy_extras.nodes_model_advanced import ModelNoiseScale, ModelSamplingSD3

    wrong = ModelNoiseScale().patch(ModelSamplingSD3().patch(model, 3.0)[0], 0.9)[0]
    for mode in SHIFTS:
        clone, _ = nodes_of("shift").shifted(wrong, mode)
        ms = clone.get_model_object("model_sampling")
        assert float(ms.timestep(ms.sigma_max)) == 1 and ms.noise_scale == 0.9


@pytest.mark.parametrize("kind", ["of the loader", "DiscreteFlow", "Flux"])
def test_schedules_follow_the_models_shift_whatever_its_table_holds(comfy, registry, register, model, kind):
    """With dynamic VRAM the host puts the buffer of one clone's sampling into another's (Comfy-Org/ComfyUI#16490)."""
    import comfy.model_sampling

    load_pack = support.dev.load_pack
    if kind != "of the loader":
        flow = getattr(comfy.model_sampling, f"ModelSampling{kind}")
        own = type("Own", (flow, comfy.model_sampling.CONST), {})()
        own.set_parameters(shift=1.7)
        model.add_object_patch("model_sampling", own)
    presets, changes = load_pack("host.sample.apply_preset"), load_pack("advice.user_changes")
    settings = changes.settle("Chroma1-HD", width=1024, height=1024)
    register()

    def schedules():
        of_nodes = load_pack("nodes.schedule").ChromaBetaScheduler.execute(model, 9, 0.45, 0.45)[0]
        in_menu = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "beta_0.45", 9)
        sampled = [load_pack("nodes.ksampler").sigmas_of(model, name, 9, 1.0) for name in ("beta", "simple")]
        probed = torch.tensor(load_pack("host.run.probe").sigmas_of(model, 9))
        return [of_nodes, in_menu, *sampled, probed, presets.sigmas_of(model, settings, 1.0)]

    before, table = schedules(), model.get_model_object("model_sampling").sigmas
    comfy.utils.set_attr_buffer(model.get_model_object("model_sampling"), "sigmas", table**2)
    assert all(torch.equal(*pair) for pair in zip(before, schedules(), strict=True))
    assert torch.equal(model.get_model_object("model_sampling").sigmas, table**2)  # the model's own stays as it was
    model.get_model_object("model_sampling").sigmas = table


def test_bad_shifts_and_other_models_are_refused(comfy, nodes_of, model):
    shifted = nodes_of("shift").shifted
    with pytest.raises(ValueError, match="fixed_shift: shift is 0.0; allowed is a number from 0.01 to 100"):
        shifted(model, "fixed", shift=0.0)
    with pytest.raises(ValueError, match="flux_shift: width is 0; allowed is a whole number from 16"):
        shifted(model, "by resolution", width=0)

    class Other:
        model = torch.nn.Identity()

    with pytest.raises(ValueError, match="the model is Identity; this node is for Chroma"):
        shifted(Other(), "shift 1")


# --- the plot --------------------------------------------------------------------------------------------------------


@pytest.fixture
def plots(comfy, tmp_path):
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path))
    yield support.dev.load_pack("nodes.shared.canvas")
    folder_paths.set_temp_directory(before)


def has(image, colour):
    """Number of pixels of a colour in '#rrggbb', or a little lighter or darker, as thin lines are."""
    rgb = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int(((image * 255 - rgb).abs() < 16).all(dim=-1).sum())


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1024, 640), (256, 256), (400, 1200)])
def test_plot_shows_each_schedule_in_its_colour(plots, theme, size):
    given = [(f"curve {name}", schedule(name, 20)) for name in ("beta", "sigmoid_offset", "bong_tangent", "flux_shift")]
    image = plots.plot(given, *size, theme)
    assert image.shape == (1, size[1], size[0], 3) and image.dtype == torch.float32
    assert 0 <= image.min() and image.max() <= 1
    colours = plots.THEMES[theme]
    assert has(image, colours.ground) > 0.4 * size[0] * size[1]
    assert all(has(image, line) > 20 for line in colours.lines)
    fewer = plots.plot(given[:2], *size, theme)
    assert not has(fewer, colours.lines[2]) and not has(fewer, colours.lines[3])


def test_labels_in_characters_that_pillows_own_font_lacks_still_differ(plots):
    fox, dog = "\u72d0", "\u72ac"  # both were the same box
    assert not torch.equal(*(plots.plot([(label, schedule("beta", 4))]) for label in (fox, dog)))
    values = [0.1, 0.2]
    charts = [
        plots.chart([title], ["double 0", "single 0"], [(label, values)], what)
        for title, label, what in (("a", "b", fox), ("a", "b", dog), ("a", fox, "c"), ("a", dog, "c"), (fox, "b", "c"))
    ]
    assert len({chart.numpy().tobytes() for chart in charts}) == len(charts)


def test_line_goes_through_its_sigmas(plots):
    """At each step a pixel of the line's colour stands at the height of the sigma, and none far from it."""
    values = schedule("linear", 5)
    canvas = plots.Canvas(800, 600, plots.THEMES["light"])
    image = torch.from_numpy(plots.np.array(canvas.draw([("a", values.tolist())])))
    left, top, right, bottom = (n / plots.OVERSAMPLING for n in canvas.box)
    for step, sigma in enumerate(values.tolist()):
        x, y = left + (right - left) * step / 5, bottom - (bottom - top) * sigma
        assert image[round(y) - 1, round(x) - 1].tolist() == [0, 0x72, 0xB2]


def test_legend_has_steps_ends_and_steps_above_a_half(plots):
    assert plots.legend_line("a", [1.0, 0.8, 0.5, 0.25, 0.0]) == "a: 4 steps, 1 to 0.25, then 0; 2 above 0.5"
    assert plots.legend_line("a", [1.0, 0.0]) == "a: 1 step, 1, then 0; 1 above 0.5"
    assert plots.legend_line("a", []) == "a: no steps"


def test_plot_node_gives_the_picture_and_a_preview(plots, tmp_path):
    from PIL import Image

    out = support.dev.load_pack("nodes.plot").ChromaSigmasPlot.execute(
        schedule("linear", 9), sigmas_3=torch.empty(0), label_1=" flow ", width=320, height=256
    )
    assert out[0].shape == (1, 256, 320, 3)
    (saved,) = out.ui.as_dict()["images"]
    assert Image.open(tmp_path / saved["filename"]).size == (320, 256)


def test_what_can_not_be_drawn_is_named(plots):
    with pytest.raises(ValueError, match=r"b: sigmas of the shape \(2, 2\) are not a list"):
        plots.plot([("a", schedule("linear", 2)), ("b", torch.zeros(2, 2))])
    with pytest.raises(ValueError, match="a: sigmas .* finite numbers"):
        plots.plot([("a", torch.tensor([1, math.nan]))])
    with pytest.raises(ValueError, match="theme 'blue' is not known. Choose one of: light, dark"):
        plots.plot([("a", schedule("linear", 2))], theme="blue")
