"""What the files of a queued graph's loaders are, by their headers: for what is told before a run."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any, Callable, Mapping

import folder_paths

from ...advice.queued_graph import OUR_LOADER, Graph
from ...constants import ERROR, WARNING, Line
from ...host.model.load import ModelFile
from ...loaders.checkpoint.detect_variant import Detection, detect
from ...loaders.files.kinds import PICKLE_SUFFIXES
from ...loaders.files.read import read_header
from ...loaders.lora.report import looks_like
from ...loaders.t5.detect_t5 import detect_t5
from .files import encoder_path, model_path

NO_FILE = ("from the model file", "none")  # choices of a loader that name no file
MAX_KEPT = 64  # files


@dataclass(frozen=True)
class Found:
    """num_bytes: of all files of the model together."""

    detection: Detection
    num_bytes: int


def variant_of(graph: Graph, loader: str, file: str) -> str | None:
    """A file's variant; None where another loader takes it and it is not Chroma's. raises: as `found_ahead`."""
    found = found_ahead(graph, loader, file)
    return None if found is None else found.detection.variant


def found_ahead(graph: Graph, loader: str, file: str) -> Found | None:
    """What a file holds; None where another loader takes it and it is not Chroma's.

    raises: ValueError as our loader would.
    """
    ours = graph.kind(loader) == OUR_LOADER
    if not file or file.lower().endswith(PICKLE_SUFFIXES):  # the latter have no header
        return None
    try:
        others = [graph.value(loader, name) for name in ("approximator", "lite_patch")] if ours else [None, None]
        paths = [model_path(file), *(None if name in (None, *NO_FILE) else model_path(name) for name in others)]
        return _found(*paths, tuple(os.stat(path).st_mtime_ns for path in paths if path))
    except (ValueError, OSError) as error:
        if ours:
            raise ValueError(str(error)) from error
        return None


@functools.lru_cache(maxsize=MAX_KEPT)
def _found(path: str, approximator: str | None, lite_patch: str | None, times: tuple[int, ...]) -> Found:
    header = ModelFile(path, approximator, lite_patch).header
    return Found(detect(header), header.num_bytes)


def lora_path(name: str) -> str | None:
    return folder_paths.get_full_path("loras", name)


def look_at_encoder(graph: Graph, node: str, name: str, path: str) -> None:
    detect_t5(read_header(path))


def look_at_lora(graph: Graph, node: str, name: str, path: str) -> Line | None:
    what = looks_like(read_header(path).tensors)
    return Line("Warning: ", WARNING, f"{name} looks like {what}") if what else None


LORA = ("lora_name", lora_path, look_at_lora)
# Loader -> its input for a file, the path of such a name, and what looks at the file: it raises what the loader would.
LOADERS: Mapping[str, tuple[str, Callable[[str], str | None], Callable[[Graph, str, str, str], Any]]] = {
    OUR_LOADER: (
        "unet_name",
        lambda name: model_path(name),
        lambda graph, node, name, path: found_ahead(graph, node, name),
    ),
    "ChromaCLIPLoader": ("clip_name", lambda name: encoder_path(name), look_at_encoder),
    "ChromaLoraLoader": LORA,
    "ChromaFlash": LORA,
}


def told_of_file(graph: Graph, node: str) -> Line | None:
    """What a loader's file is, if it is none that it can load or that fits; None also where only reading it would tell.

    Of a file that is not there the page tells by itself.
    """
    key, path_of, look = LOADERS[graph.kind(node)]
    name = graph.value(node, key)
    try:
        path = path_of(name) if isinstance(name, str) and not name.lower().endswith(PICKLE_SUFFIXES) else None
    except ValueError:
        return None
    try:
        found = look(graph, node, name, path) if path else None
    except (ValueError, OSError) as error:
        return Line("ERROR: ", ERROR, str(error))
    return found if isinstance(found, Line) else None
