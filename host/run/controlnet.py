"""A FLUX.1 ControlNet with guidance and a pooled text vector of its own, while the model gets Chroma's.

Such a network was trained with FLUX's embedded guidance and with CLIP's pooled vector; Chroma's guidance is 0, and its
conditionings hold no such vector. Written for ComfyUI 0.30.
"""

from __future__ import annotations

from typing import Any

import comfy.controlnet
import comfy.ldm.flux.controlnet
import comfy.utils
import torch
from torch import Tensor

REMEDY = "Load one for FLUX.1, whose latents and blocks Chroma shares, with Load ControlNet Model"


class GuidedControlNet(comfy.controlnet.ControlNet):
    """The host's ControlNet, which does not take its guidance and pooled vector from the model's conditionings."""

    def __init__(self, control: comfy.controlnet.ControlNet, guidance: float, pooled: Tensor | None):
        """control: is copied. pooled: (n, P), or None for what a conditioning has, zeros if it has none."""
        super().__init__(None, load_device=control.load_device, manual_cast_dtype=control.manual_cast_dtype)
        self.control_model = control.control_model
        self.control_model_wrapped = control.control_model_wrapped
        control.copy_to(self)
        self.guidance = guidance
        self.pooled = pooled
        own = ("guidance", "y") if pooled is not None else ("guidance",)
        self.extra_conds = [name for name in self.extra_conds if name not in own]

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> dict[str, list[Tensor | None]] | None:
        """Residuals of this network and of those before it, which keep what the host gives them.

        x_noisy: (B, C, H, W), B = batched_number * pictures.
        """
        dtype = self.manual_cast_dtype or self.control_model.dtype
        place = {"device": x_noisy.device, "dtype": dtype}
        self.set_extra_arg("guidance", torch.full((x_noisy.shape[0],), self.guidance, **place))
        if self.pooled is not None:
            rows = comfy.utils.repeat_to_batch_size(self.pooled, x_noisy.shape[0] // batched_number)
            self.set_extra_arg("y", rows.repeat(batched_number, 1).to(**place))
        return super().get_control(x_noisy, t, cond, batched_number, transformer_options)

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        check_fits(self.control_model.params, model)
        super().pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        super().cleanup()
        for name in ("guidance", "y"):  # tensors of a run
            self.extra_args.pop(name, None)

    def copy(self) -> GuidedControlNet:
        return GuidedControlNet(self, self.guidance, self.pooled)


def guided(control: Any, guidance: float, pooled: Tensor | None = None) -> GuidedControlNet:
    """A copy of a CONTROL_NET that is given this guidance and pooled vector.

    raises: ValueError if it is no ControlNet of FLUX.1, is another pack's, or takes a vector of another width.
    """
    net = getattr(control, "control_model", None)
    if not isinstance(net, comfy.ldm.flux.controlnet.ControlNetFlux):
        found = type(control if net is None else net).__name__
        raise ValueError(f"the ControlNet is a {found}, of another family of models. {REMEDY}")
    if type(control) not in (comfy.controlnet.ControlNet, GuidedControlNet):
        raise ValueError(f"the ControlNet is a {type(control).__name__} of another pack. {REMEDY}")
    width = net.params.vec_in_dim
    if pooled is not None and pooled.shape[-1] != width:
        raise ValueError(
            f"the pooled vector has {pooled.shape[-1]} numbers, this ControlNet takes {width}. Encode the prompt with CLIP-L "
            "beside T5 (DualCLIPLoader, type flux)"
        )
    return GuidedControlNet(control, guidance, pooled)


def pooled_vector(conditioning: list[Any]) -> Tensor:
    """The pooled vector (n, P) of a CONDITIONING's first entry that has one.

    raises: ValueError if none has.
    """
    found = next((pooled for _, options in conditioning if (pooled := options.get("pooled_output")) is not None), None)
    if found is None:
        raise ValueError(
            "the conditioning at pooled has no pooled vector, as T5 alone gives none. Encode the prompt with CLIP-L beside "
            "T5 (DualCLIPLoader, type flux)"
        )
    return found


def check_fits(params: Any, model: Any) -> None:
    """raises: ValueError if a ControlNet of these FluxParams was made for latents, text or blocks of other sizes.

    model: the host's model, such as a ChromaModel.
    """
    has = model.latent_format.latent_channels
    if has != params.in_channels:
        kind = "this model works on pixels (Radiance), and its pictures have" if has == 3 else "this model's have"
        raise ValueError(
            f"the ControlNet reads latents of {params.in_channels} channels, {kind} {has}. Take the ControlNet off, or use a "
            "Chroma model that works on FLUX's latents"
        )
    for what, name in (("blocks", "hidden_size"), ("text", "context_in_dim")):
        wanted, has = getattr(params, name), model.model_config.unet_config.get(name)
        if has is None:
            raise ValueError(f"the model is a {type(model).__name__}, neither Chroma nor FLUX. {REMEDY}")
        if has != wanted:
            raise ValueError(f"the ControlNet was made for {what} of width {wanted}, this model's is {has}. {REMEDY}")
