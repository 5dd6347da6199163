"""Warns of NaN and infinity: in a file's weights when it is loaded, and in what a run that ends in NaN was given."""

from __future__ import annotations

import logging
import math
from typing import Any, Callable, Iterator, Mapping

import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from ...loaders.checkpoint.check_shapes import non_finite, unwritten
from ...loaders.checkpoint.weight_parts import Collected
from ...loaders.files.read import Header
from ...loaders.formats.base.format import OWN_LAYOUT
from ..run.nag import NAG
from .packed_layout import unpacked

ARGUMENTS = ("noise", "latent_image", "sampler", "sigmas", "denoise_mask")  # of the host's outer_sample
PARTS = {"cross_attn": "text", NAG: "text of Chroma NAG"}  # of a conditioning; other parts keep the host's names
ADDED_MASK = "attention_mask"  # added to logits, so -inf is a valid value
INPUT_REMEDY = "Look at the node that gives it; the model is not to blame"


def warn_of_damage(header: Header, weights: Mapping[str, Tensor], stored: torch.dtype | None = None) -> None:
    """Warns of NaN or infinity in small tensors, in the scales of packed ones and in a sample of large ones.

    The rest is looked at when a run ends in NaN. stored: the file's dtype, from which a cast to float16 may overflow.
    """
    plain = {name: t for name, t in weights.items() if not isinstance(t, QuantizedTensor)}
    packed = {name: part for name, t in weights.items() if name not in plain for part in samples(t)}
    bad = [*non_finite(plain, sample=True), *non_finite(packed, sample=False)]
    cast = [n for n in bad if stored != torch.float16 and is_overflow(plain.get(n))]
    if cast:
        logging.warning(
            "%s: weights beyond float16's range have become infinite (%s): pictures will be black or noise. Choose "
            "bf16 or fp32 as precision",
            header.name,
            ", ".join(cast[:3]),
        )
    bad = [name for name in bad if name not in cast]
    if bad:
        logging.warning(
            "%s: %d tensors hold NaN or infinite weights (%s ...): pictures will be black or noise. "
            "The file is damaged; download it again",
            header.name,
            len(bad),
            ", ".join(bad[:3]),
        )


def warn_of_holes(header: Header, detection: Collected, tensors: Mapping[str, Tensor]) -> None:
    """Warns of weights that were never written to the file. tensors: the file's, by their names in it."""
    bad = unwritten({p.file_name: tensors[p.file_name] for parts in detection.tensors.values() for p in parts})
    if bad:
        logging.warning(
            "%s: %d tensors hold nothing but zeros (%s ...): pictures will be noise. The download was broken off, or the "
            "disk has lost a part; download the file again",
            header.name,
            len(bad),
            ", ".join(bad[:3]),
        )


def is_overflow(weight: Tensor | None) -> bool:
    """Whether a tensor with NaN or infinity is in float16 and has no NaN."""
    return weight is not None and weight.dtype == torch.float16 and not bool(torch.isnan(weight).any())


def samples(weight: QuantizedTensor) -> Iterator[Tensor]:
    """Tensors that show damage of a packed weight, without unpacking the whole: its scales, or, if they are inside its
    blocks, its first, middle and last row."""
    scales = [getattr(weight, name) for name in weight.__tensor_flatten__()[0][1:]]
    if scales:
        yield torch.cat([scale.float().flatten() for scale in scales if scale.is_floating_point()])
    elif weight._layout_cls == OWN_LAYOUT:
        rows = weight._qdata[[0, len(weight._qdata) // 2, -1]]
        yield unpacked(rows, None, weight._params.format, torch.float32)


def warn_of_nan(file: str) -> Callable[..., Any]:
    """An OUTER_SAMPLE wrapper. When a run ends in NaN, it logs the cause: the first bad input, or the bad weights."""

    def wrapper(executor: Any, *a: Any, **k: Any) -> Any:
        guider = executor.class_obj
        conds = {name: list(entries) for name, entries in guider.conds.items()}  # as they were given
        out = executor(*a, **k)
        if torch.is_tensor(out) and not torch.isfinite(out.sum()):
            given = {**dict(zip(ARGUMENTS, a)), **k}
            what = next((name for name, value in inputs_of(conds, given, guider.cfg) if not is_finite(value)), None)
            cause = f"{what} holds NaN or infinity. {INPUT_REMEDY}" if what else _blamed(guider.model_patcher)
            logging.warning("%s: the run ended in NaN; the picture will be black. %s", file, cause)
        return out

    return wrapper


def inputs_of(conds: Mapping[str, Any], given: Mapping[str, Any], cfg: Any) -> Iterator[tuple[str, Any]]:
    """What a run was given: a name for people, and the value."""
    for kind, entries in conds.items():
        for entry in entries:
            for key, value in entry.items():
                if key == ADDED_MASK and torch.is_tensor(value) and value.is_floating_point():
                    value = value.nan_to_num(nan=math.nan, posinf=0.0, neginf=0.0)
                elif key == "control":
                    value = getattr(value, "cond_hint_original", None)
                yield f"the {kind} prompt's {PARTS.get(key, key)}", getattr(value, "text", value)
    yield "the latent", given.get("latent_image")
    yield "the latent's mask", given.get("denoise_mask")
    yield "the noise", given.get("noise")
    yield "the schedule (sigmas)", given.get("sigmas")
    yield "cfg", cfg


def is_finite(value: Any) -> bool:
    """Whether a value has no NaN and no infinity; true for a value without numbers."""
    if torch.is_tensor(value) and value.is_floating_point():
        return bool(torch.isfinite(value).all())
    return not isinstance(value, float) or math.isfinite(value)


def _blamed(patcher: Any) -> str:
    """The cause and remedy if all that a run was given is finite: bad weights, or the type it computes in."""
    bad = non_finite(dict(patcher.model.diffusion_model.named_parameters()), sample=False)
    if not bad:
        return "All weights and inputs are finite. If the model computes in fp16, choose bf16 or fp32 as precision"
    source = "Take the LoRAs and merges off one by one; if NaN stays, download" if patcher.patches else "Download"
    return f"Tensors with NaN or infinite weights: {', '.join(bad[:5])}. {source} the file again"
