"""The graph that a person has queued, in the host's API format, and the sampling runs in it. Pure: no host, no tensor.

node id -> {"class_type": ..., "inputs": {name: value or [node id, slot]}}. Nodes of other packs are followed by the names
of their inputs: what gives a MODEL most likely passes on the one that it takes as `model`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Iterator, Mapping

from .presets import BY_RESOLUTION, FIXED, PRESETS, TRAINED, Recognition, recognise
from .sigmas import CURVES, PIXELS_PER_TOKEN, flux_mu

MODEL_FILE = re.compile(r"\.(safetensors|sft|gguf|ckpt|pth|pt|bin|safetensors\.index\.json)$", re.IGNORECASE)
PRESET_NODE = "ChromaPreset"
FROM_PRESET = "from the preset"  # in its menus
OUR_LOADER, OUR_SAMPLER = "ChromaDiffusionLoader", "ChromaKSampler"
AS_TRAINED = "1 (as trained)"  # in the menu of OUR_SAMPLER
HOST_SHIFT = math.exp(1.15)  # what ComfyUI gives Chroma and FLUX unless a node changes it

# What is passed on -> the inputs that it may come in by, best first. A name counts with a number behind it too.
ROLES = {
    "model": ("model", "unet"),
    "clip": ("clip",),
    "conditioning": ("conditioning", "cond", "conditioning_to", "positive"),
    "latent": ("latent_image", "latent", "samples"),
    "sigmas": ("sigmas",),
    "vae": ("vae",),
    "guider": ("guider",),
    "sampler": ("sampler",),
    "text": ("text", "string", "value"),
}
NAMED = {name for names in ROLES.values() for name in names} | {
    "negative",
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
        if name == "text":
            plain = [n for n in plain if n in ROLES["text"]]
        links = list(self.links(source))
        if len(plain) == 1 and (not links or plain[0] in ROLES["text"]):
            return self.value(source, plain[0], _depth + 1)
        if not plain and len(links) == 1:
            return self.value(source, links[0], _depth + 1)
        return None

    def number(self, node: str, name: str) -> float | None:
        value = self.value(node, name)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def source(self, node: str, role: str, slot: int = 0) -> Link | None:
        """Where a node has from what it passes on under this role."""
        links = self.links(node)
        if role == "conditioning" and slot == 1 and "negative" in links:
            return links["negative"]
        for name in ROLES[role]:
            for given in links:
                if given == name or re.fullmatch(rf"{name}_?(?:1|a|0)", given):
                    return links[given]
        if len(links) == 1 and not NAMED & set(links):  # a reroute, a switch, another pack's bundle
            return next(iter(links.values()))
        return None

    def chain(self, link: Link | None, role: str) -> list[str]:
        """The nodes that what comes in by a link has passed, the nearest first, its maker last."""
        out: list[str] = []
        while link is not None and link[0] not in out:
            out.append(link[0])
            link = self.source(link[0], role, link[1])
        return out

    def model_chain(self, node: str) -> list[str]:
        return self.chain(self.links(node).get("model") or self.source(node, "model"), "model")

    def maker_kind(self, chain: list[str]) -> str:
        return self.kind(chain[-1]) if chain else ""

    def file(self, chain: list[str]) -> str:
        """The model's file, from the last node of a chain."""
        for name, value in self.inputs(chain[-1]).items() if chain else ():
            if isinstance(value, str) and MODEL_FILE.search(value) and name != "approximator":
                return value
        return ""

    def loras(self, chain: list[str]) -> list[str]:
        """The LoRA files that the nodes of a chain put on the model, without those of strength 0 or switched off."""
        out: list[str] = []
        for node in chain:
            inputs = self.inputs(node)
            if "lora" not in self.kind(node).lower():
                continue
            for name, value in inputs.items():
                if isinstance(value, Mapping):  # nodes for many LoRAs: {"on": true, "lora": name, "strength": 1}
                    on = value.get("on", True) and value.get("strength", 1)
                    value = value.get("lora") if on else None
                else:
                    number = re.search(r"\d*$", name).group()
                    given = [inputs.get(n) for n in ("strength_model", f"lora_wt_{number}", f"strength_{number}")]
                    value = None if 0 in [g for g in given if isinstance(g, (int, float))] else value
                if "lora" in name.lower() and isinstance(value, str) and MODEL_FILE.search(value):
                    out.append(value)
        return out

    def text(self, chain: list[str]) -> str | None:
        """The prompt that a chain of conditioning begins with, where it was typed in."""
        if not chain:
            return None
        for name in ("text", "t5xxl", "prompt"):
            value = self.value(chain[-1], name)
            if isinstance(value, str):
                return value
        return None

    def users(self, node: str) -> Iterator[tuple[str, str]]:
        """(node, input) of whatever takes something from a node."""
        for other in self.nodes:
            for name, link in self.links(other).items():
                if link[0] == node:
                    yield other, name


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
        return True, {TRAINED: 1.0, FIXED: number("mode.shift")}.get(mode)
    if kind == OUR_SAMPLER:
        mode = graph.value(node, "shift")
        values = {AS_TRAINED: 1.0, FIXED: number("shift.value")}
        return mode in (*values, BY_RESOLUTION), values.get(mode)
    if kind == "ModelSamplingFlux":
        return True, by_resolution(*(number(n) for n in ("width", "height", "base_shift", "max_shift")))
    if kind == PRESET_NODE:
        return True, None
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
    models: the nodes that the sampler's model has passed, the nearest first.
    schedule_models: the schedule's node, and those that its model has passed.
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
    variant, loras = record.get("variant") if same else None, graph.loras(models)
    maker = graph.maker_kind(models)
    words = file.lower()
    is_chroma = variant is not None or maker == OUR_LOADER or "chroma" in words or "radiance" in words
    found = recognise(variant, file, loras)

    cfg = 1.0 if graph.kind(guider) == "BasicGuider" else number_of(graph, guider, "cfg", found)
    sampler = graph.value(node, "sampler_name") or graph.value(node, "sampler")
    schedule_node, schedule_models = node, [node, *models]
    if "sigmas" in links:
        makers = graph.chain(links["sigmas"], "sigmas")
        schedule_node = makers[-1]
        scheduler, steps = _schedule(graph, schedule_node), number_of(graph, schedule_node, "steps", found)
        if len(makers) > 1:  # cut or bent: its number of steps is not what it was
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
    denoise = graph.number(schedule_node, "denoise")
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
        positive=graph.chain(texts.get("positive") or texts.get("conditioning"), "conditioning"),
        negative=graph.chain(texts.get("negative"), "conditioning"),
        latent=graph.chain(graph.source(node, "latent"), "latent"),
        shift=effective_shift(graph, schedule_models),
        file=file,
        variant=variant,
        loras=loras,
        is_chroma=is_chroma,
        is_native=maker != OUR_LOADER,
        found=found,
    )


def effective_shift(graph: Graph, models: list[str]) -> Shift:
    """What the nearest node that sets a shift has set."""
    for node in models:
        sets, value = shift_of(graph, node)
        if sets:
            return Shift(value, node)
    return Shift(HOST_SHIFT, None)


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
    preset = PRESETS.get(graph.value(node, "preset"), found.preset)
    typed = graph.value(node, "schedule" if name == "curve" else name)
    if name in ("sampler", "curve"):
        return typed if isinstance(typed, str) and typed != FROM_PRESET else getattr(preset, name)
    return typed if typed else getattr(preset, "size" if name in ("width", "height") else name)


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
