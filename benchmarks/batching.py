"""Do two prompts of different lengths cost less in one forward than in two? By weights, picture size and padding."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch

from .measure import alternate, write

WIDTH = 1024
MODES = ("fp32", "bf16", "q8_0", "int8_convrot")
GRIDS = (16, 24, 32)  # image tokens a side
LENGTHS = ((20, 12), (120, 5))


def main(rounds: int) -> None:
    from . import networks as n

    host_load = n.support.dev.load_pack("host.model.load")
    cfg = n.support.config(width=WIDTH, heads=8, double=1, single=2, context=256)
    lines = [
        f"One forward of two prompts against one each, 1 + 2 blocks of width {WIDTH}, {torch.get_num_threads()} threads, "
        f"median of the ratios of {rounds} alternating rounds. `by length`: attention for each prompt on its own tokens, as "
        "the pack does it; `masked`: one attention with a mask.",
        "",
        "| weights | image tokens | texts | by length | masked |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=n.support.dev.cache_dir()) as folder, torch.inference_mode():
        file = n.support.write(Path(folder) / "m.safetensors", n.support.published(n.support.random_weights(cfg)))
        for mode in MODES:
            patcher = host_load.load_chroma(str(file), mode)
            n.comfy.model_management.load_models_gpu([patcher])
            net = patcher.model.diffusion_model
            for side in GRIDS:
                for first, second in LENGTHS:
                    generator = torch.Generator().manual_seed(0)
                    x = torch.randn(2, 16, 2 * side, 2 * side, generator=generator)
                    context = torch.randn(2, first, 256, generator=generator)
                    context[1, second:] = 0
                    t, guidance = torch.full((2,), 0.7), torch.zeros(2)
                    known = {"modulations": net.modulations(t[:1], guidance[:1])}
                    mask = (torch.arange(first)[None] < torch.tensor([[first], [second]])).long()

                    def alone(
                        net=net, x=x, t=t, context=context, guidance=guidance, known=known, lengths=(first, second)
                    ):
                        for i, length in enumerate(lengths):
                            rows = slice(i, i + 1)
                            net(x[rows], t[rows], context[rows, :length], guidance[rows], None, {}, **known)

                    def joined(net=net, x=x, t=t, context=context, guidance=guidance, known=known, **more):
                        net(x, t, context, guidance, None, {}, **known, **more)

                    seconds = alternate(
                        {
                            "two": alone,
                            "by length": lambda go=joined, lengths=(first, second): go(context_lengths=lengths),
                            "masked": lambda go=joined, mask=mask: go(context_mask=mask),
                        },
                        rounds,
                    )
                    ratios = [
                        statistics.median(a / b for a, b in zip(seconds[name], seconds["two"]))
                        for name in ("by length", "masked")
                    ]
                    lines.append(f"| {mode} | {side * side} | {first}, {second} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    write("batching", "Prompts of different lengths in one forward", lines)
