"""Chroma Text Encode against transformers' T5 and diffusers' Chroma prompt encoding, and its old modes against the host.

Narrow T5s of seeded weights, in the CLIPs that the pack's and the host's loaders make of them.
"""

import copy
import types

import host_models
import pytest
import support
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.host
dev = support.dev
t5 = dev.load_pack("loaders.t5.detect_t5")
rules = dev.load_pack("prompts.tokens")

SIZES = {"vocab_size": 32_128, "width": 64, "num_layers": 2, "num_heads": 2, "head_dim": 32, "mlp_dim": 128}
GATED, PLAIN = (t5.T5Config(**SIZES, gated=gated) for gated in (True, False))
FLOAT32 = 1e-5  # the bound; two layers in another order of sums give about 1e-6
CLIP_L = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1}
PROMPTS = {
    "empty": ("", 1),
    "short": ("the red bird", 4),
    "70 tokens": ("bird " * 69, 70),
    "511 tokens": ("bird " * 510, 511),
    "512 tokens": ("bird " * 511, 512),
    "513 tokens": ("bird " * 512, 513),
    "2000 tokens": ("the red bird " * 666 + "bird", 2000),
    "Unicode": ("Zürich: 3 свечи, 日本語 <extra_id_0> ﬁ x²", None),
    "emoji": ("a fox 🦊🔥 and 👩‍🚀 in space", None),
    "only spaces": ("   \n\t ", None),
    "end and pad in the text": ("a fox </s> and <pad> a bird", None),
    "pad first": ("<pad> a bird", None),
}
WEIGHTED = "a (red:1.3) fox, ((two)) [blue] \\(small\\) birds (far away:0.5), snow"


WEIGHTS = {config: host_models.random_t5_weights(config) for config in (GATED, PLAIN)}


@pytest.fixture(scope="module")
def clips(comfy, tmp_path_factory):
    """CLIPs by name, with T5 in float32. They share the two sets of weights."""
    import comfy.text_encoders.flux
    import comfy.text_encoders.hidream
    import comfy.text_encoders.pixart_t5
    import comfy.text_encoders.sa_t5
    import comfy.text_encoders.sd3_clip

    loader = dev.load_pack("host.text.t5_clip")
    te = comfy.text_encoders
    path = tmp_path_factory.mktemp("t5") / "t5.safetensors"
    save_file(WEIGHTS[GATED], path)

    def host(model, tokenizer, config):
        options = {
            "dtype": torch.float32,
            "t5xxl_model_config": loader.host_config(config),
            "t5base_model_config": loader.host_config(config),
            "clip_l_model_config": CLIP_L,
        }
        clip = comfy.sd.CLIP(loader.Target(model, tokenizer), state_dict=[dict(WEIGHTS[config])], model_options=options)
        for name, parameter in clip.cond_stage_model.named_parameters():
            if name.startswith("clip_l"):
                parameter.data.zero_()  # made empty by the host, and no part of this
        return clip

    with torch.inference_mode():
        return {
            "pack": loader.load_encoder(str(path), "keep"),
            "chroma": host(te.pixart_t5.pixart_te(), te.pixart_t5.PixArtTokenizer, GATED),
            "sd3": host(te.sd3_clip.sd3_clip(False, False, True), te.sd3_clip.SD3Tokenizer, GATED),
            "sd3 masked": host(
                te.sd3_clip.sd3_clip(False, False, True, t5_attention_mask=True), te.sd3_clip.SD3Tokenizer, GATED
            ),
            "flux": host(te.flux.flux_clip(), te.flux.FluxTokenizer, GATED),
            "t5base": host(te.sa_t5.SAT5Model, te.sa_t5.SAT5Tokenizer, PLAIN),
        }


CLIPS = ("pack", "chroma", "sd3", "sd3 masked", "flux", "t5base")


@pytest.fixture(scope="module")
def tokenizer(host_dir):
    transformers = pytest.importorskip("transformers")
    return transformers.T5TokenizerFast.from_pretrained(host_dir / "comfy" / "text_encoders" / "t5_tokenizer")


