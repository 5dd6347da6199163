"""Queued graphs in the host's API format, sound ones and such as a rule of the Doctor has something to say of."""

from __future__ import annotations

import support

HARM, IDLE, HINT = support.dev.load_pack("advice.finding").SEVERITIES
LONG = "blurred, " * 100


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": ""}}


def clean(file="Chroma1-HD.safetensors", loader="ChromaDiffusionLoader", **sampler):
    """A sound KSampler graph."""
    sampler = {"steps": 26, "cfg": 3.5, "sampler_name": "euler", "scheduler": "beta", "denoise": 1.0, **sampler}
    return {
        "1": node(loader, unet_name=file),
        "2": node("CLIPLoader", clip_name="t5xxl.safetensors", type="chroma"),
        "3": node("VAELoader", vae_name="ae.safetensors"),
        "4": node("ModelSamplingAuraFlow", model=["1", 0], shift=1.0),
        "5": node("CLIPTextEncode", clip=["2", 0], text="a red fox asleep on a mossy rock"),
        "6": node("CLIPTextEncode", clip=["2", 0], text=""),
        "9": node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1),
        "10": node(
            "KSampler",
            model=["4", 0],
            positive=["5", 0],
            negative=["6", 0],
            latent_image=["9", 0],
            seed=1,
            **sampler,
        ),
        "11": node("VAEDecode", samples=["10", 0], vae=["3", 0]),
        "12": node("SaveImage", images=["11", 0]),
    }


def custom(file="Chroma1-HD.safetensors", guider="CFGGuider", cfg=3.5, sampler="euler", **scheduler):
    """The same with SamplerCustomAdvanced."""
    graph = clean(file)
    graph["10"] = node(
        "SamplerCustomAdvanced",
        noise=["20", 0],
        guider=["21", 0],
        sampler=["22", 0],
        sigmas=["23", 0],
        latent_image=["9", 0],
    )
    graph["20"] = node("RandomNoise", noise_seed=1)
    graph["21"] = node(guider, model=["4", 0], positive=["5", 0], negative=["6", 0], cfg=cfg)
    graph["22"] = node("KSamplerSelect", sampler_name=sampler)
    graph["23"] = node(
        "BasicScheduler", **{"model": ["4", 0], "scheduler": "beta", "steps": 26, "denoise": 1.0, **scheduler}
    )
    return graph


def change(graph, key, class_type=None, **inputs):
    graph[key]["inputs"].update(inputs)
    graph[key]["class_type"] = class_type or graph[key]["class_type"]
    return graph


def between(graph, class_type, below="10", name="model", key="50", **inputs):
    """Puts a node before an input."""
    graph[key] = node(
        class_type, **{name if name in ("model", "clip") else "conditioning": graph[below]["inputs"][name]}, **inputs
    )
    graph[below]["inputs"][name] = [key, 0]
    return graph


def ksampler(graph, model="1", **inputs):
    """Chroma KSampler in place of a KSampler."""
    graph["10"] = node("ChromaKSampler", **{"model": [model, 0], "positive": ["5", 0], "negative": ["6", 0], "latent": ["9", 0], "cfg": 3.5, "steps": 26, "sampler": "res_multistep", "schedule": "beta", "shift": "1 (as trained)", "denoise": 1.0, **inputs})  # fmt: skip
    return graph


def several(number, loader="TripleCLIPLoader"):
    """A graph whose text encoders are loaded together."""
    return clean() | {"2": node(loader, **{f"clip_name{n + 1}": "t5xxl.safetensors" for n in range(number)})}


def flashed(graph, **inputs):
    """Chroma Flash between the model and a Chroma KSampler, which takes its settings."""
    graph["60"] = node("ChromaFlash", **{"model": graph["10"]["inputs"]["model"], "lora_name": "x.safetensors", "strength_model": 1.0, "steps": 0, "start": "at once", **inputs})  # fmt: skip
    return change(graph, "10", model=["60", 0], settings=["60", 1])


GUIDED = {"start": "guided first", "start.guided_steps": 2, "start.cfg": 3.5}

SHOWN = {"model": ["1", 0], "positive": ["5", 0], "latent": ["9", 0]}  # to a node that is no sampler

