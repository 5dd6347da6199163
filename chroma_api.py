"""Chroma from Python, without a page: a ComfyUI in this process, with the presets of this pack as defaults.

    from chroma_api import Chroma

    chroma = Chroma("Chroma1-HD.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors")
    chroma.paint("a red fox asleep on a mossy rock", seed=7).save("fox.png")

Run it with ComfyUI's Python. A script elsewhere, or with Windows portable's Python, which does not look beside a script,
begins with `sys.path.insert(0, FOLDER)`, this folder. Files are paths, or names in ComfyUI's folders of models. ComfyUI is the one whose
custom_nodes this folder stands in, else that in COMFYUI_PATH. The parts, `load`, `encode`, `sample` and `decode`, are in
`host/api.py` with their shapes; an example is `example_workflows/paint.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

NAME = "chroma_pack"
IN_USE = "chroma_pack_in_use"  # set by the pack itself: the copy that a ComfyUI in this process has loaded
HERE = Path(__file__).absolute().parent  # not resolved: the folder may be linked into custom_nodes


def find_comfyui() -> Path:
    """ComfyUI's folder: that in COMFYUI_PATH, else the one around this pack. raises: ImportError if there is none."""
    given = os.environ.get("COMFYUI_PATH", "")
    around = HERE.parent.parent if HERE.parent.name == "custom_nodes" else None
    for folder in (Path(given).expanduser() if given else None, around):
        if folder is not None and (folder / "main.py").is_file():
            return folder.resolve()
    place = f"{around} around this pack has no main.py" if around else f"{HERE} is in no custom_nodes"
    found = f"COMFYUI_PATH is {given}, which has none" if given else "COMFYUI_PATH is not set"
    raise ImportError(
        f"ComfyUI was not found: {place}, and {found}. Set COMFYUI_PATH to the folder with ComfyUI's main.py"
    )


def prepare_comfyui() -> None:
    """Makes ComfyUI's modules importable, and has it keep to the CPU where PyTorch finds no other device.

    Its folder comes first on the path: both it and this pack have a module called `nodes`.
    """
    if "comfy.model_management" in sys.modules:
        return  # this process is a ComfyUI
    folder = find_comfyui()
    sys.path.insert(0, str(folder))
    import torch
    from comfy.cli_args import args

    if not any(device.is_available() for device in (torch.cuda, torch.backends.mps, torch.xpu)):
        args.cpu = True
    extra_paths = folder / "extra_model_paths.yaml"
    if extra_paths.is_file():
        from utils.extra_config import load_extra_path_config

        load_extra_path_config(str(extra_paths))


def load_pack() -> ModuleType:
    """This pack as a package, whatever its folder is called; the copy that is loaded already, if there is one."""
    if sys.modules.get(IN_USE) is not None:
        return sys.modules[IN_USE]
    spec = importlib.util.spec_from_file_location(NAME, HERE / "__init__.py", submodule_search_locations=[str(HERE)])
    sys.modules[NAME] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


prepare_comfyui()
api = importlib.import_module(f"{load_pack().__name__}.host.api")
Chroma, Parts, load, encode, sample, decode, pictures = (
    *(api.Chroma, api.Parts, api.load, api.encode, api.sample, api.decode, api.pictures),
)
PRESETS = importlib.import_module(f"{load_pack().__name__}.advice.presets").PRESETS
settle = importlib.import_module(f"{load_pack().__name__}.advice.user_changes").settle

__all__ = ["PRESETS", "Chroma", "Parts", "decode", "encode", "load", "pictures", "sample", "settle"]
