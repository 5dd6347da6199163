"""Prompts of differing lengths in one forward: each row as if it had run alone."""

import pytest
import support
import torch
from host_models import sample

pytestmark = pytest.mark.host

LIMIT = 1e-5  # relative L2 after four steps; one forward of float32 differs by 2e-6 with the order of its sums


@pytest.fixture(scope="module", params=["Chroma", "Radiance"])
def case(request, tmp_path_factory):
    radiance = request.param == "Radiance"
    # Radiance numbers its text, so that a token in another column would be another token.
    cfg = support.config(text_ids="sequential", **support.RADIANCE) if radiance else support.config()
    name = "radiance" if radiance else "chroma"
    weights = support.published(support.random_weights(cfg))
    if radiance:
        weights["__sequential__"] = torch.empty(0)
    return cfg, support.write(tmp_path_factory.mktemp("m") / f"{name}.safetensors", weights)


@pytest.fixture
def model(comfy, inference, case):
    return support.dev.load_pack("host.model.load").load_chroma(str(case[1]), text_ids=case[0].text_ids)


def text(cfg, count, seed=0, batch=1):
    return torch.randn(batch, count, cfg.context_dim, generator=torch.Generator().manual_seed(seed))


def counted(model, forwards):
    """A clone that notes the rows of every forward."""
    clone = model.clone()

    def wrapper(apply, a):
        forwards.append(len(a["input"]))
        return apply(a["input"], a["timestep"], **a["c"])

    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def latent(cfg, batch=1, size=None):
    size = size or (16 if cfg.nerf is None else 64)
    return torch.zeros(batch, cfg.channels, size, size)


def apart(monkeypatch):
    """From here on, texts of differing lengths run in forwards of their own, as in the host."""
    monkeypatch.setattr(
        support.dev.load_pack("host.run.base_model"),
        "sharing",
        lambda *_: support.dev.load_pack("host.run.conds").Sharing(0.0),
    )


def joined(monkeypatch):
    """From here on, texts of all lengths share a forward, as on a GPU."""
    monkeypatch.setattr(
        support.dev.load_pack("host.run.base_model"),
        "sharing",
        lambda *_: support.dev.load_pack("host.run.conds").PAIRED,
    )


def one_and_many(comfy, model, cfg, monkeypatch, **given):
    """The same run with all texts in one forward and with each in its own; and the rows of a forward in both."""
    given.setdefault("latent", latent(cfg))
    joined(monkeypatch)
    together, separate = [], []
    one = sample(comfy, counted(model, together), cfg, **given)
    apart(monkeypatch)
    many = sample(comfy, counted(model, separate), cfg, **given)
    assert support.relative(one, many) < LIMIT
    return set(together), set(separate)


@pytest.mark.parametrize("lengths", [(11, 7), (5, 12), (30, 1), (9, 9)], ids=str)
def test_cond_and_uncond_of_any_length_share_a_forward(comfy, model, case, monkeypatch, lengths):
    positive, negative = ([[text(case[0], n, seed), {}]] for seed, n in enumerate(lengths))
    rows = one_and_many(comfy, model, case[0], monkeypatch, positive=positive, negative=negative)
    assert rows == ({2}, {2} if lengths[0] == lengths[1] else {1})


@pytest.mark.parametrize("mode, rows", [("fp32", {1}), ("q8_0", {2})])
def test_on_a_cpu_weights_that_are_unpacked_are_unpacked_once_for_both_prompts(comfy, inference, tmp_path, mode, rows):
    cfg = support.config()
    path = support.write(tmp_path / "chroma.safetensors", support.published(support.random_weights(cfg)))
    model = support.dev.load_pack("host.model.load").load_chroma(str(path), mode)
    forwards = []
    sample(comfy, counted(model, forwards), cfg, latent=latent(cfg, size=60), steps=1)  # 900 image tokens
    assert set(forwards) == rows


def test_rows_of_a_batch_with_a_mask_and_uncond_share_a_forward(comfy, model, case, monkeypatch):
    mask = torch.tensor([[1, 1, 1, 2, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1]])
    positive = [[text(case[0], 7, batch=2), {"attention_mask": mask}]]
    negative = [[text(case[0], 9, 1), {}]]
    given = {"positive": positive, "negative": negative, "latent": latent(case[0], 2)}
    assert one_and_many(comfy, model, case[0], monkeypatch, **given) == ({4}, {2})
    for row in range(2):
        alone = [[positive[0][0][row : row + 1, mask[row] != 0].expand(2, -1, -1), {}]]
        a, b = (sample(comfy, model, case[0], **{**given, "positive": p})[row] for p in (positive, alone))
        assert support.relative(a, b) < LIMIT


