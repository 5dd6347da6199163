"""Every size of a Chroma network, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from .block_lists import Block, blocks_text

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
class NerfConfig:
    """Sizes of a pixel model's input and output layers. The defaults are the published Chroma1-Radiance, which has
    in_channels and out_channels 3 and patch_size 16."""

    hidden_size: int = 64
    num_blocks: int = 4
    mlp_ratio: int = 4
    num_freqs: int = 8  # cosines per axis; a pixel's position is num_freqs^2 features
    final: str = "conv"  # a key of `radiance.FINAL_LAYERS`
    kernel_size: int = 16  # of img_in_patch; half of patch_size if the model sees only every second pixel

    def __post_init__(self) -> None:
        _one_of("final", self.final, ("conv", "linear"))


@dataclass(frozen=True)
class ChromaConfig:
    """Sizes of the transformer. The defaults are the published 8.9B model; loaders read them from the file."""

    # Latent channels * patch_size^2; with `nerf` the picture's own channels. More come in than go out where a picture, or a
    # picture and a mask, stand beside the latent (Fill, depth, canny).
    in_channels: int = 64
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
    nerf: NerfConfig | None = None  # set where the model works on pixels (Radiance)
    prediction: str = "v"  # v: the network gives the velocity; x0: the picture itself
    text_ids: str = "zeros"  # position ids of text tokens; sequential: numbered from 0
    left_out: frozenset[Block] = frozenset()  # of a pruned model; the others keep their numbers and modulations

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
        _one_of("prediction", self.prediction, ("v", "x0"))
        _one_of("text_ids", self.text_ids, ("zeros", "sequential"))
        unknown = {(kind, i) for kind, i in self.left_out if not 0 <= i < self.num_blocks.get(kind, 0)}
        if unknown:
            raise ValueError(f"{blocks_text(unknown)} cannot be left out: there is no such block")
        if self.left_out and self.left_out >= {("double", i) for i in range(self.num_double_blocks)}:
            raise ValueError("all double blocks are left out. Keep one of them at least")
        if self.nerf is not None and self.patch_size % self.nerf.kernel_size:
            raise ValueError(
                f"patch_size {self.patch_size} is not a multiple of img_in_patch's kernel {self.nerf.kernel_size}"
            )

    @property
    def num_blocks(self) -> dict[str, int]:
        """Kind of block -> how many there are, those left out included."""
        return {"double": self.num_double_blocks, "single": self.num_single_blocks}

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def channels(self) -> int:
        """Channels of the model's input: the latent's and of what stands beside it, or the picture's."""
        return self.in_channels // self.patch_size**2 if self.nerf is None else self.in_channels

    @property
    def latent_channels(self) -> int:
        """Channels of the latent or picture alone, which are those of the prediction."""
        return self.out_channels // self.patch_size**2 if self.nerf is None else self.in_channels

    @property
    def num_modulations(self) -> int:
        """Rows that the Approximator gives: 344 for 38 single and 19 double blocks.

        A model on pixels has no final layer, so the last two rows are left out. The trainer computes them but never
        reads them. Each row depends only on its own index, so the other rows stay the same.
        """
        return (
            VECTORS_PER_SINGLE * self.num_single_blocks
            + 2 * VECTORS_PER_STREAM * self.num_double_blocks
            + (VECTORS_FINAL if self.nerf is None else 0)
        )

    def multiplications(self, tokens: int) -> int:
        """Of a forward over so many image tokens of one picture, in layers and attention. Left out are text, and what is
        computed once for all tokens."""
        width = self.hidden_size
        block = 4 * width**2 + 2 * width * self.mlp_hidden_dim + 2 * width * tokens  # of either kind, for a token
        head = self.nerf.num_blocks * width * 3 * self.nerf.mlp_ratio * self.nerf.hidden_size**2 if self.nerf else 0
        return tokens * ((sum(self.num_blocks.values()) - len(self.left_out)) * block + head)

    @property
    def markers(self) -> tuple[str, ...]:
        """Names of the empty tensors that say, in the host's and trainer's files, what shapes do not."""
        half_size = self.nerf is not None and self.nerf.kernel_size != self.patch_size
        said = {"__x0__": self.prediction == "x0", "__sequential__": self.text_ids == "sequential"}
        flags = (name for name, there in {**said, "__32x32__": half_size}.items() if there)
        return (*flags, *(f"{kind}_blocks.{i}.left_out" for kind, i in sorted(self.left_out)))


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected {' or '.join(choices)}")


def rotary_axes(head_dim: int) -> tuple[int, int, int]:
    """Rotary widths (reference index, row, column) for a head size: 16 first, the rest in two equal parts.

    A checkpoint does not store them; 128 -> (16, 56, 56) is FLUX's; narrow models of this pack follow it.
    raises: ValueError if the head is too small or its remainder does not split into two even parts.
    """
    rest, odd = divmod(head_dim - 16, 2)
    if rest < 2 or odd or rest % 2:
        raise ValueError(f"head size {head_dim} has no rotary split: expected 16 + 2 * an even number, at least 20")
    return 16, rest, rest
