import dataclasses
import math

import pytest
import support
import torch
import torch.nn.functional as F

model = support.model
radiance = support.dev.load_pack("chroma_model.radiance")
transformer = support.dev.load_pack("chroma_model.transformer")

ROUNDING = 2e-6  # fp32: the same sums over another tiling


def make(**options):
    net = support.build(support.config(**{**support.RADIANCE, **options}))
    net.load_state_dict(support.random_weights(net.config))
    return net


@pytest.fixture(scope="module")
def net():
    return make()


def test_published_sizes_are_658_tensors_and_9_5_billion_parameters():
    """Counted from the published checkpoint with the convolution head."""
    cfg = model.ChromaConfig(in_channels=3, out_channels=3, patch_size=16, nerf=model.NerfConfig())
    with torch.device("meta"):
        tensors = support.build(cfg).state_dict()
    assert len(tensors) == 658
    assert sum(t.numel() for t in tensors.values()) == 9_506_132_227
    assert tensors["nerf_blocks.3.param_generator.weight"].shape == (49152, 3072)
    assert tensors["nerf_image_embedder.embedder.0.weight"].shape == (64, 67)
    assert tensors["img_in_patch.weight"].shape == (3072, 3, 16, 16)


@pytest.mark.parametrize("final, name", [("conv", "nerf_final_layer_conv.conv"), ("linear", "nerf_final_layer.linear")])
def test_both_ends_are_radiances_and_none_is_chromas(final, name):
    names = set(make(nerf=support.nerf(final=final)).state_dict())
    assert {name + ".weight", name.rsplit(".", 1)[0] + ".norm.weight", "img_in_patch.weight"} <= names
    assert not [n for n in names if n.startswith(("img_in.", "final_layer."))]
    assert sum(n.startswith("nerf_final_layer") for n in names) == 3


@pytest.mark.parametrize(
    "options, markers",
    [
        ({}, ()),
        ({"prediction": "x0"}, ("__x0__",)),
        ({"text_ids": "sequential", "prediction": "x0"}, ("__x0__", "__sequential__")),
        ({"nerf": support.nerf(kernel_size=4)}, ("__32x32__",)),
    ],
    ids=str,
)
def test_state_dict_has_the_marker_of_each_variant(options, markers):
    found = {k: v.shape for k, v in make(**options).state_dict().items() if k.startswith("__")}
    assert found == {name: (0,) for name in markers}


def test_modulations_are_those_of_the_blocks_alone(net):
    """Equal to the first rows of the trainer's table, whose last two nothing reads."""
    cfg = net.config
    assert model.ChromaConfig(patch_size=16, nerf=model.NerfConfig()).num_modulations == 342
    assert cfg.num_modulations == 3 * 4 + 12 * 2
    latent = support.build(support.config())
    latent.distilled_guidance_layer.load_state_dict(net.distilled_guidance_layer.state_dict())
    t, g = torch.tensor([0.4]), torch.zeros(1)
    assert support.relative(net.modulations(t, g), latent.modulations(t, g)[:, :-2]) < ROUNDING


def test_cosine_features_are_products_of_damped_cosines():
    found = radiance.cosine_features(8, 5)
    assert found.shape == (64, 25)
    row, column, across, down = 2, 6, 4, 3
    expected = math.cos(math.pi * across * column / 7) * math.cos(math.pi * down * row / 7) / (1 + across * down)
    assert found[8 * row + column, 5 * across + down].item() == pytest.approx(expected, abs=1e-6)  # fp32


def test_nerf_block_is_a_gated_mlp_of_generated_unit_columns():
    cfg = support.config(**support.RADIANCE)
    block = radiance.NerfBlock(cfg, torch.nn)
    x, tokens = torch.randn(3, 64, 8), torch.randn(3, cfg.hidden_size)
    gate, value, out = (
        w.view(3, *s) for w, s in zip(block.param_generator(tokens).chunk(3, 1), [(8, 16)] * 2 + [(16, 8)])
    )
    unit = [w / w.norm(dim=1, keepdim=True) for w in (gate, value, out)]
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    inner = F.silu(torch.einsum("nps,nsh->nph", normed, unit[0])) * torch.einsum("nps,nsh->nph", normed, unit[1])
    expected = x + torch.einsum("nph,nhs->nps", inner, unit[2])
    torch.testing.assert_close(block(x, tokens), expected, atol=1e-5, rtol=1e-5)  # fp32, one block


