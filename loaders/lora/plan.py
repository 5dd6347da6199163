"""LoRAs of every layout onto Chroma: which weight each layer changes, whether it fits, and the host's names for it.

Pure: no host. The adapters' maths stays the host's (comfy/weight_adapter); here are the names it does not know, and
the checks that keep a LoRA for another model from failing while sampling.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Callable, Iterable, Mapping

import torch
from torch import Tensor

from ...constants import WARNING, Line, Lines
from ..checkpoint.keys import APPROXIMATOR
from .adapters import KINDS, LORA, OFT, SHARED, Kind, Shape, column, misfit, text
from .keys import (
    ALPHA,
    DORA,
    DOWN,
    LOOKS_LIKE,
    MODULATIONS,
    OUTSIDE,
    PARTS,
    SLICES,
    STACKS,
    TEXT_ENCODERS,
    UP_BIAS,
    WRAPPERS,
    Rows,
)

HOST_PARTS = {"diff_b": "diff", UP_BIAS: "diff"}  # a bias is a target of its own, since the host cannot slice it else
UNUSED = {"reshape_weight"}  # would widen the model's layer; whether the shapes agree is checked instead

# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Misfit:
    """A layer that is skipped: found is the LoRA's shape or what is wrong with it."""

    layer: str
    found: str
    model: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.found}, the model's {self.model}"


@dataclass(frozen=True)
class Plan:
    """What becomes of each layer that a LoRA names. Layers go by their names in the file.

    renamed: tensor's name in the file -> the host's name for it, "<target>.<part>".
    targets: target -> parameter of the model, and its rows (start, length) where only those are changed.
    alphas:  target -> alpha that no tensor of the file holds.
    biases:  tensor's name of a LoRA's bias -> the target of that LoRA's weight, and its rank.
    missing_blocks: layers of blocks beyond those that the model has.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    targets: dict[str, tuple[str, Rows | None]] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)
    biases: dict[str, tuple[str, int]] = field(default_factory=dict)
    matched: list[str] = field(default_factory=list)
    dropped_modulations: list[str] = field(default_factory=list)
    text_encoder: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    missing_blocks: list[str] = field(default_factory=list)
    misshapen: list[Misfit] = field(default_factory=list)
    touches_approximator: list[str] = field(default_factory=list)

    @property
    def num_layers(self) -> int:
        """All layers but those of text encoders and modulations."""
        return len(self.matched) + len(self.unknown) + len(self.missing_blocks) + len(self.misshapen)


def split_name(name: str) -> tuple[str, str]:
    """A tensor's name -> its layer and the part of the adapter; (name, "") if its ending is not known."""
    for pattern, part in PARTS:
        found = pattern.fullmatch(name)
        if found:
            return found[1], part
    return name, ""


def unwrapped(layer: str) -> str:
    """A layer's name without what trainers put before it."""
    while wrapper := next((w for w in WRAPPERS if layer.startswith(w)), ""):
        layer = layer.removeprefix(wrapper)
    return layer


def own_name(layer: str) -> str | None:
    """A layer's name without wrappers -> Chroma's module, with ":slice" where only some rows are meant; None if not
    known. Blocks beyond those of the model are named too: this looks at the name alone."""
    for pattern, stack, members in STACKS:
        found = pattern.fullmatch(layer)
        if found and found[2] in members:
            return f"{stack}.{int(found[1])}.{members[found[2]]}".removesuffix(".")
    return OUTSIDE.get(layer)


