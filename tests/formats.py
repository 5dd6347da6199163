"""Narrow models written in every layout and storage that Chroma is passed round in. Needs the host's quantisers.

Figures: the relative error that a storage's bit width implies for Gaussian weights (relative Frobenius norm).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Callable

import gguf
import kquants
import support
import torch
from safetensors.torch import save_file
from torch import Tensor

gguf_types = support.dev.load_pack("loaders.formats.ggml")
keys = support.dev.load_pack("loaders.checkpoint.keys")
QUANT_METADATA = support.dev.load_pack("loaders.tensor_info").METADATA_MARKERS

BLOCK_LAYERS = ("double_blocks.", "single_blocks.")
Entries = dict[str, Tensor]  # suffix behind the layer's stem -> tensor


# --- what a bit width implies ----------------------------------------------------------------------------------------


def largest(n: int) -> float:
    """Expected largest magnitude of n standard normal numbers, to about 1 %."""
    return NormalDist().inv_cdf(1 - 0.5 * (1 - 0.5 ** (1 / (n * 1.0)))) if n > 1 else 1.0


def spread(n: int) -> float:
    """Expected largest minus smallest of n standard normal numbers, to about 2 %."""
    return 2 * NormalDist().inv_cdf(0.5 ** (1 / n))


def grid(width: float, levels: int) -> float:
    """Error of rounding to `levels` equal steps over a width, both in standard deviations: step / sqrt(12)."""
    return width / levels / math.sqrt(12)


def floating(mantissa: int) -> float:
    """Error of rounding to a floating-point type without over- or underflow.

    A step is 2^(e - mantissa) for values in [2^e, 2^(e+1)); with exponents evenly spread, the mean of (value / 2^e)^2 is
    3 / (2 ln 2).
    """
    return 2**-mantissa / math.sqrt(12) / math.sqrt(3 / (2 * math.log(2)))


# --- storages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """One way to store the weights of linears.

    write:  layer name, weight (N, K) -> entries beside each other in the file.
    error:  K -> the relative weight error that its bit width implies.
    layers: which linears are stored so: "all", or "blocks"; the rest is 16 bits.
    marker: what goes into the file as a whole.
    gguf:   GGML's name where the file is a GGUF.
    exact:  the weights' error has no lower bound beyond 16 bits.
    """

    write: Callable[[Tensor], Entries] | None
    error: Callable[[int], float]
    layers: str = "blocks"
    marker: Callable[[], Entries] | None = None
    gguf: str | None = None
    metadata: bool = False
    dtype: torch.dtype = torch.bfloat16


def marker(**settings: Any) -> Tensor:
    return torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)


def scaled(weight: Tensor, dtype: torch.dtype, scale: Tensor) -> Tensor:
    top = torch.finfo(dtype).max if dtype.is_floating_point else 127
    q = (weight / scale).clamp(-top, top)
    return q.to(dtype) if dtype.is_floating_point else q.round().to(dtype)


def fp8(dtype: torch.dtype, name: str = "weight_scale", shape: tuple[int, ...] = (), **extra: Any):
    def write(weight: Tensor) -> Entries:
        scale = weight.abs().amax() / torch.finfo(dtype).max
        return {"weight": scaled(weight, dtype, scale), name: scale.reshape(shape), **extra}

    return write


def raw(dtype: torch.dtype):
    return lambda weight: {"weight": weight.to(dtype)}


def fp8_rows(weight: Tensor) -> Entries:
    scale = weight.abs().amax(1) / 448
    return {
        "weight": scaled(weight, torch.float8_e4m3fn, scale[:, None]),
        "weight_scale": scale,
        "comfy_quant": marker(format="float8_e4m3fn_rowwise"),
    }


def blocks(dtype: torch.dtype, size: int, format: str):
    def write(weight: Tensor) -> Entries:
        n, k = weight.shape[0] // size, weight.shape[1] // size
        top = torch.finfo(dtype).max if dtype.is_floating_point else 127
        scale = weight.view(n, size, k, size).abs().amax((1, 3)) / top
        wide = scale.repeat_interleave(size, 0).repeat_interleave(size, 1)
        return {"weight": scaled(weight, dtype, wide), "weight_scale": scale, "comfy_quant": marker(format=format)}

    return write


def int8_rows(weight: Tensor) -> Entries:
    scale = weight.abs().amax(1, keepdim=True) / 127
    return {
        "weight": scaled(weight, torch.int8, scale),
        "weight_scale": scale,
        "comfy_quant": marker(format="int8_tensorwise", per_row=True),
    }


def int8_tensor(weight: Tensor) -> Entries:
    scale = weight.abs().amax() / 127
    return {
        "weight": scaled(weight, torch.int8, scale),
        "weight_scale": scale,
        "comfy_quant": marker(format="int8_tensorwise"),
    }


def host(layout: str, settings: dict[str, Any], **options: Any):
    def write(weight: Tensor) -> Entries:
        from comfy.quant_ops import QuantizedTensor

        entries = QuantizedTensor.from_float(weight, layout, **options).state_dict("weight")
        out = {
            name: t.view(torch.uint8) if t.dtype.itemsize == 1 and "e8m0" in str(t.dtype) else t
            for name, t in entries.items()
        }
        return {**out, "comfy_quant": marker(**settings)}

    return write


def hybrid_mxfp8(weight: Tensor) -> Entries:
    entries = host("TensorCoreMXFP8Layout", {"format": "hybrid_mxfp8"})(weight)
    return {**entries, "weight_scalar": torch.exp2(entries["weight_scale"].max().float() - 127)}


def with_own_scale(write: Any):
    """As convert_to_quant does it in text encoders: the weight's scales as the inputs' too."""

    def written(weight: Tensor) -> Entries:
        entries = write(weight)
        return {**entries, "input_scale": entries["weight_scale"].clone()}

    return written


E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
CONVROT = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
SAFETENSORS: dict[str, Stored] = {
    "fp32": Stored(None, lambda k: 0.0, dtype=torch.float32),
    "fp16": Stored(None, lambda k: floating(10), dtype=torch.float16),
    "bf16": Stored(None, lambda k: floating(7)),
    "fp8 raw": Stored(raw(E4M3), lambda k: floating(3), layers="all"),
    "fp8 e5m2 raw": Stored(raw(E5M2), lambda k: floating(2), layers="all"),
    "fp8 old": Stored(
        fp8(E4M3, "scale_weight", (1,)),
        lambda k: floating(3),
        "all",
        lambda: {"scaled_fp8": torch.empty(2, dtype=E4M3)},
    ),
    "fp8 old, input scales": Stored(
        fp8(E4M3, "scale_weight", (1,), scale_input=torch.ones(1)),
        lambda k: floating(3),
        "all",
        lambda: {"scaled_fp8": torch.empty(0, dtype=E4M3)},
    ),
    "fp8 old, float64 scales": Stored(
        lambda w: {n: t.double() if n == "scale_weight" else t for n, t in fp8(E4M3, "scale_weight")(w).items()},
        lambda k: floating(3),
        "all",
        lambda: {"scaled_fp8": torch.empty(0, dtype=E4M3)},
    ),
    "fp8 old e5m2": Stored(
        fp8(E5M2, "scale_weight", (1,)),
        lambda k: floating(2),
        "all",
        lambda: {"scaled_fp8": torch.empty(2, dtype=E5M2)},
    ),
    "fp8 old hybrid": Stored(
        fp8(E4M3, "scale_weight", (1,)),
        lambda k: floating(3),
        "dummies",
        lambda: {"scaled_fp8": torch.empty(2, dtype=E4M3)},
    ),
    "fp8 old, no marker": Stored(fp8(E4M3, "scale_weight", (1,)), lambda k: floating(3), "all"),
    "fp8 new": Stored(fp8(E4M3, comfy_quant=marker(format="float8_e4m3fn")), lambda k: floating(3)),
    "fp8 new e5m2": Stored(fp8(E5M2, comfy_quant=marker(format="float8_e5m2")), lambda k: floating(2)),
    "fp8 new, metadata": Stored(fp8(E4M3), lambda k: floating(3), metadata=True),
    "fp8 new, no marker": Stored(fp8(E4M3), lambda k: floating(3)),
    "fp8 rows": Stored(fp8_rows, lambda k: floating(3)),
    "fp8 blocks of 64": Stored(blocks(E4M3, 64, "float8_e4m3fn_blockwise"), lambda k: floating(3)),
    "int8": Stored(int8_tensor, lambda k: grid(largest(256 * k), 127)),
    "int8, no marker": Stored(
        lambda weight: {n: t for n, t in int8_tensor(weight).items() if n != "comfy_quant"},
        lambda k: grid(largest(256 * k), 127),
        marker=lambda: {"scaled_int8": torch.empty(1, dtype=torch.int8)},
    ),
    "int8 rows": Stored(int8_rows, lambda k: grid(largest(k), 127)),
    "int8 rotated": Stored(
        host("TensorWiseINT8Layout", CONVROT, per_channel=True, convrot=True, convrot_groupsize=256),
        lambda k: grid(largest(k), 127),
    ),
    "int8 quarot": Stored(
        host("TensorWiseINT8Layout", {"quarot": True}, per_channel=True, convrot=True, convrot_groupsize=256),
        lambda k: grid(largest(k), 127),
    ),
    "int8 blocks of 128": Stored(blocks(torch.int8, 128, "int8_blockwise"), lambda k: grid(largest(128 * 128), 127)),
    "mxfp8": Stored(host("TensorCoreMXFP8Layout", {"format": "mxfp8"}), lambda k: floating(3)),
    "mxfp8 hybrid": Stored(hybrid_mxfp8, lambda k: floating(3)),
    "fp8 rows, convert_to_quant for T5": Stored(with_own_scale(fp8_rows), lambda k: floating(3)),
    "int8 rows, convert_to_quant for T5": Stored(with_own_scale(int8_rows), lambda k: grid(largest(k), 127)),
    # e2m1: one bit of mantissa above 1, an even grid below; the blocks of 16 hardly leave that grid
    "nvfp4": Stored(
        host("TensorCoreNVFP4Layout", {"format": "nvfp4"}, scale="recalculate"), lambda k: 0.93 * floating(1)
    ),
    "w4a4 rotated": Stored(
        host("TensorCoreConvRotW4A4Layout", {"format": "convrot_w4a4", "convrot_groupsize": 256}),
        lambda k: grid(largest(k), 7) * 1.15,
    ),
}
PLAIN = ("fp32", "fp16", "bf16", "F32", "F16", "BF16")
# Symmetric types spend a block's largest magnitude on half their levels; those with a minimum its spread on all.
GGUF: dict[str, Stored] = {
    name: Stored(None, error, "all", gguf=name)
    for name, error in {
        "F32": lambda k: 0.0,
        "F16": lambda k: floating(10),
        "BF16": lambda k: floating(7),
        "Q8_0": lambda k: grid(largest(32), 127),
        "Q6_K": lambda k: grid(largest(16), 32),
        "Q5_K": lambda k: grid(spread(32), 31),
        "Q4_K": lambda k: grid(spread(32), 15),
        "Q3_K": lambda k: grid(largest(16), 4),
        "Q2_K": lambda k: grid(spread(16), 3),
        "Q5_1": lambda k: grid(spread(32), 31),
        "Q5_0": lambda k: grid(largest(32), 16),
        "Q4_1": lambda k: grid(spread(32), 15),
        "Q4_0": lambda k: grid(largest(32), 8),
        "IQ4_NL": lambda k: grid(spread(32), 15),
        "IQ4_XS": lambda k: grid(spread(32), 15),
    }.items()
}


def packed_ggml(weight: Tensor, name: str) -> Tensor:
    """(N, bytes) as ggml writes it; from gguf's own quantiser where it has one."""
    kind = gguf.GGMLQuantizationType[name]
    try:
        return torch.from_numpy(gguf.quants.quantize(weight.numpy(), kind))
    except NotImplementedError:
        return kquants.quantise(weight, name)


