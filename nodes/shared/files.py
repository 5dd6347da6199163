"""Which files the loaders offer, and their paths."""

from __future__ import annotations

import functools
import itertools
import os
import re
from pathlib import Path
from typing import Any, Callable, Mapping

import folder_paths

import nodes

from ...loaders.checkpoint.keys import APPROXIMATOR, APPROXIMATOR_ALONE, SIGNATURES, other_model
from ...loaders.checkpoint.keys import LORA as LORA_TOLD
from ...loaders.checkpoint.lite import OWN_SIGNATURE
from ...loaders.files.error_text import shortened
from ...loaders.files.kinds import index_names, is_index
from ...loaders.files.read import GGUF_SUFFIX, SAFETENSORS_SUFFIXES, read_header
from ...loaders.files.write import not_written
from ...loaders.lora.report import looks_like
from ...loaders.t5.detect_t5 import SIGNATURES as T5_SIGNATURES

DIFFUSION_FOLDERS = ("diffusion_models", "unet_gguf")  # the second exists where a GGUF pack has registered it
CHECKPOINTS = "checkpoints"
ENCODER_FOLDERS = ("text_encoders", "clip_gguf")  # the second in the same way
# Kinds of files, as their headers tell them. A LoRA is one that fits Chroma or FLUX, a VAE one with FLUX's 16 channels.
CHROMA, FLUX, APPROXIMATOR_FILE, LITE_PATCH, T5, LORA, VAE, OTHER = (
    *("Chroma", "FLUX", "Approximator", "lite patch", "T5", "LoRA", "VAE", "another"),
)
MODEL_MENUS = {  # what a menu is for -> kinds, the best first, and likely names
    CHROMA: ((CHROMA, FLUX), "chroma"),
    APPROXIMATOR_FILE: ((APPROXIMATOR_FILE, CHROMA), "approximator|modulator"),
    LITE_PATCH: ((LITE_PATCH,), "patch"),
}
VAE_INPUT, LATENT_CHANNELS = "decoder.conv_in.weight", 16
HOW_TO_ADD = "Put it into ComfyUI/models/{folder} and press R on the page, or choose another"


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
        for name in names_in(kind):
            path = folder_paths.get_full_path(kind, name)
            folder, file = os.path.split(path or "")
            if path and not any(os.path.isfile(os.path.join(folder, index)) for index in index_names(file)):
                found.setdefault(name, path)
        for root in folder_paths.get_folder_paths(kind):
            walked = WALKS.files(root).items()
            found.update({name: path for name, path in walked if name not in found and os.path.isfile(path)})
    return found


def names_in(kind: str) -> list[str]:
    """What the host lists of a kind of folder. It fails once one that it has listed is gone, such as a drive: then it lists anew."""
    try:
        return folder_paths.get_filename_list(kind)
    except OSError:
        return folder_paths.get_filename_list_(kind)[0]


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
        self._seen: dict[str, tuple[dict[str, float | None], dict[str, str]]] = {}

    def files(self, root: str) -> dict[str, str]:
        """Name below root -> path, of GGUF files and indices of shards."""
        times, found = self._seen.get(root, ({}, {}))
        if times and all(modified(folder) == t for folder, t in times.items()):
            return found
        times, found = {}, {}
        for folder, folders, names in os.walk(root, followlinks=True):
            folders[:] = [name for name in folders if name != ".git"]
            times[folder] = modified(folder)
            if times[folder] is None:  # it has gone meanwhile
                continue
            for name in names:
                if name.lower().endswith(GGUF_SUFFIX) or is_index(name):
                    path = os.path.join(folder, name)
                    found[os.path.relpath(path, root)] = path
        self._seen[root] = times, found
        return found


WALKS = Walks()


def menu(files: Mapping[str, str | None], kinds: tuple[str, ...], likely: str) -> list[str]:
    """Names in the order of a menu, whose first one a new node takes.

    Files of the first kind, those that may be by their names, those of further kinds, what no header tells, all else.
    files:  name -> path; None where it is no file.
    likely: regular expression for names.
    """

    def place(name: str) -> tuple[int, bool, str]:
        path, is_likely = files[name], bool(re.search(likely, name, re.I))
        kind = kind_of(path) if path else None
        if kind is None and (kinds == (LORA,) or "lora" not in name.lower()):
            at = 1 if is_likely else len(kinds) + 1
        elif kind in kinds:
            at = kinds.index(kind) + (kind != kinds[0])
        else:
            at, is_likely = len(kinds) + 2, False
        return at, not is_likely, name.lower()

    return sorted(files, key=place)


