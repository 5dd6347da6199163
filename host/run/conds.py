"""Text of differing lengths in one forward: how the host joins it, and how its rows are told apart in attention.

Written for ComfyUI 0.30. Shapes: B batch, H heads, L tokens, D width, K head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Mapping

import comfy.conds
import torch
from torch import Tensor

CACHE_MISSES = 1 / 8  # what they cost on a CPU, of the time of a picture's tokens


@dataclass(frozen=True)
class Sharing:
    """When prompts share a forward. It saves reading, unpacking or streaming the weights twice. It costs the padding,
    which goes through every linear layer, and cache misses where one picture fits and two do not.

    max_pad_share: the largest share of padding in a batch of two; below 0 nothing is shared.
    saves:         as much time as so many tokens take.
    """

    max_pad_share: float
    saves: float = math.inf

    def allows(self, lengths: tuple[int, ...], num_img: int, batch: int = 1) -> bool:
        """Whether prompts of these lengths share a forward; num_img: image tokens of a picture; batch: pictures of a prompt."""
        costs = batch * (padding(lengths) + CACHE_MISSES * num_img)
        return costs <= self.saves and pad_share(lengths, num_img) <= self.max_pad_share


PAIRED, APART = Sharing(1.0), Sharing(-1.0)
# By device type, after benchmarks/batching and both_prompts. On a CPU weights that are unpacked are unpacked once.
SHARING = {"cpu": Sharing(1.0, saves=96)}
SHARING_UNPACKED = {"cpu": Sharing(1.0, saves=160)}
SHARING_ELSEWHERE = Sharing(1 / 32)
GUIDANCE = "chroma_guidance"  # of the wrappers of our guidance on a MODEL and in a run
PAIRING = "chroma_pairing"  # in a conditioning's options: "paired" or "apart", where the user decides


class TextCond(comfy.conds.CONDRegular):
    """Text (B, L, D) that may share a batch with text of another length: padded with zeros to the longest."""

    def __init__(self, cond: Tensor, size: tuple[int, ...], patch_size: int, sharing: Sharing):
        """size: (rows, columns) of the latent or picture; patch_size: rows or columns of it in a token."""
        super().__init__(cond)
        self.size_of_image = size
        self.patch_size = patch_size
        self.sharing = sharing

    def _copy_with(self, cond: Tensor) -> "TextCond":
        return TextCond(cond, self.size_of_image, self.patch_size, self.sharing)

    def process_cond(self, batch_size: int, area: Any = None, **kwargs: Any) -> "TextCond":
        out = super().process_cond(batch_size, area=area, **kwargs)
        if area is not None:  # rows, columns, and where they start
            out.size_of_image = tuple(area[: len(area) // 2])
        return out

    def can_concat(self, other: comfy.conds.CONDRegular) -> bool:
        a, b = self.cond, other.cond
        if not isinstance(other, TextCond) or a.device != b.device or a.shape[::2] != b.shape[::2]:
            return False
        num_img = math.prod(math.ceil(n / self.patch_size) for n in self.size_of_image)
        return self.sharing.allows((a.shape[1], b.shape[1]), num_img, a.shape[0])

    def concat(self, others: list[comfy.conds.CONDRegular]) -> Tensor:
        texts = [self.cond, *(other.cond for other in others)]
        longest = max(text.shape[1] for text in texts)
        return torch.cat([torch.nn.functional.pad(text, (0, 0, 0, longest - text.shape[1])) for text in texts])


def prompts_of(options: Mapping[str, Any]) -> tuple[tuple[int, Any], ...]:
    """What tells a forward's prompts from those of other forwards of the run, in the order of its rows; empty outside of a run.

    The host's uuid alone does not: it gives uncond the areas of cond, with the same one.
    """
    return tuple(zip(options.get("cond_or_uncond") or (), options.get("uuids") or ()))


def changes_input(patches: Mapping[str, Any]) -> bool:
    """Whether a patch may put tokens beside the text, such as the host's USO style does with those for one row.

    FluxKVCache's takes references away only.
    """
    return any(not getattr(p, "__qualname__", "").startswith("FluxKVCache.") for p in patches.get("post_input", ()))


def sharing(device: Any, compared: bool, pairing: str | None = None, unpacks: bool = False) -> Sharing:
    """When prompts share a forward on this device.

    compared: whether a patch needs cond and uncond in one forward.
    pairing:  "paired" or "apart" where the user has said so.
    unpacks:  whether weights are unpacked at each use.
    """
    if compared or pairing == "paired":
        return PAIRED
    if pairing == "apart":
        return APART
    return (SHARING_UNPACKED if unpacks else SHARING).get(torch.device(device).type, SHARING_ELSEWHERE)


def padding(lengths: tuple[int, ...]) -> int:
    """Tokens that fill up a batch's texts to the longest."""
    return sum(max(lengths) - n for n in lengths)


def pad_share(lengths: tuple[int, ...], num_img: int) -> float:
    """The share of padding in a batch's tokens; lengths: of its rows' text; num_img: image tokens of a row."""
    return padding(lengths) / (len(lengths) * (max(lengths) + num_img))
