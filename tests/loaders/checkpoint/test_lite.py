"""FLUX.1 lite made of FLUX.1 and a patch, by headers."""

import dataclasses

import pytest
import support
import torch

lite = support.dev.load_pack("loaders.checkpoint.lite")
read = support.dev.load_pack("loaders.files.read")


def header(names, name="flux.safetensors", value=1):
    infos = {n: read.TensorInfo(torch.float32, (value,)) for n in names}
    return read.Header(name, infos, {}, {}, 100)


def flux(count, prefix=""):
    names = [f"{prefix}double_blocks.{i}.img_attn.{n}" for i in range(count) for n in ("qkv.weight", "qkv.bias")]
    return header([f"{prefix}img_in.weight", *names, f"{prefix}single_blocks.16.linear1.weight"])


PATCH = ("img_attn.qkv.weight", "img_attn.qkv.bias", "img_mod.lin.weight")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("before", ["", "double_blocks.4."])
def test_blocks_move_up_and_the_patch_takes_its_place(prefix, before):
    found = lite.with_lite_patch(flux(19, prefix), header([before + n for n in PATCH], "lite.safetensors", 2))
    assert found.header.name == "flux.safetensors with lite.safetensors" and found.header.num_bytes == 200
    expected = flux(8, prefix)
    assert found.header.tensors.keys() == expected.tensors.keys()
    for i, source in enumerate((0, 1, 2, 3, None, 16, 17, 18)):
        name = f"{prefix}double_blocks.{i}.img_attn.qkv.bias"
        if source is None:
            assert found.theirs[name] == before + "img_attn.qkv.bias" and found.header.tensors[name].shape == (2,)
        else:
            assert found.own[name] == f"{prefix}double_blocks.{source}.img_attn.qkv.bias"
    assert found.own[f"{prefix}single_blocks.16.linear1.weight"] == f"{prefix}single_blocks.16.linear1.weight"


@pytest.mark.parametrize("which", [0, 1])
def test_markers_in_the_metadata_are_not_mixed_up(which):
    """They name layers by blocks' numbers, which change."""
    files = [flux(19), header(PATCH, "lite.safetensors")]
    files[which] = dataclasses.replace(files[which], metadata={"_quantization_metadata": '{"layers": {}}'})
    with pytest.raises(ValueError, match=f"{files[which].name}: is quantised, .*Take a file in 16 bits"):
        lite.with_lite_patch(*files)


def test_an_approximator_of_another_model_is_refused():
    lite.check_lite("f", 32)
    with pytest.raises(ValueError, match="f: its Approximator has 64 inputs, that of a lite patch has 32"):
        lite.check_lite("f", 64)


@pytest.mark.parametrize(
    "model, patch, told",
    [
        (flux(10), header(PATCH), "flux.safetensors: has 10 double blocks .* needs 19. Choose FLUX.1 as model"),
        (flux(8), header(PATCH), "flux.safetensors: is FLUX lite already, with 8 double blocks. Choose no lite patch"),
        (
            header(["transformer_blocks.0.attn.to_q.weight"]),
            header(PATCH),
            "has 0 double blocks under FLUX's own names",
        ),
        (flux(19), header(["x"], "p.safetensors"), "p.safetensors: holds no double blocks .*a lite patch holds one"),
        (flux(19), flux(19), "holds 19 double blocks"),
    ],
)
def test_what_is_no_lite_patch_or_fits_none_is_refused(model, patch, told):
    with pytest.raises(ValueError, match=told):
        lite.with_lite_patch(model, patch)
