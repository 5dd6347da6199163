"""The layout that this pack registers with the host: GGML's types, and 8-bit elements with scales per row or block.

A packed weight is one of the host's quantised tensors, so the host's offload, LoRA and save code handle it like its
own. Written for ComfyUI 0.30 and comfy-kitchen 0.2. Shapes: N outputs, K inputs, R rank.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import comfy.quant_ops
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedLayout, QuantizedTensor
from comfy_kitchen.tensor.base import BaseLayoutParams, get_layout_class, register_layout_class
from torch import Tensor

from ...loaders.formats.base.format import OWN_LAYOUT, Format
from ...loaders.formats.base.hadamard import rotate
from ...loaders.formats.base.lora_change import Change, change_between
from ...loaders.formats.base.registry import FORMATS

# The host's layouts whose rows stand alone: a scale each, or one for all.
ROW_LAYOUTS = ("TensorCoreFP8E4M3Layout", "TensorCoreFP8E5M2Layout", "TensorWiseINT8Layout")
CPU_CHUNK = 1 << 21  # weights unpacked at a time on a CPU: 8 MB in float32
ROW_STEP = 256  # a multiple of the heights of all known blocks
TOGETHER = (
    640  # tokens up to which a CPU multiplies the items of a batch at once: tried on one processor, no table has it
)


class PackedLayout(QuantizedLayout):
    """A packed weight that is unpacked at use, straight into the type that is asked for."""

    @dataclass(frozen=True)
    class Params(BaseLayoutParams):
        """scale: None for GGML's types. up, down, delta, delta_scale: see `lora_change.Change`."""

        format: str = ""
        up: Tensor | None = None
        down: Tensor | None = None
        delta: Tensor | None = None
        delta_scale: Tensor | None = None

        def _tensor_fields(self) -> list[str]:
            return [f for f in ("scale", *Change._fields) if getattr(self, f) is not None]

        def copy_from(self, src: Any, non_blocking: bool = False) -> None:
            """Copies into existing tensors where they fit: with dynamic VRAM they are views of the host's buffers."""
            for field in ("scale", *Change._fields):
                mine, theirs = getattr(self, field), getattr(src, field)
                if mine is not None and theirs is not None and (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype):
                    mine.copy_(theirs, non_blocking=non_blocking)
                else:
                    object.__setattr__(self, field, theirs)
            for field in ("format", "orig_dtype", "orig_shape"):
                object.__setattr__(self, field, getattr(src, field))

    @classmethod
    def quantize(
        cls,
        tensor: Tensor,
        format: str = "Q8_0",
        base: QuantizedTensor | None = None,
        stochastic_rounding: int | None = 0,
        **_: Any,
    ) -> tuple[Tensor, Params]:
        """tensor: (N, K). base: the packed weight that was changed into tensor. A format that is not `rewritten` keeps
        base's values and puts the change beside them."""
        params = {"orig_dtype": tensor.dtype, "orig_shape": tuple(tensor.shape), "format": format}
        if base is None or FORMATS[format].rewritten:
            data, scale = packed(tensor, FORMATS[format], stochastic_rounding or None)
            return data, cls.Params(scale, **params)
        own = base.to(device=tensor.device)
        kept = unpacked(own._qdata, own._params.scale, format, tensor.dtype)
        change = change_between(tensor, kept, own._params.orig_dtype)
        return own._qdata, cls.Params(own._params.scale, **params, **change._asdict())

    @classmethod
    def dequantize(cls, qdata: Tensor, params: Params) -> Tensor:
        weight = unpacked(qdata, params.scale, params.format, params.orig_dtype)
        if params.up is not None:
            weight = torch.addmm(weight, params.up.to(weight), params.down.to(weight))
        if params.delta is not None:
            weight = weight + (params.delta.to(weight.device) * params.delta_scale.to(weight.device)).to(weight.dtype)
        return weight

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[Tensor, ...]:
        return (qtensor._qdata,)

    @classmethod
    def state_dict_tensors(cls, qdata: Tensor, params: Params) -> dict[str, Tensor]:
        return {"": qdata, **{"_" + field: getattr(params, field) for field in params._tensor_fields()}}

    @classmethod
    def requantize_kwargs(cls, qtensor: QuantizedTensor) -> dict[str, Any]:
        return {"format": qtensor._params.format, "base": qtensor}


