"""What does each quant_mode do to the demo model: its weights, one forward, the picture, and what the judge says?"""

from __future__ import annotations

import numpy as np
import torch

from . import likeness
from .measure import write

SCALE = 3.0
EXACT = "fp32"


def unpacked(weight: torch.Tensor) -> torch.Tensor:
    weight = weight.data
    return (weight.dequantize() if type(weight).__name__ == "QuantizedTensor" else weight).float()


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate, exam

    quant = dev.load_pack("loaders.formats.base.registry")
    asked = exam.shapes()
    modes = [EXACT, *(m for m in quant.QUANT_MODES if m not in ("auto", "keep", EXACT)), "float8_e5m2 (also 8 bit)"]
    lines = [
        f"The demo model, {len(asked)} prompts with unseen seeds (half of them of combinations held out of training), "
        f"{evaluate.STEPS} {evaluate.SAMPLER} steps, CFG {SCALE:g}. `weights`: relative error over the layers of the "
        f"blocks; `forward`: relative error of the velocity, one forward; {likeness.TOLD}; `right`: all that was asked. bits are of the whole model; it is so small "
        "that the parts which stay in 16 bits weigh more than in the 8.9B model.",
        "",
        f"| precision | bits a weight | weights | forward | {' | '.join(likeness.COLUMNS)} | right | right, held out |",
        "|---|---|---|---|" + "---|" * len(likeness.COLUMNS) + "---|---|",
    ]
    exact_weights, exact_forward, exact_pictures = {}, None, []
    for mode in modes:
        studio = evaluate.Studio(mode)
        net = studio.model.model.diffusion_model
        loaded = studio.model.model.model_config.loaded.detection
        size = sum(p.data.nbytes if not hasattr(p.data, "_qdata") else packed_bytes(p.data) for p in net.parameters())
        weights = {n: unpacked(p) for n, p in net.named_parameters() if p.ndim == 2 and "_blocks." in n}
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(4, 16, 16, 16, generator=generator)
        context = torch.cat([studio.text("a red circle on a blue background")] * 4)
        forward = net(x, torch.tensor([0.9, 0.7, 0.5, 0.2]), context, guidance=torch.zeros(4))
        pictures, right, held_out = [], [], []
        for question, picture in studio.answers(asked, SCALE):
            pictures.append(picture)
            right.append(question.verdict(picture)["right"])
            held_out.append(question.is_held_out)
        if mode == EXACT:
            exact_weights, exact_forward, exact_pictures = weights, forward, pictures
        wrong = sum(float((w - exact_weights[n]).square().sum()) for n, w in weights.items())
        total = sum(float(w.square().sum()) for w in exact_weights.values())
        off = float((forward - exact_forward).norm() / exact_forward.norm())
        shown = " | ".join(likeness.cells(pictures, exact_pictures))
        share = np.mean([r for r, h in zip(right, held_out) if h])
        lines.append(
            f"| {mode} | {8 * size / loaded.num_parameters:.2f} | {(wrong / total) ** 0.5:.2%} | {off:.2%} | {shown} "
            f"| {np.mean(right):.1%} | {share:.1%} |"
        )
        print(lines[-1], flush=True)
    write("pictures", "What each precision does to the demo model", lines)


def packed_bytes(weight: torch.Tensor) -> int:
    return sum(getattr(weight, name).nbytes for name in weight.__tensor_flatten__()[0])
