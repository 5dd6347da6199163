"""stable-diffusion.cpp by its Python package: ggml's C code for each type, the files that it writes and reads, a whole picture.

`pip install --no-deps stable-diffusion-cpp-python` compiles it, in about ten minutes on two cores.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Iterator

import gguf
import numpy as np
import torch
from torch import Tensor

import dev

# Its picture model has these sizes fixed: 344 modulations, heads of 128, an Approximator of width 5120, the NeRF's.
FIXED = {"double": 19, "single": 38, "context": 4096, "approximator": (64, 5120, 5), "channels": 3, "patch_size": 16}
NERF = {"hidden_size": 64, "num_blocks": 4, "mlp_ratio": 4, "kernel_size": 16}
TEXT_ROWS = 256  # of zeros, what it takes without a text encoder
SIGMAS = (0.4, 0.2, 0.0)  # from where a picture of random weights is mostly within what 8 bits hold
ROWS, COLUMNS = 64, 512
NOT_READ = ("fp8_scaled", "int8_convrot")  # its reader of safetensors knows no scales and no int8


class TypeTraits(ctypes.Structure):
    """ggml's record of a type; `to_float` unpacks count weights."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("block_size_interleaved", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float", ctypes.c_void_p),
    ]


class Library:
    """The package, and its shared library's own functions."""

    def __init__(self) -> None:
        import stable_diffusion_cpp as package

        self.package = package
        (path,) = (Path(package.__file__).parent / "lib").glob("*stable-diffusion.*")
        self.c = ctypes.CDLL(str(path))
        self.c.ggml_get_type_traits.restype = ctypes.POINTER(TypeTraits)
        self.c.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.c.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            *[ctypes.c_void_p] * 2,
            *[ctypes.c_int64] * 3,
            ctypes.c_void_p,
        ]

    def packed(self, weight: Tensor, name: str) -> Tensor:
        """(N, K) float32 -> (N, bytes)."""
        kind, weight = gguf.GGMLQuantizationType[name], weight.contiguous()
        block, size = gguf.GGML_QUANT_SIZES[kind]
        out = torch.empty(len(weight), weight.shape[1] // block * size, dtype=torch.uint8)
        self.c.ggml_quantize_chunk(kind.value, weight.data_ptr(), out.data_ptr(), 0, *weight.shape, None)
        return out

    def unpacked(self, packed: Tensor, name: str) -> Tensor:
        """Blocks of any shape -> their weights in one row."""
        if name == "F32":
            return packed.flatten()
        kind, packed = gguf.GGMLQuantizationType[name], packed.contiguous().view(torch.uint8)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        out = torch.empty(packed.numel() // size * block)
        traits = self.c.ggml_get_type_traits(kind.value).contents
        assert (traits.block_size, traits.type_size) == (block, size)
        traits.to_float(packed.data_ptr(), out.data_ptr(), out.numel())
        return out

    def convert(self, source: Path, target: Path, kind: str) -> Path:
        """Its command to write files. kind: one of its names of types. raises: RuntimeError where it does not."""
        number = self.package.stable_diffusion.GGML_TYPE_MAP[kind]
        with self.package.stable_diffusion.suppress_stdout_stderr(disable=False):
            done = self.package.convert(str(source).encode(), b"", str(target).encode(), int(number), b"", False)
        if not done:
            raise RuntimeError(f"stable-diffusion.cpp did not convert {source.name} to {kind}")
        return target


def types() -> list[str]:
    """GGML's types that we read."""
    return [name for name in dev.load_pack("loaders.formats.base.registry").FORMATS if name.isupper()]


def weights(library: Library) -> Iterator[tuple[Tensor, Tensor]]:
    """(ours, its) of each type, packed by its own quantiser."""
    formats = dev.load_pack("loaders.formats.base.registry").FORMATS
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(3))
    for name in types():
        packed = library.packed(weight, name)
        yield formats[name].unpack(packed, {}, {}, torch.float32).flatten(), library.unpacked(packed, name)


def written_by_it(library: Library, source: Path) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """(ours, its) of all tensors of the GGUF files that it makes of source, one of each type."""
    for name in ("F32", "F16", "BF16", *types()):
        path = library.convert(source, source.with_name(f"its {name}.gguf"), name.lower())
        if name not in {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}:
            raise ValueError(f"stable-diffusion.cpp wrote no {name} into {path.name}")
        yield pairs(library, path, path)


def written_by_us(library: Library, source: Path) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """(ours, its) of all tensors of the files that we write, made float32 by it."""
    writer, registry = (
        dev.load_pack("loaders.checkpoint.write_quantised"),
        dev.load_pack("loaders.formats.base.registry"),
    )
    for name, choice in registry.EXPORTS.items():
        if name in NOT_READ:
            continue
        path = source.with_name(f"ours {name}{choice.suffix}")
        writer.write_model(writer.FileWeights(source), path, name)
        yield pairs(library, path, library.convert(path, source.with_name(f"ours {name} by it.gguf"), "f32"))


def pairs(library: Library, path: Path, its: Path) -> list[tuple[Tensor, Tensor]]:
    """(ours, its) of all our tensors. its: the GGUF file that it made; raises: KeyError for a weight that it lacks."""
    theirs = {
        tensor.name: library.unpacked(torch.from_numpy(np.array(tensor.data)), tensor.tensor_type.name)
        for tensor in gguf.GGUFReader(its).tensors
    }
    file = dev.load_pack("loaders.checkpoint.write_quantised").FileWeights(path)
    names = {name: part.file_name for name, (part,) in file.detection.tensors.items()}
    return [(file.dense(name).float().flatten(), theirs[file_name]) for name, file_name in names.items()]


# --- a picture ---------------------------------------------------------------------------------------------------------


def its_pictures(library: Library, path: Path, sizes: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """(3, H, W) in [-1, 1], of 8 bits; of each (height, width), which is the seed too."""
    model = library.package.StableDiffusion(
        diffusion_model_path=str(path), chroma_use_dit_mask=False, rng_type="cpu", verbose=False
    )
    made = []
    for height, width in sizes:
        (image,) = model.generate_image(
            prompt="",
            height=height,
            width=width,
            cfg_scale=1.0,
            sample_method="euler",
            sigmas=",".join(map(str, SIGMAS)),
            sample_steps=len(SIGMAS) - 1,
            seed=height,
        )
        made.append(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1)
    return made


def our_picture(net: Any, height: int, width: int) -> Tensor:
    """The same, rounded to 8 bits as it does."""
    x = SIGMAS[0] * torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(height))
    text = torch.zeros(1, TEXT_ROWS, FIXED["context"])
    for sigma, following in zip(SIGMAS, SIGMAS[1:]):
        x = x + (following - sigma) * net(x, torch.tensor([sigma]), text, torch.zeros(1))
    return ((x[0] + 1) * 127.5).clamp(0, 255).add(0.5).floor() / 127.5 - 1
