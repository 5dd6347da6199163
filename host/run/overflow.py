"""Numbers beyond float16's range: which blocks had to cut some, told once when a run has ended."""

from __future__ import annotations

import logging
from typing import Any, Callable, Mapping

import torch
from torch import Tensor

from ...chroma_model.ops import FP16_MAX, clamp_fp16

OPTION = "chroma_overflow"  # where a run's flags stand in transformer_options


class Flags:
    """(kind of block, index) -> a bool on the device, whether a result of it held what float16 cannot. No dict, which the host
    would copy for each step."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, int], Tensor] = {}


def clamp(x: Tensor, options: Mapping[str, Any] | None = None) -> Tensor:
    """The network's clamp, which notes where it changed something; nothing waits for the device. Not in a compiled network."""
    flags: Flags | None = (options or {}).get(OPTION)
    if flags is not None and x.dtype == torch.float16 and not torch.compiler.is_compiling():
        place = options.get("block_type", ""), options.get("block_index", 0)
        found = ~torch.isfinite(x).all()
        before = flags.found.get(place)
        flags.found[place] = found if before is None else before | found.to(before.device)
    return clamp_fp16(x, options)


def tell_overflow(file: str) -> Callable[..., Any]:
    """An OUTER_SAMPLE wrapper that warns of the blocks whose results were cut in this run."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        flags = Flags()
        executor.class_obj.model_options["transformer_options"][OPTION] = flags
        out = executor(*args, **kwargs)
        places = [f"{kind} block {index}" for (kind, index), cut in flags.found.items() if bool(cut)]
        if places:
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            logging.warning(
                "%s: numbers beyond float16's %g were cut in %s%s, which changes the picture. Choose bf16 or fp32 as precision",
                file,
                FP16_MAX,
                places[0],
                more,
            )
        return out

    return wrapper
