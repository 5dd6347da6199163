"""Chroma Padding as a node, on conditioning of every kind, in this process."""

import copy

import pytest
import support
import torch
from host_models import sample
from support import equal

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def node(comfy):
    return support.dev.load_pack("nodes.padding")


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
    assert lines == [
        "10 rows -> 5, for 4 tokens",
        "12 rows -> 6, for 5 tokens",
        "7 rows, none marked as padding: unchanged",
    ]


@pytest.mark.parametrize("pads, lengths", [(0, [4, 5, 7]), (3, [7, 8, 7]), (100, [10, 12, 7])])
def test_number_of_pads_is_the_inputs(node, pads, lengths):
    assert [c[0].shape[1] for c in node.trim_conditioning(conditioning(), pads)[0]] == lengths


def test_treating_twice_changes_no_more(node):
    batch = [torch.randn(2, 12, 64), {"attention_mask": (torch.arange(12) < torch.tensor([[3], [8]])).long()}]
    once, _ = node.trim_conditioning([*conditioning(), batch], 1)
    twice, lines = node.trim_conditioning(once, 1)
    assert equal(once, twice)
    assert lines[0] == "5 rows, none marked as padding: unchanged"
    assert lines[3] == "9 rows -> 9, for 8 tokens (prompts of 4 to 9 rows in one batch)"


def prompt(count, length=10, seed=0, **options):
    """A prompt of an encoder that pads, masks and zeroes."""
    valid = torch.arange(length) < count
    tokens = torch.randn(1, length, 64, generator=torch.Generator().manual_seed(seed)) * valid[:, None]
    return [[tokens, {"attention_mask": valid[None].long(), "pooled_output": None, **options}]]


def treated(node, given):
    """What the node gives; the input must stay as it was, and a second time must change nothing."""
    before = copy.deepcopy(given)
    out, lines = node.trim_conditioning(given, 1)
    assert equal(given, before)
    assert equal(node.trim_conditioning(out, 1)[0], out)
    return out, lines


def test_joined_prompts_lose_the_pads_in_their_middle(comfy, node):
    import nodes

    joined = nodes.ConditioningConcat().concat(prompt(4), prompt(3, 8, 1))[0]
    assert joined[0][0].shape[1] == 18
    out, lines = treated(node, joined)
    expected = torch.cat((prompt(4)[0][0][:, :5], prompt(3, 8, 1)[0][0][:, :3]), dim=1)
    assert torch.equal(out[0][0], expected)
    assert lines == ["18 rows -> 8, for 7 tokens (the mask is for 10: text beyond it counts unless it is zero)"]


# Lengths of a prompt of 4 tokens and of one of 6 that is averaged into it -> what stays. Of the last nothing tells that
# the encoder zeroes pads: both of the first prompt's are mixed with tokens of the other. So its mask counts.
AVERAGED = {(10, 10): 7, (10, 6): 7, (6, 10): 5}


@pytest.mark.parametrize("lengths", AVERAGED, ids=str)
def test_averaged_prompts_keep_the_longer_ones_tokens(comfy, node, lengths):
    import nodes

    mixed = nodes.ConditioningAverage().addWeighted(prompt(4, lengths[0]), prompt(6, lengths[1], 1), 0.25)[0]
    out, lines = treated(node, mixed)
    assert torch.equal(out[0][0], mixed[0][0][:, : AVERAGED[lengths]])
    assert lines == [f"{lengths[0]} rows -> {AVERAGED[lengths]}, for {AVERAGED[lengths] - 1} tokens"]


def test_combined_prompts_keep_area_mask_steps_strength_and_hooks(comfy, node):
    import comfy.hooks

    import nodes

    area = nodes.ConditioningSetArea().append(prompt(4), 64, 32, 0, 8, 0.5)[0]
    masked = nodes.ConditioningSetMask().append(prompt(3, 12, 1), torch.ones(16, 16), "default", 0.7)[0]
    early = nodes.ConditioningSetTimestepRange().set_range(prompt(2, 7, 2, hooks=comfy.hooks.HookGroup()), 0.0, 0.4)[0]
    both = nodes.ConditioningCombine().combine(area, masked)[0]
    both = nodes.ConditioningCombine().combine(both, early)[0]
    out, lines = node.trim_conditioning(both, 1)
    assert lines == ["10 rows -> 5, for 4 tokens", "12 rows -> 4, for 3 tokens", "7 rows -> 3, for 2 tokens"]
    for (_, options), (_, given) in zip(out, both):
        expected = {k: v for k, v in given.items() if k != "attention_mask"} | {"guidance": 0.0}
        assert options.keys() == expected.keys()
        assert all(options[k] is v for k, v in expected.items() if k != "guidance")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", [torch.int32, torch.int64, torch.bool, torch.float32, torch.float16])
