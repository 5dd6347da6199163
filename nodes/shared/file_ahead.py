"""What the file of a queued graph's model is, by its header: for what is told before a run."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from ...advice.queued_graph import OUR_LOADER, Graph
from ...host.model.load import ModelFile
from ...loaders.checkpoint.detect_variant import Detection, detect
from ...loaders.files.kinds import PICKLE_SUFFIXES
from .files import model_path

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
