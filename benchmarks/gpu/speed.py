"""How long are a forward and a picture: ours, ComfyUI's, diffusers', by format, size, and compiled; and where it goes."""

from __future__ import annotations

import contextlib
import importlib.util
from typing import Any, Callable, Iterator

from .correctness import through_diffusers
from .rig import Rig, flops

FORMATS = ("fp8_scaled", "int8_convrot", "q8_0", "Q4_K", "mxfp8", "nvfp4")
READ_BY_COMFYUI = ("bf16", "fp8_scaled", "int8_convrot", "mxfp8", "nvfp4")
COMPILED = ("bf16", "fp8_scaled", "int8_convrot", "q8_0")
RECIPE = {"stored": "fp8_scaled", "cfg": 7.0, "published": 32.6 / 24.6}  # RTX 4090: ComfyUI's seconds to the rival's
CFG = 3.5
TOP = 15  # kernels of a profile
REPEATS = 10  # of a product whose rate is measured


def cases(rig: Rig) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    scale = rig.scale
    yield "ceiling of products", lambda: ceiling(rig)
    yield "forward bf16", lambda: forward(rig, "bf16", scale.pixels, with_diffusers=True)
    for stored in rig.some(FORMATS[:3]):
        yield f"forward {stored}", lambda stored=stored: forward(rig, stored, scale.pixels)
    yield "recipe", lambda: picture(rig, RECIPE["stored"], scale.recipe_steps, RECIPE["cfg"])
    for stored in COMPILED[:1] if rig.rehearse else COMPILED[:3]:
        yield f"forward {stored}, compiled by block", lambda stored=stored: compiled(rig, stored)
    yield "recipe, compiled by block", lambda: compiled_picture(rig)
    yield "picture bf16", lambda: picture(rig, "bf16", scale.steps, CFG)
    yield "profile of the slowest", lambda: profile_of(rig, slowest=True)
    yield "profile of the best", lambda: profile_of(rig, slowest=False)
    for stored in rig.some(FORMATS[3:]):
        yield f"forward {stored}", lambda stored=stored: forward(rig, stored, scale.pixels)
    for stored in ("bf16",) if rig.rehearse else ("bf16", "fp8_scaled"):
        for side in scale.sides:
            if side != scale.pixels:
                yield (
                    f"forward {stored}, {side} pixels",
                    lambda stored=stored, side=side: forward(rig, stored, side),
                )
    yield "SageAttention", lambda: sage(rig)
    yield "picture bf16, diffusers", lambda: diffusers_picture(rig)
    if not rig.rehearse:  # the same code again, and slow
        yield f"forward {COMPILED[3]}, compiled by block", lambda: compiled(rig, COMPILED[3])
        yield "forward bf16, compiled as a whole", lambda: compiled(rig, "bf16", whole=True)


# --- forwards --------------------------------------------------------------------------------------------------------


def calls(rig: Rig, stored: str, pixels: int) -> dict[str, Callable[[], Any]]:
    """A forward of ours and, where it reads the format, of ComfyUI's, on the same tensors; modulations not kept."""
    import torch

    given, guidance = rig.inputs(pixels), torch.zeros(1, device=rig.device)
    nets = {"ours": rig.ours(stored).model.diffusion_model}
    if stored in READ_BY_COMFYUI:
        nets["ComfyUI"] = rig.native(stored).model.diffusion_model
    x, t, context = given["x"], given["timesteps"], given["context"]
    made = {name: lambda net=net: net(x, t, context, guidance, transformer_options={}) for name, net in nets.items()}
    known = nets["ours"].modulations(t, guidance)
    made["ours, modulations kept"] = lambda: nets["ours"](
        x, t, context, guidance, transformer_options={}, modulations=known
    )
    return made


def forward(rig: Rig, stored: str, pixels: int, with_diffusers: bool = False) -> dict[str, Any]:
    made = calls(rig, stored, pixels)
    if with_diffusers:
        given, net = rig.inputs(pixels), rig.net("diffusers")
        made["diffusers"] = lambda: through_diffusers(rig, net, **given)
    return with_rate(rig, rig.alternate(made), pixels)


