"""A forward of a model that is never in memory as a whole: each block's weights are read when it is run, and then given up.

Plain torch in float32; it needs the memory of the layers outside of the blocks, of one block, and of the activations.
"""

from __future__ import annotations

from typing import Any, Callable, Protocol

import torch
from torch import Tensor

from ...chroma_model import ChromaTransformer
from ...chroma_model.block_lists import Block
from ...constants import GUIDANCE as USUAL_GUIDANCE
from .activations import OUTPUT, block_name
from .approximator import fill_approximator
from .detect_variant import Detection
from .keys import block_of

Change = Callable[[str, Tensor], Tensor]  # (the model's own name of a weight, its values) -> new values
Sink = Callable[[str, Tensor], None]  # name of an activation, and its values
Trial = tuple[Change, Callable[[Block, tuple[Tensor, ...], tuple[Tensor, ...]], None]]


class Source(Protocol):
    name: str
    detection: Detection

    def dense(self, name: str) -> Tensor:
        """A tensor by the model's own name, unpacked."""


class WeightsNetwork:
    """The network of a `Weights`, run block by block."""

    def __init__(self, source: Source, device: str | torch.device = "cpu", change: Change | None = None):
        """change: of each weight as it is read, such as rounding it."""
        self.source, self.device, self.change = source, device, change
        with torch.device("meta"):
            self.network = ChromaTransformer(source.detection.config)
            fill_approximator(self.network, source.detection.config)
        self.network.eval().requires_grad_(False)
        names = source.detection.tensors
        self.network.load_state_dict(
            {n: self._read(n) for n in names if block_of(n) is None}, strict=False, assign=True
        )
        self.names: dict[Block, list[str]] = {}
        for name in names:
            if (block := block_of(name)) is not None:
                self.names.setdefault(block, []).append(name)

    def _read(self, name: str, change: Change | None = None) -> Tensor:
        weight, change = self.source.dense(name).to(self.device, torch.float32), change or self.change
        return weight if change is None else change(name, weight)

    def _run(self, kind: str, index: int, block: Any, streams: dict[str, Any], change: Change | None = None) -> Any:
        start = len(f"{kind}_blocks.{index}.")
        weights = {name[start:]: self._read(name, change) for name in self.names.get((kind, index), ())}
        block.load_state_dict(weights, strict=False, assign=True)
        out = block(**streams)
        block.to("meta")
        return out

    @torch.no_grad()
    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        sink: Sink | None = None,
        trial: Trial | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """The velocity (B, C, H, W), float32; shapes as in `activations`.

        sink:   is given every activation.
        guidance: (B,); None for what the kind of model was trained with.
        trial:  a change of weights, and what is told of each block: its streams without it and with it.
        raises: ValueError if picture or text are those of another kind of model.
        """
        config = self.source.detection.config
        if x.shape[1] != config.channels or context.shape[2] != config.context_dim:
            raise ValueError(
                f"{self.source.name} takes a picture of {config.channels} channels and text of width {config.context_dim}, the "
                f"inputs have {x.shape[1]} and {context.shape[2]}. Compare models of one kind"
            )

        def run(kind: str, index: int, block: Any, num_txt: int = 0, **streams: Any) -> Any:
            if kind == "input":
                img, txt, ids = block(**streams)
                if sink is not None:
                    sink("embed.img", img), sink("embed.txt", txt)
                return img, txt, ids
            out = self._run(kind, index, block, streams)
            if trial is not None and (kind, index) in self.names:
                change, judge = trial
                tried = self._run(kind, index, block, streams, change)
                judge((kind, index), *((o if kind == "double" else (o,)) for o in (out, tried)))
            if sink is not None:
                img, txt = out if kind == "double" else (out[:, num_txt:], out[:, :num_txt])
                sink(block_name(kind, index, "img"), img), sink(block_name(kind, index, "txt"), txt)
            return out

        if guidance is None:
            guidance = torch.full_like(timestep, USUAL_GUIDANCE[self.source.detection.variant], dtype=torch.float32)
        given = (t.to(self.device, torch.float32) for t in (x, timestep, context, guidance))
        velocity = self.network(*given, run_block=run)
        if sink is not None:
            sink(OUTPUT, velocity)
        return velocity
