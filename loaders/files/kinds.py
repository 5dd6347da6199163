"""Kinds of weight files: by the end of their names, and by their first bytes, which tell what only bears such a name."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path

from .error_text import short

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
GGUF_SUFFIX = ".gguf"
INDEX_SUFFIX = ".safetensors.index.json"
INDEX = re.compile(r"\.safetensors\.index(\.[\w-]+)?\.json\Z")  # also of a variant: model.safetensors.index.fp16.json
SHARD = re.compile(r"(.*?)(\.[\w-]+)?-\d{5}-of-\d{5}\.safetensors\Z", re.DOTALL)  # stem, and perhaps the variant

ALONE = "-00001-of-00001.safetensors"  # a part that is the whole: it needs no index
# Of torch's own files, and of llama.cpp's gguf-split: such parts are not put together here.
OTHER_PART = re.compile(r"-\d{5}-of-(?!00001\.)\d{5}\.(?:gguf|pth|pt|bin|ckpt|pkl)\Z", re.IGNORECASE)

START = 1024  # bytes that are looked at
LFS_POINTER = b"version https://git-lfs"
SAFETENSORS_START = b"\0\0\0\0{"  # from byte 4 on: a header's length, of less than 4 GB, and its beginning
# First bytes -> what such a file is, and the ends of names that suit it.
STARTS = (
    (b"GGUF", "a GGUF file", (GGUF_SUFFIX,)),
    (b"PK\x03\x04", "one of torch's own files, or another zip archive", PICKLE_SUFFIXES),
    (b"\x80\x02", "one of torch's own files", PICKLE_SUFFIXES),
    (b"\x1f\x8b", "an archive (gzip)", ()),
    (b"7z\xbc\xaf", "an archive (7-Zip)", ()),
    (b"Rar!", "an archive (RAR)", ()),
)


def is_index(name: str) -> bool:
    return INDEX.search(name) is not None


def index_names(name: str) -> tuple[str, ...]:
    """What the index of a shard may be called; empty where the name is no shard's."""
    shard = SHARD.match(name)
    if shard is None:
        return ()
    stem, variant = shard[1], shard[2]
    plain = f"{stem}{variant or ''}{INDEX_SUFFIX}"
    return (
        (f"{stem}.safetensors.index{variant}.json", plain) if variant else (plain,)
    )  # Hugging Face's, and the simpler


def refuse_other_kinds(path: Path) -> None:
    """Raises ValueError for what is no model at all, or one of another kind than its name says.

    A download "again" would bring the same, and cost gigabytes.
    """
    with open(path, "rb") as f:
        start = f.read(START)
    name, size = path.name, path.stat().st_size
    if start.startswith(LFS_POINTER):
        raise ValueError(
            f"{name}: a pointer of Git LFS of {size:,} bytes, not the model. Run git lfs pull in its folder, or "
            "download the file itself"
        )
    # The length of such a header may happen to be the first bytes of another kind.
    is_safetensors = start[4:9] == SAFETENSORS_START
    starts = ((start[:4], "a safetensors file", SAFETENSORS_SUFFIXES),) if is_safetensors else STARTS
    for first, what, suffixes in starts:
        if start.startswith(first) and not name.lower().endswith(suffixes):
            remedy = f"Rename it so that it ends in {suffixes[0]}" if suffixes else "Unpack it"
            raise ValueError(f"{name}: this is {what} under another kind's name. {remedy}")
    _refuse_text(name, start, size)


def _refuse_text(name: str, start: bytes, size: int) -> None:
    """Raises ValueError for a page, an error or other text, but for the JSON of an index."""
    text = _text_of(start, whole=size == len(start))
    if not text or not all(c.isprintable() or c.isspace() for c in text) or text.startswith("GGUF"):
        return
    if text.startswith("<"):
        raise ValueError(
            f"{name}: this is a web page, not a model: the site wanted a log-in or a consent. Open the link in a "
            "browser, and download the file there"
        )
    if is_index(name):
        return
    said = text
    try:
        found = json.loads(text)
        said = next((found[key] for key in ("error", "message", "detail") if key in found), text)
    except (ValueError, TypeError, RecursionError):
        pass  # other text
    raise ValueError(
        f"{name}: holds text of {size:,} bytes, not a model: {short(said)}. Download the file itself; a site that "
        "refuses wants a log-in or a consent first"
    )


def _text_of(start: bytes, whole: bool) -> str:
    """Empty where it is none."""
    try:
        return codecs.getincrementaldecoder("utf-8-sig")().decode(start, final=whole).strip()
    except UnicodeDecodeError:
        text = start.decode("latin-1").strip()  # old pages
        return text if text.startswith("<") else ""
