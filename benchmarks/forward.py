"""How long is one forward? Ours, the host's Chroma and diffusers on the same weights and inputs."""

from __future__ import annotations

import torch

from .measure import alternate, ratio_table, write

WIDTH, LATENT, TOKENS, PADDED = 256, 64, 256, 512


def main(rounds: int) -> None:
    from . import networks as n

    cfg, weights = n.case(WIDTH)
    ours, native = n.host_models.our_net(n.comfy, cfg, weights), n.host_models.native_net(n.comfy, cfg, weights)
    other = n.host_models.diffusers_net(cfg, weights)
    data = n.support.inputs(cfg, height=LATENT, width=LATENT, tokens=TOKENS)
    patches = n.support.dev.load_pack("chroma_model.latents").patchify(data["x"], 2)
    ids = n.support.dev.load_pack("chroma_model.embeddings").position_ids(0, LATENT // 2, LATENT // 2)
    padded = torch.nn.functional.pad(data["context"], (0, 0, 0, PADDED - TOKENS))
    float_mask = torch.ones(1, PADDED + len(ids))
    float_mask[:, TOKENS:PADDED] = 0
    guidance = torch.zeros(1)

    def through_diffusers(context: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return other(
            hidden_states=patches,
            encoder_hidden_states=context,
            timestep=data["timesteps"],
            txt_ids=torch.zeros(context.shape[1], 3),
            img_ids=ids,
            attention_mask=mask,
        ).sample

    modulations = ours.modulations(data["timesteps"], guidance)
    variants = {
        "ours": lambda: ours(data["x"], data["timesteps"], data["context"], guidance),
        "ours, modulations known (every forward of a run but the first of a step)": lambda: ours(
            data["x"], data["timesteps"], data["context"], guidance, modulations=modulations
        ),
        "ComfyUI's Chroma": lambda: native(data["x"], data["timesteps"], data["context"], guidance),
        "diffusers, 256 tokens": lambda: through_diffusers(data["context"]),
        "diffusers as its pipeline calls it (512 tokens, mask)": lambda: through_diffusers(padded, float_mask),
    }
    lines = [
        f"19 + 38 blocks of width {WIDTH}, float32, {len(ids)} image and {TOKENS} text tokens, PyTorch attention "
        f"everywhere; {rounds} alternating rounds after a warm-up."
    ]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with torch.inference_mode():
            seconds = alternate(variants, rounds)
        lines += ["", f"## {threads} thread{'s' * (threads > 1)}", "", *ratio_table(seconds, "ours")]
    write("forward", "One forward", lines)
