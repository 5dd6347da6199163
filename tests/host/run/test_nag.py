"""Normalized attention guidance at cfg 1 and beside cfg: the host's own formula, at the cost of one prompt."""

import pytest
import support
import torch
from host_models import native_patcher, sample

pytestmark = pytest.mark.host

STEPS = 4
SCALE, TAU, ALPHA = 5.0, 1.5, 0.5
LIMIT = 1e-5  # relative L2 after a run in float32: the host's batch of two against one longer sequence
VARIANTS = {
    "Chroma": {},
    "Radiance": {"text_ids": "sequential", **support.RADIANCE},  # numbers its text, the negative one from 0 again
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def case(request, tmp_path_factory):
    cfg = support.config(**VARIANTS[request.param])
    weights = support.published(support.random_weights(cfg))
    if cfg.nerf is not None:
        weights["__sequential__"] = torch.empty(0)
    name = request.param.lower()
    return cfg, support.write(tmp_path_factory.mktemp("m") / f"{name}.safetensors", weights)


@pytest.fixture
def cfg(case):
    return case[0]


@pytest.fixture
def model(comfy, inference, case):
    return support.dev.load_pack("host.model.load").load_chroma(str(case[1]), text_ids=case[0].text_ids)


def text(cfg, count, seed, batch=1, **options):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(batch, count, cfg.context_dim, generator=generator), options]]


def run(comfy, model, cfg, positive=None, negative=None, scale=1.0, **more):
    positive = positive or text(cfg, 9, 1)
    negative = negative or text(cfg, 7, 2)
    size = 16 if cfg.nerf is None else 64
    latent = torch.zeros(more.pop("batch", 1), cfg.channels, size, size)
    return sample(
        comfy, model, cfg, steps=STEPS, scale=scale, positive=positive, negative=negative, latent=latent, **more
    )


def nag(model, negative, scale=SCALE, tau=TAU, alpha=ALPHA, percent=(0.0, 1.0), blocks="all"):
    comfy_nag = support.dev.load_pack("host.run.nag")
    config = model.model.diffusion_model.config
    chosen = comfy_nag.parse_blocks(blocks, config.num_double_blocks, config.num_single_blocks)
    return comfy_nag.AttentionGuided(comfy_nag.negative_text(negative), scale, tau, alpha, percent, chosen).on(model)


def by_the_host(model, scale=SCALE, tau=TAU, alpha=ALPHA):
    """The host's node: it needs the negative prompt as the sampler's, and computes it wholly."""
    from comfy_extras.nodes_nag import NAGuidance

    return NAGuidance.execute(model, scale, alpha, tau).args[0]


@pytest.mark.parametrize("lengths", [(9, 9), (9, 7), (3, 12), (40, 1)], ids=str)
def test_nag_is_the_hosts_formula_at_half_the_cost(comfy, model, cfg, lengths):
    positive, negative = text(cfg, lengths[0], 1), text(cfg, lengths[1], 2)
    wanted = run(comfy, by_the_host(model), cfg, positive, negative)
    plain = run(comfy, model, cfg, positive)
    assert support.relative(wanted, plain) > 1e-2
    rows = []
    result = run(comfy, counted(nag(model, negative), rows), cfg, positive)
    assert support.relative(result, wanted) < LIMIT
    assert rows == [1] * STEPS  # the image goes through the layers once


