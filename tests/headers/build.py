"""Writes the JSON of every kind of published file into this folder: python tests/headers/build.py

Facts: the format study of 2026-11-21, 1.1 to 1.6, 3 and 5. No real weights could be read for it: names and shapes of
plain models are those of the publishers' classes, the rest is what the named tool writes. Where that is a guess, the
kind's "source" says "unsure". Reading the files: `load` in __init__.py, which also explains every field.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Iterator, Mapping

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parent.parent))

from headers import FOLDER, QUANT_METADATA, expand, models, storage  # noqa: E402
from headers.models import Model, Shapes  # noqa: E402
from headers.storage import FILE_TYPES, Stored  # noqa: E402

HD, V48 = "Chroma1-HD", "chroma-unlocked-v48"
CHROMA = models.chroma()
RADIANCE = models.radiance()
FLOATS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
PREFIXES = (
    ("model.diffusion_model.", "ComfyUI, all-in-one checkpoints"),
    ("diffusion_model.", "ComfyUI's name of the network without the outer model"),
    ("transformer.", "diffusers pipelines saved as one file"),
    ("net.", "trainers that wrap the network"),
    ("_orig_mod.", "saved from a module under torch.compile"),
    ("module.", "saved from a module under DistributedDataParallel"),
    ("unet.", "diffusers-style trainers"),
    ("model.", "trainers that wrap the network"),
)


@dataclass(frozen=True)
class Kind:
    name: str
    file: str
    source: str
    tensors: Stored
    expect: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    markers: Mapping[str, Any] = field(default_factory=dict)
    shards: Mapping[str, list[str]] | None = None


def accepted(
    name: str,
    file: str,
    source: str,
    model: Model,
    tensors: Stored,
    stored: Mapping[str, int] = {},
    prefix: str = "",
    prediction: str = "v",
    layout: str = "BFL",
    others: Stored = {},
    unscaled: bool = False,
    **more: Any,
) -> Kind:
    """A file that a loader should take. tensors are without the prefix; others stand beside the model."""
    expect = {
        "variant": model.variant,
        "layout": layout,
        "prefix": prefix,
        "prediction": prediction,
        "num_parameters": model.num_parameters,
        **model.sizes,
        "storage": dict(stored),
        "plain": _plain(model.shapes, tensors),
    }
    if unscaled:
        expect |= {"unscaled": True, "storage_vectors": _vectors(tensors)}
    return Kind(name, file, source, {**{prefix + n: t for n, t in tensors.items()}, **others}, expect, **more)


def refused(name: str, file: str, source: str, error: str, tensors: Stored, **more: Any) -> Kind:
    return Kind(name, file, source, tensors, {"error": error}, **more)


def _plain(shapes: Shapes, tensors: Stored) -> str | None:
    """The dtype of most of the model's 16 and 32 bit floats."""
    own = {*shapes, *saved_by_comfyui(shapes)}  # no scales
    sizes: Counter[str] = Counter()
    for name, (dtype, shape) in tensors.items():
        if dtype in FLOATS and name in own:
            sizes[FLOATS[dtype]] += prod(shape) * len(expand(name))
    return sizes.most_common(1)[0][0] if sizes else None


def _vectors(tensors: Stored) -> dict[str, int]:
    """fp8 format -> number of biases and norms stored so."""
    names = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    count: Counter[str] = Counter()
    for name, (dtype, shape) in tensors.items():
        if dtype in names and len(shape) == 1:
            count[names[dtype]] += len(expand(name))
    return dict(count)


def saved_by_comfyui(shapes: Shapes) -> Shapes:
    """Norms as `.weight`."""
    return {name.removesuffix(".scale") + ".weight" * name.endswith(".scale"): s for name, s in shapes.items()}


def flag(*names: str, dtype: str = "BF16") -> Stored:
    return {f"__{name}__": (dtype, (0,)) for name in names}


