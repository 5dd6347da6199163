"""The type that a run computes in, whatever type its model was loaded to compute in. Written for ComfyUI 0.30.

The host gives a network its inputs in the model's `manual_cast_dtype`, and layers with `comfy_cast_weights` bring their
weights into the type of their input. Both are set while a run lasts: no weight is loaded again, the model's other runs
are unchanged, and quantised layers keep their fast multiplication. (The host's own `set_model_compute_dtype` loads the
whole model anew and has quantised weights unpacked.)
"""

from __future__ import annotations

import contextlib
import copy
import functools
from typing import Any, Iterator

import comfy.model_base
import comfy.ops
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

KEY = "chroma_compute"  # of our wrapper on a MODEL
HELD = "prev_comfy_cast_weights"  # the host's, of a layer that is on another device than its input
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(name: str) -> torch.dtype:
    """raises: ValueError for a name that is not one of DTYPES."""
    if name not in DTYPES:
        raise ValueError(f"the type to compute in is {name!r}; it must be one of {', '.join(DTYPES)}")
    return DTYPES[name]


@contextlib.contextmanager
def computing_in(dtype: torch.dtype, model: comfy.model_base.BaseModel) -> Iterator[None]:
    """Has a loaded model compute in dtype; afterwards, also after an error, everything is as it was.

    Layers that choose a type of their own keep it, such as the Approximator, which computes in float32.
    """
    if model.get_dtype_inference() == dtype:
        yield
        return
    layers = [
        module
        for module in model.diffusion_model.modules()
        if isinstance(module, comfy.ops.CastWeightBiasOp) and not module.comfy_cast_weights
    ]
    targets = [(model, "manual_cast_dtype", dtype), *((layer, "comfy_cast_weights", True) for layer in layers)]
    before = [(target, name, name in vars(target), getattr(target, name)) for target, name, _ in targets]
    try:
        for target, name, value in targets:
            setattr(target, name, value)
        yield
    finally:
        for target, name, own, value in before:
            if HELD in vars(target):  # moved meanwhile: the host has it cast, and gives it this once it is back
                setattr(target, HELD, value)
            elif own:
                setattr(target, name, value)
            elif name in vars(target):
                delattr(target, name)


@contextlib.contextmanager
def run_in(dtype: torch.dtype, guider: Any) -> Iterator[None]:
    """`computing_in` for every model of a sampling run: the guider's own, and its copies on other GPUs."""
    models = [value for value in vars(guider).values() if isinstance(value, comfy.model_base.BaseModel)]
    models += [patcher.model for patcher in guider.model_options.get("multigpu_clones", {}).values()]
    with contextlib.ExitStack() as stack:
        for model in dict.fromkeys(models):
            stack.enter_context(computing_in(dtype, model))
        yield


def model_in(dtype: torch.dtype, model: Any) -> Any:
    """A clone of the MODEL whose runs compute in dtype."""

    def wrapper(executor: Any, guider: Any, *args: Any, **kwargs: Any) -> Tensor:
        with run_in(dtype, guider):
            return executor(guider, *args, **kwargs)

    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.SAMPLER_SAMPLE, KEY)
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, wrapper)
    return clone


def sampler_in(dtype: torch.dtype, sampler: comfy.samplers.KSAMPLER) -> comfy.samplers.KSAMPLER:
    """A copy of the SAMPLER whose runs compute in dtype, whatever model they are of.

    raises: ValueError for a SAMPLER that has no function to wrap.
    """
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        raise ValueError(
            f"the sampler is {type(sampler).__name__}, which can not be wrapped; a KSAMPLER can, such as that of "
            "KSamplerSelect. Connect the sampler directly, and use ModelComputeDtype on the model"
        )
    function = sampler.sampler_function

    @functools.wraps(function)
    def sample(model: Any, *args: Any, **kwargs: Any) -> Tensor:
        with run_in(dtype, model.inner_model):
            return function(model, *args, **kwargs)

    out = copy.copy(sampler)
    out.sampler_function = sample
    return out
