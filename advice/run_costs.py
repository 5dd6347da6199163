"""What runs have cost on this machine, and what the next one will cost by that, or by a guess. Pure: one small file beside the host's.

The seconds of a conditioning's way through the network are what carries over: to other numbers of steps as they are, to another
size of the picture in proportion to its tokens, and of their squares for the attention.
"""

from __future__ import annotations

import json
import math
import os
import threading
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Iterable, Mapping

from ..constants import INFO, Line, counted
from ..samplers.traits import is_two_stage
from .queued_graph import OUR_LOADER, Graph

VERSION = 1  # of the file
MAX_KEPT = 200  # runs in it
MAX_BYTES = 1 << 20  # of the file; a larger one is not ours
TOKEN_SIDE = 16  # pixels
WIDTH = 3072  # of the published models
# Multiplications of a token in a block of width D: 12 D^2 in its layers, 2 L D in the attention over L tokens.
LAYERS_PER_ATTENTION = 6
MAX_VALUE = 60  # characters of a loader's value
# Nodes before the sampler that do not change what a step costs; of LoRAs their number counts, not their strength.
FREE = ("ModelSampling", "TimestepShift", "ChromaPreset", "ChromaSpeed", "Reroute", "RoPEScaling")
LOCK = threading.Lock()

NOT_YET = Line("expected: ", INFO, "not run here yet; the first picture tells how long it takes")


@dataclass(frozen=True)
class Work:
    """What a run is to compute. model: file, precision and the nodes that change the network. savings: see `savings_text`."""

    model: str
    device: str
    width: int
    height: int
    batch: int
    steps: int
    sampler: str
    guided: bool
    savings: str = ""

    @property
    def tokens(self) -> int:
        """Of the pictures; texts are not known before."""
        return math.ceil(self.width / TOKEN_SIDE) * math.ceil(self.height / TOKEN_SIDE)

    @property
    def way(self) -> tuple[str, bool, str]:
        """What decides how many prompts a step computes."""
        return self.sampler, self.guided, self.savings

    def effort(self, width: int) -> float:
        """Of a prompt, in proportion. width: of the network."""
        return self.batch * self.tokens * (1 + self.tokens / (LAYERS_PER_ATTENTION * width))


@dataclass(frozen=True)
class Cost:
    """What a finished run has cost.

    prompts: computed in a step, on average. seconds: of a prompt, once the model is loaded. memory: bytes at most, 0 if unknown.
    network: the width of the network.
    """

    work: Work
    prompts: float
    seconds: float
    memory: int = 0
    network: int = WIDTH


def model_of(graph: Graph, chain: list[str]) -> str:
    """What a sampler's model is, so far as it counts for time and memory; "" where the graph does not tell.

    chain: the nodes that the model has passed, the nearest first.
    """
    if not chain or graph.is_open(chain) or not graph.file(chain):
        return ""
    parts = []
    for node in chain:
        kind = graph.kind(node)
        if any(name in kind for name in FREE):
            continue
        is_lora = "lora" in kind.lower() and graph.kind(node) != OUR_LOADER
        parts.append(" ".join([kind, *([] if is_lora else values(graph, node))]))
    return " < ".join(parts)


def values(graph: Graph, node: str) -> list[str]:
    """A node's own values, sorted; the same from the page and in a queued prompt."""
    plain = {n: v for n, v in graph.inputs(node).items() if isinstance(v, (str, int, float, bool))}
    texts = (f"{n}={v:g}" if not isinstance(v, (str, bool)) else f"{n}={v}"[:MAX_VALUE] for n, v in plain.items())
    return sorted(texts)


def savings_text(savings: Mapping[str, Any], skip_first_steps: int, steps: int) -> str:
    """What guidance leaves out, as text; with the number of steps where its share depends on them."""
    found = {**savings, **({"skip_first_steps": skip_first_steps} if skip_first_steps else {})}
    if not found:
        return ""
    return ", ".join(f"{name} {value}" for name, value in sorted(found.items())) + f" of {steps}"