@pytest.fixture(scope="module")
def reference(tokenizer):
    """Prompt -> (all 512 rows, how many of them the transformer may see), by diffusers' pipeline and transformers' T5."""
    transformers = pytest.importorskip("transformers")
    diffusers = pytest.importorskip("diffusers")
    held = {}

    def pipeline(config, weights):
        net = transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=config.vocab_size,
                d_model=config.width,
                d_kv=config.head_dim,
                d_ff=config.mlp_dim,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                feed_forward_proj="gated-gelu" if config.gated else "relu",
            )
        )
        lost = net.eval().requires_grad_(False).load_state_dict(weights, strict=False)
        assert set(lost.missing_keys) <= {"encoder.embed_tokens.weight"} and not lost.unexpected_keys
        return diffusers.ChromaPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
            vae=None,
            text_encoder=net,
            tokenizer=tokenizer,
            transformer=None,
        )

    def run(prompt, config=GATED, weights=None):
        key = (config, id(weights))
        if key not in held:
            held[key] = pipeline(config, weights or WEIGHTS[config])
        rows, _, mask, *_ = held[key].encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
        return rows, int(mask.sum())

    return run


@pytest.fixture
def node(comfy, monkeypatch, inference):
    module = dev.load_pack("nodes.text")
    monkeypatch.setattr(module, "said", [], raising=False)
    monkeypatch.setattr(
        module, "report", lambda node, text: module.said.append(text() if callable(text) else text)
    )  # no server is running here
    return module


@pytest.fixture
def run(node, clips):
    """Runs the node; gives its conditioning."""

    def execute(clip, text, *args, **inputs):
        clip = clips[clip] if isinstance(clip, str) else clip
        (conditioning,) = node.ChromaTextEncode.execute(clip, text, *args, **inputs).result
        return conditioning

    execute.said = lambda: node.said[-1]
    return execute


@pytest.fixture
def host_node(comfy, inference):
    """ComfyUI's own Text Encode; padding is T5 Tokenizer Options' two numbers, if any."""
    from comfy_extras.nodes_cond import T5TokenizerOptions

    import nodes

    def execute(clip, text, *padding):
        if padding:
            (clip,) = T5TokenizerOptions.execute(clip, *padding).result
        return nodes.CLIPTextEncode().encode(clip, text)[0]

    return execute


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a == b


# --- exact -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tokenizer):
    """Prompt -> (all 512 rows, how many the transformer may see), with the mask of Chroma's trainer written out.

    T5 from its definition (arXiv:1910.10683, v1.1: pre-norm, no scale, no biases, buckets of relative positions), with the
    outer product of the token mask with itself added to the logits, as `module/t5.py` of the trainer makes it.
    """
    buckets = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention._relative_position_bucket
    smallest = torch.finfo(torch.float32).min

    def norm(x, weight):
        return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    def run(prompt, config=GATED, weights=None):
        w, shape = weights or WEIGHTS[config], (config.num_heads, config.head_dim)
        ids = tokenizer(prompt, padding="max_length", max_length=512, truncation=True, return_tensors="pt")
        mask = ids.attention_mask[0].float()
        added = ((1 - mask[:, None] * mask[None]) * smallest)[None]
        place = torch.arange(512)
        bias = w[t5.RELATIVE_BIAS][buckets(place[None] - place[:, None], num_buckets=32, max_distance=128)].permute(
            2, 0, 1
        )
        x = w[t5.EMBEDDING][ids.input_ids[0]]
        for i in range(config.num_layers):
            layer = f"encoder.block.{i}.layer"
            h = norm(x, w[f"{layer}.0.layer_norm.weight"])
            q, k, v = (
                (h @ w[f"{layer}.0.SelfAttention.{n}.weight"].T).unflatten(-1, shape).transpose(0, 1) for n in "qkv"
            )
            # at float32's least number nothing else of a pad's logits is left: they are all equal
            weights = (q @ k.transpose(1, 2) + (bias + added).clamp(min=smallest)).softmax(-1)
            x = x + (weights @ v).transpose(0, 1).flatten(1) @ w[f"{layer}.0.SelfAttention.o.weight"].T
            h, dense = norm(x, w[f"{layer}.1.layer_norm.weight"]), f"{layer}.1.DenseReluDense"
            if config.gated:
                gate = torch.nn.functional.gelu(h @ w[f"{dense}.wi_0.weight"].T, approximate="tanh")
                h = gate * (h @ w[f"{dense}.wi_1.weight"].T)
            else:
                h = (h @ w[f"{dense}.wi.weight"].T).relu()
            x = x + h @ w[f"{dense}.wo.weight"].T
        return norm(x, w["encoder.final_layer_norm.weight"])[None], min(int(mask.sum()) + 1, 512)

    return run


