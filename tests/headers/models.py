"""DATA: names and shapes of whole models as they are published, in the notation of this folder's __init__.

Source: the format study, 1.1 to 1.4; FLUX and its VAE: black-forest-labs/flux; T5: google/t5-v1_1-xxl's encoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import prod
from typing import Any, Mapping

from headers import expand

Shapes = dict[str, tuple[int, ...]]

WIDTH, HEAD, MLP, CONTEXT = 3072, 128, 12288, 4096


@dataclass(frozen=True)
class Model:
    """variant and sizes are what a loader should find out."""

    variant: str
    shapes: Shapes
    sizes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_parameters(self) -> int:
        return sum(prod(shape) * len(expand(name)) for name, shape in self.shapes.items())


def linear(name: str, out_features: int, in_features: int) -> Shapes:
    return {f"{name}.weight": (out_features, in_features), f"{name}.bias": (out_features,)}


def conv(name: str, out_channels: int, in_channels: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (out_channels, in_channels, kernel, kernel), f"{name}.bias": (out_channels,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def approximator(in_dim: int = 64, num_layers: int = 5, prefix: str = "distilled_guidance_layer.") -> Shapes:
    layers = f"{{0..{num_layers - 1}}}"
    return {
        **linear(prefix + "in_proj", 5120, in_dim),
        **linear(f"{prefix}layers.{layers}.{{in_layer,out_layer}}", 5120, 5120),
        f"{prefix}norms.{layers}.scale": (5120,),
        **linear(prefix + "out_proj", WIDTH, 5120),
    }


def blocks(double: int, single: int) -> Shapes:
    d = f"double_blocks.{{0..{double - 1}}}.{{img,txt}}"
    s = f"single_blocks.{{0..{single - 1}}}"
    return {
        **linear(d + "_attn.qkv", 3 * WIDTH, WIDTH),
        d + "_attn.norm.{query,key}_norm.scale": (HEAD,),
        **linear(d + "_attn.proj", WIDTH, WIDTH),
        **linear(d + "_mlp.0", MLP, WIDTH),
        **linear(d + "_mlp.2", WIDTH, MLP),
        **linear(s + ".linear1", 3 * WIDTH + MLP, WIDTH),
        s + ".norm.{query,key}_norm.scale": (HEAD,),
        **linear(s + ".linear2", WIDTH, WIDTH + MLP),
    }


IN = {**linear("img_in", WIDTH, 64), **linear("txt_in", WIDTH, CONTEXT)}
OUT = linear("final_layer.linear", 64, WIDTH)


def chroma(variant: str = "Chroma", double: int = 19, single: int = 38, in_dim: int = 64) -> Model:
    return Model(
        variant,
        {**IN, **approximator(in_dim), **blocks(double, single), **OUT},
        {"num_double_blocks": double, "num_single_blocks": single, "approximator": [in_dim, 5120, 5]},
    )


def radiance(kernel: int = 16, patch_size: int = 16, head: str = "conv", txt_ids: str = "zeros") -> Model:
    final = {
        "conv": {"nerf_final_layer_conv.norm.scale": (64,), **conv("nerf_final_layer_conv.conv", 3, 64, 3)},
        "linear": {"nerf_final_layer.norm.scale": (64,), **linear("nerf_final_layer.linear", 3, 64)},
    }
    return Model(
        "Radiance",
        {
            **conv("img_in_patch", WIDTH, 3, kernel),
            **linear("txt_in", WIDTH, CONTEXT),
            **approximator(),
            **blocks(19, 38),
            **linear("nerf_image_embedder.embedder.0", 64, 3 + 8 * 8),
            **linear("nerf_blocks.{0..3}.param_generator", 3 * 64 * 256, WIDTH),
            "nerf_blocks.{0..3}.norm.scale": (64,),
            **final[head],
        },
        {
            **chroma().sizes,
            "head": head,
            "kernel": kernel,
            "patch_size": patch_size,
            "txt_ids": txt_ids,
        },
    )


def diffusers() -> Model:
    """Chroma under diffusers' names: q, k and v apart in every attention, the MLP of a single block apart too."""
    d, s, a = "transformer_blocks.{0..18}.", "single_transformer_blocks.{0..37}.", "distilled_guidance_layer."
    shapes = {
        **linear(a + "in_proj", 5120, 64),
        **linear(a + "layers.{0..4}.linear_{1,2}", 5120, 5120),
        a + "norms.{0..4}.weight": (5120,),
        **linear(a + "out_proj", WIDTH, 5120),
        **linear("context_embedder", WIDTH, CONTEXT),
        **linear("x_embedder", WIDTH, 64),
        d + "attn.norm_{q,k,added_q,added_k}.weight": (HEAD,),
        **linear(d + "attn.{to_q,to_k,to_v,to_out.0,add_q_proj,add_k_proj,add_v_proj,to_add_out}", WIDTH, WIDTH),
        **linear(d + "ff{,_context}.net.0.proj", MLP, WIDTH),
        **linear(d + "ff{,_context}.net.2", WIDTH, MLP),
        **linear(s + "proj_mlp", MLP, WIDTH),
        **linear(s + "proj_out", WIDTH, WIDTH + MLP),
        s + "attn.norm_{q,k}.weight": (HEAD,),
        **linear(s + "attn.to_{q,k,v}", WIDTH, WIDTH),
        **linear("proj_out", 64, WIDTH),
    }
    return Model("Chroma", shapes, chroma().sizes)


