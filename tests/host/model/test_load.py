"""What the host and other nodes do to a MODEL, tried on ours in this process."""

import json
import os

import formats
import pytest
import support
import torch
from host_models import lora_on, sample

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    cfg = support.config()
    weights = support.random_weights(cfg)
    return cfg, weights, support.write(tmp_path_factory.mktemp("m") / "tiny.safetensors", support.published(weights))


@pytest.fixture
def load(comfy, inference, case):
    return lambda mode="auto": support.dev.load_pack("host.model.load").load_chroma(str(case[2]), mode)


@pytest.fixture
def model(load):
    return load()


def with_lora(comfy, model, sd, strength=1.0):
    return comfy.sd.load_lora_for_models(model, None, sd, strength, 0.0)[0]


QKV = "double_blocks.0.img_attn.qkv"
APPROXIMATOR = "distilled_guidance_layer.out_proj"


# --- kind and memory -------------------------------------------------------------------------------------------------


def test_model_is_of_the_hosts_own_kind(comfy, model):
    import comfy.model_base
    import comfy.supported_models

    assert isinstance(model.model, comfy.model_base.Chroma)
    assert isinstance(model.model, comfy.model_base.Flux)
    assert isinstance(model.model.model_config, comfy.supported_models.Chroma)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs Linux's list of mappings")
def test_weights_are_mapped_not_copied(model, case):
    mapped = []
    for line in open("/proc/self/maps"):
        if line.rstrip().endswith(str(case[2])):
            mapped.append([int(x, 16) for x in line.split()[0].split("-")])
    for name, weight in model.model.diffusion_model.named_parameters():
        assert any(start <= weight.data_ptr() < end for start, end in mapped), name


def test_factory_of_the_patcher_gives_an_equal_model(comfy, model, case):
    factory, arguments = model.cached_patcher_init
    again = factory(*arguments, disable_dynamic=True)
    assert torch.equal(sample(comfy, again, case[0]), sample(comfy, model, case[0]))


def test_deep_copy_shares_nothing_with_the_first(comfy, model, case):
    copy = model.clone(force_deepcopy=True)
    assert copy.model is not model.model
    assert torch.equal(sample(comfy, copy, case[0]), sample(comfy, model, case[0]))


@pytest.mark.parametrize("lora", [False, True])
def test_offloaded_weights_give_the_same_result(comfy, model, case, lora):
    """What --novram and --lowvram do: every layer's weights are brought in, and patched, at use."""
    if lora:
        model = with_lora(comfy, model, lora_on(case[1], QKV, APPROXIMATOR))
    expected = sample(comfy, model, case[0])
    model.detach()
    model.load(torch.device("cpu"), lowvram_model_memory=1, force_patch_weights=False)
    assert model.model.model_lowvram
    net = model.model.diffusion_model
    data = support.inputs(case[0])
    streamed = net(data["x"], data["timesteps"], data["context"], torch.zeros(1))
    model.detach()
    comfy.model_management.unload_all_models()
    comfy.model_management.load_models_gpu([model])
    resident = net(data["x"], data["timesteps"], data["context"], torch.zeros(1))
    assert support.relative(streamed, resident) < 1e-6
    assert torch.equal(sample(comfy, model, case[0]), expected)


# --- precision -------------------------------------------------------------------------------------------------------

OUTPUT_ERROR = {  # least and most relative L2 of one forward of this random model, from each type's weight error
    "auto": (0, 0),
    "fp32": (0, 0),
    "bf16": (1e-4, 1.5e-2),
    "fp16": (1e-5, 2e-3),
    "fp8_scaled": (1e-2, 1.5e-1),
    "int8_convrot": (3e-3, 8e-2),
    "float8_e4m3fn (8 bit)": (1e-2, 1.5e-1),
    "float8_e5m2 (also 8 bit)": (3e-2, 3e-1),
}


@pytest.mark.parametrize("mode", OUTPUT_ERROR)
def test_each_precision_has_the_error_of_its_bits(comfy, load, case, mode):
    reference, model = load("fp32"), load(mode)
    data = support.inputs(case[0])
    call = (data["x"], data["timesteps"], data["context"], torch.zeros(1))
    error = support.relative(model.model.diffusion_model(*call), reference.model.diffusion_model(*call))
    least, most = OUTPUT_ERROR[mode]
    print(f"{mode}: {error:.2e}")
    assert least <= error <= most