@pytest.mark.parametrize("name", PROMPTS)
def test_exact_equals_the_trainers_512_rows(run, trained, name):
    prompt, count = PROMPTS[name]
    ((found, options),) = run("pack", prompt)
    rows, kept = trained(prompt)
    assert found.shape == (1, kept, GATED.width)
    assert support.relative(found, rows[:, :kept]) <= FLOAT32
    assert support.relative(found[:, -1], rows[:, kept - 1]) <= FLOAT32
    assert options == {"pooled_output": None}  # a model has its own guidance
    if count is not None:
        assert f" {count:,} of 512 tokens" in run.said()
        assert kept == min(count + 1, 512)


@pytest.mark.parametrize("name", PROMPTS)
def test_as_diffusers_equals_diffusers_and_transformers(run, reference, name):
    prompt, _ = PROMPTS[name]
    ((found, options),) = run("pack", prompt, "as diffusers")
    rows, kept = reference(prompt)
    assert found.shape == (1, kept, GATED.width)
    assert support.relative(found, rows[:, :kept]) <= FLOAT32
    assert options == {"pooled_output": None}  # a model has its own guidance


@pytest.mark.parametrize("name", ["empty", "short", "70 tokens"])
def test_only_the_pad_tells_the_trainer_from_diffusers(run, name):
    ((exact, _),), ((keys, _),) = run("pack", PROMPTS[name][0]), run("pack", PROMPTS[name][0], "as diffusers")
    assert support.relative(exact[:, :-1], keys[:, :-1]) <= FLOAT32
    assert support.relative(exact[:, -1], keys[:, -1]) > 0.5


@pytest.mark.parametrize("clip", CLIPS)
def test_every_kind_of_clip_with_a_t5_gives_the_same(run, trained, reference, clip):
    config = PLAIN if clip == "t5base" else GATED
    for name in ("empty", "short", "513 tokens"):
        for mode, wanted in (("exact", trained), ("as diffusers", reference)):
            ((found, options),) = run(clip, PROMPTS[name][0], mode)
            rows, kept = wanted(PROMPTS[name][0], config)
            assert support.relative(found, rows[:, :kept]) <= FLOAT32
            assert "attention_mask" not in options


def test_transformer_given_exact_equals_512_tokens_with_a_boolean_mask(run, trained):
    net = support.build(support.config(context=GATED.width))
    net.load_state_dict(support.random_weights(support.config(context=GATED.width)))
    for name in ("empty", "short", "70 tokens", "511 tokens", "2000 tokens"):
        prompt = PROMPTS[name][0]
        ((found, _),) = run("pack", prompt)
        rows, kept = trained(prompt)
        given = support.inputs(net.config)
        ours = net(given["x"], given["timesteps"], found)
        theirs = net(given["x"], given["timesteps"], rows, context_mask=torch.arange(512)[None] < kept)
        assert support.relative(ours, theirs) <= 2e-6  # the bound: sums over 512 instead of the valid keys


@pytest.mark.parametrize("prompt, rows, length", [("", 1, 2), ("the red bird", 1, 5), ("the (red:1.2) bird", 2, 5)])
def test_t5_computes_the_prompt_and_one_pad_and_nothing_else(run, clips, prompt, rows, length):
    seen = []
    block = clips["pack"].cond_stage_model.t5xxl.transformer.encoder.block[0]
    handle = block.register_forward_pre_hook(lambda module, args, kwargs: seen.append(args[0].shape), with_kwargs=True)
    run("pack", prompt)
    handle.remove()
    assert seen == [(rows, length, GATED.width)]


def test_clip_is_not_changed_and_padding_options_do_not_matter(run, clips):
    from comfy_extras.nodes_cond import T5TokenizerOptions

    clip = clips["pack"]
    before = dict(vars(clip)), dict(vars(clip.cond_stage_model.t5xxl)), copy.copy(clip.tokenizer_options)
    expected = run(clip, "the red bird")
    padded = T5TokenizerOptions.execute(clip, 3, 40).result[0]
    assert equal(run(padded, "the red bird"), expected)
    now = dict(vars(clip)), dict(vars(clip.cond_stage_model.t5xxl)), clip.tokenizer_options
    now[1]["execution_device"] = before[1]["execution_device"]  # the host sets it in every run
    assert before[0] == now[0] and before[2] == now[2]
    assert before[1].keys() == now[1].keys() and all(before[1][k] is now[1][k] for k in before[1] if k[0] != "_")


