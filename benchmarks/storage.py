"""How long does a forward take with weights stored in each way, and what do two LoRAs cost on them?

Processors that multiply int8 faster than floats and those that do not have a table each: these unpack int8 weights.
"""

from __future__ import annotations

import importlib
import statistics
import tempfile
from pathlib import Path
from typing import Any, Callable

import torch

from .measure import alternate, ratio_table, write

WIDTH, DOUBLE, SINGLE = 1536, 2, 4
SIZE, TEXT = 64, 64  # a 512 x 512 picture: 32 x 32 image tokens; and text tokens
RANK = 32
ROWS = 32
MODES = ("bf16", "int8_convrot", "q8_0", "fp8_scaled", "q5_1", "q4_1", "mxfp8", "nvfp4")
GGUF = ("Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "Q5_0", "Q4_0", "IQ4_NL", "IQ4_XS")
WITH_LORAS = ("float32", "q8_0", "Q4_K", "int8_convrot", "fp8_scaled")


def few_rows(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """The first rows over and over: the time does not depend on the values, and the test's quantisers are slow."""
    formats = importlib.import_module("formats")  # of the tests, which networks puts on the path
    return formats.packed_ggml(weight[:ROWS], kind).repeat(-(-weight.shape[0] // ROWS), 1)[: weight.shape[0]]


def random_lora(weights: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """A LoRA of RANK on every linear of the blocks."""
    out, generator = {}, torch.Generator().manual_seed(seed)
    for key, weight in weights.items():
        if weight.ndim == 2 and "_blocks." in key:
            name = "diffusion_model." + key.removesuffix(".weight")
            out[name + ".lora_A.weight"] = torch.randn(RANK, weight.shape[1], generator=generator)
            out[name + ".lora_B.weight"] = torch.randn(weight.shape[0], RANK, generator=generator) * 1e-4
    return out


def main(rounds: int) -> None:
    from . import networks as n

    formats = importlib.import_module("formats")
    host_load = n.support.dev.load_pack("host.model.load")
    cfg = n.support.config(
        width=WIDTH, heads=WIDTH // 128, double=DOUBLE, single=SINGLE, context=512, approximator=(64, WIDTH, 5)
    )
    weights = n.support.random_weights(cfg)
    x = torch.randn(1, 16, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    context = torch.randn(1, TEXT, 512, generator=torch.Generator().manual_seed(2))
    loras = [random_lora(weights, seed) for seed in (3, 4)]
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
            changed.detach()
    matmul, formats_of_pack = (
        n.support.dev.load_pack(f) for f in ("host.model.matmul", "loaders.formats.base.registry")
    )
    slow = matmul.fast_matmul(formats_of_pack.FORMATS["int8_tensorwise"], torch.device("cpu"))
    lines += ["", f"An int8 product {slow}." if slow else "An int8 product is faster than one in float32."]
    write("storage_slow_int8" if slow else "storage", "Speed by storage", lines)
