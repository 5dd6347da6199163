"""ComfyUI's Flux KV Cache under several prompts: each has the keys and values of its own references.

The host's patch keeps those of a block's first call, whichever prompt that was for: of two that run one after the other, the
negative prompt would get the positive one's. Here it is given a store for each set of conditionings before every call, which
ends with the run. Written for ComfyUI 0.30.
"""

from __future__ import annotations

from typing import Any, Mapping

from .conds import prompts_of

OPTION = "chroma_kept_references"  # where a run's stores stand in transformer_options
HOST_PATCH = "KV_Attn_Input"  # the class of the host's patch, which keeps what it has in `cache`


class Stores:
    """Of a run: (patch, conditionings of a call) -> what the patch keeps for them. No dict, which the host would copy for each
    step."""

    def __init__(self) -> None:
        self.found: dict[tuple[Any, ...], dict[str, Any]] = {}


def sample_wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """An OUTER_SAMPLE wrapper."""
    executor.class_obj.model_options["transformer_options"][OPTION] = Stores()
    return executor(*args, **kwargs)


def keep_apart(options: Mapping[str, Any]) -> None:
    """To be called before the network is, with its transformer_options."""
    stores: Stores | None = options.get(OPTION)
    for patch in options.get("patches", {}).get("attn1_patch", ()) if stores is not None else ():
        if type(patch).__name__ == HOST_PATCH:
            patch.cache = stores.found.setdefault((id(patch), *prompts_of(options)), {})
