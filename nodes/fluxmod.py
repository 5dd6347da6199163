"""FluxMod's sampling nodes, under its ids and with its inputs, so that workflows saved with it open and run."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from nodes import common_ksampler

from ..host.sample.compute import DTYPES, dtype_of, model_in, sampler_in
from ..samplers.schedules import MAX_STEPS

CATEGORY = "advanced/FluxMod"
MAX_SEED = 2**64 - 1


def casting_input() -> io.Input:
    return io.Combo.Input(
        "activation_casting",
        options=list(DTYPES),
        default="bf16",
        tooltip="The type that the model computes in during this run. bf16, unless the device does not compute in it.",
    )


class KSamplerMod(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="KSamplerMod",
            display_name="FluxMod KSampler",
            category=CATEGORY,
            description="For workflows made with FluxMod: ComfyUI's KSampler, with the type to compute in. In new ones use "
            "Chroma KSampler or KSampler; models compute in the type that they were loaded for.",
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with. It is not changed."),
                io.Int.Input(
                    "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip="Chooses the noise."
                ),
                io.Int.Input("steps", default=20, min=1, max=MAX_STEPS, tooltip="Number of steps."),
                io.Float.Input(
                    "cfg",
                    default=8.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly the picture is moved from the negative prompt to the positive one. Chroma1-HD: 3 "
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
                io.Conditioning.Input("positive", tooltip="What the picture shall show."),
                io.Conditioning.Input("negative", tooltip="What it shall not show."),
                io.Latent.Input("latent_image", tooltip="An empty latent, or a picture to start from."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1: how much of the picture in the latent is made anew.",
                ),
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


class FluxModSamplerWrapperNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxModSamplerWrapperNode",
            display_name="FluxMod Sampler Wrapper",
            category=CATEGORY,
            description="For workflows made with FluxMod: a sampler whose runs compute in a type of your choice. In new ones "
            "leave it out; models of any precision compute in the type that they were loaded for.",
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
