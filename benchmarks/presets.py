"""What do the presets' settings do on the demo model, and what does a curve do to 8 steps? Pictures and the judge."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Mapping

import numpy as np
import torch

from .measure import RESULTS, write
from .pictures import psnr

CFG = 3.0  # of the demo model
FEW = 8
HOST_SHIFT = math.exp(1.15)  # what ComfyUI gives Chroma
EXACT = ("chroma_res_2m", 100)  # sampler and steps of the pictures that the others are compared with
BATCH = 16
SHOWN = 8  # pictures of each row of the sheet
SHEET = "presets_8_steps.png"
ANOTHER_MODEL = ("FLUX.1 dev", "FLUX.1 schnell")


@dataclass(frozen=True)
class Setting:
    steps: int
    cfg: float
    sampler: str
    schedule: str  # a curve of ours, or the host's name for one
    params: Mapping[str, float] = field(default_factory=dict)
    shift: float = 1.0

    def text(self) -> str:
        params = "/".join(f"{v:g}" for v in self.params.values())
        return f"{self.schedule}{' ' + params if params else ''} | {self.shift:.3g}"


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate

    painter = Painter(evaluate.Studio("fp32"), evaluate.questions()[::2])  # Studio finds the host
    painter.paint_all(Setting(1, CFG, "euler", "linear"))  # warms up and encodes the prompts
    presets = dev.load_pack("advice.presets").PRESETS

    lines = [
        f"The demo model in float32 at its own 128 x 128 pixels, {len(painter.asked)} prompts with unseen seeds. `right`: "
        "shape, colour and background as asked (one standard error is 1 % at 99 %, 3 % at 90 %). A model of coloured shapes: it "
        "says which settings are sound and what they cost, and nothing of taste; the settings of Flash are run here on a "
        "model that has no Flash in it.",
        "",
        "## The presets' settings",
        "",
        "| preset | steps | cfg | sampler | schedule | shift | evaluations of the model a picture | CPU seconds a picture | right |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [
        (n, Setting(p.steps, p.cfg, p.sampler, p.curve, p.params)) for n, p in presets.items() if n not in ANOTHER_MODEL
    ]
    hd = presets["Chroma1-HD"]
    rows += [
        ("Chroma1-HD, also", Setting(hd.steps, hd.cfg, "res_multistep", hd.curve, hd.params)),
        ("Chroma1-HD, quality, also", Setting(35, hd.cfg, "chroma_res_2m", "bong_tangent")),
        ("Chroma1-HD, quality, also", Setting(35, hd.cfg, "chroma_res_2m", "sigmoid_offset")),
        ("Chroma1-Flash, also", Setting(16, 1.0, "res_multistep", "beta", {"alpha": 0.6, "beta": 0.6})),
    ]
    done: dict[str, tuple[int, float, float]] = {}
    for name, s in rows:
        if str(s) not in done:
            _, right, evaluations, seconds = painter.paint_all(s)
            done[str(s)] = evaluations, seconds, right
        evaluations, seconds, right = done[str(s)]
        lines.append(
            f"| {name} | {s.steps} | {s.cfg:g} | {s.sampler} | {s.text()} | {evaluations} | {seconds:.2f} | {right:.1%} |"
        )
        print(lines[-1], flush=True)
    lines += ["", *few_steps(painter)]
    write("presets", "Presets on the demo model, and 8 steps by curve", lines)


def few_steps(painter: Painter) -> list[str]:
    """8 Euler steps of each schedule against the exact solution from the same noise; writes the sheet of pictures."""
    sampler, steps = EXACT
    exact, right, *_ = painter.paint_all(Setting(steps, CFG, sampler, "linear"))
    sharp = np.median([sharpness(picture) for picture in exact])
    lines = [
        f"## {FEW} Euler steps at cfg {CFG:g}, by schedule and shift",
        "",
        f"`last`: the noise level from which the last step goes to 0. `PSNR`: median against {steps} steps of {sampler} from the "
        f"same noise, which are {right:.1%} right. `sharpness`: mean change from pixel to pixel, relative to those.",
        "",
        "| schedule | shift | last | PSNR, dB | sharpness | right |",
        "|---|---|---|---|---|---|",
    ]
    rows = [
        *(Setting(FEW, CFG, "euler", name, shift=HOST_SHIFT) for name in ("simple", "sgm_uniform", "normal", "beta")),
        *(Setting(FEW, CFG, "euler", name) for name in ("simple", "normal", "beta", "sigmoid_offset", "bong_tangent")),
        *(Setting(FEW, CFG, "euler", "beta", {"alpha": n, "beta": n}) for n in (0.4, 0.45)),
        Setting(FEW, CFG, "res_multistep", "beta"),
        Setting(FEW, CFG, "chroma_res_2m", "beta"),
        Setting(FEW // 2, CFG, "heun", "beta"),
    ]
    sheet = [exact[:SHOWN]]
    for s in rows:
        pictures, right, *_ = painter.paint_all(s)
        sheet.append(pictures[:SHOWN])
        ratio = np.median([sharpness(p) for p in pictures]) / sharp
        other = "" if (s.sampler, s.steps) == ("euler", FEW) else f", {s.steps} steps of {s.sampler}"
        lines.append(
            f"| {s.text().replace(' |', other + ' |', 1)} | {float(painter.sigmas(s)[-2]):.3f} "
            f"| {np.median([psnr(a, b) for a, b in zip(pictures, exact)]):.1f} | {ratio:.2f} | {right:.1%} |"
        )
        print(lines[-1], flush=True)
    save(sheet)
    return [*lines, "", f"Pictures, the exact ones first and then row by row: [{SHEET}]({SHEET})."]


def sharpness(picture: np.ndarray) -> float:
    """Mean absolute difference of neighbouring pixels, (H, W, 3) in [0, 1]."""
    return float(sum(np.abs(np.diff(picture, axis=axis)).mean() for axis in (0, 1)) / 2)


def save(rows: list[list[np.ndarray]]) -> None:
    from PIL import Image

    RESULTS.mkdir(exist_ok=True)
    image = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    Image.fromarray((image * 255).round().astype(np.uint8)).save(RESULTS / SHEET, optimize=True)


class Painter:
    """The demo's studio with any sampler, schedule and shift."""

    def __init__(self, studio: Any, asked: list[Any]):
        import dev

        self.studio, self.asked, self.base = studio, asked, studio.model
        self.ours, self.curves = dev.load_pack("host.sample.samplers"), dev.load_pack("samplers.schedules")

    def model(self, shift: float) -> Any:
        from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

        return ModelSamplingAuraFlow().patch_aura(self.base, shift)[0]

    def sigmas(self, s: Setting) -> torch.Tensor:
        sampling = self.model(s.shift).get_model_object("model_sampling")
        if s.schedule in self.curves.CURVES:
            return self.curves.schedule(s.schedule, s.steps, s.params, sampling.sigmas, keep_steps=True)
        return self.studio.comfy.samplers.calculate_sigmas(sampling, s.schedule, s.steps)

    def paint_all(self, s: Setting) -> tuple[list[np.ndarray], float, int, float]:
        """Pictures of all questions, share of right ones; prompts computed and CPU seconds for one picture."""
        from demo import judge

        prompts = 0

        def count(apply_model: Any, given: Mapping[str, Any]) -> Any:
            nonlocal prompts
            prompts += given["input"].shape[0]
            return apply_model(given["input"], given["timestep"], **given["c"])

        model = self.model(s.shift).clone()
        model.set_model_unet_function_wrapper(count)
        sigmas = self.sigmas(s)
        sampler = (
            self.ours.sampler(s.sampler)
            if s.sampler in self.ours.SAMPLERS
            else self.studio.comfy.samplers.sampler_object(s.sampler)
        )

        def paint(texts: list[str], seeds: list[int], cfg: float, **_: Any) -> np.ndarray:
            studio = self.studio
            noise = torch.cat(
                [torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            )
            positive = [[torch.cat([studio.text(text) for text in texts]), {}]]
            latent = studio.comfy.sample.sample_custom(
                model,
                noise,
                cfg,
                sampler,
                sigmas,
                positive,
                [[studio.text(""), {}]],
                torch.zeros_like(noise),
                disable_pbar=True,
                seed=seeds[0],
            )
            return studio.vae.decode(latent).clamp(0, 1).float().cpu().numpy()

        self.studio.paint = paint
        started = time.process_time()
        answers = list(self.studio.answers(self.asked, s.cfg, BATCH, s.steps))
        seconds = (time.process_time() - started) / len(answers)
        right = float(np.mean([judge.score(picture, scene)["right"] for scene, picture in answers]))
        return [picture for _, picture in answers], right, prompts // len(answers), seconds
