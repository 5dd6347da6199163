"""DATA: how tensors are named in published files. A new layout is a new row here and a case in the tests."""

from __future__ import annotations

# What a file may put before every name of the transformer, longest first.
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")

# Parts of an all-in-one checkpoint that are not the transformer.
OTHER_COMPONENTS = ("first_stage_model.", "vae.", "cond_stage_model.", "conditioner.", "text_encoders.")

# A name that only a Chroma transformer has, as the start of a name without prefix.
CHROMA_SIGNATURES = ("double_blocks.0.img_attn.qkv.weight",)
APPROXIMATOR = "distilled_guidance_layer."

# What else a person may have picked: part of a name -> what the file is. The first that is found is told.
OTHER_MODELS = (
    ("img_in_patch.weight", "Chroma1-Radiance, which works on pixels; this version loads latent Chroma only"),
    (
        "transformer_blocks.0.attn.norm_added_k.weight",
        "a Transformer in diffusers' layout; take the single-file version",
    ),
    (
        "double_blocks.0.img_mod.lin.weight",
        "FLUX, which has modulation layers in its blocks; load it with the host's own loader",
    ),
    ("joint_blocks.0.", "Stable Diffusion 3"),
    ("conditioner.embedders.1.", "SDXL"),
    ("label_emb.0.0.weight", "SDXL or another UNet with size conditioning"),
    ("input_blocks.0.0.weight", "Stable Diffusion 1 or 2"),
    ("encoder.block.0.layer.0.SelfAttention.q.weight", "a T5 text encoder; it belongs in models/text_encoders"),
    ("decoder.up.0.block.0.conv1.weight", "a VAE; it belongs in models/vae"),
    ("taesd_decoder.1.weight", "a TAESD VAE; it belongs in models/vae"),
    ("lora_", "a LoRA; it belongs in models/loras"),
    (".lora_A.", "a LoRA; it belongs in models/loras"),
)

# What the host writes beside a quantised weight: what it is, and its scales.
QUANT_MARKER = "comfy_quant"
QUANT_EXTRAS = ("." + QUANT_MARKER, ".weight_scale", ".input_scale")

# Suffix in files -> suffix in the model. RMS norms are `.scale` as published and `.weight` where a host saved them.
RENAMED_SUFFIXES = ((".query_norm.scale", ".query_norm.weight"), (".key_norm.scale", ".key_norm.weight"))
APPROXIMATOR_NORM = (APPROXIMATOR + "norms.", ".scale", ".weight")


def model_name(name: str) -> str:
    """The model's own name of a tensor from its published one (without prefix)."""
    for published, own in RENAMED_SUFFIXES:
        if name.endswith(published):
            return name.removesuffix(published) + own
    start, published, own = APPROXIMATOR_NORM
    if name.startswith(start) and name.endswith(published):
        return name.removesuffix(published) + own
    return name
