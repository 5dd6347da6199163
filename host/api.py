"""Chroma from Python: load, encode, sample, decode, and `Chroma(...).paint(prompt)` on top. `chroma_api.py` is the way in.

The parts are those of the nodes, with a preset's settings as defaults, so that the pixels are those of the same graph.
Shapes: B pictures, C channels of the latent, H x W pixels, h x w of the latent. Written for ComfyUI 0.30.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced
from PIL import Image
from torch import Tensor

from ..advice.recognise_preset import recognise
from ..advice.user_changes import Settings, settle
from ..loaders.files.read import SAFETENSORS_SUFFIXES, read_header
from ..samplers.guided_run import Guidance
from .model.load import load_chroma
from .model.lora import apply_lora
from .sample.apply_preset import applied, known
from .sample.guiders import GuidancePatch, chroma_guider
from .text.encode_prompt import encode as encode_prompt
from .text.t5_clip import load_encoder

PIXEL_SPACE = "pixel_space"  # in place of a VAE: the model paints pixels, as Radiance does
MODELS, ENCODERS, VAES, LORAS = ("diffusion_models", "checkpoints"), ("text_encoders",), ("vae",), ("loras",)


@dataclass(frozen=True)
class Parts:
    """What a picture is made with: the host's MODEL, CLIP and VAE, the preset that fits the MODEL, and the LoRAs on it."""

    model: Any
    clip: Any
    vae: Any
    preset: str
    loras: tuple[str, ...] = ()


def path_of(file: str | os.PathLike[str], kinds: tuple[str, ...]) -> str:
    """A path as it stands, or that of a name in one of the host's folders of models.

    raises: ValueError if there is no such file.
    """
    if Path(file).is_file():
        return os.path.abspath(file)
    for kind in kinds:
        if found := folder_paths.get_full_path(kind, str(file)):
            return found
    raise ValueError(
        f"{file}: there is no such file, neither as a path nor in models/{' or models/'.join(kinds)}. Give a path, or "
        "put the file there"
    )


@torch.inference_mode()
def load(
    model: str | os.PathLike[str],
    text_encoder: str | os.PathLike[str],
    vae: str | os.PathLike[str],
    *,
    loras: Mapping[str, float] | None = None,
    precision: str = "auto",
    text_encoder_precision: str = "auto",
) -> Parts:
    """Files as MODEL, CLIP and VAE; each a path, or a name in ComfyUI's folder of its kind.

    vae:       `pixel_space` for Radiance, which has none.
    loras:     file -> strength, put on in this order.
    precision: how the weights are kept, as in Load Chroma Model.
    raises:    ValueError for a file that is not there or not what it should be.
    """
    model_path = path_of(model, MODELS)
    patcher = load_chroma(model_path, precision)
    for file, strength in (loras or {}).items():
        patcher, _ = apply_lora(patcher, path_of(file, LORAS), strength)
    clip = load_encoder(
        path_of(text_encoder, ENCODERS),
        text_encoder_precision,
        embeddings=folder_paths.get_folder_paths("embeddings"),
    )
    names = tuple(str(file) for file, strength in (loras or {}).items() if strength)
    preset = recognise(known(patcher)[0], model_path, names).name
    return Parts(patcher, clip, load_vae(vae), preset, names)


def load_vae(file: str | os.PathLike[str]) -> Any:
    """The host's VAE.

    raises: ValueError for a file that is not there or damaged; RuntimeError, the host's, for one that is none.
    """
    if file == PIXEL_SPACE:
        return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    path = path_of(file, VAES)
    if path.lower().endswith(SAFETENSORS_SUFFIXES):
        read_header(path)  # tells what is wrong with a file; FLUX's VAE is behind a log-in, and a page is saved for it
    weights, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    vae.throw_exception_if_invalid()
    return vae


@torch.inference_mode()
def encode(clip: Any, prompt: str, mode: str = "exact") -> list[Any]:
    """A prompt as the host's CONDITIONING, (1, L, D) of T5 in it; up to 512 tokens, the rest is dropped.

    mode:   as in Chroma Text Encode.
    raises: ValueError if the CLIP has no T5 or the mode is not known.
    """
    return encode_prompt(clip, prompt, mode)[0]


