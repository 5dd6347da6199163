"""How long each node of the running prompt took, as the host's own progress tells it."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from comfy_execution.progress import ProgressHandler, get_progress_state

MAX_KEPT = 10_000


class NodeTimes(ProgressHandler):
    """seconds: by node id, of the last time that it ran; a node that comes from the host's cache keeps what it took."""

    def __init__(self) -> None:
        super().__init__("chroma_node_times")
        self.seconds: OrderedDict[str, float] = OrderedDict()
        self.began: dict[str, float] = {}

    def start_handler(self, node_id: str, state: Any, prompt_id: str) -> None:
        """Called again where a node first asks for more inputs: the last one counts."""
        self.began[node_id] = time.perf_counter()

    def finish_handler(self, node_id: str, state: Any, prompt_id: str) -> None:
        if node_id in self.began:
            self.seconds[node_id] = time.perf_counter() - self.began.pop(node_id)
            self.seconds.move_to_end(node_id)
            while len(self.seconds) > MAX_KEPT:
                self.seconds.popitem(last=False)

    def reset(self) -> None:
        self.began.clear()


TIMES = NodeTimes()


def watch() -> None:
    """Times the rest of the running prompt."""
    get_progress_state().register_handler(TIMES)
