"""Normalized attention guidance (NAG): on a MODEL, in a run and in its conditionings. The formula is in chroma_model/nag.py.

Nothing is put into the network: the negative text travels as a conditioning, the numbers in the run's own options, and
`attention.attention_by_rows` does the rest. Written for ComfyUI 0.30.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...chroma_model import block_lists
from ...chroma_model.padding import HIDDEN, is_text_mask, padding_mask, pull_together
from ...constants import STYLE_MASK
from ...samplers.guided_run import within
from .network import network_of
from .ranges import add_ranges, with_slack

# In transformer_options for a run: an AttentionGuidance. In a conditioning's options: a NegativeText.
NAG = "chroma_nag"
ALL = "all"


@dataclass(frozen=True)
class NegativeText:
    """What normalized attention guidance moves away from; N and K are 0 for an entry without.

    text:     (1 or B, N, D), several texts one behind the other.
    segments: (1 or B, K, 2) integers, where in N each text starts and how many tokens of it count.
    """

    text: Tensor
    segments: Tensor


@dataclass(frozen=True)
class AttentionGuidance:
    """Normalized attention guidance of a run; the numbers are those of `normalized_attention_guidance`.

    sigmas: upper and lower noise level between which it acts.
    blocks: ("double" or "single", index) of the blocks whose attention is guided; None for all.
    """

    scale: float
    tau: float
    alpha: float
    sigmas: tuple[float, float]
    blocks: frozenset[tuple[str, int]] | None = None

    def acts_in(self, options: Mapping[str, Any]) -> bool:
        """Whether it acts in the block that these transformer_options are for."""
        return self.blocks is None or (options.get("block_type"), options.get("block_index")) in self.blocks


def acts_at(guidance: AttentionGuidance | None, sigma: Tensor) -> bool:
    """Whether attention guidance acts at this noise level, (B,)."""
    if guidance is None:
        return False
    return within(float(sigma[0]), guidance.sigmas)


def negative_text(conditioning: list[Any]) -> NegativeText:
    """All entries of a CONDITIONING, one behind the other; their areas, masks and steps are ignored.

    raises: ValueError if there is no text, or batches differ.
    """
    texts, segments, start = [], [], 0
    batch = max((text.shape[0] for text, _ in conditioning if text is not None), default=0)
    for text, options in conditioning:
        if text is None:
            continue
        lengths = torch.full((text.shape[0],), text.shape[1])
        mask = options.get("attention_mask")
        if mask is not None and STYLE_MASK not in options and is_text_mask(mask, text):
            text, kinds = pull_together(text, padding_mask(text, mask))
            lengths = (kinds != HIDDEN).sum(dim=1).cpu()
        if text.shape[0] not in (1, batch):
            raise ValueError(
                f"the negative conditioning joins batches of {text.shape[0]} and {batch} prompts; use one prompt in "
                "each, or one per picture"
            )
        texts.append(text.expand(batch, -1, -1))
        segments.append(torch.stack((torch.full((batch,), start), lengths.expand(batch)), dim=1))
        start += text.shape[1]
    if not start:
        raise ValueError("the negative conditioning has no text; connect a text encoder's node")
    return NegativeText(torch.cat(texts, dim=1), torch.stack(segments, dim=1))


def no_text(like: NegativeText) -> NegativeText:
    """For conditionings without guidance: the same keys, so that they may share a batch."""
    return NegativeText(like.text[:1, :0], like.segments[:1, :0])


def parse_blocks(text: str, num_double: int, num_single: int) -> frozenset[tuple[str, int]] | None:
    """Blocks from "all", or from a list such as "double, single 0-9, single 12".

    returns: ("double" or "single", index) of each, None for all.
    raises:  ValueError for a part that names no blocks, or for an unknown index.
    """
    if text.strip().lower() in ("", ALL):
        return None
    return block_lists.parse_blocks(text, {"double": num_double, "single": num_single})


class AttentionGuided:
    """Attention guidance on a MODEL. Its wrapper writes it into each run's own options and conditionings."""

    def __init__(
        self,
        negative: NegativeText,
        scale: float,
        tau: float,
        alpha: float,
        percent: tuple[float, float],
        blocks: frozenset[tuple[str, int]] | None,
    ):
        """percent: of the run, from and to, each in [0, 1]. The others: see `AttentionGuidance`."""
        self.negative = negative
        self.settings = (scale, tau, alpha)
        self.percent = percent
        self.blocks = blocks

    def on(self, model: Any) -> Any:
        """A clone of the MODEL with this guidance in place of any that it has.

        raises: ValueError if the pack has not loaded the MODEL, or its text has another width.
        """
        width = network_of(model).config.context_dim
        if self.negative.text.shape[2] != width:
            raise ValueError(
                f"the negative text has vectors of width {self.negative.text.shape[2]}, this model takes {width}. Load "
                "the T5 encoder that belongs to it"
            )
        model = model.clone()
        model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, NAG)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, NAG, self.sample_wrapper)
        return model

    def sample_wrapper(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """An OUTER_SAMPLE wrapper."""
        guider = executor.class_obj
        sampling = guider.model_patcher.get_model_object("model_sampling")
        start, end = (float(sampling.percent_to_sigma(p)) for p in self.percent)
        options = guider.model_options.setdefault("transformer_options", {})
        options[NAG] = AttentionGuidance(*self.settings, (start, end), self.blocks)
        add_ranges(options, {NAG: with_slack(start, end)})
        for name, conds in guider.conds.items():
            for cond in conds:
                cond[NAG] = self.negative if name == "positive" else no_text(self.negative)
        return executor(*args, **kwargs)
