"""Closed forms of the reference training code: embedding, rotary matrix, position ids."""

import math

import numpy as np
import pytest
import support
import torch

embeddings = support.dev.load_pack("chroma_model.embeddings")


def test_timestep_embedding_is_cosines_then_sines_of_1000_t():
    t = np.array([0.0, 0.25, 0.7, 1.0])
    freqs = np.exp(-math.log(10_000) * np.arange(8) / 8)
    angles = 1000 * t[:, None] * freqs
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    found = embeddings.timestep_embedding(torch.from_numpy(t).float(), 16)
    # The largest angle is 1000 rad, where neighbouring float32 numbers are 6e-5 apart.
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)


def test_timestep_embedding_of_bfloat16_input_is_float32():
    t = torch.tensor([0.5], dtype=torch.bfloat16)
    found = embeddings.timestep_embedding(t, 16)
    assert found.dtype == torch.float32
    assert torch.equal(found, embeddings.timestep_embedding(torch.tensor([0.5]), 16))


def test_index_embedding_keeps_the_float32_formula():
    """Angles reach 343,000 rad; float64 gives another answer there, and the model was trained on float32's."""
    index = torch.arange(344, dtype=torch.float32)
    freqs = torch.exp(-math.log(10_000) * torch.arange(16, dtype=torch.float32) / 16)
    angles = (1000.0 * index)[:, None] * freqs
    expected = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
    assert torch.equal(embeddings.timestep_embedding(index, 32), expected)


def test_position_ids_are_zero_for_text_and_row_column_for_image():
    ids = embeddings.position_ids(3, 2, 4)
    assert ids.dtype == torch.float32
    assert torch.equal(ids[:3], torch.zeros(3, 3))
    expected = [[0, r, c] for r in range(2) for c in range(4)]
    assert ids[3:].tolist() == expected


def test_position_ids_of_300_by_300_are_exact_and_distinct():
    """In bfloat16, integers above 256 collide; the ids must not depend on the model's dtype."""
    ids = embeddings.position_ids(0, 300, 300)
    assert torch.equal(ids[:, 1] * 300 + ids[:, 2], torch.arange(90_000, dtype=torch.float32))


def test_bfloat16_model_gets_exact_ids_at_300_by_300(monkeypatch):
    cfg = support.config(width=40, heads=2, double=0, single=1, context=8, approximator=(8, 8, 1), channels=4)
    seen = {}
    original = embeddings.rotary_matrices
    monkeypatch.setattr(embeddings, "rotary_matrices", lambda ids, *a: seen.update(ids=ids) or original(ids, *a))
    net = support.build(cfg, dtype=torch.bfloat16)
    modulations = torch.zeros(1, cfg.num_modulations, 40)
    monkeypatch.setattr(
        net.single_blocks[0], "forward", lambda x, **_: x
    )  # attention over 90,000 tokens is not the point
    net(
        torch.zeros(1, 1, 600, 600, dtype=torch.bfloat16),
        torch.ones(1),
        torch.zeros(1, 2, 8, dtype=torch.bfloat16),
        modulations=modulations,
    )
    assert seen["ids"].dtype == torch.float32
    assert seen["ids"][2:, 1:].unique(dim=0).shape[0] == 90_000


def test_position_embedder_gives_each_batch_its_own_rotations():
    ids = torch.tensor([[[0.0, 3.0, 5.0], [0.0, 1.0, 2.0]], [[0.0, 0.0, 7.0], [0.0, 4.0, 4.0]]])
    pe = embeddings.PositionEmbedder((16, 24, 24), 10_000)(ids)
    assert pe.shape == (2, 1, 2, 32, 2, 2)
    for row, found in zip(ids, pe):
        assert torch.equal(found[None], embeddings.rotary_matrices(row, (16, 24, 24), 10_000))


def test_position_embedder_can_be_replaced_by_one_of_another_precision():
    """As DyPE does: it makes a new one from theta and axes_dim of the old."""
    cfg = support.config()
    net, data = support.build(cfg), support.inputs(cfg)
    call = (data["x"], data["timesteps"], data["context"])
    old, plain = net.pe_embedder, net(*call)

    class Nearer(torch.nn.Module):
        def forward(self, ids):
            return embeddings.PositionEmbedder(old.axes_dim, old.theta)(0.5 * ids).bfloat16()

    assert (tuple(old.axes_dim), old.theta) == (tuple(cfg.axes_dim), cfg.theta)
    net.pe_embedder = Nearer()
    ids = embeddings.position_ids(data["context"].shape[1], 8, 10)
    seen = net(*call)
    net.pe_embedder = old
    assert support.relative(seen, net(*call, ids=0.5 * ids)) < 1e-2  # bfloat16's angles
    assert support.relative(seen, plain) > 1e-2


def test_rotary_matrix_is_a_rotation_by_position_over_theta():
    ids = torch.tensor([[0.0, 3.0, 5.0]])
    pe = embeddings.rotary_matrices(ids, (16, 24, 24), 10_000)
    assert pe.shape == (1, 1, 1, 32, 2, 2)
    exponents = [np.arange(d // 2) * 2 / d for d in (16, 24, 24)]
    angles = np.concatenate([p / 10_000**e for p, e in zip((0, 3, 5), exponents)])
    expected = np.stack([np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)], -1).reshape(32, 2, 2)
    np.testing.assert_allclose(pe[0, 0, 0].numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("is_scaled", [False, True])
def test_a_device_without_float64_never_sees_it(is_scaled):
    ids, axes = embeddings.position_ids(2, 3, 4)[None], (16, 24, 24)
    embedder, more = embeddings.PositionEmbedder(axes, 10_000), {}
    if is_scaled:
        module = support.dev.load_pack("chroma_model.rope_scaling")
        embedder = module.ScaledPositionEmbedder(axes, 10_000, module.RopeScaling("yarn", 4))
        more = {"timesteps": torch.tensor([0.5]), "grid": (3, 4)}
    elsewhere = {k: v.as_subclass(support.WithoutFloat64) if torch.is_tensor(v) else v for k, v in more.items()}
    found = embedder(ids.as_subclass(support.WithoutFloat64), **elsewhere)
    assert torch.equal(found, embedder(ids, **more))


def test_rotated_dot_product_depends_on_the_difference_of_positions():
    q, k = torch.randn(2, 1, 1, 1, 64)

    def score(a: int, b: int) -> float:
        pe = embeddings.rotary_matrices(torch.tensor([[0.0, a, 0], [0, b, 0]]), (16, 24, 24), 10_000)
        rotated_q = embeddings.apply_rope(q, pe[:, :, :1])
        rotated_k = embeddings.apply_rope(k, pe[:, :, 1:])
        return (rotated_q * rotated_k).sum().item()

    assert score(2, 7) == pytest.approx(score(102, 107), abs=1e-4)  # fp32 sums of 64 terms of size 1
    assert abs(score(2, 7) - score(2, 9)) > 1e-2


def test_rotation_in_bfloat16_is_computed_in_float32():
    x = torch.randn(1, 2, 5, 64).bfloat16()
    pe = embeddings.rotary_matrices(embeddings.position_ids(0, 1, 5), (16, 24, 24), 10_000)
    assert torch.equal(embeddings.apply_rope(x, pe), embeddings.apply_rope(x.float(), pe).bfloat16())
