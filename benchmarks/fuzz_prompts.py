"""Prompts with wrong inputs of our nodes, to a real server: does it die, hang, or say something that nobody understands?

    python -m benchmarks.fuzz_prompts [--count 1000] [--seed 0]

Every prompt has one of our nodes between sound ones, with one or two of its inputs replaced. Most of the wrong values
come through a switch: the host checks no value and no type behind its output. What comes back is `run`,
`refused` by the host's own checks, `told` in one sentence by a node of ours, or `unclear`: another kind of exception than
a ValueError, or one without words. Where a node of the host's fails, since ours passed on what it was given (Run Report
changes nothing, Studio expands into nodes of the host's), or since the links go in a circle, that is the `host`'s. Nothing
may hang for longer than a minute, and the server must live.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from typing import Any

import dev

from .measure import write

LIMIT = 60  # seconds of one prompt
LONGEST = 600  # characters of a sentence for people
TOLD = ("ValueError", "Problem", "InterruptProcessingException")
NUMBERS = (float("nan"), float("inf"), -float("inf"), 1e9, -1e9, 1e308, 0, -1, 0.5, 10**30, 2**63)
OTHERS = (
    None,
    True,
    "",
    "x",
    "x" * 5000,
    "../../../etc/passwd",
    "\x00",
    "🦊" * 50,
    "1e999",
    [],
    {},
    [1, 2, 3],
    {"a": 1},
)


class Of(str):
    """In place of a value: a connection to what makes this type."""


# What an input of a type may be connected to: a node, its inputs, and the number of its output where that is not 0.
SOURCES: dict[str, tuple[Any, ...]] = {
    "MODEL": ("ChromaDiffusionLoader", {"unet_name": "chroma-demo.safetensors", "quant_mode": "auto"}),
    "CLIP": ("CLIPLoader", {"clip_name": "chroma-demo-t5.safetensors", "type": "chroma", "device": "default"}),
    "VAE": ("VAELoader", {"vae_name": "chroma-demo-vae.safetensors"}),
    "CONDITIONING": ("ChromaTextEncode", {"clip": Of("CLIP"), "text": "a red circle"}),
    "LATENT": ("EmptySD3LatentImage", {"width": 64, "height": 64, "batch_size": 1}),
    "SIGMAS": ("BasicScheduler", {"model": Of("MODEL"), "scheduler": "beta", "steps": 2, "denoise": 1.0}),
    "SAMPLER": ("KSamplerSelect", {"sampler_name": "euler"}),
    "GUIDER": (
        "CFGGuider",
        {"model": Of("MODEL"), "positive": Of("CONDITIONING"), "negative": Of("CONDITIONING"), "cfg": 3.0},
    ),
    "IMAGE": ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 0}),
    "MASK": ("SolidMask", {"value": 1.0, "width": 64, "height": 64}),
    "CHROMA_CUTOUT": (
        "ChromaInpaintCrop",
        {"image": Of("IMAGE"), "mask": Of("MASK"), "context": 1.5, "megapixels": 0.01},
        2,
    ),
    "INT": ("PrimitiveInt", {"value": 3}),
    "FLOAT": ("PrimitiveFloat", {"value": 0.5}),
    "STRING": ("PrimitiveString", {"value": "text"}),
}
BY_SWITCH = 0.8  # share of the wrong values that reach the node past the host's checks
SMALL = {"steps": 2, "width": 64, "height": 64, "batch_size": 1}


class Builder:
    """One prompt: sources by type, each once, and the node that is tried."""

    def __init__(self, info: dict[str, Any]):
        self.info = info
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, inputs: dict[str, Any]) -> str:
        key = str(len(self.nodes) + 1)
        self.nodes[key] = {"class_type": kind, "inputs": {}}
        self.nodes[key]["inputs"] = {n: self.source(v) if isinstance(v, Of) else v for n, v in inputs.items()}
        return key

    def source(self, type_: str) -> list[Any]:
        kind, inputs, *slot = SOURCES[type_]
        key = next((k for k, node in self.nodes.items() if node["class_type"] == kind), None)
        return [self.add(kind, inputs) if key is None else key, slot[0] if slot else 0]

    def sound(self, kind: str) -> dict[str, Any]:
        """A node's inputs as a person would leave them."""
        out: dict[str, Any] = {}
        for part in ("required", "optional"):
            for name, given in self.info[kind]["input"].get(part, {}).items():
                type_, options = given[0], given[1] if len(given) > 1 else {}
                found = self.value(name, type_, options)
                if found is not None:
                    out[name] = found
                    if type_ == "COMFY_DYNAMICCOMBO_V3":
                        chosen = next(o for o in options["options"] if o["key"] == found)
                        for more in chosen["inputs"].get("required", {}).items():
                            out[f"{name}.{more[0]}"] = self.value(
                                more[0], more[1][0], more[1][1] if len(more[1]) > 1 else {}
                            )
        return {n: v for n, v in out.items() if v is not None}

    def value(self, name: str, type_: Any, options: dict[str, Any]) -> Any:
        if name in SMALL:
            return SMALL[name]
        if isinstance(type_, list):
            return options.get("default", type_[0] if type_ else None)
        if type_ == "COMFY_DYNAMICCOMBO_V3":
            return options["options"][0]["key"]
        if type_ == "COMBO":
            choices = options.get("options") or [None]
            return options.get("default", choices[0])
        if "default" in options:
            return options["default"]
        if type_ in ("INT", "FLOAT", "STRING", "BOOLEAN"):
            return {"INT": 1, "FLOAT": 1.0, "STRING": "", "BOOLEAN": False}[type_]
        return next((Of(t) for t in type_.split(",") if t in SOURCES), None)


