"""Coverage-guided fuzzing of the file readers: is every file read, or refused in one short sentence?

    python -m benchmarks.fuzz_readers [READER ...] [--seconds 300]

READER is one of READERS, each tried for so long; all if none is given. It needs `atheris` (pip install atheris), which is no
requirement of anything else. What it finds worth keeping goes to the folder `fuzz` of the cache, from which the next run goes
on; an input that breaks a reader is written to `tests/corpus/READER` and from then on is a test
(`tests/loaders/test_corpus.py`). How many inputs were tried is added up in the same folder and written to
`results/fuzz_readers.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import dev

from .measure import write

CORPUS = dev.ROOT / "tests" / "corpus"
MAX_DATA = 1 << 19  # bytes of zeros behind a header
ENDS = re.compile(r"' ends at byte ([\d,]{1,9})")  # of a tensor, in an error
OFFSET = re.compile(rb'"data_offsets"\s*:\s*\[\s*\d+\s*,\s*(\d{1,7})\s*\]')


def framed(text: bytes) -> bytes:
    """A safetensors file with this header, and as many zeros as it says, within MAX_DATA."""
    ends = [int(end) for end in OFFSET.findall(text)]
    return struct.pack("<Q", len(text)) + text + bytes(min(max(ends, default=0), MAX_DATA))


def sized(read: Callable[[Path], None]) -> Callable[[Path], None]:
    """A reader of a GGUF that first gets a file as long as its header says, within MAX_DATA; else few come further."""

    def wrapped(path: Path) -> None:
        for _ in range(2):  # the tensors one by one, then what is behind them
            try:
                return read(path)
            except ValueError as error:
                ends = ENDS.search(str(error))
                if ends is None or (size := int(ends[1].replace(",", ""))) > MAX_DATA:
                    raise
                os.truncate(path, size)
        read(path)

    return wrapped


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


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """For readers whose callers say which file it is: puts its name before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:  # of another library, as it came
            raise
        raise ValueError(f"{path.name}: {str(error).removeprefix(path.name).lstrip(': ')}") from error


def table(path: Path) -> None:
    """As Chroma Prompt List makes its prompts."""
    rows, lists, cards = (dev.load_pack(f"tables.{name}") for name in ("rows", "prompt_list", "wildcards"))
    with named(path):
        found = rows.read_rows(path)
        entries = lists.entries(found, "a fox", 0, 1, cards.Folder(path.parent).choices)
    for entry in entries:
        for column in entry.values:
            with contextlib.suppress(ValueError):  # a value that is a list, say
                lists.value_of(entry.values, column)


def wildcards(path: Path) -> None:
    cards = dev.load_pack("tables.wildcards")
    with named(path):
        folder = cards.Folder(path.parent)
        for seed in range(3):
            cards.resolved(f"__{path.stem}__", random.Random(seed), folder.choices)  # noqa: S311  no secret


def workflow(path: Path) -> None:
    """As `python tools batch` reads a workflow, makes its prompt, fills it and keeps it beside the picture."""
    from tools.batching import fill, pictures
    from tools.batching import workflow as reader

    with named(path):
        saved = reader.read(path)
        converted = reader.convert(saved, NODES)
        Row = dev.load_pack("tables.rows").Row
        jobs = fill.fill(converted, [Row(1, {"# 1": 2})], NODES).jobs
    for job in jobs:
        pictures.parameters(job.prompt)
        reader.saved_with(saved, converted, job.prompt)


def ledger(path: Path) -> None:
    from tools.batching.ledger import Ledger

    with named(path), Ledger(path.parent) as found:
        for job in found.jobs:
            found.is_done(job)
            found.new_id(job)


def picture(path: Path) -> None:
    """As a batch keeps what a server has sent."""
    from tools.batching import pictures

    for form in pictures.FORMATS:
        with named(path):
            pictures.save(path.with_suffix(".out"), path.read_bytes(), PROMPT, None, form, 90)


