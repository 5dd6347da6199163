import pytest
import support
import torch

model = support.model
padding = support.dev.load_pack("chroma_model.padding")


@pytest.fixture(scope="module")
def net():
    built = support.build(support.config())
    built.load_state_dict(support.random_weights(built.config))
    return built


@pytest.fixture(scope="module")
def deep():
    """Real depth at narrow width."""
    built = support.build(support.config(**support.FULL_DEPTH))
    built.load_state_dict(support.random_weights(built.config))
    return built


def masked(data, valid):
    mask = torch.zeros(data["context"].shape[:2], dtype=torch.long)
    for row, count in enumerate(valid):
        mask[row, : count + 1] = 1  # and one pad
    return mask


def test_truncating_text_equals_masking_it(deep):
    data = support.inputs(deep.config)
    mask = masked(data, [9])
    full = deep(**data, context_mask=mask)
    short = deep(data["x"], data["timesteps"], data["context"][:, :10])
    assert support.relative(short, full) < 2e-6  # fp32, 57 blocks, another order of sums


def test_trimmed_conditioning_equals_masking_every_pad_but_one(deep):
    data = support.inputs(deep.config)
    valid = torch.arange(24)[None] < 9
    tokens, keep = padding.trim_padding(data["context"], valid)
    assert tokens.shape[1] == 10 and bool(keep.all())
    full = deep(**data, context_mask=masked(data, [9]))
    assert support.relative(deep(data["x"], data["timesteps"], tokens), full) < 2e-6


def test_masked_text_is_never_seen(net):
    data = support.inputs(net.config)
    mask = masked(data, [9])
    other = data["context"].clone()
    other[:, 10:] = 100.0
    changed = net(data["x"], data["timesteps"], other, context_mask=mask)
    assert torch.equal(net(**data, context_mask=mask), changed)


def test_rows_of_one_batch_keep_their_own_length(net):
    data = support.inputs(net.config, batch=2)
    together = net(**data, context_mask=masked(data, [4, 20]))
    for row, count in enumerate((4, 20)):
        alone = net(data["x"][row : row + 1], data["timesteps"][:1], data["context"][row : row + 1, : count + 1])
        assert support.relative(together[row : row + 1], alone) < 2e-6


def test_unmasked_pads_change_the_result(net):
    data = support.inputs(net.config)
    assert support.relative(net(**data), net(**data, context_mask=masked(data, [9]))) > 1e-2


@pytest.mark.parametrize("height, width", [(15, 20), (16, 19), (7, 5)])
def test_odd_size_gives_back_its_own_size(net, height, width):
    data = support.inputs(net.config, height=height, width=width)
    assert net(**data).shape == data["x"].shape


def test_modulations_given_equal_modulations_made(net):
    data = support.inputs(net.config, batch=2)
    one = net.modulations(torch.tensor([0.7]), torch.zeros(1))
    assert torch.equal(net(**data, modulations=one), net(**data))


def test_guidance_none_means_zero(net):
    data = support.inputs(net.config)
    assert torch.equal(net(**data), net(**data, guidance=torch.zeros(1)))
    assert not torch.equal(net(**data), net(**data, guidance=torch.full((1,), 3.5)))


def test_forward_leaves_its_inputs_unchanged(net):
    data = support.inputs(net.config)
    before = {k: v.clone() for k, v in data.items()}
    net(**data)
    assert all(torch.equal(data[k], before[k]) for k in data)


def test_forward_keeps_no_tensor_on_the_module(net):
    def attributes():
        return {(n, k) for n, m in net.named_modules() for k, v in vars(m).items() if isinstance(v, torch.Tensor)}

    before = attributes()
    net(**support.inputs(net.config))
    assert attributes() == before


def test_run_block_sees_every_stage_in_order(net):
    seen = []
    transformer = support.dev.load_pack("chroma_model.transformer")

    def record(kind, index, block, **streams):
        seen.append((kind, index))
        return transformer.run_block(kind, index, block, **streams)

    data = support.inputs(net.config)
    assert torch.equal(net(**data, run_block=record), net(**data))
    assert seen == [("input", 0), ("double", 0), ("double", 1), *(("single", i) for i in range(4))]


def test_head_size_and_depth_are_free():
    for options in (
        {"width": 128, "heads": 2},
        {"width": 80, "heads": 4},
        {"double": 0},
        {"approximator": (32, 24, 2)},
    ):
        cfg = support.config(**options)
        net = support.build(cfg)
        net.load_state_dict(support.random_weights(cfg))
        data = support.inputs(cfg)
        assert torch.isfinite(net(**data)).all()


def test_every_norm_has_the_trainers_eps(net):
    norms = {name: module.eps for name, module in net.named_modules() if hasattr(module, "eps")}
    assert len(norms) > 10 and set(norms.values()) == {1e-6}
