"""Chroma Padding as a node, on conditioning of every kind, in this process."""

import copy

import pytest
import support
import torch
from host_models import sample

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def node(comfy):
    return support.dev.load_pack("nodes.padding")


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a == b


def conditioning():
    masked = torch.randn(1, 10, 64)
    zeroed = torch.randn(1, 12, 64)
    zeroed[:, 5:] = 0
    mask = (torch.arange(10)[None] < 4).long()
    return [
        [masked, {"attention_mask": mask, "pooled_output": torch.ones(1, 8), "guidance": 3.5}],
        [zeroed, {"start_percent": 0.5}],
        [torch.randn(1, 7, 64), {}],
    ]


def test_every_entry_is_trimmed_and_nothing_given_is_changed(node):
    given = conditioning()
    before = copy.deepcopy(given)
    out, lines = node.trim_conditioning(given, 1)
    assert equal(given, before)
    assert [c[0].shape[1] for c in out] == [5, 6, 7]
    assert [c[1]["guidance"] for c in out] == [0.0, 0.0, 0.0]
    assert torch.equal(out[0][0], given[0][0][:, :5])
    assert torch.equal(out[0][1]["pooled_output"], torch.ones(1, 8))
    assert out[1][1]["start_percent"] == 0.5
    assert "attention_mask" not in out[0][1]
    assert lines == ["10 tokens -> 5", "12 tokens -> 6", "7 tokens, none marked as padding: unchanged"]


@pytest.mark.parametrize("pads, lengths", [(0, [4, 5, 7]), (3, [7, 8, 7]), (100, [10, 12, 7])])
def test_number_of_pads_is_the_inputs(node, pads, lengths):
    assert [c[0].shape[1] for c in node.trim_conditioning(conditioning(), pads)[0]] == lengths


def test_treating_twice_changes_no_more(node):
    once, _ = node.trim_conditioning(conditioning()[:2], 1)
    twice, lines = node.trim_conditioning(once, 1)
    assert equal([c[0] for c in twice[:1]], [c[0] for c in once[:1]])
    assert lines[0] == "5 tokens, none marked as padding: unchanged"


def test_mask_of_a_style_model_is_left_alone(node):
    mask = torch.rand(1, 10, 30)
    options = {"attention_mask": mask, "attention_mask_img_shape": (2, 2)}
    out, lines = node.trim_conditioning([[torch.randn(1, 10, 64), options]], 1)
    assert out[0][0].shape[1] == 10
    assert out[0][1]["attention_mask"] is mask
    assert lines == ["10 tokens: unchanged. Connect this node before the style model"]


def test_prompts_of_two_lengths_in_one_batch_each_see_their_own_tokens(comfy, inference, node, tmp_path):
    cfg = support.config()
    path = support.write(tmp_path / "m.safetensors", support.published(support.random_weights(cfg)))
    model = support.dev.load_pack("loaders.comfy_model").load_chroma(str(path))
    tokens = torch.randn(2, 12, 64)
    mask = (torch.arange(12) < torch.tensor([[3], [8]])).long()
    both, lines = node.trim_conditioning([[tokens, {"attention_mask": mask}]], 1)
    assert lines == ["12 tokens -> 9 (prompts of 4 to 9 tokens in one batch)"]
    noise = torch.zeros(2, 16, 16, 20)
    negative = [[tokens[:1, :2], {}]]
    together = sample(comfy, model, cfg, positive=both, negative=negative, latent=noise, scale=1.0)
    for row, count in enumerate((4, 9)):
        alone = [[tokens[row : row + 1, :count].expand(2, -1, -1), {}]]
        single = sample(comfy, model, cfg, positive=alone, negative=negative, latent=noise, scale=1.0)
        assert support.relative(together[row], single[row]) < 1e-5  # four steps of 2e-6


def test_mask_of_another_length_is_an_error_with_a_remedy(node):
    with pytest.raises(ValueError, match="attention mask .* encode the prompt again"):
        node.trim_conditioning([[torch.randn(1, 10, 64), {"attention_mask": torch.ones(1, 9)}]], 1)
