"""What do the presets' settings do on the demo model, and what does a curve do to 8 steps? Pictures and the judge."""

from __future__ import annotations

import math

import numpy as np
import torch

from .likeness import psnr, sharpness
from .measure import RESULTS, write
from .painter import Painter, Setting

CFG = 3.0  # of the demo model
FEW = 8
HOST_SHIFT = math.exp(1.15)  # what ComfyUI gives Chroma
EXACT = ("chroma_res_2m", 100)  # sampler and steps of the pictures that the others are compared with
SHOWN = 8  # pictures of each row of the sheet
SHEET = "presets_8_steps.png"
ANOTHER_MODEL = ("FLUX.1 dev", "FLUX.1 schnell")


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate, exam

    painter = Painter(evaluate.Studio("fp32"), exam.shapes()[::2])  # Studio finds the host
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
            painted = painter.paint_all(s)
            done[str(s)] = round(painted.forwards), painted.seconds, painted.right
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
    exact, _, right, *_ = painter.paint_all(Setting(steps, CFG, sampler, "linear"))
    sharp = sharpness(exact)
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
        pictures, _, right, *_ = painter.paint_all(s)
        sheet.append(pictures[:SHOWN])
        ratio = sharpness(pictures) / sharp
        other = "" if (s.sampler, s.steps) == ("euler", FEW) else f", {s.steps} steps of {s.sampler}"
        lines.append(
            f"| {s.text().replace(' |', other + ' |', 1)} | {float(painter.sigmas(s)[-2]):.3f} "
            f"| {np.median([psnr(a, b) for a, b in zip(pictures, exact)]):.1f} | {ratio:.2f} | {right:.1%} |"
        )
        print(lines[-1], flush=True)
    save(sheet)
    return [*lines, "", f"Pictures, the exact ones first and then row by row: [{SHEET}]({SHEET})."]


def save(rows: list[list[np.ndarray]]) -> None:
    from PIL import Image

    RESULTS.mkdir(exist_ok=True)
    image = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    Image.fromarray((image * 255).round().astype(np.uint8)).save(RESULTS / SHEET, optimize=True)
