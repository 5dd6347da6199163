"""Does the whole 8.9B model load and step on a machine with 24 GB and no GPU? Synthetic weights at full size."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

import dev

from .load import memory
from .measure import write

PICTURE = 256  # pixels a side
TOKENS = 40  # of the prompt
NOISE = 1 << 24  # numbers, over and over
GB = 1e9
FILES = {"bf16": "bf16", "fp8": "fp8_scaled", "q8_0": "q8_0"}  # in the table -> a choice of the export
SPARE = 2 * GB  # disk to leave free


def noise(type: str) -> torch.Tensor:
    """Valid bytes of a stored type: Gaussian weights of 0.02, in blocks where it has them."""
    formats = dev.load_pack("loaders.formats.base.registry")
    values = torch.randn(NOISE // 3072, 3072, generator=torch.Generator().manual_seed(0)) * 0.02
    format = formats.BY_TYPE[type]
    scale = 0.01 if format.marker((1, 1), False) else 1.0
    return format.pack(values / scale, torch.tensor(448.0), None)[0].reshape(-1).view(torch.uint8)


def write_file(folder: Path, storage: str) -> Path:
    """A file of the published model's shapes, as the export would write it; of synthetic numbers."""
    formats, items, writers = (
        dev.load_pack(f"loaders.{m}") for m in ("formats.base.registry", "checkpoint.tensors_to_write", "files.write")
    )
    choice = formats.EXPORTS[FILES[storage]]
    planned = items.items_of(published(), choice, full_precision=False)
    stored = [s for item in planned for s in item.stored.values()]
    if choice.suffix == ".gguf":
        file = writers.GGUFFile(stored, {}, "full", choice.file_type)
    else:
        file = writers.SafetensorsFile(stored, {})
    fill: dict[str, torch.Tensor] = {}
    path = folder / f"full{choice.suffix}"
    with file.open(path):
        for item in planned:
            for role, s in item.stored.items():
                file.write(s.name, values(item, role, s, fill))
    return path


def published() -> Any:
    """What the detection of the published checkpoint gives, without its file."""
    config = dev.load_pack("chroma_model").ChromaConfig()
    shapes = dev.load_pack("loaders.checkpoint.check_shapes").expected_shapes(config)
    return dev.load_pack("loaders.checkpoint.detect_variant").Detection(
        dtype=torch.bfloat16,
        tensors=dict.fromkeys(shapes, ()),
        shapes=shapes,
        formats={},
        variant="Chroma",
        layout="BFL",
        config=config,
        prefix="",
        dropped=(),
    )


def values(item: Any, role: str, stored: Any, fill: dict[str, torch.Tensor]) -> torch.Tensor:
    """Numbers for one tensor of the file; `fill` keeps the noise of each type."""
    dtype = dev.load_pack("loaders.tensor_info").DTYPES.get(stored.type, torch.uint8)
    if role == "comfy_quant":
        return item.marker_bytes
    if role == "weight_scale" or "norm" in stored.name:
        return torch.full(stored.shape, 0.01 if role == "weight_scale" else 1.0, dtype=dtype)
    data = fill.setdefault(stored.type, torch.empty(0))
    if not len(data):
        data = fill[stored.type] = noise(stored.type)
    return data.repeat(-(-stored.nbytes // len(data)))[: stored.nbytes].view(dtype)


def child(path: str) -> None:
    """Loads the file, then makes one step; prints seconds, peaks and what the process held before."""
    sys.path.insert(0, str(dev.host_path()))
    from comfy.cli_args import args

    args.cpu = True
    import comfy.model_management
    import comfy.sample

    host_load = dev.load_pack("host.model.load")
    before = memory()
    peak, running = {"own": 0, "all": 0}, True

    def watch() -> None:
        while running:
            now = memory()
            peak["own"] = max(peak["own"], now["RssAnon"])
            peak["all"] = max(peak["all"], now["RssAnon"] + now["RssFile"])
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    with torch.inference_mode():
        patcher = host_load.load_chroma(path)
        out = {
            "load_s": time.perf_counter() - start,
            "load": dict(peak),
            "text": dev.load_pack("host.model.report").model_report(patcher),
        }
        context = torch.randn(1, TOKENS, 4096, generator=torch.Generator().manual_seed(1))
        latent = torch.zeros(1, 16, PICTURE // 8, PICTURE // 8)
        generator = torch.Generator().manual_seed(2)
        for step in ("first", "second"):
            start = time.perf_counter()
            found = comfy.sample.sample(
                patcher,
                torch.randn(latent.shape, generator=generator),
                *(1, 1.0, "euler", "simple", [[context, {}]], [[context, {}]], latent),
                disable_pbar=True,
                seed=1,
            )
            out[f"{step}_s"] = time.perf_counter() - start
        out["finite"] = bool(torch.isfinite(found).all())
    running = False
    thread.join()
    print(json.dumps({**out, "step": peak, "before": before["RssAnon"] + before["RssFile"]}))


def main(rounds: int) -> None:
    if not Path("/proc/self/status").exists():
        print("full: left out, it reads Linux's /proc to measure memory", file=sys.stderr)
        return
    total = int(next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemTotal")).split()[1])
    lines = [
        f"Files of the published model's shapes (8.9B parameters) with synthetic weights, on a machine with "
        f"{total * 1024 / GB:.0f} GB of memory; one process each. `peak` is all of the process's resident memory, Python and "
        f"PyTorch and the file's mapped pages included. A step is one forward of a {PICTURE} x {PICTURE} picture with "
        f"{TOKENS} text tokens, CFG 1, in float32; the first reads the file from the disk where it is not cached.",
        "",
        "| stored as | file, GB | load, s | peak after loading, GB | first step, s | second step, s | peak, GB | peak less file, GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    texts = []
    for storage in FILES:
        with tempfile.TemporaryDirectory(dir=dev.cache_dir()) as folder:
            free = shutil.disk_usage(folder).free
            if free < 17.9 * GB + SPARE:
                print(f"full: left out, {free / GB:.0f} GB of disk are free, it needs 20", file=sys.stderr)
                return
            path = write_file(Path(folder), storage)
            size = path.stat().st_size
            run = subprocess.run(
                [sys.executable, "-c", f"import benchmarks.full as b; b.child({str(path)!r})"],
                cwd=dev.ROOT,
                env=os.environ,
                capture_output=True,
                text=True,
            )
            if run.returncode:
                raise RuntimeError(f"{storage}: {run.stderr[-2000:]}")
            found = json.loads(run.stdout.splitlines()[-1])
        if not found["finite"]:
            raise RuntimeError(f"{storage}: the step gave NaN")
        a, b = found["load"], found["step"]
        lines.append(
            f"| {storage} | {size / GB:.2f} | {found['load_s']:.1f} | {a['all'] / GB:.2f} | {found['first_s']:.0f} "
            f"| {found['second_s']:.0f} | {b['all'] / GB:.2f} | {(b['all'] - size) / GB:.2f} |"
        )
        texts.append(
            f"{storage}: before loading the process held {found['before'] / GB:.2f} GB. "
            + found["text"].replace("\n", "; ")
        )
        print(lines[-1], flush=True)
    write("full", "The whole model without a GPU", [*lines, "", *(f"- {text}" for text in texts)])