# --- layouts ---------------------------------------------------------------------------------------------------------


def is_linear(name: str, tensor: Tensor) -> bool:
    return tensor.ndim == 2 and name.endswith(".weight")


def chosen(name: str, tensor: Tensor, stored: Stored) -> bool:
    """Whether this tensor is one that the storage applies to."""
    in_block = name.startswith(BLOCK_LAYERS) or name.startswith(("transformer_blocks.", "single_transformer_blocks."))
    small = min(tensor.shape) < 128 if tensor.ndim == 2 else True
    return is_linear(name, tensor) and not small and (in_block or stored.layers == "all")


def entries(weights: dict[str, Tensor], stored: Stored) -> tuple[dict[str, Tensor], dict[str, str], set[str]]:
    """(tensors, metadata, names stored so) of a safetensors file with these names."""
    out: dict[str, Tensor] = dict(stored.marker() if stored.marker else {})
    layers, names = {}, set()
    for name, tensor in weights.items():
        stem = name.removesuffix(".weight")
        if stored.write is None or not chosen(name, tensor, stored):
            out[name] = tensor.to(stored.dtype)
            if stored.layers == "dummies" and is_linear(name, tensor):
                out[f"{stem}.scale_weight"] = torch.ones(1)
            continue
        names.add(name)
        out.update({f"{stem}.{suffix}": t.clone() for suffix, t in stored.write(tensor).items()})
        layers[stem] = {"format": "float8_e4m3fn"}
    metadata = {}
    if stored.metadata:
        metadata[QUANT_METADATA] = json.dumps({"format_version": "1.0", "layers": layers})
    return {n: t.contiguous() for n, t in out.items()}, metadata, names


