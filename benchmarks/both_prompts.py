"""A run with cfg: what do both prompts gain by going through the network together, and what do packed weights cost then?"""

from __future__ import annotations

import importlib
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from .measure import alternate, write
from .storage import few_rows, random_lora

WIDTH, DOUBLE, SINGLE = 1536, 1, 2
GRIDS = (16, 24, 32)  # image tokens a side
TEXTS = ((12, 8), (64, 2), (120, 5))  # tokens of the prompts
STEPS = 1
STORED = ("float32", "q8_0", "Q4_K", "Q4_K with two LoRAs")


def main(rounds: int) -> None:
    from . import networks as n

    formats, load = importlib.import_module("formats"), n.support.dev.load_pack
    host_load, conds = load("host.model.load"), load("host.run.conds")
    sizes = n.support.config(
        width=WIDTH, heads=WIDTH // 128, double=DOUBLE, single=SINGLE, context=512, approximator=(64, WIDTH, 5)
    )
    weights = n.support.random_weights(sizes)

    def seconds(patchers: dict[str, Any], side: int, texts: tuple[int, int]) -> dict[tuple[str, str], list[float]]:
        generator = torch.Generator().manual_seed(1)
        vectors = [torch.randn(1, length, 512, generator=generator) for length in texts]

        def run(name: str, way: str) -> None:
            positive, negative = ([[vector, {conds.PAIRING: way}]] for vector in vectors)
            n.host_models.sample(
                n.comfy,
                patchers[name],
                sizes,
                steps=STEPS,
                size=(2 * side, 2 * side),
                positive=positive,
                negative=negative,
            )

        keys = [(name, way) for name in patchers for way in ("paired", "apart")]
        return alternate({key: lambda key=key: run(*key) for key in keys}, rounds)

    lines = [
        f"A run of {STEPS} euler step at cfg 3 through {DOUBLE} + {SINGLE} blocks of width {WIDTH}, computing in float32, "
        f"{torch.get_num_threads()} threads, medians of the ratios of {rounds} alternating rounds. `rule`: what the pack does where "
        "the user says nothing. The LoRAs are of rank 32, on every linear of the blocks.",
        "",
        "| stored as | image tokens | tokens of the prompts | together, of the time apart | rule | by the rule, of float32's time |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=n.support.dev.cache_dir()) as folder, torch.inference_mode():
        path = n.support.write(Path(folder) / "m.safetensors", n.support.published(weights))
        packed = Path(folder) / "m.gguf"
        formats.write_gguf(packed, n.support.published(weights), formats.GGUF["Q4_K"], pack=few_rows)
        patchers = {
            "float32": host_load.load_chroma(str(path), "fp32"),
            "q8_0": host_load.load_chroma(str(path), "q8_0"),
            "Q4_K": host_load.load_chroma(str(packed), "keep"),
        }
        changed = host_load.load_chroma(str(packed), "keep")
        for seed in (3, 4):
            changed, _ = n.comfy.sd.load_lora_for_models(changed, None, random_lora(weights, seed), 1.0, 0.0)
        patchers["Q4_K with two LoRAs"] = changed
        for side in GRIDS:
            for texts in TEXTS:
                found = seconds(patchers, side, texts)
                taken = {}
                for name, patcher in patchers.items():
                    unpacks = any(getattr(layer, "unpacks", False) for layer in patcher.model.diffusion_model.modules())
                    together = conds.sharing("cpu", False, unpacks=unpacks).allows(texts, side**2)
                    taken[name] = "paired" if together else "apart"
                for name in STORED:
                    gain = ratio(found[name, "paired"], found[name, "apart"])
                    cost = ratio(found[name, taken[name]], found["float32", taken["float32"]])
                    lines.append(
                        f"| {name} | {side**2} | {texts[0]}, {texts[1]} | {gain:.2f} | {taken[name]} | {cost:.2f} |"
                    )
    write("both_prompts", "Both prompts of a run in one forward", lines)


def ratio(times: list[float], base: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, base))
