"""Unpacks what `benchmarks.gpu.pack` made, on the machine with the card, and starts. Standard library only.

    python3 DIR/start.py --out RESULTS [arguments of `python -m benchmarks.gpu`]

Where DIR has no repository, the checkout is the current folder. Everything is unpacked to a temporary folder that a
second start finds again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

PACKAGES, REPOSITORY, COMMIT = "packages.tar.xz", "repository.tar.gz", "commit.txt"
HOST, SITE, PACK = "ComfyUI", "site", "chroma-pack"  # folders when unpacked


def unpack(archive: Path, to: Path) -> None:
    """Unpacks once: a file beside it says that it is whole, and of which archive."""
    done, stamp = to / f"{archive.name}.done", f"{archive.stat().st_size} {archive.stat().st_mtime_ns}"
    if done.exists() and done.read_text() == stamp:
        return
    start = time.monotonic()
    with tarfile.open(archive) as content:
        content.extractall(to, filter="data")
    done.write_text(stamp)
    print(f"{archive.name}: unpacked in {time.monotonic() - start:.0f} s", flush=True)


def main() -> int:
    here = Path(__file__).resolve().parent
    to = Path(tempfile.gettempdir()) / "chroma-pack-travelled"
    to.mkdir(exist_ok=True)
    unpack(here / PACKAGES, to)
    checkout = Path.cwd()
    if (here / REPOSITORY).exists():
        unpack(here / REPOSITORY, to)
        checkout = to / PACK
    arguments = sys.argv[1:]
    if "--out" in arguments:  # relative to where this was called
        at = arguments.index("--out") + 1
        arguments[at] = str(Path(arguments[at]).resolve())
    environment = {
        **os.environ,
        "COMFYUI_PATH": str(to / HOST),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(to / SITE), os.environ.get("PYTHONPATH")))),
        "CHROMA_PACK_COMMIT": (here / COMMIT).read_text().strip(),
    }
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=checkout, env=environment
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
