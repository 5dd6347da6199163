"""What a written file says of itself: the source's still valid metadata, and the record of how it was made."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, Iterable, Mapping

from ...chroma_model.block_lists import Block, blocks_text
from ..files.error_text import name_problem
from ..files.gguf import ORIGINAL_SHAPE
from ..formats.base.format import GGUF
from ..formats.base.kept_layers import KEPT_PARTS
from ..formats.base.registry import EXPORTS
from ..tensor_info import METADATA_MARKERS
from .detect_variant import Detection
from .keys import METADATA_PREFIX

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
# Metadata that described the source file and not the model.
OUTDATED = (METADATA_MARKERS, METADATA_PREFIX, ORIGINAL_SHAPE, "modelspec.hash_sha256", "sshs_", "split.")
GGUF_OWN = ("general.architecture", "general.quantization_version", "general.file_type", "general.alignment")


def kept_metadata(metadata: Mapping[str, Any], container: str) -> dict[str, Any]:
    """What a source's metadata says of the model, as the container can hold it; arrays and keys that are no names are left out."""
    left_out = (*OUTDATED, *GGUF_OWN) if container == GGUF else (*OUTDATED, *GGUF_OWN, "comfy.gguf.")
    return {
        key: value
        for key, value in metadata.items()
        if not key.startswith(left_out) and isinstance(value, (str, bool, int, float)) and name_problem(key) is None
    }


def own_metadata(
    source_name: str, detection: Detection, format_name: str, full_precision: bool, more_bits: Iterable[Block] = ()
) -> dict[str, str]:
    """The record of how a file was made, and what the model's markers say."""
    config = detection.config
    entries = {
        "writer": f"chroma-pack {version()}",
        "source": source_name,
        "format": format_name,
        "variant": detection.variant,
        "kept": ", ".join(KEPT_PARTS[detection.variant]),
        "prediction": config.prediction,
        "text_ids": config.text_ids,
    }
    if config.left_out:
        entries["left_out"] = blocks_text(config.left_out)
    if more_bits:
        entries["more_bits"] = blocks_text(more_bits)
    matmul = EXPORTS[format_name].format.matmul
    if matmul is not None and matmul.scaled_here:
        entries["full_precision_matrix_mult"] = str(full_precision).lower()
    return {METADATA_PREFIX + key: value for key, value in entries.items()}


@functools.lru_cache
def version() -> str:
    """This pack's."""
    found = re.search(r'^version = "(.+)"', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(1) if found else "of unknown version"