def hostile(rng: random.Random, builder: Builder) -> Any:
    """A wrong value, or a connection to something of whatever type."""
    kinds = (NUMBERS, OTHERS, tuple(Of(type_) for type_ in SOURCES))
    value = rng.choice(rng.choice(kinds))
    value = builder.source(value) if isinstance(value, Of) else value
    if rng.random() < BY_SWITCH:
        switch = {"switch": True, "on_true": value, "on_false": value}
        return [builder.add("ComfySwitchNode", switch), 0]
    return value


def prompt(rng: random.Random, info: dict[str, Any], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A prompt, and what was replaced in it."""
    builder = Builder(info)
    key = builder.add(kind, builder.sound(kind))
    inputs = builder.nodes[key]["inputs"]
    names = list(inputs) + ["no such input"]
    wrong = {name: hostile(rng, builder) for name in rng.sample(names, min(len(names), rng.choice((1, 1, 2))))}
    inputs.update(wrong)
    for slot, name in enumerate(info[kind]["output"]):
        if name == "LATENT" and rng.random() < 0.5:
            image = builder.add("VAEDecode", {"samples": [key, slot], "vae": Of("VAE")})
            builder.add("PreviewImage", {"images": [image, 0]})
        else:
            builder.add("PreviewAny", {"source": [key, slot]})
    return builder.nodes, wrong


def outcome(server: dev.Server, nodes: dict[str, Any], ours: list[str]) -> tuple[str, str]:
    """(kind, what was said). ours: names of the pack's nodes."""
    answer = server.post("/prompt", {"prompt": nodes, "client_id": "fuzz"})
    if "prompt_id" not in answer:
        return "refused", json.dumps(answer.get("error", answer))[:200]
    try:
        entry = server.wait(answer["prompt_id"], LIMIT)
    except dev.Problem as problem:
        if server.process is not None and server.process.poll() is not None:
            return "dead", str(problem)
        server.post("/interrupt", {})
        return "hung", str(problem).splitlines()[-1]
    for message, data in entry["status"]["messages"]:
        if message == "execution_error":
            said, kind = data["exception_message"].strip(), data["exception_type"].rpartition(".")[2]
            clear = kind in TOLD and 0 < len(said) <= LONGEST
            own = any("custom_nodes" in line or str(dev.ROOT) in line for line in data["traceback"])
            found = "host" if data["node_type"] not in ours or not own else "told" if clear else "unclear"
            return found, f"{data['node_type']}: {kind}: {said[:300]}"
    return "run", ""


def main(rounds: int = 0, count: int = 1000, seed: int = 0) -> None:
    rng, counts, unclear = random.Random(seed), Counter[str](), []
    dev.place_models()
    with dev.Server(log=dev.cache_dir() / "fuzz-server.log", cpu=True) as server:
        info = server.get("/object_info")
        ours = sorted(k for k, v in info.items() if "custom_nodes" in v["python_module"])
        for i in range(count):
            kind = ours[i % len(ours)]
            nodes, wrong = prompt(rng, info, kind)
            started = time.monotonic()
            what, said = outcome(server, nodes, ours)
            counts[what] += 1
            if what in ("host", "unclear", "hung", "dead"):
                unclear.append(f"- {what}, `{kind}` with `{json.dumps(wrong)[:200]}`: {said}")
                print(unclear[-1], flush=True)
            if what in ("hung", "dead"):
                break
            if i % 50 == 49:
                print(f"{i + 1}: {dict(counts)}, last {time.monotonic() - started:.1f} s", flush=True)
    lines = [
        f"{sum(counts.values())} prompts (seed {seed}) with wrong inputs, over our {len(ours)} nodes, to one server.",
        "",
        "| outcome | prompts |",
        "|---|---|",
        *(f"| {what} | {counts[what]} |" for what in ("run", "refused", "told", "host", "unclear", "hung", "dead")),
        "",
        *unclear,
    ]
    write("fuzz_prompts", "Prompts with wrong inputs", lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(0, given.count, given.seed)
