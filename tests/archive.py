"""Which files the registry's archive holds, by the rules of comfy-cli: those of git, less those that .comfyignore names."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import support


def files() -> list[str]:
    """Paths of the repository with forward slashes, those that are not committed yet too; a skip outside of git."""
    command = ["git", "-c", "core.quotePath=off", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(command, cwd=support.ROOT, capture_output=True, check=True).stdout.decode().splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this folder is no git repository")
    return sorted(name for name in set(found) if (support.ROOT / name).is_file())


def ignored() -> list[str]:
    """The lines of .comfyignore without comments; each begins with a slash, folders end with one."""
    lines = (support.ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def is_ignored(name: str, rule: str) -> bool:
    return f"/{name}".startswith(rule) if rule.endswith("/") else f"/{name}" == rule


def packed() -> list[str]:
    return [name for name in files() if not any(is_ignored(name, rule) for rule in ignored())]


def write(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in packed():
            archive.write(support.ROOT / name, name)
    return path


def copy(folder: Path) -> Path:
    """The repository's files in a git repository of their own, which is what comfy-cli packs."""
    for name in files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(support.ROOT / name, folder / name)
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder
