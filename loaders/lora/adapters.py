"""The kinds of adapters that the host applies: from the shapes of the parts, what is changed and whether it fits.

The formulas are LyCORIS' (github.com/KohakuBlueleaf/LyCORIS) as the host computes them in comfy/weight_adapter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Mapping

from .layer_names import ALPHA, DORA, DOWN, MID, UP, UP_BIAS

Shape = tuple[int, ...]
Parts = Mapping[str, Shape]


def _flat(shape: Shape) -> Shape:
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def _product(a: Shape, b: Shape) -> Shape | None:
    if min(len(a), len(b)) < 2:
        return None
    a, b = _flat(a), _flat(b)
    return (a[0], b[1]) if a[1] == b[0] > 0 else None  # the host divides by this rank


def _lora(parts: Parts, weight: Shape) -> Shape | None:
    return _product(parts[UP], parts[DOWN])


def _loha(parts: Parts, weight: Shape) -> Shape | None:
    first = _product(parts["hada_w1_a"], parts["hada_w1_b"])
    return first if first == _product(parts["hada_w2_a"], parts["hada_w2_b"]) else None


def _lokr(parts: Parts, weight: Shape) -> Shape | None:
    shape = (1, 1)
    for name in ("lokr_w1", "lokr_w2"):
        factor = parts.get(name)
        if factor is None and {name + "_a", name + "_b"} <= parts.keys():
            factor = _product(parts[name + "_a"], parts[name + "_b"])
        if factor is None or len(factor) < 2:
            return None
        shape = (shape[0] * _flat(factor)[0], shape[1] * _flat(factor)[1])
    return shape


def _glora(parts: Parts, weight: Shape) -> Shape | None:
    """W + b1 b2 + W a1 a2; in LyCORIS' old files the two factors of each pair are exchanged."""
    a1, a2, b1, b2 = (_flat(parts[f"{name}.weight"]) for name in ("a1", "a2", "b1", "b2"))
    if not a1[1] == a2[0] == b1[1] == b2[0]:
        a1, a2, b1, b2 = a2, a1, b2, b1
    fits = a1[1] == a2[0] == b1[1] == b2[0] and a1[0] == a2[1] == b2[1]
    return (b1[0], b2[1]) if fits else None


def _oft(parts: Parts, weight: Shape) -> Shape | None:
    """OFT's blocks are (n, b, b), BOFT's (m, n, b, b): m stages of a butterfly. They rotate n*b rows."""
    blocks, rescale = parts["oft_blocks"], parts.get("rescale", ())
    if len(blocks) not in (3, 4) or blocks[-1] != blocks[-2]:
        return None
    rows = blocks[-3] * blocks[-2]
    if len(blocks) == 4 and (blocks[-1] % 2 or blocks[1] % 2 ** max(blocks[0] - 1, 0)):
        return None
    if math.prod(rescale) > 1 and _flat(rescale) != (rows, 1):
        return None
    return (rows, _flat(weight)[1])


@dataclass(frozen=True)
class Adapter:
    """A kind of adapter that the host applies.

    needs, takes: the parts that it must have, and may have.
    change:  shapes of its parts and of the weight -> shape of what it changes, as a matrix; None if its parts do not
             belong together. Without this function the adapter is one tensor of exactly the weight's shape.
    of_bias: it changes the layer's bias.
    """

    name: str
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()
    change: Callable[[Parts, Shape], Shape | None] | None = None
    of_bias: bool = False


LORA = Adapter("LoRA", (UP, DOWN), (MID, "reshape_weight"), _lora)
OFT = Adapter("OFT", ("oft_blocks",), ("rescale",), _oft)  # and BOFT
ADAPTERS = (
    LORA,
    Adapter("LoHa", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), ("hada_t1", "hada_t2"), _loha),
    Adapter(
        "LoKr",
        (),
        ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
        _lokr,
    ),
    Adapter("GLoRA", ("a1.weight", "a2.weight", "b1.weight", "b2.weight"), (), _glora),
    OFT,
    Adapter("difference", ("diff",)),
    Adapter("replacement", ("set_weight",)),
    Adapter("difference of the bias", ("diff_b",), of_bias=True),
    Adapter("bias of the LoRA", (UP_BIAS,), of_bias=True),
)
FOR_CONVOLUTIONS = {MID, "hada_t1", "hada_t2", "lokr_t2"}  # Tucker cores; Chroma's layers are linear
SHARED = {ALPHA, DORA}  # belong to every adapter of the weight


def misfit(adapter: Adapter, parts: Parts, weight: Shape) -> str | None:
    """What is wrong with an adapter for a weight of this shape; None if it fits."""
    lacking = [part for part in adapter.needs if part not in parts]
    if lacking:
        return f"{adapter.name} without {', '.join(lacking)}"
    cores = sorted(FOR_CONVOLUTIONS & parts.keys())
    if cores:
        return f"{adapter.name} of a convolution ({', '.join(cores)})"
    if adapter.change is None:
        change, expected = parts[adapter.needs[0]], weight
    else:
        change, expected = adapter.change(parts, weight), _flat(weight)
    if change is None:
        own = ", ".join(f"{p} {text(parts[p])}" for p in adapter.needs + adapter.takes if p in parts)
        return f"{adapter.name} whose parts do not belong together ({own})"
    if change != expected:
        return f"LoRA's {text(change)}"
    if adapter.of_bias:
        return None
    if math.prod(parts.get(ALPHA, ())) != 1:
        return f"alpha of shape {text(parts[ALPHA])}"
    if DORA in parts and column(parts[DORA]) not in ((expected[0], 1), (1, expected[-1])):
        return f"DoRA's {text(parts[DORA])}"
    return None


def column(shape: Shape) -> Shape:
    """DoRA's magnitudes: PEFT has (rows,), others (rows, 1) or (1, columns)."""
    return (shape[0], 1) if len(shape) == 1 else _flat(shape)


def text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "one number"
