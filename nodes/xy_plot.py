"""Chroma XY Plot: the pictures of a workflow for the values of two of its inputs, which expands into copies of its nodes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping, NamedTuple, Sequence

import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

import nodes

from ..constants import AS_TRAINED, BY_RESOLUTION
from ..host.run import node_times
from ..loaders.files.error_text import short
from ..tables import xy_plot
from ..tables.grid import draw
from ..tables.places import Place, told
from .shared.checked_node import CheckedNode
from .shared.inputs import choice, number
from .shared.report import only_tell, report, running_graph, title

NONE, OTHER = "none", "another input"
# What people compare most: name, values by default.
AXES = {
    "cfg": "3, 4, 5",
    "steps": "16, 26",
    "seed": "1..4",
    "sampler": "euler, res_multistep",
    "schedule": "beta, simple",
    "quality": "draft, standard, quality",
    "precision": "auto, int8_convrot",
    "shift": f"{AS_TRAINED}, {BY_RESOLUTION}",
    "denoise": "0.5, 0.7",
    "prompt": "",
    "negative prompt": "",
}
INPUTS = {"precision": "quant_mode"}  # the model's; the text encoder has an input of that name
VALUES = "As 3, 4, 5 or 1..4; texts one a line, or as a JSON list."
CellsType = io.Custom("CHROMA_CELLS")
LATENT = "LATENT"


def axis_input(name: str, where: str, keys: Sequence[str]) -> io.Input:
    def values(default: str) -> io.Input:
        return io.String.Input("values", default=default, multiline=True, tooltip=VALUES, dynamic_prompts=False)

    tooltip = "As 'node title.input'; a node without a title by its type or id."
    other = [io.String.Input("input", tooltip=tooltip, dynamic_prompts=False), values("")]
    every = {NONE: [], **{key: [values(text)] for key, text in AXES.items()}, OTHER: other}
    tooltip = f"What changes {where}. It belongs to a node before the picture."
    return choice(name, tooltip, {key: every[key] for key in keys})


class Painted(NamedTuple):
    """One picture of the plot, made as small as it is shown."""

    column: int
    row: int
    picture: Image.Image
    label: str


@dataclass(frozen=True)
class Workflow:
    """The running prompt, for `tables.places`."""

    prompt: Mapping[str, Mapping[str, Any]]
    shown: Mapping[tuple[str, str], Sequence[Place]] = field(default_factory=dict)


class Definitions(dict[str, Any]):
    """Class -> its definition, as the server tells it; made when asked for."""

    def __missing__(self, kind: str) -> dict[str, Any]:
        found = nodes.NODE_CLASS_MAPPINGS[kind]
        self[kind] = {"input": found.INPUT_TYPES(), "output": list(found.RETURN_TYPES)}
        return self[kind]

    def samples(self, kind: str) -> bool:
        """Whether it makes a latent of a latent: what a picture's time is measured on."""
        made = self[kind]
        taken = [spec[0] for group in ("required", "optional") for spec in made["input"].get(group, {}).values()]
        return LATENT in made["output"] and LATENT in taken


