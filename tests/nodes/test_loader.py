"""The loader node's list of files, in this process."""

import shutil

import pytest
import support

pytestmark = pytest.mark.host


@pytest.fixture
def node(comfy):
    return support.dev.load_pack("nodes.loader")


@pytest.fixture
def folders(comfy, monkeypatch, tmp_path):
    """diffusion_models and a GGUF pack's folder, both in tmp_path."""
    import folder_paths

    for name, suffixes in (("diffusion_models", {".safetensors"}), ("unet_gguf", {".gguf"})):
        (tmp_path / name).mkdir()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([str(tmp_path / name)], suffixes))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def test_files_of_a_registered_gguf_folder_are_listed_too(node, folders):
    (folders / "diffusion_models" / "B.safetensors").touch()
    (folders / "unet_gguf" / "a.gguf").touch()
    assert node.model_files() == ["a.gguf", "B.safetensors"]
    assert node.model_path("a.gguf") == str(folders / "unet_gguf" / "a.gguf")


def test_without_a_gguf_folder_nothing_is_missed(node, folders, monkeypatch):
    import folder_paths

    monkeypatch.delitem(folder_paths.folder_names_and_paths, "unet_gguf")
    (folders / "diffusion_models" / "b.safetensors").touch()
    assert node.model_files() == ["b.safetensors"]


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "", "b.safetensors/../../secret.safetensors"])
def test_name_that_is_not_listed_is_refused(node, folders, name):
    (folders / "secret.safetensors").touch()
    (folders / "diffusion_models" / "b.safetensors").touch()
    with pytest.raises(ValueError, match="not among the model files. Put it into ComfyUI/models/diffusion_models"):
        node.model_path(name)


def test_old_texts_of_precision_pass_and_unknown_ones_are_told(node):
    for text in ("bf16", "float8_e4m3fn (8 bit)", "float8_e5m2 (also 8 bit)"):
        assert node.ChromaDiffusionLoader.validate_inputs(text) is True
    assert "Choose one of: auto, keep, bf16" in node.ChromaDiffusionLoader.validate_inputs("int3")