def test_entries_with_areas_and_strengths_share_forwards(comfy, model, case, monkeypatch):
    import nodes

    cfg = case[0]
    left, right = [[text(cfg, 5), {}]], [[text(cfg, 9, 1), {}]]
    half = 8 * latent(cfg).shape[-1] // 2  # the node takes eights
    left = nodes.ConditioningSetArea().append(left, half, 2 * half, 0, 0, 1.0)[0]
    right = nodes.ConditioningSetArea().append(right, half, 2 * half, half, 0, 0.5)[0]
    both = nodes.ConditioningCombine().combine(left, right)[0]
    given = {"positive": both, "negative": [[text(cfg, 3, 2), {}]], "scale": 2.0}
    together, separate = one_and_many(comfy, model, cfg, monkeypatch, **given)
    # Both halves of both prompts (the host gives uncond the same areas), and the whole picture of uncond.
    assert (together, separate) == ({1, 4}, {1, 2})


def test_lack_of_memory_splits_the_batch_with_the_same_result(comfy, model, case, monkeypatch):
    given = {"positive": [[text(case[0], 11), {}]], "negative": [[text(case[0], 9, 1), {}]], "latent": latent(case[0])}
    joined(monkeypatch)
    expected = sample(comfy, model, case[0], **given)
    forwards = []
    clone = counted(model, forwards)
    monkeypatch.setattr(type(clone), "get_free_memory", lambda *_: 0)
    assert support.relative(sample(comfy, clone, case[0], **given), expected) < LIMIT
    assert set(forwards) == {1}


# --- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lengths, num_img, share",
    [((11, 7), 80, 4 / 182), ((10, 10), 80, 0), ((300, 5), 4096, 295 / 8792), ((4, 2, 1), 12, 5 / 48)],
)
def test_share_of_padding_is_that_of_all_tokens(comfy, lengths, num_img, share):
    assert support.dev.load_pack("host.run.conds").pad_share(lengths, num_img) == pytest.approx(share, rel=1e-12)


RULE = {  # image tokens of 1024 x 1024 and 512 x 512; a sentence, a paragraph, a page
    (4096, 60, 5): True,
    (4096, 150, 5): True,
    (4096, 300, 70): True,
    (4096, 400, 5): False,
    (1024, 60, 5): True,
    (1024, 150, 70): False,
}


@pytest.mark.parametrize("num_img, a, b", RULE)
def test_lengths_share_a_forward_where_padding_costs_no_more_than_it_saves(comfy, num_img, a, b):
    conds = support.dev.load_pack("host.run.conds")
    side = 2 * int(num_img**0.5)
    one, other = (conds.TextCond(torch.zeros(1, n, 8), (side, side), 2, conds.Sharing(1 / 32)) for n in (a, b))
    assert one.can_concat(other) is RULE[num_img, a, b]
    assert one.process_cond(1, area=[4, 4, 0, 0]).can_concat(other) is False  # 4 image tokens


def test_the_rule_is_the_devices_unless_somebody_decides(comfy):
    conds = support.dev.load_pack("host.run.conds")
    rules = [conds.sharing(device, False) for device in ("cpu", "cuda", "mps")]
    assert [(r.max_pad_share, r.saves) for r in rules] == [(1.0, 96)] + [(1 / 32, float("inf"))] * 2
    rules = [
        conds.sharing(device, False, None, True) for device in ("cpu", "cuda")
    ]  # weights that are unpacked at each use
    assert [(r.max_pad_share, r.saves) for r in rules] == [(1.0, 160), (1 / 32, float("inf"))]
    for device in ("cpu", "cuda:1"):
        assert conds.sharing(device, True) == conds.sharing(device, False, "paired") == conds.PAIRED
        assert conds.sharing(device, False, "apart") == conds.APART