class ChromaXYPlot(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        keys = [*AXES, OTHER]
        return io.Schema(
            node_id="ChromaXYPlot",
            display_name="Chroma XY Plot",
            category="image/chroma",
            description="Paints the workflow's picture for several values of one input, or of two against each other, with "
            "labels and seconds. Only what a value changes is computed again.",
            search_aliases=["XY plot", "XYZ plot", "grid", "parameter sweep", "compare settings", "x/y plot"],
            inputs=[
                io.Image.Input("image", tooltip="The workflow's picture, from VAE Decode.", lazy=True, raw_link=True),
                axis_input("x", "from column to column", keys),
                axis_input("y", "from row to row", [NONE, *keys]),
                number(
                    "largest",
                    512,
                    16,
                    4096,
                    16,
                    "Longer side of each picture in the plot, in pixels; larger ones are made smaller.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The plot, for Save Image.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            enable_expand=True,
        )

    @classmethod
    def execute(cls, image: Any, x: Mapping[str, Any], y: Mapping[str, Any], largest: int = 512) -> io.NodeOutput:
        if not xy_plot.is_link(image):
            raise ValueError("image is no link. Connect the picture that is to be painted with other settings")
        own, definitions = str(cls.hidden.unique_id), Definitions()
        prompt = running_graph()
        used = xy_plot.before(prompt, image[0])
        workflow = Workflow({key: node for key, node in prompt.items() if key in used})
        found = [axis_of(name, given, workflow, definitions) for name, given in (("x", x), ("y", y))]
        axes = [one for one in found if one is not None]
        plan = xy_plot.plan(workflow.prompt, image, axes, f"{own}/")
        node_times.watch()
        expand = {**plan.nodes, **cells_of(plan, axes, largest, own, definitions)}
        report(cls, lambda: in_short(plan, axes, workflow))
        return io.NodeOutput([list(expand)[-1], 1], expand=expand)


def axis_of(name: str, given: Mapping[str, Any], workflow: Workflow, definitions: Definitions) -> xy_plot.Axis | None:
    """raises: ValueError that names the axis."""
    asked = given[name]
    if asked == NONE:
        return None
    try:
        if asked == OTHER:
            asked = own = given.get("input", "").strip()
        else:
            own = INPUTS.get(asked, asked)
        return xy_plot.axis(asked, own, given["values"], workflow, definitions)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def cells_of(
    plan: xy_plot.Plan, axes: Sequence[xy_plot.Axis], largest: int, own: str, definitions: Definitions
) -> dict[str, dict[str, Any]]:
    """A chain of nodes, one for each picture: each asks for its own when the one before has it."""
    heads, sides = ([*axes[n].labels] if len(axes) > n else [] for n in (0, 1))
    out: dict[str, dict[str, Any]] = {}
    for at, cell in enumerate(plan.cells, 1):
        timed = [key for key in cell.copies if definitions.samples(plan.nodes[key]["class_type"])]
        about = {
            "column": cell.column,
            "row": cell.row,
            "timed": timed or list(cell.copies),
            "heads": heads,
            "sides": sides,
            "largest": largest,
            "number": at,
            "of": len(plan.cells),
        }
        before = {"before": [list(out)[-1], 0]} if out else {}
        inputs = {"image": [*cell.picture], "cell": json.dumps(about), **before}
        out[f"{own}/cell {at}"] = {"class_type": ChromaXYPlotCell.__name__, "inputs": inputs}
    return out


def in_short(plan: xy_plot.Plan, axes: Sequence[xy_plot.Axis], workflow: Workflow) -> str:
    lines = [f"{name}: {told(one.place, workflow.prompt)}, {len(one.values)} values" for name, one in zip("xy", axes)]
    return "\n".join([f"{len(plan.cells)} pictures", *lines])


class ChromaXYPlotCell(CheckedNode):
    """What Chroma XY Plot expands into, for one picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaXYPlotCell",
            display_name="Chroma XY Plot: one picture",
            category="image/chroma",
            description="A part of Chroma XY Plot, which makes it itself.",
            inputs=[
                io.Image.Input("image", tooltip="The picture.", lazy=True),
                io.String.Input("cell", tooltip="Its place in the plot, as JSON.", socketless=True),
                CellsType.Input("before", tooltip="The pictures before it.", optional=True),
            ],
            outputs=[
                CellsType.Output(tooltip="All pictures so far."),
                io.Image.Output(tooltip="The plot, from the last picture."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_dev_only=True,
        )

    @classmethod
    def check_lazy_status(cls, **given: Any) -> list[str]:
        """Asked when the pictures before it are there: so pictures come one by one, and models are loaded in turn."""
        return ["image"]

    @classmethod
    def execute(cls, image: Tensor, cell: str, before: Sequence[Painted] = ()) -> io.NodeOutput:
        about = read_cell(cell)
        pixels = Image.fromarray((255 * image[0, ..., :3]).clamp(0, 255).byte().cpu().numpy())  # as Save Image rounds
        pixels.thumbnail((about["largest"],) * 2, Image.Resampling.LANCZOS)
        found = [node_times.TIMES.seconds[key] for key in about["timed"] if key in node_times.TIMES.seconds]
        painted = (*before, Painted(about["column"], about["row"], pixels, f"{sum(found):.1f} s" if found else ""))
        comfy.utils.ProgressBar(about["of"]).update_absolute(about["number"])
        if about["number"] < about["of"]:
            return io.NodeOutput(painted, None)
        sheet = sheet_of(painted, about)
        out = torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255)[None]
        shown = only_tell(title(cls), lambda: ui.PreviewImage(out, cls=cls), "")
        return io.NodeOutput(painted, out, ui=shown or None)


PLACE = {
    "largest": int,
    "column": int,
    "row": int,
    "number": int,
    "of": int,
    "heads": list,
    "sides": list,
    "timed": list,
}


def read_cell(cell: str) -> dict[str, Any]:
    """raises: ValueError for a text that Chroma XY Plot has not written."""
    try:
        about = json.loads(cell)
        fits = all(type(about[key]) is kind for key, kind in PLACE.items())
        fits = fits and all(type(text) is str for key in ("heads", "sides", "timed") for text in about[key])
        fits = (
            fits
            and about["largest"] >= 1
            and 0 <= about["column"] < len(about["heads"])
            and 0 <= about["row"] < len(about["sides"] or [""])
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        fits = False
    if not fits:
        raise ValueError(
            f"cell is {short(cell)}, which is no picture's place in a plot. Use Chroma XY Plot, which makes these nodes itself"
        )
    return about


def sheet_of(painted: Sequence[Painted], about: Mapping[str, Any]) -> Image.Image:
    cells: list[list[Any]] = [[None] * len(about["heads"]) for _ in about["sides"] or [""]]
    for one in painted:
        cells[one.row][one.column] = (one.picture, one.label)
    return draw(cells, about["largest"], about["heads"], about["sides"])
