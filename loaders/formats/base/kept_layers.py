"""DATA: which tensors stay in 16 or 32 bits whatever the precision."""

from __future__ import annotations

from ....constants import FLUX_VARIANT, SCHNELL_VARIANT

# 3 % of the weights and the most sensitive. Radiance's NeRF layers make the weights of a network for each patch, so that
# an error there is multiplied.
KEPT_PARTS = {
    "Chroma": ("img_in.", "txt_in.", "final_layer.", "distilled_guidance_layer."),
    "Radiance": ("img_in_patch.", "txt_in.", "nerf_", "distilled_guidance_layer.", "__"),
}
KEPT_PARTS["Chroma lite"] = KEPT_PARTS[FLUX_VARIANT] = KEPT_PARTS[SCHNELL_VARIANT] = KEPT_PARTS["Chroma"]
FLOAT32_PARTS = ("nerf_image_embedder.",)  # float32 in training and files


def is_quantised(name: str, ndim: int, variant: str = "Chroma") -> bool:
    """Whether a precision of less than 16 bits applies to this tensor: weights of linears inside the blocks."""
    return ndim == 2 and name.endswith(".weight") and not name.startswith(KEPT_PARTS[variant])
