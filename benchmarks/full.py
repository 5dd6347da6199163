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

import dev

from .load import memory
from .measure import write

PICTURE = 256  # pixels a side
TOKENS = 40  # of the prompt
NOISE_BYTES = 1 << 26
GB = 1e9
FILES = ("bf16", "fp8", "q8_0")
SPARE = 2 * GB  # disk to leave free


def noise(storage: str) -> bytes:
    """Valid values of a storage over and over: bfloat16 or fp8 of Gaussian weights, or blocks of Q8_0."""
    import torch

    gguf_types = dev.load_pack("loaders.formats.ggml")
    values = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)) * 0.02
    if storage == "fp8":
        data = (values * 100).to(torch.float8_e4m3fn).view(torch.uint8)
    elif storage == "q8_0":
        data = gguf_types.quantise(values[: (1 << 24) // 3072 * 3072].view(-1, 3072), "Q8_0")
    else:
        data = values.bfloat16().view(torch.uint8)
    return data.contiguous().numpy().tobytes()


def write_file(folder: Path, storage: str) -> Path:
    """A file of the published model's shapes. fp8 and q8_0: the blocks' linears, the rest 16 bits."""
    import gguf
    import numpy as np
    import torch

    config = dev.load_pack("chroma_model").ChromaConfig()
    shapes = dev.load_pack("loaders.checkpoint.check").expected_shapes(config)
    names = {n.removesuffix("weight") + "scale" if "norm" in n else n: s for n, s in shapes.items()}
    plain = noise("bf16")
    fill = noise(storage)
    packed = {n for n, s in names.items() if len(s) == 2 and n.startswith(("double_blocks.", "single_blocks."))}

    def ones(shape: tuple[int, ...]) -> bytes:
        return torch.ones(shape).bfloat16().view(torch.uint8).numpy().tobytes()

    def pour(f, data: bytes, size: int) -> None:
        for left in range(size, 0, -len(data)):
            f.write(data[: min(left, len(data))])

    if storage == "q8_0":
        path = folder / "full.gguf"
        writer = gguf.GGUFWriter(path, "flux")
        kinds = gguf.GGMLQuantizationType
        for name, shape in names.items():
            kind = kinds.Q8_0 if name in packed else kinds.BF16 if len(shape) == 2 else kinds.F32
            block, size = gguf.GGML_QUANT_SIZES[kind]
            bytes_shape = (*shape[:-1], shape[-1] // block * size)
            writer.add_tensor_info(name, bytes_shape, np.dtype(np.uint8), int(np.prod(bytes_shape)), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with open(path, "ab") as f:
            f.write(b"\0" * (-f.tell() % 32))
            for name, shape in names.items():
                count = int(np.prod(shape))
                if name in packed:
                    pour(f, fill, count // 32 * 34)
                elif len(shape) == 2:
                    pour(f, plain, 2 * count)
                else:
                    f.write(np.full(count, 1.0 if "norm" in name else 0.01, dtype=np.float32).tobytes())
                f.write(b"\0" * (-f.tell() % 32))
        return path

    header: dict[str, dict] = {}
    parts: list[tuple[str, int]] = []
    offset = 0

    def add(name: str, dtype: str, shape: tuple[int, ...], size: int, kind: str) -> None:
        nonlocal offset
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        parts.append((kind, size))
        offset += size

    marker = json.dumps({"format": "float8_e4m3fn"}).encode()
    for name, shape in names.items():
        count = int(np.prod(shape))
        if storage == "fp8" and name in packed:
            stem = name.removesuffix("weight")
            add(name, "F8_E4M3", shape, count, "fill")
            add(stem + "weight_scale", "F32", (), 4, "scale")
            add(stem + "comfy_quant", "U8", (len(marker),), len(marker), "marker")
        else:
            add(name, "BF16", shape, 2 * count, "ones" if "norm" in name else "plain")
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    path = folder / "full.safetensors"
    with open(path, "wb") as f:
        f.write(len(raw).to_bytes(8, "little") + raw)
        for kind, size in parts:
            if kind == "scale":
                f.write(np.float32(0.01).tobytes())
            elif kind == "marker":
                f.write(marker)
            elif kind == "ones":
                f.write(ones((size // 2,)))
            else:
                pour(f, fill if kind == "fill" else plain, size)
    return path


def child(path: str) -> None:
    """Loads the file, then makes one step; prints seconds, peaks and what the process held before."""
    import torch

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
