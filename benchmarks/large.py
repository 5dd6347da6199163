"""Do pictures of twice the trained size come out right, and which RoPE scaling helps? The demo model and its judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import two_seeds
from .measure import Kept

CFG, BATCH, NUM_QUESTIONS = 3.0, 4, 12
FIXED = {"dype": None}
VARIANTS: dict[str, dict[str, Any] | None] = {  # name -> RopeScaling's values; None: the model as it is
    "as trained": None,
    "linear": {"method": "linear", **FIXED},
    "ntk": {"method": "ntk", **FIXED},
    "yarn": {"method": "yarn", **FIXED},
    "ntk, DyPE": {"method": "ntk"},
    "yarn, DyPE": {"method": "yarn"},
}
TIMES = (1, 2)  # the trained side
COLUMNS = {f"{name} at {n}x": form for n in TIMES for name, form in reversed(two_seeds.SHARES.items())}


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate, exam, pictures

    studio = evaluate.Studio("fp32")  # which finds the host
    rope = dev.load_pack("chroma_model.rope_scaling")
    base, asked = studio.model, two_seeds.both(exam.mixed(NUM_QUESTIONS))
    config, side = base.model.diffusion_model.config, pictures.PICTURE_SIZE

    def measured(values: dict[str, Any] | None) -> list[dict[str, float]]:
        studio.model = base.clone()
        if values is not None:
            scaling = rope.RopeScaling(base_tokens=side / 16, **values)
            embedder = rope.ScaledPositionEmbedder(config.axes_dim, config.theta, scaling)
            studio.model.add_object_patch("diffusion_model.pe_embedder", embedder)
        return [figures(part) for part in asked]

    def figures(part: list[exam.Question]) -> dict[str, float]:
        found = {}
        for n in TIMES:
            painted = dict(studio.answers(part, CFG, BATCH, size=n * side))
            answers = two_seeds.judged(part, {question: smaller(p, side) for question, p in painted.items()})
            found |= {f"{name} at {n}x": share for name, share in answers.shares().items()}
        return found

    kept = Kept("large", [asked, CFG, TIMES, evaluate.STEPS, evaluate.SAMPLER, evaluate.SCHEDULE, evaluate.SHIFT])
    lines = [
        f"The demo model, trained mostly at {side} x {side} pixels, {NUM_QUESTIONS} prompts {two_seeds.ASKED}, with two unseen seeds "
        f"each, {evaluate.STEPS} steps of {evaluate.SCHEDULE}, cfg {CFG:g}. {two_seeds.TOLD}. Larger pictures are made smaller for "
        "the judge.",
        "",
        f"| RoPE | {' | '.join(COLUMNS)} |",
        "|---|" + "---|" * len(COLUMNS),
    ]
    rows: dict[str, two_seeds.Row] = {}
    for name, values in VARIANTS.items():
        rows[name] = kept.row(values, lambda values=values: measured(values))
        lines.append(f"| {name} | {' | '.join(two_seeds.cells(rows[name], COLUMNS))} |")
        print(lines[-1], flush=True)
    lines += ["", two_seeds.noise_line(list(rows.values()), COLUMNS)]
    kept.write("Pictures larger than those of training", lines)


def smaller(picture: np.ndarray, size: int) -> np.ndarray:
    """(N, N, 3) -> (size, size, 3) by means of whole blocks."""
    times = picture.shape[0] // size
    return picture.reshape(size, times, size, times, 3).mean((1, 3))
