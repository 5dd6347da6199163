"""Which text tokens the transformer may see: the valid ones and, as in training, exactly one pad.

Text rows of the last block are thrown away, so dropping masked tokens gives the same picture as masking them.
Shapes: B batch, L text tokens, D width of the text encoder.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Kinds of text tokens; the nonzero ones may be seen. A mask made here says which pads were kept, so treating it again
# changes nothing.
HIDDEN, VALID, PAD = 0, 1, 2
# A mask that is added to attention's logits hides tokens at this value or below (-10,000 and less are used).
ADDITIVE_HIDDEN = -1.0


def is_text_mask(mask: Tensor, tokens: Tensor) -> bool:
    """Whether a mask has one value per token: (L,), (1 or B, L) or (1 or B, 1, ..., L), any L; tokens (B, L, D)."""
    inner = mask.shape[1:-1].numel()
    return mask.ndim >= 1 and inner == 1 and (mask.ndim == 1 or mask.shape[0] in (1, tokens.shape[0]))


def padding_mask(tokens: Tensor, mask: Tensor | None) -> Tensor | None:
    """HIDDEN, VALID or PAD for every token, (B, L) integers, or None if nothing says which of them are pads.

    tokens:  (B, L, D).
    mask:    see `is_text_mask`; any dtype. Nonzero where valid; a float mask with no value above 0 is added to
             attention's logits. Of a longer mask only the start counts. A shorter one is the first prompt's of several
             joined: tokens beyond it are valid unless they are zero.
    returns: without a mask, rows of zeros are HIDDEN: some encoders zero what they masked, and no real token's
             embedding is zero. A prompt of zeros alone was zeroed on purpose and counts as valid. Where an encoder
             zeroes what it masked, a masked token that is not zero comes from another prompt mixed in: it is valid.
    raises:  ValueError if it is no text mask.
    """
    used = (tokens != 0).any(dim=-1)
    if mask is None:
        valid = used | ~used.any(dim=1, keepdim=True)
        return None if bool(valid.all()) else valid.long()
    if not is_text_mask(mask, tokens):
        raise ValueError(
            f"the attention mask {tuple(mask.shape)} does not fit the text tokens {tuple(tokens.shape)}; "
            "encode the prompt again, or connect the conditioning directly to the text encoder's node"
        )
    mask = mask.to(tokens.device).reshape(1 if mask.ndim == 1 else mask.shape[0], -1)[:, : tokens.shape[1]]
    mask = mask.expand(tokens.shape[0], -1)
    if mask.is_floating_point() and not bool((mask > 0).any()):
        kinds = (mask > ADDITIVE_HIDDEN).long()
    elif mask.dtype != torch.bool and bool(((mask == HIDDEN) | (mask == VALID) | (mask == PAD)).all()):
        kinds = mask.long()
    else:
        kinds = (mask != 0).long()
    covered = used[:, : kinds.shape[1]]
    zeroes = ((kinds == HIDDEN) & ~covered).any(dim=1, keepdim=True)
    kinds = torch.where((kinds == HIDDEN) & covered & zeroes, VALID, kinds)
    return torch.cat((kinds, used[:, kinds.shape[1] :].long()), dim=1)


def trim_padding(tokens: Tensor, kinds: Tensor, num_pads: int = 1) -> tuple[Tensor, Tensor]:
    """The valid tokens and the first num_pads pads.

    tokens:  (B, L, D).
    kinds:   (B, L) from `padding_mask`. If a row has PAD, its HIDDEN tokens stay hidden.
    returns: tokens (B, L', D), L' from the longest row, and their kinds; shorter rows end in HIDDEN zeros.
    """
    valid = kinds == VALID
    marked = (kinds == PAD).any(dim=1, keepdim=True)
    pads = torch.where(marked, kinds == PAD, ~valid)
    kept_pads = pads & (pads.cumsum(dim=1) <= num_pads)
    kinds = torch.where(valid, VALID, torch.where(kept_pads, PAD, HIDDEN))
    return pull_together(tokens, kinds)


def pull_together(tokens: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
    """Moves each row's tokens that are not HIDDEN to its start, in their order; shapes as in `trim_padding`."""
    seen = kinds != HIDDEN
    longest = int(seen.sum(dim=1).max())
    if bool(seen[:, :longest].all()):  # the same columns in every row
        return tokens[:, :longest], kinds[:, :longest]
    order = torch.sort(seen.int(), dim=1, descending=True, stable=True).indices[:, :longest]  # (B, L')
    kinds = kinds.gather(1, order)
    tokens = tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2]))
    return tokens.masked_fill((kinds == HIDDEN)[..., None], 0), kinds
