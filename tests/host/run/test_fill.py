"""Models whose img_in takes a picture, or a picture and a mask, beside the latent (Fill; control LoRA): ours against the
host's own Flux with the same widened weights."""

import dataclasses

import flux_models
import pytest
import support
import torch
from flux_models import GUIDANCE, RUN_LIMIT, STEPS, native_patcher, prompts, sigmas_of
from host_models import our_net, sample, small_vae

pytestmark = pytest.mark.host

LIMIT = 2e-6
WIDTHS = {"picture": 128, "picture and mask": 384}  # of img_in; a latent alone has 64
SIZE = (16, 20)


def random(*shape, seed=6):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def files(folder, net, cfg):
    """FLUX with its own modulation as a file, and a file of an Approximator alone that gives it."""
    points = [(t.item(), GUIDANCE) for t in (*sigmas_of(native_patcher(net, cfg))[:-1], torch.tensor(0.0))]
    solved = flux_models.approximator(net, cfg, points)
    return (
        support.write(folder / "flux.safetensors", support.published(net.state_dict())),
        support.write(folder / "modulator.safetensors", support.published(solved)),
    )


def load(model, modulator):
    return support.dev.load_pack("host.model.load").load_chroma(str(model), approximator=str(modulator))


@pytest.fixture(scope="module", params=list(WIDTHS.values()), ids=list(WIDTHS))
def wide(comfy, request, tmp_path_factory):
    """(config, the host's MODEL, ours) of a file with a wider img_in."""
    cfg = dataclasses.replace(flux_models.config(), in_channels=request.param)
    with torch.inference_mode():
        net = flux_models.flux_net(comfy, cfg)
        ours = load(*files(tmp_path_factory.mktemp("fill"), net, cfg))
        return cfg, native_patcher(net, cfg), ours


@pytest.fixture(scope="module")
def plain(comfy, tmp_path_factory):
    cfg = flux_models.config()
    with torch.inference_mode():
        net = flux_models.flux_net(comfy, cfg)
        return cfg, native_patcher(net, cfg), load(*files(tmp_path_factory.mktemp("plain"), net, cfg))


def mask_of(size=(1, 1, 8 * SIZE[0], 8 * SIZE[1])):
    mask = torch.zeros(size)
    mask[..., 20:90, 33:120] = 1
    return mask


GIVEN = {
    "nothing": {},
    "picture": {"concat_latent_image": random(1, 16, *SIZE)},
    "picture of another size": {"concat_latent_image": random(1, 16, 8, 8)},
    "picture and mask": {"concat_latent_image": random(1, 16, *SIZE), "concat_mask": mask_of()},
    "mask alone": {"concat_mask": mask_of()},
}


def run(comfy, patcher, cfg, positive=None, **more):
    positive = prompts(cfg) if positive is None else positive
    given = {"latent": torch.zeros(1, 16, *SIZE), "size": SIZE, **more}
    return sample(comfy, patcher, cfg, steps=STEPS, scale=1.0, positive=positive, negative=positive, **given)


def test_sizes_are_read_from_the_file(wide):
    cfg, _, ours = wide
    found = ours.model.model_config.loaded.detection.config
    assert (found.in_channels, found.out_channels, found.latent_channels) == (cfg.in_channels, 64, 16)
    assert ours.model.input_channels() == cfg.in_channels // 4


def test_a_forward_equals_the_hosts(comfy, wide, inference):
    cfg, native, ours = wide
    net = ours.model.diffusion_model
    data = support.inputs(cfg, batch=2, height=15, width=18)
    flux = native.model.diffusion_model
    solved = flux_models.approximator(flux, cfg, [(0.7, GUIDANCE)])
    alone = our_net(comfy, cfg, {**flux_models.blocks_of(flux), **solved})
    guidance = torch.full((2,), GUIDANCE)
    out = alone(*data.values(), guidance)
    assert out.shape == (2, 16, 15, 18) and net.config == dataclasses.replace(cfg, approximator=net.config.approximator)
    theirs = flux(*data.values(), torch.zeros(2, flux_models.VECTOR), guidance)
    assert support.relative(out, theirs) < LIMIT


@pytest.mark.parametrize("given", list(GIVEN))
def test_a_run_equals_the_hosts(comfy, wide, inference, given):
    cfg, native, ours = wide
    positive = prompts(cfg, **GIVEN[given])
    assert support.relative(run(comfy, ours, cfg, positive), run(comfy, native, cfg, positive)) <= RUN_LIMIT


