"""What a batch has sent and got, one JSON line an event, in its folder; a repeated command goes on from it.

Each line is on the disk before the next step: `sent` before a server gets the prompt, `done` after its pictures are whole.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import load_pack

error_text = load_pack("loaders.files.error_text")
NAME = "batch.jsonl"
DAMAGED = (
    "{name}: line {number} is damaged ({why}). Remove that line, whose job is then done again, or give another --out"
)
IN_USE = "another batch writes into {folder}. Wait until it ends, or give another --out"
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # of a lock that another process has
NO_LOCK = (
    "{path} cannot be locked against a second batch ({why}). Give an --out on a disk of this machine; some network folders "
    "know no locks"
)

# What an event may hold -> its type.
TYPES: dict[str, Any] = {
    **{name: str for name in ("run", "job", "sent", "to", "lost", "failed", "by")},
    **{"died": bool, "done": list, "seconds": (int, float, type(None))},
}


@dataclass
class Record:
    """One job: the prompts that were sent and whose fate is open, id -> server; and how it ended."""

    open: dict[str, str] = field(default_factory=dict)
    num_sent: int = 0
    num_ended: int = 0  # how often it had a result
    deaths: int = 0  # servers that ended while they had it
    files: list[str] | None = None
    seconds: float | None = None
    server: str = ""
    error: str = ""


class Ledger:
    """Use with `with`.

    raises on entry: ValueError if another process has it, it cannot be locked, or it is damaged; OSError if the folder cannot be written.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / NAME
        self.jobs: dict[str, Record] = {}
        self.run = ""

    def __enter__(self) -> "Ledger":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a+b")
        try:
            lock(self.file)
        except OSError as error:
            self.file.close()
            told = IN_USE if error.errno in HELD else NO_LOCK
            raise ValueError(told.format(folder=self.folder, path=self.path, why=error.strerror)) from None
        try:
            self.read()
            if not self.run:
                self.write(run=str(uuid.uuid4()))
        except BaseException:
            self.file.close()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()  # which gives up the lock

    def read(self) -> None:
        self.file.seek(0)
        lines = self.file.read().split(b"\n")
        if lines[-1]:  # the driver was killed while it wrote
            self.file.truncate(self.file.tell() - len(lines[-1]))
        for number, line in enumerate(lines[:-1], 1):
            try:
                self.take(checked(json.loads(line.decode("utf-8"))))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                why = error_text.reason(error)
                raise ValueError(DAMAGED.format(name=NAME, number=number, why=why)) from error

    def write(self, **event: Any) -> None:
        """Adds an event. raises: OSError, as for a full disk; the line is then not there."""
        before = self.file.seek(0, os.SEEK_END)
        try:
            self.file.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        except OSError:
            self.file.truncate(before)
            raise
        self.take(event)

    def take(self, event: dict[str, Any]) -> None:
        if "run" in event:
            self.run = event["run"]
            return
        job = self.jobs.setdefault(event["job"], Record())
        if "sent" in event:
            job.open[event["sent"]] = event["to"]
            job.num_sent += 1
        elif "lost" in event:
            job.open.pop(event["lost"], None)
            job.deaths += event.get("died", False)
        else:
            job.open.clear()
            job.num_ended += 1
            job.files, job.error = event.get("done"), event.get("failed", "")
            job.seconds, job.server = event.get("seconds"), event.get("by", "")

    def record(self, name: str) -> Record:
        return self.jobs.get(name, Record())

    def is_done(self, name: str) -> bool:
        """Whether its pictures are there; one that a person has removed is painted again."""
        files = self.record(name).files
        return files is not None and all((self.folder / file).is_file() for file in files)

    def new_id(self, name: str) -> str:
        """The id of a job's next prompt, the same whenever it is asked for: UUID 5 of run, job and try."""
        return str(uuid.uuid5(uuid.UUID(self.run), f"{name}/{self.record(name).num_sent}"))

    def mark(self, name: str) -> str:
        """Of this run and of what is made until the job's next result, in names on servers: what was there before does not count."""
        num_ended = self.record(name).num_ended
        return self.run[:8] + (f"r{num_ended + 1}" if num_ended else "")


def checked(event: Any) -> dict[str, Any]:
    """The event. raises: ValueError, TypeError or KeyError if it is none."""
    if not isinstance(event, dict):
        raise TypeError("it is no object")
    for name, value in event.items():
        if not isinstance(value, TYPES.get(name, object)):
            raise TypeError(f"{name} is a {type(value).__name__}")
    if not all(isinstance(file, str) for file in event.get("done", ())):
        raise TypeError("done names no files")
    if "run" in event:
        uuid.UUID(event["run"])
    elif event.keys().isdisjoint(("sent", "lost", "done", "failed")):
        raise ValueError("nothing happened")
    return event


def lock(file: Any) -> None:
    """Holds a file for this process until it is closed or the process ends. raises: OSError, one of HELD if another has it."""
    if os.name == "nt":
        import msvcrt

        file.seek(2**31 - 2)  # far behind the lines, which stay readable
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