def diffusers_shards() -> dict[str, list[str]]:
    """File -> names: tensors in the order of diffusers' modules, a new file before one would pass 10 GB in bf16."""
    names = list(diffusers().shapes)
    single = "single_transformer_blocks.{0..37}."
    inside = [n.removeprefix(single) for n in names if n.startswith(single)]
    split = [f"single_transformer_blocks.3.{n}" for n in inside]
    first = [n for n in names if not n.startswith((single, "proj_out"))]
    first += [f"single_transformer_blocks.{{0..2}}.{n}" for n in inside] + split[:2]
    second = split[2:] + [f"single_transformer_blocks.{{4..37}}.{n}" for n in inside] + ["proj_out.{weight,bias}"]
    return {
        "diffusion_pytorch_model-00001-of-00002.safetensors": first,
        "diffusion_pytorch_model-00002-of-00002.safetensors": second,
    }


def flux(guidance: bool) -> Model:
    """FLUX.1 dev (with guidance) or schnell: Chroma's blocks, each with modulation layers of its own."""
    embedders = ["time_in", "vector_in"] + ["guidance_in"] * guidance
    shapes = {**IN, **blocks(19, 38), **OUT, **linear("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)}
    shapes |= linear("double_blocks.{0..18}.{img,txt}_mod.lin", 6 * WIDTH, WIDTH)
    shapes |= linear("single_blocks.{0..37}.modulation.lin", 3 * WIDTH, WIDTH)
    for name in embedders:
        shapes |= linear(f"{name}.in_layer", WIDTH, 768 if name == "vector_in" else 256)
        shapes |= linear(f"{name}.out_layer", WIDTH, WIDTH)
    variant = "FLUX" if guidance else "FLUX schnell"
    return Model(variant, shapes, {"num_double_blocks": 19, "num_single_blocks": 38, "approximator": None})


def t5() -> Shapes:
    """The encoder of T5 v1.1 XXL."""
    block = "encoder.block.{0..23}.layer."
    return {
        "shared.weight": (32128, 4096),
        block + "0.SelfAttention.{q,k,v,o}.weight": (4096, 4096),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 64),
        block + "{0,1}.layer_norm.weight": (4096,),
        block + "1.DenseReluDense.wi_{0,1}.weight": (10240, 4096),
        block + "1.DenseReluDense.wo.weight": (4096, 10240),
        "encoder.final_layer_norm.weight": (4096,),
    }


def _resnet(name: str, in_channels: int, out_channels: int) -> Shapes:
    shapes = {
        **norm(f"{name}.norm1", in_channels),
        **conv(f"{name}.conv1", out_channels, in_channels, 3),
        **norm(f"{name}.norm2", out_channels),
        **conv(f"{name}.conv2", out_channels, out_channels, 3),
    }
    return shapes | (conv(f"{name}.nin_shortcut", out_channels, in_channels, 1) if in_channels != out_channels else {})


def vae() -> Shapes:
    """FLUX's autoencoder, 16 latent channels."""
    both = "{encoder,decoder}."
    return {
        **conv("encoder.conv_in", 128, 3, 3),
        **_resnet("encoder.down.0.block.{0,1}", 128, 128),
        **_resnet("encoder.down.1.block.0", 128, 256),
        **_resnet("encoder.down.1.block.1", 256, 256),
        **_resnet("encoder.down.2.block.0", 256, 512),
        **_resnet("encoder.down.2.block.1", 512, 512),
        **_resnet("encoder.down.3.block.{0,1}", 512, 512),
        **conv("encoder.down.0.downsample.conv", 128, 128, 3),
        **conv("encoder.down.1.downsample.conv", 256, 256, 3),
        **conv("encoder.down.2.downsample.conv", 512, 512, 3),
        **_resnet(both + "mid.block_{1,2}", 512, 512),
        **norm(both + "mid.attn_1.norm", 512),
        **conv(both + "mid.attn_1.{q,k,v,proj_out}", 512, 512, 1),
        **norm("encoder.norm_out", 512),
        **conv("encoder.conv_out", 32, 512, 3),
        **conv("decoder.conv_in", 512, 16, 3),
        **_resnet("decoder.up.{2,3}.block.{0..2}", 512, 512),
        **_resnet("decoder.up.1.block.0", 512, 256),
        **_resnet("decoder.up.1.block.{1,2}", 256, 256),
        **_resnet("decoder.up.0.block.0", 256, 128),
        **_resnet("decoder.up.0.block.{1,2}", 128, 128),
        **conv("decoder.up.1.upsample.conv", 256, 256, 3),
        **conv("decoder.up.{2,3}.upsample.conv", 512, 512, 3),
        **norm("decoder.norm_out", 128),
        **conv("decoder.conv_out", 3, 128, 3),
    }


def sdxl() -> Shapes:
    """A few dozen tensors of each part of an SDXL checkpoint; the real one has 2515."""
    unet, clip_l = "model.diffusion_model.", "conditioner.embedders.0.transformer.text_model."
    clip_g = "conditioner.embedders.1.model."
    return {
        **linear(unet + "time_embed.0", 1280, 320),
        **linear(unet + "time_embed.2", 1280, 1280),
        **linear(unet + "label_emb.0.0", 1280, 2816),
        **linear(unet + "label_emb.0.2", 1280, 1280),
        **conv(unet + "input_blocks.0.0", 320, 4, 3),
        **norm(unet + "input_blocks.{1,2}.0.in_layers.0", 320),
        **conv(unet + "input_blocks.{1,2}.0.in_layers.2", 320, 320, 3),
        **linear(unet + "input_blocks.{1,2}.0.emb_layers.1", 320, 1280),
        **conv(unet + "input_blocks.3.0.op", 320, 320, 3),
        unet + "input_blocks.4.1.transformer_blocks.{0,1}.attn1.to_{q,k,v}.weight": (640, 640),
        unet + "input_blocks.4.1.transformer_blocks.{0,1}.attn2.to_{k,v}.weight": (640, 2048),
        **norm(unet + "out.0", 320),
        **conv(unet + "out.2", 4, 320, 3),
        clip_l + "embeddings.token_embedding.weight": (49408, 768),
        **linear(clip_l + "encoder.layers.{0..11}.self_attn.{q,k,v,out}_proj", 768, 768),
        clip_g + "text_projection": (1280, 1280),
        clip_g + "token_embedding.weight": (49408, 1280),
        clip_g + "transformer.resblocks.{0..31}.attn.in_proj_weight": (3840, 1280),
        **conv("first_stage_model.encoder.conv_in", 128, 3, 3),
        **conv("first_stage_model.decoder.conv_out", 3, 128, 3),
        **conv("first_stage_model.quant_conv", 8, 8, 1),
    }


def _lora_targets() -> list[tuple[str, int, int]]:
    """(layer, out_features, in_features) of every linear in Chroma's blocks."""
    found = {n: s for n, s in blocks(19, 38).items() if n.endswith(".weight")}
    return [(n.removesuffix(".weight"), s[0], s[1]) for n, s in found.items()]


def lora_kohya(rank: int = 16) -> Shapes:
    shapes: Shapes = {}
    for layer, out_features, in_features in _lora_targets():
        name = "lora_unet_" + re.sub(r"(?<!\.)\.(?!\.)", "_", layer)  # the two dots of a range stay
        shapes |= {f"{name}.alpha": (), f"{name}.lora_down.weight": (rank, in_features)}
        shapes |= {f"{name}.lora_up.weight": (out_features, rank)}
    return shapes


def lora_peft(rank: int = 16) -> Shapes:
    shapes: Shapes = {}
    for layer, out_features, in_features in _lora_targets():
        shapes |= {f"diffusion_model.{layer}.lora_A.weight": (rank, in_features)}
        shapes |= {f"diffusion_model.{layer}.lora_B.weight": (out_features, rank)}
    return shapes
