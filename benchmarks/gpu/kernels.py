"""What fused kernels would save of a forward: comfy-kitchen's that are there, and Inductor's, against plain PyTorch.

Counts are those of one forward. A kernel is worth a place in the model from 3 % of a forward.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator

from .rig import Rig

REPEATS = 20
NEWER = ("int8_linear_modulated", "int8_linear_rms_modulated", "rms_gated_residual")


def cases(rig: Rig) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "norm and modulate", lambda: norm_modulate(rig)
    yield "norm of q, k and rotary", lambda: norm_rope(rig)
    yield "gated residual", lambda: gated_residual(rig)
    yield "GELU and cat", lambda: gelu_cat(rig)
    for name in NEWER:
        yield name, lambda name=name: there(name)


def there(name: str) -> dict[str, Any]:
    """Whether comfy-kitchen has a kernel that this one does not call yet."""
    import comfy_kitchen

    return {"in comfy-kitchen": hasattr(comfy_kitchen, name)}


def compare(rig: Rig, count: int, plain: Callable[[], Any], fused: Callable[[], Any] | None) -> dict[str, Any]:
    """Milliseconds of a forward spent in `plain`, and what each fused form would save of them.

    fused: comfy-kitchen's. Beside it stands what Inductor writes in Triton for `plain`: as good as a kernel of our own.
    """
    import torch

    in_triton = torch.compile(plain, dynamic=False, backend="eager" if rig.rehearse else "inductor")
    variants = {"plain": plain, **({"fused": fused} if fused else {}), "in Triton": in_triton}
    timed = rig.alternate({name: lambda go=go: [go() for _ in range(REPEATS)] for name, go in variants.items()})
    found: dict[str, Any] = {"count": count, "plain ms a forward": 1e3 * count * timed["plain, s"] / REPEATS}
    for name, go in list(variants.items())[1:]:
        a, b = plain(), go()
        pairs = zip(a, b) if isinstance(a, tuple) else ((a, b),)
        found[f"{name} ms a forward"] = 1e3 * count * timed[f"{name}, s"] / REPEATS
        found["apart" if name == "fused" else f"{name}, apart"] = max(rig.support.relative(y, x) for x, y in pairs)
    return found


def sizes(rig: Rig) -> tuple[int, int]:
    """(tokens, width) of the single blocks."""
    return rig.scale.text + (rig.scale.pixels // 16) ** 2, rig.scale.width


def tensor(rig: Rig, *shape: int) -> Any:
    import torch

    return torch.randn(*shape, device=rig.device, dtype=rig.dtype)


def norm_modulate(rig: Rig) -> dict[str, Any]:
    import comfy_kitchen
    import torch

    length, width = sizes(rig)
    x, scale, shift = tensor(rig, 1, length, width), tensor(rig, 1, 1, width), tensor(rig, 1, 1, width)

    def plain() -> Any:
        return torch.addcmul(shift, torch.nn.functional.layer_norm(x, (width,), eps=1e-6), 1 + scale)

    return compare(rig, 2 * 19 + 38, plain, lambda: comfy_kitchen.adaln(x, scale, shift, 1e-6))


def norm_rope(rig: Rig) -> dict[str, Any]:
    import comfy_kitchen
    import torch

    import dev

    embeddings = dev.load_pack("chroma_model.embeddings")
    length, width = sizes(rig)
    side = rig.scale.pixels // 16
    heads = width // 128
    q, k = (tensor(rig, 1, heads, length, 128) for _ in range(2))
    weight = tensor(rig, 128)
    ids = embeddings.position_ids(rig.scale.text, side, side, device=rig.device)
    pe = embeddings.PositionEmbedder(rig.config.axes_dim, rig.config.theta).to(rig.device)(ids[None])
    norm = torch.nn.functional.rms_norm

    def plain() -> Any:
        a, b = (norm(x, (128,), weight, 1e-6) for x in (q, k))
        if rig.device.type == "cpu":
            return embeddings.apply_rope(a, pe), embeddings.apply_rope(b, pe)
        return comfy_kitchen.apply_rope(a, b, pe)

    fused = getattr(comfy_kitchen, "rms_rope", None)
    return compare(rig, 19 + 38, plain, fused and (lambda: fused(q, k, pe, weight, weight, 1e-6)))


def gated_residual(rig: Rig) -> dict[str, Any]:
    import torch

    length, width = sizes(rig)
    x, y, gate = tensor(rig, 1, length, width), tensor(rig, 1, length, width), tensor(rig, 1, 1, width)
    return compare(rig, 2 * 19 + 38, lambda: torch.addcmul(x, y, gate), None)


def gelu_cat(rig: Rig) -> dict[str, Any]:
    import torch

    length, width = sizes(rig)
    attn, mlp = tensor(rig, 1, length, width), tensor(rig, 1, length, 4 * width)
    gelu = torch.nn.functional.gelu
    return compare(rig, 38, lambda: torch.cat((attn, gelu(mlp, approximate="tanh")), -1), None)
