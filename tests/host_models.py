"""The host's own Chroma beside ours, on the same weights, in this process."""

from __future__ import annotations

import support
import torch


def block_params(cfg):
    """Sizes that the host's Chroma and FLUX name alike."""
    return dict(
        context_in_dim=cfg.context_dim,
        hidden_size=cfg.hidden_size,
        mlp_ratio=cfg.mlp_hidden_dim / cfg.hidden_size,
        num_heads=cfg.num_heads,
        depth=cfg.num_double_blocks,
        depth_single_blocks=cfg.num_single_blocks,
        axes_dim=list(cfg.axes_dim),
        theta=cfg.theta,
        patch_size=cfg.patch_size,
        qkv_bias=cfg.qkv_bias,
    )


def native_params(cfg):
    a = cfg.approximator
    return dict(
        in_channels=cfg.in_channels,
        out_channels=cfg.out_channels,
        **block_params(cfg),
        in_dim=a.in_dim,
        out_dim=a.out_dim,
        hidden_dim=a.hidden_dim,
        n_layers=a.num_layers,
        txt_ids_dims=[],
        vec_in_dim=None,
    )


def native_net(comfy, cfg, weights, dtype=torch.float32):
    """The host's network. Its number of modulations is fixed at 344, so only 19 + 38 blocks are right."""
    import comfy.ldm.chroma.model

    net = comfy.ldm.chroma.model.Chroma(dtype=dtype, operations=comfy.ops.disable_weight_init, **native_params(cfg))
    net.load_state_dict({k: v.to(dtype) for k, v in weights.items()})
    return net.eval().requires_grad_(False)


def our_net(comfy, cfg, weights, dtype=torch.float32):
    """Our network as the host sees it."""
    transformer = support.dev.load_pack("host.run.forward")
    net = transformer.HostTransformer(cfg, dtype=dtype, operations=comfy.ops.disable_weight_init)
    net.load_state_dict({k: v.to(dtype) for k, v in weights.items()})
    return net.eval().requires_grad_(False)


def native_patcher(comfy, cfg, weights):
    """The host's own MODEL, float32, as its loader would make it if it read the Approximator's sizes."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.Chroma({"image_model": "chroma", **native_params(cfg)})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    model.load_model_weights(dict(weights), "")
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def sample(
    comfy,
    patcher,
    cfg,
    *,
    seed=5,
    steps=4,
    scale=3.0,
    sampler="euler",
    scheduler="simple",
    positive=None,
    negative=None,
    size=(16, 20),
    batch=1,
    tokens=(11, 7),
    latent=None,
    noise=None,
    **more,
):
    """A run of the host's sampler; conditionings of different lengths unless given."""
    import comfy.sample

    generator = torch.Generator().manual_seed(seed)
    if positive is None:
        positive = [[torch.randn(1, tokens[0], cfg.context_dim, generator=generator), {}]]
        negative = [[torch.randn(1, tokens[1], cfg.context_dim, generator=generator), {}]]
    channels = cfg.in_channels // cfg.patch_size**2
    latent = torch.zeros(batch, channels, *size) if latent is None else latent
    noise = torch.randn(latent.shape, generator=generator) if noise is None else noise
    return comfy.sample.sample(
        patcher,
        noise,
        steps,
        scale,
        sampler,
        scheduler,
        positive,
        negative,
        latent,
        disable_pbar=True,
        seed=seed,
        **more,
    )


def diffusers_net(cfg, weights):
    """diffusers' class on the same weights."""
    import diffusers

    net = diffusers.ChromaTransformer2DModel(
        in_channels=cfg.in_channels,
        num_layers=cfg.num_double_blocks,
        num_single_layers=cfg.num_single_blocks,
        attention_head_dim=cfg.head_dim,
        num_attention_heads=cfg.num_heads,
        joint_attention_dim=cfg.context_dim,
        axes_dims_rope=cfg.axes_dim,
        approximator_num_channels=cfg.approximator.in_dim,
        approximator_hidden_dim=cfg.approximator.hidden_dim,
        approximator_layers=cfg.approximator.num_layers,
    ).eval()
    net.load_state_dict(support.to_diffusers(weights, cfg))
    return net


def lora_on(weights, *names, strength=0.5):
    """A seeded LoRA of rank 4 on the named layers, in BFL's layout."""
    generator = torch.Generator().manual_seed(4)
    out = {}
    for name in names:
        rows, columns = weights[name + ".weight"].shape
        out[f"diffusion_model.{name}.lora_A.weight"] = torch.randn(4, columns, generator=generator) * columns**-0.5
        out[f"diffusion_model.{name}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) * strength
    return out


def through_host(node, live):
    """What the host's executor makes of a prompt's inputs for a node with dynamic ones; and their schema."""
    from comfy_api.latest import _io

    inputs, _, v3_data = _io.get_finalized_class_inputs(node.INPUT_TYPES(), live)
    known = {**inputs["required"], **inputs["optional"]}
    assert set(inputs["required"]) <= set(live)
    return _io.build_nested_inputs({k: v for k, v in live.items() if k in known}, v3_data), known


def random_t5_weights(config, seed=0):
    """Seeded, in T5's own proportions: attention is not scaled, so queries are small."""
    t5 = support.dev.load_pack("loaders.t5.detect_t5")
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in t5.expected_shapes(config).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("layer_norm.weight"):
            weights[name] = 1 + 0.1 * noise
        elif name in (t5.EMBEDDING, t5.RELATIVE_BIAS):
            weights[name] = noise
        else:
            weights[name] = noise * shape[1] ** -0.5 * (config.head_dim**-0.5 if name.endswith("q.weight") else 1)
    return weights


def small_vae(comfy):
    """A VAE of FLUX's latent space: a TAESD of seeded weights, for the host's own class."""
    import comfy.taesd.taesd

    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        made = comfy.taesd.taesd.TAESD(latent_channels=16).state_dict()
        weights = {
            name: torch.randn(t.shape, generator=generator) * (t[0].numel() ** -0.5 if t.ndim > 1 else 0.02)
            for name, t in made.items()
        }
        return comfy.sd.VAE(sd={**weights, "vae_scale": torch.tensor(0.3611), "vae_shift": torch.tensor(0.1159)})
