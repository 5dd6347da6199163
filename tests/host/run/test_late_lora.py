"""A LoRA that begins within a run: before, the model as it is; from then on, the model with the LoRA in its weights."""

import pytest
import support
import torch
from host_models import sample

pytestmark = pytest.mark.host
load_pack = support.dev.load_pack
STEPS, RANK, ALPHA, STRENGTH = 8, 4, 3.0, 0.7
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32, eight steps, products of rank 4


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    cfg = support.config(double=2, single=3)
    folder = tmp_path_factory.mktemp("m")
    weights = support.random_weights(cfg)
    return cfg, support.write(folder / "tiny.safetensors", support.published(weights)), folder


@pytest.fixture
def model(comfy, inference, case):
    return load_pack("host.model.load").load_chroma(str(case[1]))


def lora_of(cfg, layers):
    """Matrices for layers of the model; a third of img_attn's q, k and v each, as diffusers names them."""
    generator = torch.Generator().manual_seed(5)
    width = cfg.hidden_size

    def pair(name, outputs, inputs):
        return {
            f"{name}.lora_A.weight": 0.2 * torch.randn(RANK, inputs, generator=generator),
            f"{name}.lora_B.weight": 0.2 * torch.randn(outputs, RANK, generator=generator),
            f"{name}.alpha": torch.tensor(ALPHA),
        }

    made = {}
    for layer, outputs, inputs in layers:
        made |= pair(layer, outputs * width, inputs * width)
    hidden = cfg.approximator.hidden_dim
    return made | pair("diffusion_model.distilled_guidance_layer.layers.0.in_layer", hidden, hidden)


LAYERS = (
    ("transformer.transformer_blocks.0.attn.to_q", 1, 1),
    ("transformer.transformer_blocks.0.attn.to_v", 1, 1),
    ("transformer.transformer_blocks.1.ff.net.0.proj", 4, 1),
    ("transformer.single_transformer_blocks.1.attn.to_k", 1, 1),
    ("transformer.single_transformer_blocks.1.proj_out", 1, 5),
)


@pytest.fixture
def file(case):
    cfg, _, folder = case
    return support.write(folder / "lora.safetensors", {k: t.contiguous() for k, t in lora_of(cfg, LAYERS).items()})


def late(model, file, first_step):
    lora, late = load_pack("host.model.lora").read_lora(model, file), load_pack("host.run.late_lora")
    return late.LateLora(late.sides_of(lora.name, lora.adapters, STRENGTH), first_step).on(model)


def in_weights(model, file):
    return load_pack("host.model.lora").apply_lora(model, file, STRENGTH)[0]


def test_from_the_first_step_it_is_the_lora_in_the_weights(comfy, inference, case, model, file):
    found = sample(comfy, late(model, file, 0), case[0], steps=STEPS)
    expected = sample(comfy, in_weights(model, file), case[0], steps=STEPS)
    plain = sample(comfy, model, case[0], steps=STEPS)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert support.relative(found, plain) > 1e-2


@pytest.mark.parametrize("quant_mode", ["fp32", "q8_0", "fp8_scaled"])
def test_two_parts_of_a_run_are_the_model_without_and_with_it(comfy, inference, case, file, quant_mode):
    """Against the host's own two samplers on two MODELs, the first of which leaves the noise in."""
    model = load_pack("host.model.load").load_chroma(str(case[1]), quant_mode)
    first = 3
    found = sample(comfy, late(model, file, first), case[0], steps=STEPS)
    half = sample(comfy, model, case[0], steps=STEPS, last_step=first)
    more = {"start_step": first, "latent": half, "noise": torch.zeros_like(half)}
    expected = sample(comfy, in_weights(model, file), case[0], steps=STEPS, **more)
    assert support.relative(found, expected) < (1e-4 if quant_mode == "fp32" else 2e-2)
    assert support.relative(found, expected) < 0.1 * support.relative(found, sample(comfy, model, case[0], steps=STEPS))


def test_nothing_stays_behind_and_the_input_is_as_it_was(comfy, inference, case, model, file):
    before = sample(comfy, model, case[0], steps=STEPS)
    clone = late(model, file, 2)
    sample(comfy, clone, case[0], steps=STEPS)
    network = model.model.diffusion_model
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(sample(comfy, model, case[0], steps=STEPS), before)


