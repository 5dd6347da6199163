"""The alphas that diffusers keeps for a LoRA's layers in a file's metadata, instead of in tensors.

Source: diffusers loaders/lora_base.py (LORA_ADAPTER_METADATA_KEY), PEFT LoraConfig and get_pattern_key.
"""

from __future__ import annotations

import json
import math
from typing import Any, Callable, Mapping

from ..files.error_text import name_problem, reason, short
from .layer_names import unwrapped

METADATA = "lora_adapter_metadata"
MAX_ALPHA = 1e6  # 1 to 256 are usual; products with weights stay within float32

AlphaOf = Callable[[str, int], "float | None"]  # (layer, rank) -> alpha, None where there is none


def metadata_alpha(metadata: Mapping[str, str]) -> AlphaOf:
    """Each layer's alpha from a file's metadata.

    raises: ValueError if they are damaged, or name layers by a regular expression: some would never finish matching.
    """
    try:
        entries = json.loads(metadata.get(METADATA, "{}"))
        config = {k.removeprefix("transformer."): v for k, v in entries.items()}
        found = config.get("lora_alpha")
        default = None if found is None else _alpha(found)
        alphas = {key: _alpha(value) for key, value in dict(config.get("alpha_pattern") or {}).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the metadata {METADATA} is damaged ({reason(error)}). Download the file again") from error
    patterns = [(_end(key), value) for key, value in alphas.items()]
    places = {end: i for i, (end, _) in reversed(list(enumerate(patterns)))}  # as in PEFT, the first that fits counts

    def alpha(layer: str, rank: int) -> float | None:
        parts = layer.split(".")
        ends = [".".join(parts[i:]) for i in range(len(parts))]
        first = min(
            (places[end] for end in ("^" + layer, "^" + unwrapped(layer), *ends) if end in places), default=None
        )
        value = default if first is None else patterns[first][1]
        # rank-stabilised LoRA divides alpha by the root of the rank; the host always divides by the rank
        return value if value is None or not config.get("use_rslora") else value * rank**0.5

    return alpha


def _alpha(found: Any) -> float:
    value = float(found)
    if not math.isfinite(value) or abs(value) > MAX_ALPHA:
        raise ValueError(f"an alpha of {short(found)}")
    return value


def _end(pattern: str) -> str:
    """A PEFT pattern as the end of the layer names that it matches; with ^ in front, as the whole name.

    raises: ValueError if it is more than a name.
    """
    name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not name or name_problem(name) or not ("_" + name.replace(".", "_")).isidentifier():
        raise ValueError(
            f"the metadata {METADATA} has the alpha_pattern {short(pattern)}, a regular expression; only names of "
            "layers and their ends are read. Take a LoRA that keeps its alphas as tensors"
        )
    return "^" + name if pattern.startswith("^") else name
