"""What the commands share: codes at their end, errors of arguments in one line, a pack that lacks a package, devices."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any, NoReturn

from . import load_pack

FAILED, WRONG_ARGUMENTS, INTERRUPTED = 1, 2, 130


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog.split()[-1]}: {message}. See {self.prog} --help", file=sys.stderr)
        sys.exit(WRONG_ARGUMENTS)


def loaded(command: str, module: str) -> Any:
    """A module of the pack, or the end with what it lacks."""
    try:
        return load_pack(module)
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{command}: the package {error.name} is missing in this Python ({sys.executable}). Run it with ComfyUI's "
            f"Python, or: {sys.executable} -m pip install -r requirements.txt"
        ) from None


def escape_what_cannot_be_shown() -> None:
    """A name that the console's encoding lacks must not end a command after its work; standard error does so by itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def can_be_shown(text: str) -> bool:
    """Whether standard output's encoding has all of it."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def refuse_to_replace(p: argparse.ArgumentParser, target: Path, *sources: Path | None) -> None:
    """Ends the command where what it writes would replace a file that it reads, or a part of one."""
    files_of = loaded(p.prog.split()[-1], "loaders.files.read").files_of
    for source in sources if target.exists() else ():
        try:
            files = files_of(source) if source is not None else []
        except (ValueError, OSError):  # the reader tells what is wrong with it
            files = [source]
        if any(file.is_file() and file.samefile(target) for file in files):
            p.error(f"{target} is the file to read, or a part of it. Choose another name")


def device(p: argparse.ArgumentParser, name: str) -> str:
    """name, if this PyTorch can compute there."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        p.error(f"--device {name} cannot be used ({str(error).splitlines()[0]})")
    return name


def out_of_memory(device: str) -> str:
    """What helps against torch's OutOfMemoryError, which only other devices than the CPU raise."""
    return f"the memory of {device} is too small for it. Close what else uses it, or use --device cpu"
