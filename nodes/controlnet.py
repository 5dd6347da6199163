"""Apply ControlNet (Chroma): a FLUX.1 ControlNet with guidance and a pooled vector of its own."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_extras.nodes_controlnet import ControlNetInpaintingAliMamaApply
from torch import Tensor

from nodes import ControlNetApplyAdvanced

from ..constants import FLUX_GUIDANCE
from ..host.run.controlnet import guided, pooled_vector
from .shared.checked_node import CheckedNode
from .shared.inputs import number
from .shared.report import report


class ChromaControlNetApply(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaControlNetApply",
            display_name="Apply ControlNet (Chroma)",
            category="conditioning/chroma",
            description="Shows the model a picture through a FLUX.1 ControlNet. It is given the guidance that it was trained "
            "with, while Chroma keeps 0.",
            search_aliases=["ControlNetApplyAdvanced", "controlnet", "canny", "depth", "pose", "union", "inpaint"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the picture shall show."),
                io.Conditioning.Input("negative", tooltip="What it shall not show."),
                io.ControlNet.Input(
                    "control_net",
                    display_name="ControlNet",
                    tooltip="A FLUX.1 ControlNet, from Load ControlNet Model; of a union from Set Union ControlNet Type.",
                ),
                io.Image.Input("image", tooltip="What the ControlNet reads: edges, depth, a pose, a small picture."),
                number("strength", 1.0, 0.0, 10.0, 0.01, "Factor on what the ControlNet adds; 0 is nothing."),
                number("start_percent", 0.0, 0.0, 1.0, 0.001, "From which share of the run on, 0 to 1."),
                number("end_percent", 1.0, 0.0, 1.0, 0.001, "Up to which share of the run, 0 to 1."),
                number(
                    "guidance",
                    FLUX_GUIDANCE,
                    0.0,
                    100.0,
                    0.1,
                    "The embedded guidance that the ControlNet is given; FLUX.1-dev's is 3.5. The model does not get it.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="FLUX's VAE, for ControlNets that read an encoded picture (most do)."
                ),
                io.Conditioning.Input(
                    "pooled",
                    optional=True,
                    tooltip="The prompt, encoded with CLIP-L beside T5 (DualCLIPLoader, type flux): its pooled vector is for "
                    "the ControlNet, with both prompts. Without it the prompts' own, or zeros.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="For inpaint ControlNets: white where the picture is made anew."
                ),
            ],
            outputs=[
                io.Conditioning.Output("positive", tooltip="The positive prompt with the ControlNet."),
                io.Conditioning.Output("negative", tooltip="The negative prompt with the ControlNet."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        positive: list[Any],
        negative: list[Any],
        control_net: Any,
        image: Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        guidance: float = FLUX_GUIDANCE,
        vae: Any = None,
        pooled: list[Any] | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        if start_percent > end_percent:
            raise ValueError(
                f"start_percent is {start_percent:g} and end_percent is {end_percent:g}; the start must not lie behind the end"
            )
        control = guided(control_net, guidance, None if pooled is None else pooled_vector(pooled))
        if control.latent_format is not None and vae is None:
            raise ValueError("this ControlNet reads an encoded picture, and vae is not connected. Connect FLUX's VAE")
        if mask is not None and control.concat_mask:
            pictures, masks = len(image), 1 if mask.ndim == 2 else len(mask)
            if masks not in (1, pictures):
                raise ValueError(
                    f"there are {masks} masks for {pictures} pictures. Connect one mask, or one for each picture"
                )
            given = (positive, negative, control, vae, image, mask, strength, start_percent, end_percent)
            out = ControlNetInpaintingAliMamaApply.execute(*given).args
        else:
            given = (positive, negative, control, image, strength, start_percent, end_percent)
            out = ControlNetApplyAdvanced().apply_controlnet(*given, vae=vae)
        report(cls, lambda: told(control, strength, (start_percent, end_percent), mask is not None))
        return io.NodeOutput(*out)


def told(control: Any, strength: float, share: tuple[float, float], masked: bool) -> str:
    if strength == 0:
        return "strength 0: the ControlNet is left out"
    params = control.control_model.params
    text = f"residuals of {params.depth} double and {params.depth_single_blocks} single blocks, strength {strength:g}"
    if share != (0, 1):
        text += f", from {share[0]:g} to {share[1]:g} of the run"
    text += f"; guidance {control.guidance:g}" if params.guidance_embed else "; it has no guidance"
    text += ", a pooled vector" if control.pooled is not None else ", the prompts' own pooled vector or zeros"
    if masked and not control.concat_mask:
        text += "; the mask is not used, since it is no inpaint ControlNet"
    elif control.concat_mask and not masked:
        text += "; an inpaint ControlNet without a mask: all is kept"
    return text