def index(folder, *shards, variant=""):
    import json

    folder.mkdir(parents=True, exist_ok=True)
    for name in shards:
        (folder / name).touch()
    path = folder / f"diffusion_pytorch_model.safetensors.index{variant}.json"
    path.write_text(json.dumps({"weight_map": {f"t{i}": name for i, name in enumerate(shards)}}))
    return path


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_sharded_model_is_one_entry(node, folders, variant):
    parts = [f"diffusion_pytorch_model{variant}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    path = index(folders / "diffusion_models" / "Chroma1-HD" / "transformer", *parts, variant=variant)
    (name,) = node.model_files()
    assert node.model_path(name) == str(path)
    assert name.endswith(path.name)


def test_gguf_is_listed_where_no_other_pack_registers_it(node, folders, monkeypatch):
    import folder_paths

    monkeypatch.delitem(folder_paths.folder_names_and_paths, "unet_gguf")
    (folders / "diffusion_models" / "sub").mkdir()
    (folders / "diffusion_models" / "sub" / "Q8.GGUF").touch()
    assert [name.replace("\\", "/") for name in node.model_files()] == ["sub/Q8.GGUF"]


def test_checkpoints_are_listed_if_they_hold_a_chroma(node, folders, monkeypatch):
    import folder_paths
    import torch

    (folders / "checkpoints").mkdir()
    entry = ([str(folders / "checkpoints")], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", entry)
    chroma = {"model.diffusion_model.distilled_guidance_layer.in_proj.weight": torch.zeros(1)}
    support.write(folders / "checkpoints" / "chroma aio.safetensors", chroma)
    support.write(folders / "checkpoints" / "sdxl.safetensors", {"model.diffusion_model.label_emb": torch.zeros(1)})
    (folders / "checkpoints" / "broken.safetensors").write_bytes(b"x")
    assert node.model_files() == ["chroma aio.safetensors"]
    assert node.model_path("chroma aio.safetensors") == str(folders / "checkpoints" / "chroma aio.safetensors")


def test_flux_in_the_checkpoints_is_listed_where_an_approximator_is_beside_it(node, folders, monkeypatch):
    import folder_paths
    import torch

    place = folders / "checkpoints"
    entry = ([str(place)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", entry)
    flux = {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}
    support.write(place / "flux.safetensors", flux)
    support.write(place / "t5.safetensors", {"shared.weight": torch.zeros(1)})
    assert node.model_files() == []
    support.write(place / "mod.safetensors", {f"{n}_proj.weight": torch.zeros(1) for n in ("in", "out")})
    assert node.model_files() == ["flux.safetensors", "mod.safetensors"]
    support.write(place / "lite.safetensors", {"img_attn.qkv.weight": torch.zeros(1)})
    assert node.model_files() == ["flux.safetensors", "lite.safetensors", "mod.safetensors"]


def test_new_inputs_are_optional_with_the_old_behaviour(node):
    inputs = node.ChromaDiffusionLoader.INPUT_TYPES()
    assert list(inputs["required"]) == ["unet_name", "quant_mode"]
    assert list(inputs["optional"]) == ["approximator", "prediction", "text_ids", "full_precision_matmul", "lite_patch"]
    assert {n: i[1]["default"] for n, i in inputs["optional"].items()} == {
        "approximator": "from the model file",
        "prediction": "auto",
        "text_ids": "auto",
        "full_precision_matmul": False,
        "lite_patch": "none",
    }


def test_folder_that_vanishes_while_it_is_listed_is_left_out(comfy, folders, monkeypatch):
    """A download's folder is renamed, a drive is taken off; the page's list of all nodes is asked for meanwhile."""
    files = support.dev.load_pack("nodes.shared.files")
    root = folders / "diffusion_models"
    for name in ("a", "b"):
        (root / name).mkdir()
        (root / name / f"{name}.gguf").touch()
    real = files.os.walk

    def walk(top, **options):
        for folder, *rest in real(top, **options):
            if folder.endswith("a"):
                shutil.rmtree(folder)
            yield folder, *rest

    monkeypatch.setattr(files.os, "walk", walk)
    assert [name.replace("\\", "/") for name in files.WALKS.files(str(root))] == ["b/b.gguf"]
    monkeypatch.setattr(files.os, "walk", real)
    (root / "a").mkdir()
    (root / "a" / "c.gguf").touch()
    assert {name.replace("\\", "/") for name in files.WALKS.files(str(root))} == {"a/c.gguf", "b/b.gguf"}


def test_models_of_other_folders_are_listed_once_a_drive_is_gone(node, folders):
    (folders / "diffusion_models" / "a.safetensors").touch()
    (folders / "unet_gguf" / "b.gguf").touch()
    assert node.model_files() == ["a.safetensors", "b.gguf"]
    shutil.rmtree(folders / "diffusion_models")
    assert node.model_files() == ["b.gguf"]


@pytest.mark.parametrize("kind", ["loras", "vae"])
def test_a_menu_is_empty_once_its_drive_is_gone(node, folders, monkeypatch, kind):
    import folder_paths

    files = support.dev.load_pack("nodes.shared.files")
    place = folders / kind
    place.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(place)], {".safetensors"}))
    (place / "a.safetensors").touch()
    menu = {"loras": files.lora_files, "vae": lambda: files.vae_files(files.vae_names())}[kind]
    assert "a.safetensors" in menu()
    shutil.rmtree(place)
    assert "a.safetensors" not in menu()


def test_folders_are_walked_again_only_when_they_change(node, folders, monkeypatch):
    files = support.dev.load_pack("nodes.shared.files")
    root = folders / "diffusion_models"
    (root / "sub").mkdir()
    (root / "sub" / "a.gguf").touch()
    assert len(node.model_files()) == 1
    walks = []
    real = files.os.walk
    monkeypatch.setattr(files.os, "walk", lambda top, **k: walks.append(top) or real(top, **k))
    assert len(node.model_files()) == 1
    assert str(root) not in walks
    (root / "sub" / "b.gguf").touch()
    assert len(node.model_files()) == 2
    (root / "sub" / "a.gguf").unlink()
    assert len(node.model_files()) == 1


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A small file of each kind that a menu may list."""
    import torch

    folder = tmp_path_factory.mktemp("kinds")
    chroma = support.published(support.random_weights(support.config(double=1, single=1)))
    one = torch.zeros(1)

    def lora(*layers):
        return {f"{layer}.lora_{x}.weight": torch.zeros(2, 2) for layer in layers for x in "AB"}

    tensors = {
        "chroma": chroma,
        "flux": {name: t for name, t in chroma.items() if "distilled_guidance_layer" not in name},
        "approximator": {f"{n}_proj.weight": torch.zeros(1) for n in ("in", "out")},
        "patch": {"img_attn.qkv.weight": one},
        "t5": {"encoder.block.0.layer.0.SelfAttention.q.weight": one},
        # which has a layer of the Approximator too
        "lora": lora(
            "diffusion_model.double_blocks.0.img_attn.qkv", "diffusion_model.distilled_guidance_layer.in_proj"
        ),
        "lora of SDXL": lora("lora_unet_down_blocks_0_attentions_0_proj_in"),
        "vae": {"decoder.conv_in.weight": torch.zeros(512, 16, 1, 1)},
        "vae of SDXL": {"decoder.conv_in.weight": torch.zeros(512, 4, 1, 1)},
        "unknown": {"x": one},
    }
    return {kind: support.write(folder / f"{kind}.safetensors", t) for kind, t in tensors.items()}


# Menu -> files as it should have them: (kind, name).
MENUS = {
    "model": (("chroma", "z"), ("unknown", "y-chroma"), ("flux", "b"), ("unknown", "c"), ("lora", "a"), ("t5", "aa")),
    "approximator": (
        ("approximator", "z"),
        ("unknown", "y-modulator"),
        ("chroma", "b"),
        ("unknown", "a"),
        ("lora", "a1"),
    ),
    "lite_patch": (("patch", "z"), ("unknown", "a-patch"), ("unknown", "b"), ("chroma", "a")),
    "clip_name": (("t5", "z"), ("unknown", "t5 of llama"), ("unknown", "clip_l"), ("chroma", "a"), ("lora", "t5-lora")),
    "lora_name": (
        ("lora", "z-chroma"),
        ("lora", "z"),
        ("unknown", "x-chroma"),
        ("unknown", "b"),
        ("lora of SDXL", "a"),
    ),
    "flash": (("lora", "z-flash"), ("lora", "a"), ("unknown", "flash"), ("lora of SDXL", "a-flash")),
    "vae_name": (("vae", "sub/ae"), ("vae", "sd3"), ("unknown", "flux"), ("unknown", "b"), ("vae of SDXL", "a")),
}


@pytest.mark.parametrize("menu", MENUS)
def test_a_menu_begins_with_the_kind_that_it_is_for_and_ends_with_others(comfy, folders, kinds, monkeypatch, menu):
    """By what is in the files: a menu's first one is what a new node has."""
    import os
    import shutil

    import folder_paths

    files = support.dev.load_pack("nodes.shared.files")
    asked = {
        "model": ("diffusion_models", files.model_files),
        "approximator": ("diffusion_models", lambda: files.model_files(files.APPROXIMATOR_FILE)),
        "lite_patch": ("diffusion_models", lambda: files.model_files(files.LITE_PATCH)),
        "clip_name": ("text_encoders", files.encoder_files),
        "lora_name": ("loras", files.lora_files),
        "flash": ("loras", lambda: files.lora_files("flash")),
        "vae_name": ("vae", lambda: files.vae_files(["pixel_space", *folder_paths.get_filename_list("vae")])),
    }
    kind, listed = asked[menu]
    folder = folders / kind
    monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".safetensors"}))
    names = [f"{name}.safetensors".replace("/", os.sep) for _, name in MENUS[menu]]
    for name, (file, _) in zip(names, MENUS[menu]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kinds[file], folder / name)
    assert [name for name in listed() if name != "pixel_space"] == names


