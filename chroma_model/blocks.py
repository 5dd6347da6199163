"""FLUX's double and single stream blocks without modulation weights: shifts, scales and gates come from outside.

Shapes: B batch, L tokens, D width, H heads, K head size (D = H*K).
"""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor, nn

from .config import ChromaConfig
from .modulation import RMS_NORM_EPS, Modulation
from .ops import Ops

LAYER_NORM_EPS = 1e-6


def modulate(x: Tensor, mod: Modulation) -> Tensor:
    return torch.addcmul(mod.shift, x, 1 + mod.scale)


class QKNorm(nn.Module):
    def __init__(self, head_dim: int, layers: Any, **factory: Any):
        super().__init__()
        self.query_norm = layers.RMSNorm(head_dim, eps=RMS_NORM_EPS, **factory)
        self.key_norm = layers.RMSNorm(head_dim, eps=RMS_NORM_EPS, **factory)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.query_norm(q).to(v.dtype), self.key_norm(k).to(v.dtype), v


class SelfAttention(nn.Module):
    """The projections of one stream; the attention itself is joint over both streams."""

    def __init__(self, config: ChromaConfig, layers: Any, **factory: Any):
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = layers.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias, **factory)
        self.norm = QKNorm(config.head_dim, layers, **factory)
        self.proj = layers.Linear(config.hidden_size, config.hidden_size, bias=True, **factory)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D) -> q, k, v, each (B, H, L, K), q and k normalised."""
        return self.norm(*split_heads(self.qkv(x), self.num_heads))


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """(B, L, 3*D) -> q, k, v, each (B, H, L, K)."""
    return qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def feed_forward(config: ChromaConfig, layers: Any, **factory: Any) -> nn.Sequential:
    return nn.Sequential(
        layers.Linear(config.hidden_size, config.mlp_hidden_dim, bias=True, **factory),
        nn.GELU(approximate="tanh"),
        layers.Linear(config.mlp_hidden_dim, config.hidden_size, bias=True, **factory),
    )


def layer_norm(config: ChromaConfig, layers: Any, **factory: Any) -> nn.Module:
    return layers.LayerNorm(config.hidden_size, elementwise_affine=False, eps=LAYER_NORM_EPS, **factory)


class DoubleStreamBlock(nn.Module):
    """Image and text have their own weights and share one joint attention."""

    def __init__(self, config: ChromaConfig, ops: Ops, **factory: Any):
        super().__init__()
        layers = ops.layers
        self.attention, self.clamp = ops.attention, ops.clamp
        self.img_norm1 = layer_norm(config, layers, **factory)
        self.img_attn = SelfAttention(config, layers, **factory)
        self.img_norm2 = layer_norm(config, layers, **factory)
        self.img_mlp = feed_forward(config, layers, **factory)
        self.txt_norm1 = layer_norm(config, layers, **factory)
        self.txt_attn = SelfAttention(config, layers, **factory)
        self.txt_norm2 = layer_norm(config, layers, **factory)
        self.txt_mlp = feed_forward(config, layers, **factory)

    def forward(
        self,
        img: Tensor,
        txt: Tensor,
        vec: tuple[tuple[Modulation, Modulation], ...],
        pe: Tensor,
        mask: Tensor | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """img (B, L_img, D), txt (B, L_txt, D) -> the same; vec from `ModulationTable.double`."""
        (img_mod1, img_mod2), (txt_mod1, txt_mod2) = vec
        num_txt = txt.shape[1]

        img_q, img_k, img_v = self.img_attn.heads(modulate(self.img_norm1(img), img_mod1))
        txt_q, txt_k, txt_v = self.txt_attn.heads(modulate(self.txt_norm1(txt), txt_mod1))
        q = torch.cat((txt_q, img_q), dim=2)
        k = torch.cat((txt_k, img_k), dim=2)
        v = torch.cat((txt_v, img_v), dim=2)
        del img_q, img_k, img_v, txt_q, txt_k, txt_v
        attn = self.attention(q, k, v, pe, mask, {**(options or {}), "img_slice": [num_txt, q.shape[2]]})
        del q, k, v
        txt_attn, img_attn = attn[:, :num_txt], attn[:, num_txt:]

        # Clamped before the norm too: of a row with one infinity it makes NaN, and the whole row would be lost.
        img = self.clamp(torch.addcmul(img, self.img_attn.proj(img_attn), img_mod1.gate), options)
        img = torch.addcmul(img, self.img_mlp(modulate(self.img_norm2(img), img_mod2)), img_mod2.gate)
        txt = self.clamp(torch.addcmul(txt, self.txt_attn.proj(txt_attn), txt_mod1.gate), options)
        txt = torch.addcmul(txt, self.txt_mlp(modulate(self.txt_norm2(txt), txt_mod2)), txt_mod2.gate)
        return self.clamp(img, options), self.clamp(txt, options)


class SingleStreamBlock(nn.Module):
    """Attention and MLP side by side over the joined sequence: two linears in all."""

    def __init__(self, config: ChromaConfig, ops: Ops, **factory: Any):
        super().__init__()
        layers = ops.layers
        self.attention, self.clamp = ops.attention, ops.clamp
        self.num_heads = config.num_heads
        self.split = [3 * config.hidden_size, config.mlp_hidden_dim]
        self.linear1 = layers.Linear(config.hidden_size, sum(self.split), bias=True, **factory)
        self.linear2 = layers.Linear(
            config.hidden_size + config.mlp_hidden_dim, config.hidden_size, bias=True, **factory
        )
        self.norm = QKNorm(config.head_dim, layers, **factory)
        self.pre_norm = layer_norm(config, layers, **factory)
        self.mlp_act = nn.GELU(approximate="tanh")

    def forward(
        self,
        x: Tensor,
        vec: Modulation,
        pe: Tensor,
        mask: Tensor | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """x (B, L, D), text rows first -> the same."""
        qkv, mlp = self.linear1(modulate(self.pre_norm(x), vec)).split(self.split, dim=-1)
        q, k, v = self.norm(*split_heads(qkv, self.num_heads))
        # Freeing each large tensor early lowers peak memory, and on a CPU saves a tenth of the time (page faults).
        del qkv
        attn = self.attention(q, k, v, pe, mask, options or {})
        del q, k, v
        mlp = self.mlp_act(mlp)
        attn = torch.cat((attn, mlp), dim=-1)
        del mlp
        return self.clamp(torch.addcmul(x, self.linear2(attn), vec.gate), options)


class LeftOut(nn.Module):
    """The place of a block that a pruned model does not have: gives back the streams that it is given."""

    def forward(self, x: Tensor | None = None, img: Tensor | None = None, txt: Tensor | None = None, **_: Any) -> Any:
        """x, or img and txt, in the shapes of the block that was there."""
        return (img, txt) if x is None else x


class FinalLayer(nn.Module):
    def __init__(self, config: ChromaConfig, layers: Any, **factory: Any):
        super().__init__()
        self.norm_final = layer_norm(config, layers, **factory)
        self.linear = layers.Linear(config.hidden_size, config.out_channels, bias=True, **factory)

    def forward(self, x: Tensor, vec: tuple[Tensor, Tensor]) -> Tensor:
        """x (B, L, D), vec (shift, scale) -> (B, L, out_channels)."""
        shift, scale = vec
        return self.linear(torch.addcmul(shift, self.norm_final(x), 1 + scale))