def run_costs(path: Path) -> None:
    dev.load_pack("advice.run_costs").read(path)


NODES = {  # a server's, as small as can be
    "Loader": {"input": {"required": {"file": ["COMBO", {"options": ["x"]}]}}},
    "Sampler": {
        "input": {
            "required": {"model": ["MODEL", {}], "seed": ["INT", {"control_after_generate": True}]},
            "optional": {"note": ["STRING", {}]},
        }
    },
}
PROMPT = {"1": {"class_type": "Loader", "inputs": {"file": "x"}, "_meta": {"title": "T"}}}
SAVED = {  # a node in a subgraph whose seed is a widget outside, a bypassed one, a reroute, a primitive
    "nodes": [
        {"id": 1, "type": "Loader", "outputs": [{"name": "M", "type": "MODEL"}], "widgets_values": ["x"]},
        {"id": 2, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 1}], "outputs": [{"type": "MODEL"}]},
        {
            **{"id": 3, "type": "deep", "title": "Paint", "widgets_values": [42]},
            "inputs": [
                {"name": "model", "type": "MODEL", "link": 2},
                {"name": "start", "type": "INT", "link": None, "widget": {"name": "start"}},
            ],
        },
        {
            **{"id": 4, "type": "Loader", "mode": 4, "outputs": [{"name": "M", "type": "MODEL"}]},
            **{"inputs": [{"name": "m", "type": "MODEL", "link": 3}], "widgets_values": {"file": "x"}},
        },
        {"id": 5, "type": "PrimitiveNode", "outputs": [{"name": "n", "type": "INT"}], "widgets_values": [7, "fixed"]},
        {
            **{"id": 6, "type": "Sampler", "widgets_values": [5, "randomize", "hi"]},
            "inputs": [{"name": "model", "type": "MODEL", "link": 4}, {"name": "seed", "type": "INT", "link": 5}],
        },
    ],
    "links": [
        *([1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 3, 0, "MODEL"], [3, 1, 0, 4, 0, "MODEL"]),
        *([4, 4, 0, 6, 0, "MODEL"], [5, 5, 0, 6, 1, "INT"]),
    ],
    "definitions": {
        "subgraphs": [
            {
                **{"id": "deep", "name": "deep", "inputNode": {"id": -10}, "outputs": []},
                "nodes": [
                    {
                        **{"id": 7, "type": "Sampler", "widgets_values": [5, "fixed", ""]},
                        "inputs": [
                            {"name": "model", "type": "MODEL", "link": 0},
                            {"name": "seed", "type": "INT", "link": 1},
                        ],
                    }
                ],
                "links": [
                    {"id": 0, "origin_id": -10, "origin_slot": 0, "target_id": 7, "target_slot": 0},
                    {"id": 1, "origin_id": -10, "origin_slot": 1, "target_id": 7, "target_slot": 1},
                ],
                "inputs": [{"name": "model", "type": "MODEL"}, {"name": "start", "type": "INT"}],
            }
        ]
    },
}

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
    "gguf": ("x.gguf", bytes, sized(model)),
    "index": ("x.safetensors.index.json", bytes, model),
    "pickle": ("x.pth", bytes, model),
    "lora": ("x.safetensors", framed, lora),
    "t5": ("x.safetensors", framed, text_encoder),
    "t5_gguf": ("x.gguf", bytes, sized(text_encoder)),
    "csv": ("x.csv", bytes, table),
    "jsonl": ("x.jsonl", bytes, table),
    "prompts": ("x.txt", bytes, table),
    "wildcards": ("x.txt", bytes, wildcards),
    "workflow": ("x.json", bytes, workflow),
    "ledger": ("batch.jsonl", bytes, ledger),
    "picture": ("x.png", bytes, picture),
    "run_costs": ("x.json", bytes, run_costs),
}
# What coverage is looked for in; the rest is other people's.
INSTRUMENTED = ("chroma_pack.loaders", "chroma_pack.tables", "chroma_pack.advice", "tools.batching")
MODULES = (
    *(
        f"loaders.{n}"
        for n in ("files.read", "checkpoint.detect_variant", "checkpoint.check_shapes", "lora.plan", "t5.detect_t5")
    ),
    *(f"tables.{n}" for n in ("rows", "prompt_list", "wildcards", "places")),
    "advice.run_costs",
)


