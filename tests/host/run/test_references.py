"""References (Kontext): our network against the host's own Flux, with an Approximator that gives Flux's vectors."""

import functools

import flux_models
import pytest
import support
import torch
from host_models import our_net, sample

pytestmark = pytest.mark.host

LIMIT = 2e-6
GUIDANCE = 3.5
SIZES = [(16, 20), (12, 24), (9, 7)]  # of references; the last is not in whole patches


def with_two_times(net):
    """Lets the host's FLUX.1 blocks take vectors of two timesteps: it stacks them in the batch, as its FLUX.2 wants them,
    and FLUX.1's own modulation layers then fail. Here they are given to them as (B, 2, D), and the text's as (B, D)."""

    def stacked(x, vec):
        return vec.ndim == 2 and len(vec) == 2 * len(x)

    def double(forward, block, img, txt, vec, **more):
        if not stacked(img, vec):
            return forward(img=img, txt=txt, vec=vec, **more)
        both = vec.view(2, len(img), -1).movedim(0, 1)
        block.modulation = False
        try:
            return forward(img=img, txt=txt, vec=(block.img_mod(both), block.txt_mod(vec[: len(img)])), **more)
        finally:
            block.modulation = True

    def single(forward, x, vec, **more):
        return forward(x, vec.view(2, len(x), -1).movedim(0, 1) if stacked(x, vec) else vec, **more)

    for block in net.double_blocks:
        block.forward = functools.partial(double, block.forward, block)
    for block in net.single_blocks:
        block.forward = functools.partial(single, block.forward)
    return net


@pytest.fixture(scope="module")
def case(comfy):
    cfg = flux_models.config()
    flux = with_two_times(flux_models.flux_net(comfy, cfg))
    solved = flux_models.approximator(flux, cfg, [(0.7, GUIDANCE), (0.0, GUIDANCE)])
    return cfg, flux, our_net(comfy, cfg, {**flux_models.blocks_of(flux), **solved})


def pictures(cfg, sizes, batch=1):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(batch, cfg.channels, *size, generator=generator) for size in sizes]


def both(case, sizes, method=None, batch=1, height=16, width=20, **options):
    cfg, flux, ours = case
    data = support.inputs(cfg, batch=batch, height=height, width=width)
    given = {"ref_latents": pictures(cfg, sizes, batch)} if sizes else {}
    if method is not None:
        given["ref_latents_method"] = method
    guidance = torch.full((batch,), GUIDANCE)
    args = data["x"], data["timesteps"], data["context"]
    with torch.inference_mode():
        theirs = flux(
            *args, torch.zeros(batch, flux_models.VECTOR), guidance, transformer_options=dict(options), **given
        )
        return ours(*args, guidance, transformer_options=dict(options), **given), theirs


def test_an_approximator_that_gives_fluxs_vectors_makes_our_network_flux(case):
    ours, theirs = both(case, [])
    assert support.relative(ours, theirs) < LIMIT


