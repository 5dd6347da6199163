"""LoRA plans: the order of a file's tensors decides nothing, and every layer of it is told of."""

import random

import pytest
import support
import torch

pytest.importorskip("hypothesis")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

plan = support.dev.load_pack("loaders.lora.plan")
with torch.device("meta"):
    MODEL = {n: tuple(p.shape) for n, p in support.build(support.config()).named_parameters()}
LINEARS = sorted(n.removesuffix(".weight") for n, shape in MODEL.items() if n.endswith(".weight") and len(shape) == 2)
SPELLINGS = (
    lambda m: m,
    lambda m: f"diffusion_model.{m}",
    lambda m: "lora_unet_" + m.replace(".", "_"),
    lambda m: f"transformer.{m}",
)
ENDINGS = (
    ("lora_down.weight", "lora_up.weight"),
    ("lora_A.weight", "lora_B.weight"),
    ("lora.down.weight", "lora.up.weight"),
)
MISFITS = ("transformer.extra", "double_blocks.7.img_mlp.0", "lora_te1_x", "double_blocks.0.img_mod.lin")


@st.composite
def loras(draw):
    """(tensors of a LoRA, modules that they change): its layers in any layout, some of which do not fit."""
    modules = draw(st.lists(st.sampled_from(LINEARS), min_size=1, max_size=6, unique=True))
    tensors, generator = {}, torch.Generator().manual_seed(draw(st.integers(0, 99)))
    for module in modules:
        layer = draw(st.sampled_from(SPELLINGS))(module)
        down, up = draw(st.sampled_from(ENDINGS))
        rank = draw(st.integers(1, 8))
        rows, columns = MODEL[module + ".weight"]
        tensors[f"{layer}.{down}"] = torch.randn(rank, columns, generator=generator)
        tensors[f"{layer}.{up}"] = torch.randn(rows, rank, generator=generator)
        if draw(st.booleans()):
            tensors[f"{layer}.alpha"] = torch.tensor(float(draw(st.integers(1, 16))))
        if draw(st.booleans()):
            tensors[f"{layer}.dora_scale"] = torch.ones(rows)
    for layer in draw(st.lists(st.sampled_from(MISFITS), max_size=2, unique=True)):
        tensors[f"{layer}.lora_down.weight"] = torch.zeros(4, 999)
        tensors[f"{layer}.lora_up.weight"] = torch.zeros(999, 4)
    return tensors, modules


def made(tensors):
    found = plan.make_plan({n: tuple(t.shape) for n, t in tensors.items()}, MODEL)
    return found, plan.prepare(tensors, found)


@given(loras(), st.randoms(use_true_random=False))
def test_the_order_of_tensors_does_not_matter(lora, shuffled: random.Random):
    tensors, modules = lora
    names = list(tensors)
    shuffled.shuffle(names)
    (first, prepared), (other, again) = made(tensors), made({n: tensors[n] for n in names})
    assert first.targets == other.targets and support.equal(prepared, again)
    assert {k: sorted(map(str, v)) for k, v in first.layers.items()} == {
        k: sorted(map(str, v)) for k, v in other.layers.items()
    }
    assert {t.parameter for t in first.targets.values()} == {f"{m}.weight" for m in modules}


@given(loras())
def test_every_layer_is_told_of_once_and_every_fitting_tensor_used(lora):
    tensors, modules = lora
    found, prepared = made(tensors)
    told = [str(layer) for layers in found.layers.values() for layer in layers]
    assert len(told) == len({plan.split_name(n)[0] for n in tensors})
    assert len(found.layers[plan.MATCHED]) == len(modules)
    used = {n for n in tensors if not n.startswith(MISFITS)}
    assert found.renamed.keys() == used and len(set(found.renamed.values())) == len(used)
    assert prepared.keys() >= set(found.renamed.values())


@given(loras(), st.randoms(use_true_random=False))
def test_two_plans_are_added_alike_in_either_order(lora, shuffled):
    """What each layer adds is of that layer alone, so a file split in two by layers adds what it adds whole."""
    tensors, _ = lora
    layers = sorted({plan.split_name(n)[0] for n in tensors})
    half = set(shuffled.sample(layers, len(layers) // 2))
    first = {n: t for n, t in tensors.items() if plan.split_name(n)[0] in half}
    second = {n: t for n, t in tensors.items() if n not in first}
    assert support.equal({**made(first)[1], **made(second)[1]}, {**made(second)[1], **made(first)[1]})
    assert support.equal({**made(first)[1], **made(second)[1]}, made(tensors)[1])


@given(
    st.dictionaries(
        st.text(st.characters(categories=("L", "N", "P")), max_size=60),
        st.lists(st.integers(0, 2**40), max_size=5).map(tuple),
        max_size=8,
    )
)
def test_any_names_and_shapes_are_told_and_nothing_fails(tensors):
    found = plan.make_plan(tensors, MODEL)
    assert found.num_layers == sum(map(len, found.layers.values())) - sum(
        len(found.layers[k]) for k in (plan.MODULATION, plan.TEXT_ENCODER)
    )
