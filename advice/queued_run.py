"""The sampling runs of a queued graph: what each is made from, as far as the graph tells. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Mapping

from ..constants import CUSTOM, FLUX_VARIANT, FROM_PRESET, SCHNELL_VARIANT, TIMES
from .flash import settings_in_graph
from .presets import CHOICES, FLASH_LORA, FLUXES, PRESETS, SCHNELL, choice_named, times_as_fast
from .queued_graph import FLASH_NODE, OUR_LOADER, OUR_SAMPLER, PRESET_NODES, SIZE_NODE, SPEED_NODE, Graph
from .queued_shift import HOST_SHIFT, Shift, effective_shift, shift_of
from .recognise_preset import Recognition, in_doubt, names_chroma, recognise
from .sizes import of_node


@dataclass(frozen=True)
class QueuedRun:
    """One sampling in the graph. None and "" stand for what the graph does not tell.

    node:      the sampler's node; guider: where cfg and the prompts are; both the same for a KSampler.
    scheduler: the schedule's name: the host's, or a curve of ours; schedule_node gives it.
    denoise: nan, equal to no number, where a node computes it.
    models: the nodes that the sampler's model has passed, the nearest first; is_open: the last is not its loader.
    is_chroma: FLUX with an Approximator counts too, but not FLUX of the host's loader; is_native: the host's own class.
    schedule_models: the schedule's node, and those that its model has passed.
    is_part: another run begins or ends its picture.
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
    is_ours: bool
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
# Inputs that only samplers have: others measure a model on a prompt and a latent, or pass them on.
SAMPLES = {"sampler_name", "sampler", "scheduler", "schedule", "sigmas", "cfg"}


def runs(graph: Graph, record: Mapping[str, Any]) -> list[QueuedRun]:
    """Every sampling in the graph.

    record: what is known beside it: "variant" and "file" of the model that goes into the node "node".
    """
    known = graph.model_chain(str(record["node"])) if str(record.get("node")) in graph.nodes else []
    out = []
    for node in graph.nodes:
        links = graph.links(node)
        if "guider" in links and ("sigmas" in links or "latent_image" in links):
            guider = next((g for g in graph.chain(links["guider"], "guider") if "model" in graph.links(g)), None)
        elif (
            "model" in links
            and "positive" in links
            and graph.source(node, "latent")
            and SAMPLES & set(graph.inputs(node))
        ):
            guider = node
        else:
            continue
        if guider is not None:
            out.append(_run(graph, record, known, node, guider))
    return out


def _run(graph: Graph, record: Mapping[str, Any], known: list[str], node: str, guider: str) -> QueuedRun:
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
        if is_cut:  # or reshaped: it has another number of steps
            steps = None
        schedule_models = [schedule_node, *graph.model_chain(schedule_node)]
    else:
        scheduler = graph.value(node, "scheduler") or graph.value(node, "schedule")
        steps = number_of(graph, node, "steps", found)
    if "sampler" in links:
        last = graph.chain(links["sampler"], "sampler")[-1]
        sampler = graph.value(last, "sampler_name") or SAMPLER_NODES.get(graph.kind(last))
        if graph.kind(last) in PRESET_NODES:
            sampler = preset_value(graph, last, "sampler", found)
    if graph.kind(schedule_node) in PRESET_NODES:
        steps = preset_value(graph, schedule_node, "steps", found)
        scheduler = preset_value(graph, schedule_node, "curve", found)
    if (take := taken(graph, node, found)) is not None:
        cfg, steps, sampler, scheduler = (take(name) for name in ("cfg", "steps", "sampler", "curve"))
    denoise = math.nan if graph.is_hidden(schedule_node, "denoise") else graph.number(schedule_node, "denoise")
    starts, ends = (graph.number(node, n) for n in ("start_at_step", "end_at_step"))
    whole = steps if steps is not None else math.inf
    return QueuedRun(
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
        shift=effective_shift(graph, schedule_models, 1.0 if found.name == SCHNELL else HOST_SHIFT),
        file=file,
        variant=variant,
        loras=graph.loras(models)[0],
        is_chroma=ours or (names_chroma(file) if variant is None else variant not in (FLUX_VARIANT, SCHNELL_VARIANT)),
        is_native=not (ours or is_open),
        is_ours=ours,
        is_open=is_open,
        is_part=is_cut
        or bool(starts)
        or (ends is not None and ends < whole)
        or graph.value(node, "add_noise") in ("disable", False),
        found=found,
    )


