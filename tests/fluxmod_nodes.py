"""DATA: FluxMod's nodes as they were published, from the history of lodestone-rock/ComfyUI_FluxMod, November 2024 to May 2025."""

from __future__ import annotations

QUANT_MODES = ("bf16", "float8_e4m3fn (8 bit)", "float8_e5m2 (also 8 bit)")
KSAMPLER = (
    *("model", "seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image", "denoise"),
    "activation_casting",
)
CONNECTED = {  # inputs without a widget
    *("model", "positive", "negative", "latent_image", "sampler", "conditioning", "style_model", "clip_vision_output")
}
# Id -> type of its one output, and its inputs in their order: one tuple for each set that a version had. All were required.
PUBLISHED: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "FluxModCheckpointLoader": (
        "MODEL",
        (("ckpt_name", "guidance_name"), ("ckpt_name", "guidance_name", "quant_mode")),
    ),
    "FluxModCheckpointLoaderMini": (
        "MODEL",
        (("ckpt_name", "guidance_name", "quant_mode", "lite_patch_ckpt_name"),),
    ),
    "ChromaCheckpointLoader": ("MODEL", (("ckpt_name", "quant_mode"),)),
    "FluxModDiffusionLoader": ("MODEL", (("unet_name", "guidance_name", "quant_mode"),)),
    "FluxModDiffusionLoaderMini": (
        "MODEL",
        (("unet_name", "guidance_name", "quant_mode", "lite_patch_unet_name"),),
    ),
    "ChromaDiffusionLoader": ("MODEL", (("unet_name", "quant_mode"),)),
    "KSamplerMod": ("LATENT", (KSAMPLER,)),
    "FluxModSamplerWrapper": ("SAMPLER", (("sampler", "activation_casting"),)),
    "FluxModSamplerWrapperNode": ("SAMPLER", (("sampler", "activation_casting"),)),
    "SkipLayerForward": ("MODEL", (("model", "skip_mmdit_layers", "skip_dit_layers"),)),
    "ChromaPaddingRemoval": ("CONDITIONING", (("conditioning",),)),
    "ChromaStyleModelApply": (
        "CONDITIONING",
        (("conditioning", "style_model", "clip_vision_output", "strength", "truncate_percent"),),
    ),
}
