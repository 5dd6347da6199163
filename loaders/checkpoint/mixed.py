"""Which blocks to write in more bits, so that the network's output errs by no more than a user allows."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, Mapping

import torch
from torch import Tensor

from ...chroma_model import ChromaConfig
from ...chroma_model.block_lists import Block
from ..formats.base.registry import BY_TYPE, EXPORTS, ExportFormat
from ..tensor_info import QUANT_MARKER
from .activations import GUIDANCE, INPUTS, relative
from .detect_variant import Detection
from .keys import block_of
from .run_weights import WeightsNetwork
from .tensors_to_write import Item, coded, items_of

FINER = 4  # of a format in more bits: its error is so much smaller at least
TIMESTEP, SIDE, TOKENS = 0.7, 256, 32  # of made-up inputs: noise, pixels, text


@dataclass(frozen=True)
class Mixture:
    """What is written in more bits.

    format: of these blocks. error: of the output, relative L2; plain: without them.
    """

    blocks: frozenset[Block]
    format: ExportFormat
    error: float
    plain: float


def finer(choice: ExportFormat) -> tuple[str, ExportFormat]:
    """The smallest format of the same container whose error is far smaller. raises: ValueError if there is none."""
    fitting = [
        (f.format.bits, name)
        for name, f in EXPORTS.items()
        if choice.format.dtype is None and f.container == choice.container and f.error * FINER <= choice.error
    ]
    if not fitting:
        raise ValueError("a largest error is for formats of 8 bits or less: 16-bit ones have nothing finer to turn to")
    name = min(fitting)[1]
    return name, EXPORTS[name]


def made_up(
    config: ChromaConfig, timestep: float = TIMESTEP, side: int = SIDE, tokens: int = TOKENS, seed: int = 0
) -> dict[str, Tensor]:
    """Gaussian noise as picture and text, by the names of `activations`. side: of the picture in pixels."""
    generator = torch.Generator().manual_seed(seed)
    side = side // 8 if config.nerf is None else side
    return {
        "input.x": torch.randn(1, config.channels, side, side, generator=generator),
        "input.timestep": torch.tensor([timestep]),
        "input.context": torch.randn(1, tokens, config.context_dim, generator=generator),
    }


def workspace(detection: Detection) -> int:
    """Bytes that `mixture` takes on a device, activations aside: what lies outside of the blocks, and two blocks, in float32."""
    sizes = Counter[Block | None]()
    for name, shape in detection.shapes.items():
        sizes[block_of(name)] += math.prod(shape)
    outside = sizes.pop(None, 0)
    return torch.float32.itemsize * (outside + 2 * max(sizes.values(), default=0))


def rounded(weight: Tensor, item: Item) -> Tensor:
    """A weight as it is read back from the file that `item` is of."""
    roles, _ = coded(item.name, weight, item)
    beside = {role: t for role, t in roles.items() if role not in ("weight", QUANT_MARKER)}
    dense = BY_TYPE[item.type].unpack(roles["weight"], beside, item.marker or {}, torch.float32)
    return dense.reshape(item.shape).to(weight.device)


def mixture(
    source: Any,
    choice: ExportFormat,
    max_error: float,
    inputs: Mapping[str, Tensor] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Mixture:
    """The blocks to write in more bits: those whose rounding harms most for their size, as few as will do.

    max_error: relative L2 error of the velocity, of the weights' rounding alone, for these inputs.
    inputs:    by the names of `activations`; made up without.
    progress:  is told the name of each block that is computed; what it raises ends the work.
    raises:    ValueError if the error cannot be met.
    """
    name, better = finer(choice)
    detection = source.detection
    inputs = inputs or made_up(detection.config)
    given, guidance = [inputs[key] for key in INPUTS], inputs.get(GUIDANCE)
    plain, fine = ({i.name: i for i in items_of(detection, format)} for format in (choice, better))
    exact, harm = harms(source, given, guidance, lambda n, w: rounded(w, plain[n]), progress)
    order = sorted(harm, key=lambda block: (-harm[block], block))

    def error(count: int) -> float:
        kept = frozenset(order[:count])
        items = {i.name: i for i in items_of(detection, choice, more_bits=(kept, better))}
        network = WeightsNetwork(source, source.device, lambda n, w: rounded(w, items[n]))
        return relative(network.forward(*given, lambda name, _: progress(name), guidance=guidance), exact)

    low, high = 0, len(order)
    found = {low: error(low)}
    if found[low] <= max_error:
        return Mixture(frozenset(), better, found[low], found[low])
    found[high] = error(high)
    if found[high] > max_error:
        raise ValueError(
            f"the output errs by {found[high]:.2%} even with all blocks in {name}, more than {max_error:.2%}. Allow more, or "
            "choose a finer format"
        )
    while high - low > 1:
        middle = (low + high) // 2
        found[middle] = error(middle)
        low, high = (low, middle) if found[middle] <= max_error else (middle, high)
    return Mixture(frozenset(order[:high]), better, found[high], found[0])


def harms(
    source: Any,
    given: list[Tensor],
    guidance: Tensor | None,
    change: Callable[[str, Tensor], Tensor],
    progress: Callable[[str], None],
) -> tuple[Tensor, dict[Block, float]]:
    """The exact velocity; and for each block its own squared error, given exact streams, per weight of it."""
    network, harm = WeightsNetwork(source, source.device), {}

    def judge(block: Block, exact: tuple[Tensor, ...], tried: tuple[Tensor, ...]) -> None:
        size = sum(math.prod(source.detection.shapes[name]) for name in network.names[block])
        harm[block] = sum(relative(t, e) ** 2 for t, e in zip(tried, exact)) / size
        progress(f"{block[0]}_blocks.{block[1]}")

    return network.forward(*given, trial=(change, judge), guidance=guidance), harm