def write_gguf(
    path: Path,
    weights: dict[str, Tensor],
    stored: Stored,
    architecture: str = "flux",
    pack: Callable[[Tensor, str], Tensor] = packed_ggml,
) -> set[str]:
    """By city96's rules: vectors in F32; all linears of whole blocks in the type, but for the first and last layers."""
    writer = gguf.GGUFWriter(path, arch=architecture)
    names = set()
    for name, tensor in weights.items():
        kind = gguf.GGMLQuantizationType[stored.gguf]
        block, _ = gguf.GGML_QUANT_SIZES[kind]
        keep = name.split(".")[-3 if "final_layer" in name else -2] in ("img_in", "txt_in", "final_layer")
        if not is_linear(name, tensor) or keep or tensor.shape[1] % block:
            plain = tensor.ndim == 1 or stored.gguf == "F32"
            kind = gguf.GGMLQuantizationType.F32 if plain else gguf.GGMLQuantizationType.F16
            data = tensor.numpy() if plain else tensor.half().numpy()
            writer.add_tensor(name, data, raw_dtype=kind)
            continue
        names.add(name)
        data = pack(tensor, stored.gguf).contiguous().numpy()
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return names


def bfl(folder: Path, weights: dict[str, Tensor], cfg: Any, stored: Stored) -> tuple[Path, set[str]]:
    tensors, metadata, names = entries(support.published(weights), stored)
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata=metadata or None)
    return path, names


