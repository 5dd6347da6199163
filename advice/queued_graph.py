"""The graph that a person has queued, in the host's API format. Pure: no host, no tensor.

node id -> {"class_type": ..., "inputs": {name: value or [node id, slot]}}. Other packs' nodes are read by the names of
their inputs: a node that gives a MODEL most likely passes on its input `model`.
"""

from __future__ import annotations

import re
from string import digits
from typing import Any, Mapping

MODEL_FILE = re.compile(r"\.(safetensors|sft|gguf|ckpt|pth|pt|bin|safetensors\.index\.json)$", re.IGNORECASE)
PRESET_NODE, SPEED_NODE, FLASH_NODE, SIZE_NODE = "ChromaPreset", "ChromaSpeed", "ChromaFlash", "ChromaSize"
PRESET_NODES = (PRESET_NODE, SPEED_NODE)  # which recognise the checkpoint and give its settings
OUR_LOADER, OUR_SAMPLER = "ChromaDiffusionLoader", "ChromaKSampler"
MOST = 1e15  # no setting is larger
MAX_DIGITS = 15  # of a number in an input's name

# Role -> the inputs that may carry it, best first. A name with 1, a or 0 behind it counts too.
ROLES = {
    "model": ("model", "unet"),
    "clip": ("clip",),
    "positive": ("positive", "conditioning", "cond", "conditioning_to"),
    "negative": ("negative", "conditioning", "cond", "conditioning_to"),
    "latent": ("latent_image", "latent", "samples"),
    "sigmas": ("sigmas",),
    "vae": ("vae",),
    "guider": ("guider",),
    "sampler": ("sampler",),
    "text": ("text", "string", "value"),
    "settings": ("settings",),
}
NAMED = {name for names in ROLES.values() for name in names} | {
    "image",
    "pixels",
    "mask",
    "noise",
    "images",
}

Link = tuple[str, int]