# Graphs, and what the Doctor finds in them.
CASES = [
    (clean(cfg=1.0), [(HINT, "10", "cfg 1 with Chroma1-HD")]),
    (change(clean(), "10", negative=["5", 0]), [(IDLE, "10", "the positive prompt is the negative one too")]),
    (change(clean(), "6", text="blurry, low quality"), [(HINT, "6", "a short negative prompt")]),
    (ksampler(clean(), cfg=100.0), [(HARM, "10", "cfg 100")]),
    (clean(cfg=0.0), [(HARM, "10", "cfg 0")]),
    (ksampler(clean(), skip_first_steps=40), [(IDLE, "10", "skip first steps 40 of 26")]),
    (ksampler(clean(), skip_first_steps=3), []),
    (ksampler(clean(), quality="standard", steps=["70", 0]) | {"70": node("PrimitiveInt", value=12)}, [(IDLE, "10", "steps by link, beside quality standard")]),
    (flashed(ksampler(clean(), cfg=["70", 0])) | {"70": node("PrimitiveFloat", value=2.0)}, [(IDLE, "10", "cfg by link, beside settings")]),
    (ksampler(clean(), quality="custom", steps=["70", 0]) | {"70": node("PrimitiveInt", value=26)}, []),
    (flashed(ksampler(clean())), []),
    (flashed(ksampler(clean()), **GUIDED), []),
    (
        change(clean(), "9", width=16, height=2048),
        [(HINT, "9", "16 x 2048 with Chroma1-HD"), (HINT, "9", "16 x 2048 is a strip")],
    ),
    (change(clean(), "5", text="雪中的红狐狸"), [(IDLE, "5", "a prompt that T5 cannot read")]),
    (change(clean(), "5", text="un café à Zürich, ţară"), []),
    (change(clean(), "5", text="a fox <lora:snow:1>"), [(HINT, "5", "“<lora:snow:1>” in the prompt")]),
    (
        between(clean(), "FluxGuidance", name="positive", guidance=3.5),
        [(HARM, "50", "FLUX's guidance with Chroma")],
    ),
    (between(clean(), "FluxGuidance", name="positive", guidance=0.0), []),
    (between(between(clean(), "FluxGuidance", name="positive", guidance=3.5), "ChromaPadMask", name="positive", key="51"), []),
    (between(clean(), "FluxDisableGuidance", name="positive"), []),
    (
        between(clean(loader="UNETLoader"), "FluxDisableGuidance", name="positive"),
        [(HARM, "50", "FluxDisableGuidance with ComfyUI's Chroma")],
    ),
    (change(clean(), "2", type="sd3"), [(HARM, "2", "a text encoder of the type sd3")]),
    (change(clean(), "2", class_type="DualCLIPLoader", type="flux"), [(HARM, "2", "a text encoder of the type flux")]),
    (several(3), [(HARM, "2", "a text encoder of the type sd3")]),
    (several(4, "QuadrupleCLIPLoaderGGUF"), [(HARM, "2", "a text encoder of the type hidream")]),
    (change(several(2, "DualCLIPLoader"), "2", type="sdxl"), []),
    (between(between(change(clean(), "2", type="sd3"), "T5TokenizerOptions", below="5", name="clip"), "T5TokenizerOptions", below="6", name="clip", key="51"), []),
    (clean(scheduler="karras"), [(HARM, "10", "the schedule karras with Chroma")]),
    (custom(scheduler="exponential"), [(HARM, "23", "the schedule exponential with Chroma")]),
    (custom() | {"23": node("AlignYourStepsScheduler", steps=26, denoise=1.0)}, [(HARM, "23", "the schedule AlignYourStepsScheduler with Chroma")]),
    (custom() | {"23": node("OptimalStepsScheduler", model_type="Chroma", steps=26, denoise=1.0)}, []),
    (change(clean(), "4", class_type="ModelSamplingSD3"), [(HARM, "4", "ModelSamplingSD3 with Chroma")]),
    (change(clean(), "10", model=["1", 0]), [(HINT, "10", "the model's shift is ComfyUI's 3.16")]),
    (custom(model=["1", 0]), [(IDLE, "4", "the shift does not reach the schedule")]),
    (between(clean(), "ChromaTimestepShift", mode="shift 1"), []),
    (between(change(clean(), "4", shift=3.0), "ChromaTimestepShift", mode="shift 1"), [(IDLE, "4", "the shift of ModelSamplingAuraFlow")]),
    (change(clean(), "10", model=["1", 0], scheduler="bong_tangent"), []),
    (clean() | {"70": node("ChromaMeasureBlocks", **SHOWN, count=4, seed=0, steps=3)}, []),
    (clean() | {"70": node("ChromaCompareModels", **SHOWN, reference=["4", 0], steps=3, seed=0)}, []),
    (clean() | {"70": node("Context (rgthree)", **SHOWN, negative=["6", 0])}, []),
    (clean(steps=8), [(HINT, "10", "8 steps with Chroma1-HD")]),
    (change(clean(), "9", width=1000, height=1024), [(HINT, "9", "1000 x 1024 is not in steps of 16")]),
    (clean(denoise=0.5), [(HARM, "10", "denoise 0.5 of an empty picture")]),
    (change(clean(loader="UNETLoader"), "1", weight_dtype="fp8_e4m3fn"), [(HINT, "1", "weight_dtype fp8_e4m3fn")]),
    (change(clean(loader="UNETLoader"), "1", weight_dtype="default"), []),
    (clean(file="chroma-unlocked-v50.safetensors"), [(HINT, "1", "a checkpoint that is not recommended")]),
    (between(clean(file="Chroma1-Flash.safetensors", cfg=1.0, steps=8), "EasyCache"), [(HINT, "50", "EasyCache with 8 steps")]),
    (between(clean(), "TeaCache"), [(IDLE, "50", "TeaCache with Chroma")]),
    (between(clean(steps=30, loader="UNETLoader"), "MagCache"), [(HARM, "50", "MagCache with 30 steps")]),
    (between(clean(), "MagCache"), [(HARM, "50", "MagCache with Load Chroma Model")]),
    (between(clean(), "CLIPNegPip"), [(HARM, "50", "CLIPNegPip with Load Chroma Model")]),
    (between(clean(), "ApplyPulidFlux"), [(IDLE, "50", "ApplyPulidFlux with Load Chroma Model")]),
    (between(clean(loader="UNETLoader"), "ApplyPulidFlux"), []),
    (between(clean(), "DyPE_FLUX"), []),
    (between(clean(), "NAGuidance"), []),
    (between(clean(sampler_name="dpm_fast"), "ChromaGuidance", alternate=True), [(IDLE, "50", "alternate saves nothing with dpm_fast")]),
    (between(clean(sampler_name="dpmpp_3m_sde"), "ChromaGuidance", alternate=True), [(IDLE, "50", "alternate saves nothing with dpmpp_3m_sde")]),
    (between(clean(sampler_name="dpmpp_3m_sde"), "ChromaGuidance", alternate=False), []),
    (between(clean(), "ChromaGuidance", alternate=True), []),
    (between(clean(steps=20), "ChromaGuidance", alternate=True), []),
    (between(clean(steps=19), "ChromaGuidance", alternate=True), [(HINT, "50", "alternate with 19 steps")]),
    (between(clean(steps=19), "ChromaGuidance", alternate=False), []),
    (between(clean(sampler_name="chroma_sigma_2m"), "ChromaGuidance", alternate=True), [(HINT, "50", "alternate with 26 steps of chroma_sigma_2m")]),
    (between(clean(loader="UNETLoader"), "NAGuidance"), [(IDLE, "50", "NAGuidance with ComfyUI's Chroma")]),
    (between(clean(), "PerturbedAttentionGuidance", scale=3.0), [(IDLE, "50", "PerturbedAttentionGuidance with Chroma")]),
    (between(clean(), "FreeU_V2"), [(HARM, "50", "FreeU_V2 with Chroma")]),
    (between(clean(loader="UNETLoader"), "ReferenceLatent", name="positive"), [(IDLE, "50", "ReferenceLatent with Chroma")]),
    (between(between(clean(), "ReferenceLatent", name="positive"), "FluxKVCache", key="51"), [(HARM, "51", "FluxKVCache with references")]),
    (between(between(between(clean(), "ReferenceLatent", name="positive"), "FluxKontextMultiReferenceLatentMethod", name="positive", key="52"), "FluxKVCache", key="51"), []),
    (between(clean(), "FluxKVCache"), []),
]  # fmt: skip

# For the rules that the cases leave out.
MORE = [
    change(clean(), "3", vae_name="sdxl_vae.safetensors"),
    change(clean(cfg=1.0), "6", text="blurry"),
    clean(file="Chroma1-Flash.safetensors", cfg=4.0, steps=8),
    change(clean(steps=8, scheduler="simple"), "10", model=["1", 0]),
    change(clean(), "5", text=LONG * 10),
    change(clean(), "9", width=3072, height=3072),
    change(clean(file="Chroma1-Radiance.safetensors"), "9", class_type="EmptyChromaRadianceLatentImage"),
    between(clean(sampler_name="heun"), "EasyCache"),
    between(clean(), "EasyCache"),  # in float32
]
