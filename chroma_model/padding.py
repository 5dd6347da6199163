"""Which text tokens the transformer may see: the valid ones and, as in training, exactly one pad.

Text rows of the last block are thrown away, so dropping masked tokens gives the same picture as masking them.
Shapes: B batch, L text tokens, D width of the text encoder.
"""

from __future__ import annotations

from torch import Tensor


def padding_mask(tokens: Tensor, mask: Tensor | None) -> Tensor | None:
    """True where a token is valid, (B, L), or None if the tokens do not say which of them are pads.

    tokens: (B, L, D).
    mask:   (1 or B, L), nonzero where valid, if the encoder gave one. Without it, rows of zeros at the end count as
            pads: some encoders zero what they masked, and no real token's embedding is zero.
    raises: ValueError if the mask is for another number of tokens.
    """
    if mask is not None:
        if mask.ndim != 2 or mask.shape[1] != tokens.shape[1] or mask.shape[0] not in (1, tokens.shape[0]):
            raise ValueError(
                f"the attention mask {tuple(mask.shape)} does not fit the text tokens {tuple(tokens.shape)}; "
                "encode the prompt again, or connect the conditioning directly to the text encoder's node"
            )
        return (mask.to(tokens.device) != 0).expand(tokens.shape[0], -1)
    used = (tokens != 0).any(dim=-1)
    valid = used.flip(1).cummax(dim=1).values.flip(1)  # a zero row before a used one is not padding
    return None if bool(valid.all()) else valid


def trim_padding(tokens: Tensor, valid: Tensor, num_pads: int = 1) -> tuple[Tensor, Tensor]:
    """The valid tokens and the first num_pads pads.

    tokens:  (B, L, D).
    valid:   (B, L) bool.
    returns: tokens (B, L', D) with every column that any row keeps, and what each row keeps of them, (B, L') bool.
    """
    pads = (~valid).cumsum(dim=1)
    keep = valid | (pads <= num_pads)
    columns = keep.any(dim=0)
    return tokens[:, columns], keep[:, columns]
