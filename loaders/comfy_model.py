"""The one builder of MODEL: our transformer inside the host's own Chroma model, held by the host's own patcher.

Written for ComfyUI 0.30.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import comfy.conds
import comfy.latent_formats
import comfy.memory_management
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.supported_models
import comfy.utils
import torch
from comfy.cli_args import args
from comfy.quant_ops import QUANT_ALGOS
from torch import Tensor

from ..chroma_model import ChromaConfig
from ..chroma_model.padding import HIDDEN, is_text_mask, padding_mask, pull_together
from .comfy_conds import NAG, PAIRING, AttentionGuidance, NegativeText, TextCond, sharing
from .comfy_layers import operations
from .comfy_layout import format_name
from .comfy_matmul import fast_matmul
from .comfy_modulations import OPTION, ModulationStore
from .comfy_quant import StateBuilder
from .comfy_transformer import HostTransformer
from .convert import check, non_finite
from .detect import Detection, detect, layout_of, source_names, with_approximator
from .quant import QuantMode, quant_mode
from .read import INDEX_SUFFIX, SAFETENSORS_SUFFIXES, Header, read_header, read_tensors, shards, whole
from .storage import FLOAT_DTYPES

KEY = "chroma"  # of our wrappers and callbacks on the patcher
# What the Approximator is told where a conditioning says nothing. Chroma was trained with 0, FLUX's own with 3.5.
GUIDANCE = {"Chroma": 0.0, "Chroma lite": 0.0, "Radiance": 0.0, "FLUX": 3.5}


class ChromaModel(comfy.model_base.Chroma):
    """The host's Chroma with our transformer in it."""

    def __init__(self, model_config: Any, chroma_config: ChromaConfig, device: Any = None, guidance: float = 0.0):
        super().__init__(model_config, device=device, unet_model=functools.partial(HostTransformer, chroma_config))
        self.default_guidance = guidance

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        out = super().extra_conds(**kwargs)
        # Always there and never None, so that cond and uncond can share a batch.
        guidance = kwargs.get("guidance")
        guidance = self.default_guidance if guidance is None else guidance
        out["guidance"] = comfy.conds.CONDRegular(torch.FloatTensor([guidance]))
        text, mask = kwargs.get("cross_attn"), kwargs.get("attention_mask")
        if text is not None:
            lengths = torch.full((text.shape[0], 1), text.shape[1])
            if mask is not None and "attention_mask_img_shape" not in kwargs and is_text_mask(mask, text):
                text, kinds = pull_together(text, padding_mask(text, mask))
                lengths = (kinds != HIDDEN).sum(dim=1, keepdim=True).cpu()
            out["c_crossattn"] = self.text_cond(text, kwargs)
            out["context_lengths"] = comfy.conds.CONDRegular(lengths)
        negative: NegativeText | None = kwargs.get(NAG)
        if negative is not None:
            out["nag_context"] = self.text_cond(negative.text, kwargs)
            out["nag_segments"] = self.text_cond(negative.segments, kwargs)
        return out

    def text_cond(self, text: Tensor, options: Mapping[str, Any]) -> comfy.conds.CONDRegular:
        """The text in a form that says with which other texts it may share a forward."""
        if options.get("control") is not None and options.get(PAIRING) != "apart":
            return comfy.conds.CONDRegular(text)  # a ControlNet is given the joined text without its lengths
        patcher = self.current_patcher
        patches = patcher.model_options.get("transformer_options", {}).get("patches", {}) if patcher else {}
        # Such patches (NAG) compare cond with uncond inside of a forward, and do nothing where they run apart.
        rule = sharing(options["device"], bool(patches.get("attn1_output_patch")), options.get(PAIRING))
        return TextCond(text, options["noise"].shape[2:], self.diffusion_model.patch_size, rule)

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):
        run = transformer_options.get(OPTION)
        if run is not None:  # outside of the network's forward, so that a compiled network never sees the look-up
            timesteps = self.model_sampling.timestep(t).float()
            guidance = kwargs.get("guidance")
            guidance = torch.zeros_like(timesteps) if guidance is None else guidance.to(timesteps)
            kwargs["modulations"] = run.get(self, timesteps, guidance, self.get_dtype_inference())
        lengths = kwargs.pop("context_lengths", None)
        if lengths is not None:  # numbers, read here while they are on the CPU: a GPU would have to be waited for
            lengths = tuple(lengths.flatten().tolist())
            kwargs["context_lengths"] = lengths if min(lengths) < c_crossattn.shape[1] else None
        negative, segments = kwargs.pop("nag_context", None), kwargs.pop("nag_segments", None)
        if negative is not None and negative.shape[1] and acts_at(transformer_options.get(NAG), t):
            kwargs["nag_context"] = negative
            kwargs["nag_segments"] = tuple(tuple((s, n) for s, n in row if n) for row in segments.tolist())
        return super()._apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


