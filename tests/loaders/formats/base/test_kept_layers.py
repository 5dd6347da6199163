"""Which tensors stay in 16 or 32 bits: each row of the table by name."""

import pytest
import support

kept_layers = support.dev.load_pack("loaders.formats.base.kept_layers")


def test_kept_parts_are_these():
    chroma = ("img_in.", "txt_in.", "final_layer.", "distilled_guidance_layer.")
    assert kept_layers.KEPT_PARTS == {
        "Chroma": chroma,
        "Chroma lite": chroma,
        "FLUX": chroma,
        "FLUX schnell": chroma,
        "Radiance": ("img_in_patch.", "txt_in.", "nerf_", "distilled_guidance_layer.", "__"),
    }
    assert kept_layers.FLOAT32_PARTS == ("nerf_image_embedder.",)


@pytest.mark.parametrize(
    "variant, name",
    [
        *((v, n) for v in ("Chroma", "Chroma lite", "FLUX") for n in ("img_in.weight", "final_layer.linear.weight")),
        *((v, "txt_in.weight") for v in ("Chroma", "Chroma lite", "FLUX", "Radiance")),
        *((v, "distilled_guidance_layer.in_proj.weight") for v in ("Chroma", "Chroma lite", "FLUX", "Radiance")),
        ("Radiance", "img_in_patch.weight"),
        ("Radiance", "nerf_image_embedder.embedder.0.weight"),
        ("Radiance", "nerf_blocks.0.param_generator.weight"),
        ("Radiance", "nerf_final_layer.linear.weight"),
        ("Radiance", "__x0__.weight"),
    ],
)
def test_matrix_outside_of_the_blocks_is_kept(variant, name):
    assert not kept_layers.is_quantised(name, 2, variant)


@pytest.mark.parametrize("variant", ["Chroma", "Chroma lite", "FLUX", "Radiance"])
def test_matrix_of_a_block_is_quantised_and_a_vector_or_kernel_is_not(variant):
    name = "double_blocks.0.img_attn.qkv.weight"
    assert kept_layers.is_quantised(name, 2, variant)
    assert not kept_layers.is_quantised(name, 1, variant) and not kept_layers.is_quantised(name, 4, variant)
    assert not kept_layers.is_quantised(name.replace("weight", "bias"), 2, variant)


def test_variant_is_chroma_unless_said():
    assert not kept_layers.is_quantised("img_in.weight", 2) and kept_layers.is_quantised("img_in_patch.weight", 2)