def weight_error(comfy, load, mode, name=QKV):
    exact = load("fp32").model.diffusion_model.get_parameter(name + ".weight")
    kept = load(mode).model.diffusion_model.get_parameter(name + ".weight")
    return support.relative(kept.dequantize() if hasattr(kept, "dequantize") else kept, exact)


def test_weight_error_of_fp8_is_that_of_three_mantissa_bits(comfy, load):
    assert weight_error(comfy, load, "fp8_scaled") == pytest.approx(0.0265, rel=0.03)  # scaled e4m3, Gaussian weights


def test_weight_error_of_int8_is_that_of_255_steps_a_row(comfy, load, case):
    weight = case[1][QKV + ".weight"]
    step = weight.abs().amax(dim=1) / 127  # rotating Gaussian rows leaves their statistics as they are
    expected = (step / 12**0.5).square().mean().sqrt() / weight.std()
    assert weight_error(comfy, load, "int8_convrot") == pytest.approx(expected.item(), rel=0.05)


@pytest.mark.parametrize("mode", ["fp8_scaled", "int8_convrot"])
def test_8_bit_modes_change_the_linears_of_the_blocks_only(load, case, mode):
    exact, kept = (dict(load(m).model.diffusion_model.named_parameters()) for m in ("fp32", mode))
    packed = {n for n, p in kept.items() if hasattr(p, "dequantize") and type(p.data).__name__ == "QuantizedTensor"}
    assert packed == {n for n, p in exact.items() if p.ndim == 2 and n.startswith(("double_blocks.", "single_blocks."))}
    assert all(torch.equal(kept[n].float(), exact[n]) for n in exact.keys() - packed)


@pytest.mark.parametrize("mode", ["fp8_scaled", "int8_convrot"])
def test_lora_on_quantised_weights_acts_and_is_taken_back(comfy, load, case, mode):
    model = load(mode)
    before = sample(comfy, model, case[0])
    patched = with_lora(comfy, model, lora_on(case[1], QKV))
    plain = with_lora(comfy, load("fp32"), lora_on(case[1], QKV))
    after = sample(comfy, patched, case[0])
    effect = support.relative(sample(comfy, plain, case[0]), sample(comfy, load("fp32"), case[0]))
    assert support.relative(after, before) == pytest.approx(effect, rel=0.5)
    assert torch.equal(sample(comfy, model, case[0]), before)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_run_is_deterministic_and_batch_rows_are_their_own(comfy, model, case):
    cfg = case[0]
    one = sample(comfy, model, cfg)
    assert torch.equal(one, sample(comfy, model, cfg))
    two = sample(comfy, model, cfg, batch=2)
    assert two.shape[0] == 2
    assert support.relative(two[1:], two[:1]) > 0.1


def test_image_to_image_starts_from_the_latent(comfy, model, case):
    latent = torch.full((1, 16, 16, 20), 2.0)
    low = sample(comfy, model, case[0], latent=latent, denoise=0.2)
    high = sample(comfy, model, case[0], latent=latent, denoise=0.9)
    assert support.relative(low, latent) < support.relative(high, latent)


def test_inpaint_mask_keeps_what_is_outside(comfy, model, case):
    latent = torch.randn(1, 16, 16, 20)
    mask = torch.zeros(1, 1, 16, 20)
    mask[..., 10:] = 1
    out = sample(comfy, model, case[0], latent=latent, noise_mask=mask)
    assert support.relative(out[..., :8], latent[..., :8]) < 1e-5
    assert support.relative(out[..., 12:], latent[..., 12:]) > 0.1


@pytest.mark.parametrize("size", [(15, 19), (1, 1), (2, 33)])
def test_odd_sizes_run(comfy, model, case, size):
    assert sample(comfy, model, case[0], size=size).shape == (1, 16, *size)


def test_conditioning_without_guidance_or_with_none_runs_as_zero(comfy, model, case):
    text = torch.randn(1, 5, 64)
    runs = [
        sample(comfy, model, case[0], positive=[[text, options]], negative=[[text[:, :3], options]])
        for options in ({}, {"guidance": None}, {"guidance": 0.0})
    ]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_cond_and_uncond_of_one_length_share_a_forward(comfy, model, case):
    rows = []
    patched = model.clone()

    def wrapper(apply, a):
        rows.append(len(a["input"]))
        return apply(a["input"], a["timestep"], **a["c"])

    patched.set_model_unet_function_wrapper(wrapper)
    sample(comfy, patched, case[0], steps=1, tokens=(7, 7))
    sample(comfy, patched, case[0], steps=1, tokens=(170, 5))  # too much padding
    assert rows == [2, 1, 1]


