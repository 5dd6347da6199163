"""How long is a whole picture of 26 steps with CFG? Ours and the host's Chroma in the host's sampler, diffusers' pipeline."""

from __future__ import annotations

import functools
import statistics
import tempfile
from pathlib import Path
from typing import Any, Mapping

import torch

from .measure import alternate, ratio_table, write
from .painter import forwards, rows_through

WIDTH, LATENT, STEPS, SCALE = 128, 32, 26, 3.5
LARGER, FEWER = (48, 64), 6  # sides of latents, and steps that are enough for a ratio
TOKENS = (48, 2)  # prompt and empty negative, each with its pad
PADDED = (512, 256)
SCHEDULE, PARAMS = "beta", {"alpha": 0.6, "beta": 0.6}
# name -> sampler; values of `samplers/guided_run.Guidance`; of `samplers/step_cache.CacheSettings`
METHODS: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "euler": ("euler", {}, {}),
    "dpmpp_2m": ("dpmpp_2m", {}, {}),
    "res_multistep": ("res_multistep", {}, {}),
    "chroma_res_2m": ("chroma_res_2m", {}, {}),
    "chroma_sigma_2m": ("chroma_sigma_2m", {}, {}),
    "chroma_sigma_3m": ("chroma_sigma_3m", {}, {}),
    "euler, alternate": ("euler", {"alternate": True}, {}),
    "euler, *Chroma Cache* at 0.65": ("euler", {}, {"compute": 0.65}),
}


def costs(n: Any, patcher: Any, text: list[torch.Tensor], rounds: int) -> list[str]:
    """What samplers and savings take beside the forwards that they compute."""
    import dev

    ours, curves = dev.load_pack("host.sample.samplers"), dev.load_pack("samplers.schedules")
    guiders, guided_run = dev.load_pack("host.sample.guiders"), dev.load_pack("samplers.guided_run")
    step_cache, caches = dev.load_pack("samplers.step_cache"), dev.load_pack("host.run.step_cache")
    table = patcher.get_model_object("model_sampling").sigmas
    sigmas = curves.schedule(SCHEDULE, STEPS, PARAMS, table, keep_steps=True)
    noise = torch.randn(1, 16, LATENT, LATENT, generator=torch.Generator().manual_seed(1))

    def call(name: str, guidance: Mapping[str, Any], cache: Mapping[str, Any]) -> Any:
        model = patcher.clone()
        if cache:
            model = caches.StepCache(step_cache.CacheSettings(**cache)).on(model)
        if guidance:
            model = guiders.GuidancePatch(guided_run.Guidance(**guidance)).on(model)
        sampler = ours.sampler(name) if name in ours.SAMPLERS else n.comfy.samplers.sampler_object(name)
        positive, negative = ([[t, {}]] for t in text)
        return lambda: n.comfy.sample.sample_custom(
            model,
            noise,
            SCALE,
            sampler,
            sigmas,
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=1,
        )

    calls = {name: call(*method) for name, method in METHODS.items()}
    computed = {}
    for name, run in calls.items():
        with rows_through(patcher.model.diffusion_model) as rows:
            run()
        computed[name] = forwards(rows)
    seconds = alternate(calls, rounds)
    base, prompts = seconds["euler"], computed["euler"]
    lines = [
        f"Ours, {STEPS} steps of {SCHEDULE} {'/'.join(f'{v:g}' for v in PARAMS.values())}, {torch.get_num_threads()} threads. `forwards`: "
        "prompts computed; `for each forward`: its seconds beside euler's, so that what is above 1 is the method's own work, on a "
        "network as deep as Chroma and so narrow that such work weighs most.",
        "",
        "| method | forwards | median s | ratio to euler | for each forward |",
        "|---|---|---|---|---|",
    ]
    for name, values in seconds.items():
        ratio = statistics.median(v / b for v, b in zip(values, base))
        each = ratio * prompts / computed[name]
        lines.append(f"| {name} | {computed[name]:.1f} | {statistics.median(values):.3f} | {ratio:.2f} | {each:.2f} |")
    return lines


