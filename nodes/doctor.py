"""Chroma Doctor: what in the queued graph does nothing or does harm."""

from __future__ import annotations

import logging
from typing import Any, Mapping

import comfy.model_management
import torch
from comfy_api.latest import io, ui

import nodes

from ..advice.doctor import examine, findings_text, muted_nodes, prompts
from ..advice.queued_graph import OUR_LOADER, Graph
from ..host.model import matmul
from ..host.model.report import packed_formats
from ..host.sample.apply_preset import known
from ..host.text.encode_prompt import UNKNOWN, find_t5, tokenize
from ..loaders.files.error_text import encodable
from ..loaders.formats.base.format import Format
from ..loaders.formats.base.registry import FORMATS, QUANT_MODES
from .shared.report import only_tell, report

TITLE = "Chroma Doctor"
COMPUTED_IN = (torch.bfloat16, torch.float16, torch.float32)  # by a Chroma, the best first
FAILED = "The Doctor itself has failed ({}); this graph was not checked. The run goes on."


def record_of(
    model: Any, clip: Any, graph: Mapping[str, Any], node_id: str | None, workflow: Any = None
) -> dict[str, Any]:
    """What is known beside the graph: the model's variant and file, the loaders whose weights this device multiplies
    slowly or whose models compute in float32, the tokens of each prompt, the output nodes and the page's muted ones."""
    record: dict[str, Any] = {"node": node_id}

    def add_outputs() -> None:
        of_graph = Graph(graph).nodes.items()
        record["outputs"] = [key for key, node in of_graph if key != str(node_id) and is_output(node)]
        record["muted"] = muted_nodes(workflow, nodes.NODE_DISPLAY_NAME_MAPPINGS)

    def add_model() -> None:
        record["variant"], record["file"] = known(model)

    def add_slow() -> None:
        record["slow"] = slow_loaders(model, graph, node_id)

    def add_float32() -> None:
        record["float32"] = float32_loaders(model, graph, node_id)

    for add in (add_outputs, *((add_model,) if model is not None else ()), add_slow, add_float32):
        only_tell(TITLE, add)
    if clip is not None:
        try:
            t5 = find_t5(clip)
            tokens = {text: [token for token, _ in tokenize(clip, t5, text, whole=True)] for text in prompts(graph)}
            record["tokens"] = {text: len(found) + 1 for text, found in tokens.items()}
            record["unknown"] = {
                text: sum(not torch.is_tensor(token) and token == UNKNOWN for token in found)
                for text, found in tokens.items()
            }
        except Exception as error:  # another pack's text encoder: tokens are estimated, as without a clip
            logging.info("%s: tokens are not counted: %s: %s", TITLE, type(error).__name__, encodable(str(error)))
    return record


def is_output(node: Mapping[str, Any]) -> bool:
    """Whether a queued node shows or saves something."""
    return bool(getattr(nodes.NODE_CLASS_MAPPINGS.get(node.get("class_type")), "OUTPUT_NODE", False))


def slow_loaders(model: Any, graph: Mapping[str, Any], node_id: str | None) -> dict[str, str]:
    """Loader's node id -> by how much this device multiplies its packed weights slower than floats; slow ones only."""
    read, formats = Graph(graph), dict[str, list[Format]]()
    for node in read.nodes:
        mode = QUANT_MODES.get(str(read.value(node, "quant_mode"))) if read.kind(node) == OUR_LOADER else None
        if mode is not None and mode.format is not None:
            formats[node] = [FORMATS[mode.format]]
    if model is not None and (chain := read.model_chain(str(node_id)) if str(node_id) in read.nodes else []):
        formats[chain[-1]] = list(packed_formats(model.model.diffusion_model))
    device = comfy.model_management.get_torch_device()
    found = ((node, f, matmul.slowness(f, device)) for node, of in formats.items() for f in of)
    return {node: f"{f.matmul.name} {why}" for node, f, why in found if why}


def float32_loaders(model: Any, graph: Mapping[str, Any], node_id: str | None) -> list[str]:
    """Nodes of loaders whose models compute in float32: the connected one by what it does, ours by its precision, and any where
    this device has no 16 bits to compute in, as a processor."""
    read, device = Graph(graph), comfy.model_management.get_torch_device()
    modes = {n: QUANT_MODES.get(str(read.value(n, "quant_mode"))) for n in read.nodes if read.kind(n) == OUR_LOADER}
    found = {node for node, mode in modes.items() if mode is not None and mode.dtype == torch.float32}
    if comfy.model_management.unet_manual_cast(None, device, list(COMPUTED_IN)) == torch.float32:
        found |= set(read.nodes)
    if model is not None and (chain := read.model_chain(str(node_id)) if str(node_id) in read.nodes else []):
        (found.add if model.model.get_dtype_inference() == torch.float32 else found.discard)(chain[-1])
    return sorted(found)


def doctor_report(model: Any, clip: Any, graph: Mapping[str, Any], node_id: str | None, workflow: Any = None) -> str:
    """The report. It never raises, whatever is connected and whatever other packs put into the graph."""
    return only_tell(
        TITLE, lambda: findings_text(examine(graph, record_of(model, clip, graph, node_id, workflow)), graph), FAILED
    )


class ChromaDoctor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaDoctor",
            display_name=TITLE,
            category="sampling/chroma",
            description="Looks at the queued workflow and tells which settings do nothing or do harm with Chroma, "
            "and what to do instead. Changes nothing and never stops a run.",
            search_aliases=["check", "lint", "warnings", "debug", "validate", "diagnose"],
            inputs=[
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model from its loader, so that its kind is known. Without it the Doctor goes by "
                    "file names.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text encoder, so that tokens are counted instead of estimated."
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        return float("nan")  # runs for every queued prompt: the graph that it checks is not among its inputs

    @classmethod
    def execute(cls, model: Any = None, clip: Any = None, **_: Any) -> io.NodeOutput:  # _: other versions' inputs
        info = cls.hidden.extra_pnginfo
        workflow = info.get("workflow") if isinstance(info, Mapping) else None
        text = doctor_report(model, clip, cls.hidden.prompt or {}, cls.hidden.unique_id, workflow)
        report(cls, text)
        return io.NodeOutput(ui=ui.PreviewText(text))
