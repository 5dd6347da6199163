"""How far is each precision off? Weights of the 8.9B model's shapes: Gaussian, heavy-tailed, and with outliers."""

from __future__ import annotations

from typing import Any, Sequence

import torch

from .measure import write

SHAPE = (3072, 12288)  # img_mlp.2 of a double block, the widest input but one
RECORD_SHAPE = (512, 12288)  # of the table of records
BLOCK = 128  # rows and columns that share a scale
W4A4 = {"convrot_groupsize": 256}  # as files have it
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


def packed_here(format: Any, weight: torch.Tensor) -> tuple[torch.Tensor, int] | None:
    """(weights as they come back, bytes taken) by this pack's own quantiser; None where the format is only read."""
    if format.pack is None:
        return None
    codes, scale = format.pack(weight, weight.abs().amax(), None)
    beside = {} if scale is None else {"weight_scale": scale}
    back = format.unpack(codes, beside, format.marker(weight.shape, True) or {}, torch.float32)
    return back, codes.nbytes + sum(t.nbytes for t in beside.values())


def packed_by_test(format: Any, weight: torch.Tensor) -> tuple[torch.Tensor, int] | None:
    """By the simple quantisers of tests/kquants.py, which come near ggml's."""
    import kquants

    if format.name not in kquants.PACKERS:
        return None
    codes = kquants.quantise(weight, format.name)
    return format.unpack(codes, {}, {}, torch.float32), codes.nbytes


def packed_by_host(format: Any, weight: torch.Tensor) -> tuple[torch.Tensor, int] | None:
    """By the quantiser of the host's layout."""
    from comfy.quant_ops import QuantizedTensor

    if format.matmul is None:
        return None
    options = format.modes[0].options if format.modes else {**format.matmul.options, **W4A4}
    quantised = QuantizedTensor.from_float(weight, format.layout, **options)
    return quantised.dequantize().float(), sum(t.nbytes for t in quantised.state_dict("weight").values())


def packed_by_scale(format: Any, weight: torch.Tensor) -> tuple[torch.Tensor, int] | None:
    """fp8 and int8 with the largest number of each row or of each block of 128 by 128 as its type's largest."""
    name, _, shape = format.name.rpartition("_")
    if shape not in ("rowwise", "blockwise"):
        return None
    dtype = torch.int8 if name == "int8" else getattr(torch, name)
    n, k = (len(weight), 1) if shape == "rowwise" else (len(weight) // BLOCK, weight.shape[1] // BLOCK)
    blocks = weight.view(n, len(weight) // n, k, weight.shape[1] // k)
    scale = blocks.abs().amax((1, 3), keepdim=True) / (127 if dtype == torch.int8 else torch.finfo(dtype).max)
    codes = blocks / scale
    codes = (codes.round() if dtype == torch.int8 else codes).to(dtype).view(weight.shape)
    beside = {"weight_scale": scale.view(n, k)}
    return format.unpack(codes, beside, {}, torch.float32), codes.nbytes + scale.nbytes


QUANTISERS = {
    "this pack": packed_here,
    "tests/kquants.py": packed_by_test,
    "ComfyUI": packed_by_host,
    "a scale a row or block": packed_by_scale,
}


def records(formats: Sequence[Any]) -> list[str]:
    """A table of every record of `loaders/formats` that can be packed on this machine: told and measured."""
    weight = 0.02 * torch.randn(RECORD_SHAPE, generator=torch.Generator().manual_seed(0))
    lines = [
        f"What the records of loaders/formats say, and what is measured with a Gaussian matrix of {RECORD_SHAPE[0]} x "
        f"{RECORD_SHAPE[1]}. Of GGML's K and IQ types the records have the errors of ggml's own quantisers (C code); those "
        "of tests/kquants.py search in another way and come within a tenth of them. Bits are told of 3072 inputs.",
        "",
        "| format | error told | measured | bits told | measured | packed by |",
        "|---|---|---|---|---|---|",
    ]
    for format in formats:
        for name, quantiser in QUANTISERS.items():
            try:
                found = quantiser(format, weight.clone())
            except (RuntimeError, NotImplementedError) as refused:  # a kernel that this device lacks
                lines.append(
                    f"| {format.shown} | {format.error:.3%} | {str(refused).splitlines()[0][:60]} | | | {name} |"
                )
                break
            if found is not None:
                back, num_bytes = found
                error = float((back - weight).norm() / weight.norm())
                told = "not told" if format.error is None else f"{format.error:.3%}"
                bits = 8 * num_bytes / weight.numel()
                lines.append(f"| {format.shown} | {told} | {error:.3%} | {format.bits:.3f} | {bits:.3f} | {name} |")
                break
        else:
            lines.append(f"| {format.shown} | {format.error or 0:.3%} | | {format.bits:.3f} | | only read here |")
    return lines


def main(rounds: int) -> None:
    from . import networks as n

    host_weights, modes = (n.support.dev.load_pack(m) for m in ("host.model.weights", "loaders.formats.base.registry"))

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
        lines += ["", "## The records", "", *records(modes.ALL)]
    write("precision", "Error of each precision", lines)
