"""The graph that a person has queued, in the host's API format, and the sampling runs in it. Pure: no host, no tensor.

node id -> {"class_type": ..., "inputs": {name: value or [node id, slot]}}. Nodes of other packs are followed by the names
of their inputs: what gives a MODEL most likely passes on the one that it takes as `model`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Iterator, Mapping

from ..constants import AS_TRAINED, BY_RESOLUTION, FIXED, FROM_MODEL, FROM_PRESET, TRAINED
from ..samplers.schedules import CURVES, PIXELS_PER_TOKEN, flux_mu
from .presets import (
    FLASH_LORA,
    FLUXES,
    PRESETS,
    Recognition,
    in_doubt,
    names_chroma,
    recognise,
)

MODEL_FILE = re.compile(r"\.(safetensors|sft|gguf|ckpt|pth|pt|bin|safetensors\.index\.json)$", re.IGNORECASE)
PRESET_NODE = "ChromaPreset"
OUR_LOADER, OUR_SAMPLER = "ChromaDiffusionLoader", "ChromaKSampler"
MOST = 1e15  # no setting is larger
HOST_SHIFT = math.exp(1.15)  # what ComfyUI gives Chroma and FLUX unless a node changes it

# What is passed on -> the inputs that it may come in by, best first. A name counts with a number behind it too.
ROLES = {
    "model": ("model", "unet"),
    "clip": ("clip",),
    "positive": ("positive", "conditioning", "cond", "conditioning_to"),
    "negative": ("negative", "conditioning", "cond", "conditioning_to"),
    "latent": ("latent_image", "latent", "samples"),
    "sigmas": ("sigmas",),
    "vae": ("vae",),
    "guider": ("guider",),
    "sampler": ("sampler",),
    "text": ("text", "string", "value"),
}
NAMED = {name for names in ROLES.values() for name in names} | {
    "image",
    "pixels",
    "mask",
    "noise",
    "images",
}

Link = tuple[str, int]


class Graph:
    """Look-ups that give None for whatever is not there or has another form."""

    def __init__(self, prompt: Mapping[str, Any]):
        self.nodes: dict[str, Mapping[str, Any]] = {
            str(key): node
            for key, node in prompt.items()
            if isinstance(node, Mapping) and isinstance(node.get("inputs", {}), Mapping)
        }

    def kind(self, node: str) -> str:
        return str(self.nodes[node].get("class_type", ""))

    def title(self, node: str) -> str:
        """What the page shows as the node's name, where the prompt tells."""
        meta = self.nodes[node].get("_meta")
        title = meta.get("title") if isinstance(meta, Mapping) else None
        return title if isinstance(title, str) and title else self.kind(node)

    def inputs(self, node: str) -> Mapping[str, Any]:
        return self.nodes[node].get("inputs", {})

    def links(self, node: str) -> dict[str, Link]:
        return {name: link for name in self.inputs(node) if (link := self.link(node, name))}

    def link(self, node: str, name: str) -> Link | None:
        value = self.inputs(node).get(name)
        if not isinstance(value, (list, tuple)) or len(value) != 2 or isinstance(value[1], bool):
            return None
        source, slot = str(value[0]), value[1]
        return (source, slot) if source in self.nodes and isinstance(slot, int) else None

    def value(self, node: str, name: str, _depth: int = 0) -> Any:
        """What was typed in, there or in a node for a single value that is connected; None for what a run computes."""
        found = self.inputs(node).get(name)
        if not isinstance(found, (list, tuple)):
            return found
        link = self.link(node, name)
        if link is None or _depth > 20:
            return None
        source = link[0]
        if self.kind(source) == PRESET_NODE:  # told by `preset_value`, which knows the model
            return None
        plain = [n for n, v in self.inputs(source).items() if isinstance(v, (int, float, str, bool))]
        links = list(self.links(source))
        if name == "text":
            if links and any(isinstance(self.inputs(source)[n], str) for n in plain):  # it joins or changes texts
                return None
            plain = [n for n in plain if n in ROLES["text"]]
        if len(plain) == 1 and not links:
            return self.value(source, plain[0], _depth + 1)
        if not plain and len(links) == 1:
            return self.value(source, links[0], _depth + 1)
        return None

    def number(self, node: str, name: str) -> float | None:
        value = self.value(node, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not -MOST < value < MOST:  # nan neither
            return None
        return float(value)

    def is_hidden(self, node: str, name: str) -> bool:
        """Whether an input is connected to what only a run computes."""
        return isinstance(self.inputs(node).get(name), (list, tuple)) and self.value(node, name) is None

    def source(self, node: str, role: str) -> Link | None:
        """Where a node has from what it passes on under this role.

        Whether it is the positive or the negative prompt is told by whoever takes it: nodes order their outputs as they like.
        """
        links = self.links(node)
        for name in ROLES[role]:
            for given in links:
                if given == name or re.fullmatch(rf"{name}_?(?:1|a|0)", given):
                    return links[given]
        if role == "model" and self.own_file(node):  # its loader
            return None
        if len(links) == 1 and not NAMED & set(links):  # a reroute, a switch, another pack's bundle
            return next(iter(links.values()))
        return None

    def chain(self, link: Link | None, role: str) -> list[str]:
        """The nodes that what comes in by a link has passed, the nearest first, its maker last."""
        out: list[str] = []
        while link is not None and link[0] not in out:
            out.append(link[0])
            link = self.source(link[0], role)
        return out

    def model_chain(self, node: str) -> list[str]:
        return self.chain(self.links(node).get("model") or self.source(node, "model"), "model")

    def maker_kind(self, chain: list[str]) -> str:
        return self.kind(chain[-1]) if chain else ""

    def own_file(self, node: str) -> str:
        """The model's file that is chosen in a node; "" in one that is no loader."""
        for name, value in self.inputs(node).items():
            if isinstance(value, str) and MODEL_FILE.search(value) and name != "approximator":
                if "lora" not in name.lower():
                    return value
        return ""

    def file(self, chain: list[str]) -> str:
        """The model's file, from the last node of a chain."""
        return self.own_file(chain[-1]) if chain else ""

    def is_open(self, chain: list[str]) -> bool:
        """Whether a model's chain ends before its loader: in a switch between several, or another node that hides the way."""
        return (
            bool(chain)
            and bool(self.links(chain[-1]))
            and not self.own_file(chain[-1])
            and self.maker_kind(chain) != OUR_LOADER
        )

    def loras(self, chain: list[str]) -> tuple[list[str], str]:
        """What LoRAs the nodes of a chain put on the model, also from nodes for several that are connected to them.

        returns: their files, without those of strength 0 or switched off; and a node that hides which it has, or "".
        """
        out: list[str] = []
        hiding = ""
        waiting, seen = [(node, False) for node in reversed(chain)], set(chain)
        while waiting:
            node, given = waiting.pop()  # given: connected as a LoRA, or as a stack of them
            inputs = self.inputs(node)
            names = [name for name in inputs if "lora" in name.lower()] or list(inputs if given else ())
            is_told = False
            for name in names:
                link, value = self.link(node, name), inputs[name]
                if link is not None:
                    is_told = True
                    if link[0] not in seen and not _is_off(inputs, name):
                        seen.add(link[0])
                        waiting.append((link[0], True))
                    continue
                on = not _is_off(inputs, name)
                if isinstance(value, Mapping):  # {"on": true, "lora": name, "strength": 1}, or {"content": name}
                    on = on and value.get("on", True) and value.get("strength", 1)
                    value = value.get("lora", value.get("content"))
                if value in ("", "None") or isinstance(value, str) and MODEL_FILE.search(value):
                    is_told = True
                    out += [value] * bool(on and value not in ("", "None"))
            if not is_told and (given or "lora" in self.kind(node).lower()):
                hiding = hiding or node
        return out, hiding

    def text(self, chain: list[str]) -> str | None:
        """The prompt that a chain of conditioning begins with, where it was typed in; None if it does not get through."""
        if not chain or any("zeroout" in self.kind(node).lower() for node in chain):
            return None
        for name in ("text", "t5xxl", "prompt"):
            value = self.value(chain[-1], name)
            if isinstance(value, str):
                return value
        return None

    def joins(self, chain: list[str]) -> bool:
        """Whether a chain of conditioning has more than the one prompt that `text` gives."""
        return any(sum(name.lower().startswith("cond") for name in self.links(node)) > 1 for node in chain)

    def users(self, node: str) -> Iterator[tuple[str, str]]:
        """(node, input) of whatever takes something from a node."""
        for other in self.nodes:
            for name, link in self.links(other).items():
                if link[0] == node:
                    yield other, name


def _is_off(inputs: Mapping[str, Any], name: str) -> bool:
    """Whether a LoRA node's own inputs take one of its LoRAs off: a strength of 0, a switch, a count that is less."""
    number = re.search(r"\d*$", name).group()
    strengths = ("strength_model", "lora_model_strength", *(f"{n}_{number}" for n in ("lora_wt", "strength", "model_weight", "model_str")))  # fmt: skip
    count = inputs.get("lora_count")
    return (
        any(isinstance(inputs.get(n), (int, float)) and inputs[n] == 0 for n in strengths)
        or inputs.get(f"switch_{number}") in ("Off", False)
        or bool(number and isinstance(count, int) and int(number) > count)
    )


@dataclass(frozen=True)
class Shift:
    """value: the factor, None where a node computes it. node: that sets it, None for the host's own."""

    value: float | None
    node: str | None


def shift_of(graph: Graph, node: str) -> tuple[bool, float | None]:
    """Whether a node sets the model's shift, and to what."""
    kind, number = graph.kind(node), lambda name: graph.number(node, name)
    if kind in ("ModelSamplingAuraFlow", "ModelSamplingSD3"):
        return True, number("shift")
    if kind == "ChromaTimestepShift":
        mode = graph.value(node, "mode")
        if mode == BY_RESOLUTION:
            return True, by_resolution(*(number(f"mode.{n}") for n in ("width", "height", "base_shift", "max_shift")))
        return True, number("mode.shift") if mode == FIXED else 1.0 if mode == TRAINED else None
    if kind == OUR_SAMPLER:
        mode = graph.value(node, "shift")
        return mode != FROM_MODEL, number("shift.value") if mode == FIXED else 1.0 if mode == AS_TRAINED else None
    if kind == "ModelSamplingFlux":
        return True, by_resolution(*(number(n) for n in ("width", "height", "base_shift", "max_shift")))
    if kind == PRESET_NODE:
        mode = graph.value(node, "shift")
        return True, number("shift.value") if mode == FIXED else 1.0 if mode == TRAINED else None
    return "modelsampling" in kind.lower().replace(" ", "") or "shift" in kind.lower(), None


def by_resolution(width: float | None, height: float | None, base: float | None, most: float | None) -> float | None:
    """FLUX's shift for a size in pixels, as a factor; None where something is not known."""
    if None in (width, height, base, most):
        return None
    try:
        return math.exp(flux_mu(width * height / PIXELS_PER_TOKEN, base, most))
    except ValueError:  # the node itself refuses it
        return None


@dataclass(frozen=True)
class Run:
    """One sampling in the graph. None and "" stand for what the graph does not tell.

    node:      the sampler's node; guider: where cfg and the prompts are; both the same for a KSampler.
    scheduler: the schedule's name: the host's, or a curve of ours; schedule_node gives it.
    denoise: nan where a node computes it, which is like no number.
    models: the nodes that the sampler's model has passed, the nearest first; is_open: the last is not its loader.
    schedule_models: the schedule's node, and those that its model has passed.
    is_part: of a picture that another run begins or ends.
    """

    node: str
    guider: str
    cfg: float | None
    steps: int | None
    sampler: str
    scheduler: str
    schedule_node: str
    denoise: float
    models: list[str]
    schedule_models: list[str]
    positive: list[str]
    negative: list[str]
    latent: list[str]
    shift: Shift
    file: str
    variant: str | None
    loras: list[str]
    is_chroma: bool
    is_native: bool
    is_open: bool
    is_part: bool
    found: Recognition

    def kinds(self, graph: Graph) -> list[tuple[str, str]]:
        """(node, its class) of what the model has passed."""
        return [(node, graph.kind(node)) for node in self.models]


# Node that gives SIGMAS -> what to call its schedule. Others are called by their class.
SCHEDULES = {
    "BetaSamplingScheduler": "beta",
    "ChromaBetaScheduler": "beta",
    "ChromaSigmoidOffsetScheduler": "sigmoid_offset",
    "SigmoidOffsetScheduler": "sigmoid_offset",
}
SAMPLER_NODES = {
    "SamplerDPMPP_SDE": "dpmpp_sde",
    "SamplerDPMPP_2S_Ancestral": "dpmpp_2s_ancestral",
    "SamplerSEEDS2": "seeds_2",
    "SamplerDPMAdaptative": "dpm_adaptive",
    "SamplerEulerAncestralCFGPP": "euler_ancestral_cfg_pp",
}


def runs(graph: Graph, record: Mapping[str, Any]) -> list[Run]:
    """Every sampling in the graph.

    record: what is known beside it: "variant" and "file" of the model whose chain of nodes is that of the node "node".
    """
    known = graph.model_chain(str(record["node"])) if str(record.get("node")) in graph.nodes else []
    out = []
    for node in graph.nodes:
        links = graph.links(node)
        if "guider" in links and ("sigmas" in links or "latent_image" in links):
            guider = next((g for g in graph.chain(links["guider"], "guider") if "model" in graph.links(g)), None)
        elif "model" in links and "positive" in links and graph.source(node, "latent"):
            guider = node
        else:
            continue
        if guider is not None:
            out.append(_run(graph, record, known, node, guider))
    return out


def _run(graph: Graph, record: Mapping[str, Any], known: list[str], node: str, guider: str) -> Run:
    links, texts = graph.links(node), graph.links(guider)
    models = graph.model_chain(guider)
    same = bool(known and models and known[-1] == models[-1])
    file = graph.file(models) or (record.get("file") or "" if same else "")
    variant = record.get("variant") if same else None
    ours, is_open = any(graph.kind(n) == OUR_LOADER for n in models), graph.is_open(models)
    found = recognise_chain(graph, models, variant, file)

    cfg = 1.0 if graph.kind(guider) == "BasicGuider" else number_of(graph, guider, "cfg", found)
    sampler = graph.value(node, "sampler_name") or graph.value(node, "sampler")
    schedule_node, schedule_models, is_cut = node, [node, *models], False
    if "sigmas" in links:
        makers = graph.chain(links["sigmas"], "sigmas")
        schedule_node = makers[-1]
        scheduler, steps = _schedule(graph, schedule_node), number_of(graph, schedule_node, "steps", found)
        is_cut = len(makers) > 1
        if is_cut:  # or bent: its number of steps is not what it was
            steps = None
        schedule_models = [schedule_node, *graph.model_chain(schedule_node)]
    else:
        scheduler = graph.value(node, "scheduler") or graph.value(node, "schedule")
        steps = number_of(graph, node, "steps", found)
    if "sampler" in links:
        last = graph.chain(links["sampler"], "sampler")[-1]
        sampler = graph.value(last, "sampler_name") or SAMPLER_NODES.get(graph.kind(last))
        if graph.kind(last) == PRESET_NODE:
            sampler = preset_value(graph, last, "sampler", found)
    if graph.kind(schedule_node) == PRESET_NODE:
        steps = preset_value(graph, schedule_node, "steps", found)
        scheduler = preset_value(graph, schedule_node, "curve", found)
    denoise = math.nan if graph.is_hidden(schedule_node, "denoise") else graph.number(schedule_node, "denoise")
    starts, ends = (graph.number(node, n) for n in ("start_at_step", "end_at_step"))
    whole = steps if steps is not None else math.inf
    return Run(
        node=node,
        guider=guider,
        cfg=cfg,
        steps=None if steps is None else int(steps),
        sampler=sampler if isinstance(sampler, str) else "",
        scheduler=scheduler if isinstance(scheduler, str) else "",
        schedule_node=schedule_node,
        denoise=1.0 if denoise is None else denoise,
        models=models,
        schedule_models=schedule_models,
        positive=graph.chain(texts.get("positive") or texts.get("conditioning"), "positive"),
        negative=graph.chain(texts.get("negative"), "negative"),
        latent=graph.chain(graph.source(node, "latent"), "latent"),
        shift=effective_shift(graph, schedule_models),
        file=file,
        variant=variant,
        loras=graph.loras(models)[0],
        is_chroma=variant is not None or ours or names_chroma(file),
        is_native=not (ours or is_open),
        is_open=is_open,
        is_part=is_cut
        or bool(starts)
        or (ends is not None and ends < whole)
        or graph.value(node, "add_noise") in ("disable", False),
        found=found,
    )


def effective_shift(graph: Graph, models: list[str]) -> Shift:
    """What the nearest node that sets a shift has set. models: first the node that it acts in, then its model's chain."""
    for node in models:
        sets, value = shift_of(graph, node)
        if sets:
            return Shift(value, node)
    return Shift(None, models[-1]) if graph.is_open(models[1:]) else Shift(HOST_SHIFT, None)


def recognise_chain(graph: Graph, chain: list[str], variant: str | None, file: str) -> Recognition:
    """`recognise` for the model of a chain of nodes, in doubt where they may hide what decides."""
    loras, hiding = graph.loras(chain)
    found = recognise(variant, file, loras)
    if found.name in (FLASH_LORA, *FLUXES):
        return found
    if hiding:
        return in_doubt(found, f"the graph does not tell which LoRAs {graph.kind(hiding)} (node {hiding}) puts on it")
    if graph.is_open(chain):
        return in_doubt(found, f"the graph does not tell what is before {graph.maker_kind(chain)} (node {chain[-1]})")
    return found


def _schedule(graph: Graph, node: str) -> str:
    kind = graph.kind(node)
    if kind == "ChromaScheduler":
        return str(graph.value(node, "curve"))
    return SCHEDULES.get(kind) or graph.value(node, "scheduler") or kind


def number_of(graph: Graph, node: str, name: str, found: Recognition) -> float | None:
    """A node's number, typed in or from Chroma Preset."""
    link = graph.link(node, name)
    if link and graph.kind(link[0]) == PRESET_NODE:
        return preset_value(graph, link[0], name, found)
    return graph.number(node, name)


def preset_value(graph: Graph, node: str, name: str, found: Recognition) -> Any:
    """What Chroma Preset gives for "steps", "cfg", "sampler", "curve", "width" or "height"."""
    chosen, given = graph.value(node, "preset"), "schedule" if name == "curve" else name
    preset = PRESETS.get(chosen, found.preset) if isinstance(chosen, str) else found.preset
    if graph.is_hidden(node, given) or graph.is_hidden(node, "preset"):
        return None
    if name in ("sampler", "curve"):
        typed = graph.value(node, given)
        return typed if isinstance(typed, str) and typed != FROM_PRESET else getattr(preset, name)
    return graph.number(node, given) or getattr(preset, "size" if name in ("width", "height") else name)


def shift_setters(graph: Graph, run: Run) -> list[str]:
    """The nodes that set the shift of a run's model, the last, which counts, first."""
    return [n for n in dict.fromkeys((run.node, *run.models)) if shift_of(graph, n)[0]]


def follows_shift(scheduler: str) -> bool:
    """Whether the model's shift acts on a schedule; also for the host's, which all follow it but for its own tables."""
    if scheduler in CURVES:
        return CURVES[scheduler].from_table
    return scheduler in FOLLOWING


# The host's schedules that are taken from the model's sigmas, and those that this pack adds to them.
FOLLOWING = (
    "simple",
    "sgm_uniform",
    "normal",
    "ddim_uniform",
    "beta_0.4",
    "beta_0.45",
    "karras",
    "exponential",
    "kl_optimal",
)