@pytest.mark.parametrize("prompt", ["", "the red bird"])
def test_exact_with_t5_base_is_the_hosts_own_encoder_but_for_the_pad(run, clips, host_node, prompt):
    """The host has a mask there, and gives zeros for what is masked; training saw the pad's own row."""
    trim = dev.load_pack("nodes.padding").trim_conditioning
    ((expected, _),), _ = trim(host_node(clips["t5base"], prompt), 1)
    ((found, _),) = run("t5base", prompt)
    assert found.shape == expected.shape
    assert not expected[:, -1].any() and found[:, -1].norm() > 1
    assert support.relative(found[:, :-1], expected[:, :-1]) <= FLOAT32


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt", ["the (red:1) bird", "the (re:1.0)d bird", "(the red bird:1)", "the red (bird:1.00)"]
)
def test_weight_of_one_changes_nothing(run, prompt):
    assert equal(run("pack", prompt), run("pack", "the red bird"))
    assert "weights" not in run.said()


def test_weighted_tokens_lie_on_the_line_from_the_empty_prompt(run, trained):
    ((found, _),) = run("pack", "the red (bird:1.5)")
    rows, kept = trained("the red bird")
    empty, _ = trained("")
    expected = rows[:, :kept].clone()
    expected[:, 2] = empty[:, 2] + 1.5 * (rows[:, 2] - empty[:, 2])
    assert support.relative(found, expected) <= FLOAT32
    assert "weights: bird 1.5" in run.said()
    ((none, _),) = run("pack", "the red (bird:0)")
    assert support.relative(none[:, 2], empty[:, 2]) <= FLOAT32


def test_weights_leave_the_tokens_as_they_are(run, clips, trained):
    """Unlike in the host, where ', snow' after parentheses is other tokens than within a sentence."""
    ((found, _),) = run("pack", "the (red:1.000001), sn(ow:1.000001) (bird)s")
    rows, kept = trained("the red, snow birds")
    assert found.shape[1] == kept
    still = [i for i in range(kept) if i not in (1, 3, 4)]
    assert support.relative(found[:, still], rows[:, still]) <= FLOAT32
    assert support.relative(found[:, 1], rows[:, 1]) <= FLOAT32


def test_escaped_parentheses_are_parentheses(run, trained):
    ((found, _),) = run("pack", r"a \(red\) fox")
    rows, kept = trained("a (red) fox")
    assert support.relative(found, rows[:, :kept]) <= FLOAT32


def test_weights_are_told_with_their_words(run):
    run("pack", WEIGHTED)
    assert "weights: red 1.3, two 1.21, far away 0.5" in run.said()


# --- older modes -----------------------------------------------------------------------------------------------------

OLD_PROMPTS = ("", "the red bird", WEIGHTED, "bird " * 600)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("prompt", OLD_PROMPTS)
def test_legacy_is_bit_for_bit_the_hosts_with_a_minimum_padding_of_one(run, host_node, clips, clip, prompt):
    assert equal(run(clip, prompt, "legacy"), host_node(clips[clip], prompt, 1, 0))


@pytest.mark.parametrize("clip", ["pack", "chroma"])
@pytest.mark.parametrize("prompt", OLD_PROMPTS[:3])
@pytest.mark.parametrize("mode, padding", [("one pad", (1, 0)), ("no pad", (0, 0)), ("no pad", ())])
def test_old_modes_are_bit_for_bit_the_hosts_chroma_encoder(run, host_node, clips, clip, prompt, mode, padding):
    ((found, options),) = run(clip, prompt, mode)
    ((expected, theirs),) = host_node(clips[clip], prompt, *padding)
    assert torch.equal(found, expected)
    assert options == theirs


@pytest.mark.parametrize("clip", ["sd3", "sd3 masked", "flux"])
@pytest.mark.parametrize("mode, padding", [("one pad", (1, 0)), ("no pad", (0, 0))])
def test_old_modes_are_chromas_also_with_clips_of_other_types(run, host_node, clips, clip, mode, padding):
    ((found, _),) = run(clip, "the red bird", mode)
    ((expected, _),) = host_node(clips["chroma"], "the red bird", *padding)
    assert torch.equal(found, expected)


