"""Rotary frequencies for large pictures, against the formulas of the papers computed by hand."""

import math

import pytest
import support
import torch

embeddings = support.dev.load_pack("chroma_model.embeddings")
scaling = support.dev.load_pack("chroma_model.rope_scaling")

AXES, THETA, BASE = (16, 56, 56), 10_000, 64
CPU = torch.device("cpu")


def embedder(**options):
    given = {"dype": None, "base_tokens": BASE, **options}
    return scaling.ScaledPositionEmbedder(AXES, THETA, scaling.RopeScaling(**given))


def ids_of(grid, num_txt=5):
    return embeddings.position_ids(num_txt, *grid)[None]


def plain(ids):
    return embeddings.PositionEmbedder(AXES, THETA)(ids)


def frequencies(method, dim, scale, **options):
    made = scaling.RopeScaling(method=method, **options)
    f = embeddings.rotary_frequencies(dim, THETA, CPU)
    return scaling.METHODS[method](f, torch.tensor([scale], dtype=torch.float64), made)


def test_ntk_keeps_the_fastest_pair_and_divides_the_slowest_by_the_scale():
    """d = 56, s = 2: theta' = 10000 * 2^(56/54) = 20520.09; the pairs are theta'^(-2i/56)."""
    found = frequencies("ntk", 56, 2.0)
    new = 10_000 * 2 ** (56 / 54)
    assert new == pytest.approx(20520.09, abs=0.1)
    assert torch.allclose(
        found, torch.tensor([new ** (-2 * i / 56) for i in range(28)], dtype=torch.float64), rtol=1e-12
    )
    old = embeddings.rotary_frequencies(56, THETA, CPU)
    assert found[0] == 1 and found[-1] == pytest.approx(float(old[-1]) / 2, rel=1e-12)


def test_linear_divides_every_frequency():
    old = embeddings.rotary_frequencies(56, THETA, CPU)
    assert torch.equal(frequencies("linear", 56, 4.0), old / 4)


def test_yarn_interpolates_slow_pairs_and_keeps_fast_ones():
    """Base 64, alpha 1, beta 4: pair 0 turns 64 / 2 pi = 10.19 times and is kept; 64 f / 2 pi < 1 from pair 8 on, where
    f = 10000^(-16/56) = 0.0720; pair 4 turns 10.19 * 0.2683 = 2.733 times, so g = 1.733 / 3 = 0.5777."""
    found = frequencies("yarn", 56, 2.0, turns=(1.0, 4.0))
    old = embeddings.rotary_frequencies(56, THETA, CPU)
    assert found[0] == old[0] and torch.allclose(found[8:], old[8:] / 2, rtol=1e-12)
    share = (64 * 10_000 ** (-8 / 56) / (2 * math.pi) - 1) / 3
    assert share == pytest.approx(0.5777, abs=2e-4)
    assert float(found[4]) == pytest.approx(float(old[4]) * ((1 - share) / 2 + share), rel=1e-12)


@pytest.mark.parametrize("method", list(scaling.METHODS))
@pytest.mark.parametrize("grid", [(64, 64), (32, 128), (10, 20), (128, 32)], ids=str)
def test_up_to_the_base_size_the_table_is_the_plain_one(method, grid):
    """By area: a long picture of the trained area is no large one."""
    ids = ids_of(grid)
    for options in ({}, {"dype": (2.0, 2.0)}, {"temperature": True}):
        assert torch.equal(embedder(method=method, **options)(ids, torch.tensor([0.8]), grid), plain(ids))


@pytest.mark.parametrize("method", list(scaling.METHODS))
def test_a_scale_of_1_is_the_plain_table(method):
    found, old = frequencies(method, 56, 1.0), embeddings.rotary_frequencies(56, THETA, CPU)
    assert torch.allclose(found, old, rtol=1e-14, atol=0)


@pytest.mark.parametrize("method", list(scaling.METHODS))
def test_text_and_the_axis_of_references_stay_and_rows_and_columns_change(method):
    ids = ids_of((96, 128))
    ids[0, -1, 0] = 3  # as a reference
    found, old = embedder(method=method)(ids, None, (96, 128)), plain(ids)
    assert found.shape == old.shape and found.dtype == torch.float32
    assert torch.equal(found[:, :, :6], old[:, :, :6])  # text, and the picture's first token at (0, 0)
    assert torch.equal(found[..., :8, :, :], old[..., :8, :, :])
    assert not torch.equal(found[:, :, -1, 8:36], old[:, :, -1, 8:36])
    assert not torch.equal(found[:, :, -1, 36:], old[:, :, -1, 36:])


