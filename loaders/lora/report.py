"""Reports and errors on a LoRA: what was applied and what was not, or what the file is if nothing of it fits."""

from __future__ import annotations

from typing import Iterable

from ...constants import WARNING, Line, Lines
from ..checkpoint.keys import LORA, other_model
from .layer_names import CHECKPOINT, LOOKS_LIKE
from .plan import MATCHED, MISSHAPEN, MISSING_BLOCK, MODULATION, TEXT_ENCODER, UNKNOWN, Plan


def some(names: Iterable[object], limit: int = 4) -> str:
    """The first few names, and how many more."""
    names = [str(n) for n in names]
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def looks_like(names: Iterable[str]) -> str | None:
    """What a file with such tensors may be, if it is not a LoRA for Chroma or FLUX."""
    names = list(names)
    of_a_lora = next((what for pattern, what in LOOKS_LIKE if any(pattern.search(n) for n in names)), None)
    what = other_model(names)
    return of_a_lora if what in (None, LORA) or of_a_lora == CHECKPOINT else what


def summary(plan: Plan, names: Iterable[str]) -> Lines:
    """What was applied and what was not, in lines."""
    layers = plan.layers
    first = f"{len(layers[MATCHED])} of {plan.num_layers} layers matched"
    if layers[MODULATION]:
        first += f", {len(layers[MODULATION])} modulation layers dropped (Chroma has none)"
    if layers[TEXT_ENCODER]:
        first += f", {len(layers[TEXT_ENCODER])} text-encoder layers left out"
    lines = [first]
    if plan.input_width is not None:
        lines.append(
            f"a control LoRA: the model now takes {plan.input_width} inputs, for a picture beside the latent. Connect the "
            "prompts through InstructPixToPixConditioning, or, with a mask, InpaintModelConditioning"
        )
    if layers[UNKNOWN]:
        lines.append(Line("unmatched: ", WARNING, some(layers[UNKNOWN])))
    if layers[MISSING_BLOCK]:
        lines.append(Line("of blocks that this model does not have: ", WARNING, some(layers[MISSING_BLOCK])))
    if layers[MISSHAPEN]:
        lines.append(Line("skipped, do not fit: ", WARNING, some(layers[MISSHAPEN])))
    if 2 * len(layers[MATCHED]) < plan.num_layers:
        what = looks_like(names)
        lines.append(
            Line("Warning: ", WARNING, f"most of this LoRA does not fit{f'; it looks like {what}' if what else ''}")
        )
    if plan.approximator_layers:
        lines.append(
            Line(
                "Warning: ",
                WARNING,
                f"changes {len(plan.approximator_layers)} layers of distilled_guidance_layer, which makes every shift, "
                "scale and gate of the model. Lower the strength if colours break",
            )
        )
    return Lines(lines)


def nothing_matched(file: str, plan: Plan, names: Iterable[str]) -> str:
    """The error for a file of which no layer fits: what was found, what it looks like, what to do."""
    names, layers = list(names), plan.layers
    what = looks_like(names)
    remedy = "Choose a LoRA that was made for Chroma or FLUX.1"
    if what:
        return f"{file}: no layer fits this Chroma model; it looks like {what}. {remedy}"
    if layers[MISSHAPEN]:
        return (
            f"{file}: no layer fits this Chroma model; it was made for a model of other sizes "
            f"({some(layers[MISSHAPEN], 2)}). {remedy} of this size"
        )
    if layers[MISSING_BLOCK]:
        return f"{file}: it changes only blocks that this model does not have ({some(layers[MISSING_BLOCK])}). {remedy}"
    if layers[MODULATION] and not layers[UNKNOWN]:
        return f"{file}: it changes only modulation layers, which Chroma does not have. {remedy}"
    if layers[TEXT_ENCODER] and not layers[UNKNOWN]:
        return (
            f"{file}: it changes only text encoders ({some(layers[TEXT_ENCODER], 2)}), nothing of the diffusion model. "
            f"{remedy}, or load it on the CLIP with ComfyUI's own LoRA node"
        )
    return f"{file}: not a LoRA for Chroma (it begins with {some(names, 3) or 'no tensors'}). {remedy}"
