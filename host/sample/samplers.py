"""Our samplers in the host: in its own lists, under names that begin with `chroma_`, and as SAMPLER for nodes.

Written for ComfyUI 0.30, where a sampler is a function `sample_NAME` of one module and a NAME in two lists.
"""

from __future__ import annotations

import logging
from typing import Any, Callable

import comfy.k_diffusion.sampling
import comfy.model_sampling
import comfy.samplers
from torch import Tensor
from tqdm.auto import tqdm

from ...samplers.res import Callback, Model, Options, res_2m, res_2s

_2M, _2S = {"eta": 0.0, "s_noise": 1.0}, {"eta": 0.0, "s_noise": 1.0, "c2": 0.5}
SAMPLERS: dict[str, tuple[Callable[..., Tensor], dict[str, float]]] = {  # name -> function, its options and defaults
    "chroma_res_2m": (res_2m, _2M),
    "chroma_res_2s": (res_2s, _2S),
    "chroma_res_2m_sde": (res_2m, {**_2M, "eta": 1.0}),
    "chroma_res_2s_sde": (res_2s, {**_2S, "eta": 1.0}),
    "chroma_sigma_2m": (res_2m, _2M),
    "chroma_sigma_3m": (res_2m, _2M),
    "chroma_sigma_2m_sde": (res_2m, {**_2M, "eta": 1.0}),
}
OVER_SIGMA = {"chroma_sigma_2m": 1, "chroma_sigma_2m_sde": 1, "chroma_sigma_3m": 2}  # see `Options` of samplers/res.py


def on_host(name: str) -> Callable[..., Tensor]:
    """A sampler as the host calls it: asks the model whether it is a flow model, and shows a progress bar."""
    function, defaults = SAMPLERS[name]

    def sample(
        model: Model,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
        sampling = model.inner_model.inner_model.model_sampling
        options = {**defaults, **options}
        options["s_noise"] *= getattr(sampling, "noise_scale", 1.0)  # of models whose noise is not of variance 1
        flow = isinstance(sampling, comfy.model_sampling.CONST)
        options = Options(flow=flow, progress=tqdm, over_sigma=OVER_SIGMA.get(name, 0), **options)
        return function(model, x, sigmas, extra_args, callback, disable, options)

    sample.__name__, sample.__doc__ = f"sample_{name}", function.__doc__
    return sample


FUNCTIONS = {name: on_host(name) for name in SAMPLERS}


def register() -> list[str]:
    """Puts our samplers into the host's lists, once; returns the names that are ours there.

    A name that something else has taken is left alone, with a warning.
    """
    host = comfy.k_diffusion.sampling
    ours = []
    for name, function in FUNCTIONS.items():
        if getattr(host, f"sample_{name}", function) is not function:
            logging.warning("Chroma pack: another extension has a sampler named %s; ours is not listed", name)
            continue
        setattr(host, f"sample_{name}", function)
        for names in (comfy.samplers.KSAMPLER_NAMES, comfy.samplers.SAMPLER_NAMES):
            if name not in names:
                names.append(name)
        ours.append(name)
    return ours


def sampler(name: str, **options: float) -> comfy.samplers.KSAMPLER:
    """A SAMPLER, registered or not. options: eta, s_noise and, for the two-stage ones, c2; see `Options` of `samplers/res.py`.

    raises: ValueError on a name or an option that is not there.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler {name}: not known; choose one of {', '.join(SAMPLERS)}")
    known = SAMPLERS[name][1]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"sampler {name}: unknown option {', '.join(unknown)}; it has {', '.join(known)}")
    return comfy.samplers.KSAMPLER(FUNCTIONS[name], options)