@torch.inference_mode()
def sample(
    model: Any,
    positive: list[Any],
    negative: list[Any] | None,
    settings: Settings,
    seed: int = 0,
    batch: int = 1,
    latent: Tensor | None = None,
    denoise: float = 1.0,
) -> Tensor:
    """The finished latent, (B, C, h, w).

    negative: may be None at cfg 1.
    settings: steps, cfg, sampler, schedule, shift, guidance savings and size in pixels; `advice.user_changes.settle` makes them.
    latent:   what to start from, (B, C, h, w); None for an empty one of the settings' size, `batch` of them.
    denoise:  below 1: only the last part of a longer schedule, to keep some of `latent`.
    raises:   ValueError for settings that are not known, or a cfg that needs the negative prompt that is not there.
    """
    shifted, sampler, sigmas = applied(model, settings, denoise)
    if settings.savings:
        shifted = GuidancePatch(Guidance(**settings.savings)).on(shifted)
    guider = chroma_guider(shifted, positive, negative, settings.cfg)
    start = empty_latent(model, settings.width, settings.height, batch) if latent is None else latent
    out, _ = SamplerCustomAdvanced.execute(RandomNoise.execute(seed)[0], guider, sampler, sigmas, {"samples": start})
    return out["samples"]


def empty_latent(model: Any, width: int, height: int, batch: int) -> Tensor:
    """Zeros of the model's own channels and scale, (B, C, h, w); a rest of pixels that fills no row is left out."""
    form = model.get_model_object("latent_format")
    scale = form.spacial_downscale_ratio
    return torch.zeros(
        (batch, form.latent_channels, height // scale, width // scale),
        device=comfy.model_management.intermediate_device(),
    )


@torch.inference_mode()
def decode(vae: Any, latent: Tensor) -> Tensor:
    """Pictures, (B, H, W, 3) from 0 to 1."""
    return vae.decode(latent)


def pictures(images: Tensor) -> list[Image.Image]:
    """(B, H, W, 3) from 0 to 1 as pictures of 8 bits, rounded as the host's Save Image does it."""
    return [Image.fromarray(np.clip(255.0 * i.cpu().numpy(), 0, 255).astype(np.uint8)) for i in images]


class Chroma:
    """Model, text encoder and VAE, loaded once, and pictures from them.

    chroma = Chroma("Chroma1-HD.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors")
    chroma.paint("a red fox asleep on a mossy rock", seed=7).save("fox.png")
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        text_encoder: str | os.PathLike[str],
        vae: str | os.PathLike[str],
        **options: Any,
    ):
        """As `load`, whose options it takes. raises: as there."""
        self.parts = load(model, text_encoder, vae, **options)

    def settings(self, preset: str | None = None, **changes: Any) -> Settings:
        """The settings of a preset, by default the one that fits the model, with changes.

        changes: steps, cfg, sampler, width, height; curve with params, as Chroma Scheduler has them; shift with
                 shift_params.
        raises:  ValueError for a preset that is not known; TypeError for a change that is none of these.
        """
        return settle(preset or self.parts.preset, **changes)

    def paint(
        self,
        prompt: str,
        negative: str = "",
        *,
        seed: int = 0,
        preset: str | None = None,
        mode: str = "exact",
        **changes: Any,
    ) -> Image.Image:
        """One picture, with the settings that fit the model; RGB, 8 bits.

        changes: as `settings` takes them.
        raises:  ValueError for settings that are not known.
        """
        return self.paint_batch(prompt, negative, 1, seed=seed, preset=preset, mode=mode, **changes)[0]

    def paint_batch(
        self,
        prompt: str,
        negative: str = "",
        batch: int = 1,
        *,
        seed: int = 0,
        preset: str | None = None,
        mode: str = "exact",
        **changes: Any,
    ) -> list[Image.Image]:
        """As `paint`, but several pictures of one prompt at once, from one seed."""
        settings = self.settings(preset, **changes)
        positive, uncond = (encode(self.parts.clip, text, mode) for text in (prompt, negative))
        latent = sample(self.parts.model, positive, uncond, settings, seed, batch)
        return pictures(decode(self.parts.vae, latent))

    def with_lora(self, file: str | os.PathLike[str], strength: float = 1.0) -> "Chroma":
        """The same with a LoRA on the model; this one stays as it is, and the weights are shared."""
        other = object.__new__(Chroma)
        path = path_of(file, LORAS)
        model, _ = apply_lora(self.parts.model, path, strength)
        loras = (*self.parts.loras, *([path] if strength else []))
        found = recognise(*known(model), loras)
        preset = found.name if found.sure else self.parts.preset
        other.parts = replace(self.parts, model=model, preset=preset, loras=loras)
        return other
