"""The transformer inside of a MODEL."""

from __future__ import annotations

from typing import Any


def network_of(model: Any) -> Any:
    """The transformer of a MODEL.

    raises: ValueError if the pack has not loaded it.
    """
    if not getattr(model.model, "takes_negative_text", False):
        raise ValueError(
            f"the model is a {type(model.model).__name__} from another loader; load it with Load Chroma Model"
        )
    return model.model.diffusion_model