def plain_files() -> Iterator[Kind]:
    bf16 = storage.plain(CHROMA.shapes, "BF16")
    yield accepted(
        "bfl_bf16",
        f"{HD}.safetensors",
        "lodestones/Chroma1-HD; the trainer's names; the published byte size",
        CHROMA,
        bf16,
    )
    for prefix, who in PREFIXES:
        name = "bfl_bf16_" + prefix.strip("_.").replace(".", "_")
        source = f"{who}; unsure which published Chroma file has it, if any"
        yield accepted(name, f"{HD}.safetensors", source, CHROMA, bf16, prefix=prefix)
    yield accepted(
        "trainer_pth_fp32",
        f"{V48}.pth",
        "lodestone-rock/flow's trainer; unsure whether float32 checkpoints were published",
        CHROMA,
        storage.plain(CHROMA.shapes, "F32"),
    )
    yield accepted(
        "latent_x0",
        "chroma-x0.safetensors",
        "flow, model.py use_x0 for latent Chroma; unsure whether such a file was published; dtype of the mark unsure",
        CHROMA,
        bf16 | flag("x0"),
        prediction="x0",
    )
    saved = saved_by_comfyui(CHROMA.shapes)
    prefix = "model.diffusion_model."
    metadata = {"format": "pt", "prompt": "{}"}
    yield accepted(
        "comfyui_modelsave",
        "ComfyUI_00001_.safetensors",
        "ComfyUI 0.30, node ModelSave",
        CHROMA,
        storage.plain(saved, "BF16"),
        prefix=prefix,
        metadata=metadata,
    )
    parts = {f"vae.{n}": s for n, s in models.vae().items()}
    parts |= {f"text_encoders.t5xxl.transformer.{n}": s for n, s in models.t5().items()}
    parts |= {"text_encoders.t5xxl.logit_scale": ()}
    yield accepted(
        "all_in_one",
        "chroma-aio.safetensors",
        "ComfyUI 0.30, node CheckpointSave; unsure: dtypes of the VAE and of T5",
        CHROMA,
        storage.plain(saved, "BF16"),
        prefix=prefix,
        others=storage.plain(parts, "BF16"),
        metadata=metadata,
    )
    apart = models.diffusers()
    source = "diffusers 0.39 ChromaTransformer2DModel.save_pretrained"
    for name, file, more, shards in (
        ("diffusers_bf16", "diffusion_pytorch_model.safetensors", "", None),
        (
            "diffusers_bf16_sharded",
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            "; shards of at most 10 GB, its default; unsure whether the published folder is cut at the same place",
            models.diffusers_shards(),
        ),
    ):
        tensors = storage.plain(apart.shapes, "BF16")
        yield accepted(
            name, file, source + more, apart, tensors, layout="diffusers", metadata={"format": "pt"}, shards=shards
        )
    lite = models.chroma("Chroma lite", double=8, in_dim=32)
    yield accepted(
        "lite_bf16",
        "chroma-lite.safetensors",
        "the format study, 1.4: 8 double blocks, in_dim 32, so 212 modulations; unsure: hidden width and layers of the "
        "Approximator, taken as Chroma's, and whether it lies in the same file",
        lite,
        storage.plain(lite.shapes, "BF16"),
    )


def raw_fp8() -> Iterator[Kind]:
    for dtype, form in (("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2")):
        _, count = storage.quantised(CHROMA.shapes, f"raw {form}")
        source = "a plain cast of the whole state dict, biases and norms included"
        tensors = storage.plain(CHROMA.shapes, dtype)
        yield accepted(f"raw_{form}", f"{HD}-{form}.safetensors", source, CHROMA, tensors, count, unscaled=True)
    tensors, count = storage.quantised(CHROMA.shapes, "raw float8_e4m3fn")
    source = "a plain cast of 2-D weights, the rest in bf16"
    file = f"{HD}-fp8.safetensors"
    yield accepted("raw_float8_e4m3fn_weights", file, source, CHROMA, tensors, count, unscaled=True)


