#!/usr/bin/env python3
"""`python quantize.py IN OUT FORMAT`, documented as `python -m quantize` since 0.2: the same as `python tools quantize`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent))  # Windows portable's Python does not look there by itself

from tools import __main__ as tools  # noqa: E402

if __name__ == "__main__":
    sys.exit(tools.main(["quantize", *sys.argv[1:]]))
