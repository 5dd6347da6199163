"""The host's own FLUX class beside ours: an Approximator that gives its modulation vectors, solved for at some points."""

from __future__ import annotations

import support
import torch
from host_models import block_params

modulation = support.dev.load_pack("chroma_model.modulation")
keys = support.dev.load_pack("loaders.checkpoint.keys")

VECTOR = 16  # width of the pooled text, which the published models have as 768
GUIDANCE, STEPS = 2.5, 4  # of whole runs
RUN_LIMIT = 1e-5  # four steps carry the 2e-6 of one forward on
HIDDEN = 1024  # more than the rows of all points, so that a solution exists and is well conditioned


def config(in_dim=64, hidden=HIDDEN, **more):
    """in_dim: of the Approximator; 32 in FLUX lite. hidden: the more rows are solved for, the more it takes."""
    return support.config(approximator=(in_dim, hidden, 1), **more)


def flux_net(comfy, cfg, guidance_embed=True, seed=0):
    """The host's Flux with seeded weights, float32."""
    import comfy.ldm.flux.model

    net = comfy.ldm.flux.model.Flux(
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
        in_channels=cfg.in_channels // cfg.patch_size**2,
        out_channels=cfg.out_channels // cfg.patch_size**2,
        vec_in_dim=VECTOR,
        **block_params(cfg),
        guidance_embed=guidance_embed,
        txt_ids_dims=[],
    )
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            noise = 1 + 0.1 * noise
        else:
            noise = noise * (parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.02)
        parameter.data.copy_(noise)
    return net.eval().requires_grad_(False)


def modulations(net, timestep, guidance, pooled):
    """(M, D) float64: what FLUX's own modulation layers give, in the order of the Approximator's rows."""
    from comfy.ldm.flux.layers import timestep_embedding

    vec = net.time_in(timestep_embedding(torch.tensor([timestep]), 256))
    if net.params.guidance_embed:
        vec = vec + net.guidance_in(timestep_embedding(torch.tensor([guidance]), 256))
    vec = torch.nn.functional.silu(vec + net.vector_in(pooled))
    layers = [block.modulation.lin for block in net.single_blocks]
    layers += [block.img_mod.lin for block in net.double_blocks] + [block.txt_mod.lin for block in net.double_blocks]
    layers.append(net.final_layer.adaLN_modulation[1])
    width = vec.shape[1]
    return torch.cat([layer(vec).view(-1, width) for layer in layers]).double()


@torch.no_grad()
def approximator(net, cfg, points, pooled=None):
    """Weights of an Approximator that gives FLUX's own vectors at these (timestep, guidance).

    One residual layer over random features: h = in_proj(x) is zero where the result stands, so that
    out = out_layer(silu(in_layer(norm(h)))), whose rows are solved for.
    """
    pooled = torch.zeros(1, VECTOR) if pooled is None else pooled
    width, in_dim, hidden = cfg.hidden_size, cfg.approximator.in_dim, cfg.approximator.hidden_dim
    generator = torch.Generator().manual_seed(1)
    enter = torch.randn(hidden, in_dim, generator=generator)
    enter[:width] = 0
    inner = torch.randn(hidden, hidden, generator=generator) * (3 / hidden**0.5)
    bias = torch.randn(hidden, generator=generator)
    times, guidances = (torch.tensor(values) for values in zip(*points))
    rows = modulation.approximator_input(times, guidances, cfg.num_modulations, in_dim).flatten(0, 1).double()
    h = rows @ enter.T.double()
    h = h / (h.square().mean(1, keepdim=True) + modulation.RMS_NORM_EPS).sqrt()
    features = torch.nn.functional.silu(h @ inner.T.double() + bias)
    wanted = torch.cat([modulations(net, t, g, pooled) for t, g in points])
    solved = torch.linalg.lstsq(features, wanted).solution.T  # (width, hidden)
    leave = torch.zeros(hidden, hidden)
    leave[:width] = solved.float()
    out = torch.eye(width, hidden)
    start = keys.APPROXIMATOR
    return {
        f"{start}in_proj.weight": enter,
        f"{start}in_proj.bias": torch.zeros(hidden),
        f"{start}layers.0.in_layer.weight": inner,
        f"{start}layers.0.in_layer.bias": bias,
        f"{start}layers.0.out_layer.weight": leave,
        f"{start}layers.0.out_layer.bias": torch.zeros(hidden),
        f"{start}norms.0.weight": torch.ones(hidden),
        f"{start}out_proj.weight": out,
        f"{start}out_proj.bias": torch.zeros(width),
    }


def blocks_of(net):
    """Its weights without its own modulation and embedders, under the published names."""
    return {name: t for name, t in net.state_dict().items() if not keys.FLUX_MODULATION.match(name)}


def native_patcher(net, cfg, schnell=False):
    """The host's own MODEL of FLUX, float32."""
    import comfy.model_patcher
    import comfy.supported_models

    names = ("depth", "depth_single_blocks", "axes_dim", "theta", "patch_size", "qkv_bias", "guidance_embed")
    sizes = {name: getattr(net.params, name) for name in (*names, "mlp_ratio", "num_heads", "hidden_size")}
    kind = comfy.supported_models.FluxSchnell if schnell else comfy.supported_models.Flux
    config = kind(
        {
            "image_model": "flux",
            **sizes,
            "in_channels": net.params.in_channels,
            "out_channels": net.params.out_channels,
            "vec_in_dim": VECTOR,
            "context_in_dim": cfg.context_dim,
            "txt_ids_dims": [],
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    model.load_model_weights(dict(net.state_dict()), "")
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def sigmas_of(patcher):
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "simple", STEPS)


def prompts(cfg, **values):
    generator = torch.Generator().manual_seed(3)
    more = {"pooled_output": torch.zeros(1, VECTOR), "guidance": GUIDANCE, **values}
    return [[torch.randn(1, 11, cfg.context_dim, generator=generator), more]]
