"""Encodes a prompt with the T5 in the host's CLIP, under the mask of Chroma's training, which the host does not use.

The rest of the host's encoding stays (loading, devices, LoRA and hooks on the encoder, schedules): a copy of the CLIP
gets a `Stage` in place of its encoder, and only the call of T5 differs. Written for ComfyUI 0.30.
Shapes: B rows, L tokens, D width of T5.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from bisect import bisect_left
from itertools import accumulate, groupby
from types import SimpleNamespace
from typing import Any, Sequence

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.sd1_clip
import comfy.text_encoders.pixart_t5
import torch
from torch import Tensor

from ...constants import MAX_TOKENS
from ...loaders.formats.base.format import FLOAT_DTYPES
from ...loaders.t5.detect_t5 import NEEDED
from ...prompts.tokens import MODES, NUM_TOLD, OUTER, UNMASKED, Mode, Prompt, Token, fit, word_start
from ..model.file_stamp import check_unchanged

T5_NAMES = ("t5xxl", "t5base")  # the host's names for a T5 with T5's vocabulary; UMT5, mT5 and ByT5 have other names
REMEDY = f"{NEEDED}: load it with Load Chroma Text Encoder, or with Load CLIP and the type chroma"
WORD_START = "▁"  # the tokenizer's mark of a word's start
MAX_SHOWN = 60  # words of what falls off, while a person types
UNKNOWN = 2  # number of the token for text that is not in the vocabulary


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The T5 of a CLIP, with the host's name, model and tokenizer for it."""

    name: str
    model: Any
    tokenizer: Any


class Stage:
    """Replaces a CLIP's whole encoder by T5 alone, called our way. The methods are those that the host calls."""

    def __init__(self, whole: Any, t5: Any, mode: Mode):
        self.whole, self.t5, self.mode = whole, t5, mode

    def set_clip_options(self, options: dict[str, Any]) -> None:
        self.whole.set_clip_options(options)

    def reset_clip_options(self) -> None:
        self.whole.reset_clip_options()

    def encode_token_weights(self, runs: list[list[Token]]) -> tuple[Tensor, None]:
        """(embeddings (1, L, D), no pooled output). runs: from `prompts/tokens.fit`; pads follow the last run."""
        end = self.t5.special_tokens["end"]
        out = []
        for i, tokens in enumerate(runs):
            last = i == len(runs) - 1
            num_pads = min(self.mode.num_pads, MAX_TOKENS - 1 - len(tokens)) if last else 0
            out.append(encode_run(self.t5, [*tokens, (end, 1.0)], num_pads, self.mode.mask))
        return torch.cat(out, dim=1).to(comfy.model_management.intermediate_device()), None


def find_t5(clip: Any) -> Encoder:
    """The T5 of a CLIP. raises: ValueError that names what the CLIP holds instead, and what to load."""
    if clip is None:
        raise ValueError(f"the CLIP is empty: the checkpoint that it comes from holds no text encoder. {REMEDY}")
    whole = clip.cond_stage_model
    for name in T5_NAMES:
        model = getattr(whole, name, None)
        # the first name where T5 is alone in its CLIP, the second beside other encoders
        tokenizer = getattr(clip.tokenizer, f"clip_{name}", None) or getattr(clip.tokenizer, name, None)
        if isinstance(model, comfy.sd1_clip.SDClipModel) and tokenizer is not None:
            return Encoder(name, model, tokenizer)
    found = [name for name, _ in whole.named_children()]
    raise ValueError(f"the CLIP holds {', '.join(found) or 'no encoder'} ({type(whole).__name__}) and no T5. {REMEDY}")


def tokenize(clip: Any, t5: Encoder, text: str, whole: bool) -> list[Token]:
    """Every token of the text with its weight, without `</s>` and pads, whatever padding the CLIP asks for.

    whole: weights do not change the tokens: `a (red:1.2), b` has those of `a red, b`. Otherwise as in the host, which
           tokenizes each part in parentheses, and each between them, on its own.
    raises: ValueError if the text names an embedding of another width than T5's, or for a weight that is no number.
    """
    options = {**clip.tokenizer_options, f"{t5.name}_min_length": 0, f"{t5.name}_min_padding": 0}

    def by_host(part: str, **more: Any) -> list[Token]:
        batches = t5.tokenizer.tokenize_with_weights(part, tokenizer_options=options, **more)
        return [pair for batch in batches for pair in batch[:-1]]

    if whole:
        parts = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0)
        out: list[Token] = []
        for has_embedding, group in groupby(parts, key=lambda part: t5.tokenizer.embedding_identifier in part[0]):
            if has_embedding:
                out += [(token, w) for part, w in group for token, _ in by_host(part, disable_weights=True)]
            else:
                out += tokenize_whole(t5.tokenizer.tokenizer, list(group))
    else:
        out = by_host(text)
    for token, weight in out:
        if torch.is_tensor(token) and token.numel() != (width := embedding_width(t5)):
            raise ValueError(
                f"an embedding in the prompt has vectors of {token.numel()} numbers, this T5's have {width}; it was "
                "made for another text encoder. Remove it from the prompt"
            )
        if not math.isfinite(weight):
            raise ValueError(f"a weight in the prompt is {weight}, expected a number such as 1.2. Correct it")
    return out


