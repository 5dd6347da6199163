"""Text rows for training, from the demo's text encoder, written out from the definition of what Chroma's trainer does.

The trainer's T5 masks with the outer product of the token mask with itself: prompt rows attend to prompt rows; a pad's
row has every key at the minimum, so it attends to all 512 rows alike, whatever their position. All pads are equal, and
the transformer sees one of them. In the demo's encoder queries and keys are zero and so are the MLPs, which leaves the
position bias, values and outputs of the active layers.
Shapes: B batch, L rows, H heads, K head size, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

import dev

from . import text_encoder

NUM_ROWS = 512  # of which a prompt takes the first n
PAD, END = 0, 1  # token ids
NORM_EPS = 1e-6


def norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS)  # the encoder's norms have weights of one


class TextEncoder:
    """The demo's text encoder; `tokenizer` gives ids that end in END."""

    def __init__(self, weights: dict[str, Tensor] | None = None):
        weights = weights or text_encoder.state_dict(text_encoder.NUM_ACTIVE)
        names = [f"encoder.block.{i}.layer.0.SelfAttention.{{}}.weight" for i in range(text_encoder.NUM_ACTIVE)]
        self.words = weights["shared.weight"]
        self.layers = [(weights[n.format("v")].float(), weights[n.format("o")].float()) for n in names]
        self.offsets = torch.tensor(text_encoder.OFFSETS)

    def encode(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Tokens of each prompt -> rows (B, L, D), L one more than the longest prompt, and their mask (B, L) bool.

        A prompt's rows are followed by its one pad row; zeros, masked, follow that.
        """
        num = torch.tensor([len(prompt) for prompt in ids])
        length = int(num.max()) + 1
        tokens = torch.tensor([prompt + [PAD] * (length - len(prompt)) for prompt in ids])
        x = self.words[tokens].float()
        place = torch.arange(length)
        is_prompt, is_pad = place < num[:, None], place == num[:, None]
        near = place[None] - place[:, None] == self.offsets[:, None, None]  # (H, L, L), memory - query
        logits = (text_encoder.BIAS * near).masked_fill(~is_prompt[:, None, None], float("-inf"))
        weight = logits.softmax(-1)  # (B, H, L, L)
        uniform = (is_prompt + is_pad * (NUM_ROWS - num[:, None])) / NUM_ROWS  # (B, L): of all rows, for the pad
        weight = torch.where(is_pad[:, None, :, None], uniform[:, None, None], weight)
        for v, o in self.layers:
            values = (norm(x) @ v.T).unflatten(-1, (len(self.offsets), -1)).transpose(1, 2)  # (B, H, L, K)
            x = x + (weight @ values).transpose(1, 2).flatten(2) @ o.T
        mask = is_prompt | is_pad
        return norm(x) * mask[..., None], mask


def tokenizer():
    """The host's T5 tokenizer: texts -> lists of ids that end in END."""
    from transformers import T5TokenizerFast

    found = T5TokenizerFast.from_pretrained(dev.host_path() / "comfy" / "text_encoders" / "t5_tokenizer")
    return lambda texts: found(list(texts)).input_ids
