"""Runs the benchmarks and writes their tables to benchmarks/results."""

from __future__ import annotations

import argparse
import importlib

NAMES = (
    "forward",
    "profile",
    "run",
    "load",
    "precision",
    "numerics",
    "sizes",
    "judge",
    "storage",
    "pictures",
    "text",
    "terse",
    "full",
    "batching",
    "both_prompts",
    "guidance",
    "savings",
    "large",
    "references",
    "presets",
    "choices",
    "start",
    "batch",
    "distil",
    "frontier",
    "alternate",
    "flash",
    "many_workers",
    "before_run",
    "templates",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(NAMES)}; all if none is given")
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds, of which the median is told")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for name in arguments.names or NAMES:
        importlib.import_module(f"benchmarks.{name}").main(arguments.rounds)


if __name__ == "__main__":
    main()
