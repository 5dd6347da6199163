"""DATA: how trainers name a LoRA's layers and the parts of its adapters, and the model's names for them.

A new layout is a new row here and a case in the tests.
"""

from __future__ import annotations

import re
from typing import Callable, Mapping

from ..checkpoint.keys import APPROXIMATOR

Rows = tuple[int, int]  # start, length

# --- layers -----------------------------------------------------------------------------------------------------------

# What trainers put before a layer's name; one file may use several, one within the other.
WRAPPERS = (
    "base_model.model.",  # PEFT
    "model.diffusion_model.",
    "diffusion_model.",  # the host, ai-toolkit, diffusion-pipe
    "transformer.",  # diffusers, OneTrainer
    "unet.",
    "module.",
    "_orig_mod.",
    "lora_unet_",  # kohya
    "lora_transformer_",  # OneTrainer
    "lycoris_",  # SimpleTuner, LyCORIS
)

TEXT_ENCODERS = (
    "lora_te",
    "lora_prior_te",
    "text_encoder",  # diffusers: text_encoder., text_encoder_2.; the host: text_encoders.
    "cond_stage_model.",
    "conditioner.",
    "clip_l.",
    "clip_g.",
    "t5.",
    "t5xxl.",
    "bundle_emb",  # OneTrainer: trained words
)

# Module of the model, with ":slice" where only some of its rows are meant -> the names that LoRAs have for it: BFL and
# kohya, then diffusers, OneTrainer's split names (OMI), XLabs. A "." may be a "_" in the file.
DOUBLE_BLOCK = {
    "img_attn.qkv": "img_attn.qkv attn.to_qkv processor.qkv_lora1",
    "img_attn.qkv:q": "attn.to_q img_attn.qkv.0",
    "img_attn.qkv:k": "attn.to_k img_attn.qkv.1",
    "img_attn.qkv:v": "attn.to_v img_attn.qkv.2",
    "img_attn.proj": "img_attn.proj attn.to_out.0 attn.to_out processor.proj_lora1",
    "img_attn.norm.query_norm": "img_attn.norm.query_norm attn.norm_q",
    "img_attn.norm.key_norm": "img_attn.norm.key_norm attn.norm_k",
    "img_mlp.0": "img_mlp.0 ff.net.0.proj ff.linear_in",
    "img_mlp.2": "img_mlp.2 ff.net.2 ff.linear_out",
    "txt_attn.qkv": "txt_attn.qkv attn.to_added_qkv processor.qkv_lora2",
    "txt_attn.qkv:q": "attn.add_q_proj txt_attn.qkv.0",
    "txt_attn.qkv:k": "attn.add_k_proj txt_attn.qkv.1",
    "txt_attn.qkv:v": "attn.add_v_proj txt_attn.qkv.2",
    "txt_attn.proj": "txt_attn.proj attn.to_add_out processor.proj_lora2",
    "txt_attn.norm.query_norm": "txt_attn.norm.query_norm attn.norm_added_q",
    "txt_attn.norm.key_norm": "txt_attn.norm.key_norm attn.norm_added_k",
    "txt_mlp.0": "txt_mlp.0 ff_context.net.0.proj ff_context.linear_in",
    "txt_mlp.2": "txt_mlp.2 ff_context.net.2 ff_context.linear_out",
}
SINGLE_BLOCK = {
    "linear1": "linear1 attn.to_qkv_mlp_proj",
    "linear1:q": "attn.to_q linear1.0",
    "linear1:k": "attn.to_k linear1.1",
    "linear1:v": "attn.to_v linear1.2",
    "linear1:mlp": "proj_mlp linear1.3",
    "linear1:qkv": "linear1_qkv attn.to_qkv processor.qkv",
    "linear2": "linear2 proj_out attn.to_out processor.proj",
    "norm.query_norm": "norm.query_norm attn.norm_q",
    "norm.key_norm": "norm.key_norm attn.norm_k",
}
APPROXIMATOR_LAYER = {"in_layer": "in_layer linear_1", "out_layer": "out_layer linear_2"}
OUTSIDE_OF_BLOCKS = {
    "img_in": "img_in img_in.proj x_embedder",
    "txt_in": "txt_in context_embedder",
    "final_layer.linear": "final_layer.linear proj_out",
    APPROXIMATOR + "in_proj": APPROXIMATOR + "in_proj",
    APPROXIMATOR + "out_proj": APPROXIMATOR + "out_proj",
}

