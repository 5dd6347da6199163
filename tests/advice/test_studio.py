"""The graph that Chroma Studio stands for, mode by mode."""

import pytest
import support

studio = support.dev.load_pack("advice.studio")

IMAGE, MASK = ["outside:mode.image", 0], ["outside:mode.mask", 0]
FILES = {"unet_name": "chroma.safetensors", "clip_name": "t5.safetensors", "vae_name": "ae.safetensors"}
NEEDS = {  # inputs that must be connected, by mode
    studio.TEXT: {},
    studio.PICTURE: {"image": IMAGE},
    studio.INPAINT: {"image": IMAGE, "mask": MASK},
    studio.OUTPAINT: {"image": IMAGE, "right": 64},
    studio.ENLARGE: {},
    studio.EDIT: {"image": IMAGE},
}
KINDS = {  # besides loaders and prompts
    studio.TEXT: ["EmptySD3LatentImage", "ChromaKSampler", "VAEDecode"],
    studio.PICTURE: ["ChromaKontextSize", "VAEEncode", "ChromaKSampler", "VAEDecode"],
    studio.INPAINT: [
        "ChromaInpaintCrop",
        "VAEEncode",
        "SetLatentNoiseMask",
        "DifferentialDiffusion",
        "ChromaKSampler",
        "VAEDecode",
        "ChromaInpaintStitch",
    ],
    studio.OUTPAINT: [
        "ChromaKontextSize",
        "ImagePadForOutpaint",
        "VAEEncode",
        "SetLatentNoiseMask",
        "DifferentialDiffusion",
        "ChromaKSampler",
        "VAEDecode",
        "ImageCompositeMasked",
    ],
    studio.ENLARGE: [
        "EmptySD3LatentImage",
        "ChromaKSampler",
        "VAEDecode",
        "ImageScaleBy",
        "VAEEncode",
        "ChromaKSampler",
        "VAEDecode",
    ],
    studio.EDIT: [
        "ChromaKontextSize",
        "VAEEncode",
        "ReferenceLatent",
        "FluxGuidance",
        "ReferenceLatent",
        "EmptySD3LatentImage",
        "ChromaKSampler",
        "VAEDecode",
    ],
}
LOADING = ["ChromaDiffusionLoader", "ChromaCLIPLoader", "VAELoader", "ChromaTextEncode", "ChromaTextEncode"]
every = pytest.mark.parametrize("mode", studio.MODES)


def graph(mode, prefix="", mode_values=None, **values):
    chosen = {"mode": mode, **NEEDS[mode], **(mode_values or {})}
    return studio.studio_graph({**FILES, "prompt": "a fox", "negative": "", **values, "mode": chosen}, prefix)


def kinds(found):
    return [node["class_type"] for node in found.nodes.values()]


def links(node):
    return {name: value for name, value in node["inputs"].items() if isinstance(value, list)}


@every
def test_mode_is_these_nodes(mode):
    assert sorted(kinds(graph(mode))) == sorted(LOADING + KINDS[mode])


@every
def test_every_link_leads_to_a_node_before_it_or_outside_and_every_node_to_the_picture(mode):
    found = graph(mode, "7.0.0.")
    assert all(key.startswith("7.0.0.") for key in found.nodes)
    seen = []
    for key, node in found.nodes.items():
        for source, slot in links(node).values():
            assert source in seen or [source, slot] in (IMAGE, MASK), (key, source)
        seen.append(key)
    waiting, used = [found.output[0]], set()
    while waiting:
        if (key := waiting.pop()) in found.nodes and key not in used:
            used.add(key)
            waiting += [source for source, _ in links(found.nodes[key]).values()]
    assert used == set(found.nodes)


@every
def test_ids_depend_on_neither_seed_nor_prompt(mode):
    """Else nothing of an expansion would come from the host's cache."""
    assert list(graph(mode, seed=1).nodes) == list(graph(mode, seed=2, prompt="an owl").nodes)


def test_linked_model_clip_and_vae_load_no_file():
    outside = {"model": ["1", 0], "clip": ["2", 0], "vae": ["3", 0]}
    found = studio.studio_graph({"mode": {"mode": studio.TEXT}, **outside})
    assert sorted(kinds(found)) == sorted([*LOADING[3:], *KINDS[studio.TEXT]])
    assert found.nodes["sampler"]["inputs"]["model"] == ["1", 0]
    assert found.nodes["prompt"]["inputs"]["clip"] == ["2", 0]
    assert found.nodes["decode"]["inputs"]["vae"] == ["3", 0]