def problem(reader: str, raw: bytes, folder: Path) -> str | None:
    """What is wrong with what a reader makes of an input; None if it reads or refuses it well."""
    import fuzz

    name, make, read = READERS[reader]
    path = folder / name
    path.write_bytes(make(raw))
    try:
        with fuzz.guarded():
            read(path)
    except (Exception, fuzz.Hang) as error:
        if type(error) is ValueError:  # and none of its kinds, which other libraries raise
            wrong = fuzz.problem_of(str(error), name)
            return None if wrong is None else f"{wrong}: {str(error)[:200]!r}"
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

    def pickled(**options: Any) -> bytes:
        out = io.BytesIO()
        torch.save({"img_in.weight": torch.zeros(2, 2), "img_in.bias": torch.ones(2)[:1]}, out, **options)
        return out.getvalue()

    def png(mode: str) -> bytes:
        from PIL import Image, PngImagePlugin

        out, told = io.BytesIO(), PngImagePlugin.PngInfo()
        told.add_text("prompt", json.dumps(PROMPT))
        Image.new(mode, (3, 2)).save(out, "PNG", pnginfo=told)
        return out.getvalue()

    def t5_gguf() -> bytes:
        files, written = (dev.load_pack(f"loaders.files.{n}") for n in ("read", "write"))
        layers = {"attn_norm": (32,), "ffn_norm": (32,), "ffn_down": (32, 64), "ffn_up": (64, 32), "ffn_gate": (64, 32)}
        layers |= {f"attn_{x}": (32, 32) for x in "qkvo"} | {"attn_rel_b": (32, 2)}
        shapes = {f"enc.blk.0.{n}.weight": shape for n, shape in layers.items()} | {"enc.output_norm.weight": (32,)}
        stored = [written.Stored(n, "Q8_0" if n.endswith("v.weight") else "F32", s) for n, s in shapes.items()]
        with tempfile.TemporaryDirectory() as folder:
            path, file = Path(folder) / "made.gguf", written.GGUFFile(stored, {}, "t5", 0)
            with file.open(path):
                for one in stored:
                    file.write(one.name, torch.zeros(one.nbytes, dtype=torch.uint8))
            return path.read_bytes()[:8192]

    events = [
        {"run": "00000000-0000-0000-0000-000000000001"},
        {"job": "a", "sent": "u", "to": "x"},
        {"job": "a", "lost": "u", "died": True},
        {"job": "a", "done": ["a.png"], "seconds": 1.5, "by": "x"},
        {"job": "b", "failed": "no"},
    ]
    work = {"model": "m", "device": "cpu", "width": 64, "height": 64, "batch": 1, "steps": 4, "sampler": "euler"}
    cost = {"work": {**work, "guided": True, "savings": ""}, "prompts": 2.0, "seconds": 1.5, "memory": 0, "network": 64}

    return {
        "safetensors": [header_of(raw) for key, raw in files.items() if made[key].opened.endswith(".safetensors")],
        "gguf": [raw[:8192] for key, raw in files.items() if made[key].opened.endswith(".gguf")],
        "index": [files["sharded"]],
        "lora": [header(pair), header(peft)],
        "t5": [header(encoder)],
        "t5_gguf": [t5_gguf()],
        "pickle": [pickled(), pickled(_use_new_zipfile_serialization=False)],
        "csv": [b'prompt,seed,#\n"a, ""b""",1,\n\n{2::a|b},,x\n', "\ufeffnegative;prompt\n1;2".encode()],
        "jsonl": [b'{"prompt": "a", "seed": 1, "label": null, "c": [1]}\n\n{"prompt": "__x__", "seed": 2.0}\n'],
        "prompts": [b"# mine\n a fox, {red|2::grey} \n\\{b\\|\n"],
        "wildcards": [b"red\n# no\n{a|{b|c}}\n0.5::d\n", b"__x__\na\n"],
        "workflow": [json.dumps(SAVED).encode(), json.dumps(PROMPT).encode()],
        "ledger": ["".join(json.dumps(event) + "\n" for event in events).encode() + b'{"job": "c'],
        "picture": [png("RGB"), png("LA")],
        "run_costs": [json.dumps({"version": 1, "runs": [cost]}).encode()],
    }