# Rows of a fused layer, from the model's width and the layer's number of rows.
SLICES: Mapping[str, Callable[[int, int], Rows]] = {
    "q": lambda width, rows: (0, width),
    "k": lambda width, rows: (width, width),
    "v": lambda width, rows: (2 * width, width),
    "qkv": lambda width, rows: (0, 3 * width),
    "mlp": lambda width, rows: (3 * width, rows - 3 * width),
}

# FLUX's modulation layers, which Chroma's Approximator replaces: regular expressions for the start of a name.
MODULATIONS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(double_blocks|transformer_blocks)[._]\d+[._](img_mod|txt_mod|norm1|norm1_context)[._]lin",
        r"(single_blocks|single_transformer_blocks)[._]\d+[._](modulation|norm)[._]lin",
        r"(time_in|vector_in|guidance_in|time_text_embed|norm_out)[._]",
        r"final_layer[._]adaLN_modulation",
    )
)


def _spelled(table: Mapping[str, str]) -> dict[str, str]:
    """Every spelling of a layer -> the model's."""
    return {s: own for own, names in table.items() for name in names.split() for s in (name, name.replace(".", "_"))}


# Numbered layers: pattern of a name, the model's stack, and the layers in each of its members.
STACKS = (
    (re.compile(r"(?:double_blocks|transformer_blocks)[._](\d+)[._](.+)"), "double_blocks", _spelled(DOUBLE_BLOCK)),
    (
        re.compile(r"(?:single_blocks|single_transformer_blocks)[._](\d+)[._](.+)"),
        "single_blocks",
        _spelled(SINGLE_BLOCK),
    ),
    (
        re.compile(r"distilled_guidance_layer[._]layers[._](\d+)[._](.+)"),
        APPROXIMATOR + "layers",
        _spelled(APPROXIMATOR_LAYER),
    ),
    (re.compile(r"distilled_guidance_layer[._]norms[._](\d+)()"), APPROXIMATOR + "norms", {"": ""}),
)
OUTSIDE = _spelled(OUTSIDE_OF_BLOCKS)

# --- parts of adapters ------------------------------------------------------------------------------------------------

UP, DOWN, MID = "lora_up.weight", "lora_down.weight", "lora_mid.weight"
ALPHA, DORA, UP_BIAS = "alpha", "dora_scale", "lora_up.bias"
_PARAMETER = r"(?:[._](?:weight|scale))?"
_ADAPTER_NAME = r"(?:\.(?!weight$|bias$)[^.]+)?"  # PEFT's name of the adapter, mostly "default"

# Parts that every trainer names like the host.
SAME_NAME = """
    hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2
    lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2
    a1.weight a2.weight b1.weight b2.weight oft_blocks rescale
    lora_mid.weight alpha reshape_weight
""".split()

# kohya trains an adapter for each part of a fused layer, and merges them later; this is one before merging.
PIECE = re.compile(r"(.+)\.(lora_down|lora_up)\.(\d)\.weight")

