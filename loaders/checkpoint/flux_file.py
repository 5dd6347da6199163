"""A FLUX file with its own modulation layers: its sizes and those layers, for `chroma_model.distil`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...chroma_model import ChromaConfig
from ..files.read import read_header, read_tensors
from ..formats.base.registry import dense
from . import lite
from .detect_sizes import config_of
from .keys import APPROXIMATOR, FLUX_MODULATION, OLD_MARKER
from .naming import layout_of, names_of
from .weight_parts import Names, collect

IN_DIM = 64  # of the Approximator of FLUX
NEEDED = {
    "txt_in.weight",
    "time_in.in_layer.weight",
    "vector_in.in_layer.weight",
    "final_layer.adaLN_modulation.1.weight",
}


class FluxFile:
    """Tensors stay mapped; each is unpacked when it is asked for."""

    def __init__(self, path: Path, hidden_dim: int, num_layers: int):
        """hidden_dim, num_layers: of the Approximator that shall take the modulation's place.

        raises: ValueError naming the file, what was found and the remedy.
        """
        header = read_header(path)
        layout, prefix = layout_of(header)
        by_name = names_of(header, prefix)
        if layout != "BFL" or not NEEDED <= by_name.keys():
            raise ValueError(
                f"{header.name}: has no modulation layers under FLUX's own names (time_in, double_blocks.0.img_mod ...). "
                "Take FLUX.1 dev, schnell or Kontext as Black Forest Labs published it"
            )
        names = Names(header, by_name, prefix)
        old_marker = header.tensors.get(by_name.get(OLD_MARKER, ""))
        found = collect(header, names, old_marker)
        self.name, self._parts = header.name, found.tensors
        self._tensors = read_tensors(path)
        double = {name.split(".")[1] for name in found.shapes if name.startswith("double_blocks.")}
        width = found.shapes["txt_in.weight"][0]
        sizes = {
            "in_proj.weight": (hidden_dim, lite.IN_DIM if len(double) == lite.LITE else IN_DIM),
            "out_proj.weight": (width, hidden_dim),
            **{f"layers.{i}.in_layer.weight": (hidden_dim, hidden_dim) for i in range(num_layers)},
        }
        shapes = {_model_name(n): s for n, s in found.shapes.items() if not FLUX_MODULATION.match(n)}
        shapes.update({APPROXIMATOR + n: size for n, size in sizes.items()})
        self.config: ChromaConfig = config_of(header.name, shapes, set())

    def weight(self, name: str) -> Tensor:
        """A tensor in float32 on the CPU. raises: KeyError where the file has none of this name."""
        return dense(self._parts[name][0], self._tensors).to(torch.float32)


def _model_name(name: str) -> str:
    return name.removesuffix(".scale") + ".weight" if name.endswith("_norm.scale") else name