def embedding_width(t5: Encoder) -> int:
    return t5.model.transformer.get_input_embeddings().weight.shape[1]


def tokenize_whole(tokenizer: Any, parts: Sequence[tuple[str, float]]) -> list[Token]:
    """Tokens of the parts, tokenized as one text, without `</s>`; each has the weight of the part in which it ends."""
    texts = [comfy.sd1_clip.unescape_important(part) for part, _ in parts]
    ends = list(accumulate(map(len, texts)))
    found = tokenizer("".join(texts), return_offsets_mapping=True)
    tokens = zip(found["input_ids"][:-1], found["offset_mapping"][:-1])
    return [(token, parts[bisect_left(ends, end)][1]) for token, (_, end) in tokens]


def attend_as_trained(
    attention: Any, valid: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor
) -> Tensor:
    """T5's attention under the outer product of a mask with itself, as over 512 rows, for L of them, (B, L, D).

    A valid row attends to the valid rows. A pad has every key masked, so its logits are equal whatever the bias, and it
    gets the mean of all 512 values. All pads have the same value.
    Source: `module/t5.py` of Chroma's trainer (github.com/lodestone-rock/flow).
    """
    out = attention(q, k, v, heads, bias.masked_fill(~valid[:, None, None], -torch.finfo(bias.dtype).max))
    num_pads = MAX_TOKENS - valid.sum(dim=1)[:, None, None]
    mean = (valid.to(v)[:, None] @ v + num_pads * v) / MAX_TOKENS
    return torch.where(valid[..., None], out, mean)


def run_t5(t5: Any, rows: list[list[Any]], valid: Tensor | None, mask: str) -> Tensor:
    """T5's output for rows of one length, (B, L, D) float32.

    valid: (B, L) bool, False for pads; None if there are none. mask: how it is used, see `prompts/tokens`.
    Pads have T5's own rows, of T5-base too, where the host's encoder gives zeros.
    """
    device = t5.execution_device
    x, _, num_tokens, embeds_info = t5.process_tokens(rows, device)
    layer = t5.layer_idx if t5.layer == "hidden" else None
    if valid is not None and mask == OUTER:
        return run_blocks(t5, x, layer, valid.to(device)).float()
    outputs = t5.transformer(
        None,
        None if valid is None else valid.long().to(device),
        embeds=x,
        num_tokens=num_tokens,
        intermediate_output=layer,
        final_layer_norm_intermediate=t5.layer_norm_hidden_state,
        dtype=torch.float32,
        embeds_info=embeds_info,
    )
    return outputs[0 if layer is None else 1].float()


def run_blocks(t5: Any, x: Tensor, layer: int | None, valid: Tensor) -> Tensor:
    """Runs the host's blocks as its T5Stack does, with the attention of training. layer: the last one; None for all."""
    stack = t5.transformer.encoder
    if t5.transformer.dtype not in FLOAT_DTYPES:  # embeddings in fp8: the host replaces NaN too
        x = torch.nan_to_num(x)
    host_attention = comfy.ldm.modules.attention.optimized_attention_for_device(x.device, mask=True, small_input=True)
    attention, bias = functools.partial(attend_as_trained, host_attention, valid), None
    for block in stack.block if layer is None else stack.block[: range(len(stack.block))[layer] + 1]:
        x, bias = block(x, None, bias, attention)
    return x if layer is not None and not t5.layer_norm_hidden_state else stack.final_layer_norm(x)


