"""A table of settings: rows of a text, CSV, JSON Lines or Parquet, and axes that are crossed with them."""

from __future__ import annotations

import csv
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

REMARK = "#"  # a column that begins with it fills nothing and stands in the results only; so a line of a text
PROMPT = "prompt"  # the column that a text without columns fills
MAX_RANGE = 1_000_000  # values of `seed=1..N`
CSV_SUFFIXES, JSON_SUFFIXES, PARQUET_SUFFIXES = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".parquet", ".pq")
TEXT_SUFFIXES = (".txt",)
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}  # spreadsheets write what their country's setting is
SUFFIXES = (*TEXT_SUFFIXES, *CSV_SUFFIXES, *JSON_SUFFIXES, *PARQUET_SUFFIXES)


@dataclass(frozen=True)
class Row:
    """One line of the file: its number, from 1, and its values by column; `error` where it cannot be used."""

    number: int
    values: Mapping[str, Any]
    error: str = ""


def read_rows(path: Path) -> list[Row]:
    """Every row of a table. An empty cell is no value.

    raises: ValueError naming the file, what is wrong with the whole of it and the remedy; OSError if it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name}: rows are read from {', '.join(SUFFIXES)}. Save the table as one of these")
    readers = (TEXT_SUFFIXES, read_text), (CSV_SUFFIXES, read_csv), (JSON_SUFFIXES, read_jsonl)
    read = next((read for suffixes, read in readers if suffix in suffixes), read_parquet)
    try:
        rows = list(read(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not in UTF-8 ({error}). Save it as UTF-8") from error
    if not rows:
        raise ValueError(f"{path.name} has no rows. Write the names of inputs into its first line, values below")
    return rows


def read_text(path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines_of(path.read_text(encoding="utf-8-sig")), 1):
        yield Row(number, {PROMPT: line})


def lines_of(text: str) -> list[str]:
    """The lines of a text without blank ones and remarks, which begin with #."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(REMARK)]


def read_csv(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        delimiter = delimiter_of(file.readline(), "\t" if path.suffix.lower() == ".tsv" else ",")
        file.seek(0)
        lines = csv.reader(file, delimiter=delimiter)
        number = 0
        try:
            head = next(lines, [])
            check_columns(path, head)
            for cells in lines:
                if not cells:
                    continue  # an empty line
                number += 1
                values = {name: cell for name, cell in zip(head, cells) if cell != ""}
                error = ""
                if len(cells) != len(head):
                    remedy = f"Put quotes around text with {DELIMITERS[delimiter]}"
                    error = f"it has {len(cells)} cells, the first line {len(head)}. {remedy}"
                yield Row(number, values, error)
        except csv.Error as error:
            raise ValueError(f"{path.name}: row {number + 1} is no CSV ({error}). Save the table anew") from error


def delimiter_of(line: str, expected: str) -> str:
    """What parts the first line into columns: the one expected, unless only another does."""

    def parts(delimiter: str) -> bool:
        try:
            return len(next(csv.reader([line], delimiter=delimiter), [])) > 1
        except csv.Error:
            return False

    return next((delimiter for delimiter in (expected, *DELIMITERS) if parts(delimiter)), expected)


def check_columns(path: Path, head: Sequence[str]) -> None:
    twice = sorted({name for name in head if head.count(name) > 1})
    if twice:
        raise ValueError(f"{path.name} has several columns {', '.join(map(repr, twice))}. Keep one of each")
    if any(not name.strip() for name in head):
        raise ValueError(f"{path.name} has a column without a name. Write the names of inputs into its first line")


def read_jsonl(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate((line for line in file if line.strip()), 1):
            try:
                values = json.loads(line)
                error = (
                    "" if isinstance(values, dict) else f"it is {shown(line.strip()[:40])}, expected an object {{...}}"
                )
            except ValueError as problem:
                values, error = {}, f"it is not JSON ({problem})"
            found = values.items() if isinstance(values, dict) else ()
            yield Row(number, {name: value for name, value in found if value is not None}, error)


def shown(text: str) -> str:
    """As an error can have it, on one line."""
    return text if text.isprintable() else ascii(text)


def read_parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError(
            f"{path.name}: Parquet is read by pyarrow, which is missing. python -m pip install pyarrow"
        ) from None
    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path.name} is no Parquet file ({error}). Write it anew") from error
    check_columns(path, file.schema_arrow.names)
    number = 0
    for batch in file.iter_batches():
        for values in batch.to_pylist():
            number += 1
            yield Row(number, {name: value for name, value in values.items() if value is not None})


# --- axes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A column with values that every row gets in turn."""

    name: str
    values: Sequence[Any]


def read_axis(text: str) -> Axis:
    """`NAME=1,2,3`, `NAME=1..20`, `NAME=["a, b", "c"]` or `NAME=@FILE`, a value a line.

    raises: ValueError if it is none of these; OSError for a file that cannot be read.
    """
    name, sign, given = text.partition("=")
    if not sign or not name.strip() or not given.strip():
        raise ValueError(f"--cross {text}: expected NAME=1,2,3 or NAME=1..20 or NAME=@FILE")
    if given.startswith("@"):
        lines = Path(given[1:]).expanduser().read_text(encoding="utf-8-sig").splitlines()
        values: list[Any] = [line for line in lines if line.strip()]
    else:
        try:
            values = values_of(given, MAX_RANGE)
        except ValueError as error:
            raise ValueError(f"--cross {text}: {error}") from error
    if not values:
        raise ValueError(f"--cross {text}: it has no values")
    return Axis(name.strip(), values)


def values_of(text: str, most: int) -> list[Any]:
    """`1, 2, 3`, `1..20` of at most so many, or a JSON list. raises: ValueError for a range or a list that is none."""
    if span := re.fullmatch(r"\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*", text):
        first, last = map(int, span.groups())
        if not 0 <= last - first < most:
            raise ValueError(f"expected a range that rises, of at most {most:,} values")
        return list(range(first, last + 1))
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"it is not a JSON list ({error})") from error
    return [part.strip() for part in text.split(",")]


def cross(rows: Sequence[Row], axes: Sequence[Axis]) -> list[Row]:
    """Every row with every combination of the axes' values, numbered anew; the last axis runs fastest.

    raises: ValueError if an axis stands twice or is a column too.
    """
    names = [axis.name for axis in axes]
    columns = {name for row in rows for name in row.values}
    both = sorted({name for name in names if name in columns or names.count(name) > 1})
    if both:
        raise ValueError(f"{', '.join(map(repr, both))} is given twice, as a column or by --cross. Give it once")
    out = []
    for row in rows:
        for values in itertools.product(*(axis.values for axis in axes)):
            out.append(Row(len(out) + 1, {**row.values, **dict(zip(names, values))}, row.error))
    return out