def test_conditioning_of_other_nodes_keeps_its_type_and_extras(node, dtype, kind):
    tokens, options = prompt(4)[0]
    mask = options["attention_mask"].to(kind)
    for shaped in (mask, mask[0], mask[:, None, None], torch.cat((mask, 0 * mask), dim=1)):
        given = [[tokens.to(dtype), {"attention_mask": shaped, "pooled_output": None, "of_another_pack": ["x"]}]]
        out, lines = treated(node, given)
        assert out[0][0].dtype == dtype and torch.equal(out[0][0], given[0][0][:, :5])
        assert out[0][1] == {"pooled_output": None, "of_another_pack": ["x"], "guidance": 0.0}
        assert lines[0].startswith("10 rows -> 5, for 4 tokens")


def test_trimmed_tokens_with_the_mask_they_had_before_are_read_from_its_start(node):
    tokens, options = prompt(4)[0]
    out, lines = treated(node, [[tokens[:, :5], options]])
    assert torch.equal(out[0][0], tokens[:, :5])
    assert "attention_mask" not in out[0][1]
    assert lines == ["5 rows -> 5, for 4 tokens (the mask is for 10: only its start counts)"]


def test_zeroed_out_prompt_without_a_mask_is_unchanged(comfy, node):
    import nodes

    zeroed = nodes.ConditioningZeroOut().zero_out([[torch.randn(1, 9, 64), {}]])[0]
    out, lines = treated(node, zeroed)
    assert out[0][0].shape[1] == 9
    assert lines == ["9 rows, all zeroed: unchanged"]


def test_entry_without_text_passes_through(node):
    out, lines = treated(node, [[None, {"pooled_output": None}]])
    assert out == [[None, {"pooled_output": None, "guidance": 0.0}]]
    assert lines == ["an entry without text: unchanged"]


def test_text_of_another_shape_is_an_error_with_a_remedy(node):
    with pytest.raises(ValueError, match=r"shape \(10, 64\) instead of \(prompts, tokens, width\); encode"):
        node.trim_conditioning([[torch.randn(10, 64), {}]], 1)


def test_mask_of_a_style_model_is_left_alone(node):
    mask = torch.rand(1, 10, 30)
    options = {"attention_mask": mask, "attention_mask_img_shape": (2, 2)}
    out, lines = node.trim_conditioning([[torch.randn(1, 10, 64), options]], 1)
    assert out[0][0].shape[1] == 10
    assert out[0][1]["attention_mask"] is mask
    assert lines == ["10 rows: unchanged. Connect this node before the style model"]


def test_prompts_of_two_lengths_in_one_batch_each_see_their_own_tokens(comfy, inference, node, tmp_path):
    cfg = support.config()
    path = support.write(tmp_path / "m.safetensors", support.published(support.random_weights(cfg)))
    model = support.dev.load_pack("host.model.load").load_chroma(str(path))
    tokens = torch.randn(2, 12, 64)
    mask = (torch.arange(12) < torch.tensor([[3], [8]])).long()
    both, lines = node.trim_conditioning([[tokens, {"attention_mask": mask}]], 1)
    assert lines == ["12 rows -> 9, for 8 tokens (prompts of 4 to 9 rows in one batch)"]
    noise = torch.zeros(2, 16, 16, 20)
    negative = [[tokens[:1, :2], {}]]
    together = sample(comfy, model, cfg, positive=both, negative=negative, latent=noise, scale=1.0)
    for row, count in enumerate((4, 9)):
        alone = [[tokens[row : row + 1, :count].expand(2, -1, -1), {}]]
        single = sample(comfy, model, cfg, positive=alone, negative=negative, latent=noise, scale=1.0)
        assert support.relative(together[row], single[row]) < 1e-5  # four steps of 2e-6


def test_mask_of_another_batch_is_an_error_with_a_remedy(node):
    with pytest.raises(ValueError, match="attention mask .* encode the prompt again"):
        node.trim_conditioning([[torch.randn(1, 10, 64), {"attention_mask": torch.ones(3, 10)}]], 1)