def prefixed(folder: Path, weights: dict[str, Tensor], cfg: Any, stored: Stored) -> tuple[Path, set[str]]:
    """An all-in-one checkpoint: a prefix, a VAE and a text encoder beside it."""
    tensors, metadata, names = entries(support.published(weights), stored)
    tensors = {"model.diffusion_model." + n: t for n, t in tensors.items()}
    tensors |= {"vae.decoder.conv_in.weight": torch.ones(4, 4, 3, 3), "text_encoders.t5xxl.x": torch.ones(3)}
    path = folder / "all in one.sft"
    save_file(tensors, path, metadata=metadata or None)
    return path, names


def pickled(folder: Path, weights: dict[str, Tensor], cfg: Any, stored: Stored) -> tuple[Path, set[str]]:
    tensors, _, names = entries(support.published(weights, prefix="", suffix=".weight"), stored)
    path = folder / "model.pth"
    torch.save({"state_dict": {"_orig_mod." + n: t for n, t in tensors.items()}}, path)
    return path, names


def diffusers(folder: Path, weights: dict[str, Tensor], cfg: Any, stored: Stored) -> tuple[Path, set[str]]:
    tensors, metadata, names = entries(support.to_diffusers(weights, cfg), stored)
    path = folder / "diffusers.safetensors"
    save_file(tensors, path, metadata=metadata or None)
    return path, {keys.published_name(n)[0] for n in names}


def sharded(folder: Path, weights: dict[str, Tensor], cfg: Any, stored: Stored) -> tuple[Path, set[str]]:
    tensors, metadata, names = entries(support.to_diffusers(weights, cfg), stored)
    files = [f"diffusion_pytorch_model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    order = sorted(tensors)
    parts = {file: {n: tensors[n] for n in order[i::3]} for i, file in enumerate(files)}
    layers = json.loads(metadata.get(QUANT_METADATA, '{"layers": {}}'))["layers"]
    for file, part in parts.items():  # each tells of its own layers
        own = {stem: entry for stem, entry in layers.items() if f"{stem}.weight" in part}
        said = {QUANT_METADATA: json.dumps({"format_version": "1.0", "layers": own})} if metadata else {}
        save_file(part, folder / file, metadata={"format": "pt", **said})
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {n: f for f, part in parts.items() for n in part}}))
    return index, {keys.published_name(n)[0] for n in names}


def gguf_file(folder: Path, weights: dict[str, Tensor], cfg: Any, stored: Stored) -> tuple[Path, set[str]]:
    path = folder / "model.gguf"
    return path, write_gguf(path, support.published(weights), stored)


def gguf_prefixed(folder: Path, weights: dict[str, Tensor], cfg: Any, stored: Stored) -> tuple[Path, set[str]]:
    path = folder / "prefixed.gguf"
    names = write_gguf(path, support.published(weights, prefix="model.diffusion_model."), stored, "pig")
    return path, {n.removeprefix("model.diffusion_model.") for n in names}


LAYOUTS = {"BFL": bfl, "all-in-one": prefixed, "pth": pickled, "diffusers": diffusers, "sharded": sharded}
GGUF_LAYOUTS = {"GGUF": gguf_file, "GGUF with prefix": gguf_prefixed}