def old_scaled_fp8() -> Iterator[Kind]:
    tool = "Clybius' Learned-Rounding scripts; `scaled_fp8` with {} elements: {}"
    full, fast = tool.format(2, "full-precision matmul"), tool.format(0, "fp8 matmul allowed")
    large = {"keep": storage.KEEP_LARGE, "dummy": True}
    small = {"keep": storage.KEEP_SMALL, "dummy": True}
    dummies = "; --keep_distillation: bf16 weights beside a scale_weight of 1.0"
    rows = (
        ("old_fp8", "", "e4m3fn", full, 2, {}),
        ("old_fp8_prefixed", "model.diffusion_model.", "e4m3fn", full + "; saved under a prefix", 2, {}),
        ("old_fp8_input", "", "e4m3fn", fast, 0, {"more": {".scale_input": (1,)}}),
        ("old_fp8_e5m2", "", "e5m2", full + "; unsure whether one was published", 2, {}),
        ("old_fp8_hybrid_large", "", "e4m3fn", full + dummies, 2, large),
        ("old_fp8_hybrid_small", "", "e4m3fn", full + dummies + ", the Approximator's only", 2, small),
        (
            "old_fp8_unmarked",
            "",
            "e4m3fn",
            "as old_fp8, but `scaled_fp8` was dropped by a later tool (unsure)",
            None,
            {},
        ),
    )
    for name, prefix, form, source, mark, options in rows:
        tensors, count = storage.quantised(CHROMA.shapes, f"old float8_{form}", **options)
        if mark is not None:
            tensors["scaled_fp8"] = ({"e4m3fn": "F8_E4M3", "e5m2": "F8_E5M2"}[form], (mark,))
        file = f"{HD}_float8_{form}_scaled.safetensors"
        yield accepted(name, file, source, CHROMA, tensors, count, prefix=prefix)
    tensors, count = storage.quantised(CHROMA.shapes, "old float8_e4m3fn float64")
    tensors["scaled_fp8"] = ("F8_E4M3", (2,))
    file = "chroma-unlocked-v35-detail-calibrated_float8_e4m3fn_scaled_stochastic.safetensors"
    source = "Clybius' stochastic script, whose scales are float64; unsure: dtype of biases and norms"
    rev2, num_rev2 = storage.quantised(
        CHROMA.shapes, "old float8_e4m3fn", storage.KEEP_LARGE, more={".scale_input": (1,)}
    )
    rev2["scaled_fp8"] = ("F8_E4M3", (1,))
    yield accepted(
        "old_fp8_hybrid_large_rev2",
        f"{HD}-fp8_scaled_defaultloader_hybrid_large_rev2.safetensors",
        "as Clybius' scripts, unsure which; rebuilt to the published byte size",
        CHROMA,
        rev2,
        num_rev2,
        metadata={"format": "pt"},
    )
    yield accepted("old_fp8_float64", file, source, CHROMA, tensors, count)


