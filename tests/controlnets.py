"""FLUX.1 ControlNets at narrow width, in the layouts of published files, for the host's own loader."""

from __future__ import annotations

import support
import torch

WIDTH, CONTEXT, VECTOR = 128, 64, 16  # the host takes heads of 128; published: 3072, 4096, 768
# Layout -> sizes of the network, and how its file names tensors. Published examples:
LAYOUTS = {
    "xlabs": ({"depth": 2, "depth_single_blocks": 0}, "flux"),  # x-flux: canny, depth, hed
    "mistoline": ({"depth": 2, "depth_single_blocks": 1, "mistoline": True}, "mistoline"),
    "instantx": ({"depth": 2, "depth_single_blocks": 3, "latent_input": True}, "diffusers"),  # canny
    "instantx union": (
        {"depth": 2, "depth_single_blocks": 3, "latent_input": True, "num_union_modes": 7},
        "diffusers",
    ),
    "shakker union pro": (
        {"depth": 2, "depth_single_blocks": 1, "latent_input": True, "num_union_modes": 10},
        "diffusers",
    ),
    "shakker union pro 2.0": ({"depth": 3, "depth_single_blocks": 0, "latent_input": True}, "diffusers"),  # and depth
    "without guidance": (
        {"depth": 2, "depth_single_blocks": 0, "latent_input": True, "guidance_embed": False},
        "diffusers",
    ),
    "inpaint": (
        {"depth": 2, "depth_single_blocks": 0, "latent_input": True, "control_latent_channels": 17},
        "diffusers",
    ),
}
READS_LATENTS = [name for name, (sizes, _) in LAYOUTS.items() if sizes.get("latent_input")]


def state_dict(layout, width=WIDTH, context=CONTEXT, seed=0):
    """Seeded weights as such a file has them."""
    import comfy.ldm.flux.controlnet
    import comfy.ops

    sizes, naming = LAYOUTS[layout]
    net = comfy.ldm.flux.controlnet.ControlNetFlux(
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
        **{
            **{"in_channels": 16, "out_channels": 16, "vec_in_dim": VECTOR, "context_in_dim": context},
            **{"hidden_size": width, "mlp_ratio": 4.0, "num_heads": width // 128, "axes_dim": [16, 56, 56]},
            **{"theta": 10_000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []},
            **sizes,
        },
    )
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in net.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name:
            weights[name] = 1 + 0.1 * noise
        else:
            weights[name] = noise * (tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.02)
    return {"flux": support.published, "mistoline": mistoline, "diffusers": diffusers}[naming](weights)


def mistoline(weights):
    weights = support.published(weights)
    return {k.replace("controlnet_single_blocks.", "single_controlnet_blocks."): t for k, t in weights.items()}


def diffusers(weights):
    """Under the names of diffusers' FluxControlNetModel."""
    width, context = weights["txt_in.weight"].shape
    config = support.config(width=width, heads=width // 128, context=context)
    renamed = {
        "pos_embed_input": "controlnet_x_embedder",
        "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
        "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
        "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
        "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    }
    modulation = {"img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear", "modulation.lin": "norm.linear"}
    out, rest = {}, {}
    for name, tensor in weights.items():
        stem, kind = name.rsplit(".", 1)
        parts = stem.split(".", 2)
        if stem in renamed:
            out[f"{renamed[stem]}.{kind}"] = tensor
        elif parts[-1] in modulation and stem not in renamed:
            block = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}[parts[0]]
            out[f"{block}.{parts[1]}.{modulation[parts[2]]}.{kind}"] = tensor
        elif stem.startswith("controlnet_"):
            out[name] = tensor
        else:
            rest[name] = tensor
    return {**out, **support.to_diffusers(rest, config)}


def load(layout, **more):
    """A CONTROL_NET by the host's own loader, in float32."""
    import comfy.controlnet

    return comfy.controlnet.load_controlnet_state_dict(
        state_dict(layout, **more), model_options={"dtype": torch.float32}
    )
