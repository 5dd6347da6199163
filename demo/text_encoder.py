"""Writes the demo's text encoder: the shape of T5-base, seeded random weights, hand-made attention.

Chroma gives text no positions, so which colour belongs to what must come out of the encoder, and a plainly random one
hardly mixes words. Here every head looks at one fixed neighbour: queries and keys are zero, and the relative position
bias is high for one offset a head (-1 .. -6, +1 .. +6). Two layers are at work; the other ten add nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

SEED = 20_261_121
NUM_LAYERS, NUM_ACTIVE = 12, 2
WIDTH, HEAD, MLP, VOCABULARY, BUCKETS = 768, 64, 3072, 32_128, 32
OFFSETS = (-6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6)
BIAS = 30.0  # e^-30 of the attention leaks to other words
GAIN = (1.0, 0.5)  # of the neighbours against the word itself, per active layer


def bucket(offset: int) -> int:
    """T5's bucket of a relative position (memory - query) below 8 words."""
    return abs(offset) + (BUCKETS // 2 if offset > 0 else 0)


def state_dict(num_layers: int = NUM_LAYERS) -> dict[str, torch.Tensor]:
    """Names and shapes of a T5-base encoder; float16. The values do not depend on num_layers."""
    rng = np.random.RandomState(SEED)  # its stream is frozen for ever, unlike default_rng's

    def normal(*shape: int, std: float = 1.0) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32) * std).half()

    bias = torch.zeros(BUCKETS, len(OFFSETS))
    for head, offset in enumerate(OFFSETS):
        bias[bucket(offset), head] = BIAS
    sd = {
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": bias.half(),
        "encoder.final_layer_norm.weight": torch.ones(WIDTH).half(),
        "shared.weight": normal(VOCABULARY, WIDTH),
    }
    zero = torch.zeros(1, 1).half()
    for i in range(num_layers):
        attention, mlp = f"encoder.block.{i}.layer.0.", f"encoder.block.{i}.layer.1."
        sd[attention + "layer_norm.weight"] = torch.ones(WIDTH).half()
        sd[mlp + "layer_norm.weight"] = torch.ones(WIDTH).half()
        for name in "qkvo":
            sd[f"{attention}SelfAttention.{name}.weight"] = zero.expand(WIDTH, WIDTH)
        sd[mlp + "DenseReluDense.wi.weight"] = zero.expand(MLP, WIDTH)
        sd[mlp + "DenseReluDense.wo.weight"] = zero.expand(WIDTH, MLP)
        if i < NUM_ACTIVE:
            sd[attention + "SelfAttention.v.weight"] = normal(WIDTH, WIDTH, std=WIDTH**-0.5)
            sd[attention + "SelfAttention.o.weight"] = normal(WIDTH, WIDTH, std=GAIN[i] * WIDTH**-0.5)
    return {k: v.contiguous() for k, v in sd.items()}


def write(path: Path) -> None:
    """Writes the encoder (219 MB) under a temporary name first, so a broken run leaves nothing that looks whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(state_dict(), partial, metadata={"format": "pt", "note": "demo text encoder with random weights"})
    partial.replace(path)


if __name__ == "__main__":
    import sys

    write(Path(sys.argv[1]))
