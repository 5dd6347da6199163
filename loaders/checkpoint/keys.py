"""DATA: how tensors are named in published files. A new layout is a new row here and a header in the tests.

A `stem` is a tensor's name without its last part: `double_blocks.0.img_attn.qkv` of `double_blocks.0.img_attn.qkv.weight`.
"""

from __future__ import annotations

import re
from typing import Iterable, NamedTuple

from ..tensor_info import MERGED_LORA

APPROXIMATOR = "distilled_guidance_layer."
APPROXIMATOR_ALONE = {"in_proj.weight", "out_proj.weight"}  # among the names of a file that holds nothing else

# A layer that only transformers of the FLUX family have; what stands before it in the file is the prefix.
SIGNATURES = {
    "BFL": re.compile(r"(?:^|(?<=\.))double_blocks\.\d+\.img_attn\.qkv\.weight$"),
    "diffusers": re.compile(r"(?:^|(?<=\.))transformer_blocks\.\d+\.attn\.to_q\.weight$"),
}

# Parts of an all-in-one checkpoint that are not the transformer.
OTHER_COMPONENTS = ("first_stage_model.", "vae.", "cond_stage_model.", "conditioner.", "text_encoders.")

# FLUX's own modulation, which the Approximator replaces.
FLUX_MODULATION = re.compile(
    r"(time_in|vector_in|guidance_in)\.|double_blocks\.\d+\.(img|txt)_mod\.|single_blocks\.\d+\.modulation\."
    r"|final_layer\.adaLN_modulation\.|(time_text_embed|norm_out)\.|(single_)?transformer_blocks\.\d+\.norm\d?(_context)?\."
)

# What else a person may have picked: part of a name -> what the file is. The first that is found is told.
LORA = "a LoRA; it belongs in models/loras"
CONTROLNET = "a ControlNet; it belongs in models/controlnet"
VAE = "a VAE; it belongs in models/vae"
T5 = "a T5 text encoder; it belongs in models/text_encoders"
OTHER_MODELS = (
    *((part, LORA) for part in ("lora_", ".lora.down.", ".hada_w1_", ".lokr_w", ".oft_blocks")),
    *((part, CONTROLNET) for part in ("controlnet_blocks.", "control_model.")),
    ("double_stream_modulation_img.", "FLUX.2"),
    (".img_mod.1.weight", "Qwen-Image"),
    ("noise_refiner.0.", "Lumina or Z-Image"),
    ("blocks.0.self_attn.q.weight", "Wan"),
    ("individual_token_refiner.", "HunyuanVideo"),
    ("joint_blocks.0.", "Stable Diffusion 3"),
    ("transformer_blocks.0.attn2.to_q.weight", "another model in diffusers' layout"),
    ("conditioner.embedders.1.", "SDXL"),
    ("label_emb.0.0.weight", "SDXL or another UNet with size conditioning"),
    ("input_blocks.0.0.weight", "Stable Diffusion 1 or 2"),
    ("redux_up.", "a style model (Redux); it belongs in models/style_models"),
    *((part, T5) for part in ("encoder.block.0.layer.0.SelfAttention.q.", "enc.blk.0.attn_q.weight")),
    ("model.encoder.layers.0.pre_self_attn_layernorm.", "T5Gemma, another model than T5"),
    ("text_model.encoder.layers.30.", "CLIP-G, a text encoder of SDXL"),
    ("text_model.encoder.layers.22.", "CLIP-H, the text encoder of Stable Diffusion 2"),
    ("text_model.encoder.layers.0.", "CLIP-L, a text encoder of Stable Diffusion and FLUX"),
    ("transformer.resblocks.0.", "CLIP, a text encoder of Stable Diffusion"),
    ("vision_model.", "CLIP's image encoder; it belongs in models/clip_vision"),
    ("model.layers.0.", "a language model (LLaMA, Qwen, Gemma or alike)"),
    ("blk.0.attn_", "a language model"),
    ("decoder.up.0.block.0.conv1.weight", VAE),
    ("decoder.up_blocks.0.resnets.0.conv1.weight", VAE),
    ("decoder.conv_in.weight", VAE),
    ("decoder.conv1.weight", VAE),
    ("taesd_decoder.1.weight", "a TAESD VAE; it belongs in models/vae"),
)

