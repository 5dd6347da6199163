"""How much memory a run has used at most, as far as torch or the system tells."""

from __future__ import annotations

import logging
from typing import Any

import psutil
import torch


class PeakMemory:
    """On a card what torch has handed out at most, with the weights that the host streams beside it; on the CPU the
    process' memory, at the ends of steps. It never fails: what is not known is 0."""

    def __init__(self, patcher: Any):
        self.patcher = patcher
        self.most = 0
        try:
            self.card = card_of(patcher.load_device)
            if self.card:
                self.card.reset_peak_memory_stats(patcher.load_device)
        except Exception:
            logging.debug("Chroma Pack: no measure of memory", exc_info=True)
            self.card = None

    def look(self) -> int:
        """Bytes so far; 0 if not known."""
        try:
            self.most = max(self.most, self.now())
        except Exception:
            logging.debug("Chroma Pack: no measure of memory", exc_info=True)
        return self.most

    def now(self) -> int:
        device = self.patcher.load_device
        if device.type == "cpu":
            return psutil.Process().memory_info().rss
        if self.card is None:
            return 0
        streamed = self.patcher.loaded_size() if self.patcher.is_dynamic() else 0
        return self.card.max_memory_allocated(device) + streamed


def card_of(device: torch.device) -> Any:
    """torch's module for a card that counts its memory; None for other devices."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    return module if hasattr(module, "max_memory_allocated") and hasattr(module, "reset_peak_memory_stats") else None