def test_what_stands_beside_the_latent_is_the_hosts_and_counts(comfy, wide, inference):
    cfg, native, ours = wide
    noise, device = random(2, 16, *SIZE), torch.device("cpu")
    for values in GIVEN.values():
        made = [p.model.concat_cond(noise=noise, device=device, **values) for p in (ours, native)]
        assert torch.equal(*made) and made[0].shape == (2, cfg.channels - 16, *SIZE)
    pictures = [run(comfy, ours, cfg, prompts(cfg, **values)) for values in (GIVEN["nothing"], GIVEN["picture"])]
    assert support.relative(*pictures) > 1e-2


def test_inpainting_by_the_hosts_node_and_within_a_noise_mask(comfy, wide, inference):
    cfg, native, ours = wide
    more = {"latent": random(1, 16, *SIZE), "noise_mask": mask_of()}
    positive = prompts(cfg, **GIVEN["picture and mask"])
    results = [run(comfy, p, cfg, positive, **more) for p in (ours, native)]
    assert support.relative(*results) <= RUN_LIMIT
    plain = [run(comfy, p, cfg, **more) for p in (ours, native)]  # the mask of the latent stands for the one beside it
    assert support.relative(*plain) <= RUN_LIMIT


@pytest.mark.parametrize("kind", ["InstructPixToPixConditioning", "InpaintModelConditioning"])
def test_the_hosts_nodes_for_depth_and_fill_equal_what_they_do_for_its_flux(comfy, wide, inference, kind):
    """InstructPixToPix: what ComfyUI's templates for depth and canny models use; InpaintModel: those for Fill."""
    from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

    import nodes

    cfg, native, ours = wide
    vae, text, pixels = small_vae(comfy), prompts(cfg), random(1, 8 * SIZE[0], 8 * SIZE[1], 3).sigmoid()
    if kind == "InpaintModelConditioning":
        made = nodes.InpaintModelConditioning().encode(text, text, pixels, vae, mask_of()[0], noise_mask=True)
    else:
        made = InstructPixToPixConditioning.execute(text, text, pixels, vae).args
    positive, _, latent = made
    more = {"latent": latent["samples"], "noise_mask": latent.get("noise_mask")}
    results = [run(comfy, patcher, cfg, positive, **more) for patcher in (ours, native)]
    assert support.relative(*results) <= RUN_LIMIT
    assert support.relative(results[0], run(comfy, ours, cfg, latent=latent["samples"])) > 1e-2


# --- control LoRA ----------------------------------------------------------------------------------------------------