@pytest.mark.parametrize("method", [None, "offset", "index", "uxo", "index_timestep_zero"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_method_with_each_number_of_references_equals_the_hosts(case, method, count):
    ours, theirs = both(case, SIZES[:count], method)
    plain, _ = both(case, [])
    assert support.relative(ours, theirs) < LIMIT
    assert support.relative(ours, plain) > 1e-2


def test_batches_odd_sizes_and_a_stretched_grid_equal_the_hosts(case):
    rope = {"scale_x": 1.5, "scale_y": 0.75, "shift_x": 3.0, "shift_y": -2.0, "shift_t": 0.5}
    for method, batch in (("offset", 2), ("index_timestep_zero", 1)):  # the host's fails for the second in batches
        ours, theirs = both(case, SIZES[:2], method, batch=batch, height=15, width=18, rope_options=rope)
        assert support.relative(ours, theirs) < LIMIT


def test_vectors_of_timestep_zero_in_a_batch_are_those_of_each_row_alone(case):
    cfg, _, ours = case
    data, shown = support.inputs(cfg, batch=2), pictures(cfg, SIZES[:2], 2)
    more = dict(guidance=torch.full((2,), GUIDANCE), ref_latents_method="index_timestep_zero")
    with torch.inference_mode():
        whole = ours(*data.values(), ref_latents=shown, **more)
        more["guidance"] = more["guidance"][:1]
        rows = [
            ours(*(t[i : i + 1] for t in data.values()), ref_latents=[p[i : i + 1] for p in shown], **more)
            for i in range(2)
        ]
    assert support.relative(whole, torch.cat(rows)) < LIMIT


def test_a_styles_mask_leaves_references_to_be_seen(case):
    """Its bias is made for text and image; of zeros it changes nothing."""
    cfg, _, ours = case
    data, shown = support.inputs(cfg), pictures(cfg, SIZES[:2])
    num_txt, num_img = data["context"].shape[1], 8 * 10
    bias = torch.zeros(1, num_txt + num_img, num_txt + num_img)
    with torch.inference_mode():
        plain = ours(*data.values(), ref_latents=shown)
        assert support.relative(ours(*data.values(), ref_latents=shown, attention_mask=bias), plain) < LIMIT


def test_an_unknown_method_is_named(case):
    with pytest.raises(ValueError, match="method is 'beside'; it must be one of offset, index"):
        both(case, SIZES[:1], "beside")


def test_a_reference_of_other_channels_is_named(case):
    cfg, _, ours = case
    data = support.inputs(cfg)
    with pytest.raises(ValueError, match="a reference has 4 channels, this model takes 16"):
        ours(*data.values(), ref_latents=[torch.zeros(1, 4, 8, 8)])


def test_chroma_with_a_lora_and_a_reference_is_chroma_of_merged_weights(comfy, inference, tmp_path):
    """As with a LoRA that was trained to edit."""
    from comfy_extras.nodes_edit_model import ReferenceLatent

    load_pack = support.dev.load_pack
    cfg, generator = support.config(double=2, single=2), torch.Generator().manual_seed(9)
    weights, lora, merged = support.random_weights(cfg), {}, {}
    for name in ("double_blocks.0.img_attn.qkv", "single_blocks.1.linear1"):
        rows, columns = weights[f"{name}.weight"].shape
        up, down = torch.randn(rows, 4, generator=generator) * 0.1, torch.randn(4, columns, generator=generator) * 0.1
        lora |= {f"diffusion_model.{name}.lora_B.weight": up, f"diffusion_model.{name}.lora_A.weight": down}
        merged[f"{name}.weight"] = weights[f"{name}.weight"] + up @ down
    paths = {
        "plain": support.write(tmp_path / "plain.safetensors", support.published(weights)),
        "merged": support.write(tmp_path / "merged.safetensors", support.published({**weights, **merged})),
        "lora": support.write(tmp_path / "lora.safetensors", lora),
    }
    load = load_pack("host.model.load").load_chroma
    model, _ = load_pack("host.model.lora").apply_lora(load(str(paths["plain"])), str(paths["lora"]), 1.0)
    latent = {"samples": torch.randn(1, 16, 12, 24, generator=generator)}
    texts = ([[torch.randn(1, n, cfg.context_dim, generator=generator), {}]] for n in (11, 7))
    positive, negative = (ReferenceLatent.execute(text, latent).args[0] for text in texts)

    def run(patcher, given=(positive, negative)):
        return sample(comfy, patcher, cfg, positive=given[0], negative=given[1])

    found = run(model)
    assert support.relative(found, run(load(str(paths["merged"])))) < 1e-5
    assert support.relative(found, run(load(str(paths["plain"])))) > 1e-3
    plain_texts = [[[entry[0], {}] for entry in side] for side in (positive, negative)]
    assert support.relative(found, run(model, plain_texts)) > 1e-3  # the reference is seen
