"""Chroma for ComfyUI: a loader, the transformer and what belongs to them. Without a host this is a plain package."""

from __future__ import annotations

import logging
from typing import Any

WEB_DIRECTORY = "./web"
REQUIRED_HOST = "0.30.0"


async def comfy_entrypoint() -> Any:
    """The host's way in (V3). On a host that is too old it says so and registers nothing."""
    try:
        from .nodes import ChromaExtension
    except ImportError:
        logging.exception("Chroma pack: not loaded. It needs ComfyUI %s or newer; update ComfyUI", REQUIRED_HOST)
        raise
    return ChromaExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