def comfy_quant() -> Iterator[Kind]:
    """Blocks only, as CTQ's filter distillation_large leaves them, which is also what the pack's own modes do."""
    ctq, host = "silveroxides/convert_to_quant", "ComfyUI 0.30 ModelSave of a quantised model"
    fp8 = {"format": "float8_e4m3fn"}
    precise = {**fp8, "full_precision_matrix_mult": True}
    row = {"format": "int8_tensorwise", "per_row": True}
    rotation = {"convrot": True, "convrot_groupsize": 256}
    rows: tuple[tuple[str, str, str, dict[str, Any] | None], ...] = (
        ("comfy_fp8", "float8_e4m3fn", ctq, fp8),
        (
            "comfy_fp8mixed",
            "float8_e4m3fn mixed",
            "Comfy-Org/Chroma1-HD_repackaged; rebuilt to the published byte size",
            fp8,
        ),
        ("comfy_fp8_full_precision", "float8_e4m3fn", ctq, precise),
        ("comfy_fp8_input_scale", "float8_e4m3fn", f"{ctq} --input_scale", fp8),
        ("comfy_fp8_unmarked", "float8_e4m3fn", f"{ctq} without --comfy_quant, in early versions (unsure)", None),
        (
            "comfy_fp8_rowwise",
            "float8_e4m3fn_rowwise",
            f"{ctq} --scaling_mode row",
            {"format": "float8_e4m3fn_rowwise"},
        ),
        (
            "comfy_fp8_blockwise",
            "float8_e4m3fn_blockwise",
            f"{ctq} --scaling_mode block --block_size 64",
            {"format": "float8_e4m3fn_blockwise", "group_size": 64},
        ),
        ("comfy_int8_tensor", "int8_tensorwise", f"{ctq} --int8 --scaling_mode tensor", {"format": "int8_tensorwise"}),
        ("comfy_int8_unmarked", "int8_tensorwise", "BobJohnson24/ComfyUI-INT8-Fast up to April 2026", None),
        ("comfy_int8_row", "int8_tensorwise per row", f"{ctq} --int8 --scaling_mode row", row),
        ("comfy_int8_convrot", "int8_tensorwise per row", f"{ctq} --int8 --convrot", row | rotation),
        (
            "comfy_int8_convrot_nested",
            "int8_tensorwise per row",
            f"{ctq}, versions that nest the settings in params",
            {"format": "int8_tensorwise", "params": {"per_row": True, **rotation}},
        ),
        ("comfy_int8_quarot", "int8_tensorwise per row", "BobJohnson24/ComfyUI-INT8-Fast save node", {"quarot": True}),
        (
            "comfy_int8_blockwise",
            "int8_blockwise",
            f"{ctq} --int8 --block_size 128",
            {"format": "int8_blockwise", "group_size": 128},
        ),
        ("comfy_nvfp4", "nvfp4", f"{ctq} --nvfp4", {"format": "nvfp4"}),
        ("comfy_mxfp8", "mxfp8", f"{ctq} --mxfp8; scales as bytes", {"format": "mxfp8"}),
        ("comfy_mxfp8_e8m0", "mxfp8 e8m0", f"{host}; scales in their own dtype", {"format": "mxfp8"}),
        ("comfy_mxfp8_hybrid", "mxfp8 hybrid", f"{ctq} --make-hybrid-mxfp8", {"format": "hybrid_mxfp8"}),
        ("comfy_convrot_w4a4", "convrot_w4a4", host, {"format": "convrot_w4a4", "convrot_groupsize": 256}),
    )
    for name, form, source, marker in rows:
        more = {".input_scale": ()} if name.endswith("input_scale") else None
        tensors, count = storage.quantised(CHROMA.shapes, form, storage.KEEP_LARGE, marker=marker, more=more)
        file = f"{HD}-{name.removeprefix('comfy_')}.safetensors"
        markers = {} if marker is None else {"*": marker}
        yield accepted(name, file, source, CHROMA, tensors, count, markers=markers)
    tensors, count = storage.quantised(CHROMA.shapes, "float8_e4m3fn", storage.KEEP_LARGE)
    layers = [n.removesuffix("weight_scale").rstrip(".") for n in tensors if n.endswith(".weight_scale")]
    for name, prefix in (("comfy_fp8_metadata", ""), ("comfy_fp8_metadata_prefixed", "model.diffusion_model.")):
        source = f"{ctq} --save-quant-metadata, without the marker tensors" + "; saved under a prefix" * bool(prefix)
        metadata = {QUANT_METADATA: {"format_version": "1.0", "layers": {prefix + n: fp8 for n in layers}}}
        file = f"{HD}-fp8.safetensors"
        yield accepted(name, file, source, CHROMA, tensors, count, prefix=prefix, metadata=metadata)
    tensors, _ = storage.quantised(CHROMA.shapes, "nf4", storage.KEEP_LARGE)
    source = "bitsandbytes as Forge saves it; no such Chroma file was found (unsure: which layers, length of the state)"
    yield refused("bnb_nf4", f"{HD}-bnb-nf4.safetensors", source, "nf4", tensors)


