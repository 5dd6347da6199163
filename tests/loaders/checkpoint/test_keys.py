import pytest
import support

keys = support.dev.load_pack("loaders.checkpoint.keys")


@pytest.mark.parametrize(
    "name, block",
    [
        ("double_blocks.3.img_attn.qkv.weight", ("double", 3)),
        ("single_blocks.27.linear1.weight", ("single", 27)),
        ("double_blocks.img_attn.qkv.weight", None),
        ("img_in.weight", None),
        ("distilled_guidance_layer.layers.1.in_layer.weight", None),
    ],
)
def test_block_of_a_name_is_its_kind_and_number(name, block):
    assert keys.block_of(name) == block


@pytest.mark.parametrize(
    "name, own",
    [
        ("distilled_guidance_layer.0.in_proj.weight", "distilled_guidance_layer.in_proj.weight"),
        ("distilled_guidance_layer.0.norms.3.scale", "distilled_guidance_layer.norms.3.weight"),
        ("distilled_guidance_layer.norms.0.scale", "distilled_guidance_layer.norms.0.weight"),
        ("double_blocks.0.img_attn.norm.query_norm.scale", "double_blocks.0.img_attn.norm.query_norm.weight"),
        ("nerf_blocks.1.norm.scale", "nerf_blocks.1.norm.weight"),
        ("nerf_final_layer.norm.scale", "nerf_final_layer.norm.weight"),
        ("double_blocks.0.img_mlp.0.scale", "double_blocks.0.img_mlp.0.scale"),
        ("img_in.weight", "img_in.weight"),
    ],
)
def test_model_name_unwraps_the_approximator_and_renames_norms(name, own):
    assert keys.model_name(name) == own
