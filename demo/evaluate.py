"""The demo model in the real host, in this process: prompts in, pictures and verdicts out."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import torch

import dev

from . import pictures, scenes
from .exam import Question

STEPS, SAMPLER, SCHEDULE, SHIFT = 20, "euler", "beta", 1.0  # those of the demo workflow


class Studio:
    """Model, text encoder and VAE of the demo, loaded by the host as its nodes load them."""

    def __init__(self, quant_mode: str = "auto"):
        sys.path.insert(0, str(dev.host_path()))
        from comfy.cli_args import args

        args.cpu = not torch.cuda.is_available()
        import comfy.sample
        import comfy.sd
        import comfy.utils
        from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

        self.comfy = comfy
        models = dev.base_dir() / "models"
        path = models / "diffusion_models" / "chroma-demo.safetensors"
        self.model = dev.load_pack("host.model.load").load_chroma(str(path), quant_mode)
        (self.model,) = ModelSamplingAuraFlow().patch_aura(self.model, SHIFT)
        self.clip = comfy.sd.load_clip([str(models / dev.TEXT_ENCODER)], clip_type=comfy.sd.CLIPType.CHROMA)
        self.vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(models / "vae" / "chroma-demo-vae.safetensors")))
        self._texts: dict[str, torch.Tensor] = {}

    def text(self, prompt: str) -> torch.Tensor:
        """The prompt's rows and its pad's, as Chroma Text Encode gives them."""
        if prompt not in self._texts:
            self._texts[prompt] = dev.load_pack("host.text.encode_prompt").encode(self.clip, prompt)[0][0][0]
        return self._texts[prompt]

    def paint(
        self,
        prompts: list[str],
        seeds: list[int],
        cfg: float,
        size: int = pictures.PICTURE_SIZE,
        steps: int = STEPS,
        shown: np.ndarray | None = None,
    ) -> np.ndarray:
        """(B, size, size, 3) in [0, 1]. The prompts must have one number of tokens.

        shown: (1, H, W, 3) a picture as reference, for both prompts of guidance.
        """
        noise = torch.cat(
            [torch.randn(1, 16, size // 8, size // 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        more = {} if shown is None else {"reference_latents": [self.vae.encode(torch.from_numpy(shown).float())]}
        positive = [[torch.cat([self.text(p) for p in prompts]), {"guidance": 0.0, **more}]]
        negative = [[self.text(""), {"guidance": 0.0, **more}]]
        latent = self.comfy.sample.sample(
            self.model,
            noise,
            steps,
            cfg,
            SAMPLER,
            SCHEDULE,
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=seeds[0],
        )
        return self.vae.decode(latent).clamp(0, 1).float().cpu().numpy()

    def answers(
        self, asked: list[Question], cfg: float, batch: int = 16, steps: int = STEPS
    ) -> Iterator[tuple[Question, np.ndarray]]:
        """A picture for each question, in batches of prompts of one length; edits one by one, of a picture painted first."""
        for question in (q for q in asked if q.before is not None):
            first = self.paint([scenes.caption(question.before)], [question.seed], cfg, steps=steps)
            yield question, self.paint([question.prompt], [question.seed + 1], cfg, steps=steps, shown=first)[0]
        asked = [q for q in asked if q.before is None]
        groups: dict[int, list[Question]] = defaultdict(list)
        for question in asked:
            groups[self.text(question.prompt).shape[1]].append(question)
        for group in groups.values():
            for start in range(0, len(group), batch):
                part = group[start : start + batch]
                yield from zip(part, self.paint([q.prompt for q in part], [q.seed for q in part], cfg, steps=steps))


@torch.inference_mode()
def scores(studio: Studio, asked: list[Question], cfg: float, sheet: Path | None = None) -> dict[str, Any]:
    """Shares of right answers, in all and for the combinations held out of training; a contact sheet if wanted."""
    verdicts, shown = [], []
    for question, picture in studio.answers(asked, cfg):
        verdicts.append({**question.verdict(picture), "held_out": question.is_held_out})
        shown.append(picture)
    if sheet:
        from PIL import Image

        rows = [np.concatenate(shown[i : i + 10], axis=1) for i in range(0, len(shown) // 10 * 10, 10)]
        Image.fromarray((np.concatenate(rows) * 255).astype(np.uint8)).save(sheet)
    held_out = [v for v in verdicts if v["held_out"]]
    return {
        "count": len(verdicts),
        **{k: float(np.mean([v[k] for v in verdicts])) for k in verdicts[0] if k != "held_out"},
        "right_held_out": float(np.mean([v["right"] for v in held_out])) if held_out else float("nan"),
    }
