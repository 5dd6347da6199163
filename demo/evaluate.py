"""The demo model in the real host, in this process: prompts in, pictures and verdicts out."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

import numpy as np
import torch

import dev

from . import exam, judge_things, pictures, scenes, things
from .exam import Question

STEPS, SAMPLER, SCHEDULE, SHIFT = 20, "euler", "beta", 1.0  # those of the demo workflow
SOURCE_CFG = 3.0  # of the picture that an edit begins with
MODEL, VAE, RADIANCE = "chroma-demo.safetensors", "chroma-demo-vae.safetensors", "chroma-radiance-demo.gguf"
WEIGHTS = (exam.JUDGE.with_name(MODEL), exam.JUDGE.with_name(VAE), exam.JUDGE)  # all that a verdict depends on


class Studio:
    """Model, text encoder and VAE of the demo, loaded by the host as its nodes load them.

    `model` and `sampler` may be set to others; `loaded` is the model that edits' sources are painted with.
    """

    def __init__(self, quant_mode: str = "auto", file: str = MODEL):
        """file: of `demo/weights`, MODEL or RADIANCE; the second paints pixels, without a VAE of its own."""
        sys.path.insert(0, str(dev.host_path()))
        from comfy.cli_args import args

        args.cpu = not torch.cuda.is_available()
        import comfy.sample
        import comfy.sd
        import comfy.utils
        from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

        self.comfy = comfy
        models = dev.base_dir() / "models"
        path = models / "diffusion_models" / file
        model = dev.load_pack("host.model.load").load_chroma(str(path), quant_mode)
        (self.loaded,) = ModelSamplingAuraFlow().patch_aura(model, SHIFT)
        self.model, self.sampler = self.loaded, SAMPLER
        self.clip = comfy.sd.load_clip([str(models / dev.TEXT_ENCODER)], clip_type=comfy.sd.CLIPType.CHROMA)
        self.latents = model.get_model_object("latent_format")
        pixels = self.latents.spacial_downscale_ratio == 1
        weights = (
            {"pixel_space_vae": torch.ones(())} if pixels else comfy.utils.load_torch_file(str(models / "vae" / VAE))
        )
        self.vae = comfy.sd.VAE(sd=weights)
        self._texts: dict[str, torch.Tensor] = {}
        self._sources: dict[Question, np.ndarray] = {}

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
        model: Any = None,
        sampler: str | None = None,
    ) -> np.ndarray:
        """(B, size, size, 3) in [0, 1]. The prompts must have one number of tokens.

        shown: (1, H, W, 3) a picture as reference, for both prompts of guidance.
        model, sampler: the studio's own where none is given.
        """
        side = size // self.latents.spacial_downscale_ratio
        shape = (1, self.latents.latent_channels, side, side)
        noise = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        more = {} if shown is None else {"reference_latents": [self.vae.encode(torch.from_numpy(shown).float())]}
        positive = [[torch.cat([self.text(p) for p in prompts]), {"guidance": 0.0, **more}]]
        negative = [[self.text(""), {"guidance": 0.0, **more}]]
        latent = self.comfy.sample.sample(
            self.model if model is None else model,
            noise,
            steps,
            cfg,
            sampler or self.sampler,
            SCHEDULE,
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=seeds[0],
        )
        return self.vae.decode(latent).clamp(0, 1).float().cpu().numpy()

    def source(self, question: Question) -> np.ndarray:
        """The picture that an edit begins with, (1, H, W, 3): painted once, the same way whatever the edit is painted with."""
        if question not in self._sources:
            prompt = scenes.caption(question.before)
            self._sources[question] = self.paint(
                [prompt], [question.seed], SOURCE_CFG, model=self.loaded, sampler=SAMPLER
            )
        return self._sources[question]

    def answers(
        self,
        asked: list[Question],
        cfg: float,
        batch: int = 16,
        steps: int = STEPS,
        size: int = pictures.PICTURE_SIZE,
        paint: Callable[..., np.ndarray] | None = None,
    ) -> Iterator[tuple[Question, np.ndarray]]:
        """A picture for each question, in batches of prompts of one length; edits one by one, each of its source.

        paint: in the place of this studio's, for all but the sources.
        """
        paint = paint or self.paint
        more = {"steps": steps, "size": size}
        for question in (q for q in asked if q.before is not None):
            shown = self.source(question)
            yield question, paint([question.prompt], [question.seed + 1], cfg, shown=shown, **more)[0]
        groups: dict[int, list[Question]] = defaultdict(list)
        for question in (q for q in asked if q.before is None):
            groups[self.text(question.prompt).shape[1]].append(question)
        for group in groups.values():
            for start in range(0, len(group), batch):
                part = group[start : start + batch]
                yield from zip(part, paint([q.prompt for q in part], [q.seed for q in part], cfg, **more))


@torch.inference_mode()
def scores(
    studio: Studio,
    asked: list[Question],
    cfg: float,
    sheet: Path | None = None,
    sprites: things.Sprites | None = None,
) -> dict[str, Any]:
    """Shares of right answers; a contact sheet if wanted. Where there is nothing to tell a share of, it is NaN.

    right_held_out: of the combinations held out of training. right_of_right: of the edits whose source was itself right.
    sharpness:      against real pictures of the same scenes; NaN for things without their sprites.
    """
    answers = list(studio.answers(asked, cfg))
    verdicts = [question.verdict(picture) for question, picture in answers]
    shown = np.stack([picture for _, picture in answers])
    if sheet:
        from PIL import Image

        rows = [np.concatenate(shown[i : i + 10], axis=1) for i in range(0, len(shown) // 10 * 10, 10)]
        Image.fromarray((np.concatenate(rows) * 255).astype(np.uint8)).save(sheet)
    right = [(q, v["right"]) for (q, _), v in zip(answers, verdicts)]
    return {
        "count": len(verdicts),
        **{k: share(v[k] for v in verdicts) for k in exam.VERDICTS},
        "right_held_out": share(r for q, r in right if q.is_held_out),
        "right_of_right": share(r for q, r in right if q.before is not None and source_is_right(studio, q)),
        "sharpness": sharpness(answers, sprites),
    }


def share(verdicts: Iterable[bool]) -> float:
    found = list(verdicts)
    return float(np.mean(found)) if found else float("nan")


def source_is_right(studio: Studio, question: Question) -> bool:
    (picture,) = studio.source(question)
    return Question("", question.seed, question.before).verdict(picture)["right"]


def sharpness(answers: list[tuple[Question, np.ndarray]], sprites: things.Sprites | None) -> float:
    if sprites is None and any(isinstance(question.scene, scenes.Scene) for question, _ in answers):
        return float("nan")
    painted, real = (
        torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float()
        for found in zip(*((picture, question.real(sprites)) for question, picture in answers))
    )
    return judge_things.sharpness(painted, real)