def counted(model, rows):
    clone = model.clone()

    def wrapper(apply, a):
        rows.append(len(a["input"]))
        return apply(a["input"], a["timestep"], **a["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def test_scale_one_changes_nothing(comfy, model, cfg):
    result = run(comfy, nag(model, text(cfg, 7, 2), scale=1.0), cfg)
    assert support.relative(result, run(comfy, model, cfg)) < LIMIT


def guide(model, pairing):
    guiders = support.dev.load_pack("host.sample.guiders")
    return guiders.GuidancePatch(support.dev.load_pack("samplers.guided_run").Guidance(), pairing).on(model)


def test_beside_cfg_only_the_positive_prompt_is_guided(comfy, model, cfg):
    """v = uncond + s (NAG's cond - uncond), checked on one step, where the two parts can be had from runs of their own."""
    other, scale = text(cfg, 5, 3), 3.0
    guided = nag(model, other)

    def one_step(m, cfg_scale):
        noise = torch.randn(1, cfg.channels, *((16, 16) if cfg.nerf is None else (64, 64)))
        sampler = comfy.samplers.sampler_object("euler")
        return comfy.sample.sample_custom(
            m, noise, cfg_scale, sampler, torch.tensor([1.0, 0.0]), text(cfg, 9, 1), text(cfg, 7, 2),
            torch.zeros_like(noise), disable_pbar=True, seed=1,
        )  # fmt: skip

    torch.manual_seed(0)
    cond = one_step(guided, 1.0)
    torch.manual_seed(0)
    plain_cond = one_step(model, 1.0)
    torch.manual_seed(0)
    plain = one_step(model, scale)
    uncond = (scale * plain_cond - plain) / (scale - 1)
    torch.manual_seed(0)
    assert (
        support.relative(one_step(guided, scale), uncond + scale * (cond - uncond)) < 1e-4
    )  # differences of differences


@pytest.mark.parametrize("lengths", [(9, 7, 5), (6, 6, 6), (3, 20, 11)], ids=str)
def test_paired_and_apart_give_one_picture(comfy, model, cfg, lengths):
    positive, negative, other = (text(cfg, n, seed) for seed, n in enumerate(lengths))
    results, calls = [], []
    for pairing in ("paired", "apart"):
        rows = []
        ours = counted(guide(nag(model, other), pairing), rows)
        results.append(run(comfy, ours, cfg, positive, negative, 3.0))
        calls.append(rows)
    assert support.relative(*results) < LIMIT
    assert calls == [[2] * STEPS, [1] * 2 * STEPS]


def test_several_negative_prompts_count_alike(comfy, model, cfg):
    one, two = text(cfg, 7, 2), text(cfg, 4, 3)
    both = run(comfy, nag(model, one + two), cfg)
    assert support.relative(both, run(comfy, nag(model, two + one), cfg)) < LIMIT
    assert support.relative(run(comfy, nag(model, one + one), cfg), run(comfy, nag(model, one), cfg)) < LIMIT
    assert support.relative(both, run(comfy, nag(model, one), cfg)) > 1e-3


def test_padding_of_the_negative_prompt_is_left_out(comfy, model, cfg):
    negative = text(cfg, 7, 2)
    padded = torch.cat((negative[0][0], torch.randn(1, 5, cfg.context_dim)), dim=1)
    mask = (torch.arange(12) < 7).long()[None]
    result = run(comfy, nag(model, [[padded, {"attention_mask": mask}]]), cfg)
    assert support.relative(result, run(comfy, nag(model, negative), cfg)) < LIMIT


def test_rows_of_a_batch_have_their_own_negative_prompts(comfy, model, cfg):
    positive = text(cfg, 9, 1, batch=2)
    negative = text(cfg, 7, 2, batch=2)
    negative[0][1]["attention_mask"] = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    both = run(comfy, nag(model, negative), cfg, positive, batch=2)
    noise_of_first = run(comfy, nag(model, [[negative[0][0][:1], {}]]), cfg, [[positive[0][0][:1], {}]], batch=2)
    assert support.relative(both[:1], noise_of_first[:1]) < LIMIT
    second = run(comfy, nag(model, [[negative[0][0][1:, :4], {}]]), cfg, [[positive[0][0][1:], {}]], batch=2)
    assert support.relative(both[1:], second[1:]) < LIMIT


@pytest.mark.parametrize("kind", ["combined", "area", "steps"])
def test_every_positive_conditioning_is_guided(comfy, model, cfg, kind):
    other = text(cfg, 6, 4)
    edge = 16 if cfg.nerf is None else 64
    options = {
        "combined": {},
        "area": {"area": (edge // 2, edge, 0, 0), "strength": 1.0},
        "steps": {"end_percent": 0.5},
    }
    other[0][1].update(options[kind])
    positive = text(cfg, 9, 1) + other
    result = run(comfy, nag(model, text(cfg, 7, 2)), cfg, positive)
    assert support.relative(result, run(comfy, model, cfg, positive)) > 1e-2
    alone = run(comfy, nag(model, text(cfg, 7, 2), scale=1.0), cfg, positive)
    assert support.relative(alone, run(comfy, model, cfg, positive)) < LIMIT


def test_it_ends_where_it_is_told(comfy, model, cfg):
    """Behind the end the network gets no negative text, and costs what it costs without."""
    lengths = []
    ours = nag(model, text(cfg, 7, 2), percent=(0.0, 0.5)).clone()

    def wrapper(executor, x, t, context, guidance, control, options, **kwargs):
        lengths.append((float(options["sigmas"][0]), kwargs.get("nag_context") is not None))
        return executor(x, t, context, guidance, control, options, **kwargs)

    import comfy.patcher_extension

    ours.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", wrapper)
    run(comfy, ours, cfg)
    middle = float(ours.get_model_object("model_sampling").percent_to_sigma(0.5))
    assert [acts for _, acts in lengths] == [sigma >= middle for sigma, _ in lengths]
    assert {acts for _, acts in lengths} == {True, False}


def test_blocks_can_be_chosen(comfy, model, cfg):
    negative = text(cfg, 7, 2)
    everywhere = run(comfy, nag(model, negative), cfg)
    listed = run(comfy, nag(model, negative, blocks="double, single 0-3"), cfg)  # which are all
    assert torch.equal(listed, everywhere)
    some = run(comfy, nag(model, negative, blocks="single 1-2"), cfg)
    plain = run(comfy, model, cfg)
    assert 1e-4 < support.relative(some, plain) < support.relative(everywhere, plain)


@pytest.mark.parametrize(
    "blocks, words",
    [
        ("triple", "'triple'.*double, single 0-9"),
        ("double 7", "'double 7'.*double blocks 0 to 1"),
        ("single 3-1", "'single 3-1'.*single blocks 0 to 3"),
    ],
)
def test_blocks_that_are_not_there_are_named(comfy, model, cfg, blocks, words):
    with pytest.raises(ValueError, match=words):
        nag(model, text(cfg, 7, 2), blocks=blocks)


def test_a_style_models_mask_is_obeyed_beside_it(comfy, model, cfg):
    """A style model's bias is over the prompt and the image; the negative text knows nothing of it."""
    if cfg.nerf is not None:
        pytest.skip("style models are for latents")
    positive = text(cfg, 9, 1)
    num_img = 64
    mask = torch.zeros(1, 9 + num_img, 9 + num_img)
    mask[:, :, 5:9] = -1.5
    positive[0][1].update(attention_mask=mask, attention_mask_img_shape=(8, 8))
    biased = run(comfy, model, cfg, positive)
    assert support.relative(biased, run(comfy, model, cfg, text(cfg, 9, 1))) > 1e-3
    idle = run(comfy, nag(model, text(cfg, 7, 2), scale=1.0), cfg, positive)
    assert support.relative(idle, biased) < LIMIT
    assert support.relative(run(comfy, nag(model, text(cfg, 7, 2)), cfg, positive), biased) > 1e-2


def test_nothing_is_left_in_the_model(comfy, model, cfg):
    before = run(comfy, model, cfg)
    net = model.model.diffusion_model
    classes = [type(m) for m in net.modules()]
    attributes = [set(vars(m)) for m in net.modules()]
    ours = nag(model, text(cfg, 7, 2))
    options = str(ours.model_options)
    rows = []
    broken = counted(ours, rows)

    def fault(apply, a):
        raise RuntimeError("a fault")

    broken.set_model_unet_function_wrapper(fault)
    with pytest.raises(RuntimeError, match="a fault"):
        run(comfy, broken, cfg)
    first = run(comfy, ours, cfg)
    assert str(ours.model_options) == options
    assert [type(m) for m in net.modules()] == classes and [set(vars(m)) for m in net.modules()] == attributes
    assert torch.equal(run(comfy, model, cfg), before)
    assert torch.equal(run(comfy, ours, cfg), first)


def test_a_model_of_another_loader_is_refused(comfy, inference):
    cfg = support.config(**support.FULL_DEPTH)
    native = native_patcher(comfy, cfg, support.published(support.random_weights(cfg)))
    with pytest.raises(ValueError, match="from another loader; load it with Load Chroma Model"):
        nag_of = support.dev.load_pack("host.run.nag")
        nag_of.AttentionGuided(nag_of.negative_text(text(cfg, 3, 1)), 5, 2, 0.5, (0, 1), None).on(native)


def test_text_of_another_width_is_refused(comfy, model, cfg):
    with pytest.raises(ValueError, match="width 7, this model takes 64"):
        nag(model, [[torch.randn(1, 3, 7), {}]])


def test_a_conditioning_without_text_is_refused(comfy, model, cfg):
    with pytest.raises(ValueError, match="no text; connect a text encoder"):
        nag(model, [[None, {}]])
