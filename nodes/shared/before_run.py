"""Before Run: what a picture will cost on this machine, by the runs before it, which are kept in the host's user folder; where there
are none, by the model's size and a short trial of the machine."""

from __future__ import annotations

import functools
import logging
import math
import threading
from pathlib import Path
from typing import Any, Mapping

import comfy.model_management
import folder_paths
from server import PromptServer

from ...advice.queued_graph import OUR_SAMPLER, PRESET_NODES, Graph
from ...advice.queued_run import picture_size, runs
from ...advice.run_costs import (
    NOT_YET,
    TOKEN_SIDE,
    WIDTH,
    Cost,
    Work,
    add,
    expected,
    guessed,
    model_of,
    read,
    savings_text,
)
from ...advice.user_changes import Settings
from ...constants import Line
from ...host.model.load import choose_mode, types_of, weights_size
from ...host.model.machine_speed import SPEED
from ...host.run.base_model import model_config
from ...loaders.files.error_text import encodable
from ...loaders.formats.base.registry import quant_mode
from ...samplers.run_record import RunRecord
from .file_ahead import found_ahead
from .report import only_tell

FOLDER, FILE = "chroma_pack", "run_costs.json"
TITLE = "Chroma KSampler"


def file() -> Path:
    """In a folder of the host's that no page can read; servers with one user folder share it."""
    return Path(folder_paths.get_system_user_directory(FOLDER)) / FILE


def device_name(device: Any) -> str:
    return str(comfy.model_management.get_torch_device_name(device))


def keep(graph: Mapping[str, Any], node: str, model: Any, record: RunRecord, **work: Any) -> None:
    """Keeps what a run of the node has cost, if it ended well and was long enough to tell; it does not wait for the disk.

    work: the fields of `Work` that the graph and the record do not have.
    """
    seconds = record.prompt_seconds
    found = Graph(graph)
    name = model_of(found, found.model_chain(node)) if node in found.nodes else ""
    if seconds is None or not name:
        return
    network = vars(model.model.model_config).get("unet_config", {}).get("hidden_size", WIDTH)
    done = Work(name, device_name(model.load_device), steps=record.steps, **work)
    cost = Cost(done, record.prompts / record.steps, seconds, record.memory, network)
    threading.Thread(target=only_tell, args=(TITLE, lambda: write(cost)), daemon=True).start()


def write(cost: Cost) -> None:
    """Into the file. Where it cannot be written, runs go on without; that is told once for each place and reason."""
    try:
        add(file(), cost)
    except OSError as error:
        tell_not_kept(str(file()), error.strerror or type(error).__name__)


@functools.cache
def tell_not_kept(path: str, why: str) -> None:
    logging.warning("%s: how long runs take is not kept, since %s cannot be written: %s", TITLE, encodable(path), why)


def ahead(graph: Graph, node: str, settings: Settings | None) -> Line | None:
    """A line on what the node's run will take; None where the graph does not tell what it is.

    settings: in place of the node's own values.
    """
    is_preset = graph.kind(node) in PRESET_NODES
    work = (work_of_preset if is_preset else work_of)(graph, node, settings)
    line = None if work is None else expected(work, read(file()))
    if line != NOT_YET:
        return line
    if is_preset:
        return None  # its sampler says so
    return only_tell(TITLE, lambda: first_run(graph, node, work), "") or NOT_YET


def first_run(graph: Graph, node: str, work: Work) -> Line | None:
    """A guess for a model that has never run here; None where its file or device tells nothing.

    The machine is tried once, but not while a prompt is computed, since either would slow the other down.
    """
    loader, device = graph.model_chain(node)[-1], comfy.model_management.get_torch_device()
    precision = graph.value(loader, "quant_mode")
    try:
        found = found_ahead(graph, loader, graph.file([loader]))
        if found is None or is_computing():
            return None
        precision, _ = choose_mode(precision if isinstance(precision, str) else "auto", found.detection, device)
    except ValueError:  # the loader says so
        return None
    detection, mode = found.detection, quant_mode(precision)
    _, plain, compute = types_of(detection, mode, model_config(detection).supported_inference_dtypes, device)
    speed = SPEED.of(device, compute or plain, detection.config.hidden_size)
    if speed is None:
        return None
    seconds = work.batch * detection.config.multiplications(work.tokens) / speed
    return guessed(work, seconds, weights_size(detection, mode, plain, found.num_bytes))


def is_computing() -> bool:
    """Whether the server computes a prompt now."""
    server = getattr(PromptServer, "instance", None)
    return bool(server and server.prompt_queue.get_current_queue_volatile()[0])


def work_of(graph: Graph, node: str, settings: Settings | None) -> Work | None:
    """Of Chroma KSampler."""
    run = next((run for run in runs(graph, {}) if run.node == node), None)
    size = None if run is None else picture_size(graph, run)
    if size is None or graph.kind(node) != OUR_SAMPLER:
        return None
    steps, cfg, sampler = (getattr(settings or run, name) for name in ("steps", "cfg", "sampler"))
    if None in (steps, cfg) or not sampler:
        return None
    batch = int(graph.number(size[2], "batch_size") or 1)
    skip = int(graph.number(node, "skip_first_steps") or 0)
    savings = savings_text({} if settings is None else settings.savings, skip, steps)
    return here(graph, node, *size[:2], batch, steps, sampler, cfg != 1, savings)


def work_of_preset(graph: Graph, node: str, found: Settings | None) -> Work | None:
    """Of a run with the settings of Chroma Preset or Chroma Speed, and one picture."""
    if found is None or any(graph.is_hidden(node, name) for name in ("steps", "cfg", "width", "height", "sampler")):
        return None
    savings = savings_text(found.savings, 0, found.steps)
    return here(graph, node, found.width, found.height, 1, found.steps, found.sampler, found.cfg != 1, savings)


def here(graph: Graph, node: str, width: int, height: int, *work: Any) -> Work | None:
    """On the device that the host has chosen. work: the fields of `Work` after the size."""
    name = model_of(graph, graph.model_chain(node))
    if not name or min(width, height) < 1:
        return None
    width, height = (math.ceil(n / TOKEN_SIDE) * TOKEN_SIDE for n in (width, height))  # as the latent is filled up
    return Work(name, device_name(comfy.model_management.get_torch_device()), width, height, *work)
