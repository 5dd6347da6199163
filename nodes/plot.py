"""Chroma Sigmas Plot: schedules as a picture."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from .shared.canvas import THEMES, plot
from .shared.checked_node import CheckedNode
from .shared.report import only_tell, title

MAX_CURVES = 4
MIN_SIZE, MAX_SIZE = 256, 4096  # pixels
MAX_LABEL = 40  # characters


class ChromaSigmasPlot(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        sigmas, labels = [], []
        for i in range(1, MAX_CURVES + 1):
            sigmas.append(
                io.Sigmas.Input(
                    f"sigmas_{i}", display_name=f"sigmas {i}", optional=i > 1, tooltip="A schedule, from any scheduler."
                )
            )
            labels.append(
                io.String.Input(
                    f"label_{i}",
                    default="",
                    display_name=f"label {i}",
                    optional=True,
                    tooltip=f"Name of sigmas {i} in the legend. Empty: 'sigmas {i}'.",
                )
            )
        size = dict(min=MIN_SIZE, max=MAX_SIZE, step=16, optional=True, advanced=True)
        return io.Schema(
            node_id="ChromaSigmasPlot",
            display_name="Chroma Sigmas Plot",
            category="sampling/chroma",
            description="Draws up to four schedules over their steps, with a legend of their figures, to compare and "
            "to save.",
            search_aliases=["sigmas graph", "show sigmas", "preview sigmas", "schedule"],
            inputs=[
                *sigmas,
                *labels,
                io.Int.Input("width", default=1024, tooltip="Width of the picture in pixels.", **size),
                io.Int.Input("height", default=640, tooltip="Height of the picture in pixels.", **size),
                io.Combo.Input(
                    "theme",
                    options=list(THEMES),
                    default="dark",
                    optional=True,
                    advanced=True,
                    tooltip="Dark or light background.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The picture, for Save Image.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        sigmas_1: Tensor,
        sigmas_2: Tensor | None = None,
        sigmas_3: Tensor | None = None,
        sigmas_4: Tensor | None = None,
        label_1: str = "",
        label_2: str = "",
        label_3: str = "",
        label_4: str = "",
        width: int = 1024,
        height: int = 640,
        theme: str = "dark",
    ) -> io.NodeOutput:
        given = zip((sigmas_1, sigmas_2, sigmas_3, sigmas_4), (label_1, label_2, label_3, label_4))
        schedules = [
            (label.strip()[:MAX_LABEL] or f"sigmas {i}", sigmas)
            for i, (sigmas, label) in enumerate(given, start=1)
            if sigmas is not None
        ]
        image = plot(schedules, width, height, theme)
        shown = only_tell(title(cls), lambda: ui.PreviewImage(image, cls=cls), "")
        return io.NodeOutput(image, ui=shown or None)
