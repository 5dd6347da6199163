"""Is the full model right on a card: against float32, ComfyUI, and the same weights unpacked; LoRA, attention, fp16."""

from __future__ import annotations

import math
from typing import Any, Callable, Iterator

import dev

from .rig import Rig

FORMATS = ("fp8_scaled", "int8_convrot", "mxfp8", "nvfp4", "q8_0", "q5_1", "q4_1")
OURS_ONLY = ("q8_0", "q5_1", "q4_1")  # of FORMATS, what ComfyUI does not read
GGML = ("Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ4_NL", "Q5_0", "Q4_0")
WITH_LORA = ("bf16", "fp8_scaled", "int8_convrot", "q8_0", "Q4_K")
ATTENTION = ("pytorch", "sub_quad", "split", "flash", "sage", "xformers")
RANK, LORA_SHARE = 32, 0.1  # the LoRA's change, of the weight's norm
FP16_SIZES = (1.0, 30.0)  # factors on the text: the second drives the streams of the random network far up


def cases(rig: Rig) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    yield "bf16 against float32: ours, ComfyUI, diffusers", lambda: against_float32(rig)
    for name in (*rig.some(FORMATS), *rig.some(GGML)):
        yield f"products of {name} against the weights unpacked", lambda name=name: products(rig, name)
    for name in rig.some(GGML):
        yield f"unpacking {name} equals the CPU's", lambda name=name: unpacking(rig, name)
    for name in ATTENTION:
        yield f"attention {name} against PyTorch's", lambda name=name: attention(rig, name)
    for factor in FP16_SIZES:
        yield f"fp16, text times {factor:g}", lambda factor=factor: fp16(rig, factor)
    for name in rig.some(("bf16", *FORMATS[:4], "q8_0", "Q4_K")):
        yield f"forward in {name}", lambda name=name: forward(rig, name)
        if name in WITH_LORA:  # beside its forward, while the model is there
            yield f"LoRA on {name}", lambda name=name: lora(rig, name)


def run(rig: Rig, net: Any, **inputs: Any) -> Any:
    """One forward of our network or ComfyUI's."""
    import torch

    given = {**rig.inputs(), **inputs}
    guidance = torch.zeros(1, device=rig.device)
    return net(given["x"], given["timesteps"], given["context"], guidance, transformer_options={})


def through_diffusers(rig: Rig, net: Any, **inputs: Any) -> Any:
    """diffusers' forward on the same inputs, as (B, C, H, W)."""
    import torch

    given = {**rig.inputs(), **inputs}
    latents, embeddings = dev.load_pack("chroma_model.latents"), dev.load_pack("chroma_model.embeddings")
    height, width = given["x"].shape[2] // 2, given["x"].shape[3] // 2
    text = given["context"].shape[1]
    out = net(
        hidden_states=latents.patchify(given["x"], 2),
        encoder_hidden_states=given["context"],
        timestep=given["timesteps"],
        txt_ids=torch.zeros(text, 3, device=rig.device),
        img_ids=embeddings.position_ids(0, height, width, device=rig.device),
    ).sample
    return latents.unpatchify(out, *given["x"].shape[2:], 2)


def against_float32(rig: Rig) -> dict[str, Any]:
    """The full network in float32 takes 36 GB; a card without them tells so."""
    import torch

    exact = run(rig, rig.net("ours", torch.float32), **{k: v.float() for k, v in rig.inputs().items()})
    found = {}
    for whose in ("ours", "ComfyUI"):
        found[whose] = rig.support.relative(run(rig, rig.net(whose)), exact)
    found["diffusers"] = rig.support.relative(through_diffusers(rig, rig.net("diffusers")), exact)
    if not math.isfinite(sum(found.values())):
        raise ValueError(f"not finite: {found}")
    return found


def products(rig: Rig, name: str) -> dict[str, Any]:
    """One layer's product as stored, and with its weight unpacked, both against float32 of the unpacked weight."""
    import torch

    layer = rig_layer(rig, name)
    x = torch.randn(64, layer.in_features, device=rig.device, dtype=rig.dtype)
    weight = layer.weight.dequantize().float()
    exact = torch.nn.functional.linear(x.float(), weight, layer.bias.float())
    found = layer(x[None])[0]
    format = dev.load_pack("host.model.layers").format_of(layer)
    reason = dev.load_pack("host.model.matmul").lacking(format, rig.device) if format.matmul else "unpacked at use"
    plain = torch.nn.functional.linear(x, weight.to(rig.dtype), layer.bias.to(rig.dtype))
    return {
        "as used": rig.support.relative(found, exact),
        "unpacked": rig.support.relative(plain, exact),
        "multiplied as stored": reason or "yes",
    }


def rig_layer(rig: Rig, name: str) -> Any:
    """One linear of our layers with seeded weights in a format."""
    import formats
    import torch

    registry = dev.load_pack("loaders.formats.base.registry")
    weights, layers = dev.load_pack("host.model.weights"), dev.load_pack("host.model.layers")
    generator = torch.Generator(rig.device).manual_seed(2)
    width = max(256, rig.scale.width)  # a block of GGML's
    dense = torch.randn(width, width, generator=generator, device=rig.device) * width**-0.5
    if name in registry.QUANT_MODES:
        packed, settings = weights.pack(dense, registry.QUANT_MODES[name])
        format = registry.FORMATS[registry.QUANT_MODES[name].format]
    else:
        held = weights.Held(name, rig.blocks(name, dense), tuple(dense.shape), {"scale": None})
        packed, settings, format = weights.tensor_of(held, rig.dtype), {}, registry.FORMATS[name]
    packed = packed.to(dtype=rig.dtype)
    layer = layers.operations(rig.dtype, rig.device).Linear(width, width, bias=True, device=rig.device)
    marker = formats.marker(format=format.host_name, **settings)
    layer.load_state_dict({"weight": packed, "bias": torch.zeros(width, dtype=rig.dtype), "comfy_quant": marker})
    return layer.to(rig.device)


