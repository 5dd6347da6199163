"""Prepares what travels to a machine with a card and no network: ComfyUI, packages for its Python, this repository.

    python -m benchmarks.gpu.pack --to DIR [--python 3.12] [--no-repository]

Run it where `python dev.py setup` has run. DIR then has packages.tar.xz (kept for the next time), repository.tar.gz,
commit.txt and start.py; their sizes are printed, and more than LIMIT is refused.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import dev

from . import rig, start

LIMIT = 64 * 2**20  # bytes of all files together
# What ComfyUI and the parts import beyond an image with PyTorch, transformers and the usual scientific packages.
PACKAGES = (
    *("comfy-kitchen", "comfy-aimdo", "torchsde", "trampoline", "gguf", "diffusers", "importlib-metadata"),
    *("requests", "urllib3", "idna", "certifi", "charset-normalizer"),  # of diffusers; transformers 5 no longer
    *("httpx", "httpcore", "h11", "anyio"),  # brings any of these
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
LEFT_OUT = ("comfy_kitchen/backends/hip/_C.abi3.so",)  # kernels for another maker's cards
HOST_LEFT_OUT = {  # at the top of ComfyUI's folder; below it there are modules of the same names
    *("tests", "tests-unit", "blueprints", "custom_nodes", "input", "models", "output", "temp", "user"),
    *("openapi.yaml", ".git", ".github", "comfy_api_nodes", "script_examples"),
}
CACHE = "__pycache__"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--python", default="3.12", help="version of the other machine's Python")
    parser.add_argument("--no-repository", action="store_true", help="where the checkout itself travels")
    arguments = parser.parse_args()
    to = arguments.to.resolve()
    to.mkdir(parents=True, exist_ok=True)
    packages(to / start.PACKAGES, arguments.python)
    (to / start.REPOSITORY).unlink(missing_ok=True)
    if not arguments.no_repository:
        repository(to / start.REPOSITORY)
    (to / start.COMMIT).write_text(rig.commit() + "\n")
    shutil.copyfile(start.__file__, to / "start.py")
    return told(to)


def told(to: Path) -> int:
    """Prints the sizes; 1 if all is larger than LIMIT."""
    sizes = {path.name: path.stat().st_size for path in sorted(to.iterdir()) if path.suffix != ".json"}
    for name, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{total / 2**20:8.2f} MiB  of at most {LIMIT / 2**20:.0f}")
    if total <= LIMIT:
        return 0
    print("too much: give --no-repository and let the checkout travel in a call of its own", file=sys.stderr)
    return 1


def packages(path: Path, python: str) -> None:
    """ComfyUI and the wheels, unpacked and packed together; nothing is done where that is there already."""
    wanted = {
        "host": dev.host_version(),
        "python": python,
        "left out": [*LEFT_OUT, CACHE, "tokenizers of text_encoders", *(f"/{name}" for name in sorted(HOST_LEFT_OUT))],
    }
    wanted |= {name: version(name) for name in PACKAGES}
    key = json.loads(json.dumps(wanted))
    note = path.with_name("packages.json")
    if path.exists() and note.exists() and json.loads(note.read_text()) == key:
        return
    with tempfile.TemporaryDirectory() as folder:
        wheels = fetch(Path(folder), python)
        print(f"packing ComfyUI and {len(wheels)} wheels; this takes minutes, once", flush=True)
        partial = path.with_suffix(".partial")
        with tarfile.open(partial, "w:xz", preset=6) as archive:
            add_host(archive)
            archive.add(Path(__file__).with_name("av_stand_in.py"), f"{start.SITE}/av.py")
            for wheel in wheels:
                add_wheel(archive, wheel)
        partial.replace(path)
    note.write_text(json.dumps(key))


def fetch(folder: Path, python: str) -> list[Path]:
    """The wheels of PACKAGES for that Python, in the versions that this environment has."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "download", "--no-deps", "-d", folder]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    command += [part for name in PLATFORMS for part in ("--platform", name)]
    subprocess.run([*map(str, command), *(f"{name}=={version(name)}" for name in PACKAGES)], check=True)
    return sorted(folder.glob("*.whl"))


def add_wheel(archive: tarfile.TarFile, wheel: Path) -> None:
    """A wheel's files under the folder of packages; unpacked, since they compress better so."""
    with zipfile.ZipFile(wheel) as content:
        for name in content.namelist():
            if name.endswith("/") or name in LEFT_OUT:
                continue
            data = content.read(name)
            entry = tarfile.TarInfo(f"{start.SITE}/{name}")
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))


def add_host(archive: tarfile.TarFile) -> None:
    """ComfyUI's folder, as far as the parts need it."""
    archive.add(dev.host_path().resolve(), start.HOST, filter=without_extras)


def without_extras(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """An entry of ComfyUI's folder, or None for what no part reads: tokenizers are a sixth of all that travels."""
    names = entry.name.split("/")[1:]
    is_extra = names[:1] and names[0] in HOST_LEFT_OUT or CACHE in names
    of_texts = names[:2] == ["comfy", "text_encoders"]
    is_tokenizer = of_texts and any("tokenizer" in n and "." not in n for n in names[2:])
    return None if is_extra or is_tokenizer else entry


def repository(path: Path) -> None:
    """What git has at HEAD."""
    command = ["git", "archive", "--format=tar.gz", f"--prefix={start.PACK}/", "-o", str(path), "HEAD"]
    subprocess.run(command, cwd=dev.ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
