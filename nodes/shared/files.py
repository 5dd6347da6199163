"""Which files the loaders offer, and their paths."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, Callable

import folder_paths

from ...loaders.checkpoint.keys import APPROXIMATOR, APPROXIMATOR_ALONE, SIGNATURES
from ...loaders.checkpoint.lite import OWN_SIGNATURE
from ...loaders.files.read import GGUF_SUFFIX, INDEX_SUFFIX, SAFETENSORS_SUFFIXES, SHARD, read_header
from ...loaders.files.write import not_written

DIFFUSION_FOLDERS = ("diffusion_models", "unet_gguf")  # the second exists where a GGUF pack has registered it
CHECKPOINTS = "checkpoints"
HOW_TO_ADD = "Put it into ComfyUI/models/{folder} and press R on the page"


def refused(name: Any, path_of: Callable[[str], Any]) -> str:
    """The sentence of a name that is no file here, for a node's `validate_inputs`: the host's own names no remedy.

    path_of: raises ValueError with it. returns: empty where there is nothing to refuse, or a link brings the name.
    """
    try:
        if isinstance(name, str):
            path_of(name)
    except ValueError as error:
        return str(error)
    return ""


def listed(folders: tuple[str, ...]) -> dict[str, str]:
    """Name -> path of the model files in folders of these kinds: what the host lists, GGUF, and sharded models.

    The parts of a sharded model are one entry, their index.
    """
    found: dict[str, str] = {}
    for kind in folders:
        if kind not in folder_paths.folder_names_and_paths:
            continue
        for name in folder_paths.get_filename_list(kind):
            path = folder_paths.get_full_path(kind, name)
            shard = SHARD.match(path or "")
            if path and not (shard and os.path.isfile(shard.group(1) + INDEX_SUFFIX)):
                found.setdefault(name, path)
        for root in folder_paths.get_folder_paths(kind):
            found.update({name: path for name, path in WALKS.files(root).items() if name not in found})
    return found


def modified(folder: str) -> float | None:
    """A folder's modification time; None if it is gone."""
    try:
        return os.path.getmtime(folder)
    except OSError:
        return None


class Walks:
    """Finds the files that the host does not list, and keeps them by folder.

    A folder is read again when its modification time, or that of a folder below it, has changed, as in the host: lists
    are asked for at every queued prompt, and model folders may be on a network.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[dict[str, float], dict[str, str]]] = {}

    def files(self, root: str) -> dict[str, str]:
        """Name below root -> path, of GGUF files and indices of shards."""
        times, found = self._seen.get(root, ({}, {}))
        if times and all(modified(folder) == t for folder, t in times.items()):
            return found
        times, found = {}, {}
        for folder, folders, names in os.walk(root, followlinks=True):
            folders[:] = [name for name in folders if name != ".git"]
            times[folder] = os.path.getmtime(folder)
            for name in names:
                if name.lower().endswith(GGUF_SUFFIX) or name.endswith(INDEX_SUFFIX):
                    path = os.path.join(folder, name)
                    found[os.path.relpath(path, root)] = path
        self._seen[root] = times, found
        return found


WALKS = Walks()


def model_files() -> list[str]:
    """Names of diffusion models, and of those checkpoints that are of use here: with a Chroma in them; and, as FluxMod had them
    there at first, an Approximator or a lite patch alone, and FLUX where there is an Approximator."""
    kinds = {name: kind_of(path) for name, path in listed((CHECKPOINTS,)).items()}
    wanted = {"Chroma", "Approximator", "lite patch", *(("FLUX",) if "Approximator" in kinds.values() else ())}
    here = listed(DIFFUSION_FOLDERS)
    names = {*here, *(name for name, kind in kinds.items() if kind in wanted)}
    kinds |= {name: kind_of(path) for name, path in here.items()}
    return sorted(names, key=lambda name: (place_of(name, kinds[name]), name.lower()))


def place_of(name: str, kind: str | None) -> int:
    """Where a file stands in the menu, whose first one a new node takes: Chroma first, what is no whole model last."""
    if kind in ("Chroma", "FLUX"):
        return 0 if kind == "Chroma" else 2
    by_name = None if kind or "lora" in name.lower() else "chroma" in name.lower()
    return 4 if kind or by_name is None else 1 if by_name else 3


def model_path(name: str) -> str:
    """raises: ValueError if the name is not one of the listed files."""
    path = listed(DIFFUSION_FOLDERS).get(name) or listed((CHECKPOINTS,)).get(name)
    if path is None:
        raise ValueError(f"{name}: not among the model files. {HOW_TO_ADD.format(folder='diffusion_models')}")
    return path


def kind_of(path: str) -> str | None:
    """ "Chroma" for a safetensors file that holds an Approximator in a model, "Approximator" for one alone, "FLUX" for a model of
    this kind without one, "lite patch" for one of its blocks; else None. The header is read once for each version of the file."""
    if not path.lower().endswith(SAFETENSORS_SUFFIXES):
        return None
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return _kind_of(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4096)
def _kind_of(path: str, mtime: int, size: int) -> str | None:
    try:
        names = read_header(Path(path)).tensors
    except (ValueError, OSError):  # damaged; it may be of any model, so it is just not listed
        return None
    if any(APPROXIMATOR in name for name in names):
        return "Chroma"
    if APPROXIMATOR_ALONE <= names.keys():
        return "Approximator"
    if any(map(SIGNATURES["BFL"].search, names)):
        return "FLUX"
    return "lite patch" if OWN_SIGNATURE in names else None


def next_path(prefix: str, suffix: str) -> Path:
    """The path that the host's save nodes would give the next file. raises: ValueError if its folder is unusable."""
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    except OSError as error:  # a folder that cannot be made or read
        raise ValueError(not_written(Path(folder_paths.get_output_directory()) / prefix, error)) from error
    return Path(folder) / f"{name}_{counter:05}_{suffix}"