def with_rate(rig: Rig, found: dict[str, Any], pixels: int) -> dict[str, Any]:
    """Adds TFLOP/s of ours, and their share of the ceiling of bf16 products if that is known."""
    seconds = found["ours, s"]
    rate = flops(rig.config, (pixels // 16) ** 2, rig.scale.text) / seconds / 1e12
    top = rig.found.get("ceiling of products", {}).get("bf16, TFLOP/s")
    return {**found, "ours, TFLOP/s": rate, **({"of the bf16 ceiling": rate / top} if top else {})}


def ceiling(rig: Rig) -> dict[str, Any]:
    """TFLOP/s of the largest products of a block, in each type that the device multiplies."""
    import torch

    rows, width = rig.scale.text + (rig.scale.pixels // 16) ** 2, rig.scale.width
    x = torch.randn(rows, width, device=rig.device)
    w = torch.randn(7 * width, width, device=rig.device) * width**-0.5
    one = torch.ones((), device=rig.device)
    a8, b8 = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)
    ai, bi = (t.mul(30).clamp(-127, 127).to(torch.int8) for t in (x, w))
    a16, b16 = x.to(torch.bfloat16), w.to(torch.bfloat16)
    found: dict[str, Any] = {}
    for name, product in {
        "bf16": lambda: a16 @ b16.t(),
        "fp8": lambda: torch._scaled_mm(a8, b8.t(), one, one, out_dtype=torch.bfloat16),
        "int8": lambda: torch._int_mm(ai, bi.t()),
    }.items():
        try:
            seconds = rig.alternate({name: lambda go=product: [go() for _ in range(REPEATS)]})[f"{name}, s"]
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0][:120]
            continue
        found[f"{name}, TFLOP/s"] = 2 * rows * 7 * width * width * REPEATS / seconds / 1e12
    return found


# --- compiled --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def by_block(rig: Rig, *nets: Any, whole: bool = False) -> Iterator[None]:
    """These networks compiled in place, block by block or as a whole, with no guard on options, as ComfyUI's node has it."""
    import torch

    torch._dynamo.reset()
    backend = "eager" if rig.rehearse else "inductor"
    options = {"guard_filter_fn": lambda entries: ["options" not in e.name for e in entries]}
    modules = [m for net in nets for m in ([net] if whole else [*net.double_blocks, *net.single_blocks])]
    for module in modules:
        module.compile(backend=backend, options=options if backend == "inductor" else None)
    try:
        yield
    finally:
        for module in modules:
            module._compiled_call_impl = None  # as before nn.Module.compile


def compiled(rig: Rig, stored: str, whole: bool = False) -> dict[str, Any]:
    """Seconds of compiled forwards, and how long the first of each took."""
    import time

    made = calls(rig, stored, rig.scale.pixels)
    patchers = [rig.ours(stored), *([rig.native(stored)] if stored in READ_BY_COMFYUI else [])]
    nets = [patcher.model.diffusion_model for patcher in patchers]
    first: dict[str, float] = {}
    with by_block(rig, *nets, whole=whole):
        for name, call in made.items():
            start = time.perf_counter()
            call()
            rig.sync()
            first[f"{name}, first s"] = time.perf_counter() - start
        return {**with_rate(rig, rig.alternate(made), rig.scale.pixels), **first}


def compiled_picture(rig: Rig) -> dict[str, Any]:
    stored = RECIPE["stored"]
    patchers = rig.ours(stored), rig.native(stored)
    with by_block(rig, *(p.model.diffusion_model for p in patchers)):
        return picture(rig, stored, rig.scale.recipe_steps, RECIPE["cfg"])


# --- pictures --------------------------------------------------------------------------------------------------------


def picture(rig: Rig, stored: str, steps: int, cfg: float) -> dict[str, Any]:
    """Runs of ComfyUI's sampler with CFG, as a user would: euler, `simple`, 48 and 2 tokens of text."""
    patchers = {"ours": rig.ours(stored), "ComfyUI": rig.native(stored)}
    made = {name: lambda p=p: rig.sample(p, steps, cfg) for name, p in patchers.items()}
    found = rig.alternate(made, rounds=1 if rig.rehearse else 2)
    apart = rig.support.relative(made["ours"](), made["ComfyUI"]())
    return {"steps": steps, "cfg": cfg, **found, "pictures apart": apart}


def diffusers_picture(rig: Rig) -> dict[str, Any]:
    """diffusers' pipeline as shipped: 512 tokens, mask, linear schedule."""
    import diffusers
    import torch

    padded, lengths = (16, (8, 2)) if rig.rehearse else (512, (48, 2))
    net = rig.net("diffusers")
    pipeline = diffusers.ChromaPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        transformer=net,
    )
    pipeline.set_progress_bar_config(disable=True)
    text = torch.randn(2, 1, padded, rig.config.context_dim, device=rig.device, dtype=rig.dtype)
    masks = [(torch.arange(padded, device=rig.device) < n)[None].to(rig.dtype) for n in lengths]

    def run() -> Any:
        return pipeline(
            prompt_embeds=text[0],
            prompt_attention_mask=masks[0],
            negative_prompt_embeds=text[1],
            negative_prompt_attention_mask=masks[1],
            height=rig.scale.pixels,
            width=rig.scale.pixels,
            output_type="latent",
            num_inference_steps=rig.scale.steps,
            guidance_scale=CFG,
            generator=torch.Generator().manual_seed(0),
        ).images

    return {"steps": rig.scale.steps, **rig.alternate({"diffusers": run}, rounds=1)}


