"""A ControlNet with guidance of its own: its residuals are those of the host's, given the same; the model adds them as FLUX does."""

import controlnets
import flux_models
import pytest
import support
import torch
from host_models import our_net, sample, small_vae

pytestmark = pytest.mark.host

LIMIT = 2e-6
GUIDANCE = 3.5
POOLED = torch.randn(1, controlnets.VECTOR, generator=torch.Generator().manual_seed(9))
SIZE = (16, 20)  # of the latent


@pytest.fixture(scope="module")
def controlnet(comfy):
    return support.dev.load_pack("host.run.controlnet")


@pytest.fixture(scope="module")
def node(comfy):
    return support.dev.load_pack("nodes.controlnet").ChromaControlNetApply


@pytest.fixture(autouse=True)
def told(comfy, monkeypatch):
    texts = []
    monkeypatch.setattr(support.dev.load_pack("nodes.controlnet"), "report", lambda cls, text: texts.append(text()))
    return texts


@pytest.fixture(scope="module")
def vae(comfy):
    return small_vae(comfy)


@pytest.fixture(scope="module")
def model(comfy, tmp_path_factory):
    cfg = support.config(heads=1)
    path = tmp_path_factory.mktemp("models") / "chroma.safetensors"
    support.write(path, support.published(support.random_weights(cfg)))
    with torch.inference_mode():
        return cfg, support.dev.load_pack("host.model.load").load_chroma(str(path))


def picture(seed=1):
    return torch.rand(1, 8 * SIZE[0], 8 * SIZE[1], 3, generator=torch.Generator().manual_seed(seed))


def text(count=5, seed=2, **options):
    return [[torch.randn(1, count, controlnets.CONTEXT, generator=torch.Generator().manual_seed(seed)), options]]


def applied(node, control, vae, strength=0.8, start=0.0, end=1.0, guidance=GUIDANCE, given=None, image=None, **more):
    """The control object that the node puts into prompts."""
    positive, negative = given or (text(), text(3, 3))
    image = picture() if image is None else image
    out = node.execute(positive, negative, control, image, strength, start, end, guidance, vae, **more).args
    return out[0][0][1]["control"]


def residuals(control, model, batch=1, prompts=1, sigma=0.7, guidance=0.0, y=None, **more):
    """What a control object gives for a forward of this model; guidance, y: of the model's own conditionings."""
    generator = torch.Generator().manual_seed(4)
    rows = batch * prompts
    cond = {"c_crossattn": torch.randn(rows, 7, controlnets.CONTEXT, generator=generator)}
    cond["guidance"] = torch.full((rows,), guidance)
    if y is not None:
        cond["y"] = y.expand(rows, -1)
    x = torch.randn(rows, 16, *SIZE, generator=generator)
    control.pre_run(model.model, lambda percent: 1 - percent)
    return control.get_control(x, torch.full((rows,), sigma), cond, prompts, more)


def equal(a, b):
    """Whether two results are the same, and numbers."""
    a, b = ({k: v for k, v in one.items() if v} for one in (a, b))
    assert all(r.isfinite().all() for one in a.values() for r in one)
    return support.equal(a, b)


def hosts(control, vae, strength=0.8, image=None, previous=None, **more):
    """The host's own object, as its ControlNetApplyAdvanced makes it."""
    import nodes

    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    side = text(control=previous) if previous is not None else text()
    out = apply(side, side, control, picture() if image is None else image, strength, 0.0, 1.0, vae=vae, **more)
    return out[0][0][1]["control"]


@pytest.mark.parametrize("layout", list(controlnets.LAYOUTS))
def test_each_layouts_residuals_are_those_of_the_host_with_the_same_guidance(
    node, inference, model, vae, layout, caplog
):
    control, (_, patcher) = controlnets.load(layout), model
    assert "missing" not in caplog.text
    pooled = text(pooled_output=POOLED)
    ours = applied(node, control, vae, pooled=pooled)
    theirs = hosts(control, vae)
    for batch, prompts in ((1, 1), (1, 2), (2, 2)):
        size = {"batch": batch, "prompts": prompts}
        given = residuals(theirs, patcher, **size, guidance=GUIDANCE, y=POOLED)
        assert equal(residuals(ours, patcher, **size), given)
        as_chroma = residuals(theirs, patcher, **size)
        assert not equal(given, as_chroma)
    sizes = control.control_model.params
    assert len(given["input"]) == 19 and len(given.get("output", ())) == (38 if sizes.depth_single_blocks else 0)


def test_guidance_alone_is_handed_on_and_the_prompts_own_pooled_vector_stays(node, inference, model, vae):
    control, (_, patcher) = controlnets.load("xlabs"), model
    ours, theirs = applied(node, control, None), hosts(control, None)
    for y in (None, POOLED):
        assert equal(residuals(ours, patcher, y=y), residuals(theirs, patcher, guidance=GUIDANCE, y=y))
    assert not equal(residuals(ours, patcher), residuals(applied(node, control, None, guidance=1.0), patcher))


