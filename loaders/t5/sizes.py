"""T5's encoder: its sizes, and the names and shapes of its tensors. The names are Hugging Face's, as in the host."""

from __future__ import annotations

from dataclasses import dataclass

EMBEDDING = "shared.weight"
EMBEDDING_COPY = "encoder.embed_tokens.weight"  # the same tensor; some files have only this one
FINAL_NORM = "encoder.final_layer_norm.weight"
RELATIVE_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
# (width, gated) of the published encoders -> their layers. FLAN's are those of v1.1.
PUBLISHED_LAYERS = {
    **{(512, False): 6, (512, True): 8, (768, False): 12, (768, True): 12, (1024, False): 24, (1024, True): 24},
    **{(2048, True): 24, (4096, True): 24},
}
NUM_BUCKETS = 32  # of relative positions; the host knows no other number


@dataclass(frozen=True)
class T5Config:
    """Sizes of an encoder. gated: the MLP of T5 v1.1, with two input layers; else that of the first T5."""

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    gated: bool


def is_linear(name: str) -> bool:
    """Whether a tensor of the encoder is the weight of a linear layer; every precision changes those."""
    return name.startswith("encoder.block.") and not name.endswith(("layer_norm.weight", RELATIVE_BIAS))


def expected_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of an encoder of these sizes."""
    width, inner, mlp = config.width, config.num_heads * config.head_dim, config.mlp_dim
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, width)}
    for i in range(config.num_layers):
        attention, feed_forward = f"encoder.block.{i}.layer.0.", f"encoder.block.{i}.layer.1."
        shapes.update({f"{attention}SelfAttention.{x}.weight": (inner, width) for x in "qkv"})
        shapes[f"{attention}SelfAttention.o.weight"] = (width, inner)
        shapes[f"{attention}layer_norm.weight"] = (width,)
        for wi in ("wi_0", "wi_1") if config.gated else ("wi",):
            shapes[f"{feed_forward}DenseReluDense.{wi}.weight"] = (mlp, width)
        shapes[f"{feed_forward}DenseReluDense.wo.weight"] = (width, mlp)
        shapes[f"{feed_forward}layer_norm.weight"] = (width,)
    shapes[RELATIVE_BIAS] = (NUM_BUCKETS, config.num_heads)
    shapes[FINAL_NORM] = (width,)
    return shapes
