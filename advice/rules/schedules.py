"""The Doctor's rules on schedules, shifts and numbers of steps. What a rule is: `doctor.py`."""

from __future__ import annotations

import math
from typing import Iterator

from ...constants import CUSTOM, FROM_MODEL, TRAINED, counted
from ..finding import HARM, HINT, IDLE, Facts, Finding, Insert, rule
from ..presets import CHOICES, FLUX, FLUXES, STANDARD
from ..queued_graph import OUR_SAMPLER, PRESET_NODES, ROLES, Graph
from ..queued_run import QueuedRun, shift_setters, taken
from ..queued_shift import HOST_SHIFT, by_resolution, follows_shift, shift_of
from ..speed import LEAST_STEPS, SAMPLERS_FOR_FEW

LAST_SIGMA = 0.25  # what a schedule may leave to its last step; 8 steps at shift 1 leave 0.125
FEW_STEPS = 12
SAME_SHIFT = 1e-3  # 3.16 beside e^1.15


@rule
def few_steps_of_a_shifted_schedule(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Of n equal steps under a shift s the last starts at sigma s / (n - 1 + s): 0.311 for 8 steps at ComfyUI's 3.16.

    source: the formula of the shift; users report soft pictures of Flash models. A hint only: the demo model, which has
    no fine detail, shows no difference (benchmarks/presets).
    """
    equal = ("simple", "sgm_uniform", "flux_shift", "fixed_shift")
    if run.scheduler not in equal or not run.steps or run.denoise != 1 or run.found.name == FLUX:
        return
    s = schedule_shift(graph, run)
    if s is None or run.steps < 2:
        return
    last = s / (run.steps - 1 + s)
    if s > 1.2 and last > LAST_SIGMA:
        yield Finding(
            HINT,
            run.schedule_node,
            f"{counted(run.steps, 'step')} of {run.scheduler} at a shift of {s:.2f}",
            f"The last step goes from a noise level of {last:.2f} to 0 at once; users report soft pictures.",
            "Set the shift to 1 with Chroma Timestep Shift, and use the schedule beta; or take more steps.",
            insert=no_shift_behind_the_loader(graph, run),
        )


@rule
def links_that_a_choice_overrules(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Under a choice of quality, or with settings, Chroma KSampler takes its numbers from there, and what is linked is idle.

    source: nodes/ksampler.py; a column of a table of prompts (Chroma Row Value) then changes nothing, without a word.
    """
    node = run.node
    linked = [name for name in ("steps", "cfg", "sampler", "schedule", "shift") if graph.link(node, name)]
    if graph.kind(node) != OUR_SAMPLER or not linked:
        return
    by_settings, quality = graph.link(node, "settings") is not None, graph.value(node, "quality")
    if by_settings or quality in CHOICES:
        one = len(linked) == 1
        yield Finding(
            IDLE,
            node,
            f"{' and '.join(linked)} by link, beside {'settings' if by_settings else f'quality {quality}'}",
            f"The sampler takes {'it' if one else 'them'} from {'the settings' if by_settings else 'the choice of quality'}.",
            "Disconnect settings." if by_settings else f"Set quality to {CUSTOM}.",
            fix=() if by_settings else (("quality", CUSTOM),),
        )


def no_shift_behind_the_loader(graph: Graph, run: QueuedRun) -> Insert | None:
    """Chroma Timestep Shift for the model and all that takes it; None where that is not what decides.

    So where a node sets the shift, where the schedule has its own, or is made on another model.
    """
    chain = [run.guider, *run.models]
    if len(chain) < 2 or shift_setters(graph, run) or not follows_shift(run.scheduler):
        return None
    before, loader = chain[-2:]
    if run.is_open or run.schedule_models[-1] != loader:
        return None
    link = next((graph.links(before)[name] for name in ROLES["model"] if name in graph.links(before)), None)
    if link is None or link[0] != loader:
        return None
    into = ((node, name) for node in graph.nodes for name, given in graph.links(node).items() if given == link)
    return Insert("ChromaTimestepShift", tuple(into), values=(("mode", TRAINED),))


def schedule_shift(graph: Graph, run: QueuedRun) -> float | None:
    """The shift that acts on the schedule: its own, or the model's; None where the graph does not tell."""
    if run.scheduler == "fixed_shift":
        return graph.number(run.schedule_node, "curve.shift")
    if run.scheduler == "flux_shift":
        if graph.link(run.schedule_node, "curve.latent"):  # the size is that of the latent
            return None
        names = ("width", "height", "base_shift", "max_shift")
        return by_resolution(*(graph.number(run.schedule_node, f"curve.{n}") for n in names))
    return run.shift.value


@rule
def shift_not_set(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Chroma was trained without a shift; ComfyUI gives it that of FLUX, 3.16, unless a node says otherwise.

    source: the host's supported_models.Chroma (mu 1.15); levzzz's guide: shift 1, or FLUX's.
    """
    if run.found.name in FLUXES or not follows_shift(run.scheduler) or shift_setters(graph, run) or run.shift.node:
        return
    if next(few_steps_of_a_shifted_schedule(graph, run, facts), None) is None and run.cfg is not None:
        yield Finding(
            HINT,
            run.schedule_node,
            f"the model's shift is ComfyUI's {HOST_SHIFT:.2f}",
            "Chroma was trained with 1. A larger one spends more steps on the composition and fewer on details.",
            "Connect Chroma Timestep Shift with shift 1 behind the model's loader, also for the scheduler.",
            insert=no_shift_behind_the_loader(graph, run),
        )


@rule
def shift_the_schedule_does_not_see(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """A scheduler takes its sigmas from its own MODEL input; a shift on the sampler's MODEL alone does not reach it.

    source: the host's BasicScheduler.
    """
    setters = shift_setters(graph, run)
    if setters and run.schedule_node != run.node and len(run.schedule_models) > 1 and run.shift.node is None:
        if follows_shift(run.scheduler):
            yield Finding(
                IDLE,
                setters[0],
                "the shift does not reach the schedule",
                f"{graph.kind(run.schedule_node)} has the model from before {graph.kind(setters[0])}, without its shift.",
                f"Connect the scheduler's model to {graph.kind(setters[0])} too.",
            )


@rule
def two_shifts(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """A model has one shift; a later node's replaces an earlier one's. Of the same shift nothing is said.

    Chroma Preset is reported only if a person set another shift in it: it gives more than a shift.
    source: the host's add_object_patch("model_sampling").
    """
    setters = shift_setters(graph, run)
    for node in () if setters and graph.is_hidden(setters[0], "shift") else setters[1:]:
        value, last = shift_of(graph, node)[1], last_shift(graph, run, setters[0])
        is_same = None not in (value, last) and math.isclose(value, last, rel_tol=SAME_SHIFT)
        if is_same or (value is None and graph.kind(node) in PRESET_NODES):
            continue
        if graph.kind(setters[0]) == OUR_SAMPLER:
            remedy = f"Choose {FROM_MODEL!r} as its shift, with quality custom, or remove the other."
        else:
            remedy = "Remove one of them."
        yield Finding(
            IDLE,
            node,
            f"the shift of {graph.kind(node)}",
            f"{graph.kind(setters[0])} comes after it and sets {'its own' if None in (value, last) else 'another'}.",
            remedy,
        )


def last_shift(graph: Graph, run: QueuedRun, node: str) -> float | None:
    """The shift that a node sets, that of a choice of quality too; None where the graph does not tell."""
    take = None if graph.link(node, "settings") else taken(graph, node, run.found)
    return 1.0 if take is not None and take("shift") == TRAINED else shift_of(graph, node)[1]


@rule
def shift_of_another_model(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """ModelSamplingSD3 multiplies the time by 1000, and Chroma does so itself; the others are no flow models at all.

    source: the host's nodes_model_advanced.py; tried for this pack.
    """
    others = ("ModelSamplingSD3", "ModelSamplingDiscrete", "ModelSamplingContinuousEDM", "ModelSamplingContinuousV")
    for node, kind in run.kinds(graph):
        if kind in (*others, "ModelSamplingStableCascade"):
            yield Finding(
                HARM,
                node,
                f"{kind} with Chroma",
                "It is for another kind of model; Chroma then gets times that it does not know, and paints noise.",
                "Use Chroma Timestep Shift, or ModelSamplingAuraFlow.",
            )


@rule
def schedule_of_another_model(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """A flow model's noise level goes from 1 to 0. karras and exponential go down to 0.0003 and spend most steps there;
    the others' levels are those of Stable Diffusion, from 14.6 on.

    source: the host's samplers.py and nodes_custom_sampler.py, nodes_align_your_steps.py, nodes_gits.py.
    """
    kind = graph.kind(run.schedule_node)
    if kind in ("ChromaScheduler", *PRESET_NODES, OUR_SAMPLER):
        return
    if run.scheduler in ("karras", "exponential"):
        text = (
            "ComfyUI's goes down to a noise level of 0.0003, and spends most of the steps where nothing is left to do."
        )
    elif kind in FOREIGN_SCHEDULES:
        text = "Its noise levels are those of Stable Diffusion, which start at 14.6; Chroma's start at 1."
    else:
        return
    yield Finding(
        HARM,
        run.schedule_node,
        f"the schedule {run.scheduler} with Chroma",
        text,
        "Use beta, or Chroma Scheduler, whose karras and exponential fit.",
        (("scheduler", "beta"),) if isinstance(graph.inputs(run.schedule_node).get("scheduler"), str) else (),
    )


FOREIGN_SCHEDULES = (
    "KarrasScheduler",
    "ExponentialScheduler",
    "PolyexponentialScheduler",
    "LaplaceScheduler",
    "VPScheduler",
    "SDTurboScheduler",
    "AlignYourStepsScheduler",
    "GITSScheduler",
)


@rule
def few_steps(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Checkpoints that are not made for few steps need 25 or more with the samplers of every source, 25 to 40.

    source: those of presets.PRESETS; for chroma_sigma_2m, benchmarks/frontier.
    """
    preset = run.found.preset
    least = LEAST_STEPS if run.sampler in SAMPLERS_FOR_FEW else FEW_STEPS
    if run.found.sure and not preset.few_steps and run.steps and run.steps < least and run.denoise == 1:
        if run.found.name not in FLUXES:
            yield Finding(
                HINT,
                run.schedule_node,
                f"{counted(run.steps, 'step')} with {run.found.name}",
                f"Its pictures need more of them: {preset.steps}.",
                f"Take {preset.steps} steps, or {STANDARD} as quality; or a Flash checkpoint or LoRA, which is made for 8.",
                (("steps", preset.steps),),
            )
