"""RoPE Scaling (Chroma): position embedding for pictures larger than those of training."""

from __future__ import annotations

from typing import Any, Mapping

from comfy_api.latest import io

from ..chroma_model.rope_scaling import (
    DYPE_EXPONENT,
    DYPE_SCALE,
    METHODS,
    YARN_ALPHA,
    YARN_BETA,
    RopeScaling,
    ScaledPositionEmbedder,
)
from ..host.run.network import network_of
from .shared.checked_node import CheckedNode
from .shared.inputs import CATEGORY, TOKEN_SIDE, choice, model_input, number
from .shared.report import report

PE_EMBEDDER = "diffusion_model.pe_embedder"
DYNAMIC, FIXED = "follows the noise (DyPE)", "fixed"


def yarns_inputs() -> list[io.Input]:
    return [
        number("alpha", YARN_ALPHA, 0.0, 64.0, 0.05, "Pairs with fewer turns over the base are stretched."),
        number("beta", YARN_BETA, 0.1, 128.0, 0.1, "Pairs with more turns over the base are kept."),
        io.Boolean.Input(
            "temperature",
            default=False,
            tooltip="Sharpen attention as YaRN does, by 0.1 ln s + 1. It acts on text too.",
        ),
    ]


LATENT_SIDE = 8  # pixels along the side of a latent's


class ChromaRoPEScaling(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaRoPEScaling",
            display_name="RoPE Scaling (Chroma)",
            category=CATEGORY,
            description="Position embedding for pictures larger than those of training: YaRN, NTK-aware or linear scaling, "
            "fixed or following the noise (DyPE). Up to the base size nothing changes.",
            search_aliases=["DyPE", "YaRN", "NTK", "high resolution", "4K", "large pictures", "ScaleROPE"],
            inputs=[
                model_input("From Load Chroma Model. It is not changed; a clone of it is."),
                choice(
                    "method",
                    "yarn: slow rotations are stretched, fast ones kept. ntk: stretched the more, the slower they are. "
                    "linear: all alike.",
                    {name: yarns_inputs() if name == "yarn" else [] for name in METHODS},
                ),
                choice(
                    "over_time",
                    f"{DYNAMIC}: strongest in pure noise, none where the picture is done. {FIXED}: the same in every step.",
                    {
                        DYNAMIC: [
                            number("dype_scale", DYPE_SCALE, 0.0, 8.0, 0.1, "The power of the scale in pure noise."),
                            number("dype_exponent", DYPE_EXPONENT, 0.0, 8.0, 0.1, "Higher: it ends sooner."),
                        ],
                        FIXED: [],
                    },
                    display_name="over time",
                ),
                number(
                    "base_size",
                    1024,
                    64,
                    16384,
                    TOKEN_SIDE,
                    "Side in pixels of a square picture of training's area. Chroma: 1024.",
                    display_name="base size",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with that position embedding.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        method: Mapping[str, Any],
        over_time: Mapping[str, Any],
        base_size: int,
    ) -> io.NodeOutput:
        config = network_of(model).config
        is_dynamic = over_time["over_time"] == DYNAMIC
        scaling = RopeScaling(
            method["method"],
            base_size / token_side(config),
            dype=(over_time["dype_scale"], over_time["dype_exponent"]) if is_dynamic else None,
            turns=(method.get("alpha", YARN_ALPHA), method.get("beta", YARN_BETA)),
            temperature=method.get("temperature", False),
        )
        clone = model.clone()
        clone.add_object_patch(PE_EMBEDDER, ScaledPositionEmbedder(config.axes_dim, config.theta, scaling))
        report(cls, lambda: told(scaling, base_size))
        return io.NodeOutput(clone)


def token_side(config: Any) -> int:
    """Pixels along the side of an image token: a patch, of a latent one of the VAE's eighths."""
    return config.patch_size * (LATENT_SIDE if config.nerf is None else 1)


def told(scaling: RopeScaling, base_size: int) -> str:
    twice = 2.0
    text = f"{scaling.method}, above an area of {base_size} x {base_size}"
    if scaling.dype is None:
        return f"{text}, fixed"
    strength = twice ** scaling.dype[0]
    return f"{text}; at twice the side the scale falls from {strength:.2f} to 1 with the noise"
