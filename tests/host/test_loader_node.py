"""The loader node's list of files, in this process."""

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