def acts_at(guidance: AttentionGuidance | None, sigma: Tensor) -> bool:
    """Whether attention guidance acts at this noise level, (B,)."""
    if guidance is None:
        return False
    high, low = guidance.sigmas  # of float64; sigma was rounded to float32
    return low * (1 - 1e-6) <= float(sigma[0]) <= high * (1 + 1e-6)


class ChromaModelConfig(comfy.supported_models.Chroma):
    """The host's record of the model; `unet_config` holds what its LoRA key maps and other packs look at."""

    def __init__(self, detection: Detection):
        config = detection.config
        self.chroma_config = config
        self.variant = detection.variant
        self.loaded = None
        super().__init__(
            {
                "image_model": "chroma" if config.nerf is None else "chroma_radiance",
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
        return ChromaModel(self, self.chroma_config, device, GUIDANCE[self.variant])


class RadianceModelConfig(ChromaModelConfig):
    """The same for the model that works on pixels."""

    latent_format = comfy.latent_formats.ChromaRadiance
    memory_usage_factor = comfy.supported_models.ChromaRadiance.memory_usage_factor


def load_chroma(
    path: str,
    mode_name: str = "auto",
    approximator: str | None = None,
    prediction: str = "auto",
    text_ids: str = "auto",
    full_precision: bool = False,
    disable_dynamic: bool = False,
) -> Any:
    """A Chroma file as the host's MODEL.

    mode_name: a name of `quant.QUANT_MODES` or one of its aliases.
    approximator: a file to take the Approximator from, in place of the checkpoint's own; needed for FLUX.
    prediction, text_ids: see `detect.detect`.
    full_precision: unpack 8- and 4-bit weights for multiplication also where the device can multiply them as they are.
    disable_dynamic: asked for by the host where it needs a patcher without dynamic VRAM.
    returns:   a ModelPatcher.
    raises:    ValueError naming the file, what was found and the remedy.
    """
    quant_mode(mode_name)
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    source = Source(path, approximator)
    header = source.header
    detection = detect(header, prediction, text_ids)
    check(header, detection)
    mode_name, reason = choose_mode(mode_name, detection, load_device)
    mode = quant_mode(mode_name)

    config = model_config(detection)
    quantised = bool(mode.format or (mode.keeps and detection.formats))
    storage = _storage_dtype(detection, mode, config.supported_inference_dtypes)
    # Quantised weights are unpacked at use, so their compute type does not follow from how they are stored.
    compute = comfy.model_management.unet_manual_cast(
        None if quantised else storage, load_device, config.supported_inference_dtypes
    )
    config.set_inference_dtype(storage, compute, device=load_device)
    if quantised:
        config.custom_operations = operations(compute or storage, load_device)
    config.loaded = Loaded(header.name, header.num_bytes, detection, reason)

    model = config.get_model({})
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    if not comfy.model_management.is_device_cpu(offload_device):
        model.to(offload_device)
    # With dynamic VRAM the host casts mapped weights at use.
    plain = None if patcher.is_dynamic() and mode.dtype is None else storage
    weights = StateBuilder(
        detection, source.tensors(), mode, plain, compute or storage, load_device, full_precision
    ).build()
    warn_of_damage(header, weights)
    weights.update({name: torch.empty(0) for name in detection.config.markers})
    # Mapped tensors become the parameters, so that nothing is copied; except where the host's own reader has mapped
    # them read-only and the patcher writes into its parameters.
    assign = patcher.is_dynamic() or not comfy.memory_management.aimdo_enabled
    model.load_model_weights(weights, "", assign=assign)
    attach(patcher, header)
    patcher.cached_patcher_init = (
        load_chroma,
        (path, mode_name, approximator, prediction, text_ids, full_precision),
    )
    return patcher


class Source:
    """A file, and where one was given, the file that its Approximator comes from."""

    def __init__(self, path: str, approximator: str | None = None):
        self.path = path
        self.approximator = approximator
        self.header = read_header(path)
        self._names: dict[str, str] = {}
        if approximator is not None:
            other = read_header(approximator)
            self.header = with_approximator(self.header, other)
            prefix = layout_of(self.header)[1]
            self._names = {prefix + name: n for name, n in source_names(other).items()}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under the names of `header`, mapped."""
        tensors = _host_tensors(self.path)
        if self.approximator is not None:
            theirs = _host_tensors(self.approximator)
            tensors.update({name: theirs[n] for name, n in self._names.items()})
        return tensors


@dataclass(frozen=True)
class Loaded:
    """What a model was made from; `reason` says why auto chose what it did, or is empty."""

    file: str
    num_bytes: int
    detection: Detection
    reason: str


def model_config(detection: Detection) -> "ChromaModelConfig":
    return (ChromaModelConfig if detection.config.nerf is None else RadianceModelConfig)(detection)


def choose_mode(name: str, detection: Detection, device: torch.device) -> tuple[str, str]:
    """The name of the mode to load with, and why, where the name given leaves the choice to us.

    raises: ValueError for a mode that this ComfyUI lacks.
    """
    format = quant_mode(name).format
    if format is not None and format_name(format) not in QUANT_ALGOS:
        raise ValueError(
            f"{name} is not known to this ComfyUI's comfy-kitchen. Update ComfyUI, or choose another precision"
        )
    if name != "auto" or detection.formats:
        return name, ""
    room = comfy.model_management.maximum_vram_for_weights(device)
    needed = 2 * detection.num_parameters
    if needed <= room:
        return name, ""
    problem = fast_matmul("int8", device)
    chosen = "q8_0" if problem else "int8_convrot"
    return chosen, (
        f"{chosen}, since 16 bits take {needed / 1e9:.1f} GB and there is room for {max(room, 0) / 1e9:.1f} GB of weights"
    )


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


def _host_tensors(path: str) -> dict[str, Tensor]:
    """Mapped tensors from the host's reader, which can stream them from the disk to a GPU."""
    path = str(whole(path))
    files = [str(file) for file in shards(Path(path))] if path.endswith(INDEX_SUFFIX) else [path]
    tensors: dict[str, Tensor] = {}
    for file in files:
        infos = read_header(file).tensors.values() if file.endswith(SAFETENSORS_SUFFIXES) else ()
        unknown = any(isinstance(t.dtype, str) or t.dtype == getattr(torch, "float8_e8m0fnu", None) for t in infos)
        if infos and not unknown:
            tensors.update(comfy.utils.load_torch_file(file))
        else:  # the host's reader does not know that type, or has none for such files
            read = read_tensors(file)
            tensors.update({n: t.clone() for n, t in read.items()} if comfy.utils.DISABLE_MMAP else read)
    return tensors


def _storage_dtype(detection: Detection, mode: QuantMode, supported: list[torch.dtype]) -> torch.dtype:
    """The type that plain weights are kept in: the user's, else the file's 16 bits, else what the host prefers."""
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
            bad = non_finite(dict(patcher.model.diffusion_model.named_parameters()), sample=False)
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
