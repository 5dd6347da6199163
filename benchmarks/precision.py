"""How far is each precision off? Weights of the 8.9B model's shapes: Gaussian, heavy-tailed, and with outliers."""

from __future__ import annotations

import torch

from .measure import write

SHAPE = (3072, 12288)  # img_mlp.2 of a double block, the widest input but one
PLAIN_CAST = "plain cast to e4m3, as older loaders did it"


def matrices() -> dict[str, torch.Tensor]:
    """Seeded float32 matrices; the spreads of the Gaussian ones are those in which trained linears lie."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    gauss = normal(*SHAPE)
    tails = normal(*SHAPE) / (sum(normal(*SHAPE) ** 2 for _ in range(4)) / 4).sqrt()  # Student's t of 4 degrees
    outliers = gauss * torch.exp(0.5 * normal(SHAPE[0], 1)) * torch.exp(0.3 * normal(1, SHAPE[1]))
    outliers = torch.where(torch.rand(SHAPE, generator=generator) < 1e-4, 30 * outliers, outliers)
    return {
        "Gaussian, 0.02": 0.02 * gauss,
        "Gaussian, 0.005": 0.005 * gauss,
        "Gaussian, 0.001": 0.001 * gauss,
        "t(4), 0.02": 0.02 * tails,
        "rows, columns, outliers": 0.02 * outliers,
    }


def main(rounds: int) -> None:
    from . import networks as n

    host_weights, modes = (n.support.dev.load_pack(m) for m in ("host.model.weights", "loaders.formats.table"))

    def kept(mode: str, weight: torch.Tensor) -> torch.Tensor:
        chosen = modes.quant_mode(mode)
        return weight.to(chosen.dtype).float() if chosen.dtype else host_weights.pack(weight, chosen)[0].dequantize()

    names = [name for name in (*modes.QUANT_MODES, *modes.ALIASES) if not modes.quant_mode(name).keeps]
    cases = matrices()
    lines = [
        f"Relative error (Frobenius norm) of one weight matrix of {SHAPE[0]} x {SHAPE[1]}, by the spread of its values.",
        "",
        "| precision | " + " | ".join(cases) + " |",
        "|---" * (len(cases) + 1) + "|",
    ]
    with torch.inference_mode():
        for mode in names:
            errors = [n.support.relative(kept(mode, w.clone()), w) for w in cases.values()]
            lines.append(f"| {mode} | " + " | ".join(f"{e:.2%}" for e in errors) + " |")
        errors = [n.support.relative(w.to(torch.float8_e4m3fn).float(), w) for w in cases.values()]
        lines.append(f"| {PLAIN_CAST} | " + " | ".join(f"{e:.2%}" for e in errors) + " |")
    write("precision", "Error of each precision", lines)
