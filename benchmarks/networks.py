"""Our network, the host's own and diffusers', on the same seeded weights at real depth and narrow width."""

from __future__ import annotations

import sys
from typing import Any

import torch

import dev

sys.path.insert(0, str(dev.ROOT / "tests"))
sys.path.insert(0, str(dev.host_path()))

from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.use_pytorch_cross_attention = True  # the same attention on both sides

import comfy  # noqa: E402
import comfy.ldm.modules.attention as host_attention  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.quant_ops  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import diffusers  # noqa: E402
import host_models  # noqa: E402
import support  # noqa: E402

__all__ = ["case", "comfy", "diffusers", "host_models", "support"]
assert host_attention.optimized_attention is host_attention.attention_pytorch


def case(width: int, context: int = 512) -> tuple[Any, dict[str, torch.Tensor]]:
    cfg = support.config(
        width=width, heads=width // 64, double=19, single=38, context=context, approximator=(64, 2 * width, 5)
    )
    return cfg, support.random_weights(cfg)
