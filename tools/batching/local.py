"""A ComfyUI of this machine, started for a batch and ended with it. Standard library only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

END_SECONDS = 30
HERE = Path(__file__).absolute().parent.parent.parent  # this pack, not resolved: it may be linked into custom_nodes


def find_comfyui() -> Path:
    """ComfyUI's folder: that in COMFYUI_PATH, else the one around this pack. raises: ValueError if there is none."""
    given = os.environ.get("COMFYUI_PATH", "")
    around = HERE.parent.parent if HERE.parent.name == "custom_nodes" else None
    for folder in (Path(given).expanduser() if given else None, around):
        if folder is not None and (folder / "main.py").is_file():
            return folder
    place = f"{around} around this pack has no main.py" if around else f"{HERE} is in no custom_nodes"
    found = f"COMFYUI_PATH is {given}, which has none" if given else "COMFYUI_PATH is not set"
    raise ValueError(
        f"ComfyUI was not found: {place}, and {found}. Set COMFYUI_PATH to the folder with ComfyUI's main.py (and give "
        "what it is started with, as a --base-directory, by --comfyui), or the address of one that runs by --server"
    )


def has_device() -> bool:
    """Whether this Python's PyTorch has anything but a CPU."""
    import torch

    return any(device.is_available() for device in (torch.cuda, torch.backends.mps, torch.xpu))


class LocalServer:
    """A ComfyUI on a free port of this machine; `start` again after it has ended."""

    def __init__(self, log: Path, arguments: list[str]):
        """arguments: ComfyUI's own."""
        self.folder, self.log = find_comfyui(), log
        self.arguments = [*arguments, *([] if "--cpu" in arguments or has_device() else ["--cpu"])]
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        own = ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch"]
        python = [sys.executable, "-X", "utf8", "-u"]  # Windows portable's takes no PYTHONUTF8
        command = [*python, str(self.folder / "main.py"), *own, *self.arguments]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(tied(command), stdout=log, stderr=subprocess.STDOUT)

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def tail(self, lines: int = 10) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def end(self) -> None:
        if self.process is not None:
            end(self.process)


def heed_signals() -> None:
    """What would end this process ends its children too: SIGTERM and SIGHUP become what Ctrl+C is."""
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)


def tied(command: list[str]) -> list[str]:
    """The command, ended by Linux itself when its parent was killed with no time to end it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", *command] if setpriv else command


def end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
