import dataclasses

import pytest
import support
import torch

model = support.model


def test_default_config_is_the_published_model():
    """643 tensors and 8,899,983,424 parameters: counted from the published checkpoint."""
    cfg = model.ChromaConfig()
    with torch.device("meta"):
        tensors = support.build(cfg).state_dict()
    assert cfg.num_modulations == 344
    assert len(tensors) == 643
    assert sum(t.numel() for t in tensors.values()) == 8_899_983_424


def test_approximator_is_0_28_billion_parameters():
    with torch.device("meta"):
        approximator = model.Approximator(model.ApproximatorConfig())
    assert sum(p.numel() for p in approximator.parameters()) == 278_285_312


@pytest.mark.parametrize(
    "double, single, expected", [(19, 38, 344), (8, 38, 212), (2, 4, 38), (0, 1, 5), (20, 38, 356)]
)
def test_num_modulations_follows_depth(double, single, expected):
    assert support.config(double=double, single=single).num_modulations == expected


@pytest.mark.parametrize("inputs, channels", [(64, 16), (128, 32), (384, 96)])
def test_what_stands_beside_the_latent_is_no_channel_of_it(inputs, channels):
    cfg = dataclasses.replace(support.config(), in_channels=inputs)
    assert (cfg.channels, cfg.latent_channels) == (channels, 16)
    assert (support.config(**support.RADIANCE).channels, support.config(**support.RADIANCE).latent_channels) == (3, 3)


def test_a_wide_model_that_predicts_the_picture_takes_the_latent_alone_for_its_velocity():
    cfg = dataclasses.replace(support.config(), in_channels=384)
    data, weights = support.inputs(cfg), support.random_weights(cfg)
    as_v, as_x0 = (support.build(dataclasses.replace(cfg, prediction=kind)) for kind in ("v", "x0"))
    as_v.load_state_dict(weights)
    as_x0.load_state_dict({**weights, "__x0__": torch.empty(0)})
    picture = as_v(**data)
    assert picture.shape == (1, 16, 16, 20)
    assert torch.allclose(as_x0(**data), (data["x"][:, :16] - picture) / 0.7, atol=1e-5)  # fp32


@pytest.mark.parametrize(
    "head_dim, axes", [(128, (16, 56, 56)), (64, (16, 24, 24)), (32, (16, 8, 8)), (20, (16, 2, 2))]
)
def test_rotary_axes_sum_to_head_size(head_dim, axes):
    assert model.config.rotary_axes(head_dim) == axes
    assert sum(axes) == head_dim


@pytest.mark.parametrize("head_dim", [8, 16, 18, 22, 33])
def test_rotary_axes_of_impossible_head_is_an_error(head_dim):
    with pytest.raises(ValueError, match=f"head size {head_dim}"):
        model.config.rotary_axes(head_dim)


def test_approximator_of_wrong_width_is_an_error():
    with pytest.raises(ValueError, match="width 64.*128 wide"):
        model.ChromaConfig(
            hidden_size=128, num_heads=2, axes_dim=(16, 24, 24), approximator=model.ApproximatorConfig(64, 32, 64, 1)
        )