# How a tensor's name ends -> the host's name for that part of an adapter.
PARTS = tuple(
    (re.compile(r"(.+?)" + pattern), part)
    for pattern, part in (
        (rf"(?:\.lora)?\.lora_(?:down|A){_ADAPTER_NAME}(?:\.weight)?", DOWN),  # .lora.lora_A: Chroma's own trainer
        (rf"(?:\.lora)?\.lora_(?:up|B){_ADAPTER_NAME}\.bias", UP_BIAS),
        (rf"(?:\.lora)?\.lora_(?:up|B){_ADAPTER_NAME}(?:\.weight)?", UP),
        (r"(?:[._]lora(?:_linear_layer)?|(?<=_lora[12]))\.down\.weight", DOWN),
        (r"(?:[._]lora(?:_linear_layer)?|(?<=_lora[12]))\.up\.weight", UP),
        (r"\.(?:dora_scale|magnitude|lora_magnitude_vector(?:\.\w+){0,2})", DORA),  # magnitude: ai-toolkit
        # Some files name the parameter, not its layer: norms have `.scale` in published files, `.weight` elsewhere.
        (r"(?:\.(?:diff_b|b_norm)|[._]bias\.diff)", "diff_b"),
        (rf"{_PARAMETER}\.(?:diff|w_norm)", "diff"),
        (rf"{_PARAMETER}\.set_weight", "set_weight"),
        *((rf"\.{re.escape(part)}", part) for part in SAME_NAME),
    )
)

CHECKPOINT = "a whole checkpoint: Load Chroma Model"
# Regular expression for a tensor's name -> what the file may be instead. Reported when little or nothing fits.
LOOKS_LIKE = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (
            r"(double_blocks\.0\.img_attn\.qkv|transformer_blocks\.0\.(attn\.to_q|(attn\.)?qkv_proj))"
            r"\.(q?weight|scales?|weight_scale)$",
            CHECKPOINT,
        ),
        (r"lora_te2_|conditioner\.embedders\.1\.|add_embedding", "a LoRA for SDXL"),
        (
            r"(down_blocks|input_blocks|mid_block|middle_block|up_blocks)[._]",
            "a LoRA for Stable Diffusion 1, 2 or SDXL",
        ),
        (r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn)[._]", "a LoRA for Wan"),
        (
            r"transformer_blocks[._]\d+[._](img_mlp|txt_mlp)[._]net|transformer_blocks[._]\d+[._]img_mod[._]1",
            "a LoRA for Qwen-Image",
        ),
        (r"joint_blocks[._]", "a LoRA for Stable Diffusion 3"),
        (r"blocks\.\d+\.img_attn_qkv|individual_token_refiner", "a LoRA for HunyuanVideo"),
        (
            r"(noise_refiner|context_refiner)[._]|(^|[._])layers[._]\d+[._](attention|feed_forward)[._]",
            "a LoRA for Lumina or Z-Image",
        ),
        (r"double_stream_modulation|to_qkv_mlp_proj", "a LoRA for FLUX.2"),
        (r"^(emb_params|string_to_param)|^(clip_l|clip_g|t5xxl)$", "an embedding (trained words)"),
        (r"controlnet|control_model|zero_conv", "a ControlNet"),
        (r"^(encoder|decoder|first_stage_model)\.", "a VAE or a text encoder"),
    )
)

# --- from a name to the model's --------------------------------------------------------------------------------------


def split_name(name: str) -> tuple[str, str]:
    """A tensor's name -> its layer and the part of the adapter; (name, "") if its ending is not known."""
    for pattern, part in PARTS:
        found = pattern.fullmatch(name)
        if found:
            return found[1], part
    return name, ""


def unwrapped(layer: str) -> str:
    """A layer's name without what trainers put before it."""
    while wrapper := next((w for w in WRAPPERS if layer.startswith(w)), ""):
        layer = layer.removeprefix(wrapper)
    return layer


def own_name(layer: str) -> str | None:
    """A layer's name without wrappers -> Chroma's module, with ":slice" if only some rows are meant; None if unknown.

    Only the name counts, so blocks that the model does not have get a name too.
    """
    for pattern, stack, members in STACKS:
        found = pattern.fullmatch(layer)
        if found and found[2] in members:
            return f"{stack}.{int(found[1])}.{members[found[2]]}".removesuffix(".")
    return OUTSIDE.get(layer)
