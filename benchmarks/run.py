"""How long is a whole picture of 26 steps with CFG? Ours and the host's Chroma in the host's sampler, diffusers' pipeline."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from .measure import alternate, ratio_table, write

WIDTH, LATENT, STEPS, SCALE = 128, 32, 26, 3.5
LARGER, FEWER = (48, 64), 6  # sides of latents, and steps that are enough for a ratio
TOKENS = (48, 2)  # prompt and empty negative, each with its pad
PADDED = (512, 256)


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
    write("run", "A picture of 26 steps with CFG", lines)
