"""One server for half an hour of prompts that change in everything: does its memory grow, and is the first picture the same?

    python -m benchmarks.soak [--minutes 30] [--seed 0]

Each prompt draws its size, batch, length, seed and some of the changes below. Before the clock starts, each change, precision and
size has been met once, and prompts have been drawn for another quarter of the time: stores of a fixed size fill up first, such as
PyTorch's of operations compiled for a size. ComfyUI's list of the last 10,000 prompts, which goes on growing, is emptied after each.

What a server holds depends on its last prompt. So it is read each time after the first prompt, which comes again after every few
drawn ones: its memory, without mapped files that the system may drop, handles, threads, and whether its picture is the same. The C
library gives back at once what is freed (ALLOCATOR): left to itself it keeps up to a quarter more, which would hide what this looks
for.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import dev

from .measure import write

sys.path.insert(0, str(dev.ROOT / "tests"))
from browser import demo_files  # noqa: E402
from graphs import Graph  # noqa: E402

WORDS = ("red", "blue", "green", "circle", "square", "triangle", "large", "small", "left", "right")
SIZES, BATCHES = (
    ((64, 64), (96, 160), (128, 128), (160, 96), (128, 192), (192, 192)),
    (1, 2, 3),
)  # width and height, pixels
LONGEST = 600  # words, which are more than T5's tokens
SERVER = (
    "--cache-classic",
)  # else ComfyUI keeps every prompt's results until the memory is nearly full, and paints nothing again
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}  # glibc's
CONTROLNET = "chroma-demo-controlnet.safetensors"
SETTLING = 0.25  # of the time
DRAWN = 4  # prompts between two readings
MOST_GROWN = 0.02  # of the median memory, from the first third to a later one
PRECISIONS = ("auto", "q8_0", "int8_convrot", "fp8_scaled", "q4_1", "bf16", "fp32")
MAKE_CONTROLNET = """
import sys
sys.path[:0] = sys.argv[1:3]
from comfy.cli_args import args
args.cpu = True
import controlnets
from safetensors.torch import save_file
width, context = (int(number) for number in sys.argv[4:])
save_file(controlnets.state_dict("xlabs", width, context), sys.argv[3])
"""


# --- what may change -------------------------------------------------------------------------------------------------


def with_lora(graph: Graph, rng: random.Random) -> None:
    graph.model_through(
        "LoraLoaderModelOnly", lora_name=demo_files.LORA, strength_model=rng.choice((0.5, 1.0, rng.random()))
    )


def with_precision(graph: Graph, rng: random.Random) -> None:
    graph.set("ChromaDiffusionLoader", quant_mode=rng.choice(PRECISIONS))


def with_other_model(graph: Graph, rng: random.Random) -> None:
    graph.set("ChromaDiffusionLoader", unet_name=demo_files.FLUX, approximator=demo_files.MODULATOR)


def with_nag(graph: Graph, rng: random.Random) -> None:
    negative = graph.nodes[graph.find("KSampler")]["inputs"]["negative"]
    graph.model_through("ChromaNAG", negative=negative, scale=3.0, tau=2.5, alpha=0.5)


def with_cache(graph: Graph, rng: random.Random) -> None:
    graph.model_through("EasyCache", reuse_threshold=0.2, start_percent=0.1, end_percent=0.95, verbose=False)


def with_guidance(graph: Graph, rng: random.Random) -> None:
    graph.model_through("ChromaGuidance", **{"form": "plain", "alternate": True})


def picture(graph: Graph) -> list[Any]:
    return [graph.add("EmptyImage", width=96, height=96, batch_size=1, color=0x804020), 0]


def with_controlnet(graph: Graph, rng: random.Random) -> None:
    inputs = graph.nodes[graph.find("KSampler")]["inputs"]
    control = [graph.add("ControlNetLoader", control_net_name=CONTROLNET), 0]
    applied = graph.add(
        "ControlNetApplyAdvanced",
        positive=inputs["positive"],
        negative=inputs["negative"],
        control_net=control,
        image=picture(graph),
        strength=0.5,
        start_percent=0.0,
        end_percent=1.0,
    )
    inputs.update(positive=[applied, 0], negative=[applied, 1])


def with_reference(graph: Graph, rng: random.Random) -> None:
    inputs = graph.nodes[graph.find("KSampler")]["inputs"]
    latent = graph.add("VAEEncode", pixels=picture(graph), vae=[graph.find("VAELoader"), 0])
    inputs["positive"] = [graph.add("ReferenceLatent", conditioning=inputs["positive"], latent=[latent, 0]), 0]


def with_step_cache(graph: Graph, rng: random.Random) -> None:
    graph.set("KSampler", steps=12)  # of fewer none can be forecast
    graph.model_through("ChromaCache", forecast="planned", **{"forecast.compute": 0.8})


CHANGES: dict[str, Callable[[Graph, random.Random], None]] = {
    "LoRA": with_lora,
    "precision": with_precision,
    "another model": with_other_model,
    "NAG": with_nag,
    "EasyCache": with_cache,
    "Chroma Cache": with_step_cache,
    "guidance": with_guidance,
    "ControlNet": with_controlnet,
    "reference": with_reference,
}


def some(rng: random.Random) -> list[str]:
    return [name for name in CHANGES if rng.random() < 0.25]


def place(base: Path) -> None:
    """The files that the changes need."""
    demo_files.place(base)
    path = base / "models" / "controlnet" / CONTROLNET
    path.parent.mkdir(parents=True, exist_ok=True)
    width = demo_files.demo_weights()["img_in.weight"].shape[0]
    python = [dev.venv_python(), "-c", MAKE_CONTROLNET]
    command = [*python, dev.host_path(), dev.ROOT / "tests", path, width, demo_files.TEXT_WIDTH]
    subprocess.run([str(part) for part in command], check=True, cwd=dev.ROOT)


def drawn(
    server: dev.Server, rng: random.Random, changes: list[str], size: tuple[int, int] | None = None, batch: int = 0
) -> Graph:
    """A prompt with these changes; length and seed are drawn, and size and batch where they are not given."""
    graph = Graph.demo(server)
    width, height = size or rng.choice(SIZES)
    graph.set("EmptySD3LatentImage", width=width, height=height, batch_size=batch or rng.choice(BATCHES))
    graph.set("KSampler", seed=rng.randrange(2**32), steps=rng.choice((1, 2, 4)))
    text = " ".join(rng.choice(WORDS) for _ in range(rng.choice((1, 5, 40, LONGEST))))
    graph.set("ChromaTextEncode", "Prompt", text=text)
    for name in changes:
        CHANGES[name](graph, rng)
    return graph


# --- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class Third:
    """prompts: all that ran in it. The rest is a value for each reading; same: whether the first prompt's pixels were the first's."""

    prompts: int = 0
    memory: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)


@dataclass
class Held:
    """What a server held. grown: medians of memory of the second and third third, by the first's, less 1."""

    thirds: list[Third]

    @property
    def prompts(self) -> int:
        return sum(third.prompts for third in self.thirds)

    @property
    def same(self) -> bool:
        return all(all(third.same) for third in self.thirds)

    @property
    def grown(self) -> list[float]:
        first, *others = (statistics.median(t.memory) for t in self.thirds)
        return [other / first - 1 for other in others]

    @property
    def new_handles(self) -> int:
        return max(self.thirds[2].handles) - max(self.thirds[0].handles)

    @property
    def new_threads(self) -> int:
        return max(self.thirds[2].threads) - max(self.thirds[0].threads)


