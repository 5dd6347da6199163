"""How large is the 8.9B model in each format? From its shapes and the formats' records; no weight is made."""

from __future__ import annotations

import math

from .measure import write

HALF_BYTES = 2


def main(rounds: int) -> None:
    import dev

    registry, kept_layers = (dev.load_pack(f"loaders.formats.base.{name}") for name in ("registry", "kept_layers"))
    config = dev.load_pack("chroma_model").ChromaConfig()
    shapes = dev.load_pack("loaders.checkpoint.check_shapes").expected_shapes(config)
    total = sum(map(math.prod, shapes.values()))
    inside = sum(math.prod(shape) for name, shape in shapes.items() if kept_layers.is_quantised(name, len(shape)))
    lines = [
        f"The published model, {total / 1e9:.2f}B parameters, {inside / 1e9:.2f}B of them in linears of the blocks, which are "
        "stored so; the rest in 16 bits. `error` is that of Gaussian weights, from the format's record, which a test holds "
        "against the real quantisers.",
        "",
        "| stored as | whole, GB | bits of a weight in the blocks | error |",
        "|---|---|---|---|",
    ]
    for format in registry.ALL:
        if format.name == "float32":
            continue
        size = inside * format.bits / 8 + HALF_BYTES * (total - inside)
        error = "" if format.error is None else f"{format.error:.2%}"
        lines.append(f"| {format.name} | {size / 1e9:.2f} | {format.bits:.2f} | {error} |")
    write("sizes", "Size of the model", lines)