def test_a_batch_of_pooled_vectors_goes_to_its_pictures(node, inference, model):
    control, (_, patcher) = controlnets.load("xlabs"), model
    two = torch.cat((POOLED, -POOLED))
    ours = applied(node, control, None, pooled=text(pooled_output=two))
    theirs = hosts(control, None)
    size = {"batch": 2, "prompts": 2}
    given = residuals(theirs, patcher, **size, guidance=GUIDANCE, y=two.repeat(2, 1))
    assert equal(residuals(ours, patcher, **size), given)


@pytest.mark.parametrize("kind", ["canny/lineart/anime_lineart/mlsd", "depth", "auto"])
def test_the_type_of_a_union_is_kept(node, inference, model, vae, kind):
    from comfy_extras.nodes_controlnet import SetUnionControlNetType

    control, (_, patcher) = controlnets.load("instantx union"), model
    typed = SetUnionControlNetType.execute(control, kind).args[0]
    ours = residuals(applied(node, typed, vae), patcher)
    assert equal(ours, residuals(hosts(typed, vae), patcher, guidance=GUIDANCE))
    assert equal(ours, residuals(applied(node, control, vae), patcher)) == (kind == "auto")


def test_several_in_a_row_keep_each_its_own_values(node, inference, model, vae):
    """Ours with 3.5, the host's own in the middle, ours with 1.5: the sum of each alone."""
    first, second, third = (controlnets.load(name) for name in ("xlabs", "instantx", "shakker union pro 2.0"))
    patcher = model[1]
    one = applied(node, first, None, pooled=text(pooled_output=POOLED))
    two = hosts(second, vae, previous=one)
    three = applied(node, third, vae, guidance=1.5, given=(text(control=two), text(control=two)))
    assert three.previous_controlnet.previous_controlnet is one
    alone = [
        residuals(hosts(first, None), patcher, guidance=GUIDANCE, y=POOLED),
        residuals(hosts(second, vae), patcher, guidance=0.0),
        residuals(hosts(third, vae), patcher, guidance=1.5),
    ]
    joined = residuals(three, patcher)
    for key, count in (("input", 19), ("output", 38)):
        for i in range(count):
            parts = [one[key][i] for one in alone if len(one.get(key, ())) > i]
            assert support.relative(joined[key][i], sum(parts)) < LIMIT


def test_strength_scales_and_a_range_switches_off(node, inference, model):
    control, patcher = controlnets.load("xlabs"), model[1]
    whole, half = (residuals(applied(node, control, None, strength=s), patcher) for s in (1.0, 0.5))
    assert all(support.relative(a * 0.5, b) < LIMIT for a, b in zip(whole["input"], half["input"]))
    early = applied(node, control, None, start=0.0, end=0.4)  # of sigma: 1 to 0.6
    assert residuals(early, patcher, sigma=0.7) is not None
    assert residuals(early, patcher, sigma=0.5) is None
    before = hosts(control, None)
    chained = applied(node, control, None, end=0.4, given=(text(control=before), text(control=before)))
    assert equal(residuals(chained, patcher, sigma=0.5), residuals(before, patcher, sigma=0.5))


def test_strength_0_leaves_prompts_as_they_are(node, inference, told):
    positive, negative = text(), text(3)
    out = node.execute(positive, negative, controlnets.load("xlabs"), picture(), 0.0, 0.0, 1.0)
    assert out.args[0] is positive and out.args[1] is negative
    assert told == ["strength 0: the ControlNet is left out"]


def test_an_inpaint_controlnet_is_shown_picture_and_mask_as_by_the_hosts_node(node, inference, model, vae, told):
    from comfy_extras.nodes_controlnet import ControlNetInpaintingAliMamaApply

    control, patcher = controlnets.load("inpaint"), model[1]
    mask = torch.zeros(1, *picture().shape[1:3])
    mask[:, 30:80, 20:90] = 1
    ours = residuals(applied(node, control, vae, mask=mask), patcher)
    out = ControlNetInpaintingAliMamaApply.execute(text(), text(3), control, vae, picture(), mask, 0.8, 0.0, 1.0)
    assert equal(ours, residuals(out.args[0][0][1]["control"], patcher, guidance=GUIDANCE))
    assert not equal(ours, residuals(applied(node, control, vae), patcher))
    assert told[-1].endswith("an inpaint ControlNet without a mask: all is kept")
    applied(node, controlnets.load("instantx"), vae, mask=mask)
    assert told[-1].endswith("the mask is not used, since it is no inpaint ControlNet")


def test_given_objects_stay_as_they_are(node, inference, model, vae):
    control = controlnets.load("instantx")
    before = dict(vars(control))
    given = text(), text(3)
    ours = applied(node, control, vae, given=given)
    residuals(ours, model[1])
    assert vars(control) == before and given[0][0][1] == {} and ours.control_model is control.control_model
    again = ours.copy()
    assert type(again) is type(ours) and (again.guidance, again.extra_conds) == (GUIDANCE, ["y"])


