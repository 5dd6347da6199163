"""How long does `python tools distil` take on FLUX.1 dev? A file of its shapes, of which only the biases are written."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import tempfile
import time
from math import prod
from pathlib import Path

import torch

import dev

from .measure import write

STEPS = 20_000  # the command's default
GB = 1e9


def flux_file(path: Path) -> None:
    """A file of FLUX.1 dev's names and shapes in bf16: weights are a hole, which reads as zeros, biases are ones."""
    sys.path.insert(0, str(dev.ROOT / "tests"))
    headers, models = (importlib.import_module(name) for name in ("headers", "headers.models"))
    named = {name: shape for names, shape in models.flux(True).shapes.items() for name in headers.expand(names)}
    header, end = {}, 0
    for name, shape in named.items():
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end := end + 2 * prod(shape)]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, entry in header.items():
            if name.endswith(".bias"):
                file.seek(8 + len(text) + entry["data_offsets"][0])
                file.write(b"\x80\x3f" * prod(entry["shape"]))  # 1.0 in bf16


def main(rounds: int) -> None:
    file_of, distil, modulation = (
        dev.load_pack(name)
        for name in ("loaders.checkpoint.flux_file", "chroma_model.distil", "chroma_model.modulation")
    )
    with tempfile.TemporaryDirectory(dir=dev.cache_dir()) as folder:
        path = Path(folder) / "flux1-dev.safetensors"
        flux_file(path)
        file = file_of.FluxFile(path, 5120, 5)
        net = modulation.Approximator(file.config.approximator)
        fit = distil.Fit(distil.FluxModulation(file.config, file.weight), net, STEPS)
        fit.step()  # warms up
        seconds = []
        for i in range(rounds):
            start = time.perf_counter()
            fit.step()
            seconds.append(time.perf_counter() - start)
            print(f"step {i + 1}/{rounds}, {seconds[-1]:.1f} s", flush=True)
        parameters = sum(p.numel() for p in net.parameters())
    median = statistics.median(seconds)
    write(
        "distil",
        "Time of a modulator for FLUX.1 dev",
        [
            f"The command's own step ({fit.points} points, {fit.layers} of {len(fit.flux.layers)} layers of FLUX, an Approximator of "
            f"{parameters / GB:.2f} billion parameters in float32 under Adam), {torch.get_num_threads()} threads, median of {rounds}. "
            "FLUX's weights are zeros here, on which the time does not depend.",
            "",
            "| file | step, s | 20,000 steps, hours |",
            "|---|---|---|",
            f"| FLUX.1 dev | {median:.1f} | {median * STEPS / 3600:.0f} |",
        ],
    )