def sage(rig: Rig) -> dict[str, Any]:
    """A forward with SageAttention in ComfyUI's attention, beside PyTorch's."""
    import comfy.ldm.modules.attention as kernels

    if importlib.util.find_spec("sageattention") is None:
        return {"not here": "sageattention is not installed"}
    made = calls(rig, "bf16", rig.scale.pixels)

    def with_sage() -> Any:
        before = kernels.optimized_attention
        kernels.optimized_attention = kernels.get_attention_function("sage")
        try:
            return made["ours"]()
        finally:
            kernels.optimized_attention = before

    found = rig.alternate({"ours": made["ours"], "ours with sage": with_sage})
    return {**found, "apart": rig.support.relative(with_sage(), made["ours"]())}


# --- where the time goes ---------------------------------------------------------------------------------------------


def profile_of(rig: Rig, slowest: bool) -> dict[str, Any]:
    """Top kernels of the slowest or the fastest uncompiled forward of ours at the usual size, and time between kernels."""
    times = {
        name.removeprefix("forward "): found["ours, s"]
        for name, found in rig.found.items()
        if name.startswith("forward ") and "," not in name and "ours, s" in found
    }
    if not times:
        raise ValueError("no forward was measured yet")
    stored = (max if slowest else min)(times, key=times.get)
    call = calls(rig, stored, rig.scale.pixels)["ours, modulations kept"]
    return {"stored as": stored, **profile(rig, call)}


def profile(rig: Rig, call: Callable[[], Any]) -> dict[str, Any]:
    import torch
    from torch.profiler import ProfilerActivity

    on_card = rig.device.type == "cuda"
    call()
    rig.sync()
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU]) as seen:
        call()
        rig.sync()
    if on_card:
        events = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        spans = sorted((e.time_range.start, e.time_range.end) for e in events)
    else:
        events = [e for e in seen.events() if e.cpu_parent is None]
        spans = sorted((e.time_range.start, e.time_range.end) for e in events)
    totals: dict[str, list[float]] = {}
    for e in events:
        entry = totals.setdefault(e.name[:120], [0, 0.0])
        entry[0] += 1
        entry[1] += e.time_range.elapsed_us() / 1000
    busy, reached = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    top = sorted(totals.items(), key=lambda item: -item[1][1])[:TOP]
    return {
        "span ms": (reached - spans[0][0]) / 1000,
        "between kernels ms": (reached - spans[0][0] - busy) / 1000,
        "kernels": len(spans),
        "top": [{"kernel": name, "count": count, "ms": ms} for name, (count, ms) in top],
    }