def gguf_files() -> Iterator[Kind]:
    tool = "city96/ComfyUI-GGUF tools: convert.py, patched llama-quantize"
    for file_type in FILE_TYPES:
        name, file = f"gguf_{file_type.lower()}", f"{HD}-{file_type}.gguf"
        tensors, count = storage.gguf(CHROMA.shapes, file_type)
        metadata = storage.gguf_metadata(file_type)
        source = tool
        if file_type.startswith("IQ"):
            source += "; unsure: its patch names no rule for IQ types, taken as those of the other types of that block"
        if file_type == "F16":
            source = "city96/ComfyUI-GGUF convert.py from a float32 file"
        if file_type == "IQ2_S":
            yield refused(name, file, source, file_type, tensors, metadata=metadata)
        else:
            yield accepted(name, file, source, CHROMA, tensors, count, metadata=metadata)
    tensors, count = storage.gguf(CHROMA.shapes, "Q4_K_S", keep=storage.KEEP_LCPP_CHROMA)
    source = (
        "tools/lcpp_chroma.patch, indexed under city96/ComfyUI-GGUF; unsure which published files were made with it"
    )
    file, metadata = f"{V48}-Q4_K_S.gguf", storage.gguf_metadata("Q4_K_S")
    yield accepted("gguf_q4_k_s_approximator_f16", file, source, CHROMA, tensors, count, metadata=metadata)
    tensors, count = storage.gguf(CHROMA.shapes, "Q8_0", vectors="BF16")
    yield accepted(
        "gguf_sdcpp_q8_0",
        f"{HD}-q8_0.gguf",
        "stable-diffusion.cpp -M convert: no metadata, biases and norms keep their dtype; unsure: that it is bf16",
        CHROMA,
        tensors,
        count,
        prefix="model.diffusion_model.",
    )
    tensors, count = storage.gguf(CHROMA.shapes, "Q4_0")
    source = "calcuis' gguf tools; unsure: which tensors they leave in 16 bits, taken as city96's"
    metadata = storage.gguf_metadata("Q4_0", arch="pig")
    yield accepted("gguf_pig_q4_0", f"{V48}-q4_0.gguf", source, CHROMA, tensors, count, metadata=metadata)


def radiance_files() -> Iterator[Kind]:
    hub = "lodestones/Chroma1-Radiance"
    mark = "; dtype of the marks unsure"
    rows = (
        ("radiance_bf16", "Chroma1-Radiance.safetensors", hub, RADIANCE, ()),
        ("radiance_x0", "latest_x0.safetensors", hub + mark, RADIANCE, ("x0",)),
        ("radiance_x0_32", "latest_x0_x32_proto.safetensors", hub + mark, models.radiance(32, 32), ("x0", "32x32")),
        (
            "radiance_x0_32_resampled",
            "latest_x0_experimental_patch_32.safetensors",
            f"{hub}; flow model_dct.py use_patch_size_32: kernel 16 on the image at half size{mark}",
            models.radiance(16, 32),
            ("x0", "32x32"),
        ),
        (
            "radiance_sequential",
            "Chroma1-Radiance-sequential.safetensors",
            f"{hub} after 2026-05-22, host model_detection.py; unsure: file name, and that it predicts x0{mark}",
            models.radiance(txt_ids="sequential"),
            ("x0", "sequential"),
        ),
        (
            "radiance_linear_head",
            "2025-09-04_22-24-42.safetensors",
            "lodestones/chroma-debug-development-only, early Radiance; unsure: file name",
            models.radiance(head="linear"),
            (),
        ),
    )
    for name, file, source, model, marks in rows:
        tensors = storage.plain(model.shapes, "BF16") | flag(*marks)
        yield accepted(name, file, source, model, tensors, prediction="x0" if "x0" in marks else "v")
    tensors, count = storage.quantised(RADIANCE.shapes, "old float8_e4m3fn", storage.KEEP_RADIANCE_SMALL, dummy=True)
    tensors |= {"scaled_fp8": ("F8_E4M3", (2,))} | flag("x0")
    yield accepted(
        "radiance_fp8_hybrid_small",
        "Chroma1-Radiance-x0_float8_e4m3fn_scaled.safetensors",
        "Clybius' script with the layers of silveroxides/ComfyUI_Hybrid-Scaled_fp8-Loader, radiance small; unsure: "
        "scales of 1.0 beside the 4-D weights",
        RADIANCE,
        tensors,
        count,
        prediction="x0",
    )
    fp8 = {"format": "float8_e4m3fn"}
    tensors, count = storage.quantised(RADIANCE.shapes, "float8_e4m3fn", storage.KEEP_RADIANCE_LARGE, marker=fp8)
    yield accepted(
        "radiance_fp8_hybrid_large",
        "Chroma1-Radiance-x0-fp8_scaled.safetensors",
        "silveroxides/convert_to_quant --nerf_large --radiance",
        RADIANCE,
        tensors | flag("x0"),
        count,
        prediction="x0",
        markers={"*": fp8},
    )
    tensors, count = storage.gguf(RADIANCE.shapes, "Q8_0")
    yield accepted(
        "radiance_gguf_q8_0",
        "Chroma1-Radiance-Q8_0.gguf",
        "city96's rules; unsure: silveroxides' own recipe; 4-D weights and the embedder (67 inputs, no whole blocks) "
        "stay in bf16",
        RADIANCE,
        tensors,
        count,
        metadata=storage.gguf_metadata("Q8_0"),
    )


