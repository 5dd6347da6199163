"""Do pictures of twice the trained size come out right, and which RoPE scaling helps? The demo model and its judge."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

from .measure import write

CFG, BATCH, NUM_PROMPTS = 3.0, 4, 24
FIXED = {"dype": None}
VARIANTS = {  # name -> RopeScaling's values; None: the model as it is
    "as trained": None,
    "linear": {"method": "linear", **FIXED},
    "ntk": {"method": "ntk", **FIXED},
    "yarn": {"method": "yarn", **FIXED},
    "ntk, DyPE": {"method": "ntk"},
    "yarn, DyPE": {"method": "yarn"},
}
TIMES = (1, 2)  # the trained side


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate, exam, pictures

    studio = evaluate.Studio("fp32")  # which finds the host
    rope = dev.load_pack("chroma_model.rope_scaling")
    base, asked = studio.model, exam.shapes()[:: 200 // NUM_PROMPTS][:NUM_PROMPTS]
    config = base.model.diffusion_model.config

    groups = defaultdict(list)  # prompts of one length share a batch
    for question in asked:
        groups[studio.text(question.prompt).shape[1]].append(question)

    def right(size: int) -> tuple[int, int]:
        """How many pictures show what was asked, and how many have a thing of the right shape."""
        verdicts = []
        for group in groups.values():
            for start in range(0, len(group), BATCH):
                part = group[start : start + BATCH]
                painted = studio.paint([q.prompt for q in part], [q.seed for q in part], CFG, size=size)
                verdicts += [q.verdict(smaller(p, pictures.PICTURE_SIZE)) for q, p in zip(part, painted)]
        return sum(v["right"] for v in verdicts), sum(v["shape"] for v in verdicts)

    lines = [
        f"The demo model, trained at {pictures.PICTURE_SIZE} x {pictures.PICTURE_SIZE} pixels, {len(asked)} prompts, "
        f"{evaluate.STEPS} steps of {evaluate.SCHEDULE}, cfg {CFG:g}: pictures that show what was asked, and those whose thing has "
        "the right shape. Larger pictures are made smaller for the judge.",
        "",
        "| RoPE | " + " | ".join(f"right at {n}x | shape at {n}x" for n in TIMES) + " |",
        "|---|" + "---|" * 2 * len(TIMES),
    ]
    for name, values in VARIANTS.items():
        studio.model = base.clone()
        if values is not None:
            scaling = rope.RopeScaling(base_tokens=pictures.PICTURE_SIZE / 16, **values)
            embedder = rope.ScaledPositionEmbedder(config.axes_dim, config.theta, scaling)
            studio.model.add_object_patch("diffusion_model.pe_embedder", embedder)
        cells = [str(n) for times in TIMES for n in right(times * pictures.PICTURE_SIZE)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    write("large", "Pictures larger than those of training", lines)


def smaller(picture: np.ndarray, size: int) -> np.ndarray:
    """(N, N, 3) -> (size, size, 3) by means of whole blocks."""
    times = picture.shape[0] // size
    return picture.reshape(size, times, size, times, 3).mean((1, 3))
