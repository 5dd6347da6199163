"""What the pack uses of ComfyUI: the table against the sources, and a feature whose host names have vanished."""

import asyncio
import importlib
import inspect
import os

import pytest
import support

from tools import check_host

pytestmark = pytest.mark.host
# Names that are written as text, or set on the host's objects: renamed, they would do nothing and say nothing.
SILENT = {
    "comfy.ops": ("_full_precision_mm", "_full_precision_mm_config", "quant_format", "layout_type", "comfy_quant"),
    "comfy.samplers": (
        *("cond_or_uncond", "uuids", "sampler_cfg_function", "sampler_calc_cond_batch_function"),
        *("sampler_post_cfg_function", "disable_cfg1_optimization", "transformer_options", "model_options"),
    ),
    "comfy.model_base": ("c_crossattn", "cross_attn", "attention_mask", "guidance", "current_patcher"),
    "comfy.model_patcher": ("patches_uuid", "cached_patcher_init", "object_patches", "hook_patches", "injections"),
    "comfy.ldm.flux.model": ("patches_replace", "double_block", "single_block", "img_slice"),
    "comfy.ldm.flux.layers": ("attn1_patch", "attn1_output_patch"),
    "comfy.sd1_clip": ("zero_out_masked", "min_padding", "min_length", "execution_device"),
}


@pytest.fixture(scope="module")
def required_names():
    return support.dev.load_pack("host.required_names")


def test_every_name_of_the_host_stands_in_the_table(comfy, required_names):
    known = [name for names in required_names.NEEDED.values() for name in names]
    for path in (p for folder in check_host.OUR_FOLDERS for p in (support.ROOT / folder).rglob("*.py")):
        for name in check_host.used(path):
            if not name.startswith((*check_host.AT_RUN_TIME, "comfy_api.latest.io")) and "." in name:
                told = any(n == name or n.startswith(name + ".") or name.startswith(n + ".") for n in known)
                assert told, f"{path.name}: {name} is not in host/required_names.py"


def test_this_host_lacks_none_of_them(comfy, required_names):
    assert required_names.lacking(tuple(required_names.NEEDED)) == []


@pytest.mark.parametrize("module, names", SILENT.items(), ids=list(SILENT))
def test_what_would_fail_silently_is_still_called_so(comfy, module, names):
    source = inspect.getsource(importlib.import_module(module))
    assert [name for name in names if name not in source] == []


def nodes_of():
    extension = support.dev.load_pack("nodes").ChromaExtension()
    return {node.GET_SCHEMA().node_id for node in asyncio.run(extension.get_node_list())}


def test_a_vanished_name_takes_away_its_feature_with_one_line(comfy, required_names, monkeypatch, caplog):
    whole = nodes_of()
    monkeypatch.setattr(
        required_names, "NEEDED", {**required_names.NEEDED, "NAG": ("comfy.patcher_extension.Gone.NAME",)}
    )
    assert nodes_of() == whole - {"ChromaNAG"}
    (line,) = [r.message for r in caplog.records]
    assert line == (
        "Chroma Pack: ChromaNAG not available, since this ComfyUI lacks something (comfy.patcher_extension.Gone.NAME). "
        "Update ComfyUI and this pack, and restart"
    )


@pytest.mark.parametrize(
    "error", [ImportError("cannot import name 'x' from 'comfy.y'"), AttributeError("no 'Dynamic'")]
)
def test_a_file_that_cannot_be_imported_takes_away_its_nodes_only(comfy, monkeypatch, caplog, error):
    whole, real = nodes_of(), importlib.import_module

    def broken(name, package=None):
        if name == ".preset":
            raise error
        return real(name, package)

    monkeypatch.setattr(support.dev.load_pack("nodes").importlib, "import_module", broken)
    assert nodes_of() == whole - {"ChromaPreset"}
    assert len(caplog.records) == 1 and str(error) in caplog.text


def test_a_missing_package_ends_the_whole(comfy, monkeypatch):
    real = importlib.import_module

    def without(name, package=None):
        if name == ".loader":
            raise ModuleNotFoundError("No module named 'gguf'", name="gguf")
        return real(name, package)

    monkeypatch.setattr(support.dev.load_pack("nodes").importlib, "import_module", without)
    with pytest.raises(ModuleNotFoundError, match="gguf"):
        nodes_of()


def test_a_host_without_anything_is_refused(comfy, required_names, monkeypatch):
    monkeypatch.setattr(required_names, "NEEDED", dict.fromkeys(required_names.NEEDED, ("comfy.gone",)))
    with pytest.raises(AttributeError, match="comfy.gone"):
        nodes_of()


def test_a_matmul_that_the_host_lacks_is_not_told_of_the_device(comfy, monkeypatch, caplog):
    import comfy.model_management
    import torch

    matmul = support.dev.load_pack("host.model.matmul")
    known, cpu = support.dev.load_pack("loaders.formats.base.registry").FORMATS, torch.device("cpu")
    monkeypatch.delattr(comfy.model_management, "supports_mxfp8_compute")
    assert "this ComfyUI lacks supports_mxfp8_compute" in matmul.fast_matmul(known["mxfp8"], cpu)
    matmul._tried.cache_clear()
    monkeypatch.setattr(matmul.QuantizedTensor, "from_float", lambda *a, **k: {}["gone"])
    assert "does not work with this ComfyUI (KeyError)" in matmul.fast_matmul(known["int8_tensorwise"], cpu)
    assert "Traceback" in caplog.text
    matmul._tried.cache_clear()


# --- the guide's table -----------------------------------------------------------------------------------------------

GUIDE = support.ROOT / "web" / "docs" / "guides" / "something_looks_wrong.md"
BEGIN, END = "| this ComfyUI lacks what is needed for | without it there is no |\n|---|---|\n", "\n\n"


def is_shown(module, node):
    return not getattr(support.dev.load_pack(f"nodes.{module}"), node).define_schema().is_dev_only


def needed_table(required_names):
    """A row for each feature: what of the pack comes and goes with it, less the parts that menus do not show."""
    nodes = support.dev.load_pack("nodes")
    lost = {feature: [] for feature in required_names.NEEDED}
    for feature in nodes.FEATURES:
        for need in feature.needs:
            lost[need] += [f"`{name}`" for name in feature.nodes if is_shown(feature.module, name)]
    for registration in nodes.REGISTRATIONS:
        for need in registration.needs:
            lost[need].append(registration.what)
    lost["nodes"] = ["node at all"]
    lost["Python"] = ["`chroma_api.py`"]
    return BEGIN + "\n".join(f"| {feature} | {', '.join(what)} |" for feature, what in lost.items())


def test_the_guide_tells_what_goes_with_each_feature(comfy, required_names):
    """CHROMA_PACK_WRITE=1 writes the table anew."""
    wanted, text = needed_table(required_names), GUIDE.read_text(encoding="utf-8")
    start = text.index(BEGIN)
    found = text[start : text.index(END, start)]
    if os.environ.get("CHROMA_PACK_WRITE"):
        GUIDE.write_text(text.replace(found, wanted), encoding="utf-8")
        found = wanted
    assert found == wanted
    assert all(row.split("|")[2].strip() for row in wanted.splitlines()[2:])
