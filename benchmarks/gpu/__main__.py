"""python -m benchmarks.gpu --out DIR: see benchmarks/GPU.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import runner
from .parts import BY_NAME, PARTS

MINUTES = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(BY_NAME)}; all in this order if none is given")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the result files; a second run goes on there"
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    parser.add_argument("--rehearse", action="store_true", help="every part on the CPU, narrow")
    parser.add_argument("--again", action="store_true", help="try what failed once more")
    parser.add_argument("--tables", action="store_true", help="only write tables from the results in --out")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)  # these in this process
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.parts if name not in BY_NAME]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    out = arguments.out.resolve()
    if arguments.part:
        runner.child(arguments.part, out, arguments.rehearse, arguments.again, arguments.seconds)
        return 0
    if arguments.tables:
        from . import tables

        print(tables.write(out))
        return 0
    parts = [BY_NAME[name] for name in arguments.parts] or PARTS
    failed = runner.run(parts, out, arguments.minutes, arguments.rehearse, arguments.again)
    if arguments.rehearse:
        print("Not rehearsed:")
        for part in parts:
            print(*(f"  {part.name}: {what}" for what in part.only_device), sep="\n")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