def test_modes_differ_where_they_should(run):
    exact, one, none = (run("pack", "the red bird", mode)[0][0] for mode in ("exact", "one pad", "no pad"))
    assert exact.shape == one.shape == (1, 5, GATED.width) and none.shape == (1, 4, GATED.width)
    assert support.relative(none, exact[:, :4]) <= FLOAT32  # without a pad there is nothing to mask
    assert support.relative(one, exact) > 0.1  # the pad is in every token


# --- limits ----------------------------------------------------------------------------------------------------------


def test_truncation_names_the_first_dropped_words(run):
    run("pack", "bird " * 510 + "photosynthesis of the tall green trees in an old garden far away")
    lines = run.said().splitlines()
    assert lines[0].startswith("████████████████████ 5") and lines[0].endswith(" of 512 tokens")
    assert "from “photosynthesis of the tall green trees in an” on. Shorten the prompt" in lines[2]


def test_chunks_are_encoded_alone_and_one_pad_ends_them(run, trained):
    ((found, _),) = run("pack", "bird " * 511 + "two birds", over_limit="chunk and concatenate")
    first, kept = trained("bird " * 511)
    assert kept == 512
    second, kept = trained("two birds")
    assert support.relative(found, torch.cat([first, second[:, :kept]], 1)) <= FLOAT32
    assert "in 2 chunks" in run.said()
    assert equal(run("pack", "the red bird", over_limit="chunk and concatenate"), run("pack", "the red bird"))


def test_error_stops_above_512_tokens_in_every_mode(run):
    for mode in rules.MODES:
        run("pack", "bird " * 511, mode, "error")
        with pytest.raises(ValueError, match="has 513 tokens, Chroma takes 512. Shorten it by 1"):
            run("pack", "bird " * 512, mode, "error")


def test_hint_comes_with_short_negative_prompts_only(run):
    run("pack", "blurry, ugly", used_as="negative")
    assert "hint: a negative prompt does best empty, or with 70 tokens or more" in run.said()
    for prompt, role in (("", "negative"), ("bird " * 69, "negative"), ("blurry", "positive")):
        run("pack", prompt, used_as=role)
        assert "hint" not in run.said()


def test_unknown_tokens_are_told(run):
    run("pack", "a fox 🦊🔥 and 👩")
    assert "WARNING: T5 does not know the characters of" in run.said()


# --- what the host has put on the encoder ----------------------------------------------------------------------------

CHANGED = "encoder.block.1.layer.0.SelfAttention.v.weight"


def difference():
    return 0.3 * torch.randn(WEIGHTS[GATED][CHANGED].shape, generator=torch.Generator().manual_seed(3))


def test_lora_on_the_encoder_acts(run, clips, trained):
    clip = clips["chroma"].clone()
    assert clip.add_patches({f"t5xxl.transformer.{CHANGED}": ("diff", (difference(),))}, 0.5)
    ((found, _),) = run(clip, "the red bird")
    changed = {**WEIGHTS[GATED], CHANGED: WEIGHTS[GATED][CHANGED] + 0.5 * difference()}
    rows, kept = trained("the red bird", weights=changed)
    assert support.relative(found, rows[:, :kept]) <= FLOAT32
    assert support.relative(found, trained("the red bird")[0][:, :kept]) > 1e-2
    ((plain, _),) = run("chroma", "the red bird")
    assert support.relative(plain, trained("the red bird")[0][:, :kept]) <= FLOAT32


def test_scheduled_hooks_give_an_entry_for_each_part_of_the_schedule(run, clips, trained, comfy):
    import comfy.hooks
    from comfy_extras.nodes_hooks import SetClipHooks

    group = comfy.hooks.create_hook_lora(
        {f"text_encoders.t5xxl.transformer.{CHANGED[:-7]}.diff": difference()}, 0.0, 1.0
    )
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(strength=0.0, start_percent=0.0))
    frames.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.4))
    group.set_keyframes_on_hooks(frames)
    (clip,) = SetClipHooks().apply_hooks(clips["chroma"], schedule_clip=True, apply_to_conds=True, hooks=group)
    found = run(clip, "the red bird")
    assert [(o["clip_start_percent"], o["clip_end_percent"]) for _, o in found] == [(0.0, 0.4), (0.4, 1.0)]
    assert all(o["hooks"] is group for _, o in found)
    changed = {**WEIGHTS[GATED], CHANGED: WEIGHTS[GATED][CHANGED] + difference()}
    for (tokens, _), weights in zip(found, (None, changed)):
        rows, kept = trained("the red bird", weights=weights)
        assert support.relative(tokens, rows[:, :kept]) <= FLOAT32