def unpacking(rig: Rig, name: str) -> dict[str, Any]:
    """Bit for bit."""
    import torch

    types = dev.load_pack("loaders.formats.ggml")
    blocks = rig.blocks(name, torch.randn(64, 1024))
    here, cpu = (types.dequantise(b, name, torch.float32) for b in (blocks, blocks.cpu()))
    return {"different": int((here.cpu() != cpu).sum()), "of": cpu.numel()}


def attention(rig: Rig, name: str) -> dict[str, Any]:
    """A forward with the kernel that ComfyUI has registered under this name."""
    import comfy.ldm.modules.attention as kernels
    import torch

    chosen = kernels.get_attention_function(name, None)
    if chosen is None:
        return {"not here": f"ComfyUI has no {name} on this machine"}
    scale = rig.scale
    q, k, v = (
        torch.randn(1, scale.heads, scale.text + (scale.pixels // 16) ** 2, 128, device=rig.device, dtype=rig.dtype)
        for _ in range(3)
    )
    exact = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    exact = exact.transpose(1, 2).flatten(2)
    return {"distance": rig.support.relative(chosen(q, k, v, scale.heads, skip_reshape=True), exact)}


def fp16(rig: Rig, factor: float) -> dict[str, Any]:
    """Whether a forward in float16 stays finite, and how far it is from the one in the usual type."""
    import torch

    context = rig.inputs()["context"] * factor
    usual = run(rig, rig.net("ours"), context=context)
    half = {k: v.half() if k != "timesteps" else v for k, v in rig.inputs().items()}
    found = {}
    for whose in ("ours", "ComfyUI"):
        out = run(rig, rig.net(whose, torch.float16), **{**half, "context": context.half()})
        found[f"{whose}, finite"] = bool(torch.isfinite(out).all())
        found[f"{whose}, distance to {str(rig.dtype)[6:]}"] = rig.support.relative(out.nan_to_num(), usual)
    return found


def unpacked(rig: Rig, name: str, factors: dict[str, Any] | None = None) -> Any:
    """A bare network on the weights of `ours(name)`, unpacked; with a LoRA's factors multiplied out and added."""
    state = dict(rig.ours(name).model.diffusion_model.named_parameters())
    weights = {k: (w.dequantize() if hasattr(w, "layout_cls") else w).to(rig.dtype) for k, w in state.items()}
    for layer, w in weights.items():
        stem = f"diffusion_model.{layer.removesuffix('.weight')}"
        if factors and f"{stem}.lora_A.weight" in factors:
            up, down = (factors[f"{stem}.lora_{part}.weight"].to(rig.device) for part in "BA")
            weights[layer] = (w.float() + up @ down).to(rig.dtype)
    return rig.net("ours", weights=weights)


def forward(rig: Rig, name: str) -> dict[str, Any]:
    """Ours in this format against the network on its weights unpacked, and ComfyUI's on the same tensors."""
    exact = run(rig, unpacked(rig, name))
    ours = run(rig, rig.ours(name).model.diffusion_model)
    found = {"ours to unpacked": rig.support.relative(ours, exact)}
    if name in dev.load_pack("loaders.formats.base.registry").QUANT_MODES:  # random blocks of GGML's have no original
        found["ours to the weights unquantised"] = rig.support.relative(ours, run(rig, rig.net("ours")))
    if name not in (*GGML, *OURS_ONLY):
        native = run(rig, rig.native(name).model.diffusion_model)
        found["ComfyUI to unpacked"] = rig.support.relative(native, exact)
        found["ours to ComfyUI"] = rig.support.relative(ours, native)
    return found


def lora(rig: Rig, name: str) -> dict[str, Any]:
    """The change that a LoRA makes to the output, against that of its factors multiplied out on unpacked weights."""
    import torch

    generator = torch.Generator().manual_seed(3)
    factors = {}
    for layer, w in rig.weights().items():
        if w.ndim == 2 and layer.startswith("single_blocks"):
            rows, columns = w.shape
            stem = f"diffusion_model.{layer.removesuffix('.weight')}"
            factors[f"{stem}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator) * columns**-0.5
            factors[f"{stem}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) * LORA_SHARE / RANK**0.5
    exact = run(rig, unpacked(rig, name, factors)).float() - run(rig, unpacked(rig, name)).float()
    before = run(rig, rig.ours(name).model.diffusion_model).float()
    patched, _ = rig.comfy.sd.load_lora_for_models(rig.ours(name), None, factors, 1.0, 0.0)
    rig.comfy.model_management.load_models_gpu([patched])
    change = run(rig, patched.model.diffusion_model).float() - before
    patched.detach()
    return {"size of the change": float(exact.norm() / before.norm()), "distance": rig.support.relative(change, exact)}
