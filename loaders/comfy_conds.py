"""Text of differing lengths in one forward: how the host joins it, and how its rows are told apart in attention.

Written for ComfyUI 0.30. Shapes: B batch, H heads, L tokens, D width, K head size.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping

import comfy.conds
import torch
from torch import Tensor

from ..chroma_model.nag import normalized_attention_guidance


@dataclass(frozen=True)
class Sharing:
    """When prompts share a forward. It saves reading, unpacking or streaming the weights twice; it costs the padding,
    which goes through every linear layer, and caches that two pictures do not fit into where one does.

    max_pad_share:    the largest share of padding in a batch of two; below 0 nothing is shared.
    max_image_tokens: the most image tokens of one conditioning, all pictures of its batch together.
    """

    max_pad_share: float
    max_image_tokens: float = math.inf


PAIRED, APART = Sharing(1.0), Sharing(-1.0)
# By device type; benchmarks/batching: on a CPU 0.78 to 0.93 of the time at 256 image tokens, 1.02 to 1.28 at 1024.
SHARING = {"cpu": Sharing(1 / 32, 256)}
SHARING_ELSEWHERE = Sharing(1 / 32)
TEXT_ROWS = "chroma_text_rows"  # in transformer_options, for one forward
NAG = (
    "chroma_nag"  # in transformer_options for a run: an AttentionGuidance; in a conditioning's options: a NegativeText
)
PAIRING = "chroma_pairing"  # in a conditioning's options: "paired" or "apart", where the user decides
OF_EACH_PROMPT = ("cond_or_uncond", "uuids")  # lists in transformer_options with one entry for each B / len rows


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
        if a.shape[0] * num_img > self.sharing.max_image_tokens:
            return False
        return pad_share((a.shape[1], b.shape[1]), num_img) <= self.sharing.max_pad_share

    def concat(self, others: list[comfy.conds.CONDRegular]) -> Tensor:
        texts = [self.cond, *(other.cond for other in others)]
        longest = max(text.shape[1] for text in texts)
        return torch.cat([torch.nn.functional.pad(text, (0, 0, 0, longest - text.shape[1])) for text in texts])


def sharing(device: Any, compared: bool, pairing: str | None = None) -> Sharing:
    """When prompts share a forward on this device.

    compared: whether a patch needs cond and uncond in one forward.
    pairing:  "paired" or "apart" where the user has said so.
    """
    if compared or pairing == "paired":
        return PAIRED
    if pairing == "apart":
        return APART
    return SHARING.get(torch.device(device).type, SHARING_ELSEWHERE)


@dataclass(frozen=True)
class NegativeText:
    """What normalized attention guidance moves away from; of an entry without it, all widths are 0.

    text:     (1 or B, N, D), several texts one behind the other.
    segments: (1 or B, K, 2) integers, where in N each text starts and how many tokens of it count.
    """

    text: Tensor
    segments: Tensor


def pad_share(lengths: tuple[int, ...], num_img: int) -> float:
    """How many of a batch's tokens are padding, as a share; lengths of its rows' text, num_img image tokens each."""
    longest = max(lengths)
    return sum(longest - n for n in lengths) / (len(lengths) * (longest + num_img))


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


@dataclass(frozen=True)
class TextRows:
    """How much text each row of a batch has, so that attention leaves the padding out instead of masking it.

    mask:      the key mask that says the same; a patch that replaces it is obeyed.
    lengths:   of each row's text. Of the tokens [length, num_txt) of the joint sequence, all but the segments are padding.
    segments:  (start, length) of each row's negative texts, which only they and the image see; see `attention_by_rows`.
    """

    mask: Tensor
    lengths: tuple[int, ...]
    num_txt: int
    segments: tuple[tuple[tuple[int, int], ...], ...] | None = None
    guidance: AttentionGuidance | None = None
    bias: Tensor | None = None  # (B, ..., L, L) of a style model, over each row's own text and the image

    def groups(self) -> Iterator[tuple[slice, int, tuple[tuple[int, int], ...]]]:
        """Neighbouring rows of one length and the same segments, that length, and those."""
        start = 0
        for (length, segments), rows in itertools.groupby(
            zip(self.lengths, self.segments or ((),) * len(self.lengths))
        ):
            stop = start + len(list(rows))
            yield slice(start, stop), length, segments
            start = stop


def attention_by_rows(
    attention: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, rows: TextRows, options: Mapping[str, Any]
) -> Tensor:
    """Attention for each length on its own tokens: every kernel that takes no mask stays in use, and no pad is computed.

    A negative text of normalized attention guidance stands behind the prompt in the same sequence: it is seen by itself
    and by the image's queries a second time, so that the linear layers see the image once.

    attention: (q, k, v, options, mask=None) -> (B, L, H*K); called with what it would get if those rows ran alone.
    q, k, v:   (B, H, L, K), rotary embedding applied.
    returns:   (B, L, H*K); zeros at padding.
    """
    out = q.new_zeros(q.shape[0], q.shape[2], q.shape[1] * v.shape[3])
    guided = rows.guidance is not None and rows.guidance.acts_in(options)
    for group, length, segments in rows.groups():
        own_options = options_of(options, group, len(rows.lengths))

        def attend(text: slice, image_too: bool, bias: Tensor | None = None) -> Tensor:
            """Attention among these text tokens and the image's, for the queries of both or of the text alone."""
            mask = {} if bias is None else {"mask": bias[group] if bias.shape[0] == q.shape[0] else bias}
            if text.start == 0 and text.stop == rows.num_txt:
                return attention(q[group], k[group], v[group], own_options, **mask)
            queries = joined(q[group], text) if image_too else q[group, :, text]
            return attention(queries, joined(k[group], text), joined(v[group], text), own_options, **mask)

        def joined(x: Tensor, text: slice) -> Tensor:
            return torch.cat((x[:, :, text], x[:, :, rows.num_txt :]), dim=2)

        x = attend(slice(0, length), True, rows.bias)
        out[group, :length], image = x[:, :length], x[:, length:]
        negatives = []
        for start, n in segments:
            x = attend(slice(start, start + n), guided)
            out[group, start : start + n] = x[:, :n]
            negatives.append(x[:, n:])
        if guided and negatives:
            image = normalized_attention_guidance(
                image, sum(negatives) / len(negatives), rows.guidance.scale, rows.guidance.tau, rows.guidance.alpha
            )
        out[group, rows.num_txt :] = image
    return out


def options_of(options: Mapping[str, Any], group: slice, batch: int) -> dict[str, Any]:
    """transformer_options as the host would make them for these rows of the batch alone."""
    out = dict(options)
    for name in OF_EACH_PROMPT:
        if options.get(name):
            rows = batch // len(options[name])
            out[name] = options[name][group.start // rows : math.ceil(group.stop / rows)]
    return out
