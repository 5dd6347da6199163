"""Chroma Prompt List and Chroma Row Value: rows of a list or a table, painted in one run by the host's own lists."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Mapping

import folder_paths
from comfy_api.latest import io

from ..tables.prompt_list import Entry, entries, value_of
from ..tables.rows import PROMPT, SUFFIXES, Row, lines_of, read_rows
from ..tables.wildcards import Folder
from .shared.checked_node import CheckedNode
from .shared.inputs import number, seed_input
from .shared.report import report

NO_FILE = "none"
WILDCARDS = "wildcards"  # the folder of their files, in the host's folder of inputs
CATEGORY = "conditioning/chroma"
SHOWN = 5  # prompts in the report
RowType = io.Custom("CHROMA_ROW")


def input_folder() -> Path:
    return Path(folder_paths.get_input_directory())


def table_files() -> list[str]:
    """Tables in the host's folder of inputs."""
    try:
        found = [entry.name for entry in os.scandir(input_folder()) if entry.is_file()]
    except OSError:  # there is no such folder yet
        return []
    return sorted((name for name in found if name.lower().endswith(SUFFIXES)), key=str.lower)


def rows_of(text: str, file: str) -> list[Row]:
    """The rows of a file, else a row for each line of the text. raises: ValueError; OSError for a file that is gone."""
    if file != NO_FILE:
        return read_rows(input_folder() / file)
    return [Row(number, {PROMPT: line}) for number, line in enumerate(lines_of(text), 1)]


def told(found: list[Entry], num_rows: int, of: int) -> str:
    """The report: how many, the first prompts as they are painted, and what Chroma Row Value can give."""
    columns = dict.fromkeys(name for entry in found for name in entry.values)
    lines = [f"{len(found)} pictures, from {num_rows} of {of} rows"]
    lines += [f"{entry.seed}: {entry.prompt}" for entry in found[:SHOWN]]
    lines += [f"... and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
    return "\n".join([*lines, f"columns: {', '.join(columns)}"])


class ChromaPromptList(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaPromptList",
            display_name="Chroma Prompt List",
            category=CATEGORY,
            description="Paints a list of prompts, or the rows of a table, in one run: each node after this one runs for "
            "every row. Wildcards {a|b} and __file__ are chosen by the seed.",
            search_aliases=[
                "batch prompts",
                "prompts from file",
                "wildcards",
                "dynamic prompts",
                "csv",
                "jsonl",
                "multiple prompts",
                "prompt queue",
            ],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="A prompt a line; lines that begin with # are remarks. With a file: the prompt of rows that "
                    "have none.",
                ),
                io.Combo.Input(
                    "file",
                    options=[NO_FILE, *table_files()],
                    default=NO_FILE,
                    tooltip="A table in ComfyUI's input folder: .txt with a prompt a line, or .csv, .tsv or .jsonl with "
                    "the columns prompt, negative prompt, seed, label and any others.",
                ),
                seed_input("Of the first picture; each one after it has one more. Chooses the wildcards too."),
                number("repeats", 1, 1, 1000, None, "Pictures of each row, with other seeds and other wildcards."),
                number(
                    "first_row",
                    1,
                    1,
                    1_000_000,
                    None,
                    "Where to begin.",
                    display_name="first row",
                    advanced=True,
                    optional=True,
                ),
                number(
                    "num_rows",
                    0,
                    0,
                    1_000_000,
                    None,
                    "How many rows to take. 0: all.",
                    display_name="rows",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="prompt", is_output_list=True, tooltip="For the text of a text encode node."
                ),
                io.String.Output(
                    display_name="negative prompt", is_output_list=True, tooltip="Of the table; else empty."
                ),
                io.Int.Output(display_name="seed", is_output_list=True, tooltip="For the sampler's seed."),
                io.String.Output(
                    display_name="label",
                    is_output_list=True,
                    tooltip="Of the table, else seed and prompt; for Chroma Picture Grid.",
                ),
                RowType.Output(display_name="row", is_output_list=True, tooltip="All columns, for Chroma Row Value."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None = NO_FILE, **_: Any) -> Any:
        """What the host cannot see: whether the table or a wildcard file has changed. file: None where it comes by a link."""
        times = [(input_folder() / file).stat().st_mtime_ns] if file not in (None, NO_FILE) else []
        return [*times, *Folder(input_folder() / WILDCARDS).state()]

    @classmethod
    def execute(
        cls, text: str, file: str = NO_FILE, seed: int = 0, repeats: int = 1, first_row: int = 1, num_rows: int = 0
    ) -> io.NodeOutput:
        where = "" if file == NO_FILE else f"{file}, "
        rows = rows_of(text, file)
        taken = rows[first_row - 1 :][: num_rows or None]
        if rows and not taken:
            raise ValueError(f"{where}first row is {first_row}, but the last is {len(rows)}. Lower it")
        try:
            found = entries(taken, text if where else "", seed, repeats, Folder(input_folder() / WILDCARDS).choices)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error
        report(cls, lambda: told(found, len(taken), len(rows)))
        columns = zip(*((entry.prompt, entry.negative, entry.seed, entry.label, entry.values) for entry in found))
        return io.NodeOutput(*map(list, columns))


class ChromaRowValue(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChromaRowValue",
            display_name="Chroma Row Value",
            category=CATEGORY,
            description="A column of Chroma Prompt List's table, for any widget: steps, cfg, width, a sampler's name, a "
            "LoRA's strength.",
            search_aliases=["csv column", "table column", "list value"],
            inputs=[
                RowType.Input("row", tooltip="From Chroma Prompt List."),
                io.String.Input("column", default="steps", tooltip="Name of the column; capitals do not count."),
            ],
            outputs=[
                io.AnyType.Output(
                    display_name="value", tooltip="A number where the cell is one, else text. Connect it to a widget."
                )
            ],
        )

    @classmethod
    def execute(cls, row: Mapping[str, Any], column: str = "steps") -> io.NodeOutput:
        return io.NodeOutput(value_of(row, column))
