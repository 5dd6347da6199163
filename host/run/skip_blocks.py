"""Blocks left out of a run, through the host's block replacement: on a clone, around what other packs have put there.

Written for ComfyUI 0.30.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Mapping

import comfy.ldm.chroma.model
import comfy.ldm.flux.model
from comfy.patcher_extension import WrappersMP

from ...chroma_model import ChromaTransformer
from ...chroma_model.block_lists import Block
from .ranges import RANGES, add_ranges, holds, with_slack

SKIP = "chroma_skip_blocks"  # of the wrappers on a MODEL
NOW = "chroma_skip_blocks_now"  # in transformer_options for a forward: SkippedBlocks -> its sigmas, whether it acts
WHOLE_RUN = (0.0, 1.0)
NETWORKS = (ChromaTransformer, comfy.ldm.chroma.model.Chroma, comfy.ldm.flux.model.Flux)


@dataclass(frozen=True)
class SkippedBlocks:
    """Blocks that are left out of a MODEL's runs, or of a range of them.

    percent: of the run, from and to, each in [0, 1].
    """

    blocks: frozenset[Block]
    percent: tuple[float, float] = WHOLE_RUN

    def on(self, model: Any) -> Any:
        """A clone of the MODEL; blocks that are left out already stay so."""
        model = model.clone()
        there = replacements(model)
        for kind, index in self.blocks:
            name = f"{kind}_block"
            model.set_model_patch_replace(SkippedBlock(self, there.get((name, index))), "dit", name, index)
        if self.percent != WHOLE_RUN:
            model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, SKIP, self.sample_wrapper)
        return model

    def sample_wrapper(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """An OUTER_SAMPLE wrapper: the range in sigmas of the run, whose model may have another shift than at first."""
        guider = executor.class_obj
        sampling = guider.model_patcher.get_model_object("model_sampling")
        options = guider.model_options.setdefault("transformer_options", {})
        start, end = (float(sampling.percent_to_sigma(p)) for p in self.percent)
        add_ranges(options, {self: with_slack(start, end)})
        return executor(*args, **kwargs)

    def acts_in(self, options: dict[str, Any]) -> bool:
        """Whether they are left out in the forward that these transformer_options are for."""
        if self.percent == WHOLE_RUN:
            return True
        range_of_run, sigmas = options.get(RANGES, {}).get(self), options.get("sigmas")
        if range_of_run is None or sigmas is None:
            return False
        kept = options.get(NOW, {}).get(self)
        if kept is None or kept[0] is not sigmas:  # once a forward, since it waits for the device
            kept = sigmas, holds(float(sigmas[0]), range_of_run)
            options[NOW] = {**options.get(NOW, {}), self: kept}
        return kept[1]


class SkippedBlock:
    """The replacement of one block; `before` is another pack's or another node's, which then surrounds nothing."""

    def __init__(self, skipped: SkippedBlocks, before: Any = None):
        self.skipped = skipped
        self.before = before

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        if self.skipped.acts_in(args.get("transformer_options") or {}):
            extra = {**extra, "original_block": unchanged}
        return extra["original_block"](args) if self.before is None else self.before(args, extra)


def unchanged(args: dict[str, Any]) -> dict[str, Any]:
    """In place of a block: the streams as they came."""
    return {name: args[name] for name in ("img", "txt") if name in args}


def replacements(model: Any) -> Mapping[tuple[str, int], Any]:
    """("double_block" or "single_block", number) -> what stands in for that block in a MODEL's runs."""
    return model.model_options.get("transformer_options", {}).get("patches_replace", {}).get("dit", {})


def chain(patch: Any) -> Iterator[Any]:
    """What stands in a block's place, from the outside in: each of ours stands around what was there before it."""
    while patch is not None:
        yield patch
        patch = getattr(patch, "before", None)


def is_left_out(patch: Any, options: dict[str, Any], extra: Mapping[str, Any]) -> bool:
    """Whether a block is left out in a forward, inside of a patch or, as `extra` says, around it."""
    inside = (p.skipped for p in chain(patch) if isinstance(p, SkippedBlock))
    return extra["original_block"] is unchanged or any(skipped.acts_in(options) for skipped in inside)


def skipped_on(model: Any) -> tuple[frozenset[Block], frozenset[Block]]:
    """Blocks that nodes have left out of a MODEL: for the whole run, and for a part of it only."""
    whole, part = set(), set()
    for (name, index, *_), patch in replacements(model).items():
        for skipped in (p.skipped for p in chain(patch) if isinstance(p, SkippedBlock)):
            (whole if skipped.percent == WHOLE_RUN else part).add((name.removesuffix("_block"), index))
    return frozenset(whole), frozenset(part - whole)


def num_blocks(model: Any) -> dict[str, int]:
    """Kind -> how many blocks a MODEL has. raises: ValueError if it is no Chroma or FLUX."""
    network = model.model.diffusion_model
    if not isinstance(network, NETWORKS):
        raise ValueError(
            f"the model is a {type(model.model).__name__}, neither Chroma nor FLUX. Connect Load Chroma Model"
        )
    return {kind: len(getattr(network, f"{kind}_blocks")) for kind in ("double", "single")}