def control_lora(width=128, seed=8):
    """In the layout of BFL's depth and canny LoRAs."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator) * shape[-1] ** -0.5

    return {
        "img_in.lora_A.weight": noise(4, width),
        "img_in.lora_B.weight": noise(128, 4),
        "img_in.lora_B.bias": 0.1 * noise(128),
        "single_blocks.0.norm.key_norm.scale": 1 + 0.1 * noise(64),
        "double_blocks.0.img_attn.proj.lora_A.weight": noise(4, 128),
        "double_blocks.0.img_attn.proj.lora_B.weight": noise(128, 4),
    }


def diffusers_lora(width=128):
    bfl = control_lora(width)
    names = {
        "img_in": "transformer.x_embedder",
        "double_blocks.0.img_attn.proj": "transformer.transformer_blocks.0.attn.to_out.0",
    }
    return {names[k.split(".lora")[0]] + k[k.index(".lora") :]: t for k, t in bfl.items() if ".lora" in k}


def with_lora(patcher, tensors, tmp_path, strength=0.7):
    path = support.write(
        tmp_path / f"control-{len(list(tmp_path.iterdir()))}.safetensors", tensors
    )  # none is written over
    return support.dev.load_pack("host.model.lora").apply_lora(patcher, str(path), strength)


def hosts_lora(comfy, patcher, tensors, strength=0.7):
    return comfy.sd.load_lora_for_models(patcher, None, {k: t.clone() for k, t in tensors.items()}, strength, 0)[0]


@pytest.mark.parametrize("width", WIDTHS.values(), ids=list(WIDTHS))
@pytest.mark.parametrize("given", ["picture and mask", "nothing"])
def test_a_control_lora_widens_the_model_as_in_the_host(comfy, plain, inference, tmp_path, width, given):
    cfg, native, ours = plain
    lora, positive = control_lora(width), prompts(cfg, **GIVEN[given])
    mine, told = with_lora(ours, lora, tmp_path)
    assert f"the model now takes {width} inputs" in told and "3 of 3 layers matched" in told
    theirs = run(comfy, hosts_lora(comfy, native, lora), cfg, positive)
    assert support.relative(run(comfy, mine, cfg, positive), theirs) <= RUN_LIMIT
    by_host = hosts_lora(comfy, ours, lora)  # ComfyUI's own LoRA node on our model
    assert support.relative(run(comfy, by_host, cfg, positive), theirs) <= RUN_LIMIT
    before = run(comfy, ours, cfg, positive)  # the clone alone was widened
    assert support.relative(before, run(comfy, native, cfg, positive)) <= RUN_LIMIT
    assert support.relative(before, theirs) > 1e-2


def test_a_control_lora_on_weights_that_stay_off_the_device_widens_too(comfy, plain, inference, tmp_path):
    """In low memory the host adds a LoRA when a layer is used, and its weight has the old shape."""
    cfg, _, ours = plain
    given = GIVEN["picture"]
    mine, _ = with_lora(ours, control_lora(), tmp_path)
    whole = run(comfy, mine, cfg, prompts(cfg, **given))
    mine.detach()
    mine.load(torch.device("cpu"), lowvram_model_memory=1)
    mine.pre_run()
    model = mine.model
    assert model.diffusion_model.img_in.weight.shape == (128, 64) and model.input_channels() == 32
    noise = random(1, 16, *SIZE)
    concat = model.concat_cond(noise=noise, device=noise.device, **given)
    args = noise, torch.tensor([0.7])
    text = prompts(cfg)[0][0]
    low = model.apply_model(*args, c_concat=concat, c_crossattn=text, guidance=torch.tensor([GUIDANCE]))
    mine.detach()
    comfy.model_management.load_models_gpu([mine])
    mine.pre_run()
    full = model.apply_model(*args, c_concat=concat, c_crossattn=text, guidance=torch.tensor([GUIDANCE]))
    mine.detach()
    assert support.relative(low, full) < LIMIT and whole.isfinite().all()


def test_a_control_lora_under_diffusers_names_widens_too(comfy, plain, inference, tmp_path):
    cfg, _, ours = plain
    positive = prompts(cfg, **GIVEN["picture"])
    mine, told = with_lora(ours, diffusers_lora(), tmp_path)
    bfl = {k: t for k, t in control_lora().items() if ".lora" in k}
    same, _ = with_lora(ours, {f"diffusion_model.{k}": t for k, t in bfl.items()}, tmp_path)
    assert "the model now takes 128 inputs" in told
    assert support.relative(run(comfy, mine, cfg, positive), run(comfy, same, cfg, positive)) < LIMIT


def test_a_saved_model_with_a_control_lora_loads_as_a_wide_one(comfy, plain, inference, tmp_path):
    cfg, _, ours = plain
    mine, _ = with_lora(ours, control_lora(), tmp_path)
    path = tmp_path / "saved.safetensors"
    support.dev.load_pack("host.model.save").export_model(mine, path, "bf16")
    again = support.dev.load_pack("host.model.load").load_chroma(str(path))
    comfy.model_management.load_models_gpu([mine])
    with_it = mine.model.diffusion_model.img_in.weight.bfloat16()
    assert torch.equal(again.model.diffusion_model.img_in.weight.bfloat16(), with_it) and with_it.shape == (128, 128)
    mine.detach()
    assert again.model.input_channels() == 32
    assert run(comfy, again, cfg, prompts(cfg, **GIVEN["picture"])).isfinite().all()


# --- errors ----------------------------------------------------------------------------------------------------------


def test_latents_and_pictures_of_other_channels_are_named(comfy, wide, inference):
    cfg, _, ours = wide
    with pytest.raises(ValueError, match="the latent has 4 channels, this model takes 16"):
        run(comfy, ours, cfg, latent=torch.zeros(1, 4, *SIZE))
    with pytest.raises(ValueError, match="the picture beside the latent has 4 channels, this model takes 16"):
        run(comfy, ours, cfg, prompts(cfg, concat_latent_image=torch.zeros(1, 4, *SIZE)))
    with pytest.raises(ValueError, match=f"have 17 channels, this model takes {cfg.channels}"):
        ours.model.diffusion_model(torch.zeros(1, 17, *SIZE), torch.tensor([0.5]), prompts(cfg)[0][0])


def test_references_and_a_picture_beside_the_latent_do_not_go_together(comfy, wide, inference):
    cfg, _, ours = wide
    with pytest.raises(ValueError, match="references cannot be shown to this model, since it takes"):
        run(comfy, ours, cfg, prompts(cfg, reference_latents=[torch.zeros(1, 16, 8, 8)]))