class Graph:
    """Look-ups that give None for whatever is not there or has another form."""

    def __init__(self, prompt: Mapping[str, Any]):
        self.nodes: dict[str, Mapping[str, Any]] = {
            str(key): node
            for key, node in prompt.items()
            if isinstance(node, Mapping) and isinstance(node.get("inputs", {}), Mapping)
        }

    def kind(self, node: str) -> str:
        return str(self.nodes[node].get("class_type", ""))

    def title(self, node: str) -> str:
        """The node's title on the page, if the prompt has it."""
        meta = self.nodes[node].get("_meta")
        title = meta.get("title") if isinstance(meta, Mapping) else None
        return title if isinstance(title, str) and title else self.kind(node)

    def inputs(self, node: str) -> Mapping[str, Any]:
        return self.nodes[node].get("inputs", {})

    def links(self, node: str) -> dict[str, Link]:
        return {name: link for name in self.inputs(node) if (link := self.link(node, name))}

    def link(self, node: str, name: str) -> Link | None:
        value = self.inputs(node).get(name)
        if not isinstance(value, (list, tuple)) or len(value) != 2 or isinstance(value[1], bool):
            return None
        source, slot = str(value[0]), value[1]
        return (source, slot) if source in self.nodes and isinstance(slot, int) else None

    def value(self, node: str, name: str, _depth: int = 0) -> Any:
        """The typed value, of this input or of a connected node that holds one value; None if a run computes it."""
        found = self.inputs(node).get(name)
        if not isinstance(found, (list, tuple)):
            return found
        link = self.link(node, name)
        if link is None or _depth > 20:
            return None
        source = link[0]
        if self.kind(source) in PRESET_NODES:  # told by `preset_value`, which knows the model
            return None
        plain = [n for n, v in self.inputs(source).items() if isinstance(v, (int, float, str, bool))]
        links = list(self.links(source))
        if name == "text":
            if links and any(isinstance(self.inputs(source)[n], str) for n in plain):  # it joins or changes texts
                return None
            plain = [n for n in plain if n in ROLES["text"]]
        if len(plain) == 1 and not links:
            return self.value(source, plain[0], _depth + 1)
        if not plain and len(links) == 1:
            return self.value(source, links[0], _depth + 1)
        return None

    def number(self, node: str, name: str) -> float | None:
        value = self.value(node, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not -MOST < value < MOST:  # or nan
            return None
        return float(value)

    def is_hidden(self, node: str, name: str) -> bool:
        """Whether an input's value is known only in a run."""
        return isinstance(self.inputs(node).get(name), (list, tuple)) and self.value(node, name) is None

    def source(self, node: str, role: str) -> Link | None:
        """The link to what a node passes on in this role.

        Only the receiving input tells a positive from a negative prompt: nodes order their outputs as they like.
        """
        links = self.links(node)
        for name in ROLES[role]:
            for given in links:
                if given == name or re.fullmatch(rf"{name}_?(?:1|a|0)", given):
                    return links[given]
        if role == "model" and self.own_file(node):  # its loader
            return None
        if len(links) == 1 and not NAMED & set(links):  # a reroute, a switch, another pack's bundle
            return next(iter(links.values()))
        return None

    def chain(self, link: Link | None, role: str) -> list[str]:
        """The nodes behind a link that pass this role on: nearest first, maker last."""
        out: list[str] = []
        while link is not None and link[0] not in out:
            out.append(link[0])
            link = self.source(link[0], role)
        return out

    def model_chain(self, node: str) -> list[str]:
        return self.chain(self.links(node).get("model") or self.source(node, "model"), "model")

    def maker_kind(self, chain: list[str]) -> str:
        return self.kind(chain[-1]) if chain else ""

    def own_file(self, node: str) -> str:
        """The model file chosen in a node; "" if it is no loader."""
        for name, value in self.inputs(node).items():
            if isinstance(value, str) and MODEL_FILE.search(value) and name != "approximator":
                if "lora" not in name.lower():
                    return value
        return ""

    def file(self, chain: list[str]) -> str:
        """The model's file, from the last node of a chain."""
        return self.own_file(chain[-1]) if chain else ""

    def is_open(self, chain: list[str]) -> bool:
        """Whether a model's chain ends before its loader, in a switch or another node that hides the rest."""
        return (
            bool(chain)
            and bool(self.links(chain[-1]))
            and not self.own_file(chain[-1])
            and self.maker_kind(chain) != OUR_LOADER
        )

    def loras(self, chain: list[str]) -> tuple[list[str], str]:
        """The LoRAs that a chain's nodes put on the model, those of connected LoRA stacks included.

        returns: their files, without those switched off or of strength 0; and a node whose LoRAs are unknown, or "".
        """
        out: list[str] = []
        hiding = ""
        waiting, seen = [(node, False) for node in reversed(chain)], set(chain)
        while waiting:
            node, given = waiting.pop()  # given: connected as a LoRA, or as a stack of them
            inputs = self.inputs(node)
            names = [name for name in inputs if "lora" in name.lower()] or list(inputs if given else ())
            is_named = False
            for name in names:
                link, value = self.link(node, name), inputs[name]
                if link is not None:
                    is_named = True
                    if link[0] not in seen and not _is_off(inputs, name):
                        seen.add(link[0])
                        waiting.append((link[0], True))
                    continue
                on = not _is_off(inputs, name)
                if isinstance(value, Mapping):  # {"on": true, "lora": name, "strength": 1}, or {"content": name}
                    on = on and value.get("on", True) and value.get("strength", 1)
                    value = value.get("lora", value.get("content"))
                if value in ("", "None") or isinstance(value, str) and MODEL_FILE.search(value):
                    is_named = True
                    out += [value] * bool(on and value not in ("", "None"))
            if not is_named and (given or "lora" in self.kind(node).lower()):
                hiding = hiding or node
        return out, hiding

    def text(self, chain: list[str]) -> str | None:
        """The typed prompt at the start of a conditioning chain; None if it is unknown or zeroed out."""
        if not chain or any("zeroout" in self.kind(node).lower() for node in chain):
            return None
        for name in ("text", "t5xxl", "prompt"):
            value = self.value(chain[-1], name)
            if isinstance(value, str):
                return value
        return None

    def joins(self, chain: list[str]) -> bool:
        """Whether a conditioning chain has other prompts beside that of `text`."""
        return any(sum(name.lower().startswith("cond") for name in self.links(node)) > 1 for node in chain)


def _is_off(inputs: Mapping[str, Any], name: str) -> bool:
    """Whether a LoRA node's own inputs take one of its LoRAs off: a strength of 0, a switch, a count that is less."""
    number = name[len(name.rstrip(digits)) :]
    strengths = ("strength_model", "lora_model_strength", *(f"{n}_{number}" for n in ("lora_wt", "strength", "model_weight", "model_str")))  # fmt: skip
    count = inputs.get("lora_count")
    return (
        any(isinstance(inputs.get(n), (int, float)) and inputs[n] == 0 for n in strengths)
        or inputs.get(f"switch_{number}") in ("Off", False)
        or bool(number and isinstance(count, int) and int(number[:MAX_DIGITS]) > count)
    )