def test_links_in_a_folder_of_models_are_followed_on_purpose(node, folders):
    """People keep models on other disks: a link to a file, and a folder that is one."""
    elsewhere = folders / "elsewhere"
    elsewhere.mkdir()
    for name in ("one.safetensors", "two.safetensors"):
        (elsewhere / name).touch()
    support.link(folders / "diffusion_models" / "link.safetensors", elsewhere / "one.safetensors")
    support.link(folders / "diffusion_models" / "sub", elsewhere)
    listed = [name.replace("\\", "/") for name in node.model_files()]
    assert listed == ["link.safetensors", "sub/one.safetensors", "sub/two.safetensors"]


def test_a_folder_of_hugging_faces_cache_is_linked_as_a_model_of_one_entry(node, folders):
    """Its files are links themselves, to blobs without an ending."""
    cache = folders / "models--lodestones--Chroma1-HD"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "0a1b" / "transformer"
    blobs.mkdir(parents=True)
    parts = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    file = index(snapshot, *parts)
    for i, name in enumerate((file.name, *parts)):
        (snapshot / name).rename(blobs / str(i))
        support.link(snapshot / name, blobs / str(i))
    support.link(folders / "diffusion_models" / "HD", snapshot.parent)
    (name,) = node.model_files()
    assert name.replace("\\", "/") == f"HD/transformer/{file.name}"
    assert node.model_path(name) == str(folders / "diffusion_models" / name)
    blobs.joinpath("1").write_bytes(b"a part that has changed")
    before = node.ChromaDiffusionLoader.fingerprint_inputs(name)
    assert str(folders / "diffusion_models" / "HD" / "transformer" / parts[0]) in before
    (snapshot / parts[0]).unlink()
    support.link(snapshot / parts[0], blobs / "2")  # as an update of the repository does it
    assert node.ChromaDiffusionLoader.fingerprint_inputs(name) != before


@pytest.mark.parametrize("name", ["gone.safetensors", "gone.gguf", "gone.safetensors.index.json"])
def test_a_link_that_leads_nowhere_is_not_listed_until_it_does(node, folders, name):
    support.link(folders / "diffusion_models" / name, folders / "disk")
    assert node.model_files() == []
    with pytest.raises(ValueError, match=f"{name}: not among the model files"):
        node.model_path(name)
    (folders / "disk").touch()  # the disk is there again
    assert node.model_files() == [name]


def test_a_name_that_leads_out_of_the_folders_is_not_one_of_theirs(node, folders):
    (folders / "secret.safetensors").touch()
    for name in ("../secret.safetensors", str(folders / "secret.safetensors"), "sub/../../secret.safetensors"):
        with pytest.raises(ValueError, match="not among the model files"):
            node.model_path(name)
