"""Style tokens behind the text, with the host's own style model and CLIP vision output at narrow width."""

import copy

import pytest
import support
import torch
from host_models import sample
from support import equal

pytestmark = pytest.mark.host

NUM = 9  # style tokens of one picture


@pytest.fixture(scope="module")
def style(comfy):
    return support.dev.load_pack("nodes.style")


@pytest.fixture
def redux(comfy, inference):
    """The host's STYLE_MODEL."""
    import comfy.ldm.flux.redux

    net = comfy.ldm.flux.redux.ReduxImageEncoder(redux_dim=24, txt_in_features=64, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return comfy.sd.StyleModel(net)


def picture(pictures=1, seed=1):
    """The host's CLIP_VISION_OUTPUT."""
    import comfy.clip_vision

    out = comfy.clip_vision.Output()
    out.last_hidden_state = torch.randn(pictures, NUM, 24, generator=torch.Generator().manual_seed(seed))
    return out


def text(count=5, seed=2, **options):
    return [torch.randn(1, count, 64, generator=torch.Generator().manual_seed(seed)), options]


def apply(style, *a):
    return style.ChromaStyleModelApply.execute(*a)[0]


@pytest.fixture(autouse=True)
def silent(comfy, monkeypatch):
    monkeypatch.setattr(support.dev.load_pack("nodes.style"), "report", lambda *_: None)


def test_tokens_are_the_hosts_for_every_entry_and_the_input_stays(style, redux):
    import nodes

    given = [text(5, guidance=0.0), text(3, 3, guidance=1.5, start_percent=0.2, pooled_output=None)]
    before = copy.deepcopy(given)
    seen = picture(2)
    hidden = seen.last_hidden_state.clone()
    out = apply(style, given, redux, seen, 0.7, 1.0)
    assert equal(given, before) and torch.equal(seen.last_hidden_state, hidden)
    expected = nodes.StyleModelApply().apply_stylemodel(given, redux, picture(2), 0.7, "multiply")[0]
    assert equal(out, expected)
    assert [c[0].shape[1] for c in out] == [5 + 2 * NUM, 3 + 2 * NUM]


@pytest.mark.parametrize(
    "part, chosen",
    [(0.5, slice(0, 4)), (-0.5, slice(5, 9)), (1.0, slice(0, 9)), (-1.0, slice(0, 9)), (0.12, slice(0, 1))],
)
def test_part_is_the_first_or_last_tokens_at_the_norm_of_all(style, redux, part, chosen):
    full = style.style_tokens(redux, picture(), 1.0, 1.0)
    tokens = style.style_tokens(redux, picture(), 2.0, part)
    expected = 2 * full[:, chosen] * (full.norm() / full[:, chosen].norm())
    assert torch.allclose(tokens, expected, rtol=1e-6, atol=0)  # float32, two products
    assert tokens.norm() == pytest.approx(2 * full.norm().item(), rel=1e-6)


@pytest.mark.parametrize("strength, part", [(0.0, 1.0), (1.0, 0.0)])
def test_no_strength_or_no_part_changes_nothing(style, redux, strength, part):
    given = [text()]
    assert apply(style, given, redux, picture(), strength, part) is given


@pytest.mark.parametrize("part", [0.05, -0.05])
def test_part_too_small_for_a_token_is_none(style, redux, part):
    """Below 0 too, where FluxMod takes all."""
    assert style.style_tokens(redux, picture(), 1.0, part).shape == (1, 0, 64)


@pytest.mark.parametrize("part", [0.05, -0.05])
def test_part_too_small_for_a_token_is_told_and_changes_nothing(style, redux, monkeypatch, part):
    told = []
    monkeypatch.setattr(style, "report", lambda _, text: told.append(text))
    given = [text()]
    assert apply(style, given, redux, picture(), 1.0, part) is given
    assert told == ["no style tokens: the part is smaller than one token. Take a larger one; 1 and -1 are all"]


def test_text_of_another_type_keeps_it(style, redux):
    tokens, options = text()
    out = apply(style, [[tokens.bfloat16(), options]], redux, picture(), 1.0, 1.0)
    assert out[0][0].dtype == torch.bfloat16


def test_style_model_of_another_width_is_an_error_with_a_remedy(style, redux):
    with pytest.raises(ValueError, match="tokens of width 64, the text has 32. Load a style model for FLUX.1"):
        apply(style, [[torch.randn(1, 5, 32), {}]], redux, picture(), 1.0, 1.0)


def test_entry_without_text_passes_through(style, redux):
    given = [[None, {}], text()]
    assert apply(style, given, redux, picture(), 1.0, 1.0)[0] == [None, {}]


# --- masks -----------------------------------------------------------------------------------------------------------


def padded_batch():
    tokens = torch.randn(2, 12, 64, generator=torch.Generator().manual_seed(4))
    return [tokens, {"attention_mask": (torch.arange(12) < torch.tensor([[3], [8]])).long()}]


def test_style_tokens_are_seen_by_prompts_of_two_lengths_in_one_batch(style, redux):
    padding = support.dev.load_pack("nodes.padding")
    trimmed, _ = padding.trim_conditioning([padded_batch()], 1)
    out = apply(style, trimmed, redux, picture(), 1.0, 1.0)
    assert (out[0][1]["attention_mask"] != 0).sum(1).tolist() == [4 + NUM, 9 + NUM]
    again, _ = padding.trim_conditioning(out, 1)
    full = style.style_tokens(redux, picture(), 1.0, 1.0)[0]
    for row, count in enumerate((4, 9)):
        expected = torch.cat((padded_batch()[0][row, :count], full))
        assert torch.equal(again[0][0][row, : count + NUM], expected)


def test_padding_is_found_before_and_after_the_style(style, redux):
    padding = support.dev.load_pack("nodes.padding")
    tokens = torch.randn(1, 10, 64)
    tokens[:, 4:] = 0
    for options in ({}, {"attention_mask": (torch.arange(10)[None] < 4).float()}):
        given = [[tokens, options]]
        before = apply(style, padding.trim_conditioning(given, 1)[0], redux, picture(), 1.0, 1.0)
        after = padding.trim_conditioning(apply(style, given, redux, picture(), 1.0, 1.0), 1)[0]
        assert torch.equal(before[0][0], after[0][0])
        assert before[0][0].shape[1] == 5 + NUM


def test_mask_over_the_image_gets_room_for_the_new_tokens(style, redux):
    """As the host's own node does to a mask that another style has left."""
    import nodes

    biased = nodes.StyleModelApply().apply_stylemodel([text()], redux, picture(), 0.5, "attn_bias")[0]
    out = apply(style, biased, redux, picture(1, 5), 1.0, 1.0)
    expected = nodes.StyleModelApply().apply_stylemodel(biased, redux, picture(1, 5), 1.0, "multiply")[0]
    assert equal(out, expected)
    boolean = [[biased[0][0], {**biased[0][1], "attention_mask": biased[0][1]["attention_mask"] == 0}]]
    mask = apply(style, boolean, redux, picture(1, 5), 1.0, 1.0)[0][1]["attention_mask"]
    assert torch.equal(mask, expected[0][1]["attention_mask"] == 0)


# --- the picture -----------------------------------------------------------------------------------------------------


def test_style_acts_and_each_prompt_of_a_batch_sees_it_as_if_alone(comfy, style, redux, tmp_path):
    cfg = support.config()
    path = support.write(tmp_path / "m.safetensors", support.published(support.random_weights(cfg)))
    model = support.dev.load_pack("host.model.load").load_chroma(str(path))
    trimmed, _ = support.dev.load_pack("nodes.padding").trim_conditioning([padded_batch()], 1)
    given = {"negative": [text(2)], "latent": torch.zeros(2, 16, 16, 20), "scale": 2.0}
    styled = apply(style, trimmed, redux, picture(), 1.0, 1.0)
    together = sample(comfy, model, cfg, positive=styled, **given)
    assert support.relative(together, sample(comfy, model, cfg, positive=trimmed, **given)) > 1e-2
    for row, count in enumerate((4, 9)):
        alone = [[padded_batch()[0][row : row + 1, :count].expand(2, -1, -1), {}]]
        single = sample(comfy, model, cfg, positive=apply(style, alone, redux, picture(), 1.0, 1.0), **given)
        assert support.relative(together[row], single[row]) < 1e-5  # four steps of 2e-6