def test_hook_lora_of_a_quantised_encoder_is_refused_with_the_remedy(run, tmp_path, comfy):
    import comfy.hooks
    from comfy_extras.nodes_hooks import SetClipHooks

    save_file(WEIGHTS[GATED], tmp_path / "t5.safetensors")
    clip = dev.load_pack("host.text.t5_clip").load_encoder(str(tmp_path / "t5.safetensors"), "q8_0")

    def hooked(strength):
        lora = {f"text_encoders.t5xxl.transformer.{CHANGED[:-7]}.diff": difference()}
        group = comfy.hooks.create_hook_lora(lora, 1.0, strength)
        return SetClipHooks().apply_hooks(clip, schedule_clip=False, apply_to_conds=True, hooks=group)[0]

    with pytest.raises(ValueError, match="changes 1 weights of the text encoder, .*quantised.*precision bf16"):
        hooked(1.0)
    ((found, options),) = run(hooked(0.0), "the red bird")
    assert options["hooks"] and torch.equal(found, run(clip, "the red bird")[0][0])


def test_clip_layer_is_followed(run, clips, host_node):
    clip = clips["chroma"].clone()
    clip.clip_layer(-2)
    assert torch.equal(run(clip, "the red bird", "no pad")[0][0], host_node(clip, "the red bird")[0][0])
    assert not torch.equal(run(clip, "the red bird")[0][0], run("chroma", "the red bird")[0][0])


def test_embeddings_in_the_prompt_are_tokens_and_misfits_are_refused(run, clips, trained, tmp_path, host_node):
    folder = str(tmp_path)
    save_file({"t5xxl": torch.randn(2, GATED.width)}, tmp_path / "fits.safetensors")
    save_file({"t5xxl": torch.randn(1, 768)}, tmp_path / "other.safetensors")
    clip = clips["chroma"].clone()
    clip.tokenizer = copy.copy(clip.tokenizer)
    clip.tokenizer.clip_t5xxl = copy.copy(clip.tokenizer.clip_t5xxl)
    clip.tokenizer.clip_t5xxl.embedding_directory = folder
    prompt = "the red embedding:fits bird"
    assert torch.equal(run(clip, prompt, "no pad")[0][0], host_node(clip, prompt)[0][0])
    assert " 6 of 512 tokens" in run.said()
    ((found, _),) = run(clip, prompt)
    assert support.relative(found[:, :6], run(clip, prompt, "no pad")[0][0]) <= FLOAT32
    ((one, _),) = run(clip, "the red (embedding:fits:1.0) bird")
    assert torch.equal(one, found)
    with pytest.raises(ValueError, match="vectors of 768 numbers, this T5's have 64.*Remove it"):
        run(clip, "a embedding:other fox")


# --- errors ----------------------------------------------------------------------------------------------------------


def test_clip_without_t5_is_an_error_that_names_what_it_holds(run, comfy):
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer

    options = {"dtype": torch.float32, "clip_l_model_config": CLIP_L}
    target = types.SimpleNamespace(clip=SD1ClipModel, tokenizer=SD1Tokenizer, params={})
    clip = comfy.sd.CLIP(target, model_options=options)
    with pytest.raises(
        ValueError, match=r"holds clip_l .SD1ClipModel. and no T5. Chroma needs T5-XXL.*Load CLIP and the"
    ):
        run(clip, "a fox")
    with pytest.raises(ValueError, match="the CLIP is empty.*Chroma needs T5-XXL"):
        run(None, "a fox")


def test_weight_that_is_no_number_is_an_error(run):
    for weight in ("nan", "inf"):
        with pytest.raises(ValueError, match=f"a weight in the prompt is {weight}, expected a number"):
            run("pack", f"a (red:{weight}) fox")


def test_unknown_mode_is_an_error(run):
    with pytest.raises(
        ValueError, match="mode is 'precise'; it must be one of exact, as diffusers, one pad, no pad, legacy"
    ):
        run("pack", "a fox", "precise")


def test_every_input_has_a_tooltip_and_the_node_a_page(node):
    schema = node.ChromaTextEncode.define_schema()
    assert all(i.tooltip for i in schema.inputs)
    assert [i.id for i in schema.inputs] == ["clip", "text", "mode", "over_limit", "used_as"]
    assert (support.ROOT / "web" / "docs" / f"{schema.node_id}.md").is_file()
