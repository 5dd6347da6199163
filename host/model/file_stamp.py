"""Checks before each run that a model's file has not changed since it was loaded.

Weights are memory-mapped, not copied. If the file is overwritten, some of them become another model's; if it becomes
shorter, reading them crashes the server.
Not caught: a change during a run, and weights that the host itself reads between runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from ...loaders.files.read import INDEX_SUFFIX, shards, whole


@dataclass(frozen=True)
class FileStamp:
    path: str
    inode: int
    size: int
    modified: int


def stamps_of(*paths: str | None) -> tuple[FileStamp, ...]:
    """Stamps of a model's files or their shards; None where there is no such file."""
    files: list[str] = []
    for path in (path for path in paths if path is not None):
        path = str(whole(path))
        files += [str(file) for file in shards(Path(path))] if path.endswith(INDEX_SUFFIX) else [path]
    return tuple(stamp(file) for file in files)


def stamp(path: str) -> FileStamp:
    found = os.stat(path)
    return FileStamp(path, found.st_ino, found.st_size, found.st_mtime_ns)


def check_unchanged(stamps: tuple[FileStamp, ...]) -> None:
    """raises: ValueError naming the first file that has changed. A deleted file has not: what is mapped of it stays."""
    for before in stamps:
        try:
            now = stamp(before.path)
        except OSError:
            continue
        if now != before:
            raise ValueError(
                f"{os.path.basename(before.path)} has changed on disk since it was loaded ({before.size:,} bytes then, "
                f"{now.size:,} now). Queue again, so that Load Chroma Model reads it anew"
            )


def unchanged_files(stamps: tuple[FileStamp, ...]) -> Callable[..., Any]:
    """An OUTER_SAMPLE wrapper that runs `check_unchanged` before any weight is read."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        check_unchanged(stamps)
        return executor(*args, **kwargs)

    return wrapper
