"""The pictures that the demo learns from: named things, each in three styles, from free emoji sets.

    python -m demo.things

fetches three packages by `npm pack` (pinned, hashes checked), renders what is SVG and keeps all as sprites beside the
other downloads. Only training needs it, and the packages `pillow` and `resvg-py`. `things.csv` lists names and code
points, the best known things first; the names are those of Unicode's CLDR, some shortened.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import tarfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import dev

STYLES = ("3D", "flat", "drawn")
SPRITE = 256  # pixels a side
MARGIN = 4  # pixels of it left free around the thing
LEVELS = (256, 128, 64, 32)  # sizes that are kept, so that shrinking needs no more than a factor of two at a time
HELD_OUT_SHARE = 0.1  # of all (thing, style), never shown in training
NUM_FIRST = 100  # lines of things.csv: the things that the model is to know; it began with more


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    sha256: str
    licence: str

    @property
    def file(self) -> str:
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = {
    "3D": Package(
        "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58", "MIT"
    ),
    "flat": Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT",
    ),
    "drawn": Package(
        "@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", "Apache-2.0"
    ),
}


@lru_cache(maxsize=1)
def table() -> tuple[tuple[str, str], ...]:
    """(name, code points in hexadecimal) of every thing, the best known first."""
    with (Path(__file__).parent / "things.csv").open(encoding="utf-8", newline="") as f:
        return tuple((row["name"], row["code"]) for row in csv.DictReader(f))


def names() -> list[str]:
    return [name for name, _ in table()]


def is_held_out(thing: str, style: str) -> bool:
    """Whether this (thing, style) is kept out of training; fixed for ever by a checksum."""
    return zlib.crc32(f"{thing}/{style}".encode()) % 1000 < 1000 * HELD_OUT_SHARE


class Sprites:
    """Pictures with alpha of all things, at several sizes.

    levels: size -> (N, 3, size, size, 4) uint8, N things in the order of `names`, styles in that of STYLES; colours are
            multiplied by alpha.
    """

    def __init__(self, names: list[str], levels: dict[int, np.ndarray]):
        self.names, self.levels = names, levels
        self.index = {name: i for i, name in enumerate(names)}

    def take(self, picks: list[tuple[str, str]], size: int) -> Tensor:
        """(B, 4, size, size) float32 in [0, 1] of (thing, style) pairs."""
        stored = self.levels[size]
        found = np.stack([stored[self.index[thing], STYLES.index(style)] for thing, style in picks])
        return torch.from_numpy(found).permute(0, 3, 1, 2).float() / 255


def folder() -> Path:
    return dev.cache_dir() / "things"


def paths() -> dict[int, Path]:
    """Where the sprites of each size are kept."""
    tag = hashlib.sha256(repr((table(), PACKAGES, SPRITE, MARGIN, LEVELS)).encode()).hexdigest()[:8]
    return {size: folder() / f"sprites-{size}-{tag}.npy" for size in LEVELS}


def kept() -> Sprites | None:
    """All sprites, mapped from the cache; None if they are not there."""
    if not all(path.exists() for path in paths().values()):
        return None
    return Sprites(names(), {size: np.load(path, mmap_mode="r") for size, path in paths().items()})


def load() -> Sprites:
    """The same, made there first if they are not."""
    found = kept()
    if found is None:
        render(paths())
        found = kept()
    return found


def fetch(package: Package) -> Path:
    """The package's archive, from the cache or by npm."""
    where = folder() / "packages"
    where.mkdir(parents=True, exist_ok=True)
    path = where / package.file
    if not path.exists():
        subprocess.run(["npm", "pack", f"{package.name}@{package.version}"], cwd=where, check=True, capture_output=True)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package.sha256:
        raise ValueError(f"{path}: SHA-256 is {found}, expected {package.sha256}. Delete it and fetch again")
    return path


def without_selectors(code: str) -> str:
    """A code point sequence without variation selectors, which the sets use differently."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def read_webp(package: Package) -> dict[str, bytes]:
    """Code -> picture file."""
    with tarfile.open(fetch(package)) as archive:
        return {
            without_selectors(Path(member.name).stem): archive.extractfile(member).read()
            for member in archive
            if member.name.endswith(".webp")
        }


def read_svg(package: Package) -> dict[str, bytes]:
    """Code -> SVG file, from a set in Iconify's JSON."""
    with tarfile.open(fetch(package)) as archive:
        chars, icons = (
            json.load(archive.extractfile(f"package/{name}.json")) for name in ("chars", "icons")
        )  # code -> icon; icon -> body
    size = icons["width"]
    return {
        without_selectors(code): f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {size} {size}">{icons["icons"][icon]["body"]}</svg>'.encode()
        for code, icon in chars.items()
        if icon in icons["icons"]
    }


def rasterise(file: bytes) -> np.ndarray:
    """(SPRITE, SPRITE, 4) float32 in [0, 1], colours multiplied by alpha; cut to the thing and centred."""
    from PIL import Image

    if file.startswith(b"<svg"):
        import resvg_py

        file = bytes(resvg_py.svg_to_bytes(svg_string=file.decode(), width=2 * SPRITE, height=2 * SPRITE))
    picture = Image.open(io.BytesIO(file)).convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox()
    picture = picture.convert("RGBa").crop(box)
    scale = (SPRITE - 2 * MARGIN) / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = np.asarray(picture.resize((width, height), Image.LANCZOS), np.float32) / 255
    sprite = np.zeros((SPRITE, SPRITE, 4), np.float32)
    top, left = (SPRITE - height) // 2, (SPRITE - width) // 2
    sprite[top : top + height, left : left + width] = picture
    return sprite


def render(paths: dict[int, Path]) -> None:
    """Writes every size of every sprite, under temporary names first."""
    files = {style: (read_webp if style == "3D" else read_svg)(package) for style, package in PACKAGES.items()}
    partial = {size: path.with_suffix(".partial") for size, path in paths.items()}
    stored = {
        size: np.lib.format.open_memmap(path, "w+", np.uint8, (len(table()), len(STYLES), size, size, 4))
        for size, path in partial.items()
    }
    for i, (_, code) in enumerate(table()):
        for j, style in enumerate(STYLES):
            sprite = rasterise(files[style][code])
            for size in LEVELS:
                n = SPRITE // size
                small = sprite.reshape(size, n, size, n, 4).mean((1, 3))
                stored[size][i, j] = np.clip(small * 255 + 0.5, 0, 255).astype(np.uint8)
    for size, path in paths.items():
        stored[size].flush()
        partial[size].replace(path)


if __name__ == "__main__":
    sprites = load()
    print(f"{len(sprites.names)} things in {len(STYLES)} styles in {folder()}")
