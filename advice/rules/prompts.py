"""The Doctor's rules on prompts, guidance and text encoders. What a rule is: `doctor.py`."""

from __future__ import annotations

import math
import re
from typing import Iterator

from ...constants import FOREIGN_SYNTAX, GUIDED_FIRST, MAX_TOKENS, SHORT_NEGATIVE, UNREAD_SCRIPTS, counted
from ...samplers.guided_run import CURVES
from ...samplers.traits import OFF_SCHEDULE, ROUGH_SAMPLERS
from ..finding import HARM, HINT, IDLE, Facts, Finding, Insert, rule
from ..presets import FLUXES
from ..queued_graph import FLASH_NODE, Graph
from ..queued_run import QueuedRun

HIGH_CFG = 10.0  # every preset's is at most half of it
FLASH_CFG = 2.0  # the sources say 1 to 1.5
ALTERNATE_FROM = 20  # steps


@rule
def negative_prompt_at_cfg_1(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """v = uncond + cfg (cond - uncond) is cond at cfg 1, and the host does not compute uncond at all.

    Not so with samplers of the cfg_pp kind, with NAG, and where a guidance node sets cfg step by step.
    source: the host's comfy/samplers.py, sampling_function.
    """
    text = graph.text(run.negative)
    if run.is_part or run.is_open:  # it may act in the other part, or through what the graph hides
        return
    if (
        run.cfg == 1
        and text
        and text.strip()
        and not (has_nag(graph, run) or changes_cfg(graph, run) or "cfg_pp" in run.sampler)
    ):
        yield Finding(
            IDLE,
            run.guider,
            "the negative prompt does nothing at cfg 1",
            "At cfg 1 only the positive prompt is computed.",
            "Empty the negative prompt, or use Chroma NAG, which works at cfg 1"
            + ("." if run.found.preset.few_steps else ", or a cfg of 3 to 4, at twice the time."),
            insert=nag_before(graph, run),
        )


def nag_before(graph: Graph, run: QueuedRun) -> Insert | None:
    """Chroma NAG between the model and its guider, with the guider's negative prompt; None for ComfyUI's own Chroma."""
    links = graph.links(run.guider)
    if not run.is_ours or "model" not in links or "negative" not in links:
        return None
    return Insert("ChromaNAG", ((run.guider, "model"),), also=(("negative", (run.guider, "negative")),))


def changes_cfg(graph: Graph, run: QueuedRun) -> bool:
    """Whether a guidance node changes cfg over the run; then both prompts are computed, whatever it begins with."""
    changing = set(CURVES) - {"constant"}
    return any(graph.value(node, "curve") in changing for node in (run.guider, *run.models))


def is_guided_first(graph: Graph, run: QueuedRun) -> bool:
    """Whether cfg is that of the first steps only, in which a Flash LoRA does not act yet."""
    return any(kind == FLASH_NODE and graph.value(node, "start") == GUIDED_FIRST for node, kind in run.kinds(graph))


def has_nag(graph: Graph, run: QueuedRun) -> bool:
    return any(
        re.search(r"NAG(?![a-z])|NAGuidance", kind) for _, kind in [*run.kinds(graph), ("", graph.kind(run.node))]
    )


def alternating(graph: Graph, run: QueuedRun) -> str | None:
    """The node that has the negative prompt computed in every second step."""
    return next((n for n in (run.guider, *run.models) if graph.value(n, "alternate") is True), None)


@rule
def alternate_that_is_off(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Where a sampler uses uncond itself, leaves the schedule, or moves by over 4 of 255, a run computes it in every step.

    source: benchmarks/savings, the demo model under each of the host's samplers.
    """
    node = alternating(graph, run)
    if node is None:
        return
    if "cfg_pp" in run.sampler:
        why = "The sampler uses the negative prompt itself."
    elif run.sampler in OFF_SCHEDULE:
        why = "The sampler steps on noise levels of its own, between which nothing can be extrapolated."
    elif run.sampler in ROUGH_SAMPLERS:
        why = "With extrapolated steps its picture is far from that of plain CFG."
    else:
        return
    yield Finding(
        IDLE,
        node,
        f"alternate saves nothing with {run.sampler}",
        f"{why} So it is computed in every step.",
        "Take euler or res_multistep; or save with interval or adaptive instead.",
    )


@rule
def alternate_with_few_steps(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """What it forecasts is off where steps are large, or where the sampler carries on what it saw in the steps before.

    source: benchmarks/frontier, by prompts computed: alternate with 14 steps of euler is no nearer to the exact picture than 11
    steps of it, with chroma_sigma_2m at no number of steps; with 20 and more of euler it is.
    """
    node = alternating(graph, run)
    if node is None or not run.steps or next(alternate_that_is_off(graph, run, facts), None) is not None:
        return
    over_sigma = run.sampler.startswith("chroma_sigma_")
    if run.denoise == 1 and (over_sigma or run.steps < ALTERNATE_FROM):
        left_out = max(0, (run.steps - 2) // 2)  # every second one, once two were computed
        fewer = math.ceil((2 * run.steps - left_out) / 2)
        yield Finding(
            HINT,
            node,
            f"alternate with {counted(run.steps, 'step')}" + (f" of {run.sampler}" if over_sigma else ""),
            "On the demo model, with euler and chroma_sigma_2m, fewer steps with both prompts were nearer to the exact picture.",
            f"Turn alternate off; {fewer} steps then compute as many prompts.",
            (("alternate", False),),
        )


@rule
def flash_with_high_cfg(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Flash has the effect of CFG baked in; the sources say cfg 1 to 1.5.

    source: levzzz's guide to Chroma, 'scheduling'.
    """
    if is_guided_first(graph, run):
        return
    if run.found.preset.few_steps and run.cfg is not None and run.cfg > FLASH_CFG:
        yield Finding(
            HINT if run.found.is_analogy else HARM,
            run.guider,
            f"cfg {run.cfg:g} with a model for few steps",
            f"{run.found.name} ({run.found.reason}) has guidance built in. A higher cfg burns pictures, at twice the time.",
            "Set cfg to 1, at most 1.5.",
            (("cfg", 1.0),),
        )


@rule
def cfg_that_no_model_has(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """At cfg 0 the prediction is uncond alone; far above the presets' cfg colours burn out.

    source: the formula of CFG; presets.PRESETS.
    """
    if run.cfg is None or changes_cfg(graph, run) or run.cfg and run.cfg <= HIGH_CFG:
        return
    if run.cfg:
        title, text = (
            f"cfg {run.cfg:g}",
            f"The checkpoints that are known here take {run.found.preset.cfg:g} or so; colours burn out.",
        )
    else:
        title, text = "cfg 0", "Only the negative prompt is painted; the positive one does nothing."
    cfg = run.found.preset.cfg
    yield Finding(HARM, run.guider, title, text, f"Set cfg to {cfg:g}.", (("cfg", cfg),))


@rule
def more_steps_skipped_than_there_are(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Where the negative prompt is skipped in every step, cfg multiplies nothing.

    source: the formula of CFG, and skip_first_steps in samplers/guided_run.py.
    """
    for node in dict.fromkeys((run.guider, *run.models)):
        skipped = graph.number(node, "skip_first_steps")
        if skipped and run.steps and skipped >= run.steps:
            yield Finding(
                IDLE,
                node,
                f"skip first steps {skipped:g} of {run.steps}",
                "The negative prompt is skipped in every step, so that cfg does nothing.",
                "Set it to a few steps, or cfg to 1.",
                (("skip_first_steps", 0),),
            )


@rule
def undistilled_at_cfg_1(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Chroma1-HD, Base and Radiance have no guidance built in; every source has a cfg of 3 to 5 for them.

    source: those of presets.PRESETS.
    """
    preset = run.found.preset
    if run.is_part or len(run.latent) > 1 or run.denoise != 1:  # it finishes what another run has composed
        return
    if run.found.sure and preset.cfg > 2 and run.cfg == 1 and not (has_nag(graph, run) or changes_cfg(graph, run)):
        yield Finding(
            HINT,
            run.guider,
            f"cfg 1 with {run.found.name}",
            "It has no guidance built in, so it follows prompts weakly.",
            f"Set cfg to {preset.cfg:g}, or use a Flash checkpoint or LoRA at cfg 1.",
            (("cfg", preset.cfg),),
        )


@rule
def same_prompt_twice(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """cond - uncond is 0, so that cfg multiplies nothing.

    source: the formula of CFG.
    """
    links = graph.links(run.guider)
    if run.cfg not in (None, 1.0) and "negative" in links and links["negative"] == links.get("positive"):
        yield Finding(
            IDLE,
            run.guider,
            "the positive prompt is the negative one too",
            f"cfg {run.cfg:g} multiplies their difference, which is 0, at twice the time.",
            "Connect another negative prompt, an empty one if need be.",
        )


@rule
def prompt_too_long(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Chroma was trained with 512 tokens. The host's tokenizer has no such limit; Chroma Text Encode keeps it.

    source: diffusers' ChromaPipeline, max_sequence_length 512; the host's pixart_t5.py, max_length.
    """
    for chain in (run.positive, run.negative):
        text = graph.text(chain)
        if text is None or facts.least(text) <= MAX_TOKENS:
            continue
        number = f"{facts.least(text)}" if text in facts.tokens else f"at least {facts.least(text)}"
        if graph.maker_kind(chain) == "ChromaTextEncode":
            if graph.value(chain[-1], "over_limit") in (None, "truncate"):
                what = f"The prompt has {number} tokens, of which the first {MAX_TOKENS} count."
                yield Finding(IDLE, chain[-1], "the end of the prompt is cut off", what, "Shorten the prompt.")
            continue
        yield Finding(
            HARM,
            chain[-1],
            f"more than {MAX_TOKENS} tokens",
            f"The prompt has {number} tokens. Chroma has never seen more than {MAX_TOKENS}.",
            "Shorten the prompt, or use Chroma Text Encode, which cuts it off as in training.",
        )


@rule
def prompt_that_t5_cannot_read(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """A character outside of T5's vocabulary becomes its one token for the unknown, whichever character it is.

    source: the tokenizer; without a clip the letters of scripts that its vocabulary has no words of.
    """
    for chain in (run.positive, run.negative):
        text = graph.text(chain) or ""
        found = re.findall(f"[{UNREAD_SCRIPTS}]+", text)
        if text in facts.unknown and not facts.unknown[text] or text not in facts.unknown and not found:
            continue
        shown = f"“{found[0][:12]}”" if found else "an emoji or a rare sign"
        yield Finding(
            IDLE,
            chain[-1],
            "a prompt that T5 cannot read",
            f"T5 does not know these characters ({shown}): they all look alike to the model.",
            "Write English.",
        )


@rule
def syntax_of_other_programs(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Tags that other programs take out of the prompt reach T5 as text.

    source: constants.FOREIGN_SYNTAX; the host's tokenizer knows weights and `embedding:` alone.
    """
    for chain in (run.positive, run.negative):
        for pattern, remedy in FOREIGN_SYNTAX:
            if match := re.search(pattern, graph.text(chain) or ""):
                yield Finding(
                    HINT,
                    chain[-1],
                    f"“{match[0][:40]}” in the prompt",
                    "T5 reads it as words.",
                    f"{remedy[0].upper()}{remedy[1:]}.",
                )


@rule
def short_negative_prompt(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """A negative prompt below 70 tokens is worse than none.

    source: levzzz's guide to Chroma, 'prompting'.
    """
    text = graph.text(run.negative)
    if (
        text
        and text.strip()
        and run.cfg not in (None, 1)
        and not graph.joins(run.negative)
        and run.negative != run.positive
        and facts.most(text) < SHORT_NEGATIVE
        and run.found.name not in FLUXES
    ):
        yield Finding(
            HINT,
            run.negative[-1],
            "a short negative prompt",
            f"It has fewer than {SHORT_NEGATIVE} tokens. Those do more harm than good, says levzzz's guide to Chroma.",
            f"Leave it empty, or write {SHORT_NEGATIVE} tokens or more.",
            (("text", ""),) if "text" in graph.inputs(run.negative[-1]) else (),
        )


@rule
def flux_guidance(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """The number goes into Chroma's Approximator, which was trained with 0 only.

    source: measured for this pack in ComfyUI 0.30: FluxGuidance changes the output.
    """
    for chain in () if run.found.name in FLUXES else (run.positive, run.negative):
        for node in chain:
            kind = graph.kind(node)
            if kind in ("ChromaPadMask", "ChromaTextEncode"):  # nothing before these counts
                break
            if kind in ("FluxGuidance", "CLIPTextEncodeFlux") and graph.number(node, "guidance") != 0:
                yield Finding(
                    HARM,
                    node,
                    "FLUX's guidance with Chroma",
                    "Chroma was trained with 0 in this place; another number gives its Approximator what it does not know.",
                    "Remove the node, and set cfg in the sampler.",
                )
            if kind == "FluxDisableGuidance" and run.is_native:
                yield Finding(
                    HARM,
                    node,
                    "FluxDisableGuidance with ComfyUI's Chroma",
                    "ComfyUI's own Chroma needs the number that this node removes, and stops with an error.",
                    "Remove the node.",
                )


PADDED_TYPES = ("sd3", "flux", "mochi", "stable_diffusion", "hidream")
TYPE_OF_SEVERAL = {"TripleCLIPLoader": "sd3", "QuadrupleCLIPLoader": "hidream"}  # which have no menu for it


@rule
def padded_text_encoder(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """These types of CLIP pad short prompts to up to 256 tokens, all visible; Chroma was trained with one pad.

    On the same weights the forward is then off by 6e-2 (relative L2). Chroma Padding, T5TokenizerOptions and Chroma
    Text Encode remove the pads.
    The menus of the host's loaders of several encoders do not have chroma.
    source: the host's sd3_clip.py (77) and flux.py (256), min_length, and nodes.py; 6e-2 was measured for this pack.
    """
    for chain in () if run.found.name in FLUXES else (run.positive, run.negative):
        if not chain or any(graph.kind(n) in ("ChromaPadMask", "ChromaTextEncode") for n in chain):
            continue
        clips = graph.chain(graph.source(chain[-1], "clip"), "clip")
        if not clips or any(graph.kind(n) == "T5TokenizerOptions" for n in clips):
            continue
        loader, kind = clips[-1], graph.maker_kind(clips)
        type_ = TYPE_OF_SEVERAL.get(kind.removesuffix("GGUF")) or graph.value(loader, "type")
        if "clip" in kind.lower() and type_ in PADDED_TYPES:
            is_one = kind.removesuffix("GGUF") == "CLIPLoader"
            if is_one:
                remedy = "Set the type to chroma, or use Chroma Text Encode or Chroma Padding."
            else:
                remedy = "Use Load CLIP with the type chroma and T5-XXL alone, or Chroma Text Encode."
            yield Finding(
                HARM,
                loader,
                f"a text encoder of the type {type_}",
                "It fills short prompts up with pad tokens, and the model, trained with one pad, sees all.",
                remedy,
                (("type", "chroma"),) if is_one else (),
            )
            return