@pytest.mark.parametrize("height, width", [(15, 24), (17, 9), (3, 5)])
def test_odd_size_is_wrapped_round_and_cropped_back(net, height, width):
    data = support.inputs(net.config, height=height, width=width)
    rows, columns = -(-height // 8), -(-width // 8)
    whole = data["x"].repeat(1, 1, 8, 8)[:, :, : 8 * rows, : 8 * columns]
    out = net(**data)
    assert out.shape == data["x"].shape
    assert torch.equal(out, net(**{**data, "x": whole})[:, :, :height, :width])


@pytest.mark.parametrize("tile", [1, 3, 12, 0])
def test_tiles_bound_the_head_and_leave_its_result(net, tile):
    data = support.inputs(net.config, batch=2, height=16, width=24)
    seen = []
    handles = [b.register_forward_hook(lambda m, args, out: seen.append(len(out))) for b in net.nerf_blocks]
    tiled = net(**data, nerf_tile=tile)
    for handle in handles:
        handle.remove()
    assert max(seen) == (tile or 12) and sum(seen) == 2 * 12  # 2 blocks, 2 * 2 * 3 patches
    assert support.relative(tiled, net(**data)) < ROUNDING


def test_tile_holds_the_same_pixels_whatever_the_patch():
    assert radiance.TILE_PIXELS // 16**2 == 512  # the host's
    assert radiance.TILE_PIXELS // 32**2 == 128


@pytest.mark.parametrize("options", [support.RADIANCE, {}], ids=["pixels", "latent"])
def test_x0_prediction_becomes_a_velocity(options):
    """Also on latents, where the trainer has it and the host has not."""
    shown = support.build(support.config(**options))
    shown.load_state_dict(support.random_weights(shown.config))
    told = support.build(dataclasses.replace(shown.config, prediction="x0"))
    told.load_state_dict({**shown.state_dict(), "__x0__": torch.empty(0)})
    data = {**support.inputs(shown.config, batch=2), "timesteps": torch.tensor([0.7, 0.2])}
    picture, velocity = shown(**data), told(**data)
    t = data["timesteps"].view(-1, 1, 1, 1)
    assert support.relative(data["x"] - t * velocity, picture) < 1e-6  # fp32: one division and its inverse


def test_x0_prediction_at_time_zero_is_finite():
    net = make(prediction="x0")
    out = net(**{**support.inputs(net.config), "timesteps": torch.zeros(1)})
    assert torch.isfinite(out).all()


def test_sequential_text_ids_number_the_text_only():
    net, plain = make(text_ids="sequential"), make()
    data = support.inputs(net.config)
    ids = torch.zeros(24 + 2 * 3, 3)
    ids[:24, 0] = torch.arange(24)
    ids[24:, 1:] = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0))
    assert torch.equal(net(**data), plain(**data, ids=ids))
    assert support.relative(net(**data), plain(**data)) > 1e-3


def test_kernel_of_half_the_patch_sees_the_picture_at_half_size():
    """The trainer's first model of patch 32: nearest pixels to the blocks, whole patches to the head."""
    net = make(nerf=support.nerf(kernel_size=4))
    data = support.inputs(net.config, height=16, width=24)
    w, b = net.img_in_patch.weight, net.img_in_patch.bias

    def reference(kind, index, block, **streams):
        if kind != "input":
            return transformer.run_block(kind, index, block, **streams)
        small = F.interpolate(streams["x"], size=(8, 12), mode="nearest")
        columns = F.unfold(small, kernel_size=4, stride=4).transpose(1, 2)  # (B, L, 3 * 4 * 4)
        return F.linear(columns, w.flatten(1), b), net.txt_in(streams["context"]), streams["ids"]

    assert w.shape == (128, 3, 4, 4)
    assert support.relative(net(**data), net(**data, run_block=reference)) < ROUNDING
    assert net(**data).shape == data["x"].shape


def test_rows_of_a_batch_equal_single_runs(net):
    data = support.inputs(net.config, batch=2)
    together = net(**data)
    for row in range(2):
        alone = net(**{k: v[row : row + 1] for k, v in data.items()})
        assert support.relative(together[row : row + 1], alone) < ROUNDING


@pytest.mark.parametrize("final", ["conv", "linear"])
def test_gradients_reach_every_weight_and_are_finite(final):
    net = make(nerf=support.nerf(final=final), prediction="x0").requires_grad_(True)
    data = support.inputs(net.config, batch=2, height=15)
    net(**data, nerf_tile=3).square().mean().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    heads = [n for n in gradients if n.startswith(("nerf_", "img_in_patch"))]
    assert len(heads) == 2 + 2 + 2 * 3 + 3 and all(gradients[n].abs().max() > 0 for n in heads)


def test_head_of_zeros_is_finite_with_its_gradients():
    """Unit columns of zero vectors: normalising must not divide by zero."""
    net = make().requires_grad_(True)
    for block in net.nerf_blocks:
        torch.nn.init.zeros_(block.param_generator.weight)
        torch.nn.init.zeros_(block.param_generator.bias)
    out = net(**support.inputs(net.config))
    out.square().mean().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_forward_leaves_inputs_and_module_unchanged(net):
    def attributes():
        return {(n, k) for n, m in net.named_modules() for k, v in vars(m).items() if isinstance(v, torch.Tensor)}

    data = support.inputs(net.config, height=15)
    before, held = {k: v.clone() for k, v in data.items()}, attributes()
    net(**data)
    assert all(torch.equal(data[k], before[k]) for k in data)
    assert attributes() == held


def test_run_block_sees_every_stage_in_order(net):
    seen = []

    def record(kind, index, block, **streams):
        seen.append((kind, index))
        return transformer.run_block(kind, index, block, **streams)

    data = support.inputs(net.config)
    assert torch.equal(net(**data, run_block=record), net(**data))
    assert seen == [("input", 0), ("double", 0), ("double", 1), *(("single", i) for i in range(4))]


@pytest.mark.parametrize(
    "options, text",
    [
        ({"prediction": "eps"}, "prediction is 'eps', expected v or x0"),
        ({"text_ids": "rows"}, "text_ids is 'rows', expected zeros or sequential"),
        ({"patch_size": 12}, "patch_size 12 is not a multiple of img_in_patch's kernel 8"),
    ],
)
def test_impossible_variant_is_an_error(options, text):
    with pytest.raises(ValueError, match=text):
        support.config(**{**support.RADIANCE, **options})


def test_unknown_final_layer_is_an_error():
    with pytest.raises(ValueError, match="final is 'mlp', expected conv or linear"):
        support.nerf(final="mlp")


def test_velocity_of_a_predicted_picture_is_finite_at_the_end_of_a_run():
    data, x = torch.zeros(4, 1, 1, 1), torch.ones(4, 1, 1, 1)
    times = torch.tensor([0.0, 1e-4, 2e-4, 1.0])  # below a ten-thousandth they are taken as that
    torch.testing.assert_close(
        radiance.velocity_from_data(data, x, times).flatten(), torch.tensor([1e4, 1e4, 5e3, 1.0]), rtol=1e-6, atol=0
    )
