"""The one builder of MODEL: our transformer inside the host's own Chroma model, held by the host's own patcher.

Written for ComfyUI 0.30.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import Any, Mapping

import comfy.conds
import comfy.memory_management
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.supported_models
import comfy.utils
import torch
from comfy.cli_args import args
from torch import Tensor

from ..chroma_model import ChromaConfig
from .comfy_modulations import OPTION, ModulationStore
from .comfy_quant import quantise
from .comfy_transformer import HostTransformer
from .convert import check, convert, non_finite
from .detect import FLOAT_DTYPES, Detection, detect
from .quant import QUANT_MODES, QuantMode, quant_mode
from .read import SAFETENSORS_SUFFIXES, Header, read_header, read_tensors

KEY = "chroma"  # of our wrappers and callbacks on the patcher


class ChromaModel(comfy.model_base.Chroma):
    """The host's Chroma with our transformer in it."""

    def __init__(self, model_config: Any, chroma_config: ChromaConfig, device: Any = None):
        super().__init__(model_config, device=device, unet_model=functools.partial(HostTransformer, chroma_config))

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        out = super().extra_conds(**kwargs)
        # Always there and never None, so that cond and uncond can share a batch.
        out["guidance"] = comfy.conds.CONDRegular(torch.FloatTensor([kwargs.get("guidance") or 0.0]))
        mask, text = kwargs.get("attention_mask"), kwargs.get("cross_attn")
        if mask is not None and text is not None and "attention_mask_img_shape" not in kwargs:
            if mask.shape[-1] == text.shape[1] and not bool((mask != 0).all()):  # a mask costs attention its fast path
                # Integers: the host makes floats of everything else, and its attention adds those instead of masking.
                out["context_mask"] = comfy.conds.CONDRegular((mask != 0).long())
        return out

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):
        run = transformer_options.get(OPTION)
        if run is not None:  # outside of the network's forward, so that a compiled network never sees the look-up
            timesteps = self.model_sampling.timestep(t).float()
            guidance = kwargs.get("guidance")
            guidance = torch.zeros_like(timesteps) if guidance is None else guidance.to(timesteps)
            kwargs["modulations"] = run.get(self, timesteps, guidance, self.get_dtype_inference())
        return super()._apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


class ChromaModelConfig(comfy.supported_models.Chroma):
    """The host's record of the model; `unet_config` holds what its LoRA key maps and other packs look at."""

    def __init__(self, detection: Detection):
        config = detection.config
        self.chroma_config = config
        super().__init__(
            {
                "image_model": "chroma",
                "in_channels": config.in_channels,
                "out_channels": config.out_channels,
                "context_in_dim": config.context_dim,
                "hidden_size": config.hidden_size,
                "mlp_ratio": config.mlp_hidden_dim / config.hidden_size,
                "num_heads": config.num_heads,
                "depth": config.num_double_blocks,
                "depth_single_blocks": config.num_single_blocks,
                "axes_dim": list(config.axes_dim),
                "theta": config.theta,
                "patch_size": config.patch_size,
                "qkv_bias": config.qkv_bias,
                "in_dim": config.approximator.in_dim,
                "out_dim": config.approximator.out_dim,
                "hidden_dim": config.approximator.hidden_dim,
                "n_layers": config.approximator.num_layers,
            }
        )

    def get_model(self, state_dict: Mapping[str, Tensor], prefix: str = "", device: Any = None) -> ChromaModel:
        return ChromaModel(self, self.chroma_config, device=device)


def load_chroma(path: str, mode_name: str = "auto", disable_dynamic: bool = False) -> Any:
    """A Chroma file as the host's MODEL.

    mode_name: a name of `quant.QUANT_MODES` or one of its aliases.
    disable_dynamic: asked for by the host where it needs a patcher without dynamic VRAM.
    returns:   a ModelPatcher.
    raises:    ValueError naming the file, what was found and the remedy.
    """
    mode = quant_mode(mode_name)
    header = read_header(path)
    detection = detect(header)
    check(header, detection)
    if detection.extras and mode != QUANT_MODES["auto"]:
        raise ValueError(f"{header.name}: the file is quantised already. Choose auto as precision to keep it as it is")
    weights = convert(_host_tensors(path), detection)
    warn_of_damage(header, weights)

    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    config = ChromaModelConfig(detection)
    quantised = bool(mode.format or detection.extras)
    storage = _storage_dtype(detection, mode, config.supported_inference_dtypes)
    # Quantised weights are unpacked at use, so their compute type does not follow from how they are stored.
    compute = comfy.model_management.unet_manual_cast(
        None if quantised else storage, load_device, config.supported_inference_dtypes
    )
    config.set_inference_dtype(storage, compute, device=load_device)
    config.quant_config = {"mixed_ops": True} if quantised else None

    model = config.get_model(weights)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    if not comfy.model_management.is_device_cpu(offload_device):
        model.to(offload_device)
    if not patcher.is_dynamic():  # with dynamic VRAM the host casts mapped weights at use
        weights = {
            k: v.to(storage) if v.dtype in FLOAT_DTYPES and k not in detection.extras else v for k, v in weights.items()
        }
    if mode.format:
        weights = quantise(weights, mode, load_device)
    # Mapped tensors become the parameters, so that nothing is copied; except where the host's own reader has mapped
    # them read-only and the patcher writes into its parameters.
    assign = patcher.is_dynamic() or not comfy.memory_management.aimdo_enabled
    model.load_model_weights(weights, "", assign=assign)
    attach(patcher, header)
    patcher.cached_patcher_init = (load_chroma, (path, mode_name))
    return patcher


