"""Small seeded models and files for tests. The real classes at narrow width, no mocks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # at the end: the host has modules of the same names and must win

import dev  # noqa: E402

model = dev.load_pack("chroma_model")


class WithoutFloat64(torch.Tensor):
    """Stands for a tensor on a device that has no float64, such as MPS; once it is moved it is a plain one."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        if not isinstance(out, torch.Tensor):
            return out
        if out.dtype == torch.float64:
            raise TypeError("this device has no float64")
        if func is torch.Tensor.to and out.dtype == args[0].dtype:
            with torch._C.DisableTorchFunctionSubclass():
                return out.as_subclass(torch.Tensor)
        return out


def config(
    width: int = 128,
    heads: int = 2,
    double: int = 2,
    single: int = 4,
    context: int = 64,
    approximator: tuple[int, int, int] = (64, 48, 3),
    channels: int = 64,
    **more: Any,
) -> Any:
    """A narrow ChromaConfig. approximator: in_dim, hidden_dim, num_layers."""
    in_dim, hidden_dim, num_layers = approximator
    return model.ChromaConfig(
        in_channels=channels,
        out_channels=channels,
        context_dim=context,
        hidden_size=width,
        num_heads=heads,
        mlp_hidden_dim=4 * width,
        num_double_blocks=double,
        num_single_blocks=single,
        axes_dim=model.config.rotary_axes(width // heads),
        approximator=model.ApproximatorConfig(in_dim, hidden_dim, width, num_layers),
        **more,
    )


def nerf(**sizes: Any) -> Any:
    """A narrow NerfConfig."""
    return model.NerfConfig(**{"hidden_size": 8, "num_blocks": 2, "mlp_ratio": 2, "kernel_size": 8, **sizes})


RADIANCE = {"channels": 3, "patch_size": 8, "nerf": nerf()}
FULL_DEPTH = {"width": 256, "heads": 4, "double": 19, "single": 38, "approximator": (64, 128, 5)}


def link(path: Path, target: Path) -> Path:
    """A symbolic link to a file or folder; where the system makes none, the test is skipped."""
    import pytest

    try:
        path.symlink_to(target, target_is_directory=path.parent.joinpath(target).is_dir())
    except (OSError, NotImplementedError):
        pytest.skip("this system makes no links")
    return path


def build(cfg: Any, **factory: Any) -> Any:
    """A transformer of this config with its Approximator in place."""
    net = model.ChromaTransformer(cfg, **factory)
    dev.load_pack("loaders.checkpoint.approximator").fill_approximator(net, cfg, **factory)
    return net.eval().requires_grad_(False)


def random_weights(cfg: Any, seed: int = 0) -> dict[str, Tensor]:
    """Seeded weights under the model's own names, scaled so that 57 blocks neither explode nor die out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in build(cfg).state_dict().items()}
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("norm.weight") or ".norms." in name:
            weights[name] = 1 + 0.1 * noise
        elif len(shape) >= 2:
            weights[name] = noise * shape[1:].numel() ** -0.5
        else:
            weights[name] = 0.02 * noise
    weights["distilled_guidance_layer.out_proj.weight"] *= 0.3
    return weights


def published(
    weights: dict[str, Tensor], prefix: str = "", suffix: str = ".scale", dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Weights under names as in published files."""
    out = {}
    for name, tensor in weights.items():
        if name.endswith("norm.weight") or ".norms." in name:
            name = name.removesuffix(".weight") + suffix
        out[prefix + name] = tensor.to(dtype, copy=True)
    return out


def write(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata or None)
    return path


def inputs(
    cfg: Any, batch: int = 1, height: int = 16, width: int = 20, tokens: int = 24, seed: int = 1
) -> dict[str, Tensor]:
    """x, timesteps and context for one forward."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, cfg.channels, height, width, generator=generator),
        "timesteps": torch.full((batch,), 0.7),
        "context": torch.randn(batch, tokens, cfg.context_dim, generator=generator),
    }


def relative(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance of a from b."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def to_diffusers(weights: dict[str, Tensor], cfg: Any) -> dict[str, Tensor]:
    """Weights under the names and splits of diffusers' ChromaTransformer2DModel."""
    out: dict[str, Tensor] = {}
    renamed = {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out"}
    for name, t in weights.items():
        stem, kind = name.rsplit(".", 1)
        if stem in renamed:
            out[f"{renamed[stem]}.{kind}"] = t
        elif stem.startswith("distilled_guidance_layer"):
            stem = stem.replace("in_layer", "linear_1").replace("out_layer", "linear_2")
            out[f"{stem}.{kind}"] = t
        elif stem.startswith("double_blocks."):
            _, i, rest = stem.split(".", 2)
            block = f"transformer_blocks.{i}."
            if rest.endswith("_attn.qkv"):
                names = (
                    ("to_q", "to_k", "to_v") if rest.startswith("img") else ("add_q_proj", "add_k_proj", "add_v_proj")
                )
                out.update({f"{block}attn.{n}.{kind}": part for n, part in zip(names, t.chunk(3))})
                continue
            table = {
                "img_attn.proj": "attn.to_out.0",
                "txt_attn.proj": "attn.to_add_out",
                "img_mlp.0": "ff.net.0.proj",
                "img_mlp.2": "ff.net.2",
                "txt_mlp.0": "ff_context.net.0.proj",
                "txt_mlp.2": "ff_context.net.2",
                "img_attn.norm.query_norm": "attn.norm_q",
                "img_attn.norm.key_norm": "attn.norm_k",
                "txt_attn.norm.query_norm": "attn.norm_added_q",
                "txt_attn.norm.key_norm": "attn.norm_added_k",
            }
            out[f"{block}{table[rest]}.{kind}"] = t
        else:
            _, i, rest = stem.split(".", 2)
            block = f"single_transformer_blocks.{i}."
            if rest == "linear1":
                d = cfg.hidden_size
                names = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
                out.update(
                    {f"{block}{n}.{kind}": part for n, part in zip(names, t.split([d, d, d, cfg.mlp_hidden_dim]))}
                )
            else:
                table = {"linear2": "proj_out", "norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}
                out[f"{block}{table[rest]}.{kind}"] = t
    return out


def equal(a: Any, b: Any) -> bool:
    """Whether two nestings of lists, dicts and tensors are the same."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return a == b
