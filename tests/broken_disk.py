"""A disk that fails in the middle of a safetensors file's tensors."""

import errno
import os
from pathlib import Path

import safetensors
import support

WHY = os.strerror(errno.EIO)
# As the system's error is, and as safetensors tells it: without number and name.
ERRORS = {"number": (errno.EIO, WHY), "text": (f"{WHY} (os error {errno.EIO})",)}


def told(name, kind="number"):
    """What the pack says of it."""
    return f"{name}: it cannot be read ({ERRORS[kind][-1]}). Look at the disk, and whether ComfyUI may read the file"


def fails(monkeypatch, name, at, kind="number"):
    """Has the disk fail at the tensor of this number, from 0, of the file of this name, whoever reads it."""
    opening = safetensors.safe_open

    class Opened:
        def __init__(self, path, **how):
            self.file = opening(path, **how)
            self.left = at if Path(path).name == name else None

        def __enter__(self):
            self.tensors = self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def keys(self):
            return self.tensors.keys()

        def get_tensor(self, tensor):
            if self.left == 0:
                raise OSError(*ERRORS[kind])
            if self.left is not None:
                self.left -= 1
            return self.tensors.get_tensor(tensor)

    monkeypatch.setattr(safetensors, "safe_open", Opened)
    monkeypatch.setattr(support.dev.load_pack("loaders.files.read"), "safe_open", Opened)