def encode_run(t5: Any, tokens: Sequence[Token], num_pads: int, mask: str) -> Tensor:
    """T5's output for valid tokens and pads, with the tokens' weights applied, (1, L, D).

    As in the host, a weight w moves a token's row z to e + w (z - e), where e is the same row of the empty prompt. With
    a mask that prompt is training's: `</s>` and masked pads. Without one it is the host's.
    """
    pad, end = t5.special_tokens["pad"], t5.special_tokens["end"]
    length = len(tokens) + num_pads
    rows = [[token for token, _ in tokens] + [pad] * num_pads]
    weights = torch.tensor([weight for _, weight in tokens] + [1.0] * num_pads)
    weighted, masked = bool((weights != 1).any()), mask != UNMASKED
    if weighted:
        host_empty = getattr(t5, "gen_empty_tokens", comfy.sd1_clip.gen_empty_tokens)
        rows.append([end] + [pad] * (length - 1) if masked else host_empty(t5.special_tokens, length))
    valid = None
    if masked and (num_pads or weighted):
        valid = torch.arange(length) < torch.tensor([[len(tokens)], [1]][: len(rows)])
    out = run_t5(t5, rows, valid, mask)
    if not weighted:
        return out
    z, empty = out[:1], out[1:]
    weights = weights.to(out)[None, :, None]
    return torch.where(weights != 1, (z - empty) * weights + empty, z)


def encode(clip: Any, text: str, mode: str = "exact", limit: str = "truncate") -> tuple[list[Any], Prompt]:
    """The text as the host's CONDITIONING, and what became of the prompt.

    clip:   the host's CLIP with a T5 in it; it is not changed.
    mode:   one of tokens.MODES.
    limit:  one of tokens.LIMITS. The mode `legacy` has no limit, so there only `error` acts.
    raises: ValueError if there is no T5, if its file has changed, if mode or limit is not known, or if limit is `error`
            and the text too long.
    """
    t5 = find_t5(clip)
    check_unchanged(clip.patcher)
    kind, tokens, runs, prompt = fitted(clip, t5, text, mode, limit)
    if kind is None:
        options = {f"{t5.name}_min_padding": 1, f"{t5.name}_min_length": 0}
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text, tokenizer_options=options))
    else:
        ours = copy.copy(clip)  # shares the patcher, so a loaded encoder stays loaded
        ours.cond_stage_model = Stage(clip.cond_stage_model, t5.model, kind)
        conditioning = ours.encode_from_tokens_scheduled(runs)  # guidance unset: the model has its own
    return conditioning, prompt


@functools.cache
def weightless() -> tuple[Any, Encoder]:
    """A CLIP's part that counts tokens, with T5's tokenizer and no weights."""
    tokenizer = comfy.text_encoders.pixart_t5.PixArtTokenizer()
    return SimpleNamespace(tokenizer_options={}), Encoder("t5xxl", None, getattr(tokenizer, tokenizer.clip))


def count(text: str, mode: str = "exact", limit: str = "truncate") -> Prompt:
    """What `encode` would make of a text, before any file is loaded; embeddings count as words.

    raises: ValueError as `encode` does.
    """
    clip, t5 = weightless()
    return fitted(clip, t5, text, mode, limit)[3]


def fitted(
    clip: Any, t5: Encoder, text: str, mode: str, limit: str
) -> tuple[Mode | None, list[Token], list[list[Token]], Prompt]:
    """The mode's row, all tokens, those of each run, and what became of the prompt.

    raises: ValueError if mode or limit is not known, or if limit is `error` and the text too long.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is not known (known: {', '.join(MODES)})")
    kind = MODES[mode]
    tokens = tokenize(clip, t5, text, whole=kind is not None and kind.masked)
    words = t5.tokenizer.inv_vocab
    starts = [not isinstance(token, int) or words[token].startswith(WORD_START) for token, _ in tokens]
    runs = fit(tokens, starts, limit)
    if kind is None:
        runs = [tokens]
    kept = sum(map(len, runs))
    prompt = Prompt(
        num_tokens=len(tokens) + 1,
        chunks=len(runs),
        dropped=len(tokens) - kept,
        first_dropped=spoken(t5, tokens[word_start(starts, kept) :]) if kept < len(tokens) else "",
        falls_off=spoken(t5, tokens[word_start(starts, kept) :], MAX_SHOWN) if kept < len(tokens) else "",
        unknown=sum(isinstance(token, int) and token == UNKNOWN for token, _ in tokens),
        weights=tuple(
            (spoken(t5, list(run)), weight) for weight, run in groupby(tokens, key=lambda pair: pair[1]) if weight != 1
        ),
    )
    return kind, tokens, runs, prompt


def spoken(t5: Encoder, tokens: Sequence[Token], most: int = NUM_TOLD) -> str:
    """The first words of these tokens, for people."""
    numbers = [token if isinstance(token, int) else UNKNOWN for token, _ in tokens[: 4 * most]]
    words = t5.tokenizer.tokenizer.decode(numbers).split()
    return " ".join(words[:most])