def test_the_table_has_the_angles_of_its_frequencies():
    grid = (96, 128)
    scale = math.sqrt(96 * 128) / 64
    ids = ids_of(grid)
    found = embedder(method="ntk")(ids, None, grid)[0, 0, -1]
    angle = torch.cat([ids[0, -1, axis].double() * frequencies("ntk", 56, scale) for axis in (1, 2)])
    expected = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).unflatten(-1, (2, 2)).float()
    assert torch.equal(found[8:], expected)


def test_dype_starts_above_the_scale_and_ends_at_plain_rope():
    """kappa = 2 t^2: s^2 at t = 1, s^0.5 at t = 0.5, 1 at t = 0."""
    found = scaling.scale_at(3.0, torch.tensor([1.0, 0.5, 0.0]), (2.0, 2.0))
    assert torch.allclose(found, torch.tensor([9.0, 3**0.5, 1.0], dtype=torch.float64), rtol=1e-12)
    ids, grid = ids_of((128, 128)), (128, 128)
    for method in scaling.METHODS:
        dynamic = embedder(method=method, dype=(2.0, 2.0))
        assert torch.allclose(dynamic(ids, torch.tensor([0.0]), grid), plain(ids), atol=1e-6)
        half = dynamic(ids, torch.tensor([0.5]), grid)  # 2^(2 / 4)
        fixed = scaling.ScaledPositionEmbedder(AXES, THETA, scaling.RopeScaling(method=method, dype=(0.5, 0.0)))
        assert torch.allclose(half, fixed(ids, torch.tensor([0.9]), grid), atol=1e-6)


def test_each_row_of_a_batch_has_the_scale_of_its_own_time():
    ids, grid = ids_of((96, 96)), (96, 96)
    dynamic = embedder(method="yarn", dype=(2.0, 2.0), temperature=True)
    both = dynamic(ids, torch.tensor([0.9, 0.3]), grid)
    assert both.shape[0] == 2
    for row, time in zip(both, (0.9, 0.3)):
        assert torch.equal(row[None], dynamic(ids, torch.tensor([time]), grid))


def test_yarns_temperature_is_a_factor_on_every_token():
    """0.1 ln 2 + 1 on queries and keys each."""
    ids, grid = ids_of((128, 128)), (128, 128)
    warm, cold = (embedder(method="yarn", temperature=t)(ids, None, grid) for t in (True, False))
    assert torch.allclose(warm, cold * (0.1 * math.log(2) + 1), rtol=1e-6)


def test_a_network_with_it_in_place_follows_size_and_time():
    cfg = support.config()
    net = support.build(cfg)
    net.load_state_dict(support.random_weights(cfg))
    small, large = support.inputs(cfg), support.inputs(cfg, batch=2, height=24, width=32)
    before = [net(**small), net(**large)]
    made = scaling.RopeScaling(base_tokens=9.0)
    net.pe_embedder = scaling.ScaledPositionEmbedder(cfg.axes_dim, cfg.theta, made)
    assert torch.equal(net(**small), before[0])  # 8 x 10 tokens
    after = net(**large)
    assert support.relative(after, before[1]) > 1e-3
    rows = [net(**{k: t[i : i + 1] for k, t in large.items()}) for i in range(2)]
    assert support.relative(after, torch.cat(rows)) < 2e-6
    at_zero = {**large, "timesteps": torch.zeros(2)}
    plain_at_zero = support.build(cfg)
    plain_at_zero.load_state_dict(support.random_weights(cfg))
    assert support.relative(net(**at_zero), plain_at_zero(**at_zero)) < 2e-6


def test_what_is_no_scaling_is_named():
    for options, message in (
        ({"method": "longrope"}, "method is 'longrope'; it must be one of yarn, ntk, linear"),
        ({"base_tokens": 0}, "base_tokens is 0, expected a number above 0"),
        ({"turns": (4.0, 4.0)}, "alpha is 4 and beta is 4; alpha must be the smaller one"),
    ):
        with pytest.raises(ValueError, match=message):
            scaling.RopeScaling(**options)


def test_a_compiled_network_is_not_compiled_anew_for_each_time():
    cfg = support.config(double=1, single=1)
    net = support.build(cfg)
    net.load_state_dict(support.random_weights(cfg))
    net.pe_embedder = scaling.ScaledPositionEmbedder(cfg.axes_dim, cfg.theta, scaling.RopeScaling(base_tokens=4.0))
    data, counted = support.inputs(cfg), []

    def backend(graph, example):
        counted.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(net, backend=backend)
    for time in (0.9, 0.5, 0.1):
        given = {**data, "timesteps": torch.tensor([time])}
        assert support.relative(compiled(**given), net(**given)) < 2e-6
        counts = len(counted)
        if time == 0.9:
            first = counts
    assert first > 0 and counts == first
    torch._dynamo.reset()
