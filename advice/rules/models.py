"""The Doctor's rules on sizes, files, VAEs and nodes on the model. What a rule is: `doctor.py`."""

from __future__ import annotations

import math
import re
from typing import Iterator

from ...constants import counted
from ...samplers.traits import is_two_stage
from ..finding import HARM, HINT, IDLE, Facts, Finding, rule
from ..presets import FLUXES, HD, LARGE, OVERFIT, PRESETS, RADIANCE, TOY
from ..queued_graph import Graph
from ..queued_run import QueuedRun, picture_size
from ..recognise_preset import telling_name

SIZE_MARGIN = 1.25  # beyond the sizes that a checkpoint is good for
SIZE_STEP = 16
MOST_RATIO = 4  # of a picture's sides
FEW_STEPS = 12  # a cache saves nothing in so few
ROPE_SCALING = re.compile("rope|dype", re.I)
NOT_DC_2K = (LARGE, RADIANCE, TOY, *FLUXES)  # rows in whose place it cannot be used


@rule
def size_for_another_checkpoint(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """A checkpoint repeats itself or falls apart far beyond the sizes that it was trained at.

    source: presets.PRESETS, levzzz's guide, 'final model versions'.
    """
    found = picture_size(graph, run)
    if found is None or not run.found.sure or run.denoise != 1:
        return
    width, height, node = found
    side, (low, high) = math.sqrt(width * height), run.found.preset.sizes
    if side > high and not scales_rope(graph, run):
        ways = ["Paint it smaller and enlarge it"]
        if run.found.name not in NOT_DC_2K and side <= PRESETS[LARGE].sizes[1]:
            ways.append("use DC-2K, which was made for more")
        if run.is_ours:
            ways.append("connect RoPE Scaling (Chroma)")
        yield Finding(
            HARM if side > SIZE_MARGIN * high and not run.found.is_analogy else HINT,
            node,
            f"{width} x {height} with {run.found.name}",
            f"{'Its kin' if run.found.is_analogy else 'This checkpoint'} is good for {sides(low, high)} a side. Beyond, "
            "things repeat and anatomy fails.",
            f"{', or '.join(ways)}.",
        )
    elif side < low / SIZE_MARGIN:
        yield Finding(
            HINT,
            node,
            f"{width} x {height} with {run.found.name}",
            f"This checkpoint is good for {sides(low, high)} a side.",
            f"Use {low} or more.",
        )


def scales_rope(graph: Graph, run: QueuedRun) -> bool:
    """Whether a node scales positions for pictures that are larger than those of training."""
    for node, kind in run.kinds(graph):
        if kind == "ScaleROPE":  # which ComfyUI's own Chroma does not look at
            if not run.is_native and any(graph.number(node, name) != 1 for name in ("scale_x", "scale_y")):
                return True
        elif ROPE_SCALING.search(kind):
            return True
    return False


def sides(low: int, high: int) -> str:
    return f"{low} pixels" if low == high else f"{low} to {high} pixels"


@rule
def sides_of_a_strip(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """A token is 16 x 16 pixels; across a narrow strip there are too few of them for a thing.

    source: patch 2 x 2 of latents of 8 x 8 pixels.
    """
    found = picture_size(graph, run)
    if found and max(found[:2]) > MOST_RATIO * min(found[:2]):
        narrow = math.ceil(min(found[:2]) / SIZE_STEP)
        yield Finding(
            HINT,
            found[2],
            f"{found[0]} x {found[1]} is a strip",
            f"Chroma paints in squares of {SIZE_STEP} pixels, of which {narrow} fit across.",
            "Stay within 1 to 2 and 2 to 1, and cut the picture afterwards.",
        )


@rule
def size_in_steps_of_16(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """A token of the picture is 16 x 16 pixels; the rest is painted and cut off.

    source: patch 2 x 2 of latents of 8 x 8 pixels; Radiance: patches of 16.
    """
    found = picture_size(graph, run)
    if found and any(n % SIZE_STEP for n in found[:2]):
        fit = " x ".join(str(max(SIZE_STEP, round(n / SIZE_STEP) * SIZE_STEP)) for n in found[:2])
        yield Finding(
            HINT,
            found[2],
            f"{found[0]} x {found[1]} is not in steps of {SIZE_STEP}",
            "Chroma paints in squares of 16 pixels; the edge is filled up and cut off again.",
            f"Use {fit}.",
            tuple(zip(("width", "height"), map(int, fit.split(" x ")))),
        )


@rule
def denoise_without_a_picture(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Below denoise 1 a run starts from a picture with noise; an empty latent is grey.

    source: the host's denoise.
    """
    if 0 < run.denoise < 1 and len(run.latent) == 1 and "empty" in graph.maker_kind(run.latent).lower():
        yield Finding(
            HARM,
            run.schedule_node,
            f"denoise {run.denoise:g} of an empty picture",
            "The first steps are left out, and what they should have painted is grey.",
            "Set denoise to 1, or connect a picture through VAE Encode.",
            (("denoise", 1.0),),
        )


PIXELS = "pixel_space"  # Radiance's VAE in the host's menu
FLUX_VAE = "Choose FLUX's VAE, ae.safetensors."
OTHER_VAES = {  # by the names that their files are published under
    "Stable Diffusion 3": re.compile(r"sd[-_.]?3|stable[-_ ]?diffusion[-_ ]?3", re.I),
    "SDXL": re.compile(r"sdxl|sd[-_]?xl", re.I),
    "Stable Diffusion 1.5": re.compile(r"vae-ft-(mse|ema)|kl-f8|sd[-_]?(v?1[-_.]?5|15)(?!\d)", re.I),
    "Wan": re.compile(r"(?<![a-z])wan[-_ ]?\d", re.I),
    "Qwen-Image": re.compile(r"qwen", re.I),
    "Hunyuan": re.compile(r"hunyuan", re.I),
    "LTX": re.compile(r"(?<![a-z])ltx", re.I),
    "FLUX.2": re.compile(r"flux[-_. ]?2(?!\d)", re.I),
}


def paints_pixels(run: QueuedRun) -> bool | None:
    """Whether the model is Radiance; None where an x0 checkpoint may be of either kind."""
    if run.variant == "Radiance" or (run.variant is None and "radiance" in telling_name(run.file).lower()):
        return True
    return None if run.variant is None and run.found.name == RADIANCE else False


def vaes_of(graph: Graph, run: QueuedRun) -> Iterator[tuple[str, str]]:
    """(loader, file's name) of each VAE that decodes a run's picture, or encodes the one that it starts from."""
    for node in graph.nodes:
        links = graph.links(node)
        if "vae" not in links or not ("samples" in links or "pixels" in links):
            continue
        decodes = "samples" in links and run.node in graph.chain(links["samples"], "latent")
        if decodes or node in run.latent:
            loader = graph.chain(links["vae"], "vae")[-1]
            name = graph.value(loader, "vae_name")
            if isinstance(name, str):
                yield loader, name


@rule
def vae_of_the_other_kind(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Radiance works on pixels, and its VAE is `pixel_space`; the others' latents need FLUX's VAE.

    source: the host's VAELoader and its template for Radiance.
    """
    radiance = paints_pixels(run)
    if radiance is None:
        return
    for vae, name in vaes_of(graph, run):
        if (name == PIXELS) == radiance:
            continue
        if radiance:
            text = f"Radiance paints pixels, not latents; {name} takes them for latents, which fails or gives noise."
            remedy = f"Choose {PIXELS} in Load VAE."
            fix = (("vae_name", PIXELS),) if graph.kind(vae) == "VAELoader" else ()  # others' menus may lack it
            yield Finding(HARM, vae, "Radiance with a latent VAE", text, remedy, fix)
        else:
            text = f"This model paints latents; {PIXELS} shows them as they are."
            yield Finding(HARM, vae, f"{PIXELS} without Radiance", text, FLUX_VAE)


@rule
def vae_of_another_model(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Several models' latents have 16 channels as FLUX's have, so their VAEs decode Chroma's without an error, to other colours.

    source: FLUX's, SD3's and Wan's VAEs in the host's latent_formats.py: 16 channels each, with other scales.
    """
    if paints_pixels(run) is not False:
        return
    for vae, name in vaes_of(graph, run):
        other = next((model for model, known in OTHER_VAES.items() if known.search(name)), None)
        if other:
            text = (
                f"By its name it is {other}'s. Chroma's latents are FLUX's; another VAE fails, or gives false colours."
            )
            yield Finding(HARM, vae, f"{name} with Chroma", text, FLUX_VAE)


@rule
def overfit_checkpoint(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """v49 and v50 are overfit on 1024 pixels, and may do well at 1152 only.

    source: levzzz's guide to Chroma, 'additional model versions'.
    """
    if run.found.name == OVERFIT and run.models:
        text = f"{run.file} is overfit on 1024 pixels, says levzzz's guide. It may do well at 1152."
        yield Finding(HINT, run.models[-1], "a checkpoint that is not recommended", text, f"Use {HD}.")


@rule
def weights_that_are_multiplied_slowly(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Where a device is slow with 8- or 4-bit numbers, our loader unpacks the weights; the host's multiplies them as they are.

    source: timed on this device by host/model/matmul.py.
    """
    node = run.models[-1] if run.models else ""
    if node not in facts.slow:
        return
    if run.is_native:
        severity, text, remedy = HARM, "Every step takes as much longer.", "Use Load Chroma Model, which unpacks them."
    else:
        text = "So its weights are unpacked at each use, and nothing is gained in speed."
        severity, remedy = HINT, "Choose q8_0 as precision, or a Q8_0 file: as fast as 16 bits, with half the error."
    yield Finding(severity, node, "weights that this device multiplies slowly", f"{facts.slow[node]}. {text}", remedy)


PLAIN_CASTS = {  # -> how far off its weights are
    "fp8_e4m3fn": "by 3 to 56 %, the more, the smaller they are",
    "fp8_e4m3fn_fast": "by 3 to 56 %, the more, the smaller they are",
    "fp8_e5m2": "by about 5 %",
}
PACKED_NAME = re.compile(r"fp8|float8|e4m3|e5m2|int8|int4|fp4|nf4|mxfp|convrot|scaled|quant|(?<![a-z])q\d", re.I)


@rule
def plain_cast_to_fp8(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """The host's weight_dtype casts 16-bit weights to fp8 as they are; e4m3 has nothing finer than 0.002. A scale for each
    weight keeps it within e4m3's range. A file that is packed already, by its name, is not cast anew.

    source: benchmarks/results/precision.md; e5m2, whose range is enough for a model's weights, as its row there.
    """
    loader = run.models[-1] if run.models and run.is_native else ""
    found = graph.value(loader, "weight_dtype") if loader else None
    off = PLAIN_CASTS.get(found) if isinstance(found, str) else None
    if off and not PACKED_NAME.search(telling_name(run.file)):
        yield Finding(
            HINT,
            loader,
            f"weight_dtype {found}",
            f"A plain cast of 16 bits to fp8 puts the weights off {off}; with scales it is 2.7 %, in int8 0.9 %.",
            "Use a scaled fp8 file or a GGUF file; or Load Chroma Model, whose precision packs the 16-bit file with scales.",
        )


# --- nodes on the model ------------------------------------------------------------------------------------------------

CACHES = re.compile(r"easycache|lazycache|teacache|magcache|fbcache|firstblockcache|taylorseer|wavespeed|dbcache", re.I)
UNSUPPORTED_CACHES = re.compile(r"teacache|fbcache|firstblockcache|taylorseer|wavespeed", re.I)
MAGCACHE_STEPS = 26


def caches(graph: Graph, run: QueuedRun) -> list[tuple[str, str]]:
    return [(node, kind) for node, kind in run.kinds(graph) if CACHES.search(kind)]


@rule
def cache_with_a_two_stage_sampler(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """A cache takes each call of the model for a step and compares it with the call before. Such samplers alternate
    between two noise levels, so the cache reuses results of the wrong one.

    source: the host's nodes_easycache.py.
    """
    if is_two_stage(run.sampler):
        for node, kind in caches(graph, run):
            yield Finding(
                HARM,
                node,
                f"{kind} with {run.sampler}",
                "The sampler calls the model several times a step, and the cache takes each call for a step of its own.",
                "Use a sampler with one call a step (euler, res_multistep, chroma_res_2m), or remove the cache.",
            )


@rule
def cache_with_few_steps(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """A cache skips a step that is like the one before. With few steps none is; it takes three calls to see that.

    source: the host's nodes_easycache.py, and its default start at 15 % and end at 95 % of the run.
    """
    if run.steps and run.steps <= FEW_STEPS and not is_two_stage(run.sampler):
        for node, kind in caches(graph, run):
            yield Finding(
                HINT,
                node,
                f"{kind} with {counted(run.steps, 'step')}",
                "With so few steps each one changes the picture much: a skipped step shows, and little is saved.",
                "Remove the cache.",
            )


TYPES = {"dtype", "activation_casting"}  # inputs of nodes that have a run compute in another type than the model's


@rule
def easycache_in_float32(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """EasyCache makes the result of a step that it leaves out by adding to its input in place. In 16 bits ComfyUI has made a
    copy for that; in float32 it is the tensor from which a flow model's result is then taken, so that what was added counts
    twice. LazyCache adds out of place.

    source: the host's nodes_easycache.py and `_apply_model`; tests/host/model/test_load.py; benchmarks/painter.py, which gives it
    an input of its own: with the demo model 0.08 from the picture without a cache, else 1.15.
    """
    if not run.models or run.models[-1] not in facts.float32:
        return
    makers = (run.node, *run.models, *graph.chain(graph.source(run.node, "sampler"), "sampler"))
    if any(TYPES & set(graph.inputs(node)) for node in makers):
        return
    for node, kind in run.kinds(graph):
        if kind == "EasyCache":
            yield Finding(
                HARM,
                node,
                "EasyCache in float32",
                "This model computes in float32, where EasyCache overwrites what the result is taken from: each step that it "
                "leaves out is spoiled, and the picture is noise.",
                "Use Chroma Cache or LazyCache; or 16 bits, where the device has them.",
            )


@rule
def cache_that_does_not_know_chroma(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """These caches have tables or code per model and none for Chroma; MagCache has a Chroma table, for 26 steps.

    source: the packs' own lists of models, as read for this pack in November 2026. MagCache with our models: below.
    """
    for node, kind in caches(graph, run):
        if UNSUPPORTED_CACHES.search(kind):
            text = "This cache has no settings for Chroma."
            yield Finding(IDLE, node, f"{kind} with Chroma", text, "Use EasyCache or LazyCache.")
        if "magcache" in kind.lower() and not run.is_ours and run.steps and run.steps != MAGCACHE_STEPS:
            text = f"Its table for Chroma is for {MAGCACHE_STEPS} steps, and the run has {run.steps}."
            yield Finding(
                HARM, node, f"{kind} with {counted(run.steps, 'step')}", text, f"Take {MAGCACHE_STEPS} steps."
            )


# Class -> what becomes of it with a model of Load Chroma Model, and what to use. Each puts a method of its own in the
# place of `forward_orig` of ComfyUI's own Chroma or FLUX, which our model does not have.
INNER_PATCHES: tuple[tuple[re.Pattern[str], str, str, str], ...] = (
    (re.compile("magcache", re.I), HARM, "The run stops with an error.", "Use EasyCache or LazyCache."),
    (
        re.compile("negpip", re.I),
        HARM,
        "What it does to the text encoder acts without its other half, which spoils the prompt.",
        "Remove it; put what shall be away into the negative prompt, or use Chroma NAG.",
    ),
    (
        re.compile("pulid", re.I),
        IDLE,
        "It has no effect, or stops with an error.",
        "Load the model with ComfyUI's Load Diffusion Model for it.",
    ),
)


@rule
def patch_of_the_hosts_own_chroma(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """Packs that replace an inner method of ComfyUI's own classes instead of using its hooks cannot act on our model.

    source: ComfyUI-MagCache's nodes.py (patch.multiple), ComfyUI-ppm's clip_negpip.py and ComfyUI-PuLID-Flux-Chroma's
    pulidflux.py, as read for this pack in November 2026.
    """
    for node, kind in run.kinds(graph) if run.is_ours else ():
        for pattern, severity, effect, remedy in INNER_PATCHES:
            if pattern.search(kind):
                text = (
                    f"It replaces a part of ComfyUI's own Chroma that models of Load Chroma Model do not have. {effect}"
                )
                yield Finding(severity, node, f"{kind} with Load Chroma Model", text, remedy)


@rule
def host_nag(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """The host's NAG needs cond and uncond in one forward; the host's Chroma joins them only if equally long.

    source: the host's nodes_nag.py and conds.py; tried for this pack. Load Chroma Model's models join all lengths.
    """
    for node, kind in run.kinds(graph):
        if kind == "NAGuidance" and run.is_native:
            yield Finding(
                IDLE,
                node,
                "NAGuidance with ComfyUI's Chroma",
                "It acts only where both prompts have the same number of tokens; otherwise it does nothing and costs double.",
                "Use Load Chroma Model and Chroma NAG.",
            )


@rule
def kept_references(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """The host's Flux KV Cache changes where references stand, besides keeping their keys and values. A prompt whose method was named
    keeps that method.

    source: the host's nodes_flux.py; benchmarks/results/references.md.
    """
    kinds = {graph.kind(node) for node in (*run.positive, *run.negative)}
    shown = "ReferenceLatent" in kinds and "FluxKontextMultiReferenceLatentMethod" not in kinds
    for node, kind in run.kinds(graph):
        if kind == "FluxKVCache" and run.is_ours and shown:
            yield Finding(
                HARM,
                node,
                "FluxKVCache with references",
                "It gives references the method index_timestep_zero, which Kontext was not trained with, and keeps what the first "
                "step has of them. On the demo model half as many edits are right.",
                "Remove the node.",
            )


# Class -> severity, text, and whether only for ComfyUI's own Chroma.
WITHOUT_EFFECT: dict[str, tuple[str, str, bool]] = {
    "PerturbedAttentionGuidance": (IDLE, "It acts on a U-Net's middle block, which Chroma lacks.", False),
    "UNetSelfAttentionMultiply": (IDLE, "It acts on a U-Net's attention.", False),
    "PatchModelAddDownscale": (IDLE, "It acts on a U-Net's blocks.", False),
    "FreeU_V2": (HARM, "It is for U-Nets, and stops with an error.", False),
    "SelfAttentionGuidance": (HARM, "It is for U-Nets, and stops with an error.", False),
    "TomePatchModel": (HARM, "It is for U-Nets, and stops with an error.", False),
    "ScaleROPE": (IDLE, "ComfyUI's own Chroma does not look at it; models of Load Chroma Model do.", True),
    "FluxKVCache": (IDLE, "ComfyUI's own Chroma does not look at it.", True),
    "ReferenceLatent": (IDLE, "ComfyUI's own Chroma does not look at reference pictures.", True),
}


@rule
def node_without_effect(graph: Graph, run: QueuedRun, facts: Facts) -> Iterator[Finding]:
    """These nodes were run with Chroma, and changed nothing or failed.

    source: tried for this pack in ComfyUI 0.30.
    """
    for node in dict.fromkeys((*run.models, *run.positive, *run.negative)):
        severity, text, only_native = WITHOUT_EFFECT.get(graph.kind(node), ("", "", True))
        if severity and (run.is_native or not only_native):
            yield Finding(severity, node, f"{graph.kind(node)} with Chroma", text, "Remove the node.")
