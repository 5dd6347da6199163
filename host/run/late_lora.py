"""A LoRA that acts from a step of the run on: beside the layers, whose weights stay as they are, of any precision.

While a run lasts, forward hooks stand on the layers. The LoRA's matrices are a model of their own that the host loads and
counts with the other. Written for ComfyUI 0.30.
Shapes: B batch, L tokens, K inputs, M outputs, R rank.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, Iterator, Mapping

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor, nn

from .ranges import add_ranges, holds, with_slack

KEY = "chroma_late_lora"  # of what stands on a MODEL
SEVERAL_GPUS = "multigpu"  # the host's key of a model's copies on other devices
COMPILED = "torch.compile"  # the host's key of a compiled model's wrapper
PREFIX, WEIGHT = "diffusion_model.", ".weight"
AT_ONCE = "Let it act from the first step on"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NOT_COMPILED = f"a LoRA cannot begin within a run of a compiled model. Take TorchCompileModel off. {AT_ONCE}"


class Side(nn.Module):
    """What a LoRA adds to rows of one layer's output: up(down(x))."""

    def __init__(self, down: Tensor, up: Tensor, start: int = 0):
        """down: (R, K); up: (M, R), with its scale; the rows begin at `start` of the layer's outputs."""
        super().__init__()
        self.down, self.up = (nn.Parameter(t.contiguous(), requires_grad=False) for t in (down, up))
        self.start = start

    def add_to(self, out: Tensor, x: Tensor) -> None:
        """out: (..., M) in place; x: (..., K)."""
        added = nn.functional.linear(nn.functional.linear(x, self.down.to(x)), self.up.to(x))
        out.narrow(-1, self.start, added.shape[-1]).add_(added)


class Sides(nn.Module):
    """Those of a whole LoRA, by the name of the layer in the network."""

    def __init__(self, by_layer: Mapping[str, list[Side]]):
        super().__init__()
        self.layers = tuple(by_layer)
        self.sides = nn.ModuleList(nn.ModuleList(by_layer[layer]) for layer in self.layers)

    def items(self) -> Iterator[tuple[str, list[Side]]]:
        return zip(self.layers, self.sides)


def sides_of(name: str, adapters: Mapping[Any, Any], strength: float, dtype: torch.dtype | None = None) -> Sides:
    """A file's adapters, as `host.model.lora.read_lora` gives them; dtype: of the matrices, else the file's.

    raises: ValueError for kinds other than a plain LoRA's pair of matrices.
    """
    found: dict[str, list[Side]] = defaultdict(list)
    other: dict[str, int] = defaultdict(int)
    for target, adapter in adapters.items():
        parameter, start = (target[0], target[1][1]) if isinstance(target, tuple) else (target, 0)
        is_plain = isinstance(adapter, LoRAAdapter) and all(part is None for part in adapter.weights[3:])
        is_plain = is_plain and all(
            part.shape[2:].numel() == 1 for part in adapter.weights[:2]
        )  # else of a convolution
        if not is_plain or not parameter.endswith(WEIGHT):
            kind = "bias" if not parameter.endswith(WEIGHT) else type(adapter).__name__
            other[kind if not isinstance(adapter, LoRAAdapter) else "DoRA or LoCon"] += 1
            continue
        up, down, alpha = adapter.weights[:3]
        scale = strength * (1.0 if alpha is None else alpha / down.shape[0])
        side = Side(down.flatten(1).to(dtype), (up.flatten(1).float() * scale).to(dtype or up.dtype), start)
        found[parameter.removeprefix(PREFIX).removesuffix(WEIGHT)].append(side)
    if other:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in other.items())
        raise ValueError(
            f"{name} has adapters that cannot begin within a run: {kinds}. Only plain LoRA matrices can. {AT_ONCE}"
        )
    return Sides(found)


class LateLora:
    def __init__(self, sides: Sides, first_step: int):
        """first_step: of a run, from which on the LoRA acts; the first being 0."""
        self.sides, self.first_step = sides, first_step
        self.acts = False  # in the network's current call

    def on(self, model: Any) -> Any:
        """A clone of the MODEL.

        raises: ValueError if it is compiled, since its hooks would not be seen; if a LoRA begins within its runs already; if
                it is on several GPUs, whose copies the host makes before a run; or for layers that are convolutions.
        """
        if model.get_wrappers(WrappersMP.APPLY_MODEL, COMPILED):
            raise ValueError(NOT_COMPILED)
        if model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
            raise ValueError(
                f"the model has a LoRA that begins within a run already, and a second one cannot. {AT_ONCE}, or put the "
                "other one on at once"
            )
        if model.get_additional_models_with_key(SEVERAL_GPUS):
            raise ValueError(f"a LoRA cannot begin within a run on several GPUs. {AT_ONCE}")
        network = model.model.diffusion_model
        convolutions = [n for n in self.sides.layers if isinstance(network.get_submodule(n), CONVOLUTIONS)]
        if convolutions:
            raise ValueError(
                f"a LoRA of convolutions cannot begin within a run, as one of {', '.join(convolutions)} is. {AT_ONCE}"
            )
        model = model.clone()
        model.set_additional_models(KEY, [ModelPatcher(self.sides, model.load_device, model.offload_device)])
        for kind, wrapper in (
            (WrappersMP.OUTER_SAMPLE, self.sample_wrapper),
            (WrappersMP.APPLY_MODEL, self.model_wrapper),
        ):
            model.remove_wrappers_with_key(kind, KEY)
            model.add_wrapper_with_key(kind, KEY, wrapper)
        return model

    def sample_wrapper(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """An OUTER_SAMPLE wrapper: hooks for this run."""
        guider = executor.class_obj
        if guider.model_patcher.get_wrappers(WrappersMP.APPLY_MODEL, COMPILED):
            raise ValueError(NOT_COMPILED)
        network = guider.model_patcher.model.diffusion_model
        levels = sigmas.tolist()
        limit = levels[min(self.first_step, len(levels) - 1)]
        rising = levels[-1] > levels[0]  # from a picture to noise
        self.sigmas = with_slack(math.inf, limit) if rising else with_slack(limit, -math.inf)
        add_ranges(guider.model_options.setdefault("transformer_options", {}), {KEY: self.sigmas})
        hooks = [
            network.get_submodule(layer).register_forward_hook(self.hook_of(sides))
            for layer, sides in self.sides.items()
        ]
        try:
            return executor(noise, latent, sampler, sigmas, *args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    def model_wrapper(self, executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        """An APPLY_MODEL wrapper, around the Approximator too: says whether the LoRA acts in this call. t: sigmas."""
        self.acts = holds(float(t[0]), self.sigmas)
        try:
            return executor(x, t, *args, **kwargs)
        finally:
            self.acts = False

    def hook_of(self, sides: list[Side]) -> Any:
        def hook(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            if self.acts:
                for side in sides:
                    side.add_to(out, args[0])

        return hook