# Empty tensors whose presence says how the network is used. With or without the file's prefix.
FLAGS = {"__x0__": "x0", "__32x32__": "32x32", "__sequential__": "sequential"}

BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.")

# In place of a block that a pruned file leaves out: an empty tensor. The blocks that are there keep their numbers.
LEFT_OUT = re.compile(r"(double|single)_blocks\.(\d{1,3})\.left_out")
# Of our pruned files: other loaders refuse it, which would otherwise take what is left for a whole model.
PRUNED_PREFIX = "pruned."

# What stands beside a quantised weight. Old names -> today's.
OLD_MARKER = "scaled_fp8"  # one for the whole file
OLD_MARKERS = (OLD_MARKER, "scaled_int8")  # the second says no more than the weights' type
OLD_SCALES = {"scale_weight": "weight_scale", "scale_input": "input_scale"}
SCALES = (
    *("weight_scale", "weight_scale_2", "weight_scalar", "input_scale", "pre_quant_scale"),
    *MERGED_LORA,
)

# Of what this pack writes into a file's metadata about the model, for containers that can not hold markers.
METADATA_PREFIX = "chroma."
VARIANT = METADATA_PREFIX + "variant"
PRUNED = METADATA_PREFIX + "left_out"
TIME_EMBEDDING = ("time_in.", "time_text_embed.timestep_embedder.")
GUIDANCE_EMBEDDING = ("guidance_in.", "time_text_embed.guidance_embedder.")  # schnell has none


class Rename(NamedTuple):
    """A stem of diffusers' ChromaTransformer2DModel and the published one; `part` numbers the rows of a fused layer."""

    theirs: str
    ours: str
    part: int | None = None


# Source: diffusers' own conversion of single files, read backwards.
DIFFUSERS = (
    Rename("x_embedder", "img_in"),
    Rename("context_embedder", "txt_in"),
    Rename("proj_out", "final_layer.linear"),
    Rename("distilled_guidance_layer.layers.{i}.linear_1", "distilled_guidance_layer.layers.{i}.in_layer"),
    Rename("distilled_guidance_layer.layers.{i}.linear_2", "distilled_guidance_layer.layers.{i}.out_layer"),
    *(Rename(f"distilled_guidance_layer.{x}", f"distilled_guidance_layer.{x}") for x in ("in_proj", "out_proj")),
    Rename("distilled_guidance_layer.norms.{i}", "distilled_guidance_layer.norms.{i}"),
    *(
        Rename(f"transformer_blocks.{{i}}.attn.to_{x}", "double_blocks.{i}.img_attn.qkv", n)
        for n, x in enumerate("qkv")
    ),
    *(
        Rename(f"transformer_blocks.{{i}}.attn.add_{x}_proj", "double_blocks.{i}.txt_attn.qkv", n)
        for n, x in enumerate("qkv")
    ),
    Rename("transformer_blocks.{i}.attn.to_out.0", "double_blocks.{i}.img_attn.proj"),
    Rename("transformer_blocks.{i}.attn.to_add_out", "double_blocks.{i}.txt_attn.proj"),
    Rename("transformer_blocks.{i}.attn.norm_q", "double_blocks.{i}.img_attn.norm.query_norm"),
    Rename("transformer_blocks.{i}.attn.norm_k", "double_blocks.{i}.img_attn.norm.key_norm"),
    Rename("transformer_blocks.{i}.attn.norm_added_q", "double_blocks.{i}.txt_attn.norm.query_norm"),
    Rename("transformer_blocks.{i}.attn.norm_added_k", "double_blocks.{i}.txt_attn.norm.key_norm"),
    Rename("transformer_blocks.{i}.ff.net.0.proj", "double_blocks.{i}.img_mlp.0"),
    Rename("transformer_blocks.{i}.ff.net.2", "double_blocks.{i}.img_mlp.2"),
    Rename("transformer_blocks.{i}.ff_context.net.0.proj", "double_blocks.{i}.txt_mlp.0"),
    Rename("transformer_blocks.{i}.ff_context.net.2", "double_blocks.{i}.txt_mlp.2"),
    *(
        Rename(f"single_transformer_blocks.{{i}}.attn.to_{x}", "single_blocks.{i}.linear1", n)
        for n, x in enumerate("qkv")
    ),
    Rename("single_transformer_blocks.{i}.proj_mlp", "single_blocks.{i}.linear1", 3),
    Rename("single_transformer_blocks.{i}.proj_out", "single_blocks.{i}.linear2"),
    Rename("single_transformer_blocks.{i}.attn.norm_q", "single_blocks.{i}.norm.query_norm"),
    Rename("single_transformer_blocks.{i}.attn.norm_k", "single_blocks.{i}.norm.key_norm"),
)
_BY_THEIRS = {rename.theirs: rename for rename in DIFFUSERS}
_BY_OURS = {ours: [r for r in DIFFUSERS if r.ours == ours] for ours in {rename.ours for rename in DIFFUSERS}}
_INDEX = re.compile(r"(?<=blocks\.)\d+(?=\.)|(?<=layers\.)\d+(?=\.)|(?<=norms\.)\d+$")

