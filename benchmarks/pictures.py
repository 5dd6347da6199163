"""What does each quant_mode do to the demo model: its weights, one forward, the picture, and what the judge says?"""

from __future__ import annotations

from typing import Any

import torch

from . import likeness, two_seeds
from .measure import Kept

SCALE, NUM_QUESTIONS = 3.0, 24
TIMES = (0.9, 0.7, 0.5, 0.2)  # of the forwards, each with a prompt of its own
EXACT = "fp32"
FILE = {"bits a weight": ".2f", "weights": ".2%", "forward": ".2%"}  # which do not depend on a seed
COLUMNS = {**likeness.COLUMNS, **two_seeds.SHARES}


def unpacked(weight: torch.Tensor) -> torch.Tensor:
    weight = weight.data
    return (weight.dequantize() if type(weight).__name__ == "QuantizedTensor" else weight).float()


def packed_bytes(weight: torch.Tensor) -> int:
    return sum(getattr(weight, name).nbytes for name in weight.__tensor_flatten__()[0])


class Loaded:
    """The demo in one precision. texts: one for each of TIMES."""

    def __init__(self, mode: str, texts: list[str]):
        from demo import evaluate

        self.studio = evaluate.Studio(mode)
        net, found = self.studio.model.model.diffusion_model, self.studio.model.model.model_config.loaded.detection
        size = sum(p.data.nbytes if not hasattr(p.data, "_qdata") else packed_bytes(p.data) for p in net.parameters())
        self.bits = 8 * size / found.num_parameters
        self.weights = {n: unpacked(p) for n, p in net.named_parameters() if p.ndim == 2 and "_blocks." in n}
        generator = torch.Generator().manual_seed(1)
        noise = [torch.randn(1, 16, 16, 16, generator=generator) for _ in TIMES]
        self.forward = torch.cat(
            [
                net(x, torch.tensor([t]), self.studio.text(text), guidance=torch.zeros(1))
                for x, t, text in zip(noise, TIMES, texts)
            ]
        )

    def figures(self, exact: Loaded) -> dict[str, float]:
        """What FILE tells."""
        wrong = sum(float((w - exact.weights[n]).square().sum()) for n, w in self.weights.items())
        total = sum(float(w.square().sum()) for w in exact.weights.values())
        off = float((self.forward - exact.forward).norm() / exact.forward.norm())
        return dict(zip(FILE, (self.bits, (wrong / total) ** 0.5, off)))

    def paint(self, asked: Any) -> list[two_seeds.Answers]:
        return [two_seeds.answers(self.studio, part, SCALE) for part in asked]


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate, exam

    asked = two_seeds.both(exam.mixed(NUM_QUESTIONS))
    texts = [question.prompt for question in asked[0][:: NUM_QUESTIONS // len(TIMES)]]
    exact = Loaded(EXACT, texts)  # which finds the host
    quant = dev.load_pack("loaders.formats.base.registry")
    modes = [*(m for m in quant.QUANT_MODES if m not in ("auto", "keep", EXACT)), "float8_e5m2 (also 8 bit)"]
    lines = [
        f"The demo model, {NUM_QUESTIONS} prompts {two_seeds.ASKED}, with two unseen seeds each, {evaluate.STEPS} "
        f"{evaluate.SAMPLER} steps, CFG {SCALE:g}. `weights`: relative error over the layers of the blocks; `forward`: relative "
        f"error of the velocity, {len(TIMES)} forwards; {likeness.TOLD}; {two_seeds.TOLD}. Bits are of the whole model; it is so "
        f"small that the parts which stay in 16 bits weigh more than in the 8.9B model. {two_seeds.CAVEAT}.",
        "",
        f"| precision | {' | '.join([*FILE, *COLUMNS])} |",
        "|---|" + "---|" * len([*FILE, *COLUMNS]),
    ]
    kept = Kept("pictures", [asked, SCALE, TIMES, evaluate.STEPS, evaluate.SAMPLER, evaluate.SCHEDULE, evaluate.SHIFT])
    first = kept.painted(two_seeds.Answers, EXACT, lambda: exact.paint(asked))

    def measured(mode: str) -> list[dict[str, float]]:
        loaded = Loaded(mode, texts)
        file = loaded.figures(exact)
        likes = [likeness.figures(a.pictures, b.pictures) | a.shares() for a, b in zip(loaded.paint(asked), first)]
        return [file | one for one in likes]

    rows = {EXACT: [exact.figures(exact) | one.shares() for one in first]}
    for mode in modes:
        rows[mode] = kept.row(mode, lambda mode=mode: measured(mode))
        print(mode, rows[mode], flush=True)
    lines += [f"| {name} | {' | '.join(two_seeds.cells(row, {**FILE, **COLUMNS}))} |" for name, row in rows.items()]
    lines += ["", two_seeds.noise_line([rows[mode] for mode in modes], COLUMNS)]
    kept.write("What each precision does to the demo model", lines)