def test_text_of_another_width_is_an_error_with_a_remedy(comfy, model, case):
    with pytest.raises(ValueError, match="width 48, this model takes 64. Load the T5 encoder that belongs to it"):
        sample(comfy, model, case[0], positive=[[torch.randn(1, 5, 48), {}]], negative=[[torch.randn(1, 5, 48), {}]])


def test_latent_of_another_kind_is_an_error_with_a_remedy(comfy, model, case):
    data = support.inputs(case[0])
    with pytest.raises(ValueError, match="the latent has 4 channels, this model takes 16. Use EmptySD3LatentImage"):
        model.model.diffusion_model(data["x"][:, :4], data["timesteps"], data["context"], torch.zeros(1))


def test_video_latent_is_an_error_with_a_remedy(comfy, model, case):
    data = support.inputs(case[0])
    with pytest.raises(
        ValueError, match=r"shape \(1, 16, 1, .*takes four dimensions.*Use EmptySD3LatentImage"
    ) as error:
        model.model.diffusion_model(data["x"][:, :, None], data["timesteps"], data["context"], torch.zeros(1))
    assert "\n" not in str(error.value)


# --- patches ---------------------------------------------------------------------------------------------------------


def test_patch_on_one_clone_never_shows_in_another(comfy, model, case):
    before = sample(comfy, model, case[0])
    clone = model.clone()
    clone.set_model_patch_replace(lambda a, e: {"img": a["img"], "txt": a["txt"]}, "dit", "double_block", 0)
    lora = with_lora(comfy, model, lora_on(case[1], QKV, APPROXIMATOR))
    assert support.relative(sample(comfy, clone, case[0]), before) > 1e-3
    assert support.relative(sample(comfy, lora, case[0]), before) > 1e-3
    assert torch.equal(sample(comfy, model, case[0]), before)


@pytest.mark.parametrize("kind", ["double_block", "single_block"])
def test_block_replacement_sees_the_hosts_arguments(comfy, model, case, kind):
    seen = {}

    def replacement(args, extra):
        seen.update(args, transformer_options=dict(args["transformer_options"]))  # the dict itself goes on to the next
        return extra["original_block"](args)

    clone = model.clone()
    clone.set_model_patch_replace(replacement, "dit", kind, 1)
    assert torch.equal(sample(comfy, clone, case[0], steps=1), sample(comfy, model, case[0], steps=1))
    assert {"img", "vec", "pe", "attn_mask", "transformer_options"} <= seen.keys()
    assert ("txt" in seen) == (kind == "double_block")
    options = seen["transformer_options"]
    assert options["block_type"] == kind.split("_")[0]
    assert options["total_blocks"] == {"double_block": 2, "single_block": 4}[kind]
    shift = seen["vec"][0][0].shift if kind == "double_block" else seen["vec"].shift
    assert shift.shape == (1, 1, 128)


def test_attention_patches_and_override_are_called_once_a_block(comfy, model, case):
    calls = {"in": [], "out": [], "override": 0}
    clone = model.clone()

    def before(q, k, v, pe=None, attn_mask=None, extra_options=None):
        calls["in"].append((extra_options["block_type"], extra_options["block_index"], extra_options["img_slice"]))
        return {"q": q, "k": k, "v": v}

    def after(out, extra_options):
        calls["out"].append(extra_options["block_index"])
        return out

    def override(func, *args, **kwargs):
        calls["override"] += 1
        return func(*args, **kwargs)

    clone.set_model_attn1_patch(before)
    clone.set_model_attn1_output_patch(after)
    clone.model_options["transformer_options"]["optimized_attention_override"] = override
    positive = [[torch.randn(1, 6, 64), {}]]
    out = sample(comfy, clone, case[0], steps=1, scale=1.0, positive=positive, negative=positive)
    assert torch.equal(out, sample(comfy, model, case[0], steps=1, scale=1.0, positive=positive, negative=positive))
    blocks = [("double", i) for i in range(2)] + [("single", i) for i in range(4)]
    assert calls["in"] == [(*b, [6, 6 + 80]) for b in blocks]
    assert calls["out"] == [i for _, i in blocks]
    assert calls["override"] == 6