# Suffix in files -> suffix in the model. RMS norms are `.scale` as published and `.weight` where a host saved them.
NORMS = re.compile(r"(\.(query_norm|key_norm)|distilled_guidance_layer\.norms\.\d+|nerf_[a-z_]+(\.\d+)?\.norm)\.scale$")
NESTED_APPROXIMATOR = APPROXIMATOR + "0."  # where a trainer wrapped it in a list


def block_of(name: str) -> tuple[str, int] | None:
    """("double" or "single", number) of the block that one of the model's own names belongs to; None outside of them."""
    found = BLOCK.match(name)
    return (found[1], int(found[2])) if found else None


def is_flag(name: str) -> bool:
    """Whether it is one of the empty tensors that only say something."""
    return name in FLAGS or LEFT_OUT.fullmatch(name) is not None


def other_model(names: Iterable[str]) -> str | None:
    """What a file with such tensors is, if it is one of OTHER_MODELS."""
    names = list(names)
    return next((what for part, what in OTHER_MODELS if any(part in name for name in names)), None)


def published_name(name: str) -> tuple[str, int | None]:
    """(published name, part of a fused layer or None) of a tensor in diffusers' layout.

    The name comes back unchanged where no row knows its stem.
    """
    stem, _, last = name.rpartition(".")
    found = _INDEX.search(stem)
    rename = _BY_THEIRS.get(_INDEX.sub("{i}", stem))
    if rename is None:
        return name, None
    return f"{rename.ours.replace('{i}', found.group() if found else '')}.{last}", rename.part


def diffusers_names(name: str) -> list[str]:
    """The names of one of our tensors in diffusers' layout; several, in the order of rows, where a layer is fused."""
    stem, _, last = name.rpartition(".")
    found = _INDEX.search(stem)
    renames = _BY_OURS.get(_INDEX.sub("{i}", stem), [])
    return [f"{rename.theirs.replace('{i}', found.group() if found else '')}.{last}" for rename in renames]


def model_name(name: str) -> str:
    """The model's own name of a tensor from its published one (without prefix)."""
    if name.startswith(NESTED_APPROXIMATOR):
        name = APPROXIMATOR + name.removeprefix(NESTED_APPROXIMATOR)
    return name.removesuffix(".scale") + ".weight" if NORMS.search(name) else name
