import pytest
import support
import torch

model = support.model
modulation = support.dev.load_pack("chroma_model.modulation")


def test_rows_are_in_the_trained_order_and_used_once():
    """Single blocks first, then img of the double blocks, then txt, then the final two."""
    cfg = support.config(double=2, single=3)
    rows = modulation.ModulationTable(cfg).rows
    assert rows["single", 2] == (6, 3)
    assert rows["img", 0] == (9, 6)
    assert rows["img", 1] == (15, 6)
    assert rows["txt", 0] == (21, 6)
    assert rows["final", 0] == (33, 2)
    used = sorted(i for offset, count in rows.values() for i in range(offset, offset + count))
    assert used == list(range(cfg.num_modulations))


def test_vectors_are_shift_scale_gate_and_final_is_shift_scale():
    cfg = support.config(double=1, single=1)
    numbered = torch.arange(cfg.num_modulations, dtype=torch.float32)[None, :, None].expand(1, -1, 4)
    table = modulation.ModulationTable(cfg)
    single = table.single(numbered, 0)
    assert [v[0, 0, 0].item() for v in single] == [0, 1, 2]
    assert single._fields == ("shift", "scale", "gate")
    (img1, img2), (txt1, txt2) = table.double(numbered, 0)
    assert [v[0, 0, 0].item() for v in (*img1, *img2, *txt1, *txt2)] == list(range(3, 15))
    assert [v[0, 0, 0].item() for v in table.final(numbered)] == [15, 16]


def test_final_layer_scales_then_shifts():
    cfg = support.config(width=128)
    blocks = support.dev.load_pack("chroma_model.blocks")
    layer = blocks.FinalLayer(cfg, torch.nn)
    x, shift, scale = torch.randn(1, 3, 128), torch.randn(1, 1, 128), torch.randn(1, 1, 128)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    expected = layer.linear((1 + scale) * normed + shift)
    torch.testing.assert_close(layer(x, (shift, scale)), expected, atol=1e-5, rtol=1e-5)  # fp32, one layer


def test_approximator_input_is_timestep_guidance_index():
    embeddings = support.dev.load_pack("chroma_model.embeddings")
    rows = modulation.approximator_input(torch.tensor([0.3]), torch.tensor([0.0]), 38, 64)
    assert rows.shape == (1, 38, 64)
    assert torch.equal(rows[0, 5, :16], embeddings.timestep_embedding(torch.tensor([0.3]), 16)[0])
    assert torch.equal(rows[0, 5, 16:32], embeddings.timestep_embedding(torch.tensor([0.0]), 16)[0])
    assert torch.equal(rows[0, 5, 32:], embeddings.timestep_embedding(torch.tensor([5.0]), 32)[0])


def test_lite_approximator_has_narrower_embeddings():
    rows = modulation.approximator_input(torch.tensor([0.3]), torch.tensor([0.0]), 212, 32)
    assert rows.shape == (1, 212, 32)  # 8 + 8 + 16


def test_approximator_norm_eps_is_the_trainers():
    net = support.build(support.config())
    eps = {m.eps for m in net.modules() if isinstance(m, torch.nn.RMSNorm)}
    assert eps == {1e-6}


def test_whole_schedule_in_one_call_equals_single_calls():
    net = support.build(support.config())
    net.load_state_dict(support.random_weights(net.config))
    t = torch.linspace(1, 0.1, 7)
    together = net.modulations(t, torch.zeros(7))
    apart = torch.cat([net.modulations(t[i : i + 1], torch.zeros(1)) for i in range(7)])
    assert support.relative(together, apart) < 1e-6  # fp32, another tiling of the matrix product at most


def test_empty_guidance_layer_is_an_error_that_says_so():
    net = model.ChromaTransformer(support.config())
    assert isinstance(net.distilled_guidance_layer, torch.nn.Identity)
    with pytest.raises(ValueError, match="distilled_guidance_layer is empty"):
        net.modulations(torch.ones(1), torch.zeros(1))


def test_guidance_of_another_batch_is_an_error():
    with pytest.raises(ValueError, match="differ in batch"):
        support.build(support.config()).modulations(torch.ones(2), torch.zeros(1))