def main(rounds: int) -> None:
    from . import networks as n

    cfg, weights = n.case(WIDTH)
    generator = torch.Generator().manual_seed(0)
    text = [torch.randn(1, count, cfg.context_dim, generator=generator) for count in TOKENS]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = n.support.write(Path(folder) / "model.safetensors", n.support.published(weights))
        ours = n.support.dev.load_pack("host.model.load").load_chroma(str(path))
        native = n.host_models.native_patcher(n.comfy, cfg, weights)
        net = n.host_models.diffusers_net(cfg, weights)
        scheduler = n.diffusers.FlowMatchEulerDiscreteScheduler()
        pipeline = n.diffusers.ChromaPipeline(
            scheduler=scheduler, vae=None, text_encoder=None, tokenizer=None, transformer=net
        )
        pipeline.set_progress_bar_config(disable=True)

        def host(patcher: object, latent: int = LATENT, steps: int = STEPS) -> torch.Tensor:
            conds = [[[t, {}]] for t in text]
            return n.host_models.sample(
                n.comfy,
                patcher,
                cfg,
                steps=steps,
                scale=SCALE,
                size=(latent, latent),
                positive=conds[0],
                negative=conds[1],
            )

        def through_pipeline(padded: int, latent: int = LATENT, steps: int = STEPS) -> object:
            embeds = [torch.nn.functional.pad(t, (0, 0, 0, padded - t.shape[1])) for t in text]
            masks = [(torch.arange(padded) < t.shape[1])[None].float() for t in text]
            return pipeline(
                prompt_embeds=embeds[0],
                prompt_attention_mask=masks[0],
                negative_prompt_embeds=embeds[1],
                negative_prompt_attention_mask=masks[1],
                height=latent * 8,
                width=latent * 8,
                output_type="latent",
                num_inference_steps=steps,
                guidance_scale=SCALE,
                generator=torch.Generator().manual_seed(0),
            ).images

        variants = {
            "ours": lambda: host(ours),
            "ComfyUI's Chroma": lambda: host(native),
            "diffusers' pipeline, 256 tokens": lambda: through_pipeline(PADDED[1]),
            "diffusers' pipeline as shipped (512 tokens)": lambda: through_pipeline(PADDED[0]),
        }
        lines = [
            f"19 + 38 blocks of width {WIDTH}, float32, {STEPS} euler steps, CFG {SCALE}, {LATENT * 8} x {LATENT * 8} pixels "
            f"({(LATENT // 2) ** 2} image tokens), prompt of {TOKENS[0]} and negative of {TOKENS[1]} tokens, PyTorch "
            f"attention everywhere; {rounds} alternating rounds after a warm-up. The host's two runs pad nothing."
        ]
        for threads in (1, 2):
            torch.set_num_threads(threads)
            seconds = alternate(variants, rounds)
            lines += ["", f"## {threads} thread{'s' * (threads > 1)}", "", *ratio_table(seconds, "ours")]
        for latent in LARGER:
            seconds = alternate(
                {
                    "ours": functools.partial(host, ours, latent, FEWER),
                    "ComfyUI's Chroma": functools.partial(host, native, latent, FEWER),
                    "diffusers' pipeline, 256 tokens": functools.partial(through_pipeline, PADDED[1], latent, FEWER),
                },
                rounds,
            )
            title = (
                f"## {latent * 8} x {latent * 8} pixels ({(latent // 2) ** 2} image tokens), {FEWER} steps, 2 threads"
            )
            lines += ["", title, "", *ratio_table(seconds, "ours")]
        lines += ["", "## Samplers and savings", "", *costs(n, ours, text, rounds)]
    write("run", "A picture of 26 steps with CFG", lines)
