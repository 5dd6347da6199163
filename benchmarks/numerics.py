"""How far is each block's output with weights in each precision, from the same weights in float32? On the demo model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import dev

from .measure import write

TIMES = (0.2, 0.7, 0.95)  # 1 is noise


def main(rounds: int = 0) -> None:
    from tools import compare

    export = dev.load_pack("loaders.checkpoint.write_quantised")
    demo = dev.ROOT / "demo" / "weights" / "chroma-demo.safetensors"
    columns: dict[str, list[float]] = {}
    blocks: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, choice in export.EXPORTS.items():
            path = Path(folder) / f"{name}{choice.suffix}"
            export.write_model(export.FileWeights(demo), path, name)
            errors = []
            for time in TIMES:
                given = compare.parser("").parse_args([str(path), str(demo), "--timestep", str(time)])
                found = compare.compared(given, "cpu")
                blocks = [f"{kind} {i}" for kind, i in found.blocks()]
                errors.append([*found.curve("img"), found.of("output")])
            columns[name] = [sum(values) / len(values) for values in zip(*errors)]
            print(name, columns[name][-1], flush=True)
    lines = [
        f"Relative L2 error of the image's stream after each block, in %, means over the times {', '.join(map(str, TIMES))}; all is "
        "computed in float32, so it is the weights' rounding alone. The demo's file is float16, which `fp16` and `gguf_f16` keep.",
        "",
        f"| after | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
        *(
            f"| {block} | {' | '.join(f'{100 * values[i]:.2f}' for values in columns.values())} |"
            for i, block in enumerate([*blocks, "output"])
        ),
    ]
    write("numerics", "Error of each precision after each block", lines)


if __name__ == "__main__":
    main()
