"""How far is each block's output with weights in each precision, and computed in 16 bits, from float32? On the demo model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import dev

from .measure import write

TIMES = (0.2, 0.7, 0.95)  # 1 is noise
COMPUTED = {"computed in bf16": torch.bfloat16, "computed in fp16": torch.float16}


def computed(source: Any, time: float, dtype: torch.dtype) -> Any:
    """The differences of a forward in dtype, with the Approximator in float32 as the host runs it, from one in float32."""
    activations, run_weights = (dev.load_pack(f"loaders.checkpoint.{n}") for n in ("activations", "run_weights"))
    given = dev.load_pack("loaders.checkpoint.mixed").made_up(source.detection.config, time, 256, 32, 0)
    given = [given[name] for name in activations.INPUTS]
    exact: dict[str, torch.Tensor] = {}
    run_weights.WeightsNetwork(source).forward(*given, lambda name, value: exact.update({name: value}))

    def rounded(name: str, weight: torch.Tensor) -> torch.Tensor:
        return weight if name.startswith("distilled_guidance_layer") else weight.to(dtype)

    rounding = run_weights.WeightsNetwork(source, change=rounded)
    rounding.network.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].to(dtype), inputs[1], inputs[2].to(dtype), *inputs[3:])
    )
    found = activations.Differences()
    rounding.forward(*given, lambda name, value: found.add(name, value, exact[name]))
    return found


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
    for name, dtype in COMPUTED.items():
        found = [computed(export.FileWeights(demo), time, dtype) for time in TIMES]
        errors = [[*one.curve("img"), one.of("output")] for one in found]
        columns[name] = [sum(values) / len(values) for values in zip(*errors)]
        print(name, columns[name][-1], flush=True)
    lines = [
        f"Relative L2 error of the image's stream after each block, in %, means over the times {', '.join(map(str, TIMES))}. The "
        "formats are computed in float32, so it is their weights' rounding alone; the demo's file is float16, which `fp16` and "
        "`gguf_f16` keep. In the last columns weights and streams are of 16 bits, and the Approximator computes in float32.",
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
