"""Small files of every kind that the example workflows name beside the demo's own: a picture, a LoRA, a style model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import support
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PICTURE, LORA = "chroma-demo-picture.png", "chroma-demo-lora.safetensors"
STYLE, VISION = "chroma-demo-style.safetensors", "chroma-demo-vision.safetensors"
FLUX, MODULATOR = (
    "chroma-demo-flux.safetensors",
    "chroma-demo-modulator.safetensors",
)  # as FluxMod's first graphs name them
# FLUX of nineteen double blocks, of which a lite patch makes one of eight, with an Approximator of the lite kind.
FLUX_19, LITE_PATCH, LITE_MODULATOR = (
    "chroma-demo-flux-19.safetensors",
    "chroma-demo-lite-patch.safetensors",
    "chroma-demo-lite-modulator.safetensors",
)
VIT_L = {"width": 1024, "mlp": 4096, "layers": 24, "patches": 257, "projection": 768}  # the smallest that ComfyUI reads
WEIGHTS = support.ROOT / "demo" / "weights" / "chroma-demo.safetensors"
APPROXIMATOR = "distilled_guidance_layer."
STYLE_TOKENS, STYLE_LAYERS, TEXT_WIDTH = 8, 3, 768  # of a T2I style adapter, whose text width is the demo's


def place(base: Path) -> None:
    """Writes what is missing of them under ComfyUI's base directory, and what was made of other weights of the demo's."""
    stamp = base / "demo-files.sha256"
    weights = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    is_new = not stamp.exists() or stamp.read_text() != weights
    for folder, name, write in (
        ("input", PICTURE, picture),
        ("models/loras", LORA, lora),
        ("models/style_models", STYLE, style_model),
        ("models/clip_vision", VISION, vision_model),
        ("models/checkpoints", FLUX, flux),
        ("models/checkpoints", MODULATOR, modulator),
        ("models/checkpoints", FLUX_19, flux_19),
        ("models/checkpoints", LITE_PATCH, lite_patch),
        ("models/checkpoints", LITE_MODULATOR, lite_modulator),
    ):
        path = base / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or (is_new and write in OF_THE_MODEL):
            part = path.with_suffix(".part")
            write(part)
            part.replace(path)
    stamp.write_text(weights)


def picture(path: Path) -> None:
    """128 x 128: a red disc on blue; its right half is transparent, which ComfyUI reads as the mask."""
    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[0:128, 0:128]
    disc = (rows - 64) ** 2 + (columns - 64) ** 2 < 40**2
    rgba = np.zeros((128, 128, 4), np.uint8)
    rgba[..., 2], rgba[disc, 0], rgba[disc, 2] = 200, 220, 30
    rgba[..., 3] = np.where(columns < 64, 255, 0)
    Image.fromarray(rgba).save(path, "PNG")


def lora(path: Path) -> None:
    """Of rank 2, on one layer of the demo's model."""
    name = "double_blocks.0.img_attn.qkv"
    rows, columns = demo_weights()[name + ".weight"].shape
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator)
    prefix = f"diffusion_model.{name}"
    save_file({f"{prefix}.lora_A.weight": a * 0.05, f"{prefix}.lora_B.weight": b * 0.05}, path)


def demo_weights() -> dict[str, Tensor]:
    return load_file(WEIGHTS)


def flux(path: Path) -> None:
    """The demo's model without its Approximator, which is FLUX to this pack; with guidance 0 it is the demo's again."""
    save_file({name: t for name, t in demo_weights().items() if not name.startswith(APPROXIMATOR)}, path)


def modulator(path: Path) -> None:
    """The demo's Approximator alone, under FluxMod's names."""
    weights = demo_weights()
    save_file({n.removeprefix(APPROXIMATOR): t for n, t in weights.items() if n.startswith(APPROXIMATOR)}, path)


def flux_19(path: Path) -> None:
    """The demo's double blocks again and again, until there are nineteen."""
    weights, double = demo_weights(), "double_blocks."
    count = len({name.split(".")[1] for name in weights if name.startswith(double)})
    blocks = {
        f"{double}{i}.{name.split('.', 2)[2]}": tensor.clone()
        for i in range(19)
        for name, tensor in weights.items()
        if name.startswith(f"{double}{i % count}.")
    }
    rest = {n: t for n, t in weights.items() if not n.startswith((double, APPROXIMATOR))}
    save_file({**rest, **blocks}, path)


def lite_patch(path: Path) -> None:
    """One double block, without its number."""
    start = "double_blocks.0."
    save_file({n.removeprefix(start): t for n, t in demo_weights().items() if n.startswith(start)}, path)


def lite_modulator(path: Path) -> None:
    """The demo's Approximator with the half of its inputs, which is how one of FLUX lite is known."""
    start = APPROXIMATOR
    weights = {n.removeprefix(start): t for n, t in demo_weights().items() if n.startswith(start)}
    weights["in_proj.weight"] = weights["in_proj.weight"][:, ::2].contiguous()
    save_file(weights, path)


def style_model(path: Path) -> None:
    """A T2I style adapter: random style tokens, and layers of zeros that leave them as they are."""
    width, generator = VIT_L["width"], torch.Generator().manual_seed(4)
    tensors: dict[str, Tensor] = {
        "style_embedding": torch.randn(1, STYLE_TOKENS, width, generator=generator),
        "proj": torch.randn(width, TEXT_WIDTH, generator=generator) * width**-0.5,
    }
    for name in ("ln_pre", "ln_post"):
        tensors |= {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
    for i in range(STYLE_LAYERS):
        at = f"transformer_layes.{i}."
        tensors |= {
            at + "attn.in_proj_weight": torch.zeros(3 * width, width),
            at + "attn.in_proj_bias": torch.zeros(3 * width),
            at + "attn.out_proj.weight": torch.zeros(width, width),
            at + "attn.out_proj.bias": torch.zeros(width),
            at + "mlp.c_fc.weight": torch.zeros(4 * width, width),
            at + "mlp.c_fc.bias": torch.zeros(4 * width),
            at + "mlp.c_proj.weight": torch.zeros(width, 4 * width),
            at + "mlp.c_proj.bias": torch.zeros(width),
        }
        for name in ("ln_1", "ln_2"):
            tensors |= {f"{at}{name}.weight": torch.ones(width), f"{at}{name}.bias": torch.zeros(width)}
    save_file({name: tensor.half() for name, tensor in tensors.items()}, path)


def vision_model(path: Path) -> None:
    """A ViT-L of zeros in float16: 600 MB that take no room, since the file is a header and a hole."""
    width, mlp = VIT_L["width"], VIT_L["mlp"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "embeddings.position_embedding.weight": (VIT_L["patches"], width),
    }
    for name in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for i in range(VIT_L["layers"]):
        at = f"encoder.layers.{i}."
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{at}{name}.weight": (width,), f"{at}{name}.bias": (width,)}
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{at}self_attn.{name}.weight": (width, width), f"{at}self_attn.{name}.bias": (width,)}
        shapes |= {f"{at}mlp.fc1.weight": (mlp, width), f"{at}mlp.fc1.bias": (mlp,)}
        shapes |= {f"{at}mlp.fc2.weight": (width, mlp), f"{at}mlp.fc2.bias": (width,)}
    named = {f"vision_model.{name}": shape for name, shape in shapes.items()}
    named["visual_projection.weight"] = (VIT_L["projection"], width)
    header, end = {}, 0
    for name, shape in named.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


OF_THE_MODEL = (lora, flux, modulator, flux_19, lite_patch, lite_modulator)