def recognise_chain(graph: Graph, chain: list[str], variant: str | None, file: str) -> Recognition:
    """`recognise` for a chain's model; in doubt where a node hides what decides."""
    if any(graph.kind(node) == FLASH_NODE for node in chain):
        return Recognition(FLASH_LORA, "by Chroma Flash")
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
    """A node's number, typed in or from Chroma Preset or Chroma Size."""
    link = graph.link(node, name)
    if link and graph.kind(link[0]) in PRESET_NODES:
        return preset_value(graph, link[0], name, found)
    if link and graph.kind(link[0]) == SIZE_NODE:
        size = of_node(graph, link[0], found.preset)
        return None if size is None else size[link[1] == 1]
    return graph.number(node, name)


def picture_size(graph: Graph, run: QueuedRun) -> tuple[int, int, str] | None:
    """Width and height in pixels of an empty latent that a run starts from, and its node."""
    if not run.latent or "empty" not in graph.maker_kind(run.latent).lower() or len(run.latent) > 1:
        return None
    node = run.latent[-1]
    sides = [number_of(graph, node, name, run.found) for name in ("width", "height")]
    return None if None in sides or min(sides) < 1 else (int(sides[0]), int(sides[1]), node)


def taken(graph: Graph, node: str, found: Recognition) -> Callable[[str], Any] | None:
    """What a one-node sampler takes in place of its own widgets, by name; None where these count.

    From the settings of Chroma Preset, Chroma Speed or Chroma Flash, else by its choice of quality. A choice that the node will refuse counts as the preset.
    """
    if graph.kind(node) != OUR_SAMPLER:
        return None
    if link := graph.link(node, "settings"):
        source = graph.chain(link, "settings")[-1]
        if graph.kind(source) == FLASH_NODE:
            flash = settings_in_graph(graph, source)
            return lambda name: None if flash is None else getattr(flash, name)
        return lambda name: preset_value(graph, source, name, found) if graph.kind(source) in PRESET_NODES else None
    if graph.is_hidden(node, "quality"):
        return lambda name: None
    quality = graph.value(node, "quality")
    if quality in (None, CUSTOM):
        return None
    preset = CHOICES[quality].of(found.preset) if quality in CHOICES else found.preset
    return lambda name: getattr(preset, name)


def preset_value(graph: Graph, node: str, name: str, found: Recognition) -> Any:
    """What Chroma Preset or Chroma Speed gives for "steps", "cfg", "sampler", "curve", "width" or "height"."""
    if graph.kind(node) == SPEED_NODE:
        how = choice_named(speed_of(graph, node) or "")
        return None if how is None else getattr(how.of(found.preset), "size" if name in ("width", "height") else name)
    chosen, given = graph.value(node, "preset"), "schedule" if name == "curve" else name
    preset = PRESETS.get(chosen, found.preset) if isinstance(chosen, str) else found.preset
    if graph.is_hidden(node, given) or graph.is_hidden(node, "preset"):
        return None
    if name in ("sampler", "curve"):
        typed = graph.value(node, given)
        return typed if isinstance(typed, str) and typed != FROM_PRESET else getattr(preset, name)
    return graph.number(node, given) or getattr(preset, "size" if name in ("width", "height") else name)


def speed_of(graph: Graph, node: str) -> str | None:
    """The choice of a Chroma Speed, by its name; None where the graph does not tell."""
    chosen = graph.value(node, "speed")
    if chosen != TIMES:
        return chosen if isinstance(chosen, str) else None
    times = graph.number(node, "speed.times")
    return None if times is None else times_as_fast(times)


def shift_setters(graph: Graph, run: QueuedRun) -> list[str]:
    """The nodes that set the shift of a run's model; the first of them counts."""
    return [n for n in dict.fromkeys((run.node, *run.models)) if shift_of(graph, n)[0]]