def own_memory(process: Any) -> int:
    """Bytes that only this process holds: on Linux what it has written, elsewhere with the mapped files that no other one has."""
    maps = process.memory_maps() if sys.platform == "linux" else []
    return sum(part.private_dirty for part in maps) or process.memory_full_info().uss


def hold(server: dev.Server, seconds: float, seed: int = 0) -> Held:
    """Runs prompts on a server for so long.

    raises: dev.Problem where a prompt fails, with what was drawn.
    """
    import psutil

    process = psutil.Process(server.process.pid)
    handles = process.num_fds if hasattr(process, "num_fds") else process.num_handles
    rng = random.Random(seed)
    first = drawn(server, random.Random(seed), [])
    pixels = [path.read_bytes() for path in first.set("SaveImage", filename_prefix="soak").run(server)]

    def run(changes: list[str], **given: Any) -> None:
        graph = drawn(server, rng, changes, **given)
        try:
            for path in graph.set("SaveImage", filename_prefix="soak").run(server):
                path.unlink()
            server.post("/history", {"clear": True})  # ComfyUI keeps the last 10,000 prompts
        except dev.Problem as problem:
            raise dev.Problem(
                f"{', '.join(changes) or 'plain'}: {problem}\n{json.dumps(graph.nodes)[:2000]}"
            ) from problem

    for name in CHANGES:
        run([name])
    for size, batch in itertools.product(SIZES, BATCHES):
        run([], size=size, batch=batch)
    for precision in PRECISIONS[1:]:
        graph = drawn(server, rng, []).set("ChromaDiffusionLoader", quant_mode=precision)
        graph.set("SaveImage", filename_prefix="soak").run(server)
    start = time.monotonic() + SETTLING * seconds
    while time.monotonic() < start:
        run(some(rng))
    held = Held([Third(), Third(), Third()])
    start = time.monotonic()
    for i, third in enumerate(held.thirds):
        while time.monotonic() < start + seconds * (i + 1) / 3 or not third.memory:
            for _ in range(DRAWN):
                run(some(rng))
            again = first.run(server)
            third.prompts += DRAWN + 1
            third.memory.append(own_memory(process))
            third.handles.append(handles())
            third.threads.append(process.num_threads())
            third.same.append(same_pictures([path.read_bytes() for path in again], pixels))
            print(f"{i + 1}/3: {held.prompts} prompts, {third.memory[-1] / 1e6:.1f} MB", file=sys.stderr, flush=True)
    return held