def linear(x: Tensor, weight: QuantizedTensor, bias: Tensor | None) -> Tensor:
    """x (..., K) @ weight (N, K).T + bias, the weight unpacked straight into the type of x.

    On a CPU a few rows are unpacked at a time: they stay in the cache, and no whole unpacked copy is made. Of a batch of
    long sequences one after the other is multiplied with them: two do not stay in the cache. A change of low rank is
    multiplied on its own, which is cheaper than adding it to the weight first. Of a rotated weight the inputs are turned
    and not the weight, which gives the same product: they are fewer.
    """
    params = weight._params
    if getattr(params, "convrot", False):
        x, params = rotate(x, params.convrot_groupsize), dataclasses.replace(params, convrot=False)
    low_rank = getattr(params, "up", None) is not None
    plain = dataclasses.replace(params, orig_dtype=x.dtype, **({"up": None, "down": None} if low_rank else {}))
    rows, columns = weight.shape
    step = max(CPU_CHUNK // columns // ROW_STEP, 1) * ROW_STEP
    if x.device.type != "cpu" or step >= rows or not _has_rows(weight):
        dense = weight.layout_cls.dequantize(weight._qdata, plain)[:rows, :columns]  # some of the host's layouts pad
        y = torch.nn.functional.linear(x, dense, bias)
    else:
        y = x.new_empty(*x.shape[:-1], rows)
        for start in range(0, rows, step):
            piece = slice(start, min(start + step, rows))
            dense = weight.layout_cls.dequantize(weight._qdata[piece], _rows_of(plain, piece, rows))
            part = None if bias is None else bias[piece]
            for into, item in zip(y, x) if x.ndim == 3 and x.shape[1] > TOGETHER else ((y, x),):
                into[..., piece] = torch.nn.functional.linear(item, dense, part)
    if not low_rank:
        return y
    low = torch.nn.functional.linear(x, params.down.to(x))
    return y.add_(torch.nn.functional.linear(low, params.up.to(x)))


def _has_rows(weight: QuantizedTensor) -> bool:
    """Whether ROW_STEP rows of the weight can be unpacked on their own."""
    scale = weight._params.scale
    if scale is not None and scale.numel() > 1 and ROW_STEP % (weight.shape[0] // scale.shape[0]):
        return False
    return weight._layout_cls == OWN_LAYOUT or weight._layout_cls in ROW_LAYOUTS


def _rows_of(params: Any, piece: slice, rows: int) -> Any:
    """The Params that unpack these rows of a weight; ROW_STEP is a multiple of every block's height."""
    changed: dict[str, Any] = {"orig_shape": (piece.stop - piece.start, params.orig_shape[1])}
    for field in ("scale", "delta", "delta_scale"):
        value = getattr(params, field, None)
        if value is not None and value.numel() > 1:
            height = rows // value.shape[0]
            changed[field] = value[piece.start // height : -(-piece.stop // height)]
    return dataclasses.replace(params, **changed)


def _packed_linear(qt: Any, args: tuple, kwargs: dict) -> Tensor:
    x, weight, bias = args[0], args[1], args[2] if len(args) > 2 else None
    if isinstance(x, QuantizedTensor):
        x = x.dequantize()
    if not isinstance(weight, QuantizedTensor) or weight._layout_cls != OWN_LAYOUT:
        return torch.nn.functional.linear(x, weight, bias)
    return linear(x, weight, bias)


def unpacked(data: Tensor, scale: Tensor | None, format: str, dtype: torch.dtype) -> Tensor:
    """A weight of this layout, (N, K) in dtype, without what a LoRA adds to it."""
    return FORMATS[format].unpack(data, {} if scale is None else {"weight_scale": scale}, {}, dtype)


def packed(weight: Tensor, format: Format, seed: int | None) -> tuple[Tensor, Tensor | None]:
    """A plain weight (N, K) in a format of this layout: stored values and scale.

    raises: ValueError for a format that is only read.
    """
    if format.pack is None:
        known = ", ".join(f.name for f in FORMATS.values() if f.pack is not None and f.layout == OWN_LAYOUT)
        raise ValueError(f"{format.name} can be read but not written ({known} can be). Choose one of those")
    return format.pack(weight.float(), weight.abs().amax().float(), seed)


# --- in the host's registries ----------------------------------------------------------------------------------------

ALGO = {"storage_t": torch.uint8, "parameters": set(), "comfy_tensor_layout": OWN_LAYOUT, "quantize_input": False}


def is_ours(layout: type) -> bool:
    """Whether a layout is PackedLayout, also that of another import of this pack."""
    same_file = layout.__module__.endswith(".host.model.packed_layout") and layout.__name__ == PackedLayout.__name__
    return layout is PackedLayout or same_file


def registered_layout() -> type | None:
    try:
        return get_layout_class(OWN_LAYOUT)
    except KeyError:
        return None


def register(algos: dict[str, Any]) -> frozenset[str]:
    """Puts our layout and the names of its formats into the host's registries; overwrites nothing of others.

    Saved files have these names (`gguf_q8_0`), so other names cannot be used instead.
    returns: the formats whose names others have registered, or all of them if others have registered the layout's name.
             Weights in these formats are unpacked when they are loaded. One line in the log names them.
    """
    own = [format for format in FORMATS.values() if format.layout == OWN_LAYOUT]
    known = registered_layout()
    if known is None or is_ours(known):
        register_layout_class(OWN_LAYOUT, PackedLayout)
        for format in own:
            algos.setdefault(format.host_name, dict(ALGO))
        taken = [format for format in own if algos[format.host_name].get("comfy_tensor_layout") != OWN_LAYOUT]
    else:
        taken = own
    if taken:
        logging.warning(
            "Chroma pack: something else has registered %s with ComfyUI; weights in these formats are unpacked when "
            "loaded",
            ", ".join(format.host_name for format in taken),
        )
    return frozenset(format.name for format in taken)


comfy.quant_ops.register_layout_op(torch.ops.aten.linear.default, PackedLayout)(_packed_linear)
TAKEN = register(QUANT_ALGOS)
