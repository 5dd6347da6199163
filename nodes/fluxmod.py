"""FluxMod's sampling nodes, under its ids and with its inputs, so that workflows saved with it open and run."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from nodes import common_ksampler

from ..host.sample.compute_dtype import DTYPES, dtype_of, model_in, sampler_in
from .shared.checked_node import CheckedNode
from .shared.inputs import cfg_input, denoise_input, model_input, positive_input, seed_input, steps_input

CATEGORY = "advanced/FluxMod"


def casting_input() -> io.Input:
    return io.Combo.Input(
        "activation_casting",
        options=list(DTYPES),
        default="bf16",
        tooltip="The type that the model computes in during this run. Keep bf16, unless the device cannot compute in "
        "it.",
    )


class KSamplerMod(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KSamplerMod",
            display_name="FluxMod KSampler",
            category=CATEGORY,
            description="For workflows made with FluxMod: ComfyUI's KSampler with a choice of the type to compute "
            "in. In new workflows use Chroma KSampler or KSampler; models compute in the type that they were loaded "
            "for.",
            inputs=[
                model_input("The model to sample with. It is not changed."),
                seed_input("Chooses the noise."),
                steps_input(20, "Number of steps."),
                cfg_input(
                    8.0,
                    "How strongly the picture is moved from the negative prompt to the positive one. Chroma1-HD: 3 "
                    "to 4; Flash: 1.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    tooltip="How the steps are computed, as in KSampler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    tooltip="How the noise falls over the steps, as in KSampler.",
                ),
                positive_input(),
                io.Conditioning.Input("negative", tooltip="What the picture should not show."),
                io.Latent.Input("latent_image", tooltip="An empty latent, or a picture to start from."),
                denoise_input(),
                casting_input(),
            ],
            outputs=[io.Latent.Output(tooltip="The denoised latent.")],
            is_deprecated=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: list[Any],
        negative: list[Any],
        latent_image: dict[str, Any],
        denoise: float = 1.0,
        activation_casting: str = "bf16",
    ) -> io.NodeOutput:
        model = model_in(dtype_of(activation_casting), model)
        prompts = (positive, negative)
        return io.NodeOutput(
            *common_ksampler(model, seed, steps, cfg, sampler_name, scheduler, *prompts, latent_image, denoise)
        )


class FluxModSamplerWrapperNode(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxModSamplerWrapperNode",
            display_name="FluxMod Sampler Wrapper",
            category=CATEGORY,
            description="For workflows made with FluxMod: a sampler whose runs compute in a type of your choice. In "
            "new workflows leave it out; models of any precision compute in the type that they were loaded for.",
            inputs=[
                io.Sampler.Input("sampler", tooltip="From KSamplerSelect, for instance. It is not changed."),
                casting_input(),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
            is_deprecated=True,
        )

    @classmethod
    def execute(cls, sampler: Any, activation_casting: str) -> io.NodeOutput:
        return io.NodeOutput(sampler_in(dtype_of(activation_casting), sampler))
