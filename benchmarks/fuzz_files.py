"""Damaged model files, as many as asked for: is each refused in one short sentence, or loaded as what it was?

    python -m benchmarks.fuzz_files [--count 4000] [--seed 1]

The samples and the ways to damage them are those of `tests/fuzz.py`, whose tests try fewer under another seed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

import dev

from .measure import write


def main(rounds: int = 0, count: int = 4000, seed: int = 1) -> None:
    sys.path.insert(0, str(dev.ROOT / "tests"))
    import fuzz

    counts: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    each = -(-count // len(fuzz.SAMPLES))
    with tempfile.TemporaryDirectory() as name:
        for key, make in fuzz.SAMPLES.items():
            made, folder = Path(name) / f"made-{len(counts)}", Path(name) / f"files-{len(counts)}"
            made.mkdir()
            folder.mkdir()
            sample = make(made)
            sound = fuzz.load(fuzz.write(folder, sample))
            counts[key] = Counter()
            for mutation in fuzz.mutations(sample, each, seed):
                found, problem = fuzz.outcome(folder, sample, sound, mutation)
                counts[key][found if found in ("refused", "same") else "others"] += 1
                if problem:
                    wrong.append(f"- {key}, {mutation.kind}, {mutation.what[:200]}: {problem}")
                    print(wrong[-1], flush=True)
            print(key, dict(counts[key]), flush=True)
    lines = [
        f"{sum(c.total() for c in counts.values())} damaged files (seed {seed}). others: damage that no file can show, such as "
        "other numbers in a weight.",
        "",
        "| sample | refused in one sentence | loaded as it was | others | wrong |",
        "|---|---|---|---|---|",
        *(
            f"| {key} | {c['refused']} | {c['same']} | {c['others']} | {sum(w.startswith(f'- {key},') for w in wrong)} |"
            for key, c in counts.items()
        ),
        "",
        *wrong,
    ]
    write("fuzz_files", "Damaged files", lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    main(0, given.count, given.seed)
