"""What does each quant_mode do to the demo model: its weights, one forward, the picture, and what the judge says?"""

from __future__ import annotations

import numpy as np
import torch

from .measure import write

SCALE = 3.0
PEAK = 1.0  # pictures are in [0, 1]
EXACT = "fp32"


def psnr(picture: np.ndarray, exact: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(PEAK**2 / max(float(np.mean((picture - exact) ** 2)), 1e-12)))


def unpacked(weight: torch.Tensor) -> torch.Tensor:
    weight = weight.data
    return (weight.dequantize() if type(weight).__name__ == "QuantizedTensor" else weight).float()


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate, judge

    quant = dev.load_pack("loaders.formats.base.registry")
    asked = evaluate.questions()
    modes = [EXACT, *(m for m in quant.QUANT_MODES if m not in ("auto", "keep", EXACT)), "float8_e5m2 (also 8 bit)"]
    lines = [
        f"The demo model, {len(asked)} prompts with unseen seeds (half of them of combinations held out of training), "
        f"{evaluate.STEPS} {evaluate.SAMPLER} steps, CFG {SCALE:g}. `weights`: relative error over the layers of the "
        "blocks; `forward`: relative error of the velocity, one forward; `PSNR`: median and worst tenth of the pictures "
        f"against {EXACT}'s; `right`: shape, colour and background as asked. bits are of the whole model; it is so small "
        "that the parts which stay in 16 bits weigh more than in the 8.9B model.",
        "",
        "| precision | bits a weight | weights | forward | PSNR, dB | worst tenth | right | right, held out |",
        "|---|---|---|---|---|---|---|---|",
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
        for scene, picture in studio.answers(asked, SCALE):
            pictures.append(picture)
            right.append(judge.score(picture, scene)["right"])
            held_out.append(any(evaluate.pictures.is_held_out(c) for c in scene.combinations()))
        if mode == EXACT:
            exact_weights, exact_forward, exact_pictures = weights, forward, pictures
        wrong = sum(float((w - exact_weights[n]).square().sum()) for n, w in weights.items())
        total = sum(float(w.square().sum()) for w in exact_weights.values())
        off = float((forward - exact_forward).norm() / exact_forward.norm())
        ratios = sorted(psnr(a, b) for a, b in zip(pictures, exact_pictures))
        shown = ("", "") if mode == EXACT else (f"{np.median(ratios):.1f}", f"{ratios[len(ratios) // 10]:.1f}")
        share = np.mean([r for r, h in zip(right, held_out) if h])
        lines.append(
            f"| {mode} | {8 * size / loaded.num_parameters:.2f} | {(wrong / total) ** 0.5:.2%} | {off:.2%} | {shown[0]} "
            f"| {shown[1]} | {np.mean(right):.1%} | {share:.1%} |"
        )
        print(lines[-1], flush=True)
    write("pictures", "What each precision does to the demo model", lines)


def packed_bytes(weight: torch.Tensor) -> int:
    return sum(getattr(weight, name).nbytes for name in weight.__tensor_flatten__()[0])
