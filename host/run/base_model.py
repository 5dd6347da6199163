"""The host's own Chroma model class with our transformer in it, and its record of the model. Written for ComfyUI 0.30."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, Mapping

import comfy.conds
import comfy.latent_formats
import comfy.lora
import comfy.model_base
import comfy.supported_models
import torch
from torch import Tensor

from ...chroma_model import ChromaConfig
from ...chroma_model.padding import HIDDEN, is_text_mask, padding_mask, pull_together
from ...chroma_model.references import TIMESTEP_ZERO
from ...constants import GUIDANCE, SHIFTS, STYLE_MASK
from ...loaders.checkpoint.detect_variant import Detection
from .conds import APART, PAIRING, TextCond, changes_input, sharing
from .forward import HostTransformer, check_channels
from .head_tile import fitting_tile
from .hook_loras import acting
from .kept_modulations import OPTION
from .kept_references import keep_apart
from .nag import NAG, NegativeText, acts_at

IMG_IN = "diffusion_model.img_in.weight"


def input_width(network: HostTransformer, patches: Mapping[str, Any]) -> int:
    """Inputs of img_in under the patches of a MODEL: a control LoRA among them widens it, loaded or not."""
    layer = network.img_in
    weight = torch.empty(layer.out_features, layer.in_features, device="meta")
    return comfy.lora.calculate_shape(patches.get(IMG_IN, ()), weight, IMG_IN)[1]


class ChromaModel(comfy.model_base.Chroma):
    """The host's Chroma with our transformer in it."""

    takes_negative_text = True  # attention guidance asks for it

    def __init__(self, model_config: Any, chroma_config: ChromaConfig, device: Any = None, guidance: float = 0.0):
        super().__init__(model_config, device=device, unet_model=functools.partial(HostTransformer, chroma_config))
        self.default_guidance = guidance

    def input_channels(self) -> int:
        """Channels that the network takes now: a latent's and those of what stands beside it."""
        config: ChromaConfig = self.diffusion_model.config
        if config.nerf is not None:
            return config.channels
        patches = self.current_patcher.patches if self.current_patcher else {}
        return input_width(self.diffusion_model, patches) // config.patch_size**2

    def concat_cond(self, **kwargs: Any) -> Tensor | None:
        """Picture and mask beside the latent, by the host's rule for FLUX.1: without one zeros, and ones as mask.

        raises: ValueError for a latent or picture of other channels.
        """
        config: ChromaConfig = self.diffusion_model.config
        channels = {"in_channels": self.input_channels(), "out_channels": config.latent_channels}
        if channels["in_channels"] == channels["out_channels"]:
            return None
        check_channels(config, kwargs["noise"], "the latent")
        picture = kwargs.get("concat_latent_image")
        if picture is not None:
            check_channels(config, picture, "the picture beside the latent")
        # The host reads sizes from weights, or, where it cannot, from its record; ours counts channels as Chroma's does.
        record = SimpleNamespace(unet_config=channels)
        seen = SimpleNamespace(diffusion_model=None, model_config=record, process_latent_in=self.process_latent_in)
        return comfy.model_base.Flux.concat_cond(seen, **kwargs)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        out = super().extra_conds(**kwargs)
        # Always there and never None, so that cond and uncond can share a batch.
        guidance = kwargs.get("guidance")
        guidance = self.default_guidance if guidance is None else guidance
        out["guidance"] = comfy.conds.CONDRegular(torch.FloatTensor([guidance]))
        text, mask = kwargs.get("cross_attn"), kwargs.get("attention_mask")
        if text is not None:
            lengths = torch.full((text.shape[0], 1), text.shape[1])
            if mask is not None and STYLE_MASK not in kwargs and is_text_mask(mask, text):
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
        patcher = self.current_patcher
        patches = patcher.model_options.get("transformer_options", {}).get("patches", {}) if patcher else {}
        size, patch_size = options["noise"].shape[2:], self.diffusion_model.patch_size
        # Such patches (NAG) compare cond with uncond inside of a forward, and do nothing if those run apart.
        compared = bool(patches.get("attn1_output_patch"))
        if changes_input(patches) and not compared and options.get(PAIRING) != "paired":
            return TextCond(text, size, patch_size, APART)
        if options.get("control") is not None and options.get(PAIRING) != "apart":
            return comfy.conds.CONDRegular(text)  # a ControlNet is given the joined text without its lengths
        unpacks = any(getattr(layer, "unpacks", False) for layer in self.diffusion_model.modules())
        rule = sharing(options["device"], compared, options.get(PAIRING), unpacks)
        return TextCond(text, size, patch_size, rule)

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):
        with acting(self):
            return self._apply_changed(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def _apply_changed(self, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        """With the weights that the hooks in force give."""
        run = transformer_options.get(OPTION)
        if run is not None:  # outside of the network's forward, so that a compiled network never sees the look-up
            timesteps = self.model_sampling.timestep(t).float()
            guidance = kwargs.get("guidance")
            guidance = torch.zeros_like(timesteps) if guidance is None else guidance.to(timesteps)
            kwargs["modulations"] = run.get(self, timesteps, guidance, self.get_dtype_inference())
            method = kwargs.get("ref_latents_method", self.diffusion_model.default_ref_method)
            if kwargs.get("ref_latents") and method == TIMESTEP_ZERO:
                zero = torch.zeros_like(timesteps)
                kwargs["reference_modulations"] = run.get(self, zero, guidance, self.get_dtype_inference())
        if self.diffusion_model.config.nerf is not None:
            kwargs["nerf_tile"] = fitting_tile(self.diffusion_model.config, x)
        if c_concat is not None:
            kwargs["input_channels"] = self.input_channels()
        keep_apart(transformer_options)
        lengths = kwargs.pop("context_lengths", None)
        if lengths is not None:  # numbers, read here on the CPU, so that nothing waits for a GPU
            lengths = tuple(lengths.flatten().tolist())
            kwargs["context_lengths"] = lengths if min(lengths) < c_crossattn.shape[1] else None
        negative, segments = kwargs.pop("nag_context", None), kwargs.pop("nag_segments", None)
        if negative is not None and negative.shape[1] and acts_at(transformer_options.get(NAG), t):
            kwargs["nag_context"] = negative
            kwargs["nag_segments"] = tuple(tuple((s, n) for s, n in row if n) for row in segments.tolist())
        return super()._apply_model(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


class ChromaModelConfig(comfy.supported_models.Chroma):
    """The host's record of the model; `unet_config` holds what its LoRA key maps and other packs look at."""

    def __init__(self, detection: Detection):
        config = detection.config
        self.chroma_config = config
        self.variant = detection.variant
        if self.variant in SHIFTS:
            self.sampling_settings = {**self.sampling_settings, "shift": SHIFTS[self.variant]}
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


def model_config(detection: Detection) -> ChromaModelConfig:
    return (ChromaModelConfig if detection.config.nerf is None else RadianceModelConfig)(detection)