def test_attention_output_patch_changes_the_picture(comfy, model, case):
    clone = model.clone()
    clone.set_model_attn1_output_patch(lambda out, extra_options: out * 0.5)
    assert support.relative(sample(comfy, clone, case[0]), sample(comfy, model, case[0])) > 1e-3


def test_post_input_patch_and_rope_options_are_honoured(comfy, model, case):
    before = sample(comfy, model, case[0])
    shifted, scaled = model.clone(), model.clone()
    shifted.set_model_post_input_patch(lambda a: {**a, "img": a["img"] * 0.5})
    scaled.set_model_rope_options(2.0, 0.0, 2.0, 0.0, 1.0, 0.0)
    for changed in (shifted, scaled):
        assert support.relative(sample(comfy, changed, case[0]), before) > 1e-3


def test_tokens_that_a_patch_puts_beside_the_text_are_seen_by_each_prompt(comfy, model, case):
    """As the host's USO style does, for one row. Without ids their place does not matter, but where columns are counted."""
    new = torch.randn(1, 3, case[0].hidden_size, generator=torch.Generator().manual_seed(6))

    def with_tokens(given, in_front):
        def patch(a):
            ids = torch.zeros(1, 3, 3)
            pairs = {"txt": (new, a["txt"]), "txt_ids": (ids, a["txt_ids"])}
            return {**a, **{name: torch.cat(two if in_front else two[::-1], dim=1) for name, two in pairs.items()}}

        clone = given.clone()
        clone.set_model_post_input_patch(patch)
        return clone

    for tokens in ((7, 7), (11, 7)):
        front, behind = (sample(comfy, with_tokens(model, place), case[0], tokens=tokens) for place in (True, False))
        assert support.relative(front, behind) < 1e-5
        assert support.relative(front, sample(comfy, model, case[0], tokens=tokens)) > 1e-3
    nag = support.dev.load_pack("host.run.nag")
    options = {"scale": 4.0, "tau": 2.5, "alpha": 0.5, "percent": (0.0, 1.0), "blocks": None}
    negative = nag.negative_text([[torch.randn(1, 5, case[0].context_dim), {}]])
    guided = nag.AttentionGuided(negative, **options).on(model)
    assert torch.isfinite(sample(comfy, with_tokens(guided, False), case[0])).all()
    with pytest.raises(ValueError, match="puts tokens in front of the text .USO style., which Chroma NAG and prompts"):
        sample(comfy, with_tokens(guided, True), case[0])


def test_patches_that_compare_prompts_have_both_in_a_forward_beside_another_packs_input_patch(comfy, model, case):
    """As the host's NAGuidance does, which is silent where it sees one."""
    seen, clone = set(), model.clone()
    clone.set_model_post_input_patch(lambda a: a)
    sample(comfy, clone, case[0], tokens=(7, 7))
    clone.set_model_attn1_output_patch(lambda out, extra_options: seen.add(len(extra_options["cond_or_uncond"])) or out)
    sample(comfy, clone, case[0], tokens=(7, 7))
    assert seen == {2}


def test_diffusion_model_wrapper_finds_options_last(comfy, model, case):
    seen = []

    def wrapper(executor, *args, **kwargs):
        seen.append(type(args[-1]))
        return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", wrapper)
    assert torch.equal(sample(comfy, clone, case[0], steps=2), sample(comfy, model, case[0], steps=2))
    assert seen and set(seen) == {dict}


def test_easycache_skips_forwards(comfy, model, case):
    from comfy_extras.nodes_easycache import EasyCacheNode

    count = []
    cached = EasyCacheNode.execute(model, 10.0, 0.15, 0.95, False).args[0]
    net = model.model.diffusion_model
    handle = net.final_layer.register_forward_hook(lambda *_: count.append(1))
    sample(comfy, cached, case[0], steps=10)
    handle.remove()
    assert 4 <= len(count) < 20


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_easycache_spoils_its_input_in_float32_alone(comfy, model, case, name, dtype):
    """A fault of the host, which the Doctor tells of: once this fails, it is mended, and the rule can go."""
    from comfy_extras import nodes_easycache

    compute = support.dev.load_pack("host.sample.compute_dtype")

    def painted(wrapper):
        clone = compute.model_in(dtype, model)
        clone.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, wrapper)
        return sample(
            comfy,
            getattr(nodes_easycache, f"{name}Node").execute(clone, 10.0, 0.15, 0.95, False).args[0],
            case[0],
            steps=10,
        )

    as_it_is = painted(lambda executor, x, *args, **kwargs: executor(x, *args, **kwargs))
    copied = painted(lambda executor, x, *args, **kwargs: executor(x.clone(), *args, **kwargs))
    spoiled = support.relative(as_it_is, copied)
    assert spoiled > 0.1 if (name, dtype) == ("EasyCache", torch.float32) else spoiled == 0