@pytest.mark.parametrize(
    "lengths, num_img, batch, unpacks, together",
    [  # those of one picture up to 1024 tokens are in benchmarks/results/both_prompts.md, with their times
        ((64, 2), 256, 1, False, True),
        ((120, 5), 256, 1, False, False),
        ((12, 8), 1024, 1, False, False),
        ((12, 8), 256, 3, False, False),  # pictures of a batch
        ((120, 5), 256, 1, True, True),
        ((64, 2), 576, 1, True, True),
        ((120, 5), 576, 1, True, False),
        ((12, 8), 1024, 1, True, True),
        ((64, 2), 1024, 1, True, False),
        ((8, 8), 2304, 1, True, False),
    ],
)
def test_a_cpu_joins_prompts_where_unpacking_costs_more_than_padding(comfy, lengths, num_img, batch, unpacks, together):
    conds = support.dev.load_pack("host.run.conds")
    assert conds.sharing("cpu", False, unpacks=unpacks).allows(lengths, num_img, batch) is together


@pytest.mark.parametrize("lengths, edge, batch, rows", [
    ((4, 3), 16, 1, {2}),  # 64 image tokens
    ((9, 9), 32, 1, {2}),  # 256
    ((9, 9), 32, 4, {4}),  # 1024: apart, four pictures each
    ((9, 9), 56, 1, {1}),  # 784
    ((120, 3), 16, 1, {1}),  # much padding
])  # fmt: skip
def test_a_cpu_shares_forwards_for_small_pictures_only(comfy, inference, tmp_path, lengths, edge, batch, rows):
    cfg, forwards = support.config(), []
    file = support.write(tmp_path / "m.safetensors", support.published(support.random_weights(cfg)))
    model = counted(support.dev.load_pack("host.model.load").load_chroma(str(file)), forwards)
    positive, negative = ([[text(cfg, n, seed), {}]] for seed, n in enumerate(lengths))
    sample(comfy, model, cfg, steps=1, positive=positive, negative=negative, latent=latent(cfg, batch, edge))
    assert set(forwards) == rows


def test_texts_that_do_not_fit_are_never_joined(comfy):
    conds = support.dev.load_pack("host.run.conds")
    one = conds.TextCond(torch.zeros(1, 4, 8), (64, 64), 2, conds.PAIRED)
    assert one.can_concat(conds.TextCond(torch.zeros(1, 5, 8), (64, 64), 2, conds.PAIRED))
    for shape in ((2, 5, 8), (1, 5, 9)):
        assert not one.can_concat(conds.TextCond(torch.zeros(shape), (64, 64), 2, conds.PAIRED))
    assert not one.can_concat(comfy.conds.CONDRegular(torch.zeros(1, 5, 8)))
    joined = one.concat(
        [
            conds.TextCond(torch.ones(1, 6, 8), (64, 64), 2, conds.PAIRED),
            conds.TextCond(torch.ones(1, 2, 8), (64, 64), 2, conds.PAIRED),
        ]
    )
    assert joined.shape == (3, 6, 8) and joined.sum() == 8 * 8


def test_text_with_a_control_net_joins_equal_lengths_only(model, case):
    given = {"cross_attn": text(case[0], 5), "noise": latent(case[0]), "device": "cpu"}
    assert type(model.model.extra_conds(**given)["c_crossattn"]).__name__ == "TextCond"
    assert type(model.model.extra_conds(**given, control=object())["c_crossattn"]).__name__ == "CONDRegular"


def test_mask_with_holes_is_removed_instead_of_masked(model, case):
    given = {"cross_attn": text(case[0], 5), "noise": latent(case[0]), "device": "cpu"}
    out = model.model.extra_conds(**given, attention_mask=torch.tensor([[1.0, 0, 1, 1, 0]]))
    assert torch.equal(out["c_crossattn"].cond, given["cross_attn"][:, [0, 2, 3]])
    assert out["context_lengths"].cond.tolist() == [[3]]


def test_mask_that_is_none_for_text_is_ignored(model, case):
    """Other packs put masks of their own under the same name; the host's Chroma looks at none of them."""
    given = {"cross_attn": text(case[0], 5), "noise": latent(case[0]), "device": "cpu"}
    out = model.model.extra_conds(**given, attention_mask=torch.zeros(1, 5, 5))
    assert out["context_lengths"].cond.tolist() == [[5]]


