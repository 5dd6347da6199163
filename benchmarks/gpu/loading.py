"""How long from a file in the page cache to the model, and to the end of the first step."""

from __future__ import annotations

import time
from typing import Any, Callable, Iterator

from .rig import GB, Rig
from .streaming import model

STORED = ("auto", "fp8_scaled", "int8_convrot")
CFG = 3.5


def cases(rig: Rig) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for stored in rig.some(STORED):
        yield f"ours {stored}", lambda stored=stored: timed(rig, "ours", stored)
    yield "ComfyUI bf16", lambda: timed(rig, "ComfyUI", "bf16")


def timed(rig: Rig, whose: str, stored: str) -> dict[str, Any]:
    """Seconds of loading and of the first and the second step, the file read once before."""
    import torch

    path = rig.file()
    with path.open("rb") as f:
        while f.read(1 << 26):
            pass
    if rig.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(rig.device)
    start = time.perf_counter()
    patcher = model(rig, whose, stored)
    rig.sync()
    found: dict[str, Any] = {"file GB": path.stat().st_size / GB, "load s": time.perf_counter() - start}
    for step in ("first", "second"):
        start = time.perf_counter()
        rig.sample(patcher, 1, CFG)
        rig.sync()
        found[f"{step} step s"] = time.perf_counter() - start
    if rig.device.type == "cuda":
        found["peak GB"] = torch.cuda.max_memory_allocated(rig.device) / GB
    return found