def same_pictures(some: list[bytes], others: list[bytes]) -> bool:
    import io

    import numpy as np
    from PIL import Image

    def opened(data: bytes) -> Any:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    return len(some) == len(others) and all(np.array_equal(opened(a), opened(b)) for a, b in zip(some, others))


def main(rounds: int = 0, minutes: float = 30, seed: int = 0) -> None:
    dev.place_models()
    place(dev.base_dir())
    log = dev.cache_dir() / "soak-server.log"
    with dev.Server(arguments=SERVER, log=log, cpu=True, environment=ALLOCATOR) as server:
        held = hold(server, 60 * minutes, seed)
    lines = [
        f"{held.prompts} prompts in {minutes:g} minutes (seed {seed}) to one server, each with a size, batch, length and seed of its "
        f"own and some of: {', '.join(CHANGES)}. After every {DRAWN} of them the first prompt comes again, and the server is read: "
        "least, median and most of each third. Each size, change and precision has been met before. ComfyUI keeps the last prompt's "
        f"results alone ({SERVER[0]}) and its list of prompts is emptied; the C library gives back at once what is freed.",
        "",
        "| third | prompts | memory, MB | handles | threads | the first prompt again |",
        "|---|---|---|---|---|---|",
    ]
    for i, third in enumerate(held.thirds):
        of = [
            " / ".join(f"{number(values) / scale:.0f}" for number in (min, statistics.median, max))
            for values, scale in ((third.memory, 1e6), (third.handles, 1), (third.threads, 1))
        ]
        lines.append(
            f"| {i + 1} | {third.prompts} | {' | '.join(of)} | {'the same pixels' if all(third.same) else 'DIFFERS'} |"
        )
    grown = " and ".join(f"{100 * g:+.1f} %" for g in held.grown)
    lines += ["", f"Median memory of the second and third third beside the first: {grown}."]
    write("soak", "Changing prompts to one server", lines)
    wrong = [
        *([f"memory has grown by {max(held.grown):.1%}"] if max(held.grown) > MOST_GROWN else []),
        *([f"{held.new_handles} handles more"] if held.new_handles > 0 else []),
        *([f"{held.new_threads} threads more"] if held.new_threads > 0 else []),
        *(["the first prompt gives other pixels"] if not held.same else []),
    ]
    if wrong:
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(0, given.minutes, given.seed)