def model_files(first: str = CHROMA) -> list[str]:
    """Names of diffusion models, and of those checkpoints that are of use here: with a Chroma in them; and, as FluxMod had them
    there at first, an Approximator or a lite patch alone, and FLUX where there is an Approximator.

    first: the kind that the menu is for.
    """
    checkpoints = listed((CHECKPOINTS,))
    kinds = {name: kind_of(path) for name, path in checkpoints.items()}
    wanted = {CHROMA, APPROXIMATOR_FILE, LITE_PATCH, *((FLUX,) if APPROXIMATOR_FILE in kinds.values() else ())}
    files = {name: path for name, path in checkpoints.items() if kinds[name] in wanted} | listed(DIFFUSION_FOLDERS)
    return menu(files, *MODEL_MENUS[first])


def encoder_path(name: str) -> str:
    """raises: ValueError if the name is not one of the listed files."""
    path = listed(ENCODER_FOLDERS).get(name)
    if path is None:
        raise ValueError(f"{name}: not among the text encoders. {HOW_TO_ADD.format(folder='text_encoders')}")
    return path


def encoder_files() -> list[str]:
    return menu(listed(ENCODER_FOLDERS), (T5,), "t5|flan")


def lora_files(likely: str = "chroma") -> list[str]:
    """likely: those of these names come first."""
    return menu({name: folder_paths.get_full_path("loras", name) for name in names_in("loras")}, (LORA,), likely)


def vae_names() -> list[str]:
    """What the host's VAE Loader offers; its files and pixel_space where one of its folders is gone."""
    try:
        return nodes.VAELoader.vae_list(nodes.VAELoader)
    except OSError:
        return [*names_in("vae"), "pixel_space"]


def vae_files(names: list[str]) -> list[str]:
    """names: those that the host's VAE Loader offers, of which some are no files."""
    there = set(names_in("vae"))
    files = {name: folder_paths.get_full_path("vae", name) if name in there else None for name in names}
    return menu(files, (VAE,), r"(^|[\\/])ae\b|flux|chroma")


def model_path(name: str) -> str:
    """raises: ValueError if the name is not one of the listed files."""
    path = listed(DIFFUSION_FOLDERS).get(name) or listed((CHECKPOINTS,)).get(name)
    if path is None:
        raise ValueError(f"{name}: not among the model files. {HOW_TO_ADD.format(folder='diffusion_models')}")
    return path


def kind_of(path: str) -> str | None:
    """What a safetensors file holds, one of the kinds above; None for others. The header is read once for each version of it."""
    if not path.lower().endswith(SAFETENSORS_SUFFIXES) and not is_index(path):
        return None
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return _kind_of(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4096)
def _kind_of(path: str, mtime: int, size: int) -> str | None:
    try:
        tensors = read_header(Path(path)).tensors
    except (ValueError, OSError):  # damaged; it may be of any model, so it is just not listed
        return None
    if other_model(tensors) == LORA_TOLD:  # may have layers of an Approximator or of T5
        return LORA if looks_like(tensors) is None else OTHER
    if any(APPROXIMATOR in name for name in tensors):
        return CHROMA
    if APPROXIMATOR_ALONE <= tensors.keys():
        return APPROXIMATOR_FILE
    if any(map(SIGNATURES["BFL"].search, tensors)):
        return FLUX
    if OWN_SIGNATURE in tensors:
        return LITE_PATCH
    if any(pattern.fullmatch(name) for pattern in T5_SIGNATURES.values() for name in tensors):
        return T5
    first = next((info for name, info in tensors.items() if name.endswith(VAE_INPUT)), None)
    if first is not None:
        return VAE if first.shape[1:2] == (LATENT_CHANNELS,) else OTHER
    return None


def below(folder: str | os.PathLike[str], name: str) -> Path | None:
    """The path of a name in a folder; None where the name leads out of it, by `..` or from the root.

    Links are not resolved: those in the host's folders are the user's own.
    """
    root = Path(os.path.abspath(folder))
    path = Path(os.path.abspath(root / name))
    return path if path.is_relative_to(root) else None


def next_path(prefix: str, suffix: str) -> Path:
    """The path that the host's save nodes would give the next file, and below the output folder's links too.

    The host refuses a folder that is linked to elsewhere, so it is given that folder as the one to write to. It gets
    those with % by their names, since it fills in the date.
    raises: ValueError if the name leads out of the output folder, or its folder is unusable.
    """
    output = folder_paths.get_output_directory()
    folder, name = os.path.split(os.path.normpath(prefix))
    path = below(output, folder)
    if path is None:
        raise ValueError(f"{shortened(prefix)}: is outside the output folder. Name a folder in it")
    inner = path.relative_to(os.path.abspath(output)).parts
    plain = list(itertools.takewhile(lambda part: "%" not in part, inner))
    start, rest = os.path.join(output, *plain), os.path.join(*inner[len(plain) :], name)
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(rest, start)
    except OSError as error:  # a folder that cannot be made or read
        raise ValueError(not_written(Path(output) / prefix, error)) from error
    return Path(folder) / f"{name}_{counter:05}_{suffix}"
