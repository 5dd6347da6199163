"""Chroma Studio beside its graph, which tests/advice/test_studio.py looks at: files, menus and missing nodes."""

import asyncio

import pytest
import support

pytestmark = pytest.mark.host

FILES = {"unet_name": "a.safetensors", "clip_name": "b.safetensors", "vae_name": "pixel_space"}


@pytest.fixture
def module(comfy):
    return support.dev.load_pack("nodes.studio")


def test_fingerprint_is_that_of_all_its_loaders(module, monkeypatch):
    for loader in module.LOADERS.values():
        told = classmethod(lambda cls, **inputs: f"{cls.__name__} {inputs.get('lora_name')}")
        monkeypatch.setattr(loader, "fingerprint_inputs", told)
    values = {"mode": {"mode": "text to image"}, "loras": {"loras": "2", "lora_1": "x", "lora_2": "y"}, **FILES}
    wanted = "ChromaDiffusionLoader None; ChromaLoraLoader x; ChromaLoraLoader y; ChromaCLIPLoader None"
    assert module.ChromaStudio.fingerprint_inputs(**values) == wanted
    assert module.ChromaStudio.fingerprint_inputs(**values, model=["1", 0], clip=["2", 0]) == "; ".join(
        ["ChromaLoraLoader x", "ChromaLoraLoader y"]
    )
    assert module.ChromaStudio.fingerprint_inputs(mode={"mode": "edit"}, **FILES) == ""  # `execute` tells why


@pytest.mark.parametrize("left", [0, 8, 64])
def test_fingerprint_of_an_outpaint_with_a_linked_side_is_that_of_its_loaders(module, monkeypatch, left):
    for loader in module.LOADERS.values():
        monkeypatch.setattr(loader, "fingerprint_inputs", classmethod(lambda cls, **inputs: cls.__name__))
    mode = {"mode": "outpaint", "image": ["9", 0], "left": left, "right": None}  # None: the host has no value yet
    assert module.ChromaStudio.fingerprint_inputs(mode=mode, **FILES) == "ChromaDiffusionLoader; ChromaCLIPLoader"


ABSENT = {
    "a LoRA": {"loras": "1", "loras.lora_1": "absent.safetensors", "loras.strength_1": 1.0},
    "an Approximator": {"loras": "none", "approximator": "absent.safetensors"},
}


@pytest.mark.parametrize("what", ABSENT)
def test_file_that_is_not_there_is_left_to_its_loader(module, monkeypatch, what):
    """The host's own check says no more than that it is not in the list."""
    import execution

    monkeypatch.setitem(module.nodes.NODE_CLASS_MAPPINGS, "ChromaStudio", module.ChromaStudio)
    inputs = {"mode": "text to image", "mode.width": 64, "mode.height": 64, "prompt": "", "negative": "", "seed": 1}
    prompt = {"1": {"class_type": "ChromaStudio", "inputs": {**inputs, "quality": "draft", **FILES, **ABSENT[what]}}}
    assert asyncio.run(execution.validate_inputs("a", prompt, "1", {}))[:2] == (True, [])
    checked = support.dev.load_pack("nodes.shared.checked_node").check_inputs(
        module.ChromaStudio, prompt["1"]["inputs"]
    )
    loaders = [node for node in module.studio_graph(checked).nodes.values() if "absent.safetensors" in node["inputs"].values()]  # fmt: skip
    loader = module.LOADERS[loaders[0]["class_type"]]
    named = {name: value for name, value in loaders[0]["inputs"].items() if value == "absent.safetensors"}
    assert "absent.safetensors: not among the " in loader.validate_inputs(**named)


@pytest.mark.parametrize("name, value", [("seed", -(1 << 70)), ("quality", "none"), ("mode.width", 7)])
def test_what_the_host_no_longer_checks_is_checked_before_it_runs(module, name, value):
    checks = support.dev.load_pack("nodes.shared.checked_node")
    inputs = {"mode": "text to image", "mode.width": 64, "mode.height": 64, "seed": 1, "quality": "draft", **FILES}
    with pytest.raises(ValueError, match=f"^{name} is "):
        checks.check_inputs(module.ChromaStudio, {**inputs, name: value})


def test_menus_are_those_of_the_description(module):
    studio, presets = (support.dev.load_pack(f"advice.{name}") for name in ("studio", "presets"))
    menus = {one.id: [option.key for option in one.options] for one in module.ChromaStudio.define_schema().inputs if one.id in studio.GROUPS}  # fmt: skip
    assert menus["mode"] == list(studio.MODES)
    assert set(menus["quality"]) == {*presets.CHOICES, "custom"} and menus["quality"][0] == "standard"
    assert menus["loras"] == ["none", "1", "2", "3"]


def test_numbers_that_the_description_assumes_are_those_of_the_node(module):
    """An API prompt may leave them out; the node's page shows them."""
    studio = support.dev.load_pack("advice.studio")
    links = {"image": ["9", 0], "mask": ["9", 1]}
    for mode, inputs in module.modes().items():
        shown = {one.id: one.default for one in inputs if hasattr(one, "default")}
        given = links if mode != studio.ENLARGE else {}
        least = {"right": shown["right"]} if mode == studio.OUTPAINT else {}
        by_default = studio.studio_graph({"mode": {"mode": mode, **given, **least}, **FILES})
        assert by_default == studio.studio_graph({"mode": {"mode": mode, **given, **shown}, **FILES}), mode
    assert {one.id: one.default for one in module.custom()} == studio.SETTINGS


def test_node_that_the_host_lacks_is_told(module):
    studio = support.dev.load_pack("advice.studio")
    module.nodes.NODE_CLASS_MAPPINGS.setdefault("VAEDecode", object)
    lacking = studio.StudioGraph({"x": {"class_type": "NoSuchNode", "inputs": {}}}, ["x", 0])
    with pytest.raises(ValueError, match="this ComfyUI has no node NoSuchNode, which this mode needs. Update ComfyUI"):
        module.check(lacking)