def control(cfg, length, **options):
    generator = torch.Generator().manual_seed(2)

    def residuals(count):
        return [torch.randn(1, length, cfg.hidden_size, generator=generator) for _ in range(count)]

    return {"input": residuals(2), "output": residuals(3), **options}


@pytest.mark.parametrize("length", [80, 33])
def test_control_residuals_go_to_the_first_image_rows(model, case, length):
    data = support.inputs(case[0])
    net = model.model.diffusion_model
    call = (data["x"], data["timesteps"], data["context"], torch.zeros(1))
    residuals = control(case[0], length)
    given = [r.clone() for r in residuals["input"]]
    out = net(*call, residuals, {})
    assert support.relative(out, net(*call)) > 1e-2
    assert all(torch.equal(a, b) for a, b in zip(given, residuals["input"]))
    padded = {k: [torch.nn.functional.pad(r, (0, 0, 0, 80 - length)) for r in v] for k, v in residuals.items()}
    assert support.relative(out, net(*call, padded, {})) < 1e-6


@pytest.mark.parametrize("partial", [{"input": []}, {"output": None}, {"input": [None, None]}, {}], ids=str)
def test_control_with_lists_missing_runs(model, case, partial):
    data = support.inputs(case[0])
    call = (data["x"], data["timesteps"], data["context"], torch.zeros(1))
    net = model.model.diffusion_model
    assert torch.equal(net(*call, partial, {}), net(*call))


def test_bool_text_mask_reaches_the_hosts_attention(model, case):
    """The CPU's default kernel adds its mask; a boolean one must not arrive as 0 and 1."""
    data = support.inputs(case[0])
    net = model.model.diffusion_model
    transformer = support.dev.load_pack("chroma_model").ChromaTransformer
    mask = torch.arange(24)[None] < 10
    masked = transformer.forward(
        net, data["x"], data["timesteps"], data["context"], context_mask=mask, run_block=quiet_blocks()
    )
    short = net(data["x"], data["timesteps"], data["context"][:, :10], torch.zeros(1))
    assert support.relative(masked, short) < 2e-6


def quiet_blocks():
    return support.dev.load_pack("host.run.forward").HostBlocks({}, None, {"double": 2, "single": 4}, None)


# --- LoRA layouts ----------------------------------------------------------------------------------------------------

LAYOUTS = {
    "BFL": (
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight",
        "diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight",
    ),
    "kohya": (
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
        "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_lora_of_each_layout_has_the_same_effect(comfy, model, case, layout):
    sd = lora_on(case[1], QKV)
    named = dict(zip(LAYOUTS[layout], sd.values()))
    expected = sample(comfy, with_lora(comfy, model, sd), case[0])
    assert torch.equal(sample(comfy, with_lora(comfy, model, named), case[0]), expected)
    assert support.relative(expected, sample(comfy, model, case[0])) > 1e-3


@pytest.mark.parametrize("prefix", ["transformer.", "lora_transformer_"])
def test_split_lora_of_diffusers_fills_its_third_of_the_fused_weight(comfy, model, case, prefix):
    a, b = torch.randn(4, 128), torch.randn(128, 4)
    name = prefix + "transformer_blocks.0.attn.to_k"
    if prefix.endswith("_"):
        name = prefix + "transformer_blocks_0_attn_to_k"
        sd = {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
    else:
        sd = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    patched = with_lora(comfy, model, sd)
    comfy.model_management.load_models_gpu([patched])
    found = patched.model.diffusion_model.get_parameter(QKV + ".weight").clone()
    expected = case[1][QKV + ".weight"].clone()
    expected[128:256] += b @ a
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)  # fp32, rank 4
    patched.detach()


# --- merging and saving ----------------------------------------------------------------------------------------------


def other_model(load_file, tmp_path):
    return load_file(
        str(
            support.write(
                tmp_path / "other.safetensors", support.published(support.random_weights(support.config(), seed=8))
            )
        )
    )


def test_merge_is_the_mean_of_both(comfy, model, case, tmp_path):
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    other = other_model(support.dev.load_pack("host.model.load").load_chroma, tmp_path)
    (merged,) = ModelMergeSimple().merge(model, other, 0.25)
    comfy.model_management.load_models_gpu([merged])
    second = support.random_weights(support.config(), seed=8)
    for name in (QKV, APPROXIMATOR, "final_layer.linear"):
        found = merged.model.diffusion_model.get_parameter(name + ".weight")
        expected = 0.25 * case[1][name + ".weight"] + 0.75 * second[name + ".weight"]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)  # fp32, one sum
    merged.detach()


def test_saved_model_loads_again_and_is_the_same(comfy, model, case, tmp_path):
    path = tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(path), model)
    again = support.dev.load_pack("host.model.load").load_chroma(str(path))
    assert torch.equal(sample(comfy, again, case[0]), sample(comfy, model, case[0]))


