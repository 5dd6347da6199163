"""Commands for a shell, one file each, thin over the pack's folders: `python tools NAME`, in the pack's folder."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

PACK = "chroma_pack"


def load_pack(module: str = "") -> Any:
    """The pack or a module of it, whatever its folder is called; no host is needed for that."""
    root = Path(__file__).resolve().parent.parent
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK, root / "__init__.py", submodule_search_locations=[str(root)]
        )
        package = importlib.util.module_from_spec(spec)
        sys.modules[PACK] = package
        spec.loader.exec_module(package)
    return importlib.import_module(f"{PACK}.{module}" if module else PACK)