def test_hooks_go_where_a_run_fails(comfy, inference, case, model, file):
    clone = late(model, file, 2)

    def broken(executor, *args, **kwargs):
        raise RuntimeError("broken")

    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "broken", broken)
    with pytest.raises(RuntimeError, match="broken"):
        sample(comfy, clone, case[0], steps=STEPS)
    assert not any(module._forward_hooks for module in model.model.diffusion_model.modules())


def test_the_host_counts_its_matrices_as_a_model(comfy, inference, case, model, file):
    clone = late(model, file, 2)
    (sides,) = clone.get_nested_additional_models()
    assert sides.model_size() == sum(p.nbytes for p in sides.model.parameters()) > 0


def test_a_second_one_is_refused_and_not_put_in_the_firsts_place(comfy, inference, case, model, file):
    with pytest.raises(
        ValueError, match="has a LoRA that begins within a run already, and a second one cannot. Let it act"
    ):
        late(late(model, file, 2), file, 3)


def test_measured_blocks_see_it_where_a_run_would(comfy, inference, case, model, file):
    """Blocks are measured at two steps, of which the LoRA acts in the second, or in both."""
    text = [[torch.randn(1, 9, case[0].context_dim, generator=torch.Generator().manual_seed(2)), {}]]
    latent, measure = {"samples": torch.zeros(1, 16, 8, 8)}, load_pack("host.run.probe").measure_blocks

    def measured(model):
        return measure(model, text, latent, steps=2, seed=3)[0]

    at_once, plain = measured(in_weights(model, file)), measured(model)
    assert measured(late(model, file, 0)) == pytest.approx(at_once, rel=1e-3)
    assert measured(late(model, file, 2)) == pytest.approx(plain, rel=1e-5)
    second = measured(late(model, file, 1))
    assert all(second[block] != pytest.approx(plain[block], rel=1e-4) for block in list(second)[1:])


def test_other_adapters_and_compiled_models_are_refused(comfy, inference, case, model, file, tmp_path):
    lokr = {
        "lycoris_double_blocks_0_img_attn_proj.lokr_w1": torch.eye(2),
        "lycoris_double_blocks_0_img_attn_proj.lokr_w2": torch.randn(
            case[0].hidden_size // 2, case[0].hidden_size // 2
        ),
    }
    path = support.write(tmp_path / "lokr.safetensors", lokr)
    with pytest.raises(
        ValueError, match=r"lokr.safetensors has adapters that cannot begin within a run: LoKrAdapter \(1\)"
    ):
        late(model, path, 2)
    compiled = model.clone()
    compiled.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "torch.compile", lambda *_: None)
    with pytest.raises(ValueError, match="cannot begin within a run of a compiled model. Take TorchCompileModel off"):
        late(compiled, file, 2)


def test_convolutions_are_refused_before_a_run(comfy, inference, case, model, file, tmp_path):
    """Matrices of a kernel would be multiplied as if they were a linear layer's, or with pictures as if they were rows."""
    from comfy.weight_adapter import LoRAAdapter

    late, width = load_pack("host.run.late_lora"), case[0].hidden_size

    def sides(name, *kernel):
        down, up = torch.randn(RANK, width, *kernel), torch.randn(width, RANK, *(1 for _ in kernel))
        adapter = LoRAAdapter(set(), (up, down, None, None, None, None))
        return late.sides_of("conv.safetensors", {f"diffusion_model.{name}.weight": adapter}, STRENGTH)

    layer = "double_blocks.0.img_attn.proj"
    with pytest.raises(ValueError, match=r"cannot begin within a run: DoRA or LoCon \(1\)"):
        sides(layer, 3, 3)
    sample(
        comfy, late.LateLora(sides(layer, 1, 1), 1).on(model), case[0], steps=2
    )  # as some files write a linear layer's
    cfg = support.config(**support.RADIANCE)
    path = support.write(tmp_path / "radiance.safetensors", support.published(support.random_weights(cfg)))
    with pytest.raises(ValueError, match="of convolutions cannot begin within a run, as one of img_in_patch is"):
        late.LateLora(sides("img_in_patch"), 1).on(load_pack("host.model.load").load_chroma(str(path)))