def by_rule(work: Work) -> float:
    """Prompts a step of a way that was not run yet: both prompts, twice for samplers of two stages."""
    return (2 if work.guided else 1) * (2 if is_two_stage(work.sampler) else 1)


def expected(work: Work, costs: Iterable[Cost]) -> Line:
    """A line on what a run will take. costs: of runs before, the newest last."""
    known = [cost for cost in costs if (cost.work.model, cost.work.device) == (work.model, work.device)]
    if not known:
        return NOT_YET

    def distance(cost: Cost) -> tuple[Any, ...]:
        one = cost.work
        return (
            (one.width, one.height, one.batch) != (work.width, work.height, work.batch),
            abs(math.log(one.tokens * one.batch / (work.tokens * work.batch))),
            one.way != work.way,
            abs(one.steps - work.steps),
        )

    near = min(reversed(known), key=distance)
    same_way = [cost for cost in known if cost.work.way == work.way]
    like = min(reversed(same_way), key=lambda cost: abs(cost.work.steps - work.steps), default=None)
    prompts = like.prompts if like else by_rule(work)
    scale = work.effort(near.network) / near.work.effort(near.network)
    step = near.seconds * scale * prompts
    pictures = f"{near.work.batch} of " if near.work.batch > 1 else ""
    is_same = not distance(near)[0]
    source = "as before" if is_same else f"estimated from {pictures}{near.work.width} x {near.work.height}"
    text = f"{duration(step * work.steps)} once loaded, {source}: {counted(work.steps, 'step')} of {step_text(step)} s"
    if near.memory and near.work.guided == work.guided:
        bound = "" if is_same else "more than " if scale > 1 else "less than "
        text += f"; {bound}{near.memory / 2**30:.1f} GB of memory"
    return Line("expected: ", INFO, text)


def guessed(work: Work, seconds: float, weights: float) -> Line:
    """The same of a model that has never run here. seconds: of a prompt, by the network's size; weights: bytes."""
    step = seconds * by_rule(work)
    text = f"about {duration(step * work.steps)} once loaded, guessed from the model's size for its first run here: "
    text += f"{counted(work.steps, 'step')} of {step_text(step)} s"
    size = f"{weights / 2**30:.1f}"
    return Line("expected: ", INFO, text if size == "0.0" else f"{text}; more than {size} GB of memory")


def step_text(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"


# --- the file --------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Cost]:
    """The runs of a file, the newest last; none of what is damaged, or of a file that is not there."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return []
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = found["runs"] if found["version"] == VERSION else []
        return [cost for row in rows[-MAX_KEPT:] if (cost := cost_of(row)) is not None]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return []


def cost_of(row: Any) -> Cost | None:
    """A row of the file as a Cost; None if it is none."""
    try:
        work = Work(**row.pop("work"))
        cost = Cost(work, **row)
    except (AttributeError, KeyError, TypeError):
        return None
    kinds = {"str": str, "int": int, "bool": bool, "float": (int, float), "Work": Work}
    for one in (work, cost):
        if not all(isinstance(getattr(one, f.name), kinds[f.type]) for f in fields(one)):
            return None
    numbers = (work.width, work.height, work.batch, work.steps, cost.network, cost.prompts, cost.seconds)
    return cost if all(0 < n < math.inf for n in numbers) and cost.memory >= 0 else None


def add(path: Path, cost: Cost) -> None:
    """Writes the file anew with a run more, in place of an older one of the same work.

    In one move, so that another server reads a whole file; of two that write at once one run is lost.
    raises: OSError where it cannot be written.
    """
    with LOCK:
        kept = [one for one in read(path) if one.work != cost.work]
        rows = [asdict(one) for one in [*kept, cost][-MAX_KEPT:]]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        try:
            part.write_text(json.dumps({"version": VERSION, "runs": rows}, indent=1), encoding="utf-8")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
