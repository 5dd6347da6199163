"""Fits an Approximator to FLUX's own modulation layers, which it then replaces.

FLUX makes every shift, scale and gate by one linear layer for each block (3.2 B weights in the published model) from one
vector: the embedded timestep, guidance and pooled text. An Approximator of 0.3 B gives the same vectors. The pooled text is
held fixed.

Shapes: B points (timestep, guidance), R rows of one layer, M rows of all, D width.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Iterator, Mapping, NamedTuple

import torch
from torch import Tensor, nn

from .config import ChromaConfig
from .embeddings import MAX_PERIOD, TIME_FACTOR, timestep_embedding
from .modulation import Approximator, ModulationTable, approximator_input

EMBEDDING = 256  # width of FLUX's sinusoidal embeddings
NAMES = {  # part of a `ModulationTable` -> FLUX's layer
    "single": "single_blocks.{}.modulation.lin",
    "img": "double_blocks.{}.img_mod.lin",
    "txt": "double_blocks.{}.txt_mod.lin",
    "final": "final_layer.adaLN_modulation.1",
}
SLOW = 3.0  # radians over the range
EDGES = 0.1  # share of the points at timestep 0 and 1 each


class Layer(NamedTuple):
    """One of FLUX's modulation layers: its name, and where its rows stand among the Approximator's."""

    name: str
    first: int
    count: int


class FluxModulation:
    """FLUX's modulation vectors, one layer at a time."""

    def __init__(self, config: ChromaConfig, weight: Callable[[str], Tensor], pooled: Tensor | None = None):
        """weight: FLUX's tensor of a name, float32; asked for whenever it is needed, so that a file can stay mapped.

        pooled: (n, V) pooled text vectors, whose mean embedding is used; None for zeros.
        """
        self.config, self.weight = config, weight
        rows = ModulationTable(config).rows.items()
        self.layers = [Layer(NAMES[part].format(i), first, count) for (part, i), (first, count) in rows]
        width = weight("vector_in.in_layer.weight").shape[1]
        self.text = self._embedded("vector_in", torch.zeros(1, width) if pooled is None else pooled).mean(0)
        self.has_guidance = True
        try:
            weight("guidance_in.in_layer.weight")
        except KeyError:  # FLUX.1 schnell
            self.has_guidance = False

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))

    def _embedded(self, name: str, x: Tensor) -> Tensor:
        return self._linear(f"{name}.out_layer", nn.functional.silu(self._linear(f"{name}.in_layer", x)))

    def conditions(self, timesteps: Tensor, guidance: Tensor) -> Tensor:
        """(B,), (B,) -> (B, D): what FLUX's modulation layers are given."""
        vec = self._embedded("time_in", timestep_embedding(timesteps, EMBEDDING)) + self.text
        if self.has_guidance:
            vec = vec + self._embedded("guidance_in", timestep_embedding(guidance, EMBEDDING))
        return nn.functional.silu(vec)

    def vectors(self, layer: Layer, conditions: Tensor) -> Tensor:
        """(B, R, D)."""
        return self._linear(layer.name, conditions).unflatten(-1, (layer.count, -1))


class Fit:
    """An Approximator in training: `step` makes it better, `errors` judges it."""

    def __init__(
        self,
        flux: FluxModulation,
        approximator: Approximator,
        steps: int,
        points: int = 16,
        layers: int = 16,
        rate: float = 1e-3,
        guidance: tuple[float, float] = (1.0, 10.0),
        seed: int = 0,
    ):
        """steps:  of the whole fit, over which the learning rate falls to 0 (cosine).
        points: timesteps and guidances of a step. layers: of FLUX in a step, chosen at random.
        """
        self.flux, self.approximator = flux, approximator
        self.steps, self.points, self.layers, self.rate, self.guidance = steps, points, layers, rate, guidance
        self.generator = torch.Generator().manual_seed(seed)
        self._quiet_fast_inputs()
        self.optimizer = torch.optim.Adam(approximator.parameters(), rate, betas=(0.9, 0.99))
        self.done = 0

    @torch.no_grad()
    def _quiet_fast_inputs(self) -> None:
        """Makes the first layer's weights small for what turns many times over the range of timesteps and guidance.

        FLUX's own embedders have learnt smooth functions of both; from usual starting weights that takes ten times longer.
        """
        quarter = self.flux.config.approximator.in_dim // 4
        speeds = TIME_FACTOR * torch.exp(-math.log(MAX_PERIOD) * torch.arange(quarter // 2) / (quarter // 2))
        weight = self.approximator.in_proj.weight
        for start, span in ((0, 1.0), (quarter, self.guidance[1] - self.guidance[0])):
            kept = 1 / (1 + speeds.repeat(2) * span / SLOW)
            weight[:, start : start + quarter] *= kept.to(weight)

    def state(self) -> dict[str, Any]:
        """Of the fit, to go on from by `load_state`."""
        return {
            "approximator": self.approximator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "done": self.done,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.approximator.load_state_dict(state["approximator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.done = state["done"]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Timesteps over [0, 1], both ends among them, and guidance, (count,) each."""
        t = torch.rand(count, generator=self.generator)
        ends = torch.rand(count, generator=self.generator)
        t = torch.where(ends < EDGES, 0.0, torch.where(ends > 1 - EDGES, 1.0, t))
        low, high = self.guidance
        return t, low + (high - low) * torch.rand(count, generator=self.generator)

    def rows(self, t: Tensor, g: Tensor, layers: list[Layer]) -> Tensor:
        """(B, sum of R, in_dim): the Approximator's input for these layers."""
        config = self.flux.config
        every = approximator_input(t, g, config.num_modulations, config.approximator.in_dim)
        return torch.cat([every[:, layer.first : layer.first + layer.count] for layer in layers], dim=1)

    def step(self) -> float:
        """One step of Adam. returns: mean relative squared error of the layers it saw."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * 0.5 * (1 + math.cos(math.pi * self.done / self.steps))
        t, g = self.draw(self.points)
        every = self.flux.layers
        chosen = torch.randperm(len(every), generator=self.generator)[: self.layers].tolist()
        layers = [every[i] for i in chosen]
        device = next(self.approximator.parameters()).device
        with torch.no_grad():
            conditions = self.flux.conditions(t, g)
            wanted = [self.flux.vectors(layer, conditions).to(device) for layer in layers]
        found = self.approximator(self.rows(t, g, layers).to(device)).split([w.shape[1] for w in wanted], dim=1)
        loss = sum((f - w).square().sum() / w.square().sum() for f, w in zip(found, wanted)) / len(layers)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.approximator.parameters(), 1.0)
        self.optimizer.step()
        self.done += 1
        return loss.item()

    @torch.no_grad()
    def errors(self, count: int = 32, seed: int = 1) -> Iterator[tuple[str, float]]:
        """(name of FLUX's layer, relative error over points that the fit has not seen)."""
        kept, self.generator = self.generator, torch.Generator().manual_seed(seed)
        t, g = self.draw(count)
        self.generator = kept
        conditions = self.flux.conditions(t, g)
        device = next(self.approximator.parameters()).device
        for layer in self.flux.layers:
            wanted = self.flux.vectors(layer, conditions)
            found = self.approximator(self.rows(t, g, [layer]).to(device)).to(wanted)
            yield layer.name, float((found - wanted).norm() / wanted.norm())
