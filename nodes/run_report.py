"""Chroma Run Report: what a guided run computed, on the node and in the saved picture."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..constants import Lines
from ..host.sample.guiders import patch_on
from ..samplers.run_record import RunRecord
from .shared.inputs import CATEGORY
from .shared.report import report

METADATA = "chroma_run"  # its name in a picture's metadata


def write(hidden: Any, record: RunRecord) -> None:
    """Puts a record into the metadata of this prompt's pictures, under the node's id: several runs may share a prompt."""
    hidden.extra_pnginfo.setdefault(METADATA, {})[str(hidden.unique_id)] = record.facts()


class ChromaRunReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaRunReport",
            display_name="Chroma Run Report",
            category=CATEGORY,
            description="Shows what the last run with this guidance computed, skipped and took, and writes it into the pictures "
            "saved behind it. Connect it between the sampler and VAE Decode.",
            search_aliases=["guidance report", "metadata", "forwards", "seconds per step"],
            inputs=[
                io.Latent.Input("latent", tooltip="From the sampler; goes on unchanged."),
                io.MultiType.Input(
                    "guidance",
                    types=[io.Guider, io.Model],
                    tooltip="What the sampler was given: from Chroma CFG Guider, or the model from Chroma Guidance.",
                ),
            ],
            outputs=[
                io.Latent.Output(tooltip="The latent, unchanged."),
                io.String.Output(display_name="report", tooltip="The report as text."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], guidance: Any) -> io.NodeOutput:
        patch = patch_on(guidance)
        if patch is None:
            raise ValueError(
                "there is no Chroma guidance in what is connected. Connect the output of Chroma CFG Guider, or the model "
                "from Chroma Guidance"
            )
        if patch.last is None:
            raise ValueError("nothing has been sampled with this guidance. Give the sampler the same guider or model")
        text = patch.last.text()
        if cls.hidden.extra_pnginfo is not None:
            write(cls.hidden, patch.last)
        else:
            text = Lines([text, "not in the picture's metadata: this prompt was queued without any"])
        report(cls, text)
        return io.NodeOutput(latent, str(text))
