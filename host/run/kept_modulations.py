"""Keeps the Approximator's results: one per distinct timestep, shared by cond, uncond, batch rows and the next run.

The store belongs to the loaded model's patcher and is reached through a wrapper around each sampling run, never
through the module. A key has the patcher's `patches_uuid` for the weights, which every LoRA renews.
"""

from __future__ import annotations

import re
import weakref
from collections import OrderedDict
from typing import Any, Hashable

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .late_lora import KEY as LATE_LORA

OPTION = "chroma_modulations"  # where a run's store stands in transformer_options
APPROXIMATOR = re.compile(
    r"diffusion_model(\.(distilled_guidance_layer|table|modulations)\b.*)?$"
)  # what may change it
MAX_BYTES = 128 * 2**20  # 60 timesteps of the 8.9B model in bfloat16


class ModulationStore:
    """Results of one loaded model and its clones, the oldest dropped first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> Tensor | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: Hashable, value: Tensor) -> None:
        self._entries[key] = value
        self._bytes += value.nbytes
        while self._bytes > MAX_BYTES and len(self._entries) > 1:
            self._bytes -= self._entries.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def sample_wrapper(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """An OUTER_SAMPLE wrapper: puts this run's view of the store into the run's own transformer_options."""
        guider = executor.class_obj
        guider.model_options["transformer_options"][OPTION] = RunModulations(self, guider.model_patcher)
        return executor(*args, **kwargs)


class RunModulations:
    """The store as one sampling run sees it: keyed by the weights that the run's patcher has in force."""

    def __init__(self, store: ModulationStore, patcher: Any):
        self._patcher = patcher
        self._model = weakref.ref(patcher.model)
        # Some patches change weights without a new patches_uuid, and are constant only within a run. Such a run has its
        # own store, which ends with it.
        self._late = [w.__self__ for w in patcher.get_wrappers(WrappersMP.APPLY_MODEL, LATE_LORA)]
        self._own = bool(patcher.injections or patcher.hook_patches or self._late) or any(
            map(APPROXIMATOR.match, patcher.object_patches)
        )
        self._store = ModulationStore() if self._own else store

    def get(self, model: Any, timesteps: Tensor, guidance: Tensor, dtype: torch.dtype) -> Tensor:
        """(1 or B, M, D) in dtype, for (B,) timesteps and guidance; 1 row where all rows are equal."""
        net = model.diffusion_model
        # Another model under the same guider, a copy on another GPU, or training: nothing to keep.
        if self._model() is not model or torch.is_grad_enabled():
            return net.modulations(timesteps, guidance).to(dtype)
        rows = [tuple(row) for row in torch.stack((timesteps, guidance), dim=1).tolist()]  # one wait for the device
        hooks = (self._patcher.current_hooks, *(late.acts for late in self._late)) if self._own else None
        found: dict[tuple[float, float], Tensor] = {}
        for i, row in enumerate(rows):
            if row in found:
                continue
            key = (self._patcher.patches_uuid, hooks, self._model, timesteps.device, dtype, row)
            value = self._store.get(key)
            if value is None:
                value = net.modulations(timesteps[i : i + 1], guidance[i : i + 1]).to(dtype)
                self._store.put(key, value)
            found[row] = value
        return next(iter(found.values())) if len(found) == 1 else torch.cat([found[row] for row in rows])
