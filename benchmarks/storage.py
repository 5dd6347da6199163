"""How long does a forward take with weights stored in each way, and what do two LoRAs cost on them?

Processors with int8 instructions and those without have a table each: there int8 weights are unpacked.
"""

from __future__ import annotations

import importlib
import statistics
import tempfile
from pathlib import Path
from typing import Any, Callable

import torch

from .measure import alternate, processor, ratio_table, write

WIDTH, DOUBLE, SINGLE = 1536, 2, 4
SIZE, TEXT = 64, 64  # a 512 x 512 picture: 32 x 32 image tokens; and text tokens
RANK = 32
ROWS = 32
MODES = ("bf16", "int8_convrot", "q8_0", "fp8_scaled", "q5_1", "q4_1", "mxfp8", "nvfp4")
GGUF = ("Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "Q5_0", "Q4_0", "IQ4_NL", "IQ4_XS")
WITH_LORAS = ("float32", "q8_0", "Q4_K", "int8_convrot", "fp8_scaled")
STEPS, LATENTS = 2, (32, 64)  # of a run with both prompts, and its sides
BOTH_PROMPTS = ("float32", "q8_0", "Q4_K", "Q4_K with two LoRAs")


def both_prompts(n: Any, cfg: Any, patchers: dict[str, Any], rounds: int) -> list[str]:
    """Runs with cfg in the host's sampler, where a layer that is unpacked can serve both prompts."""
    lines = [
        f"A run of {STEPS} euler steps at cfg 3, prompts of {TEXT} and 2 tokens, which go through the network as the model's own rule "
        "has it, together or one after the other; alternating.",
        "",
        "| stored as | " + " | ".join(f"{(side // 2) ** 2} image tokens, ratio to float32" for side in LATENTS) + " |",
        "|---|" + "---|" * len(LATENTS),
    ]
    ratios: dict[str, list[float]] = {name: [] for name in patchers}
    for side in LATENTS:

        def run(patcher: Any, side: int = side) -> Any:
            return n.host_models.sample(n.comfy, patcher, cfg, steps=STEPS, size=(side, side), tokens=(TEXT, 2))

        seconds = alternate({name: lambda p=patcher: run(p) for name, patcher in patchers.items()}, rounds)
        for name, values in seconds.items():
            ratios[name].append(statistics.median(v / base for v, base in zip(values, seconds["float32"])))
    return lines + [f"| {name} | {' | '.join(f'{r:.2f}' for r in found)} |" for name, found in ratios.items()]


def main(rounds: int) -> None:
    from . import networks as n

    formats = importlib.import_module("formats")  # of the tests, which networks has put on the path

    def few_rows(weight: torch.Tensor, kind: str) -> torch.Tensor:
        """The first rows over and over: the time does not depend on the values, and the test's quantisers are slow."""
        return formats.packed_ggml(weight[:ROWS], kind).repeat(-(-weight.shape[0] // ROWS), 1)[: weight.shape[0]]

    host_load = n.support.dev.load_pack("host.model.load")
    cfg = n.support.config(
        width=WIDTH, heads=WIDTH // 128, double=DOUBLE, single=SINGLE, context=512, approximator=(64, WIDTH, 5)
    )
    weights = n.support.random_weights(cfg)
    x = torch.randn(1, 16, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    context = torch.randn(1, TEXT, 512, generator=torch.Generator().manual_seed(2))
    linears = [k.removesuffix(".weight") for k, w in weights.items() if w.ndim == 2 and "_blocks." in k]

    def lora(seed: int) -> dict[str, torch.Tensor]:
        out = {}
        generator = torch.Generator().manual_seed(seed)
        for name in linears:
            rows, columns = weights[name + ".weight"].shape
            out[f"diffusion_model.{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator)
            out[f"diffusion_model.{name}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator) * 1e-4
        return out

    loras = [lora(3), lora(4)]
    patchers: dict[str, Any] = {}
    files: dict[str, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory(dir=n.support.dev.cache_dir()) as folder, torch.inference_mode():
        path = n.support.write(Path(folder) / "m.safetensors", n.support.published(weights))
        patchers["float32"] = host_load.load_chroma(str(path), "fp32")
        for mode in MODES:
            patchers[mode] = host_load.load_chroma(str(path), mode)
        for kind in GGUF:
            file = Path(folder) / f"{kind}.gguf"
            formats.write_gguf(file, n.support.published(weights), formats.GGUF[kind], pack=few_rows)
            files[kind] = str(file), "keep"
            patchers[kind] = host_load.load_chroma(*files[kind])

        def forward(patcher: Any) -> Callable[[], Any]:
            net = patcher.model.diffusion_model
            modulations = net.modulations(torch.tensor([0.5]), torch.zeros(1))
            return lambda: net(x, torch.tensor([0.5]), context, guidance=torch.zeros(1), modulations=modulations)

        def loaded(patcher: Any) -> Callable[[], Any]:
            n.comfy.model_management.load_models_gpu([patcher])
            return forward(patcher)

        seconds = alternate({name: loaded(patcher) for name, patcher in patchers.items()}, rounds)
        lines = [
            f"One forward of {DOUBLE} + {SINGLE} blocks of width {WIDTH}, {(SIZE // 2) ** 2} image and {TEXT} text tokens, "
            f"computing in float32, {torch.get_num_threads()} threads, median of {rounds} alternating rounds. The fewer "
            "the tokens, the more unpacking weighs; per layer it is a fixed cost.",
            "",
            *ratio_table(seconds, "float32"),
        ]
        lines[lines.index("| | median s | least s | ratio to ours |")] = (
            "| stored as | median s | least s | ratio to float32 |"
        )
        lines += [
            "",
            f"Two LoRAs of rank {RANK} on every linear of the blocks, beside the same model without, alternating. Float32, "
            "q8_0, int8 and fp8 have them merged; coarser types carry them as factors beside the packed weights.",
            "",
            "| stored as | without, median s | with two, median s | ratio |",
            "|---|---|---|---|",
        ]
        for name in WITH_LORAS:
            source, mode = (str(path), "fp32" if name == "float32" else name) if name not in GGUF else files[name]
            changed = host_load.load_chroma(source, mode)  # a model of its own: both must be loaded at once
            for one in loras:
                changed, _ = n.comfy.sd.load_lora_for_models(changed, None, one, 1.0, 0.0)
            both = alternate({"without": loaded(patchers[name]), "with": loaded(changed)}, rounds)
            ratios = [b / a for a, b in zip(both["without"], both["with"])]
            lines.append(
                f"| {name} | {statistics.median(both['without']):.3f} | {statistics.median(both['with']):.3f} "
                f"| {statistics.median(ratios):.3f} |"
            )
            if name == "Q4_K":
                patchers["Q4_K with two LoRAs"] = changed
            else:
                changed.detach()
        lines += ["", *both_prompts(n, cfg, {name: patchers[name] for name in BOTH_PROMPTS}, rounds)]
    int8 = any("vnni" in i or i in ("asimddp", "amx_int8") for i in processor()[1])
    write("storage" if int8 else "storage_without_vnni", "Speed by storage", lines)