def plan(
    lora: Mapping[str, Shape],
    model: Mapping[str, Shape],
    known: Mapping[str, tuple[str, Rows | None]] = {},
    metadata: Mapping[str, str] = {},
) -> Plan:
    """Finds the weight that each layer of a LoRA changes, and checks that its shape fits.

    lora:     tensor's name -> shape, as in the file.
    model:    parameter's name -> shape, the network's own names; the true shapes where weights are stored packed.
    known:    layers that the host has more names for: name in LoRAs -> parameter's name, rows.
    metadata: of the file; diffusers keeps PEFT's alpha there.
    raises:   ValueError if that metadata is damaged. What does not fit is told in the plan.
    """
    out = Plan()
    layers: dict[str, dict[str, str]] = {}  # layer -> part -> tensor
    for name in lora:
        layer, part = split_name(name)
        if layers.setdefault(layer, {}).setdefault(part, name) != name:
            out.unknown.append(f"{name} (a second {part} of one layer)")
    modules = {name.rpartition(".")[0] for name in model}
    spelled = {spelling: m for m in modules for spelling in (m, m.replace(".", "_"))}
    alpha_of = metadata_alpha(metadata)
    for layer, parts in layers.items():
        bare = unwrapped(layer)
        parameter, rows = known.get(layer, ("", None))
        own = own_name(bare) or spelled.get(bare)
        if own is not None:
            parameter, rows = own, None
        module, _, piece = parameter.removesuffix(".weight").partition(":")
        if layer.startswith(TEXT_ENCODERS) or bare.startswith(TEXT_ENCODERS):
            out.text_encoder.append(layer)
        elif any(pattern.match(bare) for pattern in MODULATIONS):
            out.dropped_modulations.append(layer)
        elif not module or "" in parts or parts.keys() <= SHARED:
            out.unknown.append(layer)
        elif module not in modules:
            stack = re.match(r"(.+?\.)\d+(?:\.|$)", module)
            there = stack is not None and any(m.startswith(stack[1]) for m in modules)
            (out.missing_blocks if there else out.unknown).append(layer)
        else:
            if piece:
                weight = model[module + ".weight"]
                rows = SLICES[piece](weight[1], weight[0])
            _add(out, layer, parts, module, rows, lora, model, alpha_of)
    return out


def _add(
    out: Plan,
    layer: str,
    parts: Mapping[str, str],
    module: str,
    rows: Rows | None,
    lora: Mapping[str, Shape],
    model: Mapping[str, Shape],
    alpha_of: Callable[[str, int], float | None],
) -> None:
    """Puts a layer with all its adapters into the plan, or, if one of them does not fit, none."""
    shapes = {part: lora[name] for part, name in parts.items()}
    kinds = [k for k in KINDS if any(part in parts for part in k.needs + k.takes)]
    targets: dict[str, Kind] = {}
    for kind in kinds:
        parameter = f"{module}.{'bias' if kind.of_bias else 'weight'}"
        shape = model.get(parameter)
        if shape is not None and rows is not None:
            shape = (min(rows[1], shape[0] - rows[0]), *shape[1:])
        target = parameter if rows is None else f"{parameter}[{rows[0]}:{sum(rows)}]"
        wrong = "no such parameter" if shape is None else misfit(kind, shapes, shape)
        if wrong is None and (target in targets or target in out.targets):
            wrong = f"a second adapter ({kind.name}) for the same weight"
        if wrong is not None:
            out.misshapen.append(Misfit(layer, wrong, "has none" if shape is None else text(shape)))
            return
        targets[target] = kind

    out.matched.append(layer)
    if module.startswith(APPROXIMATOR.rstrip(".")):
        out.touches_approximator.append(layer)
    for target, kind in targets.items():
        out.targets[target] = (target.partition("[")[0], rows)
        takes = kind.needs + kind.takes + (() if kind.of_bias else tuple(SHARED))
        for part in (p for p in takes if p in parts and p not in UNUSED):
            out.renamed[parts[part]] = f"{target}.{HOST_PARTS.get(part, part)}"
        alpha = None
        if kind is LORA:
            alpha = alpha_of(layer, shapes[DOWN][0])
        elif kind is OFT:
            alpha = 0.0  # no constraint; the host's BOFT fails without a number
        if alpha is not None and ALPHA not in parts:
            out.alphas[target] = alpha
        if UP_BIAS in kind.needs and DOWN in shapes:
            out.biases[parts[UP_BIAS]] = (target.replace(".bias", ".weight"), shapes[DOWN][0])


METADATA = "lora_adapter_metadata"


def metadata_alpha(metadata: Mapping[str, str]) -> Callable[[str, int], float | None]:
    """(layer, rank) -> the alpha that diffusers has kept for it in a file's metadata, or None.

    raises: ValueError if the metadata is no JSON object.
    source: diffusers loaders/lora_base.py (LORA_ADAPTER_METADATA_KEY), PEFT LoraConfig.
    """
    try:
        entries = json.loads(metadata.get(METADATA, "{}"))
        config = {k.removeprefix("transformer."): v for k, v in entries.items()}
        default, patterns = config.get("lora_alpha"), dict(config.get("alpha_pattern") or {})
        default = None if default is None else float(default)
        patterns = {re.compile(rf"(.*\.)?({key})"): float(value) for key, value in patterns.items()}
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise ValueError(f"the metadata {METADATA} is damaged ({error}). Download the file again") from error

    def alpha(layer: str, rank: int) -> float | None:
        value = next((v for pattern, v in patterns.items() if pattern.fullmatch(layer)), default)
        # rank-stabilised LoRA divides by the root of the rank; the host always by the rank
        return value if value is None or not config.get("use_rslora") else value * rank**0.5

    return alpha


