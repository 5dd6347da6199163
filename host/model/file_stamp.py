"""Checks before weights are read that the files they come from have not changed since they were loaded.

Weights are memory-mapped, not copied. If the file is overwritten, some of them become another model's; if it becomes
shorter, reading them crashes the server.
Not caught: a change during a run, a model that the host's merging nodes took weights from, and weights that the host
itself reads between runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...loaders.files.kinds import is_index
from ...loaders.files.read import shards, whole

ATTACHMENT = "chroma_files"  # key of the stamps on a patcher


@dataclass(frozen=True)
class FileStamp:
    """A file as it was seen.

    loader:  the node that reads it.
    changed: when its inode last did; on Windows when it was made.
    """

    path: str
    loader: str
    size: int
    modified: int
    inode: int
    changed: int


_SEEN: dict[tuple[str, str], FileStamp] = {}  # (path, loader) -> the first stamp of what is there


def stamps_of(loader: str, *paths: str | os.PathLike[str] | None) -> tuple[FileStamp, ...]:
    """Stamps of files or their shards; None where there is no such file."""
    files: list[str] = []
    for path in (path for path in paths if path is not None):
        path = str(whole(path))
        files += [str(file) for file in shards(Path(path))] if is_index(path) else [path]
    return tuple(stamp(file, loader) for file in files)


def stamp(path: str, loader: str) -> FileStamp:
    """Of the same file always the first stamp of it, so that stamps and fingerprints of it are equal."""
    now = stamp_now(path, loader)
    before = _SEEN.get((path, loader))
    if before is None or not is_same(before, now):
        before = _SEEN[path, loader] = now
    return before


def stamp_now(path: str, loader: str) -> FileStamp:
    found = os.stat(path)
    return FileStamp(path, loader, found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)


def is_same(a: FileStamp, b: FileStamp) -> bool:
    """Whether both are of one file with the same content.

    A file that another of its size and time was moved over has another inode and another time of change. One of these
    alone says nothing: vfat, exfat and FUSE give a file a new inode once the old one has left the cache, and a new mode or
    link sets the time of change.
    """
    same_content = (a.size, a.modified) == (b.size, b.modified)
    return same_content and (a.inode == b.inode or a.changed == b.changed)


def fingerprint(loader: str, *paths: str | os.PathLike[str] | None) -> str:
    """For the host's cache: differs when a file has changed, so that the loader runs anew."""
    return str(stamps_of(loader, *paths))


def watch(patcher: Any, stamps: tuple[FileStamp, ...]) -> None:
    """Adds stamps, taken before any weight was read, to those of a patcher. Its clones keep them."""
    patcher.set_attachments(ATTACHMENT, (*(patcher.get_attachment(ATTACHMENT) or ()), *stamps))


def check_unchanged(patcher: Any) -> None:
    """raises: ValueError naming the first file that has changed. A deleted file has not: what is mapped of it stays."""
    for before in patcher.get_attachment(ATTACHMENT) or ():
        try:
            now = stamp(before.path, before.loader)
        except OSError:
            continue
        if now != before:
            raise ValueError(
                f"{os.path.basename(before.path)} has changed on disk since it was loaded ({before.size:,} bytes then, "
                f"{now.size:,} now). Queue again, so that {before.loader} reads it anew"
            )


def check_before_run(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """An OUTER_SAMPLE wrapper."""
    check_unchanged(executor.class_obj.model_patcher)
    return executor(*args, **kwargs)
