"""How fast a device computes a network that it has never run: one block is timed once, in well below a second."""

from __future__ import annotations

import threading
from functools import partial
from typing import Callable, Mapping

import torch
from torch import Tensor

from ...chroma_model import ApproximatorConfig, ChromaConfig, Ops
from ...chroma_model.blocks import SingleStreamBlock
from ...chroma_model.embeddings import position_ids, rotary_matrices
from ...chroma_model.modulation import Modulation
from .matmul import seconds

HEAD = 128
# Width of the block, and patches a side of the picture: 256 to 1024 pixels. The widest holds 50 million weights.
SIZES = ((128, 16), (256, 16), (512, 16), (1024, 16), (2048, 16), (2048, 32), (2048, 64))
LONG_ENOUGH = 0.05  # seconds of a block, after which no larger one is tried: the next takes four to five times as long


class MachineSpeed:
    """Multiplications a second in a block, by its width; kept for each device and type of numbers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[torch.device, torch.dtype], Mapping[int, float]] = {}

    def of(self, device: torch.device, dtype: torch.dtype, width: int) -> float | None:
        """That of the nearest width; None where the device cannot compute it, or now has no room for it."""
        with self._lock:
            found = self._found.get((device, dtype))
            if found is None:
                try:
                    found = self._found[device, dtype] = measured(device, dtype)
                except torch.OutOfMemoryError:  # may pass, so it is not remembered
                    return None
                except RuntimeError:  # no such operation here
                    found = self._found[device, dtype] = {}
        return found[min(found, key=lambda tried: abs(tried - width))] if found else None


@torch.inference_mode()
def measured(device: torch.device, dtype: torch.dtype) -> dict[int, float]:
    """Width -> multiplications a second, until a block takes long enough; of the largest picture that was tried."""
    found: dict[int, float] = {}
    for width, side in SIZES:
        forward, multiplications = block_of(width, side, device, dtype)
        if not found:
            seconds(forward, 1)  # the first call may load kernels
        took = seconds(forward)
        found[width] = multiplications / took
        if took >= LONG_ENOUGH:
            break
    return found


def block_of(width: int, side: int, device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Tensor], int]:
    """The forward of a block over a square picture, and its multiplications."""
    config = ChromaConfig(
        hidden_size=width,
        num_heads=width // HEAD,
        mlp_hidden_dim=4 * width,
        num_double_blocks=0,
        num_single_blocks=1,
        approximator=ApproximatorConfig(out_dim=width),
    )
    block = SingleStreamBlock(config, Ops(), device="meta", dtype=dtype).to_empty(device=device)
    for weight in block.parameters():
        weight.fill_(1 / width)  # what lies in memory may be denormal, and slow
    x, vector = (torch.ones(1, n, width, dtype=dtype, device=device) for n in (side**2, 1))
    pe = rotary_matrices(position_ids(0, side, side, device=device), config.axes_dim, config.theta)
    return partial(block, x, Modulation(vector, vector, vector), pe), config.multiplications(side**2)


SPEED = MachineSpeed()
