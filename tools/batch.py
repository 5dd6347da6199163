"""Paints a picture for each row of a table, with any saved workflow, on one ComfyUI or several; goes on where it stopped.

    python tools batch WORKFLOW.json ROWS.csv --out DIR

WORKFLOW.json is what the page saves, or its export for the API. The first line of ROWS (.csv, .tsv, .jsonl, .parquet) names
inputs: prompt, negative prompt, seed, steps, or "node title.input". Each row is a picture. Pictures are named by a hash of all
settings; results.csv lists them. The same command again paints only what is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import errno
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Sequence

from . import load_pack
from ._shell import FAILED, INTERRUPTED, Parser

RESULTS, LOG = "results.csv", "comfyui.log"
NAMED = 8  # rows with one error that are named


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python tools batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "workflow", metavar="WORKFLOW", type=Path, help="saved by Workflow > Save or Workflow > Export (API)"
    )
    p.add_argument("rows", metavar="ROWS", type=Path, nargs="?", help="the table; may be left out with --cross")
    p.add_argument("--out", metavar="DIR", type=Path, required=True, help="where pictures and results go")
    p.add_argument(
        "--cross",
        metavar="NAME=VALUES",
        action="append",
        default=[],
        help="every row with each of these values: seed=1..20, cfg=3,3.5,4, prompt=@FILE with a value a line; repeatable",
    )
    p.add_argument(
        "--server",
        metavar="URL",
        action="append",
        default=[],
        help="a ComfyUI that runs, as http://192.168.1.5:8188; repeatable. None: one is started on this machine",
    )
    p.add_argument(
        "--ray",
        metavar="WORKERS",
        type=int,
        help="start so many on a Ray cluster, a GPU each: RAY_ADDRESS's, else one on this machine. Needs the package ray",
    )
    p.add_argument(
        "--comfyui", metavar="OPTIONS", default="", help="options of those that are started, as --comfyui=--lowvram"
    )
    p.add_argument(
        "--patience",
        metavar="SECONDS",
        type=float,
        default=120.0,
        help="a server that is silent for so long loses its rows to the others (default 120)",
    )
    p.add_argument("--format", choices=("png", "webp", "jpeg"), default="png", help="of the pictures (default png)")
    p.add_argument("--quality", type=int, default=92, help="of webp and jpeg, 1 to 100 (default 92)")
    p.add_argument("--sheet", action="store_true", help="write contact sheets too")
    p.add_argument("--plot", metavar="X,Y", default="", help="write a table of pictures by two columns too")
    p.add_argument("--dry-run", action="store_true", help="only check, and tell which inputs the columns fill")
    return p


def main(arguments: list[str]) -> int:
    p = parser()
    args = p.parse_args(arguments)
    if args.rows is None and not args.cross:
        p.error("there is no ROWS and no --cross. Give one of them")
    results = args.out / RESULTS
    for path in (args.workflow, args.rows):
        if path is not None and path.is_file() and results.is_file() and path.samefile(results):
            p.error(f"{path} is where the results are written. Give it another name, or another --out")
    if not 1 <= args.quality <= 100:
        p.error(f"--quality is {args.quality}, expected 1 to 100")
    if args.plot and args.plot.count(",") != 1:
        p.error(f"--plot is {args.plot}, expected two columns, as seed,cfg")
    if args.ray is not None and (args.ray < 1 or args.server):
        p.error("--ray is a number of workers from 1, in place of --server")
    if args.patience <= 0:
        p.error(f"--patience is {args.patience:g}, expected seconds")
    try:
        return run(args)
    except ModuleNotFoundError as error:
        tell(f"the package {error.name} is missing in this Python ({sys.executable}). Run it with ComfyUI's Python")
    except ValueError as error:
        tell(str(error))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC)
        remedy = "The disk is full: make room and run the same command again, it goes on from here" if full else ""
        tell(f"{error.filename or args.out}: {error.strerror}. {remedy}".rstrip(" ."))
    except KeyboardInterrupt:
        tell("stopped. The same command goes on from here")
        return INTERRUPTED
    return FAILED


def tell(text: str) -> None:
    print(f"batch: {text}", file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> int:
    """raises: ValueError and OSError with a line for the user."""
    from .batching import servers, workflow
    from .batching.ledger import Ledger
    from .batching.local import LocalServer, heed_signals
    from .batching.transport import lift_file_limit

    tables = load_pack("tables.rows")
    heed_signals()
    saved = workflow.read(args.workflow)
    axes = [tables.read_axis(text) for text in args.cross]
    rows = tables.read_rows(args.rows) if args.rows else [tables.Row(1, {})]
    rows = tables.cross(rows, axes) if axes else rows
    with Ledger(args.out) as ledger:
        if args.server:
            lift_file_limit()
            found = [servers.Server(url.rstrip("/")) for url in dict.fromkeys(args.server)]
            return with_servers(args, saved, rows, ledger, found)
        options = options_of(args.comfyui)
        if args.ray is not None:
            from .batching.ray_workers import end_workers, start_workers

            workers = start_workers(args.ray, options)
            found = [servers.Server(name, way, starts=True) for name, way in workers]
            try:
                return with_servers(args, saved, rows, ledger, found)
            finally:
                end_workers(workers)
        local = LocalServer(args.out / LOG, options)
        try:
            local.start()
            return with_servers(args, saved, rows, ledger, [servers.Server(local.url, local=local, starts=True)])
        finally:
            local.end()


def options_of(text: str, backslash_escapes: bool = os.name != "nt") -> list[str]:
    """--comfyui's options, as a shell splits them, without their quotation marks. On Windows a backslash stands in paths.

    raises: ValueError for a quotation mark that is not closed.
    """
    words = shlex.shlex(text, posix=True, punctuation_chars=False)
    words.whitespace_split, words.commenters = True, ""
    if not backslash_escapes:
        words.escape, words.quotes = "", '"'  # an apostrophe too
    try:
        return list(words)
    except ValueError as error:
        raise ValueError(f"--comfyui {text}: {error}") from error


def with_servers(args: argparse.Namespace, saved: Any, rows: Sequence[Any], ledger: Any, found: Sequence[Any]) -> int:
    from tqdm import tqdm

    from .batching import fill, pictures, servers, workflow

    def check(url: str, info: Any) -> None:
        try:
            workflow.convert(saved, info)
        except ValueError as error:
            raise ValueError(f"{url}: {error}") from error

    info = asyncio.run(servers.survey(found, check))
    silent = [
        f"{server.url} does not answer ({server.problem})" for server in found if server.problem and not server.starts
    ]
    if info is None:
        raise ValueError(f"{'; '.join(silent)}. Start ComfyUI there, or wait until it has done what keeps it busy")
    for text in silent:
        tell(f"{text}. It is used as soon as it does")
    converted = workflow.convert(saved, info)
    filled = fill.fill(converted, rows, info, args.rows)
    if args.dry_run:
        print(plan_text(converted, rows, info, filled))
        return FAILED if filled.refused else 0
    for rows_of, error in by_error(filled.refused):
        tell(f"{rows_of} left out: {error}")
    todo = [job for job in filled.jobs if not ledger.is_done(job.name)]
    bar = tqdm(total=len(filled.jobs), initial=len(filled.jobs) - len(todo), unit="picture", file=sys.stderr)

    def say(text: str) -> None:
        with bar.external_write_mode(file=sys.stderr):
            tell(text)

    def store(result: Any) -> list[str]:
        names = []
        shown = workflow.saved_with(saved, converted, result.job.prompt)
        for number, data in enumerate(result.pictures, 1):
            name = f"{result.job.name}{f'-{number}' if number > 1 else ''}{pictures.FORMATS[args.format]}"
            pictures.save(args.out / name, data, result.prompt, shown, args.format, args.quality)
            names.append(name)
        return names

    def ended(result: Any) -> None:
        bar.update()
        if result.error:
            say(f"row {', '.join(str(row.number) for row in result.job.rows)} failed: {result.error}")

    engine = servers.Run(
        todo,
        found,
        ledger,
        store,
        ended,
        say,
        workflow_of=lambda job: workflow.saved_with(saved, converted, job.prompt),
        patience=args.patience,
    )
    try:
        asyncio.run(engine.all())
    finally:
        bar.close()
        results = lines_of(filled, ledger)
        written = is_written(args.out / RESULTS, results)
    return finish(args, results, written)


def by_error(refused: Sequence[Any]) -> list[tuple[str, str]]:
    """("rows 3, 4 and 5 are", what is wrong with them): a bad cell stands in every row that it was crossed into."""
    numbers: dict[str, list[int]] = {}
    for row in refused:
        numbers.setdefault(row.error, []).append(row.number)
    told = []
    for error, rows in numbers.items():
        shown = [f"{n:,}" for n in rows[:NAMED]] + ([f"{len(rows) - NAMED:,} more"] if len(rows) > NAMED else [])
        text = f"rows {', '.join(shown[:-1])} and {shown[-1]} are" if len(rows) > 1 else f"row {shown[0]} is"
        told.append((text, error))
    return told


def lines_of(filled: Any, ledger: Any) -> list[dict[str, Any]]:
    """A line of the results for every row, in their order."""
    lines = [
        {"row": row.number, "status": "refused", "error": row.error, "values": row.values} for row in filled.refused
    ]
    for job in filled.jobs:
        record = ledger.record(job.name)
        status = "failed" if record.error else "done" if ledger.is_done(job.name) else "open"
        for row in job.rows:
            lines.append(
                {
                    "row": row.number,
                    "status": status,
                    "files": record.files or [],
                    "seconds": record.seconds,
                    "server": record.server,
                    "error": record.error,
                    "values": row.values,
                }
            )
    return sorted(lines, key=lambda line: line["row"])


def is_written(path: Path, lines: Sequence[dict[str, Any]]) -> bool:
    """Writes the table, or tells why not: what else ended the run is more than that."""
    try:
        write_results(path, lines)
    except OSError as error:
        # Windows lets nobody replace what a spreadsheet has open.
        remedy = f"Close {path.name} where it is open; the" if isinstance(error, PermissionError) else "The"
        tell(f"{path}: {error.strerror}. {remedy} same command writes it again")
        return False
    return True


def write_results(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """The table beside the pictures: one line a row of the input, with its own columns behind."""
    columns = list(dict.fromkeys(name for line in lines for name in line["values"]))
    heads = ("row", "files", "status", "seconds", "server", "error")
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow([*heads, *columns])
            for line in lines:
                files, seconds = " ".join(line.get("files", ())), line.get("seconds")
                own = (line["row"], files, line["status"], "" if seconds is None else f"{seconds:.2f}")
                table.writerow(
                    [*own, line.get("server", ""), line["error"], *(line["values"].get(name, "") for name in columns)]
                )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def finish(args: argparse.Namespace, results: Sequence[dict[str, Any]], written: bool) -> int:
    """Sheets, and the last line. written: whether the table of results is there."""
    grid = load_pack("tables.grid")
    done = [line for line in results if line["status"] == "done"]
    entries = [(file, line) for line in done for file in line["files"]]
    if args.sheet and entries:
        labels = [(file, f"{line['row']}: {label}") for (file, line), label in zip(entries, labels_of(entries))]
        for path in grid.contact_sheets(args.out, labels):
            print(path)
    if args.plot:
        x, y = (part.strip() for part in args.plot.split(","))
        print(grid.plot(args.out, x, y, [(file, line["values"]) for file, line in entries]))
    bad = len(results) - len(done)
    print(f"{len(done)} of {len(results)} rows are painted" + (f"; {args.out / RESULTS} lists them" if written else ""))
    if bad:
        why = f"; {RESULTS} says why" if written else ""
        tell(f"{bad} rows have no picture{why}. The same command tries them again")
    return FAILED if bad or not written else 0


def labels_of(entries: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """What tells pictures apart: columns whose values differ, the short ones first, since a label is cut at its end."""
    rows = [{name: str(value) for name, value in line["values"].items()} for _, line in entries]
    values = {name: {row.get(name, "") for row in rows} for row in rows for name in row}
    varied = [name for name in values if len(values[name]) > 1] or list(values)
    varied.sort(key=lambda name: max(map(len, values[name])))
    return [", ".join(row[name] for name in varied if row.get(name)) for row in rows]


def plan_text(converted: Any, rows: Sequence[Any], info: Any, filled: Any) -> str:
    """What would be done, in words."""
    from .batching import fill

    columns = dict.fromkeys(n for row in rows for n in row.values if not n.startswith(fill.REMARK))
    lines = []
    for name in columns:
        places = fill.places_of(name, converted, info)
        lines.append(f"{name}: {', '.join(fill.PLACES.told(place, converted.prompt) for place in places)}")
    lines += [f"{rows_of} left out: {error}" for rows_of, error in by_error(filled.refused)]
    return "\n".join([*lines, f"{len(rows)} rows, {len(filled.jobs)} different pictures"])
