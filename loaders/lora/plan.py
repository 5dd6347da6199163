"""Maps LoRAs of every layout to Chroma: which weight each layer changes, whether it fits, and the host's names for it.

Pure: no host. The adapters' maths stays the host's (comfy/weight_adapter). This file has the names that the host does
not know, and the checks that keep a LoRA for another model from failing while sampling.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Mapping

import torch
from torch import Tensor

from ...constants import MASK_CHANNELS
from ..checkpoint.keys import APPROXIMATOR
from .adapters import ADAPTERS, LORA, OFT, SHARED, Adapter, Shape, column, misfit, text
from .layer_names import (
    ALPHA,
    DORA,
    DOWN,
    MODULATIONS,
    PIECE,
    SLICES,
    TEXT_ENCODERS,
    UP_BIAS,
    Rows,
    own_name,
    split_name,
    unwrapped,
)
from .peft_alpha import AlphaOf, metadata_alpha

HOST_PARTS = {"diff_b": "diff", UP_BIAS: "diff"}  # a bias is a target of its own: otherwise the host cannot slice it
ALPHA_ROUNDING = 0.01  # relative; of an alpha in 16 bits
WIDER = "reshape_weight"  # the shape that the host gives a weight first; ours is of the plan, not of the file
IMG_IN, FINAL = "img_in", "final_layer.linear.weight"
PATCH_AREA = 4  # pixels of a latent in one token

STACK = re.compile(r"(.+?\.)\d+(?:\.|$)")  # start of the name of a module that is one of several alike

# What becomes of a layer.
MATCHED = "matched"
MISSHAPEN = "misshapen"  # skipped; listed as `Misfit`s
UNKNOWN = "unknown"
MISSING_BLOCK = "missing block"  # beyond those that the model has
MODULATION = "modulation"  # of FLUX; Chroma has none
TEXT_ENCODER = "text encoder"

# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Misfit:
    """A layer that is skipped. found: the LoRA's shape, or what is wrong with it. model: the model's shape."""

    layer: str
    found: str
    model: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.found}, the model's {self.model}"


@dataclass(frozen=True)
class Target:
    """What one adapter changes.

    layer:     in the file.
    parameter: of the model; rows: start and length where only those are changed.
    tensors:   tensor's name in the file -> the host's name of that part.
    alpha:     if no tensor of the file holds it.
    scaled_as: for the bias of a LoRA: the target of that LoRA's weight, and its rank.
    widened:   the shape that the weight gets first, where the LoRA has more inputs for it (a control LoRA).
    """

    layer: str
    parameter: str
    rows: Rows | None
    tensors: Mapping[str, str]
    alpha: float | None = None
    scaled_as: tuple[str, int] | None = None
    widened: Shape | None = None


@dataclass(frozen=True)
class Plan:
    """What becomes of each layer that a LoRA names.

    layers:  one of the words above -> the layers' names in the file; for MISSHAPEN `Misfit`s.
    targets: the host's name of a target -> what changes it.
    network: alpha and dim that the whole file was trained with, if its metadata have both.
    """

    layers: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    targets: dict[str, Target] = field(default_factory=dict)
    network: tuple[float, float] | None = None

    @property
    def renamed(self) -> dict[str, str]:
        """Tensor's name in the file -> the host's name for it, "<target>.<part>"."""
        return {name: f"{key}.{part}" for key, target in self.targets.items() for name, part in target.tensors.items()}

    @property
    def input_width(self) -> int | None:
        """Inputs that img_in gets, if they become more."""
        return next((t.widened[1] for t in self.targets.values() if t.widened is not None), None)

    @property
    def num_layers(self) -> int:
        """All layers but those of text encoders and modulations."""
        return sum(len(self.layers[kind]) for kind in (MATCHED, UNKNOWN, MISSING_BLOCK, MISSHAPEN))

    @property
    def approximator_layers(self) -> set[str]:
        return {t.layer for t in self.targets.values() if t.parameter.startswith(APPROXIMATOR)}


def make_plan(
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
    raises:   ValueError if those metadata are damaged. Layers that do not fit are listed in the plan.
    """
    out = Plan(network=metadata_network(metadata))
    layers: dict[str, dict[str, str]] = {}  # layer -> part -> tensor
    for name in lora:
        layer, part = split_name(name)
        if layers.setdefault(layer, {}).setdefault(part, name) != name:
            out.layers[UNKNOWN].append(f"{name} (a second {part} of one layer)")
    places = Places(model, known)
    alpha_of = metadata_alpha(metadata)
    for layer, parts in layers.items():
        kind = places.kind(layer, parts)
        if kind == MATCHED:
            module, rows = places.find(layer)
            targets = _targets(_Layer(layer, parts, lora, module, rows), model, out.targets, alpha_of)
            if isinstance(targets, Misfit):
                out.layers[MISSHAPEN].append(targets)
                continue
            out.targets.update(targets)
        out.layers[kind].append(layer)
    return out


