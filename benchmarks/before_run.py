"""How far is the guess before a model's first run from what the run then takes? The demo model, and a wider one of random weights."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .measure import write

STEPS = 4
WIDTH, BLOCKS = 1024, (1, 3)  # of the random model, which a CPU computes in seconds
SIZES = {"the demo": (128, 256, 512), "random weights": (256,)}  # pixels a side
PROMPTS = ("a red circle on a blue background", "")


def random_weights(folder: str, context: int) -> str:
    """A file with a model of random weights."""
    import dev

    package = dev.load_pack("chroma_model")
    config = package.ChromaConfig(
        context_dim=context,
        hidden_size=WIDTH,
        num_heads=WIDTH // 128,
        mlp_hidden_dim=4 * WIDTH,
        num_double_blocks=BLOCKS[0],
        num_single_blocks=BLOCKS[1],
        approximator=package.ApproximatorConfig(hidden_dim=256, out_dim=WIDTH, num_layers=2),
    )
    shapes = dev.load_pack("loaders.checkpoint.check_shapes").expected_shapes(config)
    path = Path(folder) / "random.safetensors"
    save_file({name: torch.randn(shape) * 0.02 for name, shape in shapes.items()}, path)
    return str(path)


@torch.inference_mode()
def main(rounds: int) -> None:
    import dev
    from demo import evaluate

    studio = evaluate.Studio("fp32")  # which finds the host
    patch, guidance = dev.load_pack("host.sample.guiders").GuidancePatch, dev.load_pack("samplers.guided_run").Guidance
    sample, settle = dev.load_pack("host.api").sample, dev.load_pack("advice.user_changes").settle
    load, trial = dev.load_pack("host.model.load").load_chroma, dev.load_pack("host.model.machine_speed")
    texts = [studio.text(text) for text in PROMPTS]

    def run(model: Any, side: int) -> float:
        """Seconds of a prompt, as they are kept for the next run."""
        told: list[Any] = []
        settings = settle("Chroma1-HD", steps=STEPS, cfg=3.0, sampler="euler", width=side, height=side)
        sample(patch(guidance(), report=told.append).on(model), *([[text, {}]] for text in texts), settings)
        return told[-1].prompt_seconds

    with tempfile.TemporaryDirectory() as folder:
        models = {"the demo": studio.model, "random weights": load(random_weights(folder, texts[0].shape[-1]), "fp32")}
        cases = [(name, side) for name, sides in SIZES.items() for side in sides]
        found: dict[tuple[str, int], list[tuple[float, float]]] = {case: [] for case in cases}
        trials = []
        for _ in range(rounds):
            began = time.perf_counter()
            speed = trial.MachineSpeed()
            speed.of(torch.device("cpu"), torch.float32, WIDTH)
            trials.append(time.perf_counter() - began)
            for name, side in cases:
                config = models[name].model.diffusion_model.config
                rate = speed.of(torch.device("cpu"), torch.float32, config.hidden_size)
                found[name, side].append((config.multiplications((side // 16) ** 2) / rate, run(models[name], side)))
    demo = studio.model.model.diffusion_model.config
    lines = [
        f"Seconds of a prompt in float32, {torch.get_num_threads()} thread(s), {rounds} rounds, medians: guessed by the trial of the "
        f"machine in the same round, which takes {statistics.median(trials):.2f} s, and in a run of {STEPS} steps. `ratio`: run "
        f"to guess. Random weights: width {WIDTH}, {BLOCKS[0]} + {BLOCKS[1]} blocks; the demo has width "
        f"{demo.hidden_size}, {demo.num_double_blocks} + {demo.num_single_blocks}.",
        "",
        "| model | pixels | guessed, s | run, s | ratio | least | most |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, side), pairs in found.items():
        ratios = [real / guess for guess, real in pairs]
        guess, real = (statistics.median(column) for column in zip(*pairs))
        lines.append(
            f"| {name}, {side} | {side} x {side} | {guess:.3f} | {real:.3f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} | {max(ratios):.2f} |"
        )
    write("before_run", "The guess before a model's first run", lines)
