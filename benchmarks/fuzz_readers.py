"""Coverage-guided fuzzing of the file readers: is every header read, or refused in one short sentence?

    python -m benchmarks.fuzz_readers READER [--seconds 300]

READER is one of READERS. It needs `atheris` (pip install atheris), which is no requirement of anything else. What it finds
worth keeping goes to the folder `fuzz` of the cache, from which the next run goes on; an input that breaks a reader is
written to `tests/corpus/READER` and from then on is a test (`tests/loaders/test_corpus.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable

import dev

CORPUS = dev.ROOT / "tests" / "corpus"
MAX_DATA = 1 << 19  # bytes of zeros behind a header
OFFSET = re.compile(rb'"data_offsets"\s*:\s*\[\s*\d+\s*,\s*(\d{1,7})\s*\]')


def framed(text: bytes) -> bytes:
    """A safetensors file with this header, and as many zeros as it says, within MAX_DATA."""
    ends = [int(end) for end in OFFSET.findall(text)]
    return struct.pack("<Q", len(text)) + text + bytes(min(max(ends, default=0), MAX_DATA))


def padded(raw: bytes) -> bytes:
    return raw + bytes(1 << 16)


def model(path: Path) -> None:
    """As the loader reads a model's header."""
    header = dev.load_pack("loaders.files.read").read_header(path)
    detection = dev.load_pack("loaders.checkpoint.detect_variant").detect(header)
    dev.load_pack("loaders.checkpoint.check_shapes").check(header, detection)


def lora(path: Path) -> None:
    header = dev.load_pack("loaders.files.read").read_header(path)
    shapes = {name: info.shape for name, info in header.tensors.items()}
    try:
        dev.load_pack("loaders.lora.plan").make_plan(shapes, MODEL, metadata=header.metadata)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def text_encoder(path: Path) -> None:
    header = dev.load_pack("loaders.files.read").read_header(path)
    dev.load_pack("loaders.t5.detect_t5").detect_t5(header)


MODEL = {  # parameters that a LoRA may change
    "img_in.weight": (128, 64),
    "double_blocks.0.img_attn.qkv.weight": (384, 128),
    "double_blocks.0.img_mlp.0.weight": (512, 128),
    "double_blocks.0.img_mlp.0.bias": (512,),
    "single_blocks.0.linear1.weight": (896, 128),
    "distilled_guidance_layer.in_proj.weight": (48, 64),
}

# Reader -> the file's name, how it is made of an input, and what reads it.
READERS: dict[str, tuple[str, Callable[[bytes], bytes], Callable[[Path], None]]] = {
    "safetensors": ("x.safetensors", framed, model),
    "gguf": ("x.gguf", padded, model),
    "index": ("x.safetensors.index.json", bytes, model),
    "lora": ("x.safetensors", framed, lora),
    "t5": ("x.safetensors", framed, text_encoder),
}


def problem(reader: str, raw: bytes, folder: Path) -> str | None:
    """What is wrong with what a reader makes of an input; None if it reads or refuses it well."""
    import fuzz

    name, make, read = READERS[reader]
    path = folder / name
    path.write_bytes(make(raw))
    try:
        with fuzz.guarded():
            read(path)
    except ValueError as error:
        wrong = fuzz.problem_of(str(error), name)
        return None if wrong is None else f"{wrong}: {str(error)[:200]!r}"
    except (Exception, fuzz.Hang) as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def seeds() -> dict[str, list[bytes]]:
    """Sound headers for each reader."""
    import fuzz
    import torch

    def header_of(raw: bytes) -> bytes:
        return raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]]

    with tempfile.TemporaryDirectory() as name:
        made = {key: make(Path(name)) for key, make in fuzz.SAMPLES.items() if "pth" not in key}
    files = {key: sample.files[sample.opened] for key, sample in made.items()}
    pair = {
        f"lora_unet_double_blocks_0_img_attn_qkv.lora_{k}.weight": s for k, s in (("down", (4, 128)), ("up", (384, 4)))
    }
    peft = {
        f"diffusion_model.double_blocks.0.img_mlp.0.lora_{k}.weight": s for k, s in (("A", (4, 128)), ("B", (512, 4)))
    }
    encoder = {
        "shared.weight": (32128, 8),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 2),
        **{f"encoder.block.0.layer.0.SelfAttention.{k}.weight": (8, 8) for k in "qkvo"},
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": (16, 8),
        "encoder.block.0.layer.1.DenseReluDense.wo.weight": (8, 16),
        "encoder.final_layer_norm.weight": (8,),
    }

    def header(shapes: dict[str, tuple[int, ...]]) -> bytes:
        return header_of(fuzz.safetensors({n: fuzz.entry(torch.zeros(s, dtype=torch.int8)) for n, s in shapes.items()}))

    return {
        "safetensors": [header_of(raw) for key, raw in files.items() if made[key].opened.endswith(".safetensors")],
        "gguf": [raw[:8192] for key, raw in files.items() if made[key].opened.endswith(".gguf")],
        "index": [files["sharded"]],
        "lora": [header(pair), header(peft)],
        "t5": [header(encoder)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reader", choices=list(READERS))
    parser.add_argument("--seconds", type=int, default=300)
    args = parser.parse_args()
    import atheris

    sys.path.insert(0, str(dev.ROOT / "tests"))
    with atheris.instrument_imports(include=["chroma_pack.loaders"]):
        for name in ("files.read", "checkpoint.detect_variant", "checkpoint.check_shapes", "lora.plan", "t5.detect_t5"):
            dev.load_pack(f"loaders.{name}")
    kept, found = dev.cache_dir() / "fuzz" / args.reader, CORPUS / args.reader
    kept.mkdir(parents=True, exist_ok=True)
    for raw in seeds()[args.reader]:
        (kept / hashlib.sha256(raw).hexdigest()[:16]).write_bytes(raw)
    folder = Path(tempfile.mkdtemp())
    told: set[str] = set()

    def one(raw: bytes) -> Any:
        wrong = problem(args.reader, raw, folder)
        if wrong is not None and (kind := re.sub(r"[0-9]+|'.*'", "", wrong)[:60]) not in told:
            told.add(kind)
            found.mkdir(parents=True, exist_ok=True)
            (found / hashlib.sha256(raw).hexdigest()[:16]).write_bytes(raw)
            print(f"\n{args.reader}: {wrong}", flush=True)

    atheris.Setup([sys.argv[0], f"-max_total_time={args.seconds}", "-max_len=16384", "-timeout=30", str(kept)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