def test_our_network_adds_residuals_as_the_hosts_flux_does(comfy, inference, model, node, vae):
    """Its vectors are FLUX's own, so that the two can be held against each other; sizes as the ControlNet's."""
    cfg = support.config(heads=1, approximator=(64, flux_models.HIDDEN, 1))
    flux = flux_models.flux_net(comfy, cfg)
    solved = flux_models.approximator(flux, cfg, [(0.7, GUIDANCE)])
    ours = our_net(comfy, cfg, {**flux_models.blocks_of(flux), **solved})
    data = support.inputs(cfg, height=SIZE[0], width=SIZE[1])
    for layout in ("xlabs", "instantx"):
        control = residuals(applied(node, controlnets.load(layout), vae), model[1])
        call = data["x"], data["timesteps"], data["context"]
        theirs = flux(*call, torch.zeros(1, flux_models.VECTOR), torch.tensor([GUIDANCE]), control=control)
        plain = ours(*call, torch.tensor([GUIDANCE]))
        given = ours(*call, torch.tensor([GUIDANCE]), control)
        assert support.relative(given, theirs) < LIMIT
        assert support.relative(given, plain) > 1e-2


@pytest.mark.parametrize("layout", ["xlabs", "instantx union"])
def test_in_a_run_chroma_gets_0_and_the_controlnet_its_own(comfy, inference, model, node, vae, layout):
    from comfy.patcher_extension import WrappersMP

    cfg, patcher = model
    control = controlnets.load(layout)
    seen, handed = [], []
    patcher = patcher.clone()

    def look(executor, x, t, context, guidance, *rest, **more):
        seen.append(guidance.tolist())
        return executor(x, t, context, guidance, *rest, **more)

    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", look)
    handle = control.control_model.register_forward_pre_hook(
        lambda net, args, given: handed.append((given["guidance"].tolist(), given["y"])), with_kwargs=True
    )
    pooled = text(pooled_output=POOLED)
    out = node.execute(text(9), text(9, 3), control, picture(), 0.8, 0.0, 0.6, GUIDANCE, vae, pooled).args
    latent = sample(comfy, patcher, cfg, positive=out[0], negative=out[1])
    handle.remove()
    assert seen == [[0.0, 0.0]] * 4  # cond and uncond share a forward, since they share the object
    assert 0 < len(handed) < 4 and all(g == [GUIDANCE] * 2 and torch.equal(y, POOLED.repeat(2, 1)) for g, y in handed)
    plain = sample(comfy, model[1], cfg, positive=text(9), negative=text(9, 3))
    assert support.relative(latent, plain) > 1e-2


# --- errors ----------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named_in_one_sentence(comfy, inference, node, vae, controlnet):
    import comfy.controlnet

    class Other(comfy.controlnet.ControlNet):
        pass

    control = controlnets.load("xlabs")
    other = Other(control.control_model, load_device=control.load_device)
    cases = [
        (comfy.controlnet.ControlLora({}), None, "the ControlNet is a ControlLora, of another family of models"),
        (comfy.controlnet.ControlNet(torch.nn.Linear(1, 1)), None, "the ControlNet is a Linear, of another family"),
        (other, None, "the ControlNet is a Other of another pack"),
        (control, text(), "at pooled has no pooled vector, as T5 alone gives none"),
        (control, text(pooled_output=torch.zeros(1, 5)), "has 5 numbers, this ControlNet takes 16"),
    ]
    for given, pooled, message in cases:
        with pytest.raises(ValueError, match=message):
            applied(node, given, vae, pooled=pooled)
    with pytest.raises(ValueError, match="reads an encoded picture, and vae is not connected"):
        applied(node, controlnets.load("instantx"), None)
    with pytest.raises(ValueError, match="start_percent is 0.5 and end_percent is 0.25"):
        applied(node, control, None, start=0.5, end=0.25)


@pytest.mark.parametrize(
    "made, message",
    [
        (
            support.RADIANCE,
            "reads latents of 16 channels, this model works on pixels .Radiance., and its pictures have 3",
        ),
        ({"width": 256, "heads": 2}, "made for blocks of width 128, this model's is 256"),
        ({"context": 32}, "made for text of width 64, this model's is 32"),
    ],
    ids=["radiance", "width", "text"],
)
def test_a_model_of_other_sizes_is_named_before_the_run(comfy, inference, node, tmp_path, made, message):
    cfg = support.config(**{"heads": 1, **made})
    path = support.write(tmp_path / "m.safetensors", support.published(support.random_weights(cfg)))
    patcher = support.dev.load_pack("host.model.load").load_chroma(str(path))
    context = torch.zeros(1, 4, cfg.context_dim)
    out = node.execute([[context, {}]], [[context, {}]], controlnets.load("xlabs"), picture(), 0.8, 0.0, 1.0).args
    with pytest.raises(ValueError, match=message):
        sample(comfy, patcher, cfg, positive=out[0], negative=out[1])