def fuzz_one(reader: str, seconds: int) -> None:
    """Tries inputs in this process, which ends with it; adds their number to the reader's count."""
    import atheris

    sys.path.insert(0, str(dev.ROOT / "tests"))
    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        for name in MODULES:
            dev.load_pack(name)
        from tools.batching import fill, ledger, pictures, workflow  # noqa: F401
    kept, found = kept_of(reader), CORPUS / reader
    kept.mkdir(parents=True, exist_ok=True)
    for raw in seeds()[reader]:
        (kept / hashlib.sha256(raw).hexdigest()[:16]).write_bytes(raw)
    folder = Path(tempfile.mkdtemp())
    told: set[str] = set()
    count = count_of(reader)
    tried, ends = int(count.read_text()) if count.is_file() else 0, time.monotonic() + seconds

    def one(raw: bytes) -> Any:
        nonlocal tried
        wrong = problem(reader, raw, folder)
        tried += 1
        if wrong is not None and (kind := re.sub(r"0x\w+|[0-9]+|'.*'|: .*position.*", "", wrong)[:60]) not in told:
            told.add(kind)
            found.mkdir(parents=True, exist_ok=True)
            (found / hashlib.sha256(raw).hexdigest()[:16]).write_bytes(raw)
            print(f"\n{reader}: {wrong}", flush=True)
        if tried % 100 == 0 or time.monotonic() > ends:  # atheris ends the process without a word
            count.write_text(str(tried))

    limits = (f"-max_total_time={seconds}", "-max_len=16384", "-timeout=60", "-print_final_stats=0", "-verbosity=0")
    atheris.Setup([sys.argv[0], *limits, str(kept)], one)
    atheris.Fuzz()


def kept_of(reader: str) -> Path:
    return dev.cache_dir() / "fuzz" / reader


def count_of(reader: str) -> Path:
    """The file of how many inputs were tried, of all runs."""
    return kept_of(reader).with_suffix(".tried")


def write_table() -> None:
    tried = {reader: int(count_of(reader).read_text()) for reader in READERS if count_of(reader).is_file()}
    tests = {reader: len([p for p in (CORPUS / reader).glob("*") if p.is_file()]) for reader in READERS}
    lines = [
        f"{sum(tried.values())} inputs to {len(tried)} readers of files, in all runs so far. What broke one is mended; such inputs, and "
        "some made by hand after them, are tests: `tests/corpus`.",
        "",
        "| reader | inputs tried | kept for new ways through the code | in `tests/corpus` |",
        "|---|---|---|---|",
    ]
    for reader in READERS:
        kept = len(list(kept_of(reader).glob("*"))) if kept_of(reader).is_dir() else 0
        lines.append(f"| {reader} | {tried.get(reader, 0)} | {kept} | {tests[reader]} |")
    write("fuzz_readers", "Coverage-guided fuzzing of file readers", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", choices=[*READERS, []], metavar="READER")
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        return fuzz_one(args.readers[0], args.seconds)
    for reader in args.readers or READERS:  # each in a process of its own, which atheris ends
        command = [sys.executable, "-m", "benchmarks.fuzz_readers", reader, "--alone", "--seconds", str(args.seconds)]
        subprocess.run(command, cwd=dev.ROOT, env=os.environ)
    write_table()


if __name__ == "__main__":
    main()
