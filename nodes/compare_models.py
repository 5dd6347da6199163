"""Chroma Compare Models: two models, or a model and a file of activations, block by block."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui
from torch import Tensor

from ..host.run.compare import check_alone, compare, record
from ..loaders.checkpoint.activations import GUIDANCE, Differences, read_dump, write_dump
from .shared.canvas import chart
from .shared.checked_node import CheckedNode
from .shared.files import below, next_path
from .shared.inputs import CATEGORY, number, positive_input, seed_input
from .shared.report import only_tell, report, title


class ChromaCompareModels(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaCompareModels",
            display_name="Chroma Compare Models",
            category=CATEGORY,
            description="Gives two models the same input and draws how far they are apart after every block. For precisions, "
            "files, LoRA strengths, and other programs by a file of activations.",
            search_aliases=["layer comparison", "quantization error", "activations", "debug", "difference"],
            inputs=[
                io.Model.Input("model", tooltip="The model to look at."),
                io.Model.Input(
                    "reference",
                    optional=True,
                    tooltip="The model that counts as right, such as the same in 16 bits or without a LoRA. Or name a file.",
                ),
                positive_input(optional=True),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Its size is the picture's. 256 x 256 is enough; activations of all steps are kept in memory.",
                ),
                io.String.Input(
                    "reference_file",
                    default="",
                    optional=True,
                    display_name="reference file",
                    tooltip="Instead of a reference: a .safetensors of activations in ComfyUI's input or output folder, whose "
                    "inputs are then used. The help page tells the names in it.",
                ),
                number(
                    "steps", 3, 1, 50, None, "At how many noise levels: those of a run of so many steps.", optional=True
                ),
                seed_input("Chooses the noise.", optional=True),
                io.String.Input(
                    "save_prefix",
                    default="",
                    optional=True,
                    advanced=True,
                    display_name="save prefix",
                    tooltip="Writes the reference's activations of the middle step, or the model's if there is no reference, "
                    "into the output folder under this name, such as activations/chroma. Empty: does not write.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="Errors of both streams after every block."),
                io.String.Output(display_name="report", tooltip="The output's error and the blocks that add most."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, reference_file: str | None = "", **_: Any) -> Any:
        """Differs when the file was written anew, by another program for instance."""
        try:
            stat = input_path((reference_file or "").strip()).stat() if (reference_file or "").strip() else None
        except (ValueError, OSError):  # `execute` raises it
            return ""
        return stat and [stat.st_mtime_ns, stat.st_size]

    @classmethod
    def execute(
        cls,
        model: Any,
        reference: Any = None,
        positive: list[Any] | None = None,
        latent: Any = None,
        reference_file: str = "",
        steps: int = 3,
        seed: int = 0,
        save_prefix: str = "",
    ) -> io.NodeOutput:
        if reference_file.strip():
            if reference is not None:
                raise ValueError("there is a reference and a reference file. Take one of them away")
            points = [read_dump(input_path(reference_file.strip()))]
            guidance = {"guidance": float(points[0][GUIDANCE])} if GUIDANCE in points[0] else {}
            positive = [[points[0]["input.context"].float(), guidance]]
            check_alone(model, positive)
        else:
            if positive is None or latent is None:
                raise ValueError(
                    "positive and latent are missing. Connect them, or name a reference file that holds them"
                )
            if reference is None and not save_prefix.strip():
                raise ValueError("there is nothing to compare with. Connect a reference, or name a reference file")
            if save_prefix.strip():
                check_alone(model if reference is None else reference, positive)
            points = record(model if reference is None else reference, positive, latent, steps, seed)
        lines = []
        if save_prefix.strip():
            path = next_path(save_prefix.strip(), ".safetensors")
            write_dump(path, points[len(points) // 2])
            lines.append(f"written: {path}")
        differences = Differences()
        if reference is not None or reference_file.strip():
            differences = compare(model, positive, points, seed)
            lines.insert(0, differences.text())
        text = "\n".join(lines)
        report(cls, text)
        image = drawn(differences, text)
        shown = only_tell(title(cls), lambda: ui.PreviewImage(image, cls=cls), "")
        return io.NodeOutput(image, text, ui=shown or None)


def drawn(differences: Differences, text: str) -> Tensor:
    """(1, H, W, 3): the error of both streams after every block."""
    names = [f"{kind} {i}" for kind, i in differences.blocks()]
    series = [(stream, differences.curve(stream)) for stream in ("img", "txt")]
    return chart(["Relative error after every block", *text.split("\n")], names, series, "relative error")


def input_path(name: str) -> Path:
    """A file in the host's input or output folder. raises: ValueError if it is in neither."""
    for folder in (folder_paths.get_input_directory(), folder_paths.get_output_directory()):
        path = below(folder, name)
        if path is not None and os.path.isfile(path):
            return path
    raise ValueError(
        f"{name}: there is no such file in ComfyUI's input or output folder. Put it there; the name has its folder and ending"
    )