def other_models() -> Iterator[Kind]:
    dev, schnell = models.flux(guidance=True), models.flux(guidance=False)
    source = "black-forest-labs/FLUX.1-dev"
    yield accepted("flux_dev_bf16", "flux1-dev.safetensors", source, dev, storage.plain(dev.shapes, "BF16"))
    _, count = storage.quantised(schnell.shapes, "raw float8_e4m3fn")
    yield accepted(
        "flux_schnell_fp8",
        "flux1-schnell-fp8-e4m3fn.safetensors",
        "Kijai/flux-fp8; unsure: that biases and norms are cast too",
        schnell,
        storage.plain(schnell.shapes, "F8_E4M3"),
        count,
        unscaled=True,
    )
    rows = (
        (
            "fluxmod_modulator",
            "mod_v2.safetensors",
            "lodestone-horizon/flux-essence, FluxMod's modulation file; unsure: file name",
            "Approximator",
            models.approximator(prefix=""),
            "BF16",
        ),
        ("sdxl", "sd_xl_base_1.0.safetensors", "stabilityai, a sample of its tensors", "SDXL", models.sdxl(), "F16"),
        ("t5xxl", "t5xxl_fp16.safetensors", "comfyanonymous/flux_text_encoders", "T5", models.t5(), "F16"),
        ("vae", "ae.safetensors", "black-forest-labs/FLUX.1-schnell", "VAE", models.vae(), "F32"),
        ("lora_kohya", "lora.safetensors", "kohya's sd-scripts, Chroma's blocks", "LoRA", models.lora_kohya(), "BF16"),
        (
            "lora_peft",
            "lora.safetensors",
            "trainers with PEFT's names, ComfyUI's prefix",
            "LoRA",
            models.lora_peft(),
            "BF16",
        ),
    )
    for name, file, source, error, shapes, dtype in rows:
        yield refused(name, file, source, error, storage.plain(shapes, dtype))
    shapes = {**models.t5(), "encoder.embed_tokens.weight": (32128, 4096)}
    keep = ("shared", "embed_tokens", "relative_attention_bias")
    tensors, _ = storage.quantised(shapes, "old float8_e4m3fn float64", keep, "F32")
    tensors["scaled_fp8"] = ("F8_E4M3", (0,))
    file = "flan-t5-xxl_float8_e4m3fn_scaled_stochastic.safetensors"
    source = "Clybius' stochastic script, whose scales are float64; rebuilt to the published byte size"
    yield refused("t5xxl_fp8_float64", file, source, "T5", tensors)


def all_kinds() -> list[Kind]:
    groups = (plain_files, raw_fp8, old_scaled_fp8, comfy_quant, gguf_files, radiance_files, other_models)
    return [kind for group in groups for kind in group()]


def text(kind: Kind) -> str:
    """The JSON of one kind: a line for each field and each name pattern."""
    fields: dict[str, Any] = {
        "kind": kind.name,
        "file": kind.file,
        "source": kind.source,
        "expect": kind.expect,
        "metadata": kind.metadata,
        "markers": kind.markers,
    }
    if kind.shards is not None:
        fields["shards"] = kind.shards
    lines = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in fields.items()]
    tensors = [f"  {json.dumps(name)}: {json.dumps(info)}" for name, info in kind.tensors.items()]
    return "{\n" + "\n".join(lines) + '\n"tensors": {\n' + ",\n".join(tensors) + "\n}}\n"


def main() -> None:
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for kind in all_kinds():
        (FOLDER / f"{kind.name}.json").write_text(text(kind), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