def test_saved_lora_is_in_the_weights(comfy, model, case, tmp_path):
    patched = with_lora(comfy, model, lora_on(case[1], QKV, APPROXIMATOR))
    path = tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(path), patched)
    again = support.dev.load_pack("host.model.load").load_chroma(str(path))
    assert support.relative(sample(comfy, again, case[0]), sample(comfy, patched, case[0])) < 1e-5  # fp32, four steps


@pytest.mark.parametrize("mode, fmt", [("int8_convrot", "int8_tensorwise"), ("fp8_scaled", "float8_e4m3fn")])
def test_8_bit_model_is_saved_in_the_hosts_layout_and_loads_again(comfy, load, case, tmp_path, mode, fmt):
    import comfy.utils

    path = tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(path), load(mode))
    saved = comfy.utils.load_torch_file(str(path))
    marker = json.loads(saved[f"model.diffusion_model.{QKV}.comfy_quant"].numpy().tobytes())
    assert marker["format"] == fmt
    assert saved[f"model.diffusion_model.{QKV}.weight"].element_size() == 1
    load_chroma = support.dev.load_pack("host.model.load").load_chroma
    assert torch.equal(sample(comfy, load_chroma(str(path)), case[0]), sample(comfy, load(mode), case[0]))
    unpacked = load_chroma(str(path), "fp32").model.diffusion_model.get_parameter(f"{QKV}.weight")
    kept = load_chroma(str(path)).model.diffusion_model.get_parameter(f"{QKV}.weight")
    assert support.relative(unpacked, kept.dequantize()) < 1e-6  # fp32


# --- modulations -----------------------------------------------------------------------------------------------------


@pytest.fixture
def approximator_calls(monkeypatch):
    calls = []
    transformer = support.dev.load_pack("chroma_model.transformer").ChromaTransformer
    original = transformer.modulations

    def counted(self, timesteps, guidance):
        calls.append(timesteps.tolist())
        return original(self, timesteps, guidance)

    monkeypatch.setattr(transformer, "modulations", counted)
    return calls


def test_approximator_runs_once_for_each_timestep(comfy, model, case, approximator_calls):
    sample(comfy, model, case[0], steps=4, batch=3)
    assert [len(c) for c in approximator_calls] == [1, 1, 1, 1]  # cond, uncond and three rows share each
    sample(comfy, model.clone(), case[0], steps=4, seed=77)
    assert len(approximator_calls) == 4  # the next run, on a clone, computes nothing
    sample(comfy, model, case[0], steps=5)
    assert len(approximator_calls) > 4


def test_lora_on_the_approximator_acts_at_once_and_leaves_no_trace(comfy, model, case, approximator_calls):
    before = sample(comfy, model, case[0])
    patched = with_lora(comfy, model, lora_on(case[1], APPROXIMATOR))
    changed = sample(comfy, patched, case[0])
    assert support.relative(changed, before) > 1e-2
    assert len(approximator_calls) == 8
    assert torch.equal(sample(comfy, model, case[0]), before)
    assert torch.equal(sample(comfy, patched, case[0]), changed)
    assert len(approximator_calls) == 8  # both sets of weights are still known
    stronger = with_lora(comfy, patched, lora_on(case[1], APPROXIMATOR))
    assert support.relative(sample(comfy, stronger, case[0]), changed) > 1e-2


