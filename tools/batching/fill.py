"""The prompts that rows make of a workflow: one for each, and of equal ones one."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Sequence

from .. import load_pack
from .workflow import Converted, Place, Prompt

PLACES, TABLE = load_pack("tables.places"), load_pack("tables.rows")
REMARK, Row = TABLE.REMARK, TABLE.Row

HASH_CHARS = 16  # of a picture's name: two of a million rows share one with a chance below 1e-7
FILES = (".safetensors", ".sft", ".gguf", ".pth", ".pt", ".ckpt", ".bin")


@dataclass(frozen=True)
class Job:
    """One prompt to run: its name, from a hash of all settings, and the rows that asked for it."""

    name: str
    prompt: Prompt
    rows: tuple[Row, ...]
    uploads: Mapping[str, Path] = field(default_factory=dict)  # name on the server -> file here


@dataclass(frozen=True)
class Filled:
    """Jobs in the order in which they load least, and the rows that give none, with their errors."""

    jobs: list[Job]
    refused: list[Row]


def fill(workflow: Converted, rows: Sequence[Row], object_info: Mapping[str, Any], table: Path | None = None) -> Filled:
    """A job for every row; equal ones are one job.

    table:  the file of the rows. Pictures are looked for in the current folder, then in its.
    raises: ValueError, before anything runs, for a column that fills nothing or is not clear, and two for one input.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row.values if not name.startswith(REMARK)))
    folders = list(dict.fromkeys([Path.cwd(), *([table.absolute().parent] if table else [])]))
    places = {name: places_of(name, workflow, object_info) for name in columns}
    taken: dict[Place, str] = {}
    for name, found in places.items():
        for place in found:
            if place in taken:
                raise ValueError(
                    f"the columns {taken[place]!r} and {name!r} both fill {PLACES.told(place, workflow.prompt)}. Remove one"
                )
            taken[place] = name
    jobs: dict[str, Job] = {}
    refused = []
    for row in rows:
        try:
            job = job_of(row, workflow.prompt, places, object_info, folders)
        except (ValueError, OSError) as error:
            refused.append(Row(row.number, row.values, str(error)))
            continue
        known = jobs.get(job.name)
        jobs[job.name] = Job(job.name, job.prompt, (*(known.rows if known else ()), row), job.uploads)
    return Filled(sorted_by_load(list(jobs.values())), refused)


def places_of(column: str, workflow: Converted, object_info: Mapping[str, Any]) -> list[Place]:
    """The inputs that a column fills. raises: ValueError if there is none, or it is not clear which."""
    try:
        return PLACES.places_of(column, workflow, object_info)
    except PLACES.NoPlace as error:
        raise ValueError(
            f"the column {error}. Begin the name with {REMARK} for a column that is only a remark"
        ) from None
    except ValueError as error:
        raise ValueError(f"the column {error}") from None


def job_of(
    row: Row,
    prompt: Prompt,
    places: Mapping[str, Sequence[Place]],
    object_info: Mapping[str, Any],
    folders: Sequence[Path],
) -> Job:
    """folders: where pictures are looked for. raises: ValueError or OSError for a row that cannot be used."""
    if row.error:
        raise ValueError(row.error)
    filled, uploads = dict(prompt), {}  # nodes that no column fills are shared: rows may be a hundred thousand
    taken: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in row.values.items():
        for place in places.get(name, ()):
            kind, options = PLACES.spec(filled[place.node], place.name, object_info)
            path = file_here(value, folders) if options.get("image_upload") else None
            if path is not None:
                value = f"{hashlib.sha256(path.read_bytes()).hexdigest()[:HASH_CHARS]}{path.suffix.lower()}"
                uploads[value] = path
            else:
                try:
                    value = PLACES.taken_as(value, kind, options, name)
                except ValueError as error:
                    looked = f", or a file in {' or '.join(map(str, folders))}" if options.get("image_upload") else ""
                    raise ValueError(f"{error}{looked}") from error
            node = filled[place.node]
            filled[place.node] = {**node, "inputs": {**node["inputs"], place.name: value}}
            taken[place.node][place.name] = value
    filled |= {key: PLACES.with_values(prompt[key], values) for key, values in taken.items()}
    return Job(name_of(filled), filled, (row,), uploads)


def file_here(value: Any, folders: Sequence[Path]) -> Path | None:
    """The first file of that name or path."""
    paths = (folder / os.path.expanduser(str(value)) for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def name_of(prompt: Prompt) -> str:
    """A name from all settings: of the same settings the same, whatever the nodes' titles are."""
    settings = {key: [node["class_type"], node["inputs"]] for key, node in prompt.items()}
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARS]


def sorted_by_load(jobs: list[Job]) -> list[Job]:
    """Jobs with the same model files together, and of these those of the same size; else in their order.

    Another model costs a load, another size a new plan of memory and, where it is compiled, a new compilation.
    """

    def files(job: Job) -> tuple[Any, ...]:
        values = (v for node in job.prompt.values() for v in node["inputs"].values() if isinstance(v, str))
        return tuple(v for v in values if v.lower().endswith(FILES))

    def sizes(job: Job) -> tuple[Any, ...]:
        inputs = [node["inputs"] for node in job.prompt.values()]
        return tuple(str(i[name]) for i in inputs for name in ("width", "height", "batch_size") if name in i)

    loads, shapes = {}, {}
    keys = [(loads.setdefault(files(j), len(loads)), shapes.setdefault(sizes(j), len(shapes))) for j in jobs]
    return [jobs[i] for i in sorted(range(len(jobs)), key=lambda i: keys[i])]
