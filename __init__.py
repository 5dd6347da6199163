"""Chroma for ComfyUI: a loader, the transformer and what belongs to them. Without a host this is a plain package."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

REQUIRED_HOST = "0.30.0"
NOT_LOADED = "Chroma Pack: not loaded, none of its nodes is there."


def host_version() -> str:
    """The host's version; empty without a host, or if it does not tell."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return ""
    return __version__


def is_older(version: str, required: str) -> bool:
    """Whether a version as `0.29.1` comes before another; one without numbers does not."""
    found, needed = ([int(n) for n in re.findall(r"\d+", text)[:3]] for text in (version, required))
    return bool(found) and found + [0] * (3 - len(found)) < needed


def problem(error: ImportError | AttributeError) -> str:
    """One line for a user: what is missing, and the remedy."""
    from .host.required_names import (
        PACKAGES as HOST_PACKAGES,  # here: pytest imports this file alone, without its package
    )

    package = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package and package not in HOST_PACKAGES:
        requirements = Path(__file__).resolve().parent / "requirements.txt"
        return (
            f"{NOT_LOADED} The Python package {package} is missing. Install it into ComfyUI's Python and restart: "
            f'"{sys.executable}" -m pip install -r "{requirements}"'
        )
    return (
        f"{NOT_LOADED} It is written for ComfyUI {REQUIRED_HOST} and newer; this one, {host_version()}, lacks something "
        f"({error}). Update ComfyUI and this pack, and restart"
    )


TOO_OLD = is_older(host_version(), REQUIRED_HOST)
TOO_OLD_TEXT = (
    f"{NOT_LOADED} It needs ComfyUI {REQUIRED_HOST} or newer, this is {host_version()}. Update ComfyUI and restart"
)
# A second copy of this pack would register routes, samplers and nodes again; the host asks for WEB_DIRECTORY on import.
FOLDER = os.path.dirname(os.path.abspath(__file__))
IN_USE = getattr(sys.modules.setdefault("chroma_pack_in_use", sys.modules.get(__name__)), "FOLDER", FOLDER)
IS_SECOND = IN_USE != FOLDER
SECOND_TEXT = f"Chroma Pack: the copy in {FOLDER} is not loaded, since the one in {IN_USE} is in use. Remove one of the two and restart"
WEB_DIRECTORY = None if TOO_OLD or IS_SECOND else "./web"

if TOO_OLD and "comfy_api.latest" not in sys.modules:  # a host so old that it will not call comfy_entrypoint
    logging.error(TOO_OLD_TEXT)


async def comfy_entrypoint() -> Any:
    """The host's way in (V3).

    raises: RuntimeError before anything is registered, where the host or a package lacks something or another copy of
            this pack is in use. The host logs its text as one line and lists the pack as failed.
    """
    if IS_SECOND:
        raise RuntimeError(SECOND_TEXT)
    if TOO_OLD:
        raise RuntimeError(TOO_OLD_TEXT)
    try:
        from .nodes import ChromaExtension

        extension = ChromaExtension()
        await extension.get_node_list()
    except (ImportError, AttributeError) as error:
        logging.debug("Chroma Pack", exc_info=True)
        raise RuntimeError(problem(error)) from error
    return extension


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
