"""Chroma Run Report: what a guided run computed, on the node and in the saved picture."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..constants import WARNING, Line, Lines
from ..host.sample.guiders import patch_on
from .shared.inputs import CATEGORY
from .shared.metadata import put
from .shared.report import only_tell, report, title

NO_GUIDANCE = Line(
    "there is no Chroma guidance on the connected input. ",
    WARNING,
    "Connect the output of Chroma CFG Guider, or the model from Chroma Guidance",
)
NO_RUN = Line("nothing has been sampled with this guidance. ", WARNING, "Give the sampler the same guider or model")
NO_METADATA = "not written into the picture: this prompt was queued without metadata"


def run_text(hidden: Any, guidance: Any) -> str:
    """The report on the last run with a GUIDER's or MODEL's guidance. Its record is written into the metadata too."""
    patch = patch_on(guidance)
    if patch is None:
        return Lines([NO_GUIDANCE])
    if patch.last is None:
        return Lines([NO_RUN])
    text = patch.last.text()
    written = put(hidden.extra_pnginfo, hidden.unique_id, patch.last.facts())
    return text if written else Lines([text, NO_METADATA])


class ChromaRunReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaRunReport",
            display_name="Chroma Run Report",
            category=CATEGORY,
            description="Shows what the last run with this guidance computed and skipped and how long it took, and "
            "writes this into the pictures saved after it. Connect it between the sampler and VAE Decode.",
            search_aliases=["guidance report", "metadata", "forwards", "seconds per step"],
            inputs=[
                io.Latent.Input("latent", tooltip="From the sampler; passed on unchanged."),
                io.MultiType.Input(
                    "guidance",
                    types=[io.Guider, io.Model],
                    tooltip="The sampler's own input: the guider from Chroma CFG Guider, or the model from Chroma "
                    "Guidance.",
                ),
            ],
            outputs=[
                io.Latent.Output(tooltip="The latent, unchanged."),
                io.String.Output(display_name="report", tooltip="The report as text."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, latent: Any = None, guidance: Any = None, **_: Any) -> io.NodeOutput:  # _: other versions' inputs
        text = only_tell(title(cls), lambda: run_text(cls.hidden, guidance))
        report(cls, text)
        return io.NodeOutput(latent, str(text))
