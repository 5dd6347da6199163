"""The seam between the network and whatever computes it.

The model asks an `Ops` for its layers and for attention. The default is plain torch; a host hands in layers that
stream or dequantise their weights, and its own attention kernels. Nothing else of the model changes.

Shapes: B batch, H heads, L tokens, K head size.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .embeddings import apply_rope

AttentionFn = Callable[..., Tensor]
FP16_MAX = 65504.0


def clamp_fp16(x: Tensor, options: Mapping[str, Any] | None = None) -> Tensor:
    """Clamps float16, which overflows in deep residual streams; other dtypes pass unchanged. options: see below."""
    return torch.nan_to_num(x, nan=0.0, posinf=FP16_MAX, neginf=-FP16_MAX) if x.dtype == torch.float16 else x


def torch_attention(
    q: Tensor, k: Tensor, v: Tensor, pe: Tensor, mask: Tensor | None, options: Mapping[str, Any]
) -> Tensor:
    """Rotary embedding, then softmax attention over all tokens.

    q, k, v: (B, H, L, K); text tokens first, then image tokens.
    pe:      (1, 1, L, K/2, 2, 2) rotation matrices, float32.
    mask:    None, or (B, 1, 1, L) bool, True where a key may be seen.
    options: opaque to the model; a host's hooks read it.
    returns: (B, L, H*K).
    """
    q, k = apply_rope(q, pe), apply_rope(k, pe)
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return x.transpose(1, 2).flatten(2)  # (B, H, L, K) -> (B, L, H*K)


class Ops:
    """Layer classes, attention and the clamp of a block's result for one model.

    `layers` needs Linear, LayerNorm and RMSNorm with torch.nn's signatures. The Approximator always gets
    `approximator_layers`: it runs in float32 whatever the blocks run in, so its layers must take a float32 input
    over weights of any storage type.
    """

    def __init__(
        self,
        layers: Any = nn,
        approximator_layers: Any = None,
        attention: AttentionFn = torch_attention,
        clamp: Callable[..., Tensor] = clamp_fp16,
    ):
        self.layers = layers
        self.approximator_layers = layers if approximator_layers is None else approximator_layers
        self.attention = attention
        self.clamp = clamp
