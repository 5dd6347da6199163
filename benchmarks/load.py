"""How much memory and time does loading take? A synthetic file of several gigabytes, ours beside the host's loader."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import dev

from .measure import write

DOUBLE, SINGLE = (
    5,
    9,
)  # of width 3072 with the full Approximator: 4.9 GB in bfloat16; the host's loader takes 15 GB for it
LOADERS = {
    "ours, auto": "auto",
    "ours, fp8_scaled": "fp8_scaled",
    "ours, int8_convrot": "int8_convrot",
    "ComfyUI's UNETLoader": "host",
    "ComfyUI's UNETLoader, dtype of the file": "host-bf16",
}


def write_file(path: Path) -> int:
    """A Chroma of real width and few blocks in bfloat16, written tensor by tensor; gives its size in bytes."""
    import numpy as np
    import torch

    model = dev.load_pack("chroma_model")
    cfg = model.ChromaConfig(num_double_blocks=DOUBLE, num_single_blocks=SINGLE)
    shapes = dev.load_pack("loaders.checkpoint.check_shapes").expected_shapes(cfg)
    header, offset = {}, 0
    for name, shape in shapes.items():
        if name.endswith("_norm.weight") or ".norms." in name:
            name = name.removesuffix("weight") + "scale"
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    noise = (
        (torch.randn(2**24, generator=torch.Generator().manual_seed(0)) * 0.02)
        .bfloat16()
        .view(torch.int16)
        .numpy()
        .tobytes()
    )
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(raw)) + raw)
        for left in range(offset, 0, -len(noise)):
            f.write(noise[: min(left, len(noise))])
    return path.stat().st_size


def memory() -> dict[str, int]:
    """This process's bytes: anonymous (its own) and mapped from files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {k: int(fields[k].split()[0]) * 1024 for k in ("RssAnon", "RssFile")}


def child(path: str, mode: str) -> None:
    """Loads the file, then runs one small forward; prints peaks over what the process had before."""
    import torch

    sys.path.insert(0, str(dev.host_path()))
    from comfy.cli_args import args

    args.cpu = True
    import comfy.model_management
    import comfy.sd

    host_load = dev.load_pack("host.model.load")
    before, peak, running = memory(), {"anon": 0, "all": 0}, True

    def watch() -> None:
        while running:
            now = memory()
            anon = now["RssAnon"] - before["RssAnon"]
            peak["anon"] = max(peak["anon"], anon)
            peak["all"] = max(peak["all"], anon + now["RssFile"] - before["RssFile"])
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    with torch.inference_mode():
        if mode.startswith("host"):
            options = {"dtype": torch.bfloat16} if mode == "host-bf16" else {}
            patcher = comfy.sd.load_diffusion_model(path, model_options=options)
        else:
            patcher = host_load.load_chroma(path, mode)
        loaded = {"seconds": time.perf_counter() - start, **peak}
        comfy.model_management.load_models_gpu([patcher])
        net = patcher.model
        net.apply_model(
            torch.zeros(1, 16, 8, 8),
            torch.tensor([0.5]),
            c_crossattn=torch.zeros(1, 4, 4096),
            guidance=torch.zeros(1),
            transformer_options={},
        )
    running = False
    thread.join()
    print(json.dumps({"load": loaded, "forward": peak}))


def main(rounds: int) -> None:
    if not Path("/proc/self/status").exists():
        print("load: left out, it reads Linux's /proc to measure memory", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(dir=dev.cache_dir()) as folder:
        path = Path(folder) / "synthetic.safetensors"
        size = write_file(path)
        lines = [
            f"A synthetic bfloat16 file of {size / 1e9:.2f} GB ({DOUBLE} + {SINGLE} blocks of width 3072, full Approximator); each "
            "row a process of its own, the file in the page cache. `own` is anonymous memory, `with file` adds the file's "
            "mapped pages, which the system can drop at any time. Peaks over what the process held before, as multiples "
            "of the file's size; `+ forward` includes a first forward of 16 image tokens.",
            "",
            "| | seconds | own | with file | own + forward | with file + forward |",
            "|---|---|---|---|---|---|",
        ]
        for name, mode in LOADERS.items():
            run = subprocess.run(
                [sys.executable, "-c", f"import benchmarks.load as b; b.child({str(path)!r}, {mode!r})"],
                cwd=dev.ROOT,
                env=os.environ,
                capture_output=True,
                text=True,
            )
            if run.returncode:
                raise RuntimeError(f"{name}: {run.stderr[-2000:]}")
            found = json.loads(run.stdout.splitlines()[-1])
            a, b = found["load"], found["forward"]
            lines.append(
                f"| {name} | {a['seconds']:.1f} | {a['anon'] / size:.2f} | {a['all'] / size:.2f} "
                f"| {b['anon'] / size:.2f} | {b['all'] / size:.2f} |"
            )
    write("load", "Loading a file of several gigabytes", lines)