def test_modulations_of_a_foreign_run_end_with_it(comfy, model, case):
    patched = comfy.sd.load_bypass_lora_for_models(model, None, lora_on(case[1], APPROXIMATOR), 1.0, 0.0)[0]
    store = patched.wrappers["outer_sample"]["chroma"][0].__self__
    sample(comfy, patched, case[0])
    assert len(store) == 0


def test_bypass_lora_on_the_approximator_is_not_mistaken_for_none(comfy, model, case):
    before = sample(comfy, model, case[0])
    sd = lora_on(case[1], APPROXIMATOR)
    patched = comfy.sd.load_bypass_lora_for_models(model, None, sd, 1.0, 0.0)[0]
    merged = with_lora(comfy, model, sd)
    assert support.relative(sample(comfy, patched, case[0]), sample(comfy, merged, case[0])) < 1e-4
    assert torch.equal(sample(comfy, model, case[0]), before)


def test_hook_lora_on_one_conditioning_changes_that_one_only(comfy, model, case):
    import comfy.hooks

    sd = lora_on(case[1], APPROXIMATOR)
    group = comfy.hooks.create_hook_lora(lora=sd, strength_model=1.0, strength_clip=0.0)
    text = torch.randn(1, 5, 64)
    hooked = [[text, {"hooks": group}]]
    plain = [[text, {}]]
    model = model.clone()
    merged = with_lora(comfy, model, sd)
    run = dict(steps=2, scale=1.0, negative=plain)
    with_hook = sample(comfy, model, case[0], positive=hooked, **run)
    # The merged run keeps the model's own weights for nothing; at scale 1 both see the patched model alone.
    assert support.relative(with_hook, sample(comfy, merged, case[0], positive=plain, **run)) < 1e-4
    assert support.relative(with_hook, sample(comfy, model, case[0], positive=plain, **run)) > 1e-3
    guided = sample(comfy, model, case[0], positive=hooked, steps=2, scale=3.0, negative=plain)
    assert torch.isfinite(guided).all()


def test_stored_modulations_are_bounded_and_dropped_with_the_model(comfy, model, case, monkeypatch):
    modulations = support.dev.load_pack("host.run.kept_modulations")
    row = case[0].num_modulations * case[0].hidden_size * 4
    monkeypatch.setattr(modulations, "MAX_BYTES", 3 * row)
    wrapper = model.wrappers["outer_sample"]["chroma"][0]
    sample(comfy, model, case[0], steps=8)
    assert len(wrapper.__self__) == 3
    model.detach()
    assert len(wrapper.__self__) == 0


def test_modulations_equal_those_made_without_the_store(comfy, model, case):
    bare = model.clone()
    bare.wrappers = {}
    bare.model_options["transformer_options"].pop("wrappers", None)
    assert torch.equal(sample(comfy, model, case[0]), sample(comfy, bare, case[0]))


def test_nan_weights_are_named_when_a_run_ends_in_nan(comfy, inference, case, tmp_path, caplog):
    weights = support.published(case[1])
    weights["single_blocks.1.linear1.weight"][300, 5] = float("nan")
    path = support.write(tmp_path / "nan.safetensors", weights)
    load = support.dev.load_pack("host.model.load").load_chroma
    sample(comfy, load(str(path)), case[0], steps=1)
    assert "nan.safetensors: the run ended in NaN" in caplog.text
    assert "single_blocks.1.linear1.weight. Download the file again" in caplog.text


@pytest.mark.parametrize("mode", ["fp8_scaled", "int8_convrot"])
def test_search_for_nan_copes_with_every_storage(comfy, inference, case, tmp_path, caplog, mode):
    weights = support.published(case[1])
    weights["single_blocks.1.linear1.bias"][300] = float("nan")
    path = support.write(tmp_path / "nan.safetensors", weights)
    sample(comfy, support.dev.load_pack("host.model.load").load_chroma(str(path), mode), case[0], steps=1)
    assert "the run ended in NaN" in caplog.text and "single_blocks.1.linear1.bias" in caplog.text


def test_missing_text_is_an_error_with_a_remedy(model, case):
    data = support.inputs(case[0])
    with pytest.raises(ValueError, match="no text conditioning. Connect a prompt"):
        model.model.diffusion_model(data["x"], data["timesteps"], None, torch.zeros(1))