def attach(patcher: Any, header: Header) -> None:
    """What accompanies a model's runs: the store of modulations, and the search for NaN after a run that ends in it."""
    store = ModulationStore()

    def forget(_: Any, unpatch_all: bool) -> None:
        if unpatch_all:  # False where a clone takes over the same weights
            store.clear()

    wrapper_type = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    patcher.add_wrapper_with_key(wrapper_type, KEY, store.sample_wrapper)
    patcher.add_wrapper_with_key(wrapper_type, KEY, warn_of_nan(header.name))
    patcher.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_DETACH, KEY, forget)


def warn_of_damage(header: Header, weights: Mapping[str, Tensor]) -> None:
    """Warns of NaN in small tensors and a sample of large ones; the rest is looked at when a run ends in NaN."""
    bad = non_finite(weights, sample=True)
    if bad:
        logging.warning(
            "%s: %d tensors hold NaN or infinite weights (%s ...): pictures will be black or noise. "
            "The file is damaged; download it again",
            header.name,
            len(bad),
            ", ".join(bad[:3]),
        )


def describe(patcher: Any) -> str:
    """What was loaded, for people: sizes, how the weights are kept, what they compute in."""
    model = patcher.model
    config = model.model_config.chroma_config
    weights = list(model.diffusion_model.parameters())
    count = sum(w.numel() for w in weights)
    size = comfy.model_management.module_size(model.diffusion_model)
    kinds = sorted({getattr(m, "quant_format", None) or "" for m in model.diffusion_model.modules()} - {""})
    kept = ", ".join(kinds) if kinds else str(model.get_dtype()).removeprefix("torch.")
    compute = str(model.get_dtype_inference()).removeprefix("torch.")
    return (
        f"Chroma, {_count(count)} parameters, {config.num_double_blocks} + {config.num_single_blocks} blocks of "
        f"width {config.hidden_size}\n{kept}, {size / 1e6:,.0f} MB, {8 * size / count:.1f} bits a weight, "
        f"computes in {compute}"
    )


def _count(n: int) -> str:
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.1f} M"


def _host_tensors(path: str) -> dict[str, Tensor]:
    """Mapped tensors from the host's reader, which can stream them from the disk to a GPU."""
    if os.path.splitext(path)[1].lower() in SAFETENSORS_SUFFIXES:
        return comfy.utils.load_torch_file(path)
    return read_tensors(path)


def _storage_dtype(detection: Detection, mode: QuantMode, supported: list[torch.dtype]) -> torch.dtype:
    """The type that weights are kept in: the user's, else the file's 16 bits, else what the host prefers."""
    if mode.dtype is not None:
        return mode.dtype
    chosen = comfy.model_management.unet_dtype(
        model_params=detection.num_parameters, supported_dtypes=supported, weight_dtype=detection.dtype
    )
    if chosen == torch.float32 and detection.dtype != torch.float32 and not args.fp32_unet:
        return detection.dtype  # where only float32 is fast, cast at use: twice the memory would buy nothing
    if chosen not in FLOAT_DTYPES:
        logging.warning(
            "the option for %s weights is not followed: a plain cast harms Chroma. Choose fp8_scaled as "
            "precision in the loader",
            chosen,
        )
        return detection.dtype
    return chosen


def warn_of_nan(file: str):
    """An OUTER_SAMPLE wrapper that, when a run ends in NaN, names the weights to blame."""

    def wrapper(executor: Any, *a: Any, **k: Any) -> Any:
        out = executor(*a, **k)
        if torch.is_tensor(out) and not torch.isfinite(out.sum()):
            patcher = executor.class_obj.model_patcher
            bad = non_finite(patcher.model.diffusion_model.state_dict(), sample=False)
            source = (
                "Take the LoRAs and merges off one by one; if it stays, download" if patcher.patches else "Download"
            )
            cause = (
                f"tensors with NaN or infinite weights: {', '.join(bad[:5])}. {source} the file again"
                if bad
                else ("all weights are finite. If it computes in fp16, choose bf16 or fp32 as precision")
            )
            logging.warning("%s: the run ended in NaN; the picture will be black. %s", file, cause)
        return out

    return wrapper