def prepare(tensors: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """The tensors of a plan under the host's names, for comfy.lora.load_lora with the plan's targets as its key map."""
    out = {host: tensors[name] for name, host in plan.renamed.items()}
    for host, tensor in out.items():
        if host.endswith("." + DORA):
            out[host] = tensor.reshape(column(tuple(tensor.shape)))
    out |= {f"{target}.{ALPHA}": torch.tensor(alpha) for target, alpha in plan.alphas.items()}
    for name, (target, rank) in plan.biases.items():  # PEFT scales the bias of B with the rest
        alpha = out.get(f"{target}.{ALPHA}")
        if alpha is not None:
            out[plan.renamed[name]] = tensors[name].float() * (alpha.item() / rank)
    return out


# --- what people are told --------------------------------------------------------------------------------------------


def some(names: Iterable[object], limit: int = 4) -> str:
    """The first few names, and how many more."""
    names = [str(n) for n in names]
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")


def looks_like(names: Iterable[str]) -> str | None:
    """What a file with such tensors may be, if it is not a LoRA for Chroma or FLUX."""
    names = list(names)
    return next((what for pattern, what in LOOKS_LIKE if any(pattern.search(n) for n in names)), None)


def summary(plan: Plan, names: Iterable[str]) -> Lines:
    """What was applied and what was not, in lines."""
    first = f"{len(plan.matched)} of {plan.num_layers} layers matched"
    if plan.dropped_modulations:
        first += f", {len(plan.dropped_modulations)} modulation layers dropped (Chroma has none)"
    if plan.text_encoder:
        first += f", {len(plan.text_encoder)} text-encoder layers left out"
    lines = [first]
    if plan.unknown:
        lines.append(Line("unmatched: ", WARNING, some(plan.unknown)))
    if plan.missing_blocks:
        lines.append(Line("of blocks that this model does not have: ", WARNING, some(plan.missing_blocks)))
    if plan.misshapen:
        lines.append(Line("skipped, do not fit: ", WARNING, some(plan.misshapen)))
    if 2 * len(plan.matched) < plan.num_layers:
        what = looks_like(names)
        lines.append(
            Line("Warning: ", WARNING, f"most of this LoRA does not fit{f'; it looks like {what}' if what else ''}")
        )
    if plan.touches_approximator:
        lines.append(
            Line(
                "Warning: ",
                WARNING,
                f"changes {len(plan.touches_approximator)} layers of distilled_guidance_layer, which makes every shift, "
                "scale and gate of the model. Lower the strength if colours break",
            )
        )
    return Lines(lines)


def nothing_matched(file: str, plan: Plan, names: Iterable[str]) -> str:
    """The error for a file of which no layer fits: what was found, what it looks like, what to do."""
    names = list(names)
    what = looks_like(names)
    remedy = "Choose a LoRA that was made for Chroma or FLUX.1"
    if what:
        return f"{file}: no layer fits this Chroma model; it looks like {what}. {remedy}"
    if plan.misshapen:
        return (
            f"{file}: no layer fits this Chroma model; it was made for a model of other sizes "
            f"({some(plan.misshapen, 2)}). {remedy} of this size"
        )
    if plan.missing_blocks:
        return f"{file}: it changes only blocks that this model does not have ({some(plan.missing_blocks)}). {remedy}"
    if plan.dropped_modulations and not plan.unknown:
        return f"{file}: it changes only modulation layers, which Chroma does not have. {remedy}"
    if plan.text_encoder and not plan.unknown:
        return (
            f"{file}: it changes only text encoders ({some(plan.text_encoder, 2)}), nothing of the diffusion model. "
            f"{remedy}, or load it on the CLIP with the host's own LoRA node"
        )
    return f"{file}: not a LoRA for Chroma (it begins with {some(names, 3) or 'no tensors'}). {remedy}"
