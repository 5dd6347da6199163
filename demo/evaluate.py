"""The demo model in the real host, in this process: prompts in, pictures and verdicts out."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import torch

import dev

from . import judge, pictures

STEPS, SAMPLER, SCHEDULE, SHIFT = 20, "euler", "beta", 1.0  # those of the demo workflow
NUM_HELD_OUT, NUM_OTHERS, NUM_PAIRS = 100, 100, 40
FIRST_SEED = 1_000_000  # training draws its noise elsewhere


def questions(pairs: bool = False) -> list[tuple[pictures.Scene, int]]:
    """Scenes and seeds to be judged by: 100 combinations held out of training and 100 others, or 40 with two things."""
    rng = np.random.default_rng(99)
    if pairs:
        scenes = [pictures.random_pair(rng) for _ in range(NUM_PAIRS)]
    else:
        everything = pictures.all_scenes()
        held_out = [s for s in everything if pictures.is_held_out(s.combinations()[0])]
        others = [s for s in everything if not pictures.is_held_out(s.combinations()[0])]
        scenes = [held_out[i] for i in rng.permutation(len(held_out))[:NUM_HELD_OUT]]
        scenes += [others[i] for i in rng.permutation(len(others))[:NUM_OTHERS]]
    return [(scene, FIRST_SEED + i) for i, scene in enumerate(scenes)]


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
        """The prompt's valid tokens and one pad, as ChromaPadMask gives them."""
        if prompt not in self._texts:
            padding = dev.load_pack("chroma_model.padding")
            tokens = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(prompt))[0][0]
            self._texts[prompt] = padding.trim_padding(tokens, padding.padding_mask(tokens, None))[0]
        return self._texts[prompt]

    def paint(
        self, prompts: list[str], seeds: list[int], cfg: float, size: int = pictures.PICTURE_SIZE, steps: int = STEPS
    ) -> np.ndarray:
        """(B, size, size, 3) in [0, 1]. The prompts must have one number of tokens."""
        noise = torch.cat(
            [torch.randn(1, 16, size // 8, size // 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        positive = [[torch.cat([self.text(p) for p in prompts]), {"guidance": 0.0}]]
        negative = [[self.text(""), {"guidance": 0.0}]]
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
        self, asked: list[tuple[pictures.Scene, int]], cfg: float, batch: int = 16, steps: int = STEPS
    ) -> Iterator[tuple[pictures.Scene, np.ndarray]]:
        """A picture for each question, in batches of prompts of one length."""
        groups: dict[int, list[tuple[pictures.Scene, str, int]]] = defaultdict(list)
        for i, (scene, seed) in enumerate(asked):
            prompt = pictures.prompts(scene)[i % 2]
            groups[self.text(prompt).shape[1]].append((scene, prompt, seed))
        for group in groups.values():
            for start in range(0, len(group), batch):
                scenes, prompts, seeds = zip(*group[start : start + batch])
                yield from zip(scenes, self.paint(list(prompts), list(seeds), cfg, steps=steps))


@torch.inference_mode()
def scores(
    studio: Studio, asked: list[tuple[pictures.Scene, int]], cfg: float, sheet: Path | None = None
) -> dict[str, Any]:
    """Shares of right answers, in all and for the combinations held out of training; a contact sheet if wanted."""
    verdicts, shown = [], []
    for scene, picture in studio.answers(asked, cfg):
        held_out = any(pictures.is_held_out(c) for c in scene.combinations())
        verdicts.append({**judge.score(picture, scene), "held_out": held_out})
        shown.append(picture)
    if sheet:
        from PIL import Image

        rows = [np.concatenate(shown[i : i + 10], axis=1) for i in range(0, len(shown) // 10 * 10, 10)]
        Image.fromarray((np.concatenate(rows) * 255).astype(np.uint8)).save(sheet)
    keys = ("right", "colour", "background", "shape", "place")
    held_out = [v for v in verdicts if v["held_out"]]
    return {
        "count": len(verdicts),
        **{k: float(np.mean([v[k] for v in verdicts])) for k in keys},
        "right_held_out": float(np.mean([v["right"] for v in held_out])) if held_out else float("nan"),
    }
