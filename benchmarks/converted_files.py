"""Files of the package convert_to_quant, written by its own command, beside the weights that its own code unpacks from them.

`pip install --no-deps convert_to_quant`. Without its learned rounding, which changes values and not how they are stored.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from safetensors.torch import load_file
from torch import Tensor

import dev

KEPT = "--distillation_large"  # its set of layers that stay in 16 bits in Chroma
# What stores weights -> options of its command. Two have layers that their option does not fit, as published files do.
FORMATS = {
    "fp8": "",
    "fp8, an input scale": "--input_scale --save-quant-metadata",
    "fp8, a scale a row": "--scaling_mode row",
    "fp8, blocks of 64": "--scaling_mode block --block_size 64",
    "fp8, blocks of 128, else rows": "--scaling_mode block",
    "fp8, block3d": f"--scaling_mode block3d --block_size 64 {KEPT}",
    "int8": "--int8",
    "int8, a scale a row": "--int8 --scaling_mode row",
    "int8, blocks of 128": f"--int8 --scaling_mode block {KEPT}",
    "int8 rotated by 256, else 64": "--int8 --scaling_mode row --convrot",
    "int8 rotated by 16": "--int8 --scaling_mode row --convrot --convrot-group-size 16",
    "int8 rotated by the largest group": "--int8 --scaling_mode row --convrot --dynamic-convrot",
    "mxfp8": "--mxfp8",
    "nvfp4": "--nvfp4",
    "fp8, some int8": "--custom-layers txt_attn --custom-type int8 --custom-scaling-mode row --custom-simple --custom-convrot",
}
HYBRID = "hybrid mxfp8"  # made from its mxfp8
MXFP8 = ("mxfp8", "hybrid_mxfp8")
SCALES = ("weight_scale", "weight_scale_2", "weight_scalar", "input_scale", "comfy_quant")


@dataclass
class Converted:
    """Files made from one source, each once."""

    source: Path
    options: str = ""
    made: dict[str, Path] = field(default_factory=dict)

    def files(self) -> Iterator[tuple[str, Path]]:
        for name, options in FORMATS.items():
            yield name, self._file(name, f"{options} {self.options}")
        mxfp8 = Converted(self._file("mxfp8", FORMATS["mxfp8"]))
        yield HYBRID, mxfp8._file(HYBRID, "--make-hybrid-mxfp8")

    def _file(self, name: str, options: str) -> Path:
        if name not in self.made:
            self.made[name] = self.source.with_name(f"{len(self.made)} {name} of {self.source.name}")
            convert(self.source, self.made[name], options)
        return self.made[name]


def convert(source: Path, target: Path, options: str) -> None:
    """raises: RuntimeError with what the command printed, where it wrote nothing."""
    from convert_to_quant.cli.main import get_parser, run_conversion

    usual = "--simple --optimizer original --calib_samples 8 --manual_seed 1 --device cpu --verbose MINIMAL"
    arguments = get_parser().parse_args(["-i", str(source), "-o", str(target), *usual.split(), *options.split()])
    said = io.StringIO()
    logging.getLogger("convert_to_quant").propagate = False  # into the host's own log
    gc.freeze()  # it collects after every layer, which takes long where as much is loaded as here
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            run_conversion(arguments)
    finally:
        gc.unfreeze()
    if not target.is_file():
        raise RuntimeError(f"convert_to_quant {options} wrote no file:\n{said.getvalue()[-2000:]}")


def unpacked(path: Path) -> tuple[dict[str, Tensor], set[str]]:
    """All weights of a file in float32, and which of them were packed."""
    tensors = load_file(path)
    packed = {name.removesuffix(".comfy_quant") for name in tensors if name.endswith(".comfy_quant")}
    beside = {f"{stem}.{role}" for stem in packed for role in SCALES}
    weights = {name: tensor.float() for name, tensor in tensors.items() if name not in beside}
    for stem in packed:
        marker = json.loads(bytes(tensors[f"{stem}.comfy_quant"].tolist()))
        roles = {role: tensors.get(f"{stem}.{role}") for role in SCALES}
        weights[f"{stem}.weight"] = unpack(tensors[f"{stem}.weight"], roles, marker)
    return weights, {f"{stem}.weight" for stem in packed}


def unpack(weight: Tensor, beside: dict[str, Any], marker: dict[str, Any]) -> Tensor:
    """One weight by the package's own functions for its format."""
    from convert_to_quant.comfy import quant_ops
    from convert_to_quant.utils import convrot, float_utils

    name, scale = marker["format"], beside["weight_scale"]
    if name in MXFP8:
        scale = float_utils.e8m0_to_f32(float_utils.mxfp8_from_blocked(scale, len(weight), weight.shape[1] // 32))
        return weight.float() * scale.repeat_interleave(32, 1)
    if name == "nvfp4":
        values = float_utils.fp4_x2_to_f32(weight)
        scale = float_utils.from_blocked(scale, len(values), values.shape[1] // 16).float() * beside["weight_scale_2"]
        return values * scale.repeat_interleave(16, 1)
    if name == "float8_e4m3fn_blockwise" and scale.shape == weight.shape[:1]:
        name = "float8_e4m3fn_rowwise"  # what it does where blocks do not fit; the marker keeps the name
    layout = getattr(quant_ops, quant_ops.QUANT_ALGOS[name]["comfy_tensor_layout"])
    given = {"scale": scale, "orig_dtype": torch.float32, "is_weight": True, "block_size": marker.get("group_size")}
    dense = layout.dequantize(weight, **given)
    if marker.get("convrot"):
        group = marker["convrot_groupsize"]
        dense = convrot.rotate_activation(dense, convrot.build_hadamard(group), group)
    return dense


# --- beside ours -------------------------------------------------------------------------------------------------------


@dataclass
class Pair:
    """One file as our reader unpacks it and as the package does, both under our own names."""

    path: Path
    ours: dict[str, Tensor]
    theirs: dict[str, Tensor]
    packed: set[str]


def pair(path: Path, detect: Callable[[Any], Any]) -> Pair:
    """detect: header -> what our reader made of it."""
    tensors = dev.load_pack("loaders.files.read").read_tensors(path)
    dense = dev.load_pack("loaders.formats.base.registry").dense
    parts = {
        name: part for name, (part,) in detect(dev.load_pack("loaders.files.read").read_header(path)).tensors.items()
    }
    theirs, packed = unpacked(path)
    return Pair(
        path,
        {name: dense(part, tensors).float() for name, part in parts.items()},
        {name: theirs[part.file_name] for name, part in parts.items()},
        {name for name, part in parts.items() if part.file_name in packed},
    )


class Compared:
    """All files of a Chroma model, or of a text encoder, each written and read once."""

    def __init__(self, source: Path, detect: Callable[[Any], Any], options: str = ""):
        self.pairs = {name: pair(path, detect) for name, path in Converted(source, options).files()}

    def weights(self, distance: Callable[[Tensor, Tensor], float]) -> Iterator[float]:
        """The worst weight of each file."""
        for name, files in self.pairs.items():
            if not files.packed:
                raise ValueError(f"{name}: no weight of {files.path.name} is packed")
            yield max(distance(files.ours[n], files.theirs[n]) for n in files.theirs)