class Places:
    """Where the layers of LoRAs are in a model. model, known: see `make_plan`."""

    def __init__(self, model: Mapping[str, Shape], known: Mapping[str, tuple[str, Rows | None]]):
        self.model, self.known = model, known
        self.modules = {name.rpartition(".")[0] for name in model}
        self.stacks = {found[1] for m in self.modules if (found := STACK.match(m))}
        self.spelled = {spelling: m for m in self.modules for spelling in (m, m.replace(".", "_"))}

    def find(self, layer: str) -> tuple[str, Rows | None]:
        """(module, rows that are meant or None for all); the module is "" if the name is not known."""
        bare = unwrapped(layer)
        own = own_name(bare) or self.spelled.get(bare)
        parameter, rows = self.known.get(layer, ("", None)) if own is None else (own, None)
        module, _, piece = parameter.removesuffix(".weight").partition(":")
        if piece and module in self.modules:
            height, width = self.model[module + ".weight"][:2]
            rows = SLICES[piece](width, height)
        return module, rows

    def kind(self, layer: str, parts: Mapping[str, str]) -> str:
        """What becomes of a layer, by the names of layer and parts alone: MATCHED, or why it is not."""
        bare = unwrapped(layer)
        if layer.startswith(TEXT_ENCODERS) or bare.startswith(TEXT_ENCODERS):
            return TEXT_ENCODER
        if any(pattern.match(bare) for pattern in MODULATIONS):
            return MODULATION
        module, _ = self.find(layer)
        if not module or "" in parts or parts.keys() <= SHARED:
            return UNKNOWN
        if module in self.modules:
            return MATCHED
        stack = STACK.match(module)
        return MISSING_BLOCK if stack and stack[1] in self.stacks else UNKNOWN


class _Layer:
    """A layer of a LoRA and its place in the model. parts: part -> tensor's name; shapes: part -> shape."""

    def __init__(self, name: str, parts: Mapping[str, str], lora: Mapping[str, Shape], module: str, rows: Rows | None):
        self.name, self.parts, self.module, self.rows = name, parts, module, rows
        self.shapes = {part: lora[tensor] for part, tensor in parts.items()}

    def parameter(self, adapter: Adapter) -> str:
        return f"{self.module}.{'bias' if adapter.of_bias else 'weight'}"

    def target(self, adapter: Adapter) -> str:
        """The host's name of what this adapter changes."""
        parameter = self.parameter(adapter)
        return parameter if self.rows is None else f"{parameter}[{self.rows[0]}:{sum(self.rows)}]"


def _targets(
    layer: _Layer, model: Mapping[str, Shape], taken: Mapping[str, Target], alpha_of: AlphaOf
) -> dict[str, Target] | Misfit:
    """All adapters of a layer as targets; a `Misfit` if one of them does not fit."""
    out: dict[str, Target] = {}
    for adapter in (a for a in ADAPTERS if any(part in layer.parts for part in a.needs + a.takes)):
        shape, key = model.get(layer.parameter(adapter)), layer.target(adapter)
        if shape is None:
            return Misfit(layer.name, "no such parameter", "has none")
        if layer.rows is not None:
            shape = (min(layer.rows[1], shape[0] - layer.rows[0]), *shape[1:])
        wider = _widened(layer, adapter, shape, model)
        wrong = misfit(adapter, layer.shapes, wider or shape)
        if wrong is None and (key in out or key in taken):
            wrong = f"a second adapter ({adapter.name}) for the same weight"
        if wrong is not None:
            return Misfit(layer.name, wrong, text(shape))
        out[key] = _target(layer, adapter, alpha_of, wider)
    return out


def _widened(layer: _Layer, adapter: Adapter, shape: Shape, model: Mapping[str, Shape]) -> Shape | None:
    """The shape of img_in's weight with a picture, or a picture and a mask, beside the latent, if this LoRA is made for it."""
    if layer.module != IMG_IN or adapter is not LORA or FINAL not in model or not set(LORA.needs) <= layer.parts.keys():
        return None
    latent = model[FINAL][0]
    wider = LORA.change(layer.shapes, shape)
    fits = wider in ((shape[0], width) for width in (2 * latent, 2 * latent + PATCH_AREA * MASK_CHANNELS))
    return wider if fits and wider[1] > shape[1] else None