# --- what patches see ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["basic", "sub_quad", "split", "pytorch"])
def test_every_kernel_gets_each_length_unmasked_as_if_alone(comfy, model, case, monkeypatch, kernel):
    attention = getattr(comfy.ldm.modules.attention, f"attention_{kernel}")
    calls = set()

    def override(original, *args, mask=None, **kwargs):
        assert mask is None
        calls.add((tuple(args[0].shape[::2]), tuple(kwargs["transformer_options"]["cond_or_uncond"])))
        return attention(*args, **kwargs)

    clone = model.clone()
    clone.model_options["transformer_options"]["optimized_attention_override"] = override
    given = {"positive": [[text(case[0], 11), {}]], "negative": [[text(case[0], 7, 1), {}]], "steps": 1}
    one_and_many(comfy, clone, case[0], monkeypatch, **given)
    assert calls == {((1, 64 + 11), (0,)), ((1, 64 + 7), (1,))}


def test_attention_patch_that_sets_a_mask_is_obeyed(comfy, model, case, monkeypatch):
    cfg = case[0]
    joined(monkeypatch)
    given = {
        "positive": [[text(cfg, 5), {}]],
        "negative": [[text(cfg, 4, 1), {}]],
        "latent": latent(cfg),
        "steps": 1,
    }
    expected = sample(comfy, model, cfg, **given)
    masks = []

    def same(q, k, v, pe=None, attn_mask=None, extra_options=None):
        masks.append(attn_mask)
        return {"q": q, "k": k, "v": v, "pe": pe, "attn_mask": attn_mask}

    def no_text(q, k, v, pe=None, attn_mask=None, extra_options=None):
        attn_mask = torch.zeros_like(attn_mask)
        attn_mask[..., :5] = -torch.inf
        return {"attn_mask": attn_mask}

    clone = model.clone()
    clone.set_model_attn1_patch(same)
    assert support.relative(sample(comfy, clone, cfg, **given), expected) < LIMIT
    assert {tuple(m.shape) for m in masks} == {(2, 1, 1, 69)}
    clone = model.clone()
    clone.set_model_attn1_patch(no_text)
    blind = sample(comfy, clone, cfg, **given)
    given["positive"], given["negative"] = [[text(cfg, 5, 8), {}]], [[text(cfg, 4, 9), {}]]
    assert torch.equal(sample(comfy, clone, cfg, **given), blind)


def test_core_nag_works_on_prompts_of_differing_lengths(comfy, model, case):
    """It does nothing where cond and uncond run apart, which for Chroma is nearly always so in the host."""
    from comfy_extras.nodes_nag import NAGuidance

    cfg = case[0]
    given = {"latent": latent(cfg), "steps": 2, "scale": 1.0}
    prompts = [[text(cfg, 40), {}]], [[text(cfg, 3, 1), {}]]  # more padding than is joined without NAG
    plain = sample(comfy, model, cfg, positive=prompts[0], negative=prompts[1], **given)
    forwards = []
    patched = counted(NAGuidance.execute(model, 5.0, 0.5, 1.5)[0], forwards)
    guided = sample(comfy, patched, cfg, positive=prompts[0], negative=prompts[1], **given)
    assert set(forwards) == {2}
    assert support.relative(guided, plain) > 1e-3
    # Neutral settings, and cond against itself with a masked token more, are what they would be alone.
    neutral = NAGuidance.execute(model, 5.0, 0.0, 1.5)[0]
    assert (
        support.relative(sample(comfy, neutral, cfg, positive=prompts[0], negative=prompts[1], **given), plain) < LIMIT
    )
    same = torch.cat((prompts[0][0][0], torch.ones(1, 1, cfg.context_dim)), dim=1)
    negative = [[same, {"attention_mask": (torch.arange(41)[None] < 40).long()}]]
    assert support.relative(sample(comfy, patched, cfg, positive=prompts[0], negative=negative, **given), plain) < LIMIT


def test_replaced_block_passes_lengths_on(comfy, model, case, monkeypatch):
    clone = model.clone()
    clone.set_model_patch_replace(lambda a, extra: extra["original_block"](a), "dit", "double_block", 0)
    clone.set_model_patch_replace(lambda a, extra: extra["original_block"](a), "dit", "single_block", 1)
    given = {"positive": [[text(case[0], 11), {}]], "negative": [[text(case[0], 7, 1), {}]]}
    assert one_and_many(comfy, clone, case[0], monkeypatch, **given) == ({2}, {1})