def test_loras_follow_one_another():
    loras = {"loras": "2", "lora_1": "a", "strength_1": 0.5, "lora_2": "b"}
    nodes = graph(studio.TEXT, loras=loras).nodes
    assert nodes["lora_1"]["inputs"] == {"model": ["model", 0], "lora_name": "a", "strength_model": 0.5}
    assert nodes["lora_2"]["inputs"] == {"model": ["lora_1", 0], "lora_name": "b", "strength_model": 1.0}
    assert nodes["sampler"]["inputs"]["model"] == ["lora_2", 0]


def test_quality_goes_to_every_sampler_and_custom_with_its_values():
    values = {
        "quality": "custom",
        "steps": 9,
        "cfg": 2.0,
        "sampler": "euler",
        "schedule": "simple",
        "shift": "by resolution",
    }
    nodes = graph(studio.ENLARGE, quality=values, seed=5).nodes
    for name, denoise in (("first", 1.0), ("sampler", 0.45)):
        inputs = {
            k: v for k, v in nodes[name]["inputs"].items() if k not in ("model", "positive", "negative", "latent")
        }
        assert inputs == {**values, "seed": 5, "denoise": denoise, "skip_first_steps": 0}
    assert graph(studio.TEXT, quality="draft").nodes["sampler"]["inputs"]["quality"] == "draft"


def test_enlarging_a_picture_leaves_out_the_first_pass():
    nodes = graph(studio.ENLARGE, mode_values={"image": IMAGE}).nodes
    assert "first" not in nodes and nodes["enlarge"]["inputs"]["image"] == IMAGE


def test_megapixels_0_leaves_the_picture_as_it_is_and_in_edit_takes_kontexts_sizes():
    assert graph(studio.PICTURE, mode_values={"megapixels": 0}).nodes["encode"]["inputs"]["pixels"] == IMAGE
    assert graph(studio.EDIT).nodes["scale"]["inputs"]["mode"] == "Kontext's sizes"
    assert graph(studio.EDIT, mode_values={"megapixels": 0.5}).nodes["scale"]["inputs"]["mode.megapixels"] == 0.5


@pytest.mark.parametrize("values", [{}, {"megapixels": 0}, {"right": 60}, {"top": ["9", 0]}, {"left": 8, "right": 8}])
def test_a_padded_picture_is_brought_to_whole_patches_where_it_may_have_others(values):
    nodes = graph(studio.OUTPAINT, mode_values=values).nodes
    picture, mask = (["fit", 0], ["fit_mask", 0]) if values else (["pad", 0], ["pad", 1])
    assert nodes["encode"]["inputs"]["pixels"] == nodes["keep"]["inputs"]["destination"] == picture
    assert nodes["mask"]["inputs"]["mask"] == nodes["keep"]["inputs"]["mask"] == mask
    assert not values or nodes["fit_mask"]["inputs"]["input"] == ["pad", 1]


def test_guidance_0_needs_no_node():
    nodes = graph(studio.EDIT, mode_values={"guidance": 0}).nodes
    assert "guidance" not in nodes and nodes["sampler"]["inputs"]["positive"] == ["reference", 0]


def test_pixel_space_takes_radiances_empty_latent():
    assert graph(studio.TEXT, vae_name="pixel_space").nodes["size"]["class_type"] == "EmptyChromaRadianceLatentImage"


def test_link_may_stand_for_a_value():
    assert graph(studio.TEXT, prompt=["9", 1]).nodes["prompt"]["inputs"]["text"] == ["9", 1]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mode": {"mode": "paint"}}, "mode is 'paint'; it must be one of text to image, image to image, inpaint"),
        ({"mode": ["4", 0]}, "mode is given by a link, so the nodes for it are not known"),
        ({"mode": {"mode": "inpaint", "image": IMAGE}}, "inpaint needs a mask, and nothing is connected to mask"),
        ({"mode": {"mode": "edit"}}, "edit needs a picture, and nothing is connected to image. Connect Load Image"),
        ({"mode": {"mode": "outpaint", "image": IMAGE}}, "left, top, right and bottom are 0, so nothing is added"),
        ({"mode": "text to image", "quality": "best"}, "quality is 'best'; it must be one of draft, standard"),
        ({"mode": "text to image", "unet_name": ""}, "unet_name names no file. Choose one, or connect model"),
    ],
)
def test_what_does_not_go_is_told_with_its_remedy(values, told):
    with pytest.raises(ValueError, match=told):
        studio.studio_graph({**FILES, **values})


def test_api_inputs_are_grouped_by_their_choice():
    flat = {"mode": "inpaint", "mode.image": IMAGE, "mode.denoise": 0.5, "quality": "draft", "seed": 1}
    grouped = {"mode": {"mode": "inpaint", "image": IMAGE, "denoise": 0.5}, "quality": {"quality": "draft"}, "seed": 1}
    assert studio.grouped(flat) == grouped
