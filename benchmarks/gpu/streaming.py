"""What a card of 8, 12 or 16 GB costs: a ballast leaves that much free, and ComfyUI streams what does not fit."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator

from .rig import GB, Rig

LIMITS = (8, 12, 16)  # GB left free
STORED = ("bf16", "int8_convrot", "q8_0")
STEPS, CFG = 3, 3.5


def cases(rig: Rig) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "dynamic VRAM on and off", lambda: on_and_off(rig)
    for limit in rig.some(LIMITS):
        for stored in rig.some(STORED):
            yield f"{limit} GB, ours {stored}", lambda a=limit, b=stored: limited(rig, a, "ours", b)
        yield f"{limit} GB, ComfyUI bf16", lambda a=limit: limited(rig, a, "ComfyUI", "bf16")


def model(rig: Rig, whose: str, stored: str, dynamic: bool = True) -> Any:
    """A MODEL from the file, by our loader or by ComfyUI's way with the sizes that the file has."""
    import dev

    rig.free()
    path = str(rig.file())
    if whose == "ours":
        return dev.load_pack("host.model.load").load_chroma(path, stored, disable_dynamic=not dynamic)
    if not rig.rehearse:
        return rig.comfy.sd.load_diffusion_model(path, disable_dynamic=not dynamic)
    weights = {k: w.to(rig.dtype) for k, w in rig.weights().items()}  # ComfyUI's detection knows the full size alone
    return rig.models.native_patcher(rig.comfy, rig.config, weights)


def on_and_off(rig: Rig) -> dict[str, Any]:
    """Distance of a run with streamed weights, the smallest limit, from one with all of them in the card's memory."""
    found = {}
    for stored in rig.some(STORED):
        resident = rig.sample(model(rig, "ours", stored, dynamic=False), STEPS, CFG)
        if rig.rehearse:
            found[stored] = rig.support.relative(by_buffers(rig, stored), resident)
            continue
        with only_free(rig, LIMITS[0]):
            found[stored] = rig.support.relative(rig.sample(model(rig, "ours", stored), STEPS, CFG), resident)
    return found


def by_buffers(rig: Rig, stored: str) -> Any:
    """The same run with every packed layer's weight brought through buffers on the CPU at each use."""
    import pytest
    import vbar

    patcher = model(rig, "ours", stored)
    with pytest.MonkeyPatch.context() as monkeypatch:
        buffers, plain = vbar.Buffers(monkeypatch, room=False), rig.comfy.ops.cast_bias_weight
        for layer in patcher.model.diffusion_model.modules():
            if getattr(layer, "quant_format", None):
                buffers.hold(layer)
        held = rig.comfy.ops.cast_bias_weight
        monkeypatch.setattr(
            rig.comfy.ops, "cast_bias_weight", lambda s, *a, **k: (held if hasattr(s, "_v") else plain)(s, *a, **k)
        )
        return rig.sample(patcher, STEPS, CFG)


@contextlib.contextmanager
def only_free(rig: Rig, limit: float) -> Iterator[None]:
    """So many GB of the card's memory are left free, by a plain allocation of the rest."""
    import torch

    ballast = None
    if rig.device.type == "cuda":
        rig.free()
        free, _ = torch.cuda.mem_get_info(rig.device)
        ballast = torch.empty(max(0, int(free - limit * GB)), dtype=torch.uint8, device=rig.device)
    try:
        yield
    finally:
        del ballast
        rig.free()


def limited(rig: Rig, limit: int, whose: str, stored: str) -> dict[str, Any]:
    """Seconds of a step (two prompts) under the limit: of the first, which may load, and of those after it."""
    import time

    marks: list[float] = []

    def note(*_: Any) -> None:
        rig.sync()
        marks.append(time.perf_counter())

    with only_free(rig, limit):
        patcher = model(rig, whose, stored)
        start = time.perf_counter()
        rig.sample(patcher, STEPS, CFG, callback=note)
        del patcher
    later = [b - a for a, b in zip(marks, marks[1:])]
    return {"first step s": marks[0] - start, "step s": min(later), "steps": later}
