"""The demo's files and sizes in place of those that a workflow names, so that each runs in seconds on a CPU."""

from __future__ import annotations

import copy
import re
from typing import Any

from browser import demo_files

# Node class -> input -> what it becomes. A workflow with a loader or a size that is not here needs a row.
DEMO: dict[str, dict[str, Any]] = {
    "ChromaDiffusionLoader": {"unet_name": "chroma-demo.safetensors", "approximator": "from the model file"},
    "ChromaCLIPLoader": {"clip_name": "chroma-demo-t5.safetensors"},
    "CLIPLoader": {"clip_name": "chroma-demo-t5.safetensors"},
    "VAELoader": {"vae_name": "chroma-demo-vae.safetensors"},
    "ChromaLoraLoader": {"lora_name": demo_files.LORA},
    "LoadImage": {"image": demo_files.PICTURE},
    "CLIPVisionLoader": {"clip_name": demo_files.VISION},
    "StyleModelLoader": {"style_model_name": demo_files.STYLE},
    "EmptySD3LatentImage": {"width": 128, "height": 128},
    "EmptyChromaRadianceLatentImage": {"width": 128, "height": 128},
    "ChromaInpaintCrop": {"megapixels": 0.02},
    "ChromaKontextSize": {"mode": "by area", "mode.megapixels": 0.02, "mode.multiple": 16},
    "ChromaPreset": {"width": 128, "height": 128, "steps": 4},
    "ChromaKSampler": {"steps": 4, "quality": "custom"},
    "ChromaBetaScheduler": {"steps": 4},
    "ChromaStudio": {
        "unet_name": "chroma-demo.safetensors",
        "clip_name": "chroma-demo-t5.safetensors",
        "vae_name": "chroma-demo-vae.safetensors",
        "mode.width": 128,
        "mode.height": 128,
    },
}
# In place of what the rows above say.
VALUES = {"chroma-radiance-x0.safetensors": "chroma-radiance-demo.gguf", "pixel_space": "pixel_space"}
FILE = re.compile(r"\.(safetensors|sft|gguf|pth|pt|ckpt|bin|png|jpe?g|webp)$")


def with_demo_files(prompt: dict[str, Any]) -> dict[str, Any]:
    """A copy of a prompt (API form) that needs nothing but the demo's files.

    raises: ValueError for a file that no row replaces.
    """
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        row = DEMO.get(node["class_type"], {})
        node["inputs"] |= {name: value for name, value in row.items() if "." in name}  # inputs of a choice
        for name, value in node["inputs"].items():
            if name in row and not isinstance(value, list):  # a list is a link
                node["inputs"][name] = VALUES.get(value, row[name])
            elif isinstance(value, str) and FILE.search(value):
                raise ValueError(
                    f"{node['class_type']}.{name} names {value}: add a row to DEMO in tests/browser/swap.py"
                )
    return prompt