def test_training_keeps_no_modulations(model, monkeypatch):
    """The host trains through its sampler and changes weights in place; nothing of that may be remembered."""
    modulations = support.dev.load_pack("host.run.kept_modulations")
    store = modulations.ModulationStore()
    run = modulations.RunModulations(store, model)
    t = torch.full((1,), 0.5)
    monkeypatch.setattr(torch, "is_grad_enabled", lambda: True)
    run.get(model.model, t, t, torch.float32)
    assert len(store) == 0
    monkeypatch.undo()
    run.get(model.model, t, t, torch.float32)
    assert len(store) == 1


def test_nan_in_small_tensors_is_told_at_load(comfy, inference, case, tmp_path, caplog):
    weights = support.published(case[1])
    weights["img_in.bias"][3] = float("nan")
    support.dev.load_pack("host.model.load").load_chroma(str(support.write(tmp_path / "nan.safetensors", weights)))
    assert "nan.safetensors: 1 tensors hold NaN" in caplog.text and "img_in.bias" in caplog.text


# --- padded layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mxfp8", "nvfp4"])
def test_layer_filled_up_to_whole_blocks_is_unpacked(comfy, inference, tmp_path, name):
    """Radiance's embedder of 67 inputs, as convert_to_quant writes it. The host would save it as a larger layer."""
    cfg = support.config(**{**support.RADIANCE, "double": 1, "single": 1})
    weights = support.published(support.random_weights(cfg))
    stem = "nerf_image_embedder.embedder.0"
    weight = weights.pop(f"{stem}.weight")
    stored = formats.SAFETENSORS[name].write(weight)
    assert stored["weight"].shape[0] > len(weight)
    stored["comfy_quant"] = formats.marker(format=name, orig_shape=list(weight.shape))
    packed = {f"{stem}.{role}": tensor for role, tensor in stored.items()}
    path = support.write(tmp_path / "m.safetensors", weights | packed)
    model = support.dev.load_pack("host.model.load").load_chroma(str(path), "keep")
    found = model.model.diffusion_model.get_parameter(f"{stem}.weight")
    assert (found.dtype, found.shape) == (torch.float32, weight.shape)
    assert 0.3 < support.relative(found, weight) / formats.SAFETENSORS[name].error(67) < 3


# --- the host's options for the type of weights ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Chroma", "Radiance"])
def test_float64_is_computed_in_where_the_host_is_started_so(comfy, inference, monkeypatch, caplog, tmp_path, kind):
    """As exact as float32, and no plain cast that would harm."""
    from comfy.cli_args import args

    cfg = support.config(**({**support.RADIANCE, "double": 1, "single": 1} if kind == "Radiance" else {}))
    path = support.write(tmp_path / "m.safetensors", support.published(support.random_weights(cfg)))
    load_chroma = support.dev.load_pack("host.model.load").load_chroma
    latent = torch.zeros(1, cfg.channels, 32, 48)
    single = sample(comfy, load_chroma(str(path), "fp32"), cfg, latent=latent)
    monkeypatch.setattr(args, "fp64_unet", True)
    model = load_chroma(str(path))
    assert model.model.get_dtype_inference() == torch.float64
    assert support.relative(sample(comfy, model, cfg, latent=latent), single) < 2e-5
    written = tmp_path / "out.safetensors"
    support.dev.load_pack("host.model.save").export_model(model, written, "bf16")
    weights = support.dev.load_pack("loaders.checkpoint.write_quantised").FileWeights(written)
    assert torch.equal(
        weights.dense(QKV + ".weight"), model.model.diffusion_model.get_parameter(QKV + ".weight").bfloat16()
    )
    for mode in ("q8_0", "int8_convrot", "fp8_scaled"):
        assert support.relative(sample(comfy, load_chroma(str(path), mode), cfg, latent=latent), single) < 0.2
    assert "harms" not in caplog.text


def test_plain_cast_to_fp8_is_not_followed_and_told(comfy, load, monkeypatch, caplog):
    from comfy.cli_args import args

    monkeypatch.setattr(args, "fp8_e4m3fn_unet", True)
    assert load().model.get_dtype_inference() in (torch.float32, torch.bfloat16, torch.float16)
    assert "ComfyUI's option for torch.float8_e4m3fn weights is ignored: a plain cast harms Chroma" in caplog.text
