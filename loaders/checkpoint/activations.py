"""What a network computes on its way, by name: kept in a file, and compared block by block.

The names, of one forward of one picture; B is 1:

    input.x               (B, C, H, W)          the noisy latent (or picture, for Radiance) that the network was given
    input.timestep        (B,)                  above 0, at most 1 = noise; not multiplied by 1000
    input.context         (B, L_txt, K)         the text encoder's vectors, without tokens that are masked away
    input.guidance        (B,)                  embedded guidance, if it is not 0 (Chroma) or 3.5 (FLUX); may be missing
    embed.img, embed.txt  (B, L_img or L_txt, D)   the streams before the first block (img_in, txt_in)
    double_blocks.N.img, double_blocks.N.txt       the streams after double block N, counted from 0
    single_blocks.N.img, single_blocks.N.txt       the same after single block N; or both as single_blocks.N, text first
    output                (B, C, H, W)          the velocity: noise - data

The inputs must be there to compare a model with a file; of the rest, what is there is compared.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

import torch
from torch import Tensor

from ...chroma_model.block_lists import Block
from ..files.error_text import encodable
from ..files.read import read_header, read_tensors
from ..files.write import SAFETENSORS_TYPES, SafetensorsFile, Stored, whole_file

INPUTS = {"input.x": 4, "input.timestep": 1, "input.context": 3}  # -> number of dimensions
GUIDANCE = "input.guidance"
STREAMS = ("img", "txt")
OUTPUT = "output"
NAME = re.compile(r"embed\.(?:img|txt)|double_blocks\.\d+\.(?:img|txt)|single_blocks\.\d+(?:\.(?:img|txt))?|output")
WORST = 4  # blocks that a text names


def block_name(kind: str, index: int, stream: str) -> str:
    return f"{kind}_blocks.{index}.{stream}"


def is_dump(path: Path) -> bool:
    """Whether a file holds activations."""
    return path.suffix == ".safetensors" and "input.x" in read_header(path).tensors


def read_dump(path: Path) -> dict[str, Tensor]:
    """Inputs and activations by name; single streams that were kept as one are split.

    raises: ValueError naming the file, what is missing or unknown and what is expected.
    """
    name, tensors = encodable(path.name), dict(read_tensors(path))
    for key, ndim in INPUTS.items():
        if key not in tensors or tensors[key].ndim != ndim or tensors[key].shape[0] != 1:
            found = tuple(tensors[key].shape) if key in tensors else "missing"
            raise ValueError(
                f"{name}: {key} is {found}, expected {ndim} dimensions, the first of them 1. Write it anew"
            )
    if not 0 < float(tensors["input.timestep"][0]) <= 1:
        raise ValueError(
            f"{name}: input.timestep is {float(tensors['input.timestep'][0]):g}, expected above 0 and at most 1. Divide it by 1000, "
            "if it was multiplied for the network"
        )
    unknown = [key for key in tensors if key not in INPUTS and key != GUIDANCE and not NAME.fullmatch(key)]
    if unknown:
        raise ValueError(
            f"{name}: {unknown[0]} is no name of an activation. Names are double_blocks.N.img, double_blocks.N.txt, "
            "single_blocks.N, embed.img, embed.txt, output"
        )
    num_txt = tensors["input.context"].shape[1]
    for key in [key for key in tensors if re.fullmatch(r"single_blocks\.\d+", key)]:
        joint = tensors.pop(key)
        if joint.ndim != 3 or joint.shape[1] <= num_txt:
            raise ValueError(
                f"{name}: {key} is {tuple(joint.shape)}, expected (1, more than {num_txt}, width). Write it anew"
            )
        tensors[f"{key}.txt"], tensors[f"{key}.img"] = joint[:, :num_txt], joint[:, num_txt:]
    return tensors


def write_dump(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """raises: ValueError if the file is there already or cannot be written."""
    stored = [Stored(name, SAFETENSORS_TYPES[t.dtype], tuple(t.shape)) for name, t in tensors.items()]
    file = SafetensorsFile(stored, dict(metadata or {}))
    with whole_file(path, file.nbytes) as partial, file.open(partial):
        for name, tensor in tensors.items():
            file.write(name, tensor.contiguous().cpu())


def relative(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance of a from b, in float32."""
    a, b = a.detach().float().cpu(), b.detach().float().cpu()
    return float((a - b).norm() / b.norm().clamp_min(torch.finfo(torch.float32).tiny))


@dataclass
class Differences:
    """How far activations are from a reference's; `add` them as they come, of one forward or several.

    errors:   name -> relative L2 error of each forward.
    unfitted: names whose shapes differ.
    """

    errors: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    unfitted: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def add(self, name: str, found: Tensor, wanted: Tensor) -> None:
        if found.shape == wanted.shape:
            self.errors[name].append(relative(found, wanted))
        else:
            self.unfitted[name] = tuple(found.shape), tuple(wanted.shape)

    def of(self, name: str) -> float | None:
        """The mean over the forwards."""
        values = self.errors.get(name)
        return sum(values) / len(values) if values else None

    def blocks(self) -> list[Block]:
        """Blocks in the network's order."""
        found = {(m[1], int(m[2])) for m in (re.match(r"(double|single)_blocks\.(\d+)", n) for n in self.errors) if m}
        return sorted(found)

    def curve(self, stream: str) -> list[float | None]:
        """The error after each of `blocks()`."""
        return [self.of(block_name(kind, i, stream)) for kind, i in self.blocks()]

    def added(self) -> dict[Block, float]:
        """What each block adds to the error, as if errors were independent: the root of the difference of the squares.

        Of both streams the larger. What a block inherits is not its fault.
        """
        before = {stream: self.of(f"embed.{stream}") or 0.0 for stream in STREAMS}
        out = {}
        for kind, i in self.blocks():
            new = {s: e for s in STREAMS if (e := self.of(block_name(kind, i, s))) is not None}
            out[kind, i] = max((max(0.0, e**2 - before[s] ** 2) ** 0.5 for s, e in new.items()), default=0.0)
            before.update(new)
        return out

    def worst(self, count: int = WORST) -> list[Block]:
        """The blocks that add most, the worst first; without those that add nothing."""
        added = self.added()
        return sorted((b for b in added if added[b] > 0), key=lambda b: -added[b])[:count]

    def text(self) -> str:
        """For people, a few lines."""
        lines = []
        if (output := self.of(OUTPUT)) is not None:
            lines.append(f"output: {output:.3g} relative error")
        added, worst = self.added(), self.worst()
        if worst:
            told = ", ".join(f"{kind} {i} ({added[kind, i]:.2g})" for kind, i in worst)
            lines.append(f"most is added by {told}")
        elif self.errors:
            lines.append("no block differs")
        for name, (found, wanted) in list(self.unfitted.items())[:1]:
            lines.append(f"not compared: {len(self.unfitted)} of other shapes, first {name} {found} against {wanted}")
        return "\n".join(lines)