def _target(layer: _Layer, adapter: Adapter, alpha_of: AlphaOf, widened: Shape | None) -> Target:
    takes = adapter.needs + adapter.takes + (() if adapter.of_bias else tuple(SHARED))
    alpha = None
    if adapter is LORA and ALPHA not in layer.parts:
        alpha = alpha_of(layer.name, layer.shapes[DOWN][0])
    elif adapter is OFT and ALPHA not in layer.parts:
        alpha = 0.0  # no constraint; the host's BOFT fails without a number
    is_lora_bias = UP_BIAS in adapter.needs and DOWN in layer.shapes
    return Target(
        layer=layer.name,
        parameter=layer.parameter(adapter),
        rows=layer.rows,
        tensors={layer.parts[p]: HOST_PARTS.get(p, p) for p in takes if p in layer.parts and p != WIDER},
        alpha=alpha,
        scaled_as=(layer.target(LORA), layer.shapes[DOWN][0]) if is_lora_bias else None,
        widened=widened,
    )


def metadata_network(metadata: Mapping[str, str]) -> tuple[float, float] | None:
    """Alpha and dim of the network as kohya's trainers note them; None if one is missing or is not above 0."""
    try:
        alpha, dim = (float(metadata[key]) for key in ("ss_network_alpha", "ss_network_dim"))
    except (KeyError, ValueError, TypeError):
        return None
    return (alpha, dim) if alpha > 0 and 0 < dim < math.inf else None


def pieces_as_layers(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A file's tensors, renamed so that the parts of a fused layer that kohya has not merged are layers of their own.

    In the file they share one alpha: `X.lora_down.0.weight`, `X.lora_down.1.weight` ... and `X.alpha`.
    """
    pieces: defaultdict[str, set[str]] = defaultdict(set)
    found = {name: piece for name in tensors if (piece := PIECE.fullmatch(name))}
    for piece in found.values():
        pieces[piece[1]].add(piece[3])
    out: dict[str, Any] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        piece = found.get(name)
        if piece is not None and len(pieces[piece[1]]) > 1:  # a single number is PEFT's name of an adapter
            out[f"{_piece_name(piece[1], piece[3])}.{piece[2]}.weight"] = tensor
        elif part == ALPHA and len(pieces.get(layer, ())) > 1:
            out |= {f"{_piece_name(layer, number)}.{ALPHA}": tensor for number in sorted(pieces[layer])}
        else:
            out[name] = tensor
    return out


def _piece_name(layer: str, number: str) -> str:
    return f"{layer}{'.' if '.' in layer else '_'}{number}"


def prepare(tensors: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """The tensors of a plan under the host's names, for comfy.lora.load_lora with the plan's targets as its key map."""
    out = {host: tensors[name] for name, host in plan.renamed.items()}
    for host, tensor in out.items():
        if host.endswith("." + DORA):
            out[host] = tensor.reshape(column(tuple(tensor.shape)))
    out |= {f"{key}.{ALPHA}": torch.tensor(t.alpha) for key, t in plan.targets.items() if t.alpha is not None}
    out |= {f"{key}.{WIDER}": torch.tensor(t.widened) for key, t in plan.targets.items() if t.widened is not None}
    for key, target in plan.targets.items():
        if plan.network is not None:
            _scale_direct(out, key, *plan.network)
        if target.scaled_as is None:
            continue
        weight, rank = target.scaled_as
        alpha = out.get(f"{weight}.{ALPHA}")
        if alpha is not None:  # PEFT scales B's bias as its weight
            (name, part), *_ = target.tensors.items()
            out[f"{key}.{part}"] = tensors[name].float() * (alpha.item() / rank)
    return out


def _scale_direct(out: dict[str, Tensor], key: str, alpha: float, dim: float) -> None:
    """Scales a LoKr of two whole matrices as it was trained; there is no rank to divide alpha by.

    For such a LoKr LyCORIS stores the dim as alpha and does not scale; nor does the host. Trainers that store the
    network's alpha have scaled by alpha / dim of the network. Source: the host's issue 15114.
    """
    first, stored = f"{key}.lokr_w1", out.get(f"{key}.{ALPHA}")
    if stored is None or not {first, f"{key}.lokr_w2"} <= out.keys():
        return
    if math.isclose(float(stored), alpha, rel_tol=ALPHA_ROUNDING) and alpha != dim:
        out[first] = out[first].float() * (alpha / dim)
        del out[f"{key}.{ALPHA}"]
