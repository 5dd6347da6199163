"""Every size of a Chroma network, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

# Modulation vectors per block: shift, scale and gate once in a single block, twice in each stream of a double
# block (attention, MLP); the final layer has shift and scale only.
VECTORS_PER_SINGLE = 3
VECTORS_PER_STREAM = 6
VECTORS_FINAL = 2


@dataclass(frozen=True)
class ApproximatorConfig:
    """Sizes of the MLP that makes all modulations (`distilled_guidance_layer`)."""

    in_dim: int = 64  # timestep embedding + guidance embedding + index embedding: in_dim/4, in_dim/4, in_dim/2
    hidden_dim: int = 5120
    out_dim: int = 3072
    num_layers: int = 5


@dataclass(frozen=True)
class ChromaConfig:
    """Sizes of the transformer. The defaults are the published 8.9B model; loaders read them from the file."""

    in_channels: int = 64  # latent channels * patch_size^2
    out_channels: int = 64
    context_dim: int = 4096  # width of the text encoder
    hidden_size: int = 3072
    num_heads: int = 24
    mlp_hidden_dim: int = 12288
    num_double_blocks: int = 19
    num_single_blocks: int = 38
    axes_dim: tuple[int, ...] = (16, 56, 56)  # rotary width of (reference index, row, column); sums to head_dim
    theta: int = 10_000
    qkv_bias: bool = True
    patch_size: int = 2
    approximator: ApproximatorConfig = ApproximatorConfig()

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if sum(self.axes_dim) != self.head_dim or any(d % 2 or d <= 0 for d in self.axes_dim):
            raise ValueError(f"axes_dim {self.axes_dim} must be even numbers that sum to the head size {self.head_dim}")
        if self.approximator.out_dim != self.hidden_size:
            raise ValueError(
                f"the Approximator gives vectors of width {self.approximator.out_dim}, "
                f"but the blocks are {self.hidden_size} wide"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_modulations(self) -> int:
        """Rows that the Approximator gives: 344 for 38 single and 19 double blocks."""
        return (
            VECTORS_PER_SINGLE * self.num_single_blocks
            + 2 * VECTORS_PER_STREAM * self.num_double_blocks
            + VECTORS_FINAL
        )


def rotary_axes(head_dim: int) -> tuple[int, int, int]:
    """Rotary widths (reference index, row, column) for a head size: 16 first, the rest in two equal parts.

    A checkpoint does not store them; 128 -> (16, 56, 56) is FLUX's, and narrow models of this pack keep its rule.
    raises: ValueError if the head is too small or its remainder does not split into two even parts.
    """
    rest, odd = divmod(head_dim - 16, 2)
    if rest < 2 or odd or rest % 2:
        raise ValueError(f"head size {head_dim} has no rotary split: expected 16 + 2 * an even number, at least 20")
    return 16, rest, rest
